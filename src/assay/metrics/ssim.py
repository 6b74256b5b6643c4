"""Structural similarity of images, at one scale (SSIM) and at several (MS-SSIM); both differentiable."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang et al., 2003)."""

SMALL_WINDOW = 7
"""The window for images that are smaller than the one asked for."""


def ssim(
    x: Float[Tensor, "n c h w"],
    y: Float[Tensor, "n c h w"],
    *,
    window: int = 11,
    sigma: float | None = 1.5,
    stride: int = 1,
    data_range: float = 1.0,
    k: tuple[float, float] = (0.01, 0.03),
    padding: str = "valid",
) -> Float[Tensor, " n"]:
    r"""Structural similarity of each pair of images, the mean over windows and channels of

    $$\frac{2\mu_x\mu_y + C_1}{\mu_x^2 + \mu_y^2 + C_1} \cdot \frac{2 s_{xy} + C_2}{s_x^2 + s_y^2 + C_2},
    \qquad C_i = (k_i L)^2,$$

    with the means $\mu$, variances $s^2$ and the covariance $s_{xy}$ weighted by the window (no $n - 1$). It is 1 for
    equal images, symmetric, differentiable (twice), and negative for images that are each other's negatives.

    Args:
        x: images, finite; channels are compared one by one.
        y: images of the same shape.
        window: height and width of the window in pixels, at least 1.
        sigma: standard deviation of the Gaussian window in pixels, positive; None weighs all pixels of it alike.
        stride: pixels from one window to the next, at least 1.
        data_range: $L$, the width of the range that images live in; positive.
        k: the two constants that keep the fractions tame, positive.
        padding: "valid" looks at windows that lie within the image; "same" mirrors the image at its edges first, so
            that there is a window around every pixel (of every `stride`-th row and column).

    The paper: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment" (IEEE TIP 2004), equations 6-13.

    Warns:
        UserWarning: for images that leave [0, data_range] by more than a tenth of it (seen on a CPU only).

    Raises:
        ValueError: for different shapes, no images, a window larger than the image (or even, with "same"), arguments
            out of range, entries that are not finite (seen on a CPU only).
        TypeError: for images that are not real numbers.

    Example:
        >>> x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> ssim(torch.stack([x[0], x[0]]), torch.stack([x[0], 1 - x[0]])).tolist()
        [1.0..., -0.97...]
        >>> flat = torch.full((1, 1, 11, 11), 0.5).double()  # flat images have only the first factor
        >>> value = (2 * 0.5 * 0.25 + 0.01**2) / (0.5**2 + 0.25**2 + 0.01**2)
        >>> abs(ssim(flat, flat / 2).item() - value) < 1e-9
        True
    """
    check_images(x, y, data_range)
    check_range(x, y, data_range)
    _check_window(window, sigma, k)
    if stride < 1:
        raise ValueError(f"stride must be at least 1: got {stride}")
    if padding not in ("valid", "same"):
        raise ValueError(f"padding must be 'valid' or 'same': got {padding!r}")
    if padding == "same" and window % 2 == 0:
        raise ValueError(f"window must be odd with padding='same': got {window}")
    margin = window // 2
    if min(x.shape[2:]) < (window if padding == "valid" else margin + 1):
        raise ValueError(f"window must fit into the images: got {window} for {x.shape[2]} x {x.shape[3]} pixels")
    if padding == "same":
        x, y = (F.pad(image, (margin,) * 4, mode="reflect") for image in (x, y))
    luminance, structure = ssim_maps(x, y, _weights(x, window, sigma), stride=stride, data_range=data_range, k=k)
    return (luminance * structure).flatten(1).mean(1).to(torch.promote_types(x.dtype, y.dtype))


