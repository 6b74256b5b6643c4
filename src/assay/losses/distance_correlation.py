"""Distance correlation: zero for independent samples, one for similar ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_finite


def distance_correlation(a: Float[Tensor, "n p"], b: Float[Tensor, "n q"]) -> float:
    r"""$\sqrt{\mathrm{dCov}^2(a, b) / \sqrt{\mathrm{dVar}^2(a)\, \mathrm{dVar}^2(b)}}$ in [0, 1], in float64.

    $\mathrm{dCov}^2 = n^{-2} \sum_{ij} A_{ij} B_{ij}$, where $A$ and $B$ are the Euclidean distances within each sample
    with the means of their rows and columns taken away. It does not change when a sample is moved, turned or scaled.

    Args:
        a: one point a row, at least 2 rows.
        b: points of any other dimension, row for row with `a`.

    Returns:
        The biased (V-statistic) estimate; 0 where a sample is constant.

    Paper: Székely, Rizzo, Bakirov (2007), Measuring and Testing Dependence by Correlation of Distances, definitions 4
    and 5.

    Raises:
        ValueError: for shapes that do not fit, fewer than 2 rows, entries that are not finite.

    Example:
        >>> x = torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
        >>> round(distance_correlation(x, 3 - 2 * x), 4), round(distance_correlation(x, (x - 0.5).square()), 4)
        (1.0, 0.5266)
    """
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 2:
        raise ValueError(f"a and b must be (n, p) and (n, q), n at least 2: got {tuple(a.shape)} and {tuple(b.shape)}")
    check_finite(a=a, b=b)
    first, second = _centred(a), _centred(b)
    scale = (first.square().mean() * second.square().mean()).sqrt()
    if scale == 0:
        return 0.0
    return ((first * second).mean() / scale).clamp(0, 1).sqrt().item()


def _centred(x: Tensor) -> Tensor:
    x = x.detach().double()
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    rows = distances.mean(1, keepdim=True)
    return distances - rows - rows.T + rows.mean()
