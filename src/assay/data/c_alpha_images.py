"""Smooth regions with a smooth edge between them: a class of images of which the best denoising is known."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def c_alpha_images(
    count: int,
    size: int = 32,
    alpha: float = 4.0,
    *,
    constant_background: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n 1 size size"]:
    r"""Two fields on both sides of a contour $y = c(t)$, all of regularity $\alpha$, in [0, 1].

    Fields and contours are uniform noise in [-1, 1], filtered by $(1 / (N|f|))^\alpha$ at frequency f (the zero
    frequency takes its neighbour's gain). One field is brought to a random range [u, 1], the other to [0, v]; which is
    above is a coin's choice. The mask is softened by a mean over 2 x 2 pixels. The best bases for such images reach
    errors of $\sigma^{2\alpha/(\alpha+1)}$, fixed wavelets of $\sigma$.

    Args:
        count: how many, at least 1.
        size: N, at least 4.
        alpha: regularity, above 0.
        constant_background: two even grey levels in place of the fields.
        generator: where they come from.

    Kadkhodaie et al., 2023 (arXiv:2310.02557), section 4.2 and appendix; as in the authors' code.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> images = c_alpha_images(3, 16, generator=torch.Generator().manual_seed(0))
        >>> images.shape, 0 <= images.min() <= images.max() <= 1
        (torch.Size([3, 1, 16, 16]), tensor(True))
    """
    if count < 1:
        raise ValueError(f"count must be at least 1: got {count}")
    if size < 4:
        raise ValueError(f"size must be at least 4: got {size}")
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be above 0 and finite: got {alpha}")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    if constant_background:
        bright, dark = uniform(1, 1), uniform(1, 1)
    else:
        fields = [_unit(_smooth(2 * uniform(size, size) - 1, alpha)) for _ in range(2)]
        low, high = uniform(1, 1), uniform(1, 1)
        bright, dark = low + (1 - low) * fields[0], high * fields[1]
    contour = size * (0.5 + _smooth(2 * uniform(size) - 1, alpha))
    rows = torch.arange(size + 1.0)[:, None]
    columns = torch.cat([contour, contour[:, :1]], 1)[:, None]
    mask = (rows < columns).float()
    mask = (mask[:, :-1, :-1] + mask[:, 1:, :-1] + mask[:, :-1, 1:] + mask[:, 1:, 1:]) / 4
    mask = torch.where(uniform(1, 1) < 0.5, mask, 1 - mask)
    return (mask * bright + (1 - mask) * dark)[:, None]


def _smooth(noise: Tensor, alpha: float) -> Tensor:
    """Filtered along all dimensions but the first."""
    size, dims = noise.shape[1], tuple(range(1, noise.ndim))
    frequencies = torch.fft.fftfreq(size, 1 / size).abs()
    length = frequencies if noise.ndim == 2 else torch.hypot(frequencies[:, None], frequencies)
    gain = length.clamp_min(1).pow(-alpha)
    smooth: Tensor = torch.fft.ifftn(torch.fft.fftn(noise, dim=dims) * gain, dim=dims).real
    return smooth


def _unit(values: Tensor) -> Tensor:
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    return (values - low) / (high - low)
