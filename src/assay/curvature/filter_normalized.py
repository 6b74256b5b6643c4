"""Flatness along random directions that are as long as the weights, filter by filter."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.curvature.hessian import evaluating


def filter_normalized_direction(model: nn.Module, *, generator: torch.Generator | None = None) -> list[Tensor]:
    r"""A Gaussian direction, each filter as long as that of the weights: $d_f \leftarrow d_f \|\theta_f\| / \|d_f\|$.

    A filter is a row of a weight of two or more dimensions: what leads to one unit. Biases and the weights of
    normalization, which have one dimension, stay where they are.

    Args:
        model: whose trainable weights.
        generator: where the direction comes from; None is torch's global generator.

    Returns:
        A tensor for each trainable parameter, in the order of `model.parameters()`.

    Li et al., 2018 (arXiv:1712.09913), section 4.

    Example:
        >>> line = nn.Linear(3, 2)
        >>> weight, bias = filter_normalized_direction(line)
        >>> torch.allclose(weight.norm(dim=1), line.weight.norm(dim=1)), bias.tolist()
        (True, [0.0, 0.0])
    """
    found = []
    for p in model.parameters():
        if not p.requires_grad:
            continue
        if p.ndim < 2:
            found.append(torch.zeros_like(p))
            continue
        device = p.device if generator is None else generator.device
        drawn = torch.randn(p.shape, generator=generator, dtype=p.dtype, device=device).to(p.device).flatten(1)
        scale = p.detach().flatten(1).norm(dim=1) / drawn.norm(dim=1)
        found.append((drawn * scale[:, None]).view_as(p))
    return found


@torch.no_grad()
def filter_normalized_rise(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    radius: float,
    directions: int = 20,
    generator: torch.Generator | None = None,
) -> float:
    r"""How much the loss rises at a distance: the mean over directions of $L(\theta + r d) - L(\theta)$.

    As d grows with the weights, networks that differ only in the scale of a filter (and of what undoes it) have one
    rise. The model is used in evaluation mode and left as it was.

    Args:
        model: maps inputs to what `loss` takes first.
        loss: loss(outputs, targets) -> a scalar.
        inputs: (n, ...).
        targets: (n, ...).
        radius: r, in lengths of the weights, 0 or more.
        directions: drawn by `filter_normalized_direction`, at least 1.
        generator: where they come from; None is torch's global generator.

    Li et al., 2018 (arXiv:1712.09913); as a number, Scimeca et al., 2021 (arXiv:2110.03095), section 4.

    Raises:
        ValueError: for a radius or a count out of range, a loss that is not finite.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(line.weight, 2.0)
        >>> one, nothing = torch.ones(1, 1), torch.zeros(1, 1)  # the loss is w^2: at 2 + 1 or 2 - 1 it is 9 or 1, not 4
        >>> filter_normalized_rise(line, nn.functional.mse_loss, one, nothing, radius=0.5, directions=1) in (5.0, -3.0)
        True
    """
    if not 0 <= radius < math.inf:
        raise ValueError(f"radius must be 0 or more and finite: got {radius}")
    if directions < 1:
        raise ValueError(f"directions must be at least 1: got {directions}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    before = [p.clone() for p in parameters]
    rises = []
    try:
        with evaluating(model):
            start = loss(model(inputs), targets).item()
            for _ in range(directions):
                way = filter_normalized_direction(model, generator=generator)
                torch._foreach_add_(parameters, way, alpha=radius)
                rises.append(loss(model(inputs), targets).item() - start)
                torch._foreach_copy_(parameters, before)
    finally:
        torch._foreach_copy_(parameters, before)
    rise = math.fsum(rises) / directions
    if not math.isfinite(rise):
        raise ValueError(f"loss must be finite: its rise is {rise}")
    return rise
