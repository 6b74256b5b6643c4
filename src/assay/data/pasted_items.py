"""Items of clothing pasted onto photographs: scenes of which it is known where the object is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from .photos import patches, photos
from .split import Labelled

CONTRAST = 0.6
"""What the background is multiplied by."""

THRESHOLD = 0.1
"""A pixel brighter than this belongs to the item."""

FRAGMENT = 8
"""Side of a piece of clutter, in pixels."""

TRIES = 16
"""Places that are tried for a piece of clutter; the one that lies least on the item is taken."""


class PastedItems(NamedTuple):
    """Scenes, row for row with the items that were pasted.

    Args:
        images: (n, 1, size, size) float32 in [0, 1].
        labels: (n,) int64.
        silhouettes: (n, 1, size, size) bool, where the item is.
    """

    images: Tensor
    labels: Tensor
    silhouettes: Tensor


def pasted_items(
    items: Labelled,
    *,
    size: int = 40,
    clutter: int = 0,
    backgrounds: Mapping[str, Float[Tensor, "1 _ _"]] | Iterable[Float[Tensor, "1 _ _"]] | None = None,
    generator: torch.Generator | None = None,
) -> PastedItems:
    r"""One scene an item: $b$ where there is no item, the item itself inside its silhouette.

    The background is a random crop of a grey photograph times 0.6. An item's silhouette is where it is brighter than
    0.1, with its holes filled; what is pasted is opaque. Where it is pasted is uniform. Clutter are squares of 8 x 8
    pixels cut from the middle of items of other labels, pasted (where brighter than 0.1) before the item is, at places
    that meet its silhouette as little as possible.

    On the black background of the items themselves black masks and removed background pixels change nothing; here they
    are seen.

    Args:
        items: inputs (n, 1, h, w) in [0, 1], targets (n,): `load("fashion").train` or part of it.
        size: height and width of a scene in pixels, at least those of an item.
        clutter: pieces a scene, 0 or more.
        backgrounds: grey images (1, h, w) in [0, 1], each at least `size` high and wide; None for all shipped photos.
        generator: where everything is drawn from; None is torch's global generator.

    Raises:
        ValueError: for no items, items that are no grey images, a size too small, negative clutter, clutter where all
            items are of one label, or backgrounds as `patches` says.

    Example:
        >>> from assay.data import load
        >>> scenes = pasted_items(load("fashion", train=10).train, generator=torch.Generator().manual_seed(0))
        >>> scenes.images.shape, scenes.labels.shape, scenes.silhouettes.dtype
        (torch.Size([10, 1, 40, 40]), torch.Size([10]), torch.bool)
        >>> outside = scenes.images[~scenes.silhouettes]
        >>> bool(outside.max() <= 0.6 < scenes.images.max())
        True
    """
    inputs, labels = items
    _check(inputs, labels, size, clutter)
    n, _, height, width = inputs.shape
    images = CONTRAST * patches(
        photos(color=False) if backgrounds is None else backgrounds, size, n, generator=generator
    )
    # Filled image by image: nothing spreads along the first two dimensions.
    cross = ndimage.generate_binary_structure(2, 1)[None, None]
    inside = torch.from_numpy(ndimage.binary_fill_holes((inputs > THRESHOLD).numpy(), cross))
    top = torch.randint(size - height + 1, (n,), generator=generator)
    left = torch.randint(size - width + 1, (n,), generator=generator)
    silhouettes = torch.zeros(images.shape, dtype=torch.bool)
    _put(silhouettes, inside, inside, top, left)
    for _ in range(clutter):
        pieces = _fragments(inputs, labels, generator)
        _put(images, pieces, pieces > THRESHOLD, *_free_places(silhouettes, generator))
    _put(images, inputs.float(), inside, top, left)
    return PastedItems(images, labels.long(), silhouettes)


def _windows(top: Tensor, left: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices (n, height, width) of rows of a batch, lines and columns."""
    rows = torch.arange(len(top))[:, None, None]
    return rows, top[:, None, None] + torch.arange(height)[:, None], left[:, None, None] + torch.arange(width)


def _put(onto: Tensor, what: Tensor, where: Tensor, top: Tensor, left: Tensor) -> None:
    """Paste (n, 1, h, w) in place, each at its own place."""
    rows, lines, columns = _windows(top, left, *what.shape[2:])
    onto[rows, 0, lines, columns] = torch.where(where[:, 0], what[:, 0], onto[rows, 0, lines, columns])


def _fragments(inputs: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:
    """A square from the middle half of an item of another label, for each item."""
    n, _, height, width = inputs.shape
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    first = (counts.cumsum(0) - counts)[labels]
    # In the order of labels the others begin where the own ones end, and go round.
    ahead = (torch.rand(n, generator=generator) * (n - counts[labels])).long()
    other = order[(first + counts[labels] + ahead) % n]
    top = height // 4 + torch.randint(height // 2 - FRAGMENT + 1, (n,), generator=generator)
    left = width // 4 + torch.randint(width // 2 - FRAGMENT + 1, (n,), generator=generator)
    _, lines, columns = _windows(top, left, FRAGMENT, FRAGMENT)
    return inputs[other[:, None, None], 0, lines, columns][:, None].float()


def _free_places(silhouettes: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Of several random squares the one that covers the least of the item."""
    n, size = len(silhouettes), silhouettes.shape[-1]
    places = torch.randint(size - FRAGMENT + 1, (2, n, TRIES), generator=generator)
    sums = torch.nn.functional.avg_pool2d(silhouettes.float(), FRAGMENT, stride=1)[:, 0]
    covered = sums[torch.arange(n)[:, None], places[0], places[1]]
    best = covered.argmin(dim=1, keepdim=True)
    return places[0].gather(1, best)[:, 0], places[1].gather(1, best)[:, 0]


def _check(inputs: Tensor, labels: Tensor, size: int, clutter: int) -> None:
    if inputs.ndim != 4 or inputs.shape[1] != 1 or len(inputs) == 0:
        raise ValueError(f"items must hold grey images (n, 1, h, w), at least one: got {tuple(inputs.shape)}")
    if tuple(labels.shape) != (len(inputs),):
        raise ValueError(f"items must have a label each: got {tuple(labels.shape)} for {len(inputs)}")
    if size < max(inputs.shape[2:]):
        raise ValueError(f"size must be at least {max(inputs.shape[2:])}, that of an item: got {size}")
    if clutter < 0:
        raise ValueError(f"clutter must not be negative: got {clutter}")
    if clutter and (min(inputs.shape[2:]) < 2 * FRAGMENT or bool((labels == labels[0]).all())):
        raise ValueError(f"clutter must be 0 for items of one label, or below {2 * FRAGMENT} pixels: got {clutter}")
