"""Gradient magnitude similarity deviation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .ssim import check_images, check_range

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R BT.601), as the measure's authors take them."""


def gmsd(
    x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"], *, data_range: float = 1.0, c: float = 170 / 255**2
) -> Float[Tensor, " n"]:
    r"""How unevenly the edges of one image differ from those of the other; lower is better, 0 for equal images.

    $$\mathrm{std}_p\ \frac{2\,g_x(p)\,g_y(p) + c}{g_x(p)^2 + g_y(p)^2 + c},$$

    where $g$ is the length of the gradient by Prewitt filters ($\tfrac13$ of each difference of three pixels) after a
    2 x 2 mean with stride 2, with zeros around the image. The standard deviation divides by the number of pixels.

    Args:
        x: images with 1 or 3 channels, at least 4 x 4 pixels; red, green and blue become grey first.
        y: images of the same shape.
        data_range: width of the range that images live in; positive.
        c: keeps the fraction tame, positive; for images in [0, 1].

    The paper: Xue, Zhang, Mou, Bovik, "Gradient magnitude similarity deviation" (IEEE TIP 2014, arXiv:1308.3052),
    equations 1-6; c = 0.0026 there.

    Warns:
        UserWarning: for images that leave [0, data_range] by more than a tenth of it (seen on a CPU only).

    Raises:
        ValueError: for different shapes, other numbers of channels, images too small, arguments out of range, entries
            that are not finite (seen on a CPU only).
        TypeError: for images that are not real numbers.

    Example:
        >>> x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> blurred = F.avg_pool2d(x, 3, 1, 1)
        >>> gmsd(x, x).item(), round(gmsd(x, blurred).item(), 3)
        (0.0, 0.1...)
    """
    check_images(x, y, data_range)
    check_range(x, y, data_range)
    if x.shape[1] not in (1, 3):
        raise ValueError(f"x must have 1 or 3 channels: got {x.shape[1]}")
    if min(x.shape[2:]) < 4:
        raise ValueError(f"x must have at least 4 x 4 pixels: got {x.shape[2]} x {x.shape[3]}")
    if not 0 < c < float("inf"):
        raise ValueError(f"c must be positive and finite: got {c}")
    dtype = torch.promote_types(x.dtype, y.dtype)
    with torch.autocast(x.device.type, enabled=False):
        (ax, ay), (bx, by) = (_gradient(image / data_range) for image in (x, y))
        a2, b2 = ax.square() + ay.square(), bx.square() + by.square()
        # The product of two lengths, whose slope is finite also where one of them is zero.
        both = (a2 * b2).clamp_min(torch.finfo(a2.dtype).tiny).sqrt()
        similarity = ((2 * both + c) / (a2 + b2 + c)).flatten(1)
        spread = (similarity - similarity.mean(1, keepdim=True)).square().mean(1)
        flat = spread == 0
        return torch.where(flat, torch.zeros_like(spread), torch.where(flat, 1.0, spread).sqrt()).to(dtype)


def _gradient(image: Tensor) -> tuple[Tensor, Tensor]:
    """Prewitt differences across and down of the halved grey image."""
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    if image.shape[1] == 3:
        image = (image * image.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    image = F.pad(F.avg_pool2d(image, 2), (1, 1, 1, 1))
    columns = (image[..., :-2, :] + image[..., 1:-1, :] + image[..., 2:, :]) / 3
    rows = (image[..., :-2] + image[..., 1:-1] + image[..., 2:]) / 3
    return columns[..., 2:] - columns[..., :-2], rows[..., 2:, :] - rows[..., :-2, :]