def ms_ssim(
    x: Float[Tensor, "n c h w"],
    y: Float[Tensor, "n c h w"],
    *,
    weights: Sequence[float] = WEIGHTS,
    window: int = 11,
    sigma: float | None = 1.5,
    data_range: float = 1.0,
    k: tuple[float, float] = (0.01, 0.03),
    shrink: bool = True,
) -> Float[Tensor, " n"]:
    r"""Structural similarity over $M$ scales, each the 2 x 2 mean of the one before:

    $$\bar{v}_M^{\,w_M} \prod_{j<M} \bar{c}_j^{\,w_j},$$

    where $\bar{c}_j$ is the mean over windows of the second factor of `ssim` (contrast and structure) at scale $j$,
    and $\bar{v}_M$ that of both factors at the coarsest. Each channel has its product; the result is their mean.

    The product has no value where a mean is negative (images that are each other's negatives). There the result is
    $\sum_{j:\,\bar{c}_j < 0} w_j \bar{c}_j$: it meets the product at zero, equals `ssim` when there is one scale, is
    not below $-\sum_j w_j$, and its gradient leads out.

    Args:
        x: images, finite; channels are compared one by one.
        y: images of the same shape.
        weights: $w_1, ..., w_M$, finest scale first, positive; their number is that of the scales.
        window: height and width of the Gaussian window in pixels, at every scale.
        sigma: its standard deviation in pixels; None weighs all pixels of it alike.
        data_range: $L$, the width of the range that images live in; positive.
        k: the two constants of `ssim`.
        shrink: for images too small for all the scales use as many as they have room for, with the first weights scaled
            to sum to one (and, for images smaller than `window`, a window of 7). False refuses such images.

    The paper: Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment" (2003),
    equation 7; the training objective of Snell et al. (2015, arXiv:1511.06409).

    Differs from the paper: its equation is of single pixels of a window; here, as in its authors' code, means over
    windows are taken before the powers. Other implementations clamp negative means at zero, which ends training there:
    the gradient is zero as well.

    Warns:
        UserWarning: for images that leave [0, data_range] by more than a tenth of it (seen on a CPU only).

    Raises:
        ValueError: for different shapes, no images, images too small, arguments out of range, entries that are not
            finite (seen on a CPU only).
        TypeError: for images that are not real numbers.

    Example:
        >>> x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> one, two = ms_ssim(x, x.sqrt(), weights=(1.0,)), ms_ssim(x, x.sqrt())  # room for three scales
        >>> torch.allclose(one, ssim(x, x.sqrt())), round(one.item(), 3), round(two.item(), 3)
        (True, 0.9..., 0.9...)
        >>> round(ms_ssim(x, 1 - x).item(), 2)
        -0.89
    """
    check_images(x, y, data_range)
    check_range(x, y, data_range)
    return multiscale(x, y, weights=weights, window=window, sigma=sigma, data_range=data_range, k=k, shrink=shrink)


def multiscale(
    x: Tensor,
    y: Tensor,
    *,
    weights: Sequence[float],
    window: int,
    sigma: float | None,
    data_range: float,
    k: tuple[float, float],
    shrink: bool,
) -> Tensor:
    """`ms_ssim` of images that have been checked."""
    _check_window(window, sigma, k)
    if not weights or not all(math.isfinite(w) and w > 0 for w in weights):
        raise ValueError(f"weights must be positive, one a scale: got {tuple(weights)}")
    side = min(x.shape[2:])
    if shrink and side < window:
        window = min(window, SMALL_WINDOW)
    room = 0
    while room < len(weights) and side >> room >= window:
        room += 1
    if room == 0 or (room < len(weights) and not shrink):
        asked = f"{len(weights)} scales of a window of {window}" if not shrink else f"a window of {window}"
        raise ValueError(f"images must have room for {asked}: got {x.shape[2]} x {x.shape[3]} pixels")
    if room < len(weights):
        weights = [w / math.fsum(weights[:room]) for w in weights[:room]]

    dtype = torch.promote_types(x.dtype, y.dtype)
    filter_ = _weights(x, window, sigma)
    means = []
    for scale in range(room):
        luminance, structure = ssim_maps(x, y, filter_, data_range=data_range, k=k)
        last = scale == room - 1
        means.append((luminance * structure if last else structure).flatten(2).mean(2))
        if not last:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    if room == 1 and weights[0] == 1:
        return means[0].mean(1).to(dtype)
    mean = torch.stack(means)
    power = mean.new_tensor(weights).view(-1, 1, 1)
    product = (mean.clamp_min(1e-6) ** power).prod(0)
    below = (mean.clamp_max(0.0) * power).sum(0)
    return torch.where((mean < 0).any(0), below, product).mean(1).to(dtype)


