"""S3IM: structural similarity of pixels that are not neighbours (Xie et al., 2023, arXiv:2308.07032)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.metrics.ssim import gaussian, ssim_maps

from .checks import check_finite

WINDOWS = ("uniform", "released")


class S3IM(nn.Module):
    r"""$1 -$ the mean structural similarity of virtual patches, put together from the pixels of a batch at random.

    The n pixels of a batch, which belong to no neighbourhood, are put into M random orders, the same for prediction and
    target (the first is that of the batch, random itself), and each order is read as an image. Windows of K x K of it
    are K^2 random pixels, whose means, variances and covariance are compared: a term that sees more than one pixel at a
    time, in addition to a squared error. It is added with a weight of 1 or so to that.

    Args:
        kernel_size: $K$, at least 1.
        stride: from one window to the next, at least 1.
        repeats: $M$, orders, at least 1.
        patch: height and width of the virtual image; their product is n. None takes the most nearly square one both of
            whose sides $K$ divides.
        window: "uniform", disjoint or overlapping windows of equal weights within each image; "released" is what the
            authors' code does: all orders side by side in one image, zeros around it, and a Gaussian (sigma 1.5) about
            the pixel number K // 2 of a window.
        generator: where the orders come from, on the pixels' device; None is torch's global generator.

    Called with (prediction, target), both (n, channels), colours in [0, 1].

    The paper: equations 5 to 7, with K = 4, stride 4, M = 10 and patches of 64 x 64.

    Raises:
        ValueError: for arguments out of range; when called, for shapes that differ, n that is not the patch's or has no
            such patch, a kernel larger than the patch, entries that are not finite.

    Example:
        >>> target = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
        >>> loss = S3IM(repeats=2, generator=torch.Generator().manual_seed(0))
        >>> shifted, mixed = target + 0.1, target[torch.randperm(64)]
        >>> loss(target, target).item() < 1e-6 < loss(shifted, target).item() < 0.2 < loss(mixed, target).item()
        True
    """

    def __init__(
        self,
        *,
        kernel_size: int = 4,
        stride: int = 4,
        repeats: int = 10,
        patch: tuple[int, int] | None = None,
        window: str = "uniform",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("kernel_size", kernel_size), ("stride", stride), ("repeats", repeats)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        if window not in WINDOWS:
            raise ValueError(f"window must be one of {', '.join(map(repr, WINDOWS))}: got {window!r}")
        if patch is not None and (len(patch) != 2 or min(patch) < kernel_size):
            raise ValueError(f"patch must be two sides of at least kernel_size = {kernel_size}: got {patch}")
        self.kernel_size, self.stride, self.repeats = kernel_size, stride, repeats
        self.patch, self.window, self.generator = patch, window, generator

    def forward(self, prediction: Float[Tensor, "..."], target: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        if prediction.ndim != 2 or prediction.shape != target.shape or not len(prediction):
            raise ValueError(
                "prediction and target must be (n, channels), the same: "
                f"got {tuple(prediction.shape)} and {tuple(target.shape)}"
            )
        check_finite(prediction=prediction, target=target)
        n, channels = prediction.shape
        height, width = self._sides(n)
        orders = [torch.arange(n, device=target.device)]
        orders += [torch.randperm(n, generator=self.generator, device=target.device) for _ in range(self.repeats - 1)]
        order = torch.cat(orders)
        dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
        if self.window == "released":
            shape, margin = (1, channels, height, width * self.repeats), (self.kernel_size - 1) // 2
            places = torch.arange(self.kernel_size, dtype=torch.float64) - self.kernel_size // 2
            weights = torch.exp(-places.square() / (2 * 1.5**2))
            weights = (weights / weights.sum()).to(dtype)
            x, y = (pixels.to(dtype)[order].T.reshape(shape) for pixels in (prediction, target))
        else:
            margin, weights = 0, gaussian(self.kernel_size, None, dtype=dtype)
            x, y = (
                pixels.to(dtype)[order].view(self.repeats, height, width, channels).permute(0, 3, 1, 2)
                for pixels in (prediction, target)
            )
        luminance, structure = ssim_maps(x, y, weights.to(x.device), stride=self.stride, margin=margin)
        return (1 - (luminance * structure).mean()).to(torch.promote_types(prediction.dtype, target.dtype))

    def _sides(self, n: int) -> tuple[int, int]:
        if self.patch is not None:
            if self.patch[0] * self.patch[1] != n:
                raise ValueError(f"prediction must have as many pixels as the patch {self.patch}: got {n}")
            return self.patch
        k = self.kernel_size
        sides = [h for h in range(k, int(n**0.5) + 1, k) if n % h == 0 and (n // h) % k == 0]
        if not sides:
            raise ValueError(f"prediction must fill a patch whose sides {k} divides: got {n} pixels")
        return sides[-1], n // sides[-1]

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, repeats={self.repeats}, patch={self.patch}, "
            f"window={self.window!r}"
        )
