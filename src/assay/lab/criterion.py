"""Criteria: what a claim promises, as one margin a seed; positive is in the claim's favour.

A criterion reads the measures of one seed and says by how much the promise was kept. It knows nothing of statistics:
margins of several seeds become a verdict in `assay.lab.verdict`. Criteria are small frozen values, made of names and
numbers only, so that a claim file can be listed without being run; nothing here imports numpy or torch
until an array has to be looked at.
"""

# ruff: noqa: N801      criteria are written like functions in a claim, and are values with fields

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal, Protocol, cast, runtime_checkable

Direction = Literal["max", "min"]
Results = Mapping[str, Mapping[str, Any]]
"""The results of one seed: arm -> measure -> number or array."""


class MarginError(KeyError):
    """The results of a seed do not hold what a criterion reads; says what they do hold."""

    def __str__(self) -> str:
        return str(self.args[0])


@runtime_checkable
class Criterion(Protocol):
    """One promise, or several that must all be kept (then `parts` are the simple ones)."""

    @property
    def text(self) -> str:
        """The promise in words and signs: `test_accuracy: cmd > sgd - 0.005`."""

    @property
    def direction(self) -> Direction | None:
        """Whether more ("max") or less ("min") of its measure is better; None where neither can be said."""

    @property
    def unit(self) -> str:
        """Unit of the margin where it is not that of the measure."""

    def parts(self) -> tuple[Criterion, ...]:
        """The simple criteria that this one is made of; itself where it is simple."""

    def needs(self) -> frozenset[tuple[str, str]]:
        """The (arm, measure) pairs that the margin reads."""

    def measures(self) -> tuple[str, ...]:
        """Names of the measures, each once."""

    def margin(self, results: Results) -> float:
        """Margin of one seed. NaN where a value is NaN. Raises `MarginError` where one is absent or of a wrong kind."""


class _Simple:
    """What criteria of one margin share."""

    unit: ClassVar[str] = ""
    measure: str

    def parts(self) -> tuple[Criterion, ...]:
        return (cast("Criterion", self),)

    def measures(self) -> tuple[str, ...]:
        return (self.measure,)


@dataclass(frozen=True)
class _Compared(_Simple):
    """A measure of one arm against that of another."""

    measure: str
    arm: str
    than: str = field(kw_only=True)
    by: float | int = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _check_names(measure=self.measure, arm=self.arm, than=self.than)
        _check_apart("than", self.arm, self.than)
        object.__setattr__(self, "by", _checked_number("by", self.by))

    def needs(self) -> frozenset[tuple[str, str]]:
        return frozenset({(self.arm, self.measure), (self.than, self.measure)})


class higher(_Compared):
    """`measure[arm] - measure[than] - by`: the arm has more of it, by more than `by`.

    A negative `by` reads "no worse than": `by=-0.005` allows a loss of 0.005.

    >>> criterion = higher("accuracy", "cmd", than="sgd", by=-0.005)
    >>> criterion.text
    'accuracy: cmd > sgd - 0.005'
    >>> round(criterion.margin({"cmd": {"accuracy": 0.80}, "sgd": {"accuracy": 0.90}}), 6)
    -0.095
    """

    direction: ClassVar[Direction | None] = "max"

    @property
    def text(self) -> str:
        return f"{self.measure}: {self.arm} > {self.than}{_plus(self.by)}"

    def margin(self, results: Results) -> float:
        return _surplus(_number(results, self.arm, self.measure), -_number(results, self.than, self.measure), -self.by)


class lower(_Compared):
    """`measure[than] - measure[arm] - by`: the arm has less of it, by more than `by`.

    >>> lower("loss", "cmd", than="sgd", by=0.25).margin({"cmd": {"loss": 1.0}, "sgd": {"loss": 2.0}})
    0.75
    """

    direction: ClassVar[Direction | None] = "min"

    @property
    def text(self) -> str:
        return f"{self.measure}: {self.arm} < {self.than}{_plus(-self.by)}"

    def margin(self, results: Results) -> float:
        return _surplus(_number(results, self.than, self.measure), -_number(results, self.arm, self.measure), -self.by)


@dataclass(frozen=True)
class _Bounded(_Simple):
    """A measure of one arm against a number."""

    measure: str
    value: float | int
    arm: str = field(kw_only=True)

    def __post_init__(self) -> None:
        _check_names(measure=self.measure, arm=self.arm)
        object.__setattr__(self, "value", _checked_number("value", self.value))

    def needs(self) -> frozenset[tuple[str, str]]:
        return frozenset({(self.arm, self.measure)})


