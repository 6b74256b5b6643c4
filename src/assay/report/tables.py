"""The tables of one claim: its numbers, settings, how it was run, and the command that runs it again."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from assay.lab.record import Record, Verdict
from assay.report.protocols import OutlineLike
from assay.report.view import ClaimView
from assay.report.wording import day, duration, listed, memory, number, plural, shown

Values = dict[str, dict[str, dict[int, Any]]]
"""measure -> arm -> seed -> float or array."""


def numbers(values: Values) -> list[tuple[str, ...]]:
    """Measure, arm, mean, standard deviation, least, most and count of the finite values."""
    table: list[tuple[str, ...]] = []
    for measure, arms in values.items():
        for arm, by in arms.items():
            found = [float(v) for v in by.values() if np.ndim(v) == 0]
            finite = [v for v in found if math.isfinite(v)]
            if found:
                mean = number(statistics.fmean(finite), 4) if finite else "—"
                spread = number(statistics.stdev(finite), 2) if len(finite) > 1 else "—"
                low, high = (number(min(finite), 4), number(max(finite), 4)) if finite else ("—", "—")
                table.append((measure, arm, mean, spread, low, high, str(len(finite))))
    return table


def tuned(claim: OutlineLike, trials: Sequence[Record]) -> list[tuple[str, str, str, str]]:
    """Setting, arm, what it chose, and what it could choose from."""
    grid: Mapping[str, Any] = getattr(claim.tune, "grid", claim.tune) or {}
    lines = []
    for name, values in grid.items():
        for arm in claim.arms:
            chosen = dict.fromkeys(shown(r.settings[name]) for r in trials if arm in r.arms and name in r.settings)
            tried = values.get(arm, ()) if isinstance(values, Mapping) else values
            lines.append((name, arm, ", ".join(chosen) or "—", shown(list(tried))))
    return lines


def settings_table(
    claim: OutlineLike, verdict: Verdict, trials: Sequence[Record]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The names of the sizes, and every setting with its value at each of them; an unnamed size comes first."""
    columns: dict[str, Mapping[str, Any]] = dict(claim.sizes)
    tuned = set(getattr(claim.tune, "grid", claim.tune) or ())
    if verdict.size not in columns and trials:
        columns = {verdict.size: trials[-1].settings, **columns}
    names = dict.fromkeys(name for settings in columns.values() for name in settings)
    lines = [
        (name, *("tuned" if name in tuned else shown(settings.get(name, "—")) for settings in columns.values()))
        for name in names
    ]
    return tuple(columns), tuple(lines)


def run_facts(verdict: Verdict, trials: Sequence[Record]) -> list[tuple[str, str]]:
    """How the trials were run, as pairs of name and text."""
    lines = [("size", verdict.size), ("seeds", ", ".join(map(str, verdict.seeds)) or "none yet")]
    if trials:
        wall = [record.wall_seconds for record in trials]
        times = (
            f"{duration(statistics.median(wall))} median, {duration(max(wall))} longest, {duration(sum(wall))} in all"
        )
        lines.append(("trials", plural(len(trials), "trial")))
        lines.append(("wall time", times))
        lines.append(("processor time", f"{duration(sum(record.cpu_seconds for record in trials))} in all"))
        lines.append(("peak memory", memory(max(record.peak_bytes for record in trials))))
        lines.append(("newest trial", day(max(record.started for record in trials))))
    if verdict.missing:
        lines.append(("missing", listed(verdict.missing)))
    return lines


def collapses(verdict: Verdict, claim: OutlineLike) -> str:
    """How many runs collapsed, what that meant for the verdict, and how many may."""
    bound = verdict.collapse_bound
    total = sum(verdict.collapses.values())
    if not total:
        if not verdict.seeds or not math.isfinite(bound):
            return ""
        seeds = plural(len(verdict.seeds), "seed")
        return f"No run collapsed in {seeds}; that still allows a collapse in up to {bound:.0%} of runs."
    rule = {
        "worst": "a collapsed run counts with the worst value seen",
        "undecided": "a collapse withholds the verdict",
    }.get(claim.on_divergence, claim.on_divergence)
    known = f" Up to {bound:.0%} of runs may collapse." if math.isfinite(bound) else ""
    return f"Collapsed runs: {listed(verdict.collapses)}; {rule}.{known}"


def rerun(command: str, view: ClaimView, claim: OutlineLike, verdict: Verdict, trials: Sequence[Record]) -> str:
    """The command that runs the claim again at the same settings, fit for a shell."""
    words = [*command.split(), view.key]
    if verdict.size in claim.sizes:
        words += ["--size", verdict.size] if verdict.size != "laptop" else []
    elif trials:
        laptop = claim.sizes.get("laptop", {})
        tuned = set(getattr(claim.tune, "grid", claim.tune) or ())
        for name, value in trials[-1].settings.items():
            if name not in tuned and value != laptop.get(name):
                words += ["--set", f"{name}={value}"]
    return shlex.join(words)
