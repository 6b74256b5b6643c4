"""Curves over steps: the mean over seeds of each contender, with a band for the interval on the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy import special

from assay.report.drawing import LEFT, RIGHT, WIDTH, axis, captions, marker
from assay.report.svg import Scale, element, frame, scale_of
from assay.report.wording import number, plural

Array = NDArray[Any]

MOST_POINTS = 240


def curves(
    lines: Mapping[str, Array],
    title: str,
    *,
    name: str = "step",
    log: bool | None = None,
    level: float = 0.95,
) -> Markup:
    """Mean curves over seeds, with a band for the interval on the mean, point by point.

    Args:
        lines: label -> `(n,)`, or `(seeds, n)`; NaN is left out, point by point.
        title: what is measured.
        name: name of the horizontal axis, which counts points from 1.
        log: a logarithmic vertical axis; `None` takes one where the values call for it.
        level: level of the band.
    """
    bands = {label: _band(np.atleast_2d(np.asarray(values, np.float64)), level) for label, values in lines.items()}
    legend = 18 * len(bands)
    top, bottom = legend + 12.0, legend + 190.0
    longest = max((band.shape[1] for band in bands.values()), default=1)
    across = Scale(1.0, float(max(longest, 2)), 46.0, RIGHT - 6)
    inside = [float(v) for band in bands.values() for v in band[0]]
    up = scale_of(inside, bottom, top, log=log)
    edge = [float(v) for band in bands.values() for v in band.ravel() if up.kind == "linear" or v > up.low / 10]
    up = scale_of(edge, bottom, top, log=up.kind == "log")
    parts = [axis(across, top, bottom, name), _side(up)]
    spoken = []
    for kind, (label, band) in enumerate(bands.items()):
        picked = np.unique(np.linspace(0, band.shape[1] - 1, min(band.shape[1], MOST_POINTS)).round().astype(int))
        points = [(across(float(i + 1)), *(_clipped(up, float(band[side, i])) for side in range(3))) for i in picked]
        ending = next((float(v) for v in band[0][::-1] if math.isfinite(v)), math.nan)
        spoken.append(f"{label} ends at {number(ending)}")
        parts.append(_curve(kind, label, points))
        parts.append(element("path", d=f"M{LEFT:g} {18 * kind + 9}h26", class_=f"s{kind % 8} line l{kind % 5}"))
        parts += captions(label, f"ends at {number(ending)}", 18 * kind + 13, LEFT + 34)
    said = f"Curves over {plural(longest, name)}. " + "; ".join(spoken)
    return frame(WIDTH, bottom + 34, title, said, *parts)


def _band(values: Array, level: float) -> Array:
    """`(seeds, n)` to mean, low and high, `(3, n)`."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    spread = np.where(known, values - mean, 0) ** 2
    error = np.sqrt(spread.sum(axis=0) / np.maximum(count - 1, 1) / np.maximum(count, 1))
    half = special.stdtrit(np.maximum(count - 1, 1), 0.5 + level / 2) * error
    half = np.where(count > 1, half, np.nan)
    return np.stack([mean, mean - half, mean + half])


def _clipped(scale: Scale, value: float) -> float:
    if not math.isfinite(value):
        return math.nan
    return scale(max(value, scale.low) if scale.kind == "log" else value)


def _side(scale: Scale) -> Markup:
    ticks = [(scale(value), label) for value, label in scale.ticks()]
    parts = [element("path", d="".join(f"M46 {y:.2f}H{RIGHT:g}" for y, _ in ticks), class_="grid")]
    parts += [element("text", label, x=41, y=y + 4, text_anchor="end", class_="tick") for y, label in ticks]
    return element("g", *parts, class_="axis", data_y=scale.note)


def _curve(kind: int, label: str, points: Sequence[tuple[float, ...]]) -> Markup:
    middle = [(x, y) for x, y, _, _ in points if math.isfinite(y)]
    fenced = [(x, low, high) for x, _, low, high in points if math.isfinite(low) and math.isfinite(high)]
    parts = []
    if len(fenced) > 1:
        outline = [(x, high) for x, _, high in fenced] + [(x, low) for x, low, _ in reversed(fenced)]
        parts.append(element("path", d=_path(outline) + "Z", class_="band"))
    if len(middle) > 1:
        parts.append(element("path", d=_path(middle), class_=f"line l{kind % 5}"))
    elif middle:
        parts.append(marker(kind, *middle[0]))
    return element("g", *parts, class_=f"curve s{kind % 8}", data_label=label)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points)
