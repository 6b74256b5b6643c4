"""One claim at one set of settings: which trials it takes, what the ledger has of them, and the verdict."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any, cast

from assay.lab.catalogue import Paper
from assay.lab.claim import ClaimError, ClaimOutline, Tune
from assay.lab.identity import Code, digest, fingerprint
from assay.lab.ledger import Ledger, identity_of
from assay.lab.record import FINISHED, Record, Verdict
from assay.lab.trial import Trial
from assay.lab.verdict import ArmOutcome, OnDivergence, judge

Chosen = dict[str, dict[str, Any]]
"""Arm -> the settings it picked by tuning. Arms of a `together` claim share theirs."""


@dataclass(frozen=True)
class Study:
    """A claim with full settings. `Study.of(paper, outline)` is the laptop size."""

    paper: Paper
    outline: ClaimOutline
    settings: Mapping[str, Any]
    threads: int = 1

    @classmethod
    def of(cls, paper: Paper, outline: ClaimOutline, size: str = "laptop", **overrides: Any) -> Study:
        return cls(paper, outline, outline.settings(size, overrides))

    @property
    def size(self) -> str:
        return self.outline.size_of(self.settings)

    @cached_property
    def code(self) -> Code:
        return fingerprint(self.paper.module, self.outline.id)

    def trials(self, seeds: Iterable[int], chosen: Mapping[str, Mapping[str, Any]] | None = None) -> list[Trial]:
        """All trials of these seeds, seed by seed, so that the arms of a seed are finished together."""
        return [
            self._trial(arms, seed, {**self.settings, **(chosen or {}).get(arms[0], {})})
            for seed in seeds
            for arms in self._groups
        ]

    def tuning_trials(self) -> list[tuple[tuple[str, ...], dict[str, Any], Trial]]:
        """For every arm, every point of its grid and every tuning seed: (arms, point, trial). None at smoke size."""
        tune = self.outline.tune
        if tune is None or self.size == "smoke":
            return []
        return [
            (arms, point, self._trial(arms, seed, {**self.settings, **point, "validate": True}, "tune"))
            for arms in self._groups
            for point in _points(tune, arms[0])
            for seed in tune.seeds
        ]

    def chosen(self, ledger: Ledger) -> Chosen | None:
        """The settings each arm picked; None while tuning trials are missing, empty when there is nothing to tune."""
        tune = self.outline.tune
        if tune is None or self.size == "smoke":
            return {}
        measure, best = _objective(self.outline, tune)
        scores: dict[tuple[tuple[str, ...], int], list[float]] = {}
        points: dict[tuple[tuple[str, ...], int], dict[str, Any]] = {}
        for arms, point, trial in self.tuning_trials():
            record = ledger.read(self.paper.key, self.outline.id, trial.digest)
            if record is None or record.status not in FINISHED:
                return None
            judged = tune.arm or arms[0]
            value = record.results.get(judged, {}).get(measure, math.nan)
            number = float(value) if isinstance(value, int | float) and math.isfinite(value) else -math.inf
            if best == "min" and math.isfinite(number):
                number = -number
            index = _points(tune, arms[0]).index(point)
            scores.setdefault((arms, index), []).append(number)
            points[arms, index] = point
        picked: Chosen = {}
        for arms in self._groups:
            mine = [key for key in scores if key[0] == arms]
            winner = max(mine, key=lambda key: fmean(scores[key]))
            picked[arms[0]] = points[winner]
        return picked

    @property
    def _groups(self) -> list[tuple[str, ...]]:
        return [self.outline.arms] if self.outline.together else [(arm,) for arm in self.outline.arms]

    def _trial(self, arms: tuple[str, ...], seed: int, settings: Mapping[str, Any], purpose: str = "seed") -> Trial:
        outline = self.outline
        return Trial(
            module=self.paper.module,
            paper=self.paper.key,
            claim=outline.id,
            arms=arms,
            seed=seed,
            settings=settings,
            together=outline.together,
            exclusive=outline.exclusive,
            digest=identity_of(self.paper.key, outline.id, arms, seed, settings, self.code.digest, purpose),
            purpose=purpose,
            threads=self.threads,
        )


@dataclass(frozen=True)
class Results:
    """What a ledger has of a study: its verdict, the records it rests on, and what tuning picked."""

    verdict: Verdict
    records: tuple[Record, ...]
    chosen: Chosen
    settings: Mapping[str, Any]


def results(study: Study, ledger: Ledger, *, seeds: int | None = None, arrays: bool = False) -> Results:
    """Judge a study by what the ledger has.

    Args:
        study: the claim and its settings.
        ledger: where its trials are.
        seeds: at least these many seeds are expected; fewer trials than that leave the verdict undecided. By default as
            many as the ledger's plan asks for.
        arrays: load arrays, which drawings need and verdicts rarely do.
    """
    outline = study.outline
    arrays = arrays or _reads_arrays(outline)
    plan = ledger.plan(study.paper.key, outline.id, study.settings)
    known = list(ledger.records(study.paper.key, outline.id, arrays=arrays))
    mine = [record for record in known if record.purpose == "seed" and _same_settings(record, study)]
    current = [record for record in mine if record.code == study.code.digest]
    chosen = study.chosen(ledger) or {}
    current = [record for record in current if _is_chosen(record, chosen)]
    stale = ""
    if not current and mine:
        latest = max(mine, key=lambda record: record.started)
        current = [record for record in mine if record.code == latest.code and _settings_match(record, latest)]
        stale = changed_files(ledger.code(latest.code), study.code) or "the code these trials ran with is not recorded"
    present = {record.seed for record in current}
    expected = present if stale else present | set(range(max(seeds or 0, int(plan.get("seeds", 0)))))
    outcomes: dict[int, dict[str, ArmOutcome]] = {}
    for record in current:
        for arm in record.arms:
            outcomes.setdefault(record.seed, {})[arm] = _arm_outcome(record, arm, outline)
    oldest = min(known, key=lambda record: record.started, default=None)
    looks = plan.get("looks")
    verdict = judge(
        outline.holds,
        outcomes,
        arms=outline.arms,
        seeds=tuple(sorted(expected)),
        size=study.size,
        on_divergence=cast(OnDivergence, outline.on_divergence),
        looks=tuple(looks) if looks else None,
        registration=outline.registration,
        registered=oldest.registration if oldest is not None else None,
        together=outline.together,
    )
    if stale:
        verdict = replace(verdict, stale=stale, tags=(*verdict.tags, "stale"))
    used = tuple(sorted(current, key=lambda record: (record.seed, outline.arms.index(record.arms[0]))))
    return Results(verdict, used, chosen, study.settings)


def studies(paper: Paper, outline: ClaimOutline, ledger: Ledger) -> list[Study]:
    """The studies of a claim that a ledger knows of, the most telling first: paper, laptop, custom, smoke size."""
    found = {digest(dict(plan["settings"])): dict(plan["settings"]) for plan in ledger.plans(paper.key, outline.id)}
    matching = []
    for settings in found.values():
        if set(settings) == set(outline.sizes["laptop"]):
            matching.append(Study(paper, outline, _like(settings, outline.sizes["laptop"])))
    order = {"paper": 0, "laptop": 1, "custom": 2, "smoke": 3}
    return sorted(matching, key=lambda study: order[study.size])


def changed_files(then: Code | None, now: Code) -> str:
    """In words, which files differ between the code trials ran with and the code of today; empty if none."""
    if then is None:
        return ""
    words = []
    for name in sorted({*then.files, *now.files}):
        if name not in now.files:
            words.append(f"{name} is no longer used")
        elif name not in then.files:
            words.append(f"{name} is used now and was not before")
        elif then.files[name] != now.files[name]:
            words.append(f"{name} changed")
    return "; ".join(words)


def _arm_outcome(record: Record, arm: str, outline: ClaimOutline) -> ArmOutcome:
    """One arm of a record; it has collapsed where a number that the criterion reads of it is not finite."""
    measures = record.results.get(arm, {})
    read = {measure for needed, measure in outline.holds.needs() if needed == arm}
    numbers = [value for name, value in measures.items() if name in read and isinstance(value, float)]
    collapsed = record.status == "ok" and not all(map(math.isfinite, numbers))
    return ArmOutcome("diverged" if collapsed else record.status, measures)


def _objective(outline: ClaimOutline, tune: Tune) -> tuple[str, str]:
    """The measure that tuning goes by, and whether its largest or smallest value wins."""
    first = outline.holds.parts()[0]
    best = tune.best or first.direction
    if best not in ("max", "min"):
        raise ClaimError(f"claim {outline.key}: tune= must say best='max' or 'min'; its criterion has no direction")
    return tune.by or first.measures()[0], best


def _points(tune: Tune, arm: str) -> list[dict[str, Any]]:
    grids: list[Sequence[Any]] = [grid[arm] if isinstance(grid, Mapping) else grid for grid in tune.grid.values()]
    return [dict(zip(tune.grid, values, strict=True)) for values in itertools.product(*grids)]


def _tuned(study: Study) -> frozenset[str]:
    return frozenset(study.outline.tune.grid) if study.outline.tune else frozenset()


def _same_settings(record: Record, study: Study) -> bool:
    """Whether a record ran with a study's settings, tuned ones left aside."""
    tuned = _tuned(study)

    def rest(settings: Mapping[str, Any]) -> str:
        return digest({name: value for name, value in settings.items() if name not in tuned})

    return rest(record.settings) == rest(study.settings)


def _is_chosen(record: Record, chosen: Chosen) -> bool:
    return all(
        digest([record.settings[name]]) == digest([value]) for name, value in chosen.get(record.arms[0], {}).items()
    )


def _settings_match(record: Record, latest: Record) -> bool:
    return record.arms != latest.arms or digest(dict(record.settings)) == digest(dict(latest.settings))


def _like(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings read from JSON, with lists where the function has tuples made tuples again."""
    make: Callable[[Any, Any], Any] = lambda value, like: tuple(value) if isinstance(like, tuple) else value  # noqa: E731
    return {name: make(value, defaults[name]) for name, value in settings.items()}


def _reads_arrays(outline: ClaimOutline) -> bool:
    return any(type(part).__name__ in ("monotone", "identical") for part in outline.holds.parts())
