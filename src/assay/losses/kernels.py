"""Gaussian Gram matrices, their logarithms, and the bandwidth by the median rule."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_finite

Bandwidth = float | Literal["median"]
FEW = 32


def gaussian_gram(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"] | None = None, *, sigma: Bandwidth | Float[Tensor, ""] = "median"
) -> Float[Tensor, "n m"]:
    r"""$K_{ij} = \exp(-\|x_i - y_j\|^2 / (2 \sigma^2))$, in float32 at least, also under autocast.

    Args:
        x: points, one a row.
        y: other points; None takes `x` again.
        sigma: $\sigma$, a positive number or a tensor of one; `"median"` is `median_bandwidth` of all the points.

    Raises:
        ValueError: for points of different dimensions or not finite, fewer than 2 to take a median of, a sigma that is
            not positive and finite.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> gaussian_gram(x, sigma=2.0).log()[0]  # 0, -1 and -9, over 2 * 2 ** 2
        tensor([ 0.0000, -0.1250, -1.1250])
    """
    y = x if y is None else y
    _check(x, y)
    return log_gram(x, y, bandwidth(sigma, x if y is x else torch.cat([x, y]))).exp()


def median_bandwidth(x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """The median distance between two different rows of `x`; no gradient flows through it.

    Of an even number of distances it is the lower of the two in the middle. Where more than half of the pairs coincide,
    it is the mean distance, and 1 where all do, so that it is always positive.

    Args:
        x: points, one a row; at least 2.

    Raises:
        ValueError: for fewer than 2 points, or points that are not finite.

    Example:
        >>> median_bandwidth(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))  # of 5, 1 and the root of 18
        tensor(4.2426)
    """
    _check(x, x)
    if len(x) < 2:
        raise ValueError(f"x must have at least 2 rows to take a median distance of: got {len(x)}")
    with torch.no_grad():
        row, column = torch.triu_indices(len(x), len(x), 1, device=x.device)
        distances = squared_distances(x, x)[row, column].sqrt()
        mean = distances.mean()
        spread = torch.where(mean > 0, mean, torch.ones_like(mean))
        median = distances.median()
        return torch.where(median > 0, median, spread)


def bandwidth(sigma: Bandwidth | Tensor, points: Tensor, *, name: str = "sigma") -> float | Tensor:
    """`sigma`, checked; or the median distance of the points, if that is what it asks for.

    Raises:
        ValueError: naming `name`, for anything but "median" or a positive finite number.
    """
    if isinstance(sigma, str):
        if sigma != "median":
            raise ValueError(f"{name} must be a positive number or 'median': got {sigma!r}")
        return median_bandwidth(points)
    if not isinstance(sigma, Tensor) and not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"{name} must be positive and finite: got {sigma}")
    return sigma


def log_gram(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], sigma: float | Tensor) -> Float[Tensor, "n m"]:
    """Logarithms of the entries of the Gram matrix, which never underflow."""
    return squared_distances(x, y) / (-2 * sigma**2)


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Squared Euclidean distances between rows, in float32 at least, also under autocast.

    Up to 32 coordinates are subtracted one by one, which is exact where points coincide; more go through a matrix
    product about the mean of `x`, which takes n m numbers of memory instead of n m d.
    """
    with torch.autocast(x.device.type, enabled=False):
        kind = torch.promote_types(x.dtype, torch.float32)
        x, y = x.to(kind), y.to(kind)
        if x.shape[1] <= FEW:
            return (x[:, None] - y).square().sum(-1)
        center = x.detach().mean(0)
        x, y = x - center, y - center
        return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (*x.shape, *y.shape):
        raise ValueError(f"x and y must be (n, d) and (m, d), not empty: got {tuple(x.shape)} and {tuple(y.shape)}")
    check_finite(x=x, y=y)
