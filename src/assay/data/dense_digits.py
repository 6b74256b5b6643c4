"""Handwritten digits scattered over photographs: a detection problem in which nearly everything is background."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .embedded import labelled
from .photos import patches, photos

SIDES = (12, 24)
"""Least and greatest side of a pasted digit, in pixels."""

TRIES = 20
"""Places that are tried for a digit before it is left out."""


class Scenes(NamedTuple):
    """Images and what is in them: `boxes` and `labels` row for row, filled up with label -1 and boxes of zeros.

    images (n, 1, size, size) float32 in [0, 1]; boxes (n, m, 4) int64, pixels (left, top, right, bottom), right and
    bottom being the first pixels outside; labels (n, m) int64, 0 to 9 or -1.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor


def dense_digits(
    n: int,
    *,
    size: int = 64,
    objects: tuple[int, int] = (0, 3),
    backgrounds: Mapping[str, Float[Tensor, "1 _ _"]] | Iterable[Float[Tensor, "1 _ _"]] | None = None,
    part: Literal["train", "test"] = "train",
    generator: torch.Generator | None = None,
) -> Scenes:
    r"""Crops of photographs with a few digits pasted onto each.

    A digit of 8 x 8 pixels is magnified (bilinear) to a side of 12 to 24 pixels and laid over the background as ink:
    $(1 - c d)\, b + c d\, g$ with $d$ in [0, 1] the digit, $c$ in [0.6, 1] its contrast and $g$ a grey that differs
    from the mean $\bar b$ under it by at least 0.25. Digits do not overlap; one that finds no room is left out. Sides,
    greys, contrasts, places and digits are all drawn uniformly.

    Args:
        n: images, at least 1.
        size: their height and width in pixels, at least 24.
        objects: least and greatest number of digits an image, 0 or more.
        backgrounds: grey images (1, h, w) in [0, 1], each at least `size` high and wide; None for all shipped photos.
        part: "train" or "test": which of the shipped digits, the test writers being others.
        generator: where everything is drawn from; None is torch's global generator.

    Raises:
        ValueError: for n below 1, a size below 24, numbers of objects that make no range, another part, or backgrounds
            as `patches` says.

    Example:
        >>> grey = [torch.full((1, 64, 64), 0.5)]
        >>> scenes = dense_digits(3, objects=(1, 1), backgrounds=grey, generator=torch.Generator().manual_seed(0))
        >>> changed = scenes.images[0, 0] != 0.5
        >>> left, top, right, bottom = scenes.boxes[0, 0].tolist()
        >>> right - left == bottom - top, bool(changed[top:bottom, left:right].sum() == changed.sum() > 0)
        (True, True)
        >>> scenes.labels.shape, scenes.boxes.shape
        (torch.Size([3, 1]), torch.Size([3, 1, 4]))
    """
    fewest, most = objects
    if n < 1:
        raise ValueError(f"n must be at least 1: got {n}")
    if size < SIDES[1]:
        raise ValueError(f"size must be at least {SIDES[1]}, the side of the largest digit: got {size}")
    if not 0 <= fewest <= most:
        raise ValueError(f"objects must be a least and a greatest number, 0 or more: got {objects}")
    if part not in ("train", "test"):
        raise ValueError(f"part must be 'train' or 'test': got {part!r}")
    images = patches(photos(color=False) if backgrounds is None else backgrounds, size, n, generator=generator)
    glyphs, names = (torch.from_numpy(array.copy()) for array in labelled(f"digits-{part}"))

    counts = torch.randint(fewest, most + 1, (n,), generator=generator).tolist()
    boxes = torch.zeros(n, most, 4, dtype=torch.long)
    labels = torch.full((n, most), -1)
    for image, count, box, label in zip(images, counts, boxes, labels, strict=True):
        found = 0
        for _ in range(count):
            place = _free_place(box[:found], size, generator)
            which = int(torch.randint(len(names), (1,), generator=generator))
            grey, contrast = torch.rand(2, generator=generator).tolist()
            if place is None:
                continue
            box[found], label[found] = place, names[which]
            left, top, right, bottom = place.tolist()
            under = image[:, top:bottom, left:right]
            digit = F.interpolate(glyphs[which : which + 1] / 16, size=(bottom - top, right - left), mode="bilinear")[0]
            ink = (0.6 + 0.4 * contrast) * digit
            under += ink * (_away_from(under.mean().item(), grey) - under)
            found += 1
    return Scenes(images, boxes, labels)


def _free_place(taken: Tensor, size: int, generator: torch.Generator | None) -> Tensor | None:
    """A square of random side and place that meets none of the boxes, or None after many tries."""
    for _ in range(TRIES):
        side = int(torch.randint(SIDES[0], SIDES[1] + 1, (1,), generator=generator))
        left, top = torch.randint(size - side + 1, (2,), generator=generator).tolist()
        box = torch.tensor([left, top, left + side, top + side])
        if not ((taken[:, :2] < box[2:]) & (box[:2] < taken[:, 2:])).all(dim=1).any():
            return box
    return None


def _away_from(mean: float, uniform: float, distance: float = 0.25) -> float:
    """A uniform number in [0, 1] that keeps its distance from `mean`, from one in [0, 1] that does not."""
    low, high = max(mean - distance, 0.0), max(1.0 - (mean + distance), 0.0)
    place = uniform * (low + high)
    return place if place < low else mean + distance + place - low