class at_least(_Bounded):
    """`measure[arm] - value`.

    >>> at_least("coverage", 0.5, arm="cmd").margin({"cmd": {"coverage": 0.75}})
    0.25
    """

    direction: ClassVar[Direction | None] = "max"

    @property
    def text(self) -> str:
        return f"{self.measure}: {self.arm} >= {_shown(self.value)}"

    def margin(self, results: Results) -> float:
        return _surplus(_number(results, self.arm, self.measure), -self.value)


class at_most(_Bounded):
    """`value - measure[arm]`.

    >>> at_most("seconds", 2, arm="cmd").margin({"cmd": {"seconds": 1.5}})
    0.5
    """

    direction: ClassVar[Direction | None] = "min"

    @property
    def text(self) -> str:
        return f"{self.measure}: {self.arm} <= {_shown(self.value)}"

    def margin(self, results: Results) -> float:
        return _surplus(self.value, -_number(results, self.arm, self.measure))


@dataclass(frozen=True)
class ratio(_Simple):
    """`log(at_most) - log(measure[arm] / measure[to])`, or `log(measure[arm] / measure[to]) - log(at_least)`.

    Give exactly one of `at_most` and `at_least`, above 0. A measure that is not above 0 gives NaN.

    >>> criterion = ratio("seconds", "ours", to="theirs", at_most=0.5)
    >>> round(criterion.margin({"ours": {"seconds": 1.0}, "theirs": {"seconds": 4.0}}), 6)      # log 2
    0.693147
    """

    unit: ClassVar[str] = "log ratio"
    measure: str
    arm: str
    to: str = field(kw_only=True)
    at_most: float | int | None = field(default=None, kw_only=True)
    at_least: float | int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_names(measure=self.measure, arm=self.arm, to=self.to)
        _check_apart("to", self.arm, self.to)
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(
                f"exactly one of at_most and at_least must be given, got at_most={self.at_most}, "
                f"at_least={self.at_least}"
            )
        name, bound = ("at_least", self.at_least) if self.at_most is None else ("at_most", self.at_most)
        object.__setattr__(self, name, _checked_number(name, bound, above=0.0))

    @property
    def direction(self) -> Direction:
        return "max" if self.at_most is None else "min"

    @property
    def text(self) -> str:
        bound = f">= {_shown(self.at_least)}" if self.at_least is not None else f"<= {_shown(self.at_most)}"
        return f"{self.measure}: {self.arm} / {self.to} {bound}"

    def needs(self) -> frozenset[tuple[str, str]]:
        return frozenset({(self.arm, self.measure), (self.to, self.measure)})

    def margin(self, results: Results) -> float:
        top, bottom = _number(results, self.arm, self.measure), _number(results, self.to, self.measure)
        if not (0.0 < top < math.inf and 0.0 < bottom < math.inf):
            return math.nan
        if self.at_most is not None:
            return _surplus(math.log(self.at_most), -math.log(top), math.log(bottom))
        assert self.at_least is not None
        return _surplus(math.log(top), -math.log(bottom), -math.log(self.at_least))


@dataclass(frozen=True)
class _Near(_Simple):
    """`measure[arm]` is near that of `to`: no more than `within` above or below it."""

    direction: ClassVar[Direction | None] = None
    measure: str
    arm: str
    to: str = field(kw_only=True)
    within: float | int = field(kw_only=True)

    def __post_init__(self) -> None:
        _check_names(measure=self.measure, arm=self.arm, to=self.to)
        _check_apart("to", self.arm, self.to)
        object.__setattr__(self, "within", _checked_number("within", self.within, above=0.0))

    def needs(self) -> frozenset[tuple[str, str]]:
        return frozenset({(self.arm, self.measure), (self.to, self.measure)})


class _NotBelow(_Near):
    """`within + (measure[arm] - measure[to])`."""

    @property
    def text(self) -> str:
        return f"{self.measure}: {self.arm} > {self.to}{_plus(-self.within)}"

    def margin(self, results: Results) -> float:
        return _surplus(self.within, _number(results, self.arm, self.measure), -_number(results, self.to, self.measure))


class _NotAbove(_Near):
    """`within - (measure[arm] - measure[to])`."""

    @property
    def text(self) -> str:
        return f"{self.measure}: {self.arm} < {self.to}{_plus(self.within)}"

    def margin(self, results: Results) -> float:
        return _surplus(self.within, -_number(results, self.arm, self.measure), _number(results, self.to, self.measure))


