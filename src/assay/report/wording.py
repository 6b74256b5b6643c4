"""Numbers, times and sizes as a reader wants them."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator, Mapping

MINUS = "\u2212"

WORDS = {"holds": "Holds", "fails": "Fails", "undecided": "Undecided", "none": "Not run"}
"""Outcomes as words. `none` is a claim without a verdict."""


def number(value: float | int, digits: int = 3) -> str:
    """A number to `digits` significant digits, with a real minus sign.

    >>> number(-0.012345), number(1234567.0), number(0.00000321), number(12), number(float("nan"))
    ('−0.0123', '1.23e6', '3.21e−6', '12', 'not a number')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value)}".replace("-", MINUS)
    if 1e-4 <= abs(value) < 1e6:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{places}f}".replace("-", MINUS)
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}".replace("-", MINUS)


def signed(value: float | int, digits: int = 3) -> str:
    """A number with its sign, as margins are written."""
    return ("+" if value > 0 else "") + number(value, digits)


def interval(low: float | int, high: float | int) -> str:
    """An interval in brackets."""
    return f"[{number(low)}, {number(high)}]"


def duration(seconds: float | int) -> str:
    """A time span.

    >>> duration(0.25), duration(72), duration(7320)
    ('0.25 s', '1 min 12 s', '2 h 2 min')
    """
    if not math.isfinite(seconds) or seconds < 60:
        return f"{number(seconds, 2)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def memory(size: float | int) -> str:
    """A number of bytes.

    >>> memory(512), memory(3_400_000), memory(2_100_000_000)
    ('512 B', '3.4 MB', '2.1 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{number(size / factor, 2)} {unit}"
    return f"{number(size)} B"


def day(iso: str) -> str:
    """The date in an ISO time, in words; what is no date comes back as it is.

    >>> day("2025-11-03T10:20:30+00:00"), day("some time ago")
    ('3 November 2025', 'some time ago')
    """
    try:
        date = datetime.datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{date.day} {date:%B} {date.year}"


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun.

    >>> plural(1, "seed"), plural(3, "seed"), plural(0, "entry", "entries")
    ('1 seed', '3 seeds', '0 entries')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def shown(value: object) -> str:
    """A setting's value as text."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ") if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(shown(each) for each in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items())
    return str(value)


def flat(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested mapping as pairs of name and text.

    >>> list(flat({"table": "Table 2", "cmd": {"accuracy": 0.92}}))
    [('table', 'Table 2'), ('cmd: accuracy', '0.92')]
    """
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}: ")
        else:
            yield name, shown(value)


def slug(text: str) -> str:
    """A text as part of a file name, an anchor or a URN: two different texts never give the same one.

    >>> slug("few_modes"), slug("../a b"), slug(slug("../a b"))
    ('few_modes', '~2e~2e~2fa~20b', '~7e2e~7e2e~7e2fa~7e20b')
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text):
        return re.sub(r"[^A-Za-z0-9_-]", lambda hit: "~" + hit[0].encode().hex(), text) or "~"
    return text


def listed(names: Mapping[str, int]) -> str:
    """Counts by name in one line, largest first."""
    return ", ".join(f"{name} {count}" for name, count in sorted(names.items(), key=lambda pair: -pair[1]))
