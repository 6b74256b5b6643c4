"""Classical maps of an image that light should change little; each takes (c, h, w) and gives (d, h, w)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Image = Float[Tensor, "c h w"]
TINY = 1e-3


def log_chromaticity(image: Image, alpha: float = 0.48) -> Float[Tensor, "1 h w"]:
    r"""$\log G - \alpha \log B - (1 - \alpha) \log R$: the same under any gain common to all channels.

    Args:
        image: not negative; 0.001 is added before logarithms are taken.
        alpha: by the camera's peak wavelengths, in [0, 1].

    Maddern et al., 2014, illumination invariant imaging.

    Raises:
        ValueError: for other than three channels, alpha out of range.

    Example:
        >>> image = torch.rand(3, 4, 4) + 0.5
        >>> bool((log_chromaticity(image) - log_chromaticity(3 * image)).abs().max() < 3e-3)
        True
    """
    if len(image) != 3:
        raise ValueError(f"image must have three channels: got {len(image)}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1]: got {alpha}")
    red, green, blue = (image.clamp_min(0) + TINY).log()
    return (green - alpha * blue - (1 - alpha) * red)[None]


def census(image: Image, *, radius: int = 2) -> Float[Tensor, "d h w"]:
    """Whether each neighbour is brighter, 0 or 1: the same under any rising map of brightness.

    Squared differences of two such maps are Hamming distances.

    Args:
        image: its channels are averaged first.
        radius: of the square of neighbours, at least 1; $(2 r + 1)^2 - 1$ channels come out.

    Zabih and Woodfill, 1994 (ECCV).

    Raises:
        ValueError: for a radius below 1.

    Example:
        >>> image = torch.rand(1, 5, 5)
        >>> torch.equal(census(image), census(image**3)), census(image, radius=1).shape
        (True, torch.Size([8, 5, 5]))
    """
    if radius < 1:
        raise ValueError(f"radius must be at least 1: got {radius}")
    grey = image.mean(0)
    side = 2 * radius + 1
    padded = F.pad(grey[None, None], (radius,) * 4, mode="replicate")[0, 0]
    around = padded.unfold(0, side, 1).unfold(1, side, 1).flatten(2).permute(2, 0, 1)
    others = torch.arange(side * side) != side * side // 2
    return (around[others] > grey).to(image.dtype)


def local_contrast_normalize(image: Image, sigma: float = 3.0) -> Image:
    r"""$(x - \mu) / (s + 0.001)$ with mean and deviation under a Gaussian, channel by channel.

    Args:
        image: in [0, 1].
        sigma: of the Gaussian, in pixels, positive.

    Raises:
        ValueError: for a sigma that is not positive.

    Example:
        >>> image = torch.rand(1, 16, 16)
        >>> one, two = local_contrast_normalize(image), local_contrast_normalize(0.5 * image + 0.3)
        >>> bool((one - two).abs().max() < 0.05)
        True
    """
    mean = _blurred(image, sigma)
    return (image - mean) / (_blurred((image - mean).square(), sigma).sqrt() + TINY)


def self_quotient(image: Image, sigma: float = 3.0) -> Image:
    r"""$x / (G_\sigma * x)$: what is left when smooth shading is divided out.

    Args:
        image: not negative; 0.001 is added to both.
        sigma: of the Gaussian, in pixels, positive.

    Wang et al., 2004, the self quotient image.

    Differs from the paper: a plain Gaussian for one that is weighted at edges.

    Raises:
        ValueError: for a sigma that is not positive.

    Example:
        >>> self_quotient(torch.full((1, 6, 6), 0.4)).unique().round(decimals=4).tolist()
        [1.0]
    """
    return (image + TINY) / (_blurred(image, sigma) + TINY)


def gradient_orientation(image: Image) -> Float[Tensor, "2 h w"]:
    r"""$\nabla x / (|\nabla x| + 0.001)$ of the mean over channels, by central differences.

    Args:
        image: in [0, 1].

    Example:
        >>> ramp = torch.arange(5.0).expand(1, 5, 5)
        >>> gradient_orientation(ramp)[:, 2, 2].round(decimals=2).tolist()
        [0.0, 1.0]
    """
    padded = F.pad(image.mean(0)[None, None], (1,) * 4, mode="replicate")[0, 0]
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    both = torch.stack([down, across])
    return both / (both.norm(dim=0) + TINY)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Under a Gaussian of 3 sigmas to each side, borders repeated."""
    if not sigma > 0:
        raise ValueError(f"sigma must be positive: got {sigma}")
    reach = max(1, round(3 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=image.dtype)
    kernel = (-at.square() / (2 * sigma**2)).exp()
    kernel = kernel / kernel.sum()
    x = F.pad(image[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]
