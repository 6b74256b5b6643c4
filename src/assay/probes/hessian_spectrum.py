"""Bulk and outliers of a Hessian's spectrum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class SpectrumSummary(NamedTuple):
    """What `spectrum_summary` counts.

    Args:
        num_outliers: eigenvalues above `outlier` times the largest.
        near_zero_fraction: share of those whose size is below `zero` times the largest.
        num_negative: eigenvalues below minus `zero` times the largest.
        top: the largest.
        bulk_edge: the largest that is no outlier; the largest itself where all are.
        gap: the smallest outlier over `bulk_edge`; infinite where that is not above 0.
    """

    num_outliers: int
    near_zero_fraction: float
    num_negative: int
    top: float
    bulk_edge: float
    gap: float


def spectrum_summary(values: Float[Tensor, " P"], *, outlier: float = 0.1, zero: float = 1e-3) -> SpectrumSummary:
    r"""Bulk and outliers of a spectrum, told apart by two shares of the largest eigenvalue.

    outliers $\{i : \lambda_i > 0.1\, \lambda_{\max}\}$, near zero $\{i : |\lambda_i| < 10^{-3} \lambda_{\max}\}$

    The eigenvalues of a trained classifier's Hessian, $G + R$, crowd at zero, the more so the more weights there are; a
    few stand out. They come from $G = \frac1n \sum_i J_i^\top (\operatorname{diag} p_i - p_i p_i^\top) J_i$, to which
    each of C tight clusters adds about C - 1 directions: about C (C - 1) in all, whatever the width.

    Args:
        values: all eigenvalues, in any order: `torch.linalg.eigvalsh(hessian_matrix(...))`.
        outlier: share of the largest above which an eigenvalue stands out, in (0, 1).
        zero: share of the largest below which it counts as zero, in (0, outlier].

    Sagun et al., 2017 (arXiv:1706.04454), sections 3 and 4.

    Differs from the paper: it looks at spectra by eye; the two thresholds are this library's.

    Raises:
        ValueError: for no values, values that are not finite or of which none is positive, thresholds out of range.

    Example:
        >>> spectrum_summary(torch.tensor([-0.1, 0.0, 0.001, 0.5, 2.0, 10.0]))
        SpectrumSummary(num_outliers=2, near_zero_fraction=0.333..., num_negative=1, top=10.0, bulk_edge=0.5, gap=4.0)
    """
    if not 0 < outlier < 1:
        raise ValueError(f"outlier must lie in (0, 1): got {outlier}")
    if not 0 < zero <= outlier:
        raise ValueError(f"zero must lie in (0, outlier = {outlier}]: got {zero}")
    if values.ndim != 1 or len(values) == 0 or not values.isfinite().all():
        raise ValueError("values must be finite numbers in one row, at least one")
    values = values.double()
    top = values.max()
    if not top > 0:
        raise ValueError(f"values must have one above 0: the largest is {top.item()}")
    out = values > outlier * top
    bulk_edge = values[~out].max() if not out.all() else top
    gap = (values[out].min() / bulk_edge).item() if bulk_edge > 0 else torch.inf
    return SpectrumSummary(
        int(out.sum()),
        (values.abs() < zero * top).double().mean().item(),
        int((values < -zero * top).sum()),
        top.item(),
        bulk_edge.item(),
        gap,
    )
