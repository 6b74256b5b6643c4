"""One claim in full, as its paper's page shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from assay.lab.record import PartVerdict, Record, Verdict
from assay.report.curve import curves
from assay.report.drawing import Row, row, rows
from assay.report.picture import picture
from assay.report.protocols import OutlineLike
from assay.report.source import highlighted
from assay.report.tables import Values, collapses, numbers, rerun, run_facts, settings_table, tuned
from assay.report.view import ClaimView
from assay.report.wording import MINUS, flat, interval, number, signed, slug


@dataclass(frozen=True)
class PartView:
    """One criterion, judged."""

    text: str
    outcome: str
    sentence: str
    drawing: Markup


@dataclass(frozen=True)
class Figure:
    """The drawings of one measure, and its line in the claim's numbers."""

    measure: str
    drawings: tuple[Markup, ...]


@dataclass(frozen=True)
class ClaimDetail:
    """Everything a paper's page says about one claim."""

    view: ClaimView
    criterion: str
    arms: tuple[str, ...]
    doc: str
    parts: tuple[PartView, ...]
    figures: tuple[Figure, ...]
    numbers: tuple[tuple[str, ...], ...]
    reported: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]
    tuned: tuple[tuple[str, str, str, str], ...]
    sizes: tuple[str, ...]
    settings: tuple[tuple[str, ...], ...]
    run: tuple[tuple[str, str], ...]
    machines: tuple[tuple[tuple[str, str], ...], ...]
    failures: tuple[tuple[str, str, str, str], ...]
    collapses: str
    amended: str
    stale: str
    command: str
    code: Markup


def claim_detail(
    view: ClaimView,
    claim: OutlineLike,
    verdict: Verdict,
    records: Sequence[Record],
    *,
    command: str,
    provenance: Callable[[str], Mapping[str, Any]],
) -> ClaimDetail:
    """Work out what the page of a paper shows of one claim."""
    trials = [record for record in records if record.purpose == "seed"]
    values = collected(trials, claim.arms, [m for part in claim.holds.parts() for _, m in sorted(part.needs())])
    facts = [dict(provenance(key)) for key in dict.fromkeys(record.provenance for record in trials)]
    sizes, settings = settings_table(claim, verdict, trials)
    return ClaimDetail(
        view=view,
        criterion=claim.holds.text,
        arms=tuple(claim.arms),
        doc=claim.doc,
        parts=tuple(_part(part, verdict.level) for part in verdict.parts),
        figures=tuple(Figure(measure, tuple(_drawn(measure, arms, verdict.level))) for measure, arms in values.items()),
        numbers=tuple(numbers(values)),
        reported=tuple(flat(claim.reported)),
        left_out=tuple(claim.left_out),
        tuned=tuple(tuned(claim, trials)),
        sizes=sizes,
        settings=settings,
        run=tuple(run_facts(verdict, trials)),
        machines=tuple(tuple(flat(fact)) for fact in facts if fact),
        failures=tuple(
            (", ".join(r.arms), str(r.seed), r.status, r.error) for r in trials if r.status != "ok" or r.error
        ),
        collapses=collapses(verdict, claim),
        amended=verdict.amended,
        stale=verdict.stale,
        command=rerun(command, view, claim, verdict, trials),
        code=highlighted(claim.source, f"code-{slug(claim.id)}") if claim.source.strip() else Markup(""),
    )


def collected(records: Sequence[Record], arms: Sequence[str], first: Sequence[str]) -> Values:
    """Results by measure, arm and seed; measures that decide come first, arms in the claim's order."""
    found: Values = {}
    for record in sorted(records, key=lambda record: (record.started, record.seed)):
        for arm, measures in record.results.items():
            for measure, value in measures.items():
                found.setdefault(measure, {}).setdefault(arm, {})[record.seed] = value
    order = [measure for measure in dict.fromkeys((*first, *found)) if measure in found]
    places = {arm: place for place, arm in enumerate(arms)}
    return {
        measure: {
            arm: dict(sorted(found[measure][arm].items()))
            for arm in sorted(found[measure], key=lambda arm: places.get(arm, len(places)))
        }
        for measure in order
    }


def _part(part: PartVerdict, level: float) -> PartView:
    unit = f" {part.unit}" if part.unit else ""
    sentence = f"mean margin {signed(part.mean)}{unit}"
    if math.isfinite(part.low) and math.isfinite(part.high):
        sentence += f", {level:.0%} interval {interval(part.low, part.high)}"
    if math.isfinite(part.p_value):
        sentence += f", p {'< 0.0001' if part.p_value < 1e-4 else '= ' + number(part.p_value, 2)}"
    line = Row("margin, seed by seed", part.margins, part.mean, part.low, part.high)
    name = f"against the claim ← 0 → in its favour{', ' + part.unit if part.unit else ''}"
    drawn = (
        rows([line], f"Margins of: {part.text}", zero=True, name=name, written=False) if part.margins else Markup("")
    )
    return PartView(part.text, part.outcome, sentence, drawn)


def _drawn(measure: str, arms: Mapping[str, Mapping[int, Any]], level: float) -> list[Markup]:
    """The drawings that the kind of value asks for: dots and differences, curves with a band, or pictures."""
    floats = {arm: {s: float(v) for s, v in by.items() if np.ndim(v) == 0} for arm, by in arms.items()}
    floats = {arm: by for arm, by in floats.items() if by}
    drawings = []
    if floats:
        lines = [row(arm, by, level) for arm, by in floats.items()]
        drawings.append(rows(lines, measure, name=measure))
        drawings += _differences(measure, floats, level)
    lined = {arm: [np.asarray(v) for v in by.values() if np.ndim(v) == 1 and np.size(v)] for arm, by in arms.items()}
    stacked = {arm: _stacked(each) for arm, each in lined.items() if each}
    if stacked:
        drawings.append(curves(stacked, measure, level=level))
    shaped = [(arm, s, np.asarray(v)) for arm, by in arms.items() for s, v in list(by.items()) if np.ndim(v) in (2, 3)]
    first = {arm: (seed, value) for arm, seed, value in reversed(shaped) if value.size}
    if first:
        known = np.concatenate([value[np.isfinite(value)].ravel() for _, value in first.values()] or [np.zeros(1)])
        ends = {"low": float(known.min()), "high": float(known.max())} if known.size else {}
        drawings += [
            picture(first[arm][1], f"{measure}, {arm}, seed {first[arm][0]}", **ends) for arm in arms if arm in first
        ]
    return drawings


def _differences(measure: str, floats: Mapping[str, Mapping[int, float]], level: float) -> list[Markup]:
    """Paired differences of every other arm from the first one, seed by seed."""
    (head, reference), *others = floats.items()
    lines = []
    for arm, by in others:
        shared = {seed: reference[seed] - by[seed] for seed in by if seed in reference}
        shared = {seed: value for seed, value in shared.items() if math.isfinite(value)}
        if shared:
            lines.append(row(f"{head} {MINUS} {arm}", shared, level))
    if not lines:
        return []
    title = f"{measure}: paired differences"
    kinds = range(1, len(lines) + 1)
    return [rows(lines, title, name=f"difference in {measure}, seed by seed", zero=True, kinds=kinds)]


def _stacked(series: Sequence[NDArray[Any]]) -> NDArray[Any]:
    longest = max(len(each) for each in series)
    table = np.full((len(series), longest), np.nan)
    for line, each in zip(table, series, strict=True):
        line[: len(each)] = each
    return table
