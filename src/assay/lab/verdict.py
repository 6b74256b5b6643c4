"""From the trials of a claim to its verdict: holds, fails or undecided."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from assay.lab import statistics
from assay.lab.criterion import Criterion, MarginError, Results
from assay.lab.record import FINISHED, Outcome, PartVerdict, Registration, Status, Verdict

OnDivergence = Literal["worst", "undecided"]
THIN = 5
"""Fewer seeds than this are tagged *thin*."""
AGREEMENT = 8
"""From so many seeds on the studentised bootstrap must agree with Student's t."""

_STATUSES = frozenset(get_args(Status))
_OUTCOMES: dict[int, Outcome] = {1: "holds", -1: "fails", 0: "undecided"}


@dataclass(frozen=True)
class ArmOutcome:
    """What one arm did in one seed: how it ended, and what it measured (floats and arrays)."""

    status: Status
    measures: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.status not in _STATUSES:
            raise ValueError(f"status must be one of {', '.join(get_args(Status))}, got {self.status!r}")


Outcomes = Mapping[int, Mapping[str, ArmOutcome]]


def judge(
    criterion: Criterion,
    outcomes: Outcomes,
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    size: str,
    on_divergence: OnDivergence = "worst",
    looks: Sequence[int] | None = None,
    registration: Registration | None = None,
    registered: Registration | None = None,
    level: float = 0.95,
    together: bool = False,
) -> Verdict:
    """Judge a claim by the margins of its seeds.

    A part of the criterion holds where the paired t interval of its margins lies above 0, and fails where it lies
    below; from 8 seeds on the studentised bootstrap has to say the same. The claim holds when every part holds and
    fails when any part fails. It stays undecided while any trial is missing, a margin is not finite, or there is one
    seed. The smoke size has no verdict at all.

    Args:
        criterion: what was promised.
        outcomes: seed -> arm -> what it did. A trial that has not been run is absent. Other seeds than `seeds` are
            ignored.
        arms: all arms of the claim, those that the criterion does not read as well.
        seeds: the seeds asked for.
        size: name of the size; `smoke` never gives a verdict.
        on_divergence: `worst` gives a diverged arm the worst finite value that any arm had in any seed (smallest where
            more is better); where there is no such value, or worst has no meaning (`close`, `monotone`, `identical`,
            arrays), its margin is NaN. `undecided` withholds the verdict.
        looks: numbers of seeds at which the claim is looked at until it is decided, e.g. `(5, 10, 20)`. The interval is
            then at the level of one look, with as many seeds as there are.
        registration: what the claim promises today.
        registered: what it promised when its oldest trial was run.
        level: confidence level of the interval (of all looks together).
        together: one trial runs all arms of a seed; only the count of missing trials depends on it.

    Raises:
        ValueError: for an unknown arm in the criterion, a seed named twice, an unknown `on_divergence`.

    >>> from assay.lab.criterion import higher
    >>> def seed(ours, theirs):
    ...     return {"ours": ArmOutcome("ok", {"psnr": ours}), "theirs": ArmOutcome("ok", {"psnr": theirs})}
    >>> trials = {0: seed(31.0, 30.0), 1: seed(32.5, 31.0), 2: seed(30.5, 28.5)}
    >>> claim = higher("psnr", "ours", than="theirs")
    >>> print(summary(judge(claim, trials, arms=["ours", "theirs"], seeds=[0, 1, 2], size="laptop")))
    holds  +1.5 [0.3, 2.7] at 95 %, 3 seeds (thin)
    >>> print(summary(judge(claim, trials, arms=["ours", "theirs"], seeds=[0, 1, 2, 3], size="laptop")))
    undecided  2 of 8 trials missing: not run
    """
    _check(criterion, arms, seeds, on_divergence)
    amended = "" if registered is None or registration is None else difference(registered, registration)
    nominal = level if looks is None else 1.0 - statistics.pocock_level(looks, 1.0 - level)
    tags = ("amended",) if amended else ()
    asked = {seed: {a: outcomes[seed][a] for a in arms if a in outcomes[seed]} for seed in seeds if seed in outcomes}
    if not any(asked.values()):
        return Verdict(None, "no trial has been run", size, (), nominal, tags=tags, amended=amended)

    missing = _missing([asked.get(seed, {}) for seed in seeds], arms, together)
    finished = {seed: {arm: done for arm, done in asked[seed].items() if _finished(done)} for seed in asked}
    complete = tuple(seed for seed in seeds if len(finished.get(seed, ())) == len(arms))
    tries = Counter(arm for trials in finished.values() for arm in trials)
    diverged = Counter(arm for trials in finished.values() for arm, done in trials.items() if done.status == "diverged")
    collapses = {arm: diverged[arm] for arm in arms if arm in diverged}
    judged = [_judge_part(part, finished, complete, nominal, on_divergence) for part in criterion.parts()]
    parts = tuple(part for part, _ in judged)

    outcome: Outcome | None
    if size == "smoke":
        barrier = "the smoke size never gives a verdict"
    elif missing:
        trials = len(seeds) * (1 if together else len(arms))
        barrier = f"{sum(missing.values())} of {trials} trials missing: {_counted(missing)}"
    elif on_divergence == "undecided" and collapses:
        barrier = (
            f"diverged: {', '.join(f'{arm} in {count} of {tries[arm]}' for arm, count in collapses.items())} seeds"
        )
    elif any(math.isnan(part.mean) for part in parts):
        barrier = "; ".join(dict.fromkeys(remark for part, remark in judged if math.isnan(part.mean)))
    elif len(complete) == 1:
        barrier = "one seed decides nothing"
    else:
        barrier = ""
    if barrier:
        parts = tuple(replace(part, outcome="undecided") for part in parts)
        outcome, reason = None if size == "smoke" else "undecided", barrier
    else:
        outcome, reason = _combined(judged)
    return Verdict(
        outcome,
        reason,
        size,
        complete,
        nominal,
        parts=parts,
        tags=("thin", *tags) if outcome is not None and len(complete) < THIN else tags,
        amended=amended,
        missing=missing,
        collapses=collapses,
        collapse_bound=max((statistics.collapse_bound(diverged[arm], tries[arm]) for arm in tries), default=math.nan),
    )


