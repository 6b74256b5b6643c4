"""Inline SVG: elements whose every text is escaped, scales that can be inverted, ticks at round numbers."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from markupsafe import Markup

from assay.report.wording import MINUS, number

Real: TypeAlias = float | int


def element(name: str, *children: Markup | str, **attributes: object) -> Markup:
    """One element. Attribute names lose a trailing underscore, other underscores become hyphens; `None` is left out.

    >>> element("text", "a < b", class_="tick", text_anchor="end", x=1.50)
    Markup('<text class="tick" text-anchor="end" x="1.5">a &lt; b</text>')
    """
    parts = [f"<{name}"]  # names come from code, never from data
    for key, value in attributes.items():
        if isinstance(value, float):
            value = f"{value:.2f}".rstrip("0").rstrip(".")
        if value is not None:
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"')
    if not children:
        return Markup("".join(parts) + "/>")
    parts.append(">")
    parts += [child if isinstance(child, Markup) else html.escape(child) for child in children]
    return Markup("".join(parts) + f"</{name}>")


@dataclass(frozen=True)
class Scale:
    """Values in `[low, high]` to positions from `start` to `end`, linear or logarithmic.

    >>> scale = Scale(0.0, 10.0, 100.0, 200.0)
    >>> scale(2.5), scale.value(125.0)
    (125.0, 2.5)
    """

    low: Real
    high: Real
    start: Real
    end: Real
    kind: Literal["linear", "log"] = "linear"

    def __call__(self, value: Real) -> float:
        low, high, value = (math.log10(v) if self.kind == "log" else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def value(self, position: Real) -> float:
        """The inverse."""
        share = (position - self.start) / (self.end - self.start)
        if self.kind == "log":
            low, high = math.log10(self.low), math.log10(self.high)
            return float(10 ** (low + share * (high - low)))
        return self.low + share * (self.high - self.low)

    @property
    def note(self) -> str:
        """The scale in one attribute, from which a reader of the file can get the numbers back."""
        return f"{self.kind} {self.low!r} {self.high!r} {self.start:g} {self.end:g}"

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """At most about `count` round values inside the scale, each with its label."""
        if self.kind == "log":
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            every = max(1, math.ceil(len(powers) / count))
            return [(10.0**power, number(10.0**power, 1)) for power in powers[::every]]
        step = _round_step((self.high - self.low) / count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        plain = digits <= 5 and max(abs(self.low), abs(self.high)) < 1e6
        values = [index * step for index in range(first, last + 1)]
        return [(v, f"{v:.{digits}f}".replace("-", MINUS) if plain else number(v)) for v in values]


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def scale_of(values: Sequence[Real], start: Real, end: Real, *, zero: bool = False, log: bool | None = False) -> Scale:
    """A scale with a little air around the finite ones of `values`.

    Args:
        values: what must fit in.
        start: position of the low end.
        end: position of the high end.
        zero: whether 0 must lie on the scale.
        log: a logarithmic scale; `None` takes one where all values are positive and span three decades.
    """
    finite = [float(value) for value in values if math.isfinite(value)] + ([0.0] if zero else [])
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if low > 0 and (log or (log is None and high / low >= 1e3)):
        air = max((high / low) ** 0.04, 1.1)
        return Scale(low / air, high * air, start, end, "log")
    air = 0.06 * (high - low)
    if not air > 1e-12 * max(abs(low), abs(high)):
        air = 0.1 * abs(low) or 1.0
    return Scale(low - air, high + air, start, end)


def frame(width: Real, height: Real, title: str, description: str, *children: Markup, **attributes: object) -> Markup:
    """A whole picture, with its name and its description for those who hear it."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *children,
        class_="plot",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=f"{title}. {description}",
        **attributes,
    )
