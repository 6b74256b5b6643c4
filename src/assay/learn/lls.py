"""LLS: every block learns to keep step with a fixed periodic vector, one a class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from assay.learn.blocks import BlockChain, chain_of

WAVEFORMS = ("cosine", "square", "random")
VARIANTS = ("plain", "M", "MxM")


def periodic_basis(
    num_classes: int,
    dim: int,
    *,
    low: float = 50.0,
    high: float = 512.0,
    waveform: str = "cosine",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "k d"]:
    r"""$B_{kj} = \sin(f_k j)$ with $j = 0, \dots, d - 1$ and $f_k$ evenly spaced from `low` to `high`.

    Args:
        num_classes: K, at least 2.
        dim: d, at least K (fewer columns cannot tell K classes apart).
        low: radians from one entry to the next of the first row.
        high: of the last row, above `low`.
        waveform: `"cosine"`, the smooth one; `"square"`, its sign; `"random"`, normal entries with the standard
            deviation of a sine, $1/\sqrt 2$, and no period (for comparison).
        generator: where `"random"` comes from.

    Apolinario et al., 2025 (arXiv:2405.15868), section 3.2; the frequencies of the authors' code.

    Raises:
        ValueError: for arguments out of range, an unknown waveform, rows that are not independent (frequencies that
            differ by a multiple of 2 pi are the same wave to whole numbers).

    Example:
        >>> periodic_basis(2, 3, low=1.0, high=2.0).round(decimals=3)  # sin(0), sin(1), sin(2); sin(0), sin(2), sin(4)
        tensor([[ 0.0000,  0.8410,  0.9090],
                [ 0.0000,  0.9090, -0.7570]])
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2: got {num_classes}")
    if dim < num_classes:
        raise ValueError(f"dim must be at least num_classes = {num_classes}: got {dim}")
    if waveform not in WAVEFORMS:
        raise ValueError(f"waveform must be one of {', '.join(WAVEFORMS)}: got {waveform!r}")
    if waveform == "random":
        return torch.randn(num_classes, dim, generator=generator) / math.sqrt(2)
    if not low < high < math.inf:
        raise ValueError(f"high must be above low = {low}: got {high}")
    # In single precision, as the authors': sin(512 * 511) of a rounded product is another number, and theirs counts.
    basis = torch.sin(torch.linspace(low, high, num_classes)[:, None] * torch.arange(dim).float())
    if waveform == "square":
        basis = basis.sign()
    if int(torch.linalg.matrix_rank(basis.double(), rtol=1e-3)) < num_classes:
        raise ValueError(
            f"low and high must give independent rows: those from {low} to {high} are not, for dim = {dim}"
        )
    return basis


