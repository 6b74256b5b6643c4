"""Structural similarity as a training loss, at one scale and at several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.metrics.ssim import WEIGHTS, check_images, check_range, gaussian, multiscale, ssim_maps

from .reduction import check_reduction, reduce


class SSIMLoss(nn.Module):
    r"""One minus structural similarity, $1 - \mathrm{SSIM}(x, y)$, in [0, 2].

    Args:
        window: height and width of the window in pixels.
        sigma: standard deviation of the Gaussian window in pixels; None weighs all pixels of it alike.
        stride: pixels from one window to the next.
        data_range: width of the range that images live in; positive.
        k: the two constants of `assay.metrics.ssim`.
        reduction: "mean", "sum" or "none" over the images of a batch.

    Called with `(output, target)`, both (n, c, h, w) with c channels compared one by one.

    An output far outside the range can score well by having both factors negative: bound it (a sigmoid).

    The paper: Wang et al. (IEEE TIP 2004), equation 13; as an objective Snell et al. (2015, arXiv:1511.06409).

    Warns:
        UserWarning: for targets that leave [0, data_range] by more than a tenth of it (seen on a CPU only); an output
            may do so while it learns.

    Raises:
        ValueError: for arguments out of range, different shapes, images smaller than the window, entries that are not
            finite.
        TypeError: for images that are not real numbers.

    Example:
        >>> target = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> SSIMLoss()(target, target).item(), round(SSIMLoss()(1 - target, target).item(), 2)
        (0.0, 1.9...)
    """

    def __init__(
        self,
        *,
        window: int = 11,
        sigma: float | None = 1.5,
        stride: int = 1,
        data_range: float = 1.0,
        k: tuple[float, float] = (0.01, 0.03),
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if window < 1 or stride < 1:
            raise ValueError(f"window and stride must be at least 1: got {window} and {stride}")
        if sigma is not None and not sigma > 0:
            raise ValueError(f"sigma must be positive, or None: got {sigma}")
        if not data_range > 0:
            raise ValueError(f"data_range must be positive: got {data_range}")
        if not min(k) > 0:
            raise ValueError(f"k must be positive: got {k}")
        self.window, self.stride, self.data_range, self.k = window, stride, data_range, k
        self.reduction = check_reduction(reduction)
        self.register_buffer("weights", gaussian(window, sigma, dtype=torch.float64), persistent=False)

    def forward(self, output: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]) -> Float[Tensor, "..."]:
        _check(output, target, self.data_range)
        if min(output.shape[2:]) < self.window:
            raise ValueError(
                f"output must be at least as large as the window, {self.window}: got {tuple(output.shape[2:])}"
            )
        luminance, structure = ssim_maps(
            output, target, self.weights, stride=self.stride, data_range=self.data_range, k=self.k
        )
        values = 1 - (luminance * structure).flatten(1).mean(1)
        return reduce(values, self.reduction).to(output.dtype)


class MSSSIMLoss(nn.Module):
    r"""One minus multiscale structural similarity, $1 - \mathrm{MS\text{-}SSIM}(x, y)$, in [0, 2].

    Args:
        weights: exponents of the scales, finest first, positive.
        window: height and width of the window in pixels, at every scale.
        sigma: standard deviation of the Gaussian window in pixels; None weighs all pixels of it alike.
        data_range: width of the range that images live in; positive.
        k: the two constants of `assay.metrics.ssim`.
        shrink: use as many scales as the images have room for; False refuses images too small for all.
        reduction: "mean", "sum" or "none" over the images of a batch.

    Called with `(output, target)`, both (n, c, h, w). Value and gradient are those of `assay.metrics.ms_ssim`: also
    where output and target are each other's negatives, and the formula has no value, the gradient leads out.

    The paper: Snell, Ridgeway, Liao, Roads, Mozer, Zemel (2015, arXiv:1511.06409), section 2.1.

    Warns:
        UserWarning: for targets that leave [0, data_range] by more than a tenth of it (seen on a CPU only); an output
            may do so while it learns.

    Raises:
        ValueError: for arguments out of range, different shapes, images that are too small, entries that are not
            finite.
        TypeError: for images that are not real numbers.

    Example:
        >>> target = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0))
        >>> output = (1 - target).requires_grad_()
        >>> loss = MSSSIMLoss()(output, target)
        >>> loss.backward()
        >>> loss.item() > 1.8, ((output.grad * (target - output)).sum() < -0.1).item()  # downhill is towards the target
        (True, True)
    """

    def __init__(
        self,
        *,
        weights: Sequence[float] = WEIGHTS,
        window: int = 11,
        sigma: float | None = 1.5,
        data_range: float = 1.0,
        k: tuple[float, float] = (0.01, 0.03),
        shrink: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if not weights or not min(weights) > 0:
            raise ValueError(f"weights must be positive, one a scale: got {tuple(weights)}")
        if window < 1:
            raise ValueError(f"window must be at least 1: got {window}")
        if sigma is not None and not sigma > 0:
            raise ValueError(f"sigma must be positive, or None: got {sigma}")
        if not data_range > 0:
            raise ValueError(f"data_range must be positive: got {data_range}")
        if not min(k) > 0:
            raise ValueError(f"k must be positive: got {k}")
        self.weights, self.window, self.sigma, self.shrink = tuple(weights), window, sigma, shrink
        self.data_range, self.k = data_range, k
        self.reduction = check_reduction(reduction)

    def forward(self, output: Float[Tensor, "n c h w"], target: Float[Tensor, "n c h w"]) -> Float[Tensor, "..."]:
        _check(output, target, self.data_range)
        values = multiscale(
            output,
            target,
            weights=self.weights,
            window=self.window,
            sigma=self.sigma,
            data_range=self.data_range,
            k=self.k,
            shrink=self.shrink,
        )
        return reduce(1 - values, self.reduction)


def _check(output: Tensor, target: Tensor, data_range: float) -> None:
    check_images(output, target, data_range, ("output", "target"))
    check_range(target, target, data_range, ("target", "target"))
