"""A claim: one sentence a paper promises, and the function that runs it for one arm and one seed."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from assay.lab.criterion import Criterion
from assay.lab.record import Registration
from assay.lab.spelling import nearest

SIZES = ("smoke", "laptop", "paper")
TUNING_SEEDS = (1000, 1001)

Function = TypeVar("Function", bound=Callable[..., Any])


class ClaimError(ValueError):
    """A claim, or a setting given to it, is not well formed. The message is one line, fit for a terminal."""


@dataclass(frozen=True)
class Tune:
    """A grid of settings from which every arm picks its own best, once, on held-out training data.

    Args:
        grid: setting -> values, the same for every arm, or setting -> {arm: values} with equally many values for each.
        by: the measure that decides; empty takes the first one that the claim's criterion reads.
        best: `"max"` or `"min"`; empty takes the criterion's direction.
        arm: for `together` claims, whose arms share their settings: the arm whose measure decides.
        seeds: the seeds used for tuning. No verdict ever uses them.
    """

    grid: Mapping[str, Any]
    by: str = ""
    best: str = ""
    arm: str = ""
    seeds: tuple[int, ...] = TUNING_SEEDS


@dataclass(frozen=True)
class ClaimOutline:
    """Everything about a claim but its function. Can be read from the source text without importing torch."""

    id: str
    paper: str
    says: str
    arms: tuple[str, ...]
    holds: Criterion
    sizes: Mapping[str, Mapping[str, Any]]
    seeds: int = 5
    together: bool = False
    exclusive: bool = False
    control: bool = False
    tune: Tune | None = None
    reported: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    on_divergence: str = "worst"
    doc: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        where = f"claim {self.key}"
        if not self.says.strip():
            raise ClaimError(f"{where}: says is empty; it must hold the sentence that the paper promises")
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise ClaimError(f"{where}: arms={self.arms!r} must name at least one arm, each once")
        unknown = sorted({arm for arm, _ in self.holds.needs()} - set(self.arms))
        if unknown:
            raise ClaimError(f"{where}: holds names the arm {unknown[0]!r}, which is not among {self.arms!r}")
        for size, settings in self.sizes.items():
            for name in settings:
                if name not in self.sizes["laptop"]:
                    raise ClaimError(f"{where}: {size}= sets {name!r}, which is no keyword of the function")
        if self.exclusive and not self.together:
            raise ClaimError(f"{where}: exclusive claims compare their arms within one trial; add together=True")
        if self.on_divergence not in ("worst", "undecided"):
            raise ClaimError(f"{where}: on_divergence={self.on_divergence!r} must be 'worst' or 'undecided'")
        if self.seeds < 1:
            raise ClaimError(f"{where}: seeds={self.seeds} must be at least 1")
        if self.tune is not None:
            self._check_tuning(self.tune)

    @property
    def key(self) -> str:
        return f"{self.paper}/{self.id}"

    @property
    def registration(self) -> Registration:
        return Registration(self.says, self.arms, self.holds.text)

    def size_of(self, settings: Mapping[str, Any]) -> str:
        """The name of the size these settings are, or `"custom"`."""
        return next((size for size in SIZES if dict(self.sizes.get(size, {})) == dict(settings)), "custom")

    def settings(self, size: str = "laptop", overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The full settings of a size, with overrides checked against the function's keywords and their types.

        Raises:
            ClaimError: the size or a setting's name is unknown, or a value has the wrong type.
        """
        if size not in self.sizes:
            raise ClaimError(f"size {size!r} is not one of {', '.join(self.sizes)}")
        settings = dict(self.sizes[size])
        for name, value in (overrides or {}).items():
            if name not in settings:
                raise ClaimError(f"{self.key} has no setting {name!r}{nearest(name, settings)}")
            settings[name] = coerce(value, settings[name], where=f"{self.key}: setting {name}")
        return settings

    def _check_tuning(self, tune: Tune) -> None:
        where = f"claim {self.key}"
        if "validate" not in self.sizes["laptop"]:
            raise ClaimError(f"{where}: tune= needs a keyword validate=False, by which the test data are kept out")
        if self.together and tune.arm not in self.arms:
            raise ClaimError(f"{where}: a together claim tunes by one arm: Tune(arm=...) must be one of {self.arms!r}")
        for name, values in tune.grid.items():
            if name not in self.sizes["laptop"]:
                raise ClaimError(f"{where}: tune= sets {name!r}, which is no keyword of the function")
            if isinstance(values, Mapping):
                if set(values) != set(self.arms):
                    raise ClaimError(f"{where}: tune={name!r} must give a grid to each of {self.arms!r}")
                if len({len(grid) for grid in values.values()}) != 1:
                    raise ClaimError(f"{where}: tune={name!r} must give all arms equally many values")


@dataclass(frozen=True)
class Claim:
    """A claim that can be run: its outline and its function."""

    outline: ClaimOutline
    function: Callable[..., Any]


