"""How many seeds a claim needs, and how long they take here, from the margins of a pilot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from assay.lab.statistics import Margins, paired_t


@dataclass(frozen=True)
class Plan:
    """Seeds and time that give a claim its verdict with the wanted power, if the pilot's margins are typical.

    `seeds` is None where `max_seeds` are not enough; then so are the minutes. `minutes` is for all seeds,
    `minutes_more` for those beyond the pilot. `seeds_by_part` is what each part alone would need.
    """

    expected: Literal["holds", "fails"]
    seeds: int | None
    pilot_seeds: int
    minutes: float | None
    minutes_more: float | None
    power: float
    level: float
    max_seeds: int
    seeds_by_part: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """One line for people."""
        if self.seeds is None:
            return f"more than {self.max_seeds} seeds: the pilot's margins are too close to 0 for their spread"
        assert self.minutes is not None
        return (
            f"{self.seeds} seeds, {_duration(self.minutes)} on this machine: then '{self.expected}' is seen in "
            f"{100.0 * self.power:g} % of the cases, if the pilot of {self.pilot_seeds} seeds is typical"
        )


def power_of_t(mean: float | int, deviation: float | int, seeds: int, level: float = 0.95) -> float:
    """Chance that the paired t interval of so many margins ~ N(mean, deviation**2) lies on the side of the mean.

    `P(T > t)`, T noncentral t with n - 1 degrees of freedom and noncentrality `|mean| sqrt(n) / deviation`, t the
    two-sided critical value. Where 8 seeds or more also need the studentised bootstrap, the chance is a little lower.

    >>> round(power_of_t(0.5, 1.0, 34), 2)
    0.81
    """
    if deviation < 0.0 or not math.isfinite(deviation) or not math.isfinite(mean):
        raise ValueError(f"mean must be finite and deviation at least 0, got {mean} and {deviation}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if seeds < 2 or mean == 0.0:
        return 0.0 if seeds < 2 else (1.0 - level) / 2.0
    if deviation == 0.0:
        return 1.0
    from scipy.special import nctdtr, stdtrit

    noncentrality = min(abs(mean) / deviation * math.sqrt(seeds), 1e3)
    missed = float(nctdtr(seeds - 1, noncentrality, stdtrit(seeds - 1, 0.5 + level / 2.0)))
    return 1.0 - missed if math.isfinite(missed) else 1.0


def seeds_needed(
    mean: float | int, deviation: float | int, power: float = 0.8, level: float = 0.95, max_seeds: int = 1000
) -> int | None:
    """Fewest seeds (at least 2) for that power; None where `max_seeds` do not reach it.

    >>> seeds_needed(0.5, 1.0)        # the textbook's 34 pairs for an effect of half a standard deviation
    34
    """
    return _seeds_for([(mean, deviation)], power, level, max_seeds)


def plan(
    margins_by_part: Mapping[str, Margins],
    seconds_per_trial: float | int,
    arms: int,
    slots: int,
    power: float = 0.8,
    level: float = 0.95,
    max_seeds: int = 1000,
) -> Plan:
    """Plan a claim from a pilot.

    Where every mean is positive the claim is expected to hold, and all parts have to be seen at once: the seeds are
    those at which the parts' chances of being missed add up to no more than `1 - power`. Else it is expected to fail,
    by whichever part shows it first.

    Args:
        margins_by_part: the pilot's margins of each part, at least 2 and as many in each.
        seconds_per_trial: mean time of one trial.
        arms: trials a seed; 1 for a claim that runs its arms together.
        slots: trials that run at once on this machine.
        power: wanted chance of a verdict.
        level: confidence level of the intervals; the nominal one where there will be looks.
        max_seeds: give up beyond this.

    Raises:
        ValueError: where an argument is out of its range.

    >>> plan({"x: a > b": [0.9, 1.4, 0.1, 1.2, 0.4]}, seconds_per_trial=30, arms=2, slots=2).text
    "6 seeds, 3 min on this machine: then 'holds' is seen in 80 % of the cases, if the pilot of 5 seeds is typical"
    """
    sizes = {len(margins) for margins in margins_by_part.values()}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"margins_by_part must hold parts of the same 2 seeds or more, got {sorted(sizes)} seeds")
    if not (seconds_per_trial >= 0.0 and math.isfinite(seconds_per_trial)):
        raise ValueError(f"seconds_per_trial must be at least 0, got {seconds_per_trial}")
    for name, value in (("arms", arms), ("slots", slots)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    pilot = sizes.pop()
    effects = {text: _effect(margins) for text, margins in margins_by_part.items()}
    by_part = {text: _seeds_for([effect], power, level, max_seeds) for text, effect in effects.items()}
    against = [by_part[text] for text, (mean, _) in effects.items() if mean < 0.0]
    if against:
        seeds = min((n for n in against if n is not None), default=None)
    else:
        seeds = _seeds_for(list(effects.values()), power, level, max_seeds)
    return Plan(
        expected="fails" if against else "holds",
        seeds=seeds,
        pilot_seeds=pilot,
        minutes=None if seeds is None else _minutes(seeds * arms, seconds_per_trial, slots),
        minutes_more=None if seeds is None else _minutes(max(0, seeds - pilot) * arms, seconds_per_trial, slots),
        power=power,
        level=level,
        max_seeds=max_seeds,
        seeds_by_part=by_part,
    )


def _effect(margins: Margins) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of the pilot's margins."""
    interval = paired_t(margins, 0.5)
    if interval.high == interval.low:
        return interval.mean, 0.0
    from scipy.special import stdtrit

    n = len(margins)
    return interval.mean, (interval.high - interval.mean) / float(stdtrit(n - 1, 0.75)) * math.sqrt(n)


def _seeds_for(effects: Sequence[tuple[float, float]], power: float, level: float, max_seeds: int) -> int | None:
    """Fewest seeds at which the chances to miss any of the effects add up to at most `1 - power`."""
    if not 0.0 < power < 1.0:
        raise ValueError(f"power must be between 0 and 1, got {power}")
    if max_seeds < 2:
        raise ValueError(f"max_seeds must be at least 2, got {max_seeds}")

    def enough(seeds: int) -> bool:
        return sum(1.0 - power_of_t(mean, deviation, seeds, level) for mean, deviation in effects) <= 1.0 - power

    few, many = 1, max_seeds
    if not enough(many):
        return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def _minutes(trials: int, seconds: float | int, slots: int) -> float:
    return math.ceil(trials / slots) * seconds / 60.0


def _duration(minutes: float) -> str:
    if minutes < 1.0:
        return f"{60.0 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120.0 else f"{minutes / 60.0:.1f} h"
