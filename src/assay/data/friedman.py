"""Friedman's first regression function, with noise of any weight of tails."""

from __future__ import annotations

import math

import torch

from .split import Labelled


def friedman(
    count: int,
    *,
    features: int = 10,
    noise: float = 1.0,
    degrees: int | None = None,
    generator: torch.Generator | None = None,
) -> Labelled:
    r"""$y = 10 \sin(\pi x_1 x_2) + 20 (x_3 - 1/2)^2 + 10 x_4 + 5 x_5 + \sigma \varepsilon$, x uniform in the unit cube.

    Features beyond the fifth say nothing of y. Without noise y has mean 14.41 and standard deviation 4.88.

    Args:
        count: points, at least 1.
        features: dimension of x, at least 5.
        noise: $\sigma$, 0 or more.
        degrees: None for standard normal $\varepsilon$; else degrees of freedom, at least 1, of Student's t. It is not
            rescaled: with 3 degrees its variance is 3.

    Returns:
        inputs (count, features), targets (count,), float32.

    Reference: J. H. Friedman (1991), Multivariate Adaptive Regression Splines, equation 61.

    Raises:
        ValueError: for counts or degrees below 1, fewer than 5 features, a noise that is negative or not finite.

    Example:
        >>> points = friedman(3, noise=0.0, generator=torch.Generator().manual_seed(0))
        >>> a, b, c, d, e, *rest = points.inputs[0].tolist()
        >>> expected = 10 * math.sin(math.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e
        >>> len(rest), round(points.targets[0].item() - expected, 4)
        (5, 0.0)
    """
    if count < 1:
        raise ValueError(f"count must be at least 1: got {count}")
    if features < 5:
        raise ValueError(f"features must be at least 5: got {features}")
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise must be finite and not negative: got {noise}")
    if degrees is not None and degrees < 1:
        raise ValueError(f"degrees must be at least 1: got {degrees}")
    x = torch.rand(count, features, generator=generator)
    clean = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    error = torch.randn(count, generator=generator)
    if degrees is not None:
        error = error / torch.randn(count, degrees, generator=generator).square().mean(1).sqrt()
    return Labelled(x, clean + noise * error)
