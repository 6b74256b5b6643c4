"""The structure tensor: in which direction, and how much, an image changes around each pixel."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def structure_tensor(guide: Tensor, *, sigma: float = 0.7, rho: float = 1.0) -> Float[Tensor, "3 ... h w"]:
    r"""$J_\rho = G_\rho * \sum_c \nabla g_c \nabla g_c^\top$ with $g = G_\sigma * \mathrm{guide}$.

    Gradients are central differences. Blurs and differences see the image mirrored at its border.

    Args:
        guide: (h, w), or (..., c, h, w) whose c channels are summed over.
        sigma: standard deviation of the blur before the derivative, in pixels, at least 0.
        rho: of the blur after the products, the same.

    Returns:
        $J_{11}, J_{12}, J_{22}$ at each pixel, the first axis of space being that of the columns (x), the second of
        the rows (y): (3, h, w), or (3, ..., h, w) without the channels.

    Weickert, "Anisotropic Diffusion in Image Processing", 1998, section 2.2; the sum over channels is Di
    Zenzo's, 1986.

    Raises:
        ValueError: for a sigma or rho below 0, values that are not finite, an image below 2 x 2.
        TypeError: for a guide that is not floating point.

    Example:
        >>> ramp = torch.arange(4.0).expand(3, 4)  # one unit a column
        >>> structure_tensor(ramp, sigma=0.0, rho=0.0)[:, 1]
        tensor([[0.2500, 1.0000, 1.0000, 0.2500],
                [0.0000, 0.0000, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.0000, 0.0000]])
    """
    if not guide.is_floating_point():
        raise TypeError(f"guide must be floating point: got {guide.dtype}")
    if guide.ndim < 2 or min(guide.shape[-2:]) < 2:
        raise ValueError(f"guide must be at least 2 x 2: got shape {tuple(guide.shape)}")
    if not bool(torch.isfinite(guide).all()):
        raise ValueError("guide must be finite: got NaN or infinity")
    for name, value in (("sigma", sigma), ("rho", rho)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 0: got {value}")
    smooth = gaussian_blur(guide, sigma)
    x, y = central_difference(smooth, -1), central_difference(smooth, -2)
    products = torch.stack([x * x, x * y, y * y])
    return gaussian_blur(products.sum(-3) if guide.ndim > 2 else products, rho)


def gaussian_blur(x: Float[Tensor, "... h w"], sigma: float) -> Float[Tensor, "... h w"]:
    """Blurred along both axes of space by a Gaussian cut off at four sigma; the image is mirrored at its border."""
    reach = math.ceil(4 * sigma)
    if reach == 0:
        return x
    offset = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weights = torch.softmax(-offset.square() / (2 * sigma**2), 0)
    for axis in (-1, -2):
        size = x.shape[axis]
        index = torch.arange(-reach, size + reach, device=x.device) % (2 * size)
        padded = x.index_select(axis, torch.minimum(index, 2 * size - 1 - index))
        x = sum(w * padded.narrow(axis, k, size) for k, w in enumerate(weights))
    return x


def central_difference(x: Float[Tensor, "... h w"], axis: int) -> Float[Tensor, "... h w"]:
    """Half the difference of both neighbours, the image being mirrored at its border."""
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, -1, 1)
    wide = torch.cat([first, x, last], dim=axis)
    return (wide.narrow(axis, 2, x.shape[axis]) - wide.narrow(axis, 0, x.shape[axis])) / 2
