"""Plain feed-forward classifiers, and `build`, which finds any of the shared networks by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from .resnet import resnet8
from .shapes import check_shape, check_widths
from .tinyvit import tinyvit

Shape = tuple[int, int, int]


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


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    each.__name__: each for each in (mlp, smallcnn, convnet, resnet8, tinyvit)
}


def build(name: str, shape: Shape = (1, 28, 28), num_classes: int = 10, **options: Any) -> nn.Module:
    """The shared network called `name`.

    Args:
        name: `mlp`, `smallcnn`, `convnet`, `resnet8` or `tinyvit`.
        shape: channels, height, width of an image.
        num_classes: logits.
        options: what that network's own function takes.

    Raises:
        ValueError: for an unknown name, with the nearest right spelling; or as the network's own function says.
        TypeError: for an option that the network does not have.

    Example:
        >>> build("convnet", (3, 32, 32), widths=(8, 8, 32))[0]
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
        >>> build("resnet18")
        Traceback (most recent call last):
        ValueError: name: no network 'resnet18'; nearest is 'resnet8'; there are mlp, smallcnn, convnet, ...
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(str(name).lower(), NETWORKS, n=1)
        hint = f"; nearest is {near[0]!r}" if near else ""
        raise ValueError(f"name: no network {name!r}{hint}; there are {', '.join(NETWORKS)}")
    allowed = [key for key in inspect.signature(NETWORKS[name]).parameters if key not in ("shape", "num_classes")]
    for option in options:
        if option not in allowed:
            raise TypeError(f"options: {name} has no option {option!r}; it has {', '.join(allowed)}")
    return NETWORKS[name](shape, num_classes, **options)
