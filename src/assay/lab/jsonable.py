"""Verdicts as plain values that strict JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from assay.lab.record import Verdict


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a dict; numbers that are not finite become None.

    >>> verdict_json(Verdict(None, "not run", "laptop", (), 0.95))["collapse_bound"] is None
    True
    """
    found = plain(asdict(verdict))
    assert isinstance(found, dict)
    return found


def plain(value: Any) -> Any:
    """Tuples as lists, keys as text, NaN and infinities as None, all the way down."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
