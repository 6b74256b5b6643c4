"""Calibration: claims in which there is nothing to find, judged by the very code that judges real ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from assay.lab.criterion import Criterion, all_of, at_least, higher, ratio
from assay.lab.verdict import ArmOutcome, Outcomes, judge

Noise = Literal["gaussian", "lognormal", "t3", "uniform"]
Shape = Literal["higher", "at_least", "ratio", "all_of"]

_DRAWS: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], NDArray[Any]]] = {
    "gaussian": lambda generator, shape: generator.standard_normal(shape),
    "lognormal": lambda generator, shape: generator.lognormal(0.0, 1.0, shape) - math.exp(0.5),
    "t3": lambda generator, shape: generator.standard_t(3, shape) / math.sqrt(3.0),
    "uniform": lambda generator, shape: generator.uniform(-math.sqrt(3.0), math.sqrt(3.0), shape),
}
"""Noise of mean 0."""

_CRITERIA: Mapping[str, Criterion] = {
    "higher": higher("score", "one", than="other"),
    "at_least": at_least("score", 0.0, arm="one"),
    "ratio": ratio("cost", "one", to="other", at_most=1.0),
    "all_of": all_of(higher("score", "one", than="other"), higher("second", "one", than="other")),
}
_ARMS = ("one", "other")


@dataclass(frozen=True)
class Calibration:
    """Shares of null claims that were given each verdict, and the settings they were made with.

    `standard_error` is the Monte-Carlo error of `false_verdicts`.
    """

    false_holds: float
    false_fails: float
    undecided: float
    standard_error: float
    claims: int
    seeds: int
    looks: tuple[int, ...] | None
    collapse_rate: float
    noise: Noise
    criterion: Shape
    level: float

    @property
    def false_verdicts(self) -> float:
        """Share of claims that were said to hold or to fail, though there is nothing."""
        return self.false_holds + self.false_fails


def calibrate(
    claims: int = 2000,
    seeds: int = 5,
    looks: Sequence[int] | None = None,
    collapse_rate: float = 0.0,
    noise: Noise = "gaussian",
    level: float = 0.95,
    generator: np.random.Generator | None = None,
    *,
    criterion: Shape = "higher",
) -> Calibration:
    """Judge null claims: both arms draw the same noise of mean 0 in every seed.

    Of `higher`, `ratio` (of `exp(noise / 10)`) and `all_of` (two measures) at most `1 - level` may be decided, half of
    it as `holds`; of `all_of` fewer hold. `at_least` compares one arm with the true mean of its noise: with lognormal
    noise its margins are as skewed as they come, which is where a t interval is at its worst.

    Args:
        claims: how many.
        seeds: seeds of each; not used where there are looks.
        looks: look at so many seeds, one after the other, and stop at the first verdict.
        collapse_rate: chance of each trial to diverge.
        noise: distribution of the measure.
        level: confidence level.
        generator: source of the noise; by default of seed 0.
        criterion: what the claims promise.

    >>> calibration = calibrate(claims=400, seeds=5)
    >>> 0.01 < calibration.false_verdicts < 0.09, calibration.undecided > 0.9
    (True, True)
    """
    for name, value, allowed in (("noise", noise, get_args(Noise)), ("criterion", criterion, get_args(Shape))):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if claims < 1 or seeds < 2:
        raise ValueError(f"claims must be at least 1 and seeds at least 2, got {claims} and {seeds}")
    if not 0.0 <= collapse_rate < 1.0:
        raise ValueError(f"collapse_rate must be from 0 to below 1, got {collapse_rate}")
    generator = np.random.default_rng(0) if generator is None else generator
    stages = tuple(looks) if looks is not None else (seeds,)
    found = Counter(
        _judged(_CRITERIA[criterion], _trials(stages[-1], collapse_rate, noise, generator), stages, looks, level)
        for _ in range(claims)
    )
    wrong = (found["holds"] + found["fails"]) / claims
    return Calibration(
        false_holds=found["holds"] / claims,
        false_fails=found["fails"] / claims,
        undecided=found["undecided"] / claims,
        standard_error=math.sqrt(wrong * (1.0 - wrong) / claims),
        claims=claims,
        seeds=stages[-1],
        looks=None if looks is None else stages,
        collapse_rate=collapse_rate,
        noise=noise,
        criterion=criterion,
        level=level,
    )


def table(
    seeds: Sequence[int] = (3, 5, 10, 20),
    criteria: Sequence[Shape] = ("higher",),
    noises: Sequence[Noise] = ("gaussian",),
    **settings: Any,
) -> list[Calibration]:
    """`calibrate` for every number of seeds, criterion and noise, each with its own stream of one generator.

    Args:
        seeds: numbers of seeds.
        criteria: see `calibrate`.
        noises: see `calibrate`.
        settings: further arguments of `calibrate`.

    >>> [row.seeds for row in table((3, 5), claims=50)]
    [3, 5]
    """
    source = settings.pop("generator", None) or np.random.default_rng(0)
    cells = [(n, criterion, noise) for criterion in criteria for noise in noises for n in seeds]
    streams = source.spawn(len(cells))
    return [
        calibrate(seeds=n, criterion=criterion, noise=noise, generator=stream, **settings)
        for (n, criterion, noise), stream in zip(cells, streams, strict=True)
    ]


def _trials(seeds: int, collapse_rate: float, noise: Noise, generator: np.random.Generator) -> Outcomes:
    """The trials of one null claim."""
    values = _DRAWS[noise](generator, (seeds, len(_ARMS), 2)).tolist()
    collapsed = (generator.random((seeds, len(_ARMS))) < collapse_rate).tolist()
    return {
        seed: {
            arm: ArmOutcome("diverged", {})
            if collapsed[seed][column]
            else ArmOutcome("ok", {"score": score, "second": second, "cost": math.exp(score / 10.0)})
            for column, arm in enumerate(_ARMS)
            for score, second in [values[seed][column]]
        }
        for seed in range(seeds)
    }


def _judged(
    criterion: Criterion, trials: Outcomes, stages: Sequence[int], looks: Sequence[int] | None, level: float
) -> str:
    """The first verdict at any of the stages."""
    outcome = "undecided"
    for n in stages:
        verdict = judge(criterion, trials, arms=_ARMS, seeds=range(n), size="laptop", looks=looks, level=level)
        outcome = verdict.outcome or "undecided"
        if outcome != "undecided":
            break
    return outcome
