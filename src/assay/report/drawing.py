"""Numbers per seed, drawn: dots with the interval on their mean, forests of differences, one-line intervals, bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from assay.lab.statistics import paired_t
from assay.report.svg import Real, Scale, element, frame, scale_of
from assay.report.wording import interval, number, signed

WIDTH = 400
LEFT, RIGHT = 0.0, 400.0
ROW = 46
SHAPES = ("circle", "square", "triangle", "diamond", "cross")


@dataclass(frozen=True)
class Row:
    """One line of a dot plot: values by seed, and the interval on their mean."""

    label: str
    values: Mapping[int, Real]
    mean: Real
    low: Real
    high: Real


def mean_interval(values: Sequence[Real], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and two-sided Student interval of the finite values; infinite ends for one value, NaN for none.

    >>> mean, low, high = mean_interval([1.0, 2.0, math.nan, 3.0])
    >>> round(mean, 3), round(low, 3), round(high, 3)
    (2.0, -0.484, 4.484)
    """
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return math.nan, math.nan, math.nan
    found = paired_t(finite, level)
    return found.mean, found.low, found.high


def row(label: str, values: Mapping[int, Real], level: float = 0.95) -> Row:
    """A row with the Student interval of its own values."""
    return Row(label, values, *mean_interval(list(values.values()), level))


def marker(kind: int, x: Real, y: Real, size: Real = 4.0, **attributes: object) -> Markup:
    """A data point. Shape and color both follow from `kind`, so that neither is needed to tell two kinds apart."""
    hint = attributes.pop("hint", None)
    inside = () if hint is None else (element("title", str(hint)),)
    shape = SHAPES[kind % len(SHAPES)]
    attributes |= {"class_": f"s{kind % 8} dot"}
    if shape == "circle":
        return element("circle", *inside, cx=x, cy=y, r=size, **attributes)
    corners = {
        "square": "M-.9-.9H.9V.9H-.9Z",
        "triangle": "M0-1.1L1.1.9H-1.1Z",
        "diamond": "M0-1.2L1.2 0 0 1.2-1.2 0Z",
        "cross": "M-1-.4H-.4V-1H.4V-.4H1V.4H.4V1H-.4V.4H-1Z",
    }[shape]
    return element("path", *inside, d=corners, transform=f"translate({x:.2f} {y:.2f}) scale({size:g})", **attributes)


def axis(scale: Scale, top: Real, bottom: Real, name: str = "") -> Markup:
    """A horizontal axis: fine lines at round values, labels below."""
    ticks = [(scale(value), label) for value, label in scale.ticks()]
    parts = [element("path", d="".join(f"M{x:.2f} {top:g}V{bottom:g}" for x, _ in ticks), class_="grid")]
    for x, label in ticks:
        anchor = "start" if x < LEFT + 12 else "end" if x > RIGHT - 12 else None
        parts.append(element("text", label, x=x, y=bottom + 14, text_anchor=anchor, class_="tick"))
    if name:
        parts.append(element("text", name, x=RIGHT, y=bottom + 29, text_anchor="end", class_="name"))
    return element("g", *parts, class_="axis", data_x=scale.note)


