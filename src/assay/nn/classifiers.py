"""Plain feed-forward classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from .shapes import Shape, check_shape, check_widths


def mlp(shape: Shape = (1, 28, 28), num_classes: int = 10, *, widths: Sequence[int] = (256,)) -> nn.Sequential:
    """A multilayer perceptron with ReLU between its layers.

    With d inputs, one hidden width w and k classes it has $(d + 1) w + (w + 1) k$ parameters.

    Args:
        shape: channels, height, width of an image; it is flattened.
        num_classes: logits, at least 1.
        widths: of the hidden layers, each at least 1; none makes it linear.

    Raises:
        ValueError: for a shape, width or number of classes below 1.

    Example:
        >>> sum(p.numel() for p in mlp().parameters())  # 785 * 256 + 257 * 10
        203530
    """
    check_shape(shape, num_classes)
    check_widths(widths)
    channels, height, width = shape
    sizes = (channels * height * width, *widths)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))


def convnet(
    shape: Shape = (1, 28, 28), num_classes: int = 10, *, widths: tuple[int, int, int] = (16, 32, 64)
) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with 2 x 2 max-pooling and ReLU, then two linear layers; no normalization.

    ReLU and max-pooling commute; pooling first leaves ReLU a quarter of the work.

    With c channels, widths (a, b, f), k classes and s = ⌊⌊h/2⌋/2⌋ ⌊⌊w/2⌋/2⌋ it has
    $(9c + 1) a + (9a + 1) b + (s b + 1) f + (f + 1) k$ parameters.

    Args:
        shape: channels, height, width of an image; at least 4 x 4.
        num_classes: logits, at least 1.
        widths: channels of the two convolutions, width of the hidden linear layer.

    Raises:
        ValueError: for an image smaller than 4 x 4, anything below 1, or widths that are not three.

    Example:
        >>> sum(p.numel() for p in convnet().parameters())
        105866
        >>> sum(p.numel() for p in convnet(widths=(4, 8, 16)).parameters())
        6794
    """
    check_shape(shape, num_classes, smallest=4)
    check_widths(widths, count=3)
    channels, height, width = shape
    first, second, hidden = widths
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * (height // 4) * (width // 4), hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )


def smallcnn(
    shape: Shape = (1, 28, 28), num_classes: int = 10, *, widths: Sequence[int] = (16, 32, 64)
) -> nn.Sequential:
    """3 x 3 convolutions of stride 2, batch normalization and ReLU after each, mean pooling, one linear layer.

    The convolutions have no bias, which the normalization would cancel. With c channels, widths (a, b, d) and k classes
    it has $9ca + 9ab + 9bd + 2(a + b + d) + (d + 1) k$ parameters.

    Args:
        shape: channels, height, width of an image.
        num_classes: logits, at least 1.
        widths: channels of the convolutions, one or more.

    Raises:
        ValueError: for anything below 1, or no widths.

    Example:
        >>> sum(p.numel() for p in smallcnn().parameters())
        24058
    """
    check_shape(shape, num_classes)
    check_widths(widths)
    if not widths:
        raise ValueError("widths must name at least one convolution: got none")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise((shape[0], *widths)):
        layers += [
            nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))
