"""Natural images that ship with the package, and random patches of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from .embedded import Array, arrays

SIZE = 256
"""Height and width of a shipped photograph, in pixels."""

LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in a grey image (ITU-R BT.709)."""


def area_weights(source: int, target: int) -> NDArray[np.float64]:
    r"""The (target, source) matrix that averages a line of `source` pixels down to `target` pixels by area.

    $W_{ij} = \frac{t}{s}\,|[i \tfrac{s}{t}, (i+1)\tfrac{s}{t}] \cap [j, j+1]|$: each target pixel is the mean of
    what it covers. The rows sum to one.

    Args:
        source: pixels there are, at least `target`.
        target: pixels wanted, at least 1.

    Raises:
        ValueError: when `target` is below 1 or above `source` (that would be magnification).

    Example:
        >>> area_weights(3, 2)
        array([[0.66666667, 0.33333333, 0.        ],
               [0.        , 0.33333333, 0.66666667]])
    """
    if not 1 <= target <= source:
        raise ValueError(f"target must lie in 1..{source}, the pixels there are: got {target}")
    edges = np.arange(target + 1) * (source / target)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: NDArray[np.float64] = np.clip(overlap, 0.0, None) * (target / source)
    return weights


def photos(
    names: str | Sequence[str] | None = None, *, size: int = SIZE, color: bool = True
) -> dict[str, Float[Tensor, "c size size"]]:
    """The shipped photographs, square, as float32 in [0, 1].

    Twelve free pictures (people, animals, textures, sky, an eye; see `LICENSES.md` beside this file), cropped to their
    central square and reduced to 256 x 256 pixels by area averaging.

    Args:
        names: which ones, in this order; one name, several, or None for all in alphabetical order.
        size: height and width in pixels, 1 to 256; smaller than 256 is area-averaged once more.
        color: True gives three channels (a grey photograph three equal ones), False one: the luma
            $0.2126 R + 0.7152 G + 0.0722 B$.

    Raises:
        ValueError: for a name that is not there, a name given twice, or a size out of range.

    Example:
        >>> list(photos())
        ['astronaut', 'brick', 'camera', 'cell', 'chelsea', 'clock', 'coffee', 'grass', 'gravel', 'hubble', 'retina',
         'rocket']
        >>> cat = photos("chelsea", size=64, color=False)["chelsea"]
        >>> cat.shape, round(cat.mean().item(), 3)
        (torch.Size([1, 64, 64]), 0.452)
    """
    shipped = arrays("photos")
    wanted = sorted(shipped) if names is None else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in shipped:
            near = difflib.get_close_matches(name, shipped, n=1)
            hint = f"; nearest is {near[0]!r}" if near else ""
            raise ValueError(f"names: no photograph {name!r}{hint}; there are {', '.join(sorted(shipped))}")
    if len(set(wanted)) != len(wanted):
        raise ValueError(f"names must differ from each other: got {wanted}")
    if not 1 <= size <= SIZE:
        raise ValueError(f"size must lie in 1..{SIZE}: got {size}")
    return {name: _prepare(shipped[name], size, color) for name in wanted}


def _prepare(image: Array, size: int, color: bool) -> Tensor:
    """(c, 256, 256) uint8 to (3 or 1, size, size) float32 in [0, 1]."""
    values = image / 255.0
    if color:
        values = np.broadcast_to(values, (3, *values.shape[1:]))
    elif values.shape[0] == 3:
        values = np.tensordot(np.array(LUMA), values, axes=1)[None]
    if size != SIZE:
        weights = area_weights(SIZE, size)
        values = weights @ values @ weights.T
    return torch.from_numpy(np.array(values, dtype=np.float32)).clamp_(0.0, 1.0)


def patches(
    images: Mapping[str, Float[Tensor, "c _ _"]] | Iterable[Float[Tensor, "c _ _"]],
    size: int,
    count: int,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "count c size size"]:
    """Square patches cut out of images, every position of every image equally likely, drawn with replacement.

    Args:
        images: what `photos` returns, or any images (c, h, w); all of one c, each at least `size` high and wide.
        size: height and width of a patch in pixels, at least 1.
        count: how many, at least 1.
        generator: where the draw comes from; None is torch's global generator.

    Raises:
        ValueError: for no images, an image smaller than `size`, different numbers of channels, a count below 1.

    Example:
        >>> cut = patches(photos(["brick", "grass"]), 8, 5, generator=torch.Generator().manual_seed(0))
        >>> cut.shape
        torch.Size([5, 3, 8, 8])
        >>> ramp = torch.arange(12.0).reshape(1, 3, 4)
        >>> sorted(p[0, 0, 0].item() for p in patches([ramp], 2, 200, generator=torch.Generator().manual_seed(0)))[::40]
        [0.0, 1.0, 2.0, 4.0, 5.0]
    """
    pictures = list(images.values()) if isinstance(images, Mapping) else list(images)
    if not pictures:
        raise ValueError("images must hold at least one image: got none")
    if size < 1:
        raise ValueError(f"size must be at least 1: got {size}")
    if count < 1:
        raise ValueError(f"count must be at least 1: got {count}")
    for picture in pictures:
        if min(picture.shape[1:]) < size:
            raise ValueError(f"size must not exceed any image: got {size} for an image of {tuple(picture.shape)}")
    channels = {picture.shape[0] for picture in pictures}
    if len(channels) > 1:
        raise ValueError(f"images must all have the same number of channels: got {sorted(channels)}")

    rows = torch.tensor([picture.shape[1] - size + 1 for picture in pictures])
    columns = torch.tensor([picture.shape[2] - size + 1 for picture in pictures])
    ends = (rows * columns).cumsum(0)
    position = torch.randint(int(ends[-1]), (count,), generator=generator)
    which = torch.searchsorted(ends, position, right=True)
    within = position - (ends - rows * columns)[which]
    out = pictures[0].new_empty(count, pictures[0].shape[0], size, size)
    for index, picture in enumerate(pictures):
        chosen = (which == index).nonzero().squeeze(1)
        windows = picture.unfold(1, size, 1).unfold(2, size, 1)
        top, left = within[chosen] // columns[index], within[chosen] % columns[index]
        out[chosen] = windows[:, top, left].transpose(0, 1)
    return out