def ssim_maps(
    x: Float[Tensor, "n c h w"],
    y: Float[Tensor, "n c h w"],
    weights: Float[Tensor, " k"],
    *,
    stride: int = 1,
    margin: int = 0,
    data_range: float = 1.0,
    k: tuple[float, float] = (0.01, 0.03),
) -> tuple[Float[Tensor, "n c p q"], Float[Tensor, "n c p q"]]:
    """The two factors of structural similarity in each window: luminance, and contrast with structure.

    Means and second moments go through one convolution down and one across. The two variances are needed as their sum
    alone, so that four fields are filtered, not five.

    Args:
        x: images.
        y: images of the same shape.
        weights: the window along one axis, summing to one; the window is its product with itself.
        stride: pixels from one window to the next.
        margin: rows and columns of zeros put around the images.
        data_range: width of the range that images live in.
        k: the two constants.

    Example:
        >>> x = torch.arange(16.0).reshape(1, 1, 4, 4) / 16
        >>> luminance, structure = ssim_maps(x, 1 - x, torch.full((2,), 0.5), stride=2)
        >>> luminance.shape, structure.min() < -0.9
        (torch.Size([1, 1, 2, 2]), tensor(True))
    """
    c1, c2 = ((each * data_range) ** 2 for each in k)
    channels = x.shape[1]
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        # Depthwise filters run several times as fast on a CPU with the channels last in memory.
        layout = torch.channels_last if x.device.type == "cpu" else torch.contiguous_format
        x, y = (image.to(dtype).contiguous(memory_format=layout) for image in (x, y))
        fields = torch.cat([x, y, torch.addcmul(x * x, y, y), x * y], 1)
        weights = weights.to(dtype)
        down = weights.view(1, 1, -1, 1).expand(4 * channels, 1, -1, 1).contiguous(memory_format=layout)
        across = weights.view(1, 1, 1, -1).expand(4 * channels, 1, 1, -1).contiguous(memory_format=layout)
        fields = F.conv2d(fields, down, stride=(stride, 1), padding=(margin, 0), groups=4 * channels)
        fields = F.conv2d(fields, across, stride=(1, stride), padding=(0, margin), groups=4 * channels)
        mean_x, mean_y, squares, product = fields.split(channels, 1)
        both = mean_x * mean_y
        power = torch.addcmul(mean_x * mean_x, mean_y, mean_y)
        luminance = (2 * both + c1) / (power + c1)
        structure = (2 * (product - both) + c2) / (squares - power + c2)
    return luminance, structure


def gaussian(window: int, sigma: float | None, *, dtype: torch.dtype = torch.float32) -> Float[Tensor, " window"]:
    """A window along one axis, centred, summing to one; uniform when `sigma` is None."""
    places = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    values = torch.ones_like(places) if sigma is None else torch.exp(-places.square() / (2 * sigma**2))
    return (values / values.sum()).to(dtype)


def check_images(x: Tensor, y: Tensor, data_range: float, names: tuple[str, str] = ("x", "y")) -> None:
    """Refuse what cannot be compared as two batches of images."""
    for name, image in zip(names, (x, y), strict=True):
        if not image.is_floating_point():
            raise TypeError(f"{name} must be real numbers: got {str(image.dtype).removeprefix('torch.')}")
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(
            f"{names[0]} and {names[1]} must be (n, c, h, w), the same: got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if x.numel() == 0:
        raise ValueError(f"{names[0]} must have entries: got shape {tuple(x.shape)}")
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range must be positive and finite: got {data_range}")
    for name, image in zip(names, (x, y), strict=True):
        if _readable(image) and not image.detach().sum().isfinite() and not image.isfinite().all():
            raise ValueError(f"{name} must be finite: got NaN or infinity")


def check_range(x: Tensor, y: Tensor, data_range: float, names: tuple[str, str] = ("x", "y")) -> None:
    """Warn of images that lie well outside the range that they are said to live in."""
    for name, image in zip(names, (x, y), strict=True):
        if _readable(image):
            low, high = (float(end) for end in image.detach().aminmax())
            if low < -0.1 * data_range or high > 1.1 * data_range:
                message = f"{name} should lie in [0, data_range = {data_range}]: got [{low:.4g}, {high:.4g}]"
                warnings.warn(message, stacklevel=3)


def _readable(image: Tensor) -> bool:
    """Values are looked at where that neither waits for an accelerator nor breaks a compiled graph."""
    return image.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_window(window: int, sigma: float | None, k: tuple[float, float]) -> None:
    if window < 1:
        raise ValueError(f"window must be at least 1: got {window}")
    if sigma is not None and not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be positive and finite, or None: got {sigma}")
    if len(k) != 2 or not all(math.isfinite(each) and each > 0 for each in k):
        raise ValueError(f"k must be two positive numbers: got {k}")


def _weights(x: Tensor, window: int, sigma: float | None) -> Tensor:
    return gaussian(window, sigma, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.device)
