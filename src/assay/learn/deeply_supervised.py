"""Deeply-supervised nets: every hidden layer answers to a classifier of its own, less and less."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.learn.blocks import BlockChain, chain_of

POOL = 4


class DeepSupervision:
    r"""A learning rule: $L + \sum_m \alpha_m(t)\, [\ell_m - \gamma]_+$ with a companion loss $\ell_m$ at every hidden
    block.

    The companion of block m is the loss of a linear classifier on its output; its gradient flows through all blocks up
    to m. It is one objective with many heads, not training layer by layer. A companion is silent once its loss is below
    $\gamma$, and all fade: $\alpha_m(t) = \alpha_m (1 - t / N)$. The heads are thrown away afterwards.

    Args:
        blocks: a `BlockChain` or `nn.Sequential` of two blocks or more.
        num_classes: outputs of a head, at least 2.
        example: one input (1, ...) or more, from which the shapes of the outputs are found.
        total_steps: N, calls over which the companions fade, at least 1; after that only L is left.
        alpha: $\alpha_m$, one number or one for each hidden block, 0 or more; 0 leaves a block alone.
        gamma: $\gamma$, 0 or more.
        decay: `"linear"`, or None to keep $\alpha$.
        companion: loss(outputs, targets) of the heads; None takes the loss of the call. `assay.losses.SquaredHinge` is
            the paper's.

    Images are averaged down to at most 4 x 4 before a head, tokens to their mean. The norms of the heads that the paper
    adds are weight decay on `rule.parameters()`.

    Attributes:
        companion_losses: $\ell_m$ of the last call, NaN where $\alpha_m$ was 0.

    Lee et al., 2014 (arXiv:1409.5185), equations 2 to 5.

    Differs from the paper: it writes the fading as $\alpha \leftarrow \alpha \cdot 0.1 (1 - t/N)$ at every epoch, which
    ends the companions within a few; here the factor counts from the start. The bracket holds the loss without the
    norms of the weights. Features are pooled.

    Raises:
        ValueError: for arguments out of range, fewer than two blocks; when called, for another model.
        TypeError: for a model that is no chain of blocks.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> rule = DeepSupervision(net, 2, torch.zeros(1, 3), total_steps=10, alpha=0.5)
        >>> _ = rule(net, torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1]), nn.functional.cross_entropy)
        >>> rule.alphas(0).tolist(), rule.alphas(5).tolist(), len(rule.companion_losses)
        ([0.5], [0.25], 1)
    """

    def __init__(
        self,
        blocks: nn.Module,
        num_classes: int,
        example: Float[Tensor, "..."],
        *,
        total_steps: int,
        alpha: float | Sequence[float] = 0.3,
        gamma: float = 0.0,
        decay: str | None = "linear",
        companion: Callable[..., Tensor] | None = None,
    ) -> None:
        self.chain: BlockChain = chain_of(blocks, least=2)
        hidden = len(self.chain) - 1
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2: got {num_classes}")
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1: got {total_steps}")
        each = [float(alpha)] * hidden if isinstance(alpha, int | float) else [float(a) for a in alpha]
        if len(each) != hidden or not all(0 <= a < math.inf for a in each):
            raise ValueError(f"alpha must be one number or {hidden}, finite and 0 or more: got {alpha}")
        if not gamma >= 0:
            raise ValueError(f"gamma must be 0 or more: got {gamma}")
        if decay not in ("linear", None):
            raise ValueError(f"decay must be 'linear' or None: got {decay!r}")
        self.alpha = torch.tensor(each)
        self.gamma, self.decay, self.total_steps, self.companion = gamma, decay, total_steps, companion
        self.step = 0
        self.companion_losses: list[float] = []
        device = next(iter(self.chain.parameters())).device
        shapes = self.chain.shapes(example)[:-1]
        self.heads = nn.ModuleList(_head(shape, num_classes) for shape in shapes).to(device)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The companion heads'."""
        return self.heads.parameters()

    def alphas(self, step: int) -> Float[Tensor, " m"]:
        r"""$\alpha_m$ at a step, counted from 0."""
        return self.alpha if self.decay is None else self.alpha * max(0.0, 1 - step / self.total_steps)

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        """Fill the gradients; the loss at the output is returned."""
        self.chain.must_be(model)
        companion = self.companion or loss
        alphas = self.alphas(self.step).tolist()
        outs = list(self.chain.joint(inputs))
        value = loss(outs[-1], targets)
        total = value
        found = []
        for out, head, alpha in zip(outs, self.heads, alphas, strict=False):
            if alpha == 0:
                found.append(math.nan)
                continue
            own = companion(head(out), targets)
            total = total + alpha * (own - self.gamma).clamp_min(0)
            found.append(own.detach())
        total.backward()
        self.companion_losses = [float(own) for own in found]
        self.step += 1
        return value.detach()

    def state_dict(self) -> dict[str, Any]:
        """The heads' and the step."""
        return {"heads": self.heads.state_dict(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.heads.load_state_dict(state["heads"])
        self.step = int(state["step"])


class _TokenMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def _head(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    if len(shape) == 3:
        height, width = min(POOL, shape[1]), min(POOL, shape[2])
        linear = nn.Linear(shape[0] * height * width, num_classes)
        return nn.Sequential(nn.AdaptiveAvgPool2d((height, width)), nn.Flatten(), linear)
    if len(shape) == 2:
        return nn.Sequential(_TokenMean(), nn.Linear(shape[1], num_classes))
    return nn.Linear(shape[0], num_classes)