def _judge_part(
    part: Criterion,
    finished: Outcomes,
    complete: Sequence[int],
    level: float,
    on_divergence: OnDivergence,
) -> tuple[PartVerdict, str]:
    """The part's verdict, and in words why it is not what Student's t says."""
    margins: dict[int, float] = {}
    remark = ""
    worst = _worst(part, finished) if on_divergence == "worst" else dict.fromkeys(part.measures(), math.nan)
    for seed in complete:
        lost = [
            f"seed {seed}: {arm} diverged, and there is no worst {measure} to give it"
            for arm, measure in sorted(part.needs())
            if finished[seed][arm].status == "diverged" and math.isnan(worst[measure])
        ]
        try:
            margins[seed] = math.nan if lost else part.margin(_with_collapses(finished[seed], worst))
        except MarginError as error:
            margins[seed], remark = math.nan, remark or f"seed {seed}: {error}"
        if not math.isfinite(margins[seed]):
            remark = remark or (lost[0] if lost else f"seed {seed}: the margin of {part.text} is {margins[seed]}")
    if remark or not margins:
        nan = math.nan
        return PartVerdict(part.text, "undecided", margins, nan, nan, nan, nan, part.unit), remark
    values = list(margins.values())
    interval = statistics.paired_t(values, level)
    sign = interval.sign
    if sign != 0 and len(values) >= AGREEMENT:
        bootstrap = statistics.bootstrap_t(values, level)
        if bootstrap.sign != sign:
            sign = 0
            remark = f"the bootstrap-t interval {_span(bootstrap)} does not agree"
    mean, low, high, p = interval.mean, interval.low, interval.high, interval.p_value
    return PartVerdict(part.text, _OUTCOMES[sign], margins, mean, low, high, p, part.unit), remark


def _worst(part: Criterion, finished: Outcomes) -> dict[str, float]:
    """For each measure of a part the worst finite value that any arm had in any seed; NaN where that has no meaning."""
    done = [outcome for trials in finished.values() for outcome in trials.values()]
    if all(outcome.status != "diverged" for outcome in done):
        return {}
    worst = {}
    for measure in part.measures():
        known = [outcome.measures[measure] for outcome in done if measure in outcome.measures]
        values = [float(value) for value in known if getattr(value, "shape", ()) == () and math.isfinite(value)]
        arrays = any(getattr(value, "shape", ()) != () for value in known)
        pick = {"max": min, "min": max}.get(part.direction or "")
        worst[measure] = pick(values) if pick and values and not arrays else math.nan
    return worst


def _with_collapses(trials: Mapping[str, ArmOutcome], worst: Mapping[str, float]) -> Results:
    """The measures of one seed, those of diverged arms replaced by the worst seen."""
    return {
        arm: {**outcome.measures, **worst} if outcome.status == "diverged" else outcome.measures
        for arm, outcome in trials.items()
    }


def _combined(judged: Sequence[tuple[PartVerdict, str]]) -> tuple[Outcome, str]:
    several = len(judged) > 1
    outcomes = {part.outcome for part, _ in judged}
    if "fails" in outcomes:
        return "fails", _naming("the interval lies below 0", [p for p, _ in judged if p.outcome == "fails"], several)
    if outcomes == {"holds"}:
        return "holds", "every interval lies above 0" if several else "the interval lies above 0"
    words = [
        _naming(remark or "the interval contains 0", [part], several)
        for part, remark in judged
        if part.outcome == "undecided"
    ]
    return "undecided", "; ".join(words)


