"""How sharply the loss curves along the way an optimizer takes, and how far that way leads down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.curvature import hvp


class Direction(NamedTuple):
    """What `compare_directions` finds of a direction $v$, along which $\\theta - \\eta\\, v / \\|v\\|$ moves.

    Args:
        sharpness: $v^\\top H v / \\|v\\|^2$.
        alignment: cosine of the angle between $v$ and the gradient.
        best_step: the $\\eta$ of the grid at which the loss is least; 0 where no step lowers it.
        best_decrease: by how much the loss is lower there, 0 or more.
        losses: the loss at each step of the grid.
    """

    sharpness: float
    alignment: float
    best_step: float
    best_decrease: float
    losses: Float[Tensor, " steps"]


def directional_sharpness(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    direction: Sequence[Tensor],
) -> float:
    r"""The curvature of the loss along a direction: $v^\top H v / \|v\|^2$, by one Hessian-vector product.

    In $L(\theta - \eta v) = L - \eta \langle g, v\rangle + \frac{\eta^2}{2} v^\top H v + O(\eta^3)$ it decides, with
    the alignment of $v$ with $g$, how much a step along $v$ can gain. It lies between the extreme eigenvalues of $H$,
    and may be negative.

    Args:
        model: used in evaluation mode, and given back in the mode it was in.
        loss: loss(outputs, targets) -> the mean over the batch.
        inputs: a batch.
        targets: its targets.
        direction: $v$, one tensor for each trainable parameter, in their order: the update of an optimizer, up to sign
            and length.

    Pan and Li, 2023 (arXiv:2306.00204), the definition of directional sharpness.

    Raises:
        ValueError: for a direction of other shapes, of length 0 or not finite, or a loss that is not finite.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> halves = lambda outputs, targets: (outputs**2).mean() / 2   # H = mean of x x^T = diag(5, 0.5)
        >>> inputs = torch.tensor([[10**0.5, 0.0], [0.0, 1.0]])
        >>> round(directional_sharpness(model, halves, inputs, inputs, [torch.tensor([[3.0, 0.0]])]), 5)
        5.0
        >>> round(directional_sharpness(model, halves, inputs, inputs, [torch.tensor([[1.0, -1.0]])]), 5)
        2.75
    """
    with _evaluated(model):
        params, _, grads = _gradients(model, loss, inputs, targets)
        return _sharpness(params, grads, _checked("direction", direction, params), last=True)


def compare_directions(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    directions: Mapping[str, Sequence[Tensor]],
    *,
    steps: Float[Tensor, " steps"] | None = None,
) -> dict[str, Direction]:
    r"""Sharpness, alignment and loss along several directions from one point, on one batch.

    To compare optimizers, give each one's update from its own state, all of them fed with the same gradients: what is
    measured at different points of different runs says as much about the points as about the directions.

    Args:
        model: used in evaluation mode; its weights are moved along each direction and put back.
        loss: loss(outputs, targets) -> the mean over the batch.
        inputs: a batch.
        targets: its targets.
        directions: name -> $v$, which is subtracted from the weights: the gradient itself for gradient descent.
        steps: the grid of $\eta$, each above 0; 61 from 1e-4 to 10, equal in the logarithm, if not given.

    Pan and Li, 2023 (arXiv:2306.00204), the local landscape of the loss.

    Raises:
        ValueError: as for `directional_sharpness`; steps that are not above 0.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> halves = lambda outputs, targets: ((outputs - targets) ** 2).mean() / 2
        >>> one = torch.ones(1, 1)
        >>> found = compare_directions(model, halves, one, one, {"down": [one]}, steps=torch.tensor([0.5, 1.0, 2.0]))
        >>> found["down"]._replace(losses=None)     # the minimum lies one step of length 1 ahead
        Direction(sharpness=1.0, alignment=1.0, best_step=1.0, best_decrease=0.5, losses=None)
    """
    if steps is None:
        steps = torch.logspace(-4, 1, 61)
    if not (steps > 0).all():
        raise ValueError(f"steps must be above 0: got {steps.min().item()}")
    found = {}
    with _evaluated(model):
        params, start, grads = _gradients(model, loss, inputs, targets)
        checked = {name: _checked(f"directions[{name!r}]", v, params) for name, v in directions.items()}
        slope = _length(grads)
        # All products first: moving the weights for the landscapes spoils the graph that they go through.
        sharpness = {name: _sharpness(params, grads, v) for name, v in checked.items()}
        for name, v in checked.items():
            alignment = 0.0 if slope == 0 else (_dot([g.detach() for g in grads], v) / (slope * _length(v))).item()
            losses = _landscape(model, loss, inputs, targets, params, v, steps)
            best = int(losses.argmin())
            gain = max(0.0, start - losses[best].item())
            found[name] = Direction(sharpness[name], alignment, steps[best].item() if gain else 0.0, gain, losses)
    return found


def _landscape(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    params: list[Tensor],
    direction: list[Tensor],
    steps: Tensor,
) -> Tensor:
    """The loss at each step; infinite where it is not a number."""
    length = _length(direction).item()
    with torch.no_grad():
        start = [p.clone() for p in params]
        losses = []
        try:
            for step in steps.tolist():
                torch._foreach_copy_(params, torch._foreach_sub(start, direction, alpha=step / length))
                losses.append(loss(model(inputs), targets))
        finally:
            torch._foreach_copy_(params, start)
    return torch.stack(losses).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _gradients(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> tuple[list[Tensor], float, list[Tensor]]:
    """The trainable parameters, the loss and its gradients with their graph."""
    params = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        value = loss(model(inputs), targets)
        if not value.isfinite():
            raise ValueError(f"loss must be finite: got {value.item()}")
        grads = torch.autograd.grad(value, params, create_graph=True, allow_unused=True)
    return params, value.item(), [torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)]


def _sharpness(params: list[Tensor], grads: list[Tensor], direction: list[Tensor], *, last: bool = False) -> float:
    if not any(g.requires_grad for g in grads):  # a loss that is linear in the weights
        return 0.0
    product = hvp(grads, params, direction, retain_graph=not last)
    return (_dot(product, direction) / _dot(direction, direction)).item()


def _checked(name: str, direction: Sequence[Tensor], params: list[Tensor]) -> list[Tensor]:
    shapes = [tuple(p.shape) for p in params]
    if [tuple(v.shape) for v in direction] != shapes:
        raise ValueError(
            f"{name} must be shaped as the trainable parameters: got {[tuple(v.shape) for v in direction]}"
        )
    tensors = [v.detach().to(p) for v, p in zip(direction, params, strict=True)]
    if not all(v.isfinite().all() for v in tensors):
        raise ValueError(f"{name} must be finite: got NaN or infinity")
    if _length(tensors) == 0:
        raise ValueError(f"{name} must not be of length 0")
    return tensors


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum(dtype=torch.float64) for a, b in zip(one, other, strict=True)]).sum()


def _length(tensors: Sequence[Tensor]) -> Tensor:
    return _dot(tensors, tensors).detach().sqrt()


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
