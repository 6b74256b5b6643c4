"""How much of the space around a solution leads back to the same kind of solution."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from assay.curvature import filter_normalized_direction


def basin_retention(
    model: nn.Module,
    retrain: Callable[[nn.Module], Any],
    score: Callable[[nn.Module], Mapping[str, float]],
    *,
    radius: float,
    draws: int = 4,
    generator: torch.Generator | None = None,
) -> float:
    r"""The share of perturbed and retrained copies whose best score is for what the model's best was for.

    Each copy starts at $\theta + r d$, with d as long as the weights, filter by filter.

    Args:
        model: the solution; left as it was.
        retrain: trains a copy in place, on data that allow several kinds of solution.
        score: model -> how far it is of each kind, such as `CueTest().score`.
        radius: r, 0 or more.
        draws: copies, at least 1.
        generator: where the directions come from; None is torch's global generator.

    After Scimeca et al., 2021 (arXiv:2110.03095), section 4.

    Differs from the paper: it judges how abundant a kind of solution is by the paths that training takes; this measures
    by perturbation.

    Raises:
        ValueError: for a radius or a count out of range, no scores.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(line.weight, 0.2)
        >>> sign = lambda net: {"up": net.weight.item(), "down": -net.weight.item()}
        >>> basin_retention(line, lambda net: None, sign, radius=0.5, draws=20)  # too near to change sides
        1.0
        >>> share = basin_retention(line, lambda net: None, sign, radius=2.0, draws=20)
        >>> 0 < share < 1
        True
    """
    if not 0 <= radius < math.inf:
        raise ValueError(f"radius must be 0 or more and finite: got {radius}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1: got {draws}")
    kind = _best(score(model))
    kept = 0
    for _ in range(draws):
        other = copy.deepcopy(model)
        weights = [p for p in other.parameters() if p.requires_grad]
        with torch.no_grad():
            torch._foreach_add_(weights, filter_normalized_direction(model, generator=generator), alpha=radius)
        retrain(other)
        kept += _best(score(other)) == kind
    return kept / draws


def _best(scores: Mapping[str, float]) -> str:
    if not scores:
        raise ValueError("score must return a number for each kind: got none")
    return max(scores, key=lambda name: scores[name])
