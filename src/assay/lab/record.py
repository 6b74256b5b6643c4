"""What one trial left behind, and the verdict that the trials of a claim add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "error", "crashed", "timeout", "out-of-memory", "diverged"]
Outcome = Literal["holds", "fails", "undecided"]
Measures = dict[str, Any]
"""Measure -> float or NumPy array (not spelt out, so that listing papers does not import NumPy)."""

FINISHED: frozenset[Status] = frozenset({"ok", "diverged"})
"""Statuses that are results. Everything else is missing and is tried again on the next run."""


@dataclass(frozen=True)
class Registration:
    """What the claim promised when a trial was run."""

    says: str
    arms: tuple[str, ...]
    holds: str


@dataclass(frozen=True)
class Record:
    """One finished (or failed) trial, as the ledger keeps it. Immutable once written.

    A separate trial has one arm; a trial of a `together` claim has them all. `results[arm]` holds the floats and the
    arrays that the claim returned for that arm.
    """

    digest: str
    paper: str
    claim: str
    arms: tuple[str, ...]
    seed: int
    settings: Mapping[str, Any]
    size: str
    purpose: Literal["seed", "tune"]
    status: Status
    results: Mapping[str, Measures]
    error: str
    registration: Registration
    code: str
    provenance: str
    started: str
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class PartVerdict:
    """One criterion judged: its margins (seed -> margin, positive in the claim's favour) and their interval."""

    text: str
    outcome: Outcome
    margins: Mapping[int, float]
    mean: float
    low: float
    high: float
    p_value: float
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the trials of one claim at one size add up to.

    `outcome` is None where no trial has been run, or the size never gives a verdict (`smoke`). `reason` says in words
    what decided, or what stands in the way ("3 of 20 trials missing: timeout").
    """

    outcome: Outcome | None
    reason: str
    size: str
    seeds: tuple[int, ...]
    level: float
    parts: tuple[PartVerdict, ...] = ()
    tags: tuple[str, ...] = ()
    amended: str = ""
    stale: str = ""
    missing: Mapping[str, int] = field(default_factory=dict)
    collapses: Mapping[str, int] = field(default_factory=dict)
    collapse_bound: float = float("nan")
