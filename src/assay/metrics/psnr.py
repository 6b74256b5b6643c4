"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor


def psnr(estimate: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], data_range: float = 1.0) -> float:
    r"""$10 \log_{10}(R^2 / \mathrm{MSE})$ in decibels, the mean square error taken over every entry in float64.

    Args:
        estimate: what was restored, any shape.
        target: what it should be, of the same shape.
        data_range: $R$, the width of the range that images live in; positive.

    Returns:
        Decibels; infinity when the two are equal.

    Raises:
        ValueError: for shapes that differ, no entries, entries that are not finite, a range that is not positive.

    Example:
        >>> import torch
        >>> target = torch.linspace(0, 1, 50)
        >>> round(psnr(target + 0.1, target), 3), round(psnr(target + 0.1, target, data_range=2.0), 3)
        (20.0, 26.021)
    """
    if estimate.shape != target.shape:
        raise ValueError(f"estimate must have the shape of target, {tuple(target.shape)}: got {tuple(estimate.shape)}")
    if estimate.numel() == 0:
        raise ValueError(f"estimate must have entries: got shape {tuple(estimate.shape)}")
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range must be positive and finite: got {data_range}")
    error = (estimate.detach().double() - target.detach().double()).square().mean().item()
    if not math.isfinite(error):
        raise ValueError("estimate and target must be finite: got a mean square error of " + str(error))
    return math.inf if error == 0.0 else 10.0 * math.log10(data_range**2 / error)
