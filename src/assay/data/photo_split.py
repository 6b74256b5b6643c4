"""The shipped photographs, split by picture into those to learn from and those to judge by."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from .photos import SIZE, photos

TEST = ("camera", "chelsea", "coffee")
"""Photographs that nothing is trained on, whatever the seed."""

VALIDATION = ("astronaut", "brick")
"""Photographs of the training part that stand in for the test part while something is tuned."""


def photo_split(
    *, size: int = SIZE, color: bool = True, validate: bool = False
) -> tuple[dict[str, Float[Tensor, "c size size"]], dict[str, Float[Tensor, "c size size"]]]:
    """Nine photographs to learn from and three to judge by: no patch of one part is of a picture of the other.

    Args:
        size: height and width in pixels, 1 to 256.
        color: three channels, or one (see `photos`).
        validate: for tuning. True keeps the test photographs out and hands back two of the training part in their
            place, which then leaves seven to learn from.

    Raises:
        ValueError: for a size out of range.

    Example:
        >>> train, test = photo_split(size=32)
        >>> len(train), list(test)
        (9, ['camera', 'chelsea', 'coffee'])
        >>> train, held = photo_split(size=32, validate=True)
        >>> len(train), list(held)
        (7, ['astronaut', 'brick'])
    """
    there = photos(size=size, color=color)
    judged = VALIDATION if validate else TEST
    kept_out = {*TEST, *judged}
    return {n: p for n, p in there.items() if n not in kept_out}, {n: there[n] for n in judged}
