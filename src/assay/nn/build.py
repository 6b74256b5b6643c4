"""The shared networks by name, for settings that are text."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from .classifiers import convnet, mlp, smallcnn
from .resnet import resnet8
from .shapes import Shape
from .tinyvit import tinyvit

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
