"""How many random directions are enough to learn a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class IntrinsicDimension(NamedTuple):
    """What a sweep over dimensions found.

    Args:
        dimension: where the score first reaches the threshold; infinite if it never does.
        threshold: the share asked for of the baseline.
        dims: the dimensions tried, ascending.
        scores: the mean score at each.
        reached: whether any dimension reached the threshold.
        bracketed: whether the one before it did not, so that `dimension` is no mere upper bound.
    """

    dimension: float
    threshold: float
    dims: tuple[int, ...]
    scores: Float[Tensor, " dims"]
    reached: bool
    bracketed: bool


def intrinsic_dimension(
    train: Callable[[int], float],
    baseline: float,
    *,
    dims: Sequence[int],
    share: float = 0.9,
    repeats: int = 1,
) -> IntrinsicDimension:
    r"""The least number of random directions in which training reaches a share of what all weights reach.

    $d_{\mathrm{int}90} = \min\{d : \mathrm{score}(d) \ge 0.9 \cdot \mathrm{baseline}\}$, between the last dimension of
    the grid that falls short and the first that does not by a straight line in $\log d$.

    Args:
        train: dimension -> score, higher being better: trains a `RandomSubspace` of that dimension from the start.
        baseline: score of the network trained directly, above 0.
        dims: the grid, different and at least 1 each; best geometric.
        share: of the baseline, in (0, 1]; 1 gives $d_{\mathrm{int}100}$, which noise decides.
        repeats: calls of `train` averaged for each dimension, at least 1.

    Li et al., 2018 (arXiv:1804.08838), section 2.2.

    Differs from the paper: interpolates between the dimensions tried.

    Raises:
        ValueError: for an empty grid, equal or too small dimensions, a baseline, share or number of repeats out of
            range, a score that is not a number.

    Example:
        >>> found = intrinsic_dimension(lambda d: min(1.0, d / 100), 1.0, dims=(10, 40, 160))  # 0.1, 0.4, 1
        >>> round(found.dimension, 1), found.reached  # 40 * 4 ** (0.5 / 0.6)
        (127.0, True)
    """
    if not dims or min(dims) < 1 or len(set(dims)) != len(dims):
        raise ValueError(f"dims must be different numbers, each at least 1: got {list(dims)}")
    if not 0 < baseline < math.inf:
        raise ValueError(f"baseline must be positive and finite: got {baseline}")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1]: got {share}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1: got {repeats}")
    grid = tuple(sorted(dims))
    scores = torch.tensor([[train(dim) for _ in range(repeats)] for dim in grid], dtype=torch.float64).mean(1)
    if scores.isnan().any():
        raise ValueError(f"train must return a number: got NaN for dimension {grid[int(scores.isnan().nonzero()[0])]}")
    threshold = share * baseline
    enough = (scores >= threshold).nonzero().flatten()
    if len(enough) == 0:
        return IntrinsicDimension(math.inf, threshold, grid, scores, False, False)
    first = int(enough[0])
    if first == 0:
        return IntrinsicDimension(float(grid[0]), threshold, grid, scores, True, False)
    below, above = scores[first - 1].item(), scores[first].item()
    part = (threshold - below) / (above - below)
    dimension = grid[first - 1] * (grid[first] / grid[first - 1]) ** part
    return IntrinsicDimension(dimension, threshold, grid, scores, True, True)