def _naming(words: str, parts: Sequence[PartVerdict], several: bool) -> str:
    return f"{words} ({'; '.join(part.text for part in parts)})" if several else words


def _finished(outcome: ArmOutcome) -> bool:
    return outcome.status in FINISHED


def _missing(seeds: Sequence[Mapping[str, ArmOutcome]], arms: Sequence[str], together: bool) -> dict[str, int]:
    """Why trials are missing -> how many."""
    causes: list[str] = []
    for trials in seeds:
        found = [trials[arm].status if arm in trials else "not run" for arm in arms]
        absent = [status for status in found if status not in FINISHED]
        causes += absent[:1] if together else absent
    return dict(sorted(Counter(causes).items()))


def _counted(missing: Mapping[str, int]) -> str:
    return ", ".join(missing) if len(missing) == 1 else ", ".join(f"{count} {why}" for why, count in missing.items())


def difference(old: Registration, new: Registration) -> str:
    """What a claim promises now that it did not promise then, in words; empty where nothing differs.

    >>> difference(Registration("It wins.", ("a", "b"), "x: a > b"), Registration("It wins.", ("a", "c"), "x: a > c"))
    'arms: a, b -> a, c; holds: x: a > b -> x: a > c'
    """
    pairs = {
        "says": (f'"{old.says}"', f'"{new.says}"'),
        "arms": (", ".join(old.arms), ", ".join(new.arms)),
        "holds": (old.holds, new.holds),
    }
    return "; ".join(f"{name}: {then} -> {now}" for name, (then, now) in pairs.items() if then != now)


def weakest(verdict: Verdict) -> PartVerdict | None:
    """The part that the outcome hangs on: the clearest failure of a claim that fails, else the least certain part."""
    if not verdict.parts:
        return None
    if verdict.outcome == "fails":
        return min((part for part in verdict.parts if part.outcome == "fails"), key=lambda part: part.p_value)
    return max(
        verdict.parts, key=lambda part: (math.isnan(part.mean), part.mean <= 0.0, part.outcome != "holds", part.p_value)
    )


def p_value(verdict: Verdict) -> float:
    """The p under which the claim as a whole is tested, NaN where it was not tested; two-sided, of the last look.

    A claim of several parts holds by its weakest, so its p is the largest of theirs; where margins are negative, it
    fails by any, so it is the smallest among those times the number of parts.
    """
    if verdict.outcome is None or verdict.missing or not verdict.parts or len(verdict.seeds) < 2:
        return math.nan
    against = [part.p_value for part in verdict.parts if part.mean <= 0.0]
    if any(math.isnan(part.p_value) for part in verdict.parts):
        return math.nan
    return min(1.0, len(verdict.parts) * min(against)) if against else max(part.p_value for part in verdict.parts)


def summary(verdict: Verdict) -> str:
    """One line for people: `holds  +0.012 [0.004, 0.020] at 95 %, 5 seeds`."""
    if verdict.outcome is None:
        return f"no verdict  {verdict.reason}"
    part = weakest(verdict)
    if verdict.missing or part is None or not math.isfinite(part.low):
        return f"{verdict.outcome}  {verdict.reason}"
    mean, low, high = _digits(part.mean, part.low, part.high)
    text = f"{verdict.outcome}  {mean} [{low}, {high}]{' ' + part.unit if part.unit else ''}"
    text += f" at {100.0 * verdict.level:.6g} %, {len(verdict.seeds)} seeds"
    if len(verdict.parts) > 1:
        text += f", {part.text}"
    if verdict.tags:
        text += f" ({', '.join(verdict.tags)})"
    return text


def _digits(mean: float, low: float, high: float) -> tuple[str, str, str]:
    """The three with as many digits as half the interval's width can bear."""
    half = (high - low) / 2.0
    if half == 0.0 or not 1e-6 < half < 1e6:
        return f"{mean:+.4g}", f"{low:.4g}", f"{high:.4g}"
    digits = max(0, -math.floor(math.log10(half / 3.0)))
    return f"{mean:+.{digits}f}", f"{low:.{digits}f}", f"{high:.{digits}f}"


def _span(interval: statistics.Interval) -> str:
    _, low, high = _digits(interval.mean, interval.low, interval.high)
    return f"[{low}, {high}]"


def _check(criterion: Criterion, arms: Sequence[str], seeds: Sequence[int], on_divergence: str) -> None:
    unknown = sorted({arm for arm, _ in criterion.needs()} - set(arms))
    if unknown:
        raise ValueError(f"the criterion reads arm {unknown[0]!r}; the claim has: {', '.join(arms)}")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be different, got {tuple(seeds)}")
    if on_divergence not in get_args(OnDivergence):
        raise ValueError(f"on_divergence must be 'worst' or 'undecided', got {on_divergence!r}")
