"""The nearest right spelling, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[object]) -> str:
    """A clause that names the nearest right spelling, or everything allowed when that is little.

    >>> nearest("epoch", ["epochs", "lr"])
    "; did you mean 'epochs'?"
    >>> nearest("x", ["epochs", "lr"])
    '; there is epochs, lr'
    """
    names = [str(each) for each in known]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(names)}" if 0 < len(names) <= 12 else ""
