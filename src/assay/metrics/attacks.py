"""The smallest change that makes a model wrong: what robustness is measured by, and trained with."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def pgd(
    model: nn.Module,
    inputs: Float[Tensor, "n ..."],
    targets: Tensor,
    *,
    eps: float,
    norm: str = "linf",
    steps: int = 10,
    step_size: float | None = None,
    loss: Callable[..., Tensor] = F.cross_entropy,
    random_start: bool = True,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n ..."]:
    r"""Inputs near the given ones at which the loss is large, by projected gradient ascent.

    $x \leftarrow \Pi\,(x + \alpha\, u(\nabla_x L))$, with $u(g) = \mathrm{sign}(g)$ and $\Pi$ clipping each number to
    $x_0 \pm \epsilon$ for `linf`, $u(g) = g / \|g\|$ and $\Pi$ shortening $x - x_0$ to $\epsilon$ for `l2`, example by
    example; then to the bounds.

    Args:
        model: maps inputs to what `loss` takes first. Used in evaluation mode, and left as it was found: no gradient
            of a weight is touched, no running statistic either.
        inputs: $x_0$, (n, ...).
        targets: what `loss` takes second; the attack leads away from them.
        eps: $\epsilon$, the greatest distance, 0 or more.
        norm: how distance is measured, `"linf"` or `"l2"`.
        steps: of the ascent, 0 or more.
        step_size: $\alpha$; $2.5\, \epsilon$ / steps if not given.
        loss: loss(outputs, targets) -> the mean over the batch.
        random_start: start from a uniform draw from the ball, not from $x_0$.
        bounds: least and greatest number of an input; None for any.
        generator: where the start comes from; None is torch's global generator.

    Madry et al., 2017 (arXiv:1706.06083), section 2.1 and equation 2.1 (the inner maximum).

    Raises:
        ValueError: for arguments out of range, another norm, inputs outside the bounds, a loss that is not finite.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> model.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> half = torch.tensor([[0.5, 0.5]])
        >>> pgd(model, half, torch.tensor([0]), eps=0.1, random_start=False)  # less of class 0, more of class 1
        tensor([[0.4000, 0.6000]])
        >>> pgd(model, half, torch.tensor([0]), eps=0.1, norm="l2", random_start=False)  # along (-3, 4)
        tensor([[0.4400, 0.5800]])
    """
    _check(inputs, eps, norm, steps, step_size, bounds)
    rate = 2.5 * eps / max(steps, 1) if step_size is None else step_size
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            start = inputs.detach().clone()
            x = _project(start, _drawn(start, eps, norm, generator), eps, norm, bounds) if random_start else start
            for _ in range(steps):
                at = x.detach().clone().requires_grad_()
                value = loss(model(at), targets)
                if not bool(value.isfinite()):
                    raise ValueError(f"loss must be finite: got {value.item()}")
                (slope,) = torch.autograd.grad(value, at)
                way = slope.sign() if norm == "linf" else _unit(slope)
                x = _project(start, torch.add(at.detach(), way, alpha=rate), eps, norm, bounds)
    finally:
        for module, mode in modes:
            module.training = mode
    return x.detach()


def _project(start: Tensor, x: Tensor, eps: float, norm: str, bounds: tuple[float, float] | None) -> Tensor:
    if norm == "linf":
        x = torch.minimum(torch.maximum(x, start - eps), start + eps)
    else:
        away = x - start
        x = start + away * (eps / _lengths(away).clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(1.0)
    return x if bounds is None else x.clamp(*bounds)


def _drawn(start: Tensor, eps: float, norm: str, generator: torch.Generator | None) -> Tensor:
    """Uniform in the ball around the start."""
    like = dict(generator=generator, dtype=start.dtype, device=start.device)
    if norm == "linf":
        return start + eps * (2 * torch.rand(start.shape, **like) - 1)
    dimension = start[:1].numel()
    radius = torch.rand(len(start), **like).pow(1 / dimension).view(-1, *[1] * (start.ndim - 1))
    return start + eps * radius * _unit(torch.randn(start.shape, **like))


def _lengths(x: Tensor) -> Tensor:
    """Of each example, broadcastable to them."""
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))


def _unit(x: Tensor) -> Tensor:
    """Each example brought to length 1; zero stays zero, and small gradients do not underflow."""
    largest = x.flatten(1).abs().amax(dim=1).view(-1, *[1] * (x.ndim - 1))
    x = x / largest.where(largest > 0, 1)
    return x / _lengths(x).clamp_min(torch.finfo(x.dtype).tiny)


def _check(
    inputs: Tensor, eps: float, norm: str, steps: int, step_size: float | None, bounds: tuple[float, float] | None
) -> None:
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be 0 or more and finite: got {eps}")
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be 'linf' or 'l2': got {norm!r}")
    if steps < 0:
        raise ValueError(f"steps must not be negative: got {steps}")
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be positive and finite: got {step_size}")
    if len(inputs) == 0:
        raise ValueError("inputs must hold at least one example: got none")
    if bounds is not None:
        low, high = bounds
        if not low < high:
            raise ValueError(f"bounds must be a least and a greater number: got {bounds}")
        if not bool(((inputs >= low) & (inputs <= high)).all()):
            raise ValueError(f"inputs must lie in {bounds}: got {inputs.min().item()}..{inputs.max().item()}")