class close(_Near):
    """`|measure[arm] - measure[to]| < within`, as two one-sided margins; both have to hold. `margin` is the smaller.

    >>> criterion = close("accuracy", "ours", to="theirs", within=0.5)
    >>> [part.margin({"ours": {"accuracy": 1.25}, "theirs": {"accuracy": 1.0}}) for part in criterion.parts()]
    [0.75, 0.25]
    """

    @property
    def text(self) -> str:
        return f"{self.measure}: {self.arm} within {_shown(self.within)} of {self.to}"

    def parts(self) -> tuple[Criterion, ...]:
        return (
            _NotBelow(self.measure, self.arm, to=self.to, within=self.within),
            _NotAbove(self.measure, self.arm, to=self.to, within=self.within),
        )

    def margin(self, results: Results) -> float:
        return _smallest(part.margin(results) for part in self.parts())


@dataclass(frozen=True)
class monotone(_Simple):
    """Smallest step of the curve `measure[arm]` in the promised direction, minus `by`; the measure is a 1-D array.

    A negative `by` allows steps back of up to `-by`.

    >>> monotone("curve", arm="cmd").margin({"cmd": {"curve": [1.0, 2.0, 2.5]}})
    0.5
    """

    direction: ClassVar[Direction | None] = None
    measure: str
    arm: str = field(kw_only=True)
    increasing: bool = field(default=True, kw_only=True)
    by: float | int = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _check_names(measure=self.measure, arm=self.arm)
        if not isinstance(self.increasing, bool):
            raise TypeError(f"increasing must be True or False, got {self.increasing!r}")
        object.__setattr__(self, "by", _checked_number("by", self.by))

    @property
    def text(self) -> str:
        by = "" if self.by == 0.0 else f" by more than {_shown(self.by)} a step"
        return f"{self.measure}: {self.arm} {'rises' if self.increasing else 'falls'} throughout{by}"

    def needs(self) -> frozenset[tuple[str, str]]:
        return frozenset({(self.arm, self.measure)})

    def margin(self, results: Results) -> float:
        curve = _array(results, self.arm, self.measure)
        if curve.ndim != 1 or len(curve) < 2 or curve.dtype.kind not in "iuf":
            raise MarginError(
                f"{self.measure!r} of arm {self.arm!r} must be a 1-D array of at least 2 numbers, "
                f"got {curve.dtype} of shape {curve.shape}"
            )
        sign = 1.0 if self.increasing else -1.0
        values = [sign * float(value) for value in curve]
        return _smallest(_surplus(after, -before, -self.by) for before, after in pairwise(values))


@dataclass(frozen=True)
class identical(_Simple):
    """+1 where `measure` of both arms is the same number or array (same shape, each within `atol`), else -1.

    >>> identical("image", "ours", to="theirs").margin({"ours": {"image": [1, 2]}, "theirs": {"image": [1, 3]}})
    -1.0
    """

    direction: ClassVar[Direction | None] = None
    measure: str
    arm: str
    to: str = field(kw_only=True)
    atol: float | int = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _check_names(measure=self.measure, arm=self.arm, to=self.to)
        _check_apart("to", self.arm, self.to)
        object.__setattr__(self, "atol", _checked_number("atol", self.atol, least=0.0))

    @property
    def text(self) -> str:
        within = "" if self.atol == 0.0 else f" within {_shown(self.atol)}"
        return f"{self.measure}: {self.arm} identical to {self.to}{within}"

    def needs(self) -> frozenset[tuple[str, str]]:
        return frozenset({(self.arm, self.measure), (self.to, self.measure)})

    def margin(self, results: Results) -> float:
        import numpy as np

        one, other = _array(results, self.arm, self.measure), _array(results, self.to, self.measure)
        if any(np.isnan(value).any() for value in (one, other)):
            return math.nan
        if one.shape != other.shape:
            return -1.0
        same = one == other
        if self.atol > 0.0:
            with np.errstate(invalid="ignore", over="ignore"):
                same = same | (np.abs(one * 1.0 - other * 1.0) <= self.atol)
        return 1.0 if bool(np.all(same)) else -1.0


