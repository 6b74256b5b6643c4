"""The arrays that ship inside the package, read without unpickling anything."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]


@cache
def arrays(name: str) -> dict[str, NDArray[Any]]:
    """Everything in `files/<name>.npz`, read once a process and locked against writing.

    Args:
        name: stem of a shipped file: `digits-train`, `digits-test`, `fashion-train`, `fashion-test` (each with `images`
            (n, 1, h, w) and `targets` (n,), uint8) or `photos` (one (c, 256, 256) uint8 array a photograph).

    Raises:
        FileNotFoundError: when no such file ships.

    Example:
        >>> arrays("digits-train")["images"][0, 0, :2]  # the first zero, ink from 0 to 16
        array([[ 0,  0,  5, 13,  9,  1,  0,  0],
               [ 0,  0, 13, 15, 10, 15,  5,  0]], dtype=uint8)
    """
    path = resources.files(__package__).joinpath("files", f"{name}.npz")
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        loaded = {key: stored[key] for key in stored.files}
    for array in loaded.values():
        array.flags.writeable = False
    return loaded


def labelled(name: str) -> tuple[Array, Array]:
    """Images (n, 1, h, w) and targets (n,) of one shipped part, uint8 both.

    Example:
        >>> images, targets = labelled("fashion-train")
        >>> images.shape, targets[:10]
        ((12000, 1, 28, 28), array([9, 0, 0, 3, 0, 2, 7, 2, 5, 5], dtype=uint8))
    """
    stored = arrays(name)
    return stored["images"], stored["targets"]
