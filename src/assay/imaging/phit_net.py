"""PhIT-Net: a map of an image in which plain template matching does not mind the light."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.nn import UNet


class PhITNet(nn.Module):
    r"""A U-Net whose output has mean 0 and variance 1 over each image and channel.

    $T(x) = (f(x) - \mu) / \sqrt{v + 10^{-6}}$. Without that a constant map would be invariant to everything. Train it
    with `assay.losses.PatchTripletLoss` on pairs of one scene under two lights, use it in evaluation mode.

    Args:
        in_channels: of the images.
        out_channels: of the maps.
        width: channels of the finest level.
        levels: how often images are halved.

    Kaliroff and Gilboa, 2021 (arXiv:1911.12641).

    Differs from the paper: depth, width and standardization are those of a small network, as the paper's could not be
    read.

    Raises:
        ValueError: as `assay.nn.UNet`.

    Example:
        >>> maps = PhITNet(width=4, levels=2).eval()(torch.rand(2, 3, 16, 12))
        >>> maps.shape, maps.mean((2, 3)).abs().max().item() < 1e-4
        (torch.Size([2, 1, 16, 12]), True)
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1, *, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        self.net = UNet(in_channels, out_channels, width=width, levels=levels)

    def forward(self, image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        found = self.net(image)
        spread, mean = torch.var_mean(found, (2, 3), correction=0, keepdim=True)
        return (found - mean) / (spread + 1e-6).sqrt()
