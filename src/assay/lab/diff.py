"""Two ledgers compared: which verdicts flip, and which numbers moved beyond noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from assay.lab.catalogue import Paper
from assay.lab.claim import ClaimOutline
from assay.lab.ledger import Ledger
from assay.lab.pack import best
from assay.lab.record import Record
from assay.lab.statistics import benjamini_hochberg, paired_t


@dataclass(frozen=True)
class Moved:
    """One measure of one arm that two ledgers both have. `seeds` is how many they share."""

    claim: str
    arm: str
    measure: str
    before: float
    after: float
    p_value: float
    seeds: int
    beyond_noise: bool = False


@dataclass(frozen=True)
class Flip:
    """A claim whose verdict differs."""

    claim: str
    before: str
    after: str


def diff(
    claims: Sequence[tuple[Paper, ClaimOutline]], before: Ledger, after: Ledger, *, q: float = 0.05
) -> tuple[list[Flip], list[Moved]]:
    """Compare two ledgers claim by claim, each at the size it tells most about.

    A number has moved beyond noise when the paired t test over the seeds that both have survives Benjamini and
    Hochberg's control of false discoveries among all numbers compared. Times and the like move with the machine; a
    deterministic number that changed at all has moved.

    Args:
        claims: what to compare.
        before: one ledger.
        after: the other.
        q: share of false ones tolerated among the numbers said to have moved.
    """
    flips, moved = [], []
    for paper, outline in claims:
        (_, old), (_, new) = best(paper, outline, [before]), best(paper, outline, [after])
        if old.records and new.records:
            was, now = old.verdict.outcome or "none", new.verdict.outcome or "none"
            if was != now:
                flips.append(Flip(outline.key, was, now))
            if old.verdict.size == new.verdict.size:
                moved += _moved(outline, old.records, new.records)
    tested = [each for each in moved if math.isfinite(each.p_value)]
    marks = benjamini_hochberg([each.p_value for each in tested], q) if tested else []
    beyond = {id(each) for each, mark in zip(tested, marks, strict=True) if mark}
    return flips, [Moved(**{**vars(each), "beyond_noise": id(each) in beyond}) for each in moved]


def _moved(outline: ClaimOutline, old: Sequence[Record], new: Sequence[Record]) -> list[Moved]:
    found = []
    for arm in outline.arms:
        before, after = numbers(old, arm), numbers(new, arm)
        for measure in before:
            first, second = before[measure], after.get(measure, {})
            shared = sorted(set(first) & set(second))
            if shared:
                differences = [second[seed] - first[seed] for seed in shared]
                p_value = paired_t(differences).p_value if all(map(math.isfinite, differences)) else math.nan
                values = fmean(first[seed] for seed in shared), fmean(second[seed] for seed in shared)
                found.append(Moved(outline.key, arm, measure, *values, p_value, len(shared)))
    return found


def numbers(records: Sequence[Record], arm: str) -> dict[str, dict[int, float]]:
    """measure -> seed -> value, of one arm."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        for measure, value in record.results.get(arm, {}).items():
            if isinstance(value, float):
                found.setdefault(measure, {})[record.seed] = value
    return found