def rows(
    lines: Sequence[Row],
    title: str,
    *,
    name: str = "",
    zero: bool = False,
    description: str = "",
    kinds: Sequence[int] | None = None,
    written: bool = True,
) -> Markup:
    """Dots per seed, with the interval on their mean beneath them, one row above the other on one axis.

    Args:
        lines: what to draw; values that are not finite are left out and counted in the row's label.
        title: what is measured.
        name: name of the axis.
        zero: show where zero is: a forest plot of margins or differences.
        description: said by screen readers after the title; made from the rows by default.
        kinds: which of the markers a row takes; 0, 1, 2, ... by default.
        written: write mean and interval beside each label.
    """
    drawn = [value for line in lines for value in (*line.values.values(), line.mean, line.low, line.high)]
    scale = scale_of(drawn, LEFT + 6, RIGHT - 6, zero=zero)
    bottom = ROW * len(lines) + 4
    parts = [axis(scale, 4, bottom, name)]
    write = signed if zero else number
    if zero:
        parts.append(element("path", d=f"M{scale(0):.2f} 4V{bottom}", class_="zero"))
    spoken = []
    for index, line in enumerate(lines):
        kind = kinds[index] if kinds is not None else index
        y = ROW * index + 4
        ends = interval(line.low, line.high) if math.isfinite(line.low) and math.isfinite(line.high) else ""
        lost = sum(not math.isfinite(value) for value in line.values.values())
        label = line.label + (f" ({lost} not finite)" if lost else "")
        value = f"{write(line.mean)} {ends}".strip()
        spoken.append(f"{label}: {value}")
        dots = [
            marker(kind, scale(value), y + 26, hint=f"seed {seed}: {write(value, 5)}", data_seed=seed)
            for seed, value in line.values.items()
            if math.isfinite(value)
        ]
        if math.isfinite(line.mean):
            dots.append(_whiskers(scale, line, y + 37))
        parts += [
            *captions(label, value if written else "", y + 13),
            element("g", *dots, class_=f"row s{kind % 8}", data_label=line.label),
        ]
    height = bottom + (34 if name else 20)
    return frame(WIDTH, height, title, description or "; ".join(spoken), *parts)


def captions(label: str, value: str, y: Real, x: Real = LEFT) -> tuple[Markup, Markup]:
    """A label on the left, shortened to leave room for the value on the right."""
    room = max(8, int((RIGHT - x - 6.3 * len(value)) / 7.2) - 1)
    short = label if len(label) <= room else label[: room - 1] + "…"
    return (
        element("text", element("title", label), short, x=x, y=y, class_="label"),
        element("text", value, x=RIGHT, y=y, text_anchor="end", class_="value"),
    )


def _whiskers(scale: Scale, line: Row, y: Real) -> Markup:
    middle = element("path", d=f"M{scale(line.mean):.2f} {y - 4:g}v8", class_="mean")
    if not (math.isfinite(line.low) and math.isfinite(line.high)):
        return middle
    bar = element("path", d=f"M{scale(line.low):.2f} {y:g}H{scale(line.high):.2f}", class_="span")
    return element("g", bar, middle)


def glance(mean: Real, low: Real, high: Real, outcome: str) -> Markup:
    """An interval in one line of text. Zero is always in the middle; right of it is in the claim's favour."""
    if not all(map(math.isfinite, (mean, low, high))):
        return Markup("")
    reach = max(abs(low), abs(high), abs(mean)) * 1.08 or 1.0
    scale = Scale(-reach, reach, 0.0, 120.0)
    return element(
        "svg",
        element("path", d="M60 1V15", class_="zero"),
        element("path", d=f"M{scale(low):.1f} 8H{scale(high):.1f}", class_="span"),
        element("circle", cx=round(scale(mean), 1), cy=8, r=3.2),
        class_=f"glance {outcome}",
        viewBox="0 0 120 16",
        aria_hidden="true",
    )


def bars(lines: Mapping[str, Real], title: str, *, name: str = "") -> Markup:
    """A horizontal bar a label, from zero to its value, which stands beside the label."""
    finite = [value for value in lines.values() if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    scale = Scale(low, high if high > low else 1.0, LEFT, RIGHT)
    bottom = 34 * len(lines)
    parts = [element("path", d=f"M{scale(0):.2f} 0V{bottom}", class_="zero")] if low < 0 else []
    for index, (label, value) in enumerate(lines.items()):
        y = 34 * index
        parts += captions(label, number(value), y + 13)
        if math.isfinite(value):
            start, end = sorted((scale(0.0), scale(value)))
            box = {"x": start, "y": y + 18, "width": end - start, "height": 8}
            parts.append(element("rect", **box, class_="length", data_label=label))
    spoken = "; ".join(f"{label}: {number(value)}" for label, value in lines.items())
    if name:
        parts.append(element("text", name, x=RIGHT, y=bottom + 12, text_anchor="end", class_="name"))
    return frame(WIDTH, bottom + (18 if name else 4), title, spoken, element("g", *parts, data_x=scale.note))
