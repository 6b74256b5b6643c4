"""Direct feedback alignment: every layer learns from a fixed random projection of the output's error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay.learn.blocks import BlockChain

DISTRIBUTIONS = ("uniform", "gaussian")


class FeedbackPoint(nn.Identity):
    """A place in any model at which `DirectFeedbackAlignment` cuts backpropagation and sends its feedback.

    To everything else it is the identity.

    Example:
        >>> x = torch.ones(2)
        >>> FeedbackPoint()(x) is x
        True
    """


class DirectFeedbackAlignment:
    r"""A learning rule: $\delta h_l = B_l\, e$ with $e = \partial L / \partial \hat y$ and fixed random $B_l$.

    What lies between two feedback points learns by the exact vector-Jacobian product with $\delta h_l$ at its end; what
    lies after the last one gets its true gradient. Nothing waits for a layer above it: given e, all blocks could be
    updated at once.

    Args:
        model: a `BlockChain` or `nn.Sequential`, whose feedback points are the ends of all blocks but the last; or any
            module with `FeedbackPoint`s in it. To train only what lies after the last point ("shallow"), give the
            optimizer only those parameters.
        distribution: of the entries of B: `"uniform"` on [-1, 1), or `"gaussian"` of the same variance, 1/3.
        shared: one matrix, of the largest size any point needs, of which each takes the first columns; False draws
            one for each point.
        scale: times B, which is divided by the square root of its number of columns.
        batch_dims: dimensions of outputs and feedback points that count examples: (0,); for sequences (0, 1), which
            sends each token the error of that token.
        generator: where B comes from, at the first call.

    Launay et al., 2020 (arXiv:2006.12878), equation 3 and section 2; uniform entries, sharing and normalization as in
    the authors' TinyDFA.

    Differs from the paper: not at all; TinyDFA's expansion of the error to more examples than it has (pixels of a
    picture whose error is one number) is left out, and refused.

    Raises:
        ValueError: for no feedback point, an unknown distribution, a scale that is not positive, `batch_dims` that are
            not the first dimensions; when called, for another model, an output without features, points whose sizes
            changed or do not fit the output.

    Example:
        >>> from torch.nn.functional import mse_loss
        >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> rule = DirectFeedbackAlignment(net)
        >>> _ = rule(net, torch.ones(1, 1), torch.zeros(1, 1), mse_loss)
        >>> error = 2 * net(torch.ones(1, 1)).detach()
        >>> torch.allclose(net[0].weight.grad, (error @ rule.feedback["shared"]).T)  # the weights above are not asked
        True
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        distribution: str = "uniform",
        shared: bool = True,
        scale: float = 1.0,
        batch_dims: Sequence[int] = (0,),
        generator: torch.Generator | None = None,
    ) -> None:
        if distribution not in DISTRIBUTIONS:
            raise ValueError(f"distribution must be one of {', '.join(DISTRIBUTIONS)}: got {distribution!r}")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite: got {scale}")
        if not batch_dims or tuple(batch_dims) != tuple(range(len(batch_dims))):
            raise ValueError(f"batch_dims must be (0,), (0, 1), ...: got {tuple(batch_dims)}")
        self.chain: BlockChain | None = None
        self.points: list[nn.Module] = [m for m in model.modules() if isinstance(m, FeedbackPoint)]
        if not self.points and isinstance(model, nn.Sequential):
            self.chain = BlockChain.of(model)
            self.points = list(self.chain)[:-1]
        if not self.points:
            raise ValueError("model must have two blocks or more, or a FeedbackPoint: got no place to send feedback to")
        self.distribution, self.shared, self.scale = distribution, shared, scale
        self.batch_dims, self.generator = len(batch_dims), generator
        self.feedback: dict[str, Tensor] = {}
        self.sizes: list[int] = []

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        """Fill the gradients; the loss is returned."""
        if self.chain is not None:
            self.chain.must_be(model)
        reached: dict[nn.Module, Tensor] = {}

        def cut(point: nn.Module, _: Any, out: Tensor) -> Tensor:
            reached[point] = out
            return out.detach().requires_grad_()

        handles = [point.register_forward_hook(cut) for point in self.points]
        try:
            outputs = (self.chain or model)(inputs)
        finally:
            for handle in handles:
                handle.remove()
        missed = [number for number, point in enumerate(self.points) if point not in reached]
        if missed:
            raise ValueError(f"model must run through every feedback point: it left out number {missed[0]}")
        outputs.retain_grad()
        value = loss(outputs, targets)
        value.backward()
        self._send(outputs.grad, [reached[point] for point in self.points])
        return value

    def _send(self, error: Tensor, outs: list[Tensor]) -> None:
        rows = error.shape[: self.batch_dims]
        error = error.reshape(rows.numel(), -1)
        sizes = [out[(0,) * self.batch_dims].numel() if out.ndim >= self.batch_dims else 0 for out in outs]
        for number, (out, size) in enumerate(zip(outs, sizes, strict=True)):
            if out.shape[: self.batch_dims] != rows or size == 0:
                raise ValueError(
                    f"feedback point {number} must have the batch dimensions of the output, {tuple(rows)}, and "
                    f"features: got {tuple(out.shape)}"
                )
        self._draw(error, sizes)
        projected = {name: error @ matrix.to(error) for name, matrix in self.feedback.items()}
        alive = []
        for number, (out, size) in enumerate(zip(outs, sizes, strict=True)):
            if out.requires_grad:  # not if all below is frozen
                sent = projected["shared" if self.shared else str(number)][:, :size]
                alive.append((out, sent.reshape(out.shape).to(out)))
        if alive:
            torch.autograd.backward(*zip(*alive, strict=True))

    def _draw(self, error: Tensor, sizes: list[int]) -> None:
        """The matrices, at the first call."""
        classes = error.shape[1]
        wanted = {"shared": max(sizes)} if self.shared else {str(number): size for number, size in enumerate(sizes)}
        if not self.feedback:
            if classes == 0:
                raise ValueError("model must have outputs with features: got none")
            for name, size in wanted.items():
                device = "cpu" if self.generator is None else self.generator.device
                if self.distribution == "uniform":
                    matrix = 2 * torch.rand(classes, size, generator=self.generator, device=device) - 1
                else:
                    matrix = torch.randn(classes, size, generator=self.generator, device=device) / math.sqrt(3)
                self.feedback[name] = (matrix * (self.scale / math.sqrt(size))).to(error)
        have = {name: tuple(matrix.shape) for name, matrix in self.feedback.items()}
        need = {name: (classes, size) for name, size in wanted.items()}
        if have != need:
            raise ValueError(f"outputs and feedback points must keep their sizes, {have}: got {need}")

    def state_dict(self) -> dict[str, Any]:
        """The feedback matrices."""
        return {"feedback": dict(self.feedback)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.feedback = {name: torch.as_tensor(matrix).clone() for name, matrix in state["feedback"].items()}
