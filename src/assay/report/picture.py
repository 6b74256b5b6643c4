"""Arrays as pictures: PNG written with zlib alone, inlined as `data:` URIs."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from assay.report.svg import element
from assay.report.wording import number

Array = NDArray[Any]

LADDER = ((26, 30, 60), (37, 78, 120), (63, 127, 138), (122, 168, 121), (205, 196, 104), (250, 232, 160))
"""Dark to light in even steps of lightness, readable without telling red from green."""
SIDES = ((20, 76, 140), (112, 160, 208), (244, 242, 236), (226, 150, 106), (150, 56, 10))
"""Blue for negative, near-white for zero, orange for positive."""
LARGEST = 320
TILES = 16


def png(pixels: Array) -> bytes:
    """A PNG of `(h, w)` or `(h, w, 3)` bytes.

    >>> png(np.zeros((2, 3), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels, np.uint8).reshape(height, -1)
    raw = np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(raw, 9)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def montage(array: Array) -> Array:
    """`(h, w)` as it is, `(3, h, w)` and `(h, w, 3)` as color, other stacks layer beside layer."""
    if array.ndim == 2:
        return array
    if array.shape[0] == 3:
        return np.moveaxis(array, 0, -1)
    if array.shape[-1] == 3 and array.shape[0] > TILES:
        return array
    layers = array[:TILES]
    across = math.ceil(math.sqrt(len(layers)))
    down = math.ceil(len(layers) / across)
    height, width = layers.shape[1:]
    sheet = np.full((down * (height + 1) - 1, across * (width + 1) - 1), np.nan)
    for index, layer in enumerate(layers):
        y, x = (index // across) * (height + 1), (index % across) * (width + 1)
        sheet[y : y + height, x : x + width] = layer
    return sheet


def smaller(array: Array, largest: int = LARGEST) -> Array:
    """Block means, so that no side is longer than `largest`."""
    factor = math.ceil(max(array.shape[:2]) / largest)
    if factor <= 1:
        return array
    padding = [(0, -side % factor) for side in array.shape[:2]] + [(0, 0)] * (array.ndim - 2)
    padded = np.pad(array, padding, mode="edge")
    height, width = padded.shape[0] // factor, padded.shape[1] // factor
    blocks: Array = padded.reshape(height, factor, width, factor, *array.shape[2:])
    return np.asarray(blocks.mean(axis=(1, 3)))


def colored(array: Array, low: float, high: float) -> Array:
    """Numbers to bytes: gray in `[0, 1]`, two-sided colors where signs differ, else a ladder of lightness."""
    known = np.isfinite(array)
    if low >= 0 and high <= 1:
        gray = np.where(known, array, 0.5)
        return np.round(255 * np.clip(gray, 0, 1)).astype(np.uint8)
    if array.ndim == 3:
        return np.round(255 * np.clip((np.where(known, array, low) - low) / ((high - low) or 1), 0, 1)).astype(np.uint8)
    anchors: tuple[tuple[int, int, int], ...]
    if low < 0 < high:
        reach, anchors = max(-low, high), SIDES
        share = (np.where(known, array, 0) + reach) / (2 * reach)
    else:
        anchors = LADDER
        share = (np.where(known, array, low) - low) / ((high - low) or 1)
    at = np.clip(share, 0, 1) * (len(anchors) - 1)
    channels = [np.interp(at, range(len(anchors)), [anchor[c] for anchor in anchors]) for c in range(3)]
    image = np.round(np.stack(channels, axis=-1)).astype(np.uint8)
    image[~known] = 128
    return image


def picture(array: Array, title: str, *, low: float | None = None, high: float | None = None) -> Markup:
    """A 2-D or 3-D array as a captioned picture.

    Args:
        array: `(h, w)`, `(c, h, w)` or a stack `(n, h, w)`; NaN is drawn gray.
        title: what it shows.
        low: value of the lower end of the colors; the smallest one by default.
        high: value of the upper end; the largest one by default.

    Raises:
        ValueError: the array has neither two nor three axes, or one of them is empty.
    """
    array = np.asarray(array, dtype=np.float64)
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(f"array: shape {array.shape} is no picture; two or three axes, none empty, are allowed")
    finite = array[np.isfinite(array)]
    low = float(finite.min()) if low is None and finite.size else low or 0.0
    high = float(finite.max()) if high is None and finite.size else high or 0.0
    with np.errstate(invalid="ignore"):
        image = colored(smaller(montage(array)), low, high)
    height, width = image.shape[:2]
    scale = "0 to 1" if low >= 0 and high <= 1 else f"{number(low)} to {number(high)}"
    shape = " \u00d7 ".join(str(side) for side in array.shape)
    data = "data:image/png;base64," + base64.b64encode(png(image)).decode()
    label = f"{title}: {shape}, values {scale}"
    crisp = "crisp" if max(height, width) < 128 else None
    return element(
        "figure",
        element("img", src=data, width=width, height=height, alt=label, class_=crisp),
        element("figcaption", element("b", title), f" {shape}, {scale}"),
        class_="picture",
    )
