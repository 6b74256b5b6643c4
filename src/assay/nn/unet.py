"""A small U-Net, from images to images of the same size."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    r"""Down by max pooling, up by bilinear interpolation, with what was seen on the way down laid beside it.

    Each level is two 3 x 3 convolutions with batch norm and ReLU; channels double from level to level; a 1 x 1
    convolution makes the output.

    Args:
        in_channels: of the input, at least 1.
        out_channels: of the output, at least 1.
        width: channels of the finest level, at least 1.
        levels: how often the image is halved, at least 1.

    Ronneberger et al., 2015 (arXiv:1505.04597), figure 1.

    Differs from the paper: padded convolutions, so that sizes are kept; batch norm; interpolation for transposed
    convolutions.

    Raises:
        ValueError: for arguments below 1; when called, for images with a side below $2^{levels}$.

    Example:
        >>> UNet(3, 2, width=4, levels=2)(torch.zeros(1, 3, 9, 14)).shape
        torch.Size([1, 2, 9, 14])
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1, *, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        for name, value in (
            ("in_channels", in_channels), ("out_channels", out_channels), ("width", width), ("levels", levels)
        ):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        self.levels = levels
        widths = [width * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise([in_channels, *widths]))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in reversed(list(pairwise(widths))))
        self.head = nn.Conv2d(width, out_channels, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        if min(x.shape[2:]) < 2**self.levels:
            raise ValueError(f"images must have sides of at least {2**self.levels}: got {tuple(x.shape[2:])}")
        seen = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else F.max_pool2d(x, 2))
            seen.append(x)
        for block, beside in zip(self.up, reversed(seen[:-1]), strict=True):
            x = F.interpolate(x, size=beside.shape[2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([beside, x], 1))
        return self.head(x)


def _block(a: int, b: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (a, b):
        layers += [nn.Conv2d(channels, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers)