@dataclass(frozen=True, init=False)
class all_of:
    """Holds when each of the criteria holds, fails when any fails. `margin` is the smallest of theirs.

    >>> all_of(at_least("a", 1, arm="x"), at_most("b", 2, arm="x")).margin({"x": {"a": 4.0, "b": 0.5}})
    1.5
    """

    criteria: tuple[Criterion, ...]
    unit: ClassVar[str] = ""

    def __init__(self, *criteria: Criterion) -> None:
        if not criteria:
            raise ValueError("all_of needs at least one criterion, got none")
        for criterion in criteria:
            if not isinstance(criterion, Criterion):
                raise TypeError(f"all_of takes criteria ({', '.join(CRITERIA)}), got {criterion!r}")
        object.__setattr__(self, "criteria", tuple(criteria))

    @property
    def text(self) -> str:
        return (
            self.criteria[0].text if len(self.criteria) == 1 else f"all of: {'; '.join(c.text for c in self.criteria)}"
        )

    @property
    def direction(self) -> Direction | None:
        directions = {criterion.direction for criterion in self.criteria}
        return directions.pop() if len(directions) == 1 and len(self.measures()) == 1 else None

    def parts(self) -> tuple[Criterion, ...]:
        return tuple(part for criterion in self.criteria for part in criterion.parts())

    def needs(self) -> frozenset[tuple[str, str]]:
        return frozenset().union(*(criterion.needs() for criterion in self.criteria))

    def measures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for criterion in self.criteria for name in criterion.measures()))

    def margin(self, results: Results) -> float:
        return _smallest(criterion.margin(results) for criterion in self.criteria)


CRITERIA: dict[str, Callable[..., Criterion]] = {
    "higher": higher,
    "lower": lower,
    "at_least": at_least,
    "at_most": at_most,
    "ratio": ratio,
    "close": close,
    "monotone": monotone,
    "identical": identical,
    "all_of": all_of,
}
"""The criteria by the names that claim files use."""


def _value(results: Results, arm: str, measure: str) -> Any:
    if arm not in results:
        raise MarginError(f"no results of arm {arm!r}; there are those of: {', '.join(results) or 'none'}")
    if measure not in results[arm]:
        raise MarginError(
            f"arm {arm!r} did not return {measure!r}; it returned: {', '.join(results[arm]) or 'nothing'}"
        )
    return results[arm][measure]


def _number(results: Results, arm: str, measure: str) -> float:
    value = _value(results, arm, measure)
    shape = getattr(value, "shape", None)
    if isinstance(value, int | float) or (shape == () and getattr(value.dtype, "kind", "object") in "biuf"):
        return float(value)
    got = type(value).__name__ if shape is None else f"{value.dtype} of shape {tuple(shape)}"
    raise MarginError(f"{measure!r} of arm {arm!r} must be a real number, got {got}")


def _array(results: Results, arm: str, measure: str) -> Any:
    import numpy as np

    array = np.asarray(_value(results, arm, measure))
    if array.dtype.kind not in "biufc":
        raise MarginError(f"{measure!r} of arm {arm!r} must be numbers, got an array of {array.dtype}")
    return array


def _surplus(*terms: float) -> float:
    """The sum of the terms; a sum within rounding of 0 is 0, so that 0.4 - 0.3 - 0.1 is a tie and no win."""
    largest = max(map(abs, terms))
    if not math.isfinite(largest):
        return sum(terms)
    total = math.fsum(terms)
    return 0.0 if abs(total) <= 4 * sys.float_info.epsilon * largest else total


def _smallest(margins: Iterable[float]) -> float:
    known = list(margins)
    return math.nan if any(map(math.isnan, known)) else min(known)


def _check_names(**names: object) -> None:
    for argument, name in names.items():
        if not isinstance(name, str):
            raise TypeError(f"{argument} must be a name (a string), got {name!r}")
        if not name or name != name.strip():
            raise ValueError(f"{argument} must be a name without blanks around it, got {name!r}")


def _check_apart(argument: str, arm: str, other: str) -> None:
    if arm == other:
        raise ValueError(f"{argument} must name another arm than {arm!r}")


def _checked_number(argument: str, value: object, *, above: float = -math.inf, least: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    if not math.isfinite(value) or value <= above or value < least:
        allowed = "finite" + (f" and above {above:g}" if above > -math.inf else "")
        allowed += f" and at least {least:g}" if least > -math.inf else ""
        raise ValueError(f"{argument} must be {allowed}, got {value!r}")
    return float(value)


def _shown(value: float | None) -> str:
    """The shortest decimal that reads back as the same number."""
    return repr(value).removesuffix(".0")


def _plus(value: float) -> str:
    return "" if value == 0.0 else f" {'+' if value > 0.0 else '-'} {_shown(abs(value))}"