class LLS:
    r"""A learning rule: block l learns $\min \mathrm{CE}(q_l / T, y)$ with $q_l = B\, \bar z_l$, by itself.

    $\bar z_l$ is the block's output, pooled, flattened and brought to length 1; $B$ is `periodic_basis`. The last block
    is the classifier: its output is the prediction, and it learns by the loss it is given. No gradient crosses a block,
    and nothing is learned besides the network (but m or M in the variants).

    Args:
        blocks: a `BlockChain` or `nn.Sequential` of two blocks or more.
        num_classes: K, at least 2.
        variant: `"plain"`; `"M"`, $q \leftarrow m \odot q$ with K numbers a block; `"MxM"`, $q \leftarrow q M$ with a
            matrix a block. These are learned too: give `rule.parameters()` to the optimizer.
        waveform: of `periodic_basis`.
        pool: side that images are averaged down to; one number, or one for each block but the last. Vectors longer than
            `vector_pool` are averaged down to that.
        vector_pool: see there.
        temperature: T, positive.
        label_smoothing: of the local losses, in [0, 1).
        frequencies: `low` and `high` of `periodic_basis`.
        generator: where `"random"` bases, m and M come from.

    The paper: equations 4 to 7; pools and frequencies of the authors' code.

    Differs from the paper: the random basis is normalized like the periodic ones (the authors' is drawn at a tenth and
    lacks the normalization of z, which confounds the comparison). Where the pooled output has fewer entries than there
    are classes, the pool is refused.

    Raises:
        ValueError: for arguments out of range, fewer than two blocks; when called, for another model, a pooled output
            smaller than the number of classes.
        TypeError: for a model that is no chain of blocks.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> rule = LLS(net, 2)
        >>> _ = rule(net, torch.randn(4, 3), torch.tensor([0, 1, 1, 0]), F.cross_entropy)
        >>> q = rule.similarities(0, torch.eye(8)[1:2])  # the angle between unit 1 and sin(50), sin(512)
        >>> q.round(decimals=4)
        tensor([[-0.2624,  0.0795]])
    """

    def __init__(
        self,
        blocks: nn.Module,
        num_classes: int,
        *,
        variant: str = "plain",
        waveform: str = "cosine",
        pool: int | Sequence[int] = 4,
        vector_pool: int = 512,
        temperature: float = 1.0,
        label_smoothing: float = 0.0,
        frequencies: tuple[float, float] = (50.0, 512.0),
        generator: torch.Generator | None = None,
    ) -> None:
        self.chain: BlockChain = chain_of(blocks, least=2)
        hidden = len(self.chain) - 1
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2: got {num_classes}")
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}: got {variant!r}")
        if waveform not in WAVEFORMS:
            raise ValueError(f"waveform must be one of {', '.join(WAVEFORMS)}: got {waveform!r}")
        self.pools = [pool] * hidden if isinstance(pool, int) else list(pool)
        if len(self.pools) != hidden or min(self.pools) < 1 or vector_pool < 1:
            raise ValueError(f"pool must be one number or {hidden}, each at least 1: got {pool}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite: got {temperature}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1): got {label_smoothing}")
        self.num_classes, self.variant, self.waveform = num_classes, variant, waveform
        self.vector_pool, self.temperature, self.label_smoothing = vector_pool, temperature, label_smoothing
        self.frequencies, self.generator = frequencies, generator
        self.bases: dict[str, Tensor] = {}
        shape = {"plain": None, "M": (num_classes,), "MxM": (num_classes, num_classes)}[variant]
        device = next(iter(self.chain.parameters())).device
        self.modulation = [
            nn.Parameter((0.01 * torch.randn(shape, generator=generator)).to(device))
            for _ in range(hidden if shape is not None else 0)
        ]

    def parameters(self) -> Iterator[nn.Parameter]:
        """m or M of each block; nothing for the plain variant."""
        return iter(self.modulation)

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        """Fill the gradients, block after block; the loss of the classifier is returned."""
        self.chain.must_be(model)
        last = len(self.chain) - 1
        for number, out in enumerate(self.chain.local(inputs)):
            if number == last:
                value = loss(out, targets)
                value.backward()
                return value.detach()
            self.local_loss(number, out, targets).backward()
        raise AssertionError("a chain has a last block")

    def local_loss(self, number: int, out: Float[Tensor, "n ..."], targets: Tensor) -> Float[Tensor, ""]:
        """The loss of block `number` at its output."""
        logits = self.similarities(number, out) / self.temperature
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def similarities(self, number: int, out: Float[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        """$q$ of block `number` for its output: (n, c, h, w), tokens (n, t, d) or vectors (n, d)."""
        if out.ndim == 4:
            side = self.pools[number]
            z = F.adaptive_avg_pool2d(out, (min(side, out.shape[2]), min(side, out.shape[3]))).flatten(1)
        else:
            z = out.mean(1) if out.ndim == 3 else out
            if z.shape[1] > self.vector_pool:
                z = F.adaptive_avg_pool1d(z[:, None], self.vector_pool)[:, 0]
        q = F.normalize(z, dim=1) @ self._basis(number, z.shape[1]).to(z).T
        if self.variant == "M":
            q = q * self.modulation[number]
        elif self.variant == "MxM":
            q = q @ self.modulation[number]
        return q

    def _basis(self, number: int, dim: int) -> Tensor:
        name = str(number) if self.waveform == "random" else f"{dim}"
        if name not in self.bases:
            low, high = self.frequencies
            settings = dict(low=low, high=high, waveform=self.waveform, generator=self.generator)
            self.bases[name] = periodic_basis(self.num_classes, dim, **settings)  # type: ignore[arg-type]
        return self.bases[name]

    def state_dict(self) -> dict[str, Any]:
        """m or M, and the bases."""
        return {"modulation": [m.detach() for m in self.modulation], "bases": dict(self.bases)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        with torch.no_grad():
            for own, saved in zip(self.modulation, state["modulation"], strict=True):
                own.copy_(saved)
        self.bases = dict(state["bases"])


def lls_macs(blocks: nn.Module, inputs: Float[Tensor, "n ..."], num_classes: int, *, pool: int = 4) -> dict[str, float]:
    """Multiply-adds of one example: the forward pass, and what it takes to get every block its learning signal.

    Weight gradients cost the same for both rules and are left out; for backpropagation the signal of a block is the
    product of the error with the weights of the blocks above it, for LLS the product of the pooled output with the
    basis and back.

    Args:
        blocks: a chain of linear and convolutional blocks.
        inputs: (n, ...); one example is enough.
        num_classes: K.
        pool: as in `LLS`.

    Returns:
        `forward`, `backpropagation` and `lls`, in multiply-adds.

    The paper: section 3.4.

    Example:
        >>> net = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 10))
        >>> lls_macs(net, torch.zeros(1, 100), 10)  # 5000 + 2000 + 400; 2000 + 400; 2 * 10 * (50 + 40)
        {'forward': 7400.0, 'backpropagation': 2400.0, 'lls': 1800.0}
    """
    chain = chain_of(blocks, least=2)
    layers: list[tuple[int, float]] = []
    owner = {m: number for number, block in enumerate(chain) for m in block.modules()}

    def count(module: nn.Module, _: Any, out: Tensor) -> None:
        weight: Tensor = module.weight  # type: ignore[assignment]
        places = out[0].numel() // out.shape[-1] if isinstance(module, nn.Linear) else out[0, 0].numel()
        layers.append((owner[module], float(weight.numel() * places)))

    weighted = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    handles = [m.register_forward_hook(count) for m in chain.modules() if isinstance(m, weighted)]
    try:
        shapes = chain.shapes(inputs)
    finally:
        for handle in handles:
            handle.remove()
    signal = 0.0
    for shape in shapes[:-1]:
        image = len(shape) == 3
        signal += 2.0 * num_classes * (shape[0] * min(pool, shape[1]) * min(pool, shape[2]) if image else shape[-1])
    first = min(number for number, _ in layers)
    return {
        "forward": sum(macs for _, macs in layers),
        "backpropagation": sum(macs for number, macs in layers if number > first),
        "lls": signal,
    }
