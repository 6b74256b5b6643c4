"""The network that turns an image into another at once (Johnson, Alahi, Fei-Fei, 2016, arXiv:1603.08155)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with instance norms, a ReLU between them, added to what they are given.

    Args:
        channels: of input and output.

    Example:
        >>> ResidualBlock(4)(torch.zeros(1, 4, 6, 6)).shape
        torch.Size([1, 4, 6, 6])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolution = lambda: nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")  # noqa: E731
        norm = lambda: nn.InstanceNorm2d(channels, affine=True)  # noqa: E731
        self.inner = nn.Sequential(convolution(), norm(), nn.ReLU(), convolution(), norm())

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        out: Tensor = x + self.inner(x)
        return out


class StyleTransferNet(nn.Module):
    r"""Images in [0, 1] to images in [0, 1] of the same size, in one pass.

    A 9 x 9 convolution, two of 3 x 3 with stride 2, residual blocks at a quarter of the size, two enlargements each
    followed by a 3 x 3 convolution, and a 9 x 9 one; instance norms and ReLUs between. The output is
    $(1 + \tanh) / 2$.

    Args:
        width: channels at full size (32 in the paper), twice as many at half and four times at a quarter of it.
        blocks: residual blocks (5 in the paper), at least 0.

    The paper: section 3.1 and table 1 of its supplement.

    Differs from the paper: nearest enlargement and a convolution in place of strided transposed convolutions, instance
    norms in place of batch norms, which see nothing of other images (Ulyanov et al., 2016), and the blocks are padded.

    Raises:
        ValueError: for a width below 1 or negative blocks; when called, for images whose sides 4 does not divide, or
            smaller than 16.

    Example:
        >>> StyleTransferNet(width=4, blocks=1)(torch.rand(2, 3, 20, 24)).shape
        torch.Size([2, 3, 20, 24])
    """

    def __init__(self, *, width: int = 32, blocks: int = 5) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1: got {width}")
        if blocks < 0:
            raise ValueError(f"blocks must be 0 or more: got {blocks}")

        def stage(fan_in: int, fan_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
            return [
                nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, padding_mode="reflect"),
                nn.InstanceNorm2d(fan_out, affine=True),
                nn.ReLU(),
            ]

        self.body = nn.Sequential(
            *stage(3, width, 9),
            *stage(width, 2 * width, 3, 2),
            *stage(2 * width, 4 * width, 3, 2),
            *(ResidualBlock(4 * width) for _ in range(blocks)),
            nn.Upsample(scale_factor=2),
            *stage(4 * width, 2 * width, 3),
            nn.Upsample(scale_factor=2),
            *stage(2 * width, width, 3),
            nn.Conv2d(width, 3, 9, 1, 4, padding_mode="reflect"),
        )

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        if any(side % 4 or side < 16 for side in images.shape[2:]):
            raise ValueError(f"images must have sides of 16 or more that 4 divides: got {tuple(images.shape[2:])}")
        return (1 + torch.tanh(self.body(images))) / 2
