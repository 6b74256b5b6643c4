"""The Hessian of a network's loss as a linear operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.curvature.products import hvp

KINDS = ("hessian", "gauss_newton")


class Hessian:
    r"""The Hessian of a mean loss at a model's present weights, or its Gauss-Newton part, as a linear operator.

    $H = \frac1n \sum_i \nabla^2_\theta\, \ell(f_\theta(x_i), y_i)$, or
    $G = \frac1n \sum_i J_i^\top\, \nabla^2_f \ell\, J_i$ with $J_i = \partial f_\theta(x_i)/\partial\theta$

    The forward pass is made once and its graph kept: a product costs one backward pass through the gradient, not a
    forward and two backward ones. With `batch_size` the examples are taken in parts, and only one part's graph is held
    at a time and made anew for each product: slower, but in the memory of a part.

    The model is used in evaluation mode (batch norm with its running statistics, no dropout), so that the loss is a
    mean over examples; every module and every gradient is left as it was. The weights must stay as they are while the
    operator is in use.

    Args:
        model: maps inputs to what `loss` takes first.
        loss: loss(outputs, targets) -> a scalar, the mean over the examples; torch's own do.
        inputs: (n, ...).
        targets: (n, ...).
        kind: "hessian" or "gauss_newton" (positive semidefinite for a convex loss).
        batch_size: examples a part; None keeps the graph of all.

    Attributes:
        size: number of weights that want a gradient.
        products: products made so far.

    Raises:
        ValueError: for an unknown kind, no examples, a batch size below 1, a model none of whose weights wants a
            gradient, a vector of the wrong size.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> hessian = Hessian(line, nn.functional.mse_loss, x, torch.zeros(2, 1))  # 2/n X^T X
        >>> hessian.matvec(torch.tensor([1.0, 0.0])), hessian @ torch.tensor([0.0, 1.0])
        (tensor([10.,  2.]), tensor([2., 4.]))
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        *,
        kind: str = "hessian",
        batch_size: int | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}: got {kind!r}")
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise ValueError(f"inputs and targets must be as many, at least 1: got {len(inputs)} and {len(targets)}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1: got {batch_size}")
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("model must have weights that want a gradient: got none")
        self.size = sum(p.numel() for p in self.parameters)
        self.products = 0
        self._model, self._loss, self._data, self._kind = model, loss, (inputs, targets), kind
        self._part = len(inputs) if batch_size is None else batch_size
        self._kept = self._linearized(inputs, targets) if self._part >= len(inputs) else None

    @property
    def gradient(self) -> Float[Tensor, " size"]:
        """The gradient of the mean loss, flat."""
        total = torch.zeros(self.size, dtype=self.parameters[0].dtype, device=self.parameters[0].device)
        for inputs, targets, share in self._parts():
            with torch.enable_grad(), evaluating(self._model):
                value = self._loss(self._model(inputs), targets)
            total += share * _flat(torch.autograd.grad(value, self.parameters, allow_unused=True), self.parameters)
        return total

    def matvec(self, vector: Float[Tensor, " size"]) -> Float[Tensor, " size"]:
        """The product with a flat vector, in the order of `model.parameters()`."""
        if vector.shape != (self.size,):
            raise ValueError(f"vector must be ({self.size},): got {tuple(vector.shape)}")
        self.products += 1
        parts = vector.split([p.numel() for p in self.parameters])
        shaped = [part.view_as(p).to(p) for part, p in zip(parts, self.parameters, strict=True)]
        if self._kept is not None:
            return self._kept(shaped).to(vector)
        total = torch.zeros_like(vector)
        for inputs, targets, share in self._parts():
            total += share * self._linearized(inputs, targets)(shaped).to(vector)
        return total

    __matmul__ = matvec

    def _parts(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        inputs, targets = self._data
        for start in range(0, len(inputs), self._part):
            part = slice(start, start + self._part)
            yield inputs[part], targets[part], len(inputs[part]) / len(inputs)

    def _linearized(self, inputs: Tensor, targets: Tensor) -> Callable[[list[Tensor]], Tensor]:
        """The product for some of the examples, as a function of the vector; it holds their graph."""
        parameters = self.parameters
        with torch.enable_grad(), evaluating(self._model):
            outputs = self._model(inputs)
            value = self._loss(outputs, targets)
            if self._kind == "hessian":
                grads = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
                return lambda vectors: _flat(hvp(grads, parameters, vectors), parameters)
            # J v by differentiating the transposed product, which is linear in its argument.
            (slope,) = torch.autograd.grad(value, outputs, create_graph=True)
            dual = torch.zeros_like(outputs, requires_grad=True)
            transposed = torch.autograd.grad(outputs, parameters, dual, create_graph=True, allow_unused=True)
            used = [i for i, each in enumerate(transposed) if each is not None]

        def product(vectors: list[Tensor]) -> Tensor:
            (along,) = torch.autograd.grad(
                [transposed[i] for i in used], dual, [vectors[i] for i in used], retain_graph=True
            )
            (curved,) = hvp([slope], [outputs], [along])
            back = torch.autograd.grad(outputs, parameters, curved, retain_graph=True, allow_unused=True)
            return _flat(back, parameters)

        return product


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; outside, every module as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def _flat(tensors: list[Tensor | None] | tuple[Tensor | None, ...], like: list[Tensor]) -> Tensor:
    return torch.cat(
        [(torch.zeros_like(p) if t is None else t).reshape(-1) for t, p in zip(tensors, like, strict=True)]
    )
