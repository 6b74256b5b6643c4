"""A residual network small enough for two cores (He et al., 2015, arXiv:1512.03385, section 4.2 with n = 1)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .shapes import check_shape, check_widths


class BasicBlock(nn.Module):
    r"""$y = \mathrm{relu}(x' + \mathrm{BN}(W_2 * \mathrm{relu}(\mathrm{BN}(W_1 * x))))$, convolutions 3 x 3.

    They have no bias. $x'$ is $x$ where the shapes agree, and otherwise $\mathrm{BN}(W_s * x)$ with a 1 x 1
    convolution of the same stride (option B of the paper).

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: of the first convolution and of the shortcut.

    Example:
        >>> import torch
        >>> BasicBlock(16, 32, 2)(torch.zeros(1, 16, 9, 9)).shape
        torch.Size([1, 32, 5, 5])
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        inner = F.relu(self.norm1(self.conv1(x)))
        out: Tensor = self.norm2(self.conv2(inner)) + self.shortcut(x)
        return F.relu(out)


def resnet8(
    shape: tuple[int, int, int] = (1, 28, 28), num_classes: int = 10, *, widths: tuple[int, int, int] = (16, 32, 64)
) -> nn.Sequential:
    """A 3 x 3 convolution, three stages of one basic block (strides 1, 2, 2), mean pooling, one linear layer.

    The CIFAR family of the paper has 6n + 2 layers; this is n = 1. With c channels, widths (a, b, d) and k classes it
    has $9ca + 2a + (18a^2 + 4a) + (9ab + 9b^2 + ab + 6b) + (9bd + 9d^2 + bd + 6d) + (d + 1) k$ parameters (where the
    widths differ, and the first block keeps its shape).

    Differs from the paper: shortcuts that change shape are 1 x 1 convolutions (option B), not zero padding (option A).

    Args:
        shape: channels, height, width of an image.
        num_classes: logits, at least 1.
        widths: channels of the three stages.

    Raises:
        ValueError: for anything below 1, or widths that are not three.

    Example:
        >>> sum(p.numel() for p in resnet8((3, 32, 32)).parameters())
        78042
    """
    check_shape(shape, num_classes)
    check_widths(widths, count=3)
    first, second, third = widths
    return nn.Sequential(
        nn.Conv2d(shape[0], first, 3, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        BasicBlock(first, first),
        BasicBlock(first, second, stride=2),
        BasicBlock(second, third, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(third, num_classes),
    )
