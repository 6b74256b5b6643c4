"""A photograph as it might look under another light."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

NOISE = 0.01


def relight(
    image: Float[Tensor, "c h w"], strength: float = 1.0, generator: torch.Generator | None = None
) -> Float[Tensor, "3 h w"]:
    r"""Gains, smooth shading, one to three shadows with an edge, a tone curve and noise, all at random.

    In linear light (sRGB decoded first), each to the power of `strength`: a gain in [0.4, 1.6]; one for each channel in
    [0.7, 1.3]; shading $1 + 0.5 f$, f a mean of 3 to 5 cosines with periods of at least a third of the image; half
    planes in shadow that let 0.2 to 0.6 of the light through, a little more of the blue, with edges blurred over 0.5
    to 3 pixels. Then, encoded again, a power in [0.7, 1.4]; Gaussian noise of 0.01; all cut to [0, 1].

    Args:
        image: in [0, 1].
        strength: 0 changes nothing but for the noise, not negative.
        generator: where it comes from.

    Raises:
        ValueError: for other than three channels, values out of [0, 1], a negative strength.

    Example:
        >>> image = torch.full((3, 8, 8), 0.5)
        >>> same = relight(image, 0.0, torch.Generator().manual_seed(0))
        >>> round((same - image).std().item(), 2), relight(image).shape
        (0.01, torch.Size([3, 8, 8]))
    """
    if len(image) != 3:
        raise ValueError(f"image must have three channels: got {len(image)}")
    if not ((image >= 0) & (image <= 1)).all():
        raise ValueError(f"image must lie in [0, 1]: got {image.min().item()} to {image.max().item()}")
    if not strength >= 0:
        raise ValueError(f"strength must not be negative: got {strength}")
    _, height, width = image.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    factor = uniform(0.4, 1.6).expand(3, height, width) * uniform(0.7, 1.3, 3, 1, 1)
    count = int(torch.randint(3, 6, (), generator=generator))
    turn, cycles, phase = (uniform(0, high, count, 1, 1) for high in (2 * math.pi, 3.0, 2 * math.pi))
    along = (x / width) * turn.cos() + (y / height) * turn.sin()
    factor = factor * (1 + 0.5 * (2 * math.pi * cycles * along + phase).cos().mean(0))
    for _ in range(int(torch.randint(1, 4, (), generator=generator))):
        angle, through, soft = uniform(0, 2 * math.pi), uniform(0.2, 0.6), uniform(0.5, 3.0)
        edge = (x - uniform(0, width)) * angle.cos() + (y - uniform(0, height)) * angle.sin()
        shadow = torch.sigmoid(1.702 * edge / soft)  # near the integral of a Gaussian of that deviation
        tint = torch.tensor([0.95, 1.0, 1.1]).view(3, 1, 1)
        factor = factor * (1 - shadow * (1 - through * tint))
    encoded = _encode(_decode(image) * factor.pow(strength)).clamp(0, 1) ** uniform(0.7, 1.4).pow(strength)
    noise = NOISE * torch.randn(3, height, width, generator=generator)
    return (encoded + noise).clamp(0, 1)


def _decode(x: Tensor) -> Tensor:
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def _encode(x: Tensor) -> Tensor:
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)
