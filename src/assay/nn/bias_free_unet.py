"""A U-Net without additive constants: a noisy image twice as bright is denoised twice as bright."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .unet import UNet


class ScaleNorm(nn.Module):
    r"""$y = \gamma_c\, x / s_c$, s the standard deviation of channel c in the batch, or its running mean once trained.

    Batch normalization without what it adds and subtracts: in evaluation mode it is linear.

    Args:
        channels: at least 1.
        momentum: of the running mean.
        eps: added to the variance.

    Mohan et al., 2020 (arXiv:1906.05478), bias-free networks.

    Raises:
        ValueError: for no channels.

    Example:
        >>> norm = ScaleNorm(1)
        >>> norm(torch.tensor([[[[1.0, 3.0]]]])).flatten().tolist()  # a standard deviation of 1, and no mean removed
        [1.0, 3.0]
    """

    running_sd: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.1, eps: float = 1e-12) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1: got {channels}")
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_sd", torch.ones(channels))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        sd = self.running_sd
        if self.training:
            sd = (x.var((0, 2, 3), correction=0) + self.eps).sqrt()
            with torch.no_grad():
                self.running_sd.lerp_(sd, self.momentum)
        return x * (self.weight / sd)[:, None, None]


class BiasFreeUNet(UNet):
    r"""`UNet` with `ScaleNorm` for batch norm and no other constant: $f(cy) = c f(y)$ for $c \ge 0$, so $f(y) = J(y)y$.

    That holds in evaluation mode; in training mode the norm sees the batch.

    Args:
        channels: of the images, in and out.
        width: channels of the finest level.
        levels: how often the image is halved.

    Kadkhodaie et al., 2023 (arXiv:2310.02557), appendix A.

    Differs from the paper: interpolation for transposed convolutions, as in `UNet`.

    Raises:
        ValueError: as `UNet`.

    Example:
        >>> net = BiasFreeUNet(1, width=4, levels=2).eval()
        >>> y = torch.randn(1, 1, 8, 8)
        >>> torch.allclose(net(3 * y), 3 * net(y), atol=1e-5)
        True
    """

    def __init__(self, channels: int = 1, *, width: int = 32, levels: int = 2) -> None:
        super().__init__(channels, channels, width=width, levels=levels)
        for block in (*self.down, *self.up):
            for number, layer in enumerate(block):
                if isinstance(layer, nn.BatchNorm2d):
                    block[number] = ScaleNorm(layer.num_features)
        self.head = nn.Conv2d(width, channels, 1, bias=False)