def claim(
    key: str,
    /,
    *,
    says: str,
    arms: Sequence[str],
    holds: Criterion,
    smoke: Mapping[str, Any] | None = None,
    paper: Mapping[str, Any] | None = None,
    seeds: int = 5,
    together: bool = False,
    exclusive: bool = False,
    control: bool = False,
    tune: Tune | Mapping[str, Any] | None = None,
    reported: Mapping[str, Any] | None = None,
    left_out: Sequence[str] = (),
    on_divergence: str = "worst",
) -> Callable[[Function], Function]:
    """Declare a function `(arm, seed, *, **settings) -> {measure: float or array}` to be a claim of a paper.

    The function must be pure: everything it returns follows from its arguments. The laboratory seeds torch, numpy and
    random with `seed`, pins the threads, times it, catches what it raises and stores what it returns. Its keyword
    defaults are the laptop size. It stays an ordinary function, and its name is the claim's id.

    Args:
        key: key of the paper in the catalogue.
        says: the sentence, written from the paper before the first run.
        arms: the contenders, the method first.
        holds: the criterion that turns trials into one margin per seed.
        smoke: settings that make the function end within seconds; used by the tests, never for a verdict.
        paper: settings of the paper's own experiment.
        seeds: how many seeds a run takes unless told otherwise.
        together: the arms of one seed share their work; the function takes `(arms, seed, ...)` and returns
            `{arm: {measure: value}}`.
        exclusive: a claim about time or memory: `together`, and nothing else runs on the machine meanwhile.
        control: a claim that must not hold (the same arm twice, a sabotaged method); shown apart.
        tune: a grid that every arm searches once on held-out data (see `Tune`).
        reported: the paper's own numbers, with the table they stand in.
        left_out: what the laptop size leaves out of the paper's setting.
        on_divergence: `"worst"` gives a collapsed run the worst value seen, `"undecided"` withholds the verdict.

    Raises:
        ClaimError: the declaration contradicts itself or the function's signature.

    Example:
        >>> from assay.lab import claim, higher
        >>> heads_win = higher("score", "heads", than="tails")
        >>> @claim("coin", says="Heads beats tails.", arms=("heads", "tails"), holds=heads_win)
        ... def wins(arm, seed, *, tosses=10):
        ...     return {"score": float(arm == "heads") * tosses}
        >>> wins("heads", 0)
        {'score': 10.0}
        >>> wins.claim.outline.settings(overrides={"tosses": "20"})
        {'tosses': 20}
    """

    def declare(function: Function) -> Function:
        outline = ClaimOutline(
            id=function.__name__,
            paper=key,
            says=says,
            arms=tuple(arms),
            holds=holds,
            sizes=sizes(function.__name__, laptop_settings(function), smoke, paper),
            seeds=seeds,
            together=together,
            exclusive=exclusive,
            control=control,
            tune=tune if isinstance(tune, Tune) or tune is None else Tune(tune),
            reported=dict(reported or {}),
            left_out=tuple(left_out),
            on_divergence=on_divergence,
            doc=inspect.getdoc(function) or "",
        )
        function.claim = Claim(outline, function)  # type: ignore[attr-defined]
        return function

    return declare


def laptop_settings(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword defaults of a claim's function."""
    settings = {}
    for name, parameter in list(inspect.signature(function).parameters.items())[2:]:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise ClaimError(f"claim {function.__name__}: {name!r} must be a keyword-only argument with a default")
        settings[name] = parameter.default
    return settings


def sizes(
    name: str, laptop: Mapping[str, Any], smoke: Mapping[str, Any] | None, paper: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """The settings of every size that a claim has, in full."""
    found = {"laptop": dict(laptop)}
    for size, changes in (("smoke", smoke), ("paper", paper)):
        if changes is not None:
            found[size] = {**laptop, **changes}
            for key in changes:
                if key not in laptop:
                    raise ClaimError(f"claim {name}: {size} sets {key!r}{nearest(key, laptop)}")
    return {size: found[size] for size in SIZES if size in found}


def coerce(value: Any, default: Any, *, where: str) -> Any:
    """`value`, possibly text from a command line, as the type of `default`.

    >>> coerce("3", 1.0, where="lr"), coerce("yes", False, where="flag"), coerce("(1, 2)", (0,), where="widths")
    (3.0, True, (1, 2))
    """
    kind = type(default)
    if isinstance(value, str) and kind is not str:
        words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        if kind is bool and value.lower() in words:
            return words[value.lower()]
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            if default is not None:
                raise ClaimError(f"{where} takes {_named(kind)}, not {value!r}") from None
    if default is None or type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind in (tuple, list) and isinstance(value, tuple | list):
        return kind(value)
    raise ClaimError(f"{where} takes {_named(kind)}, not {value!r}")


def _named(kind: type) -> str:
    return {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}.get(
        kind.__name__, f"a {kind.__name__}"
    )
