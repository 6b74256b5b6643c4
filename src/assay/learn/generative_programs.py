"""Programs that make random choices, and the one run in which an objective, and all programs in it, meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import update_wrapper
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from assay.learn.gradient_strategies import Alternatives, alternatives, draw, named_strategy

Trace = dict[str, Tensor]


@runtime_checkable
class Generative(Protocol):
    """What can stand for a model or a family: it draws with an estimate of the density of the draw, and scores.

    Where densities are estimates, `simulate` has $E[1/\\hat q \\mid x] = 1/q(x)$, `log_density` $E[\\hat q] = q(x)$.
    """

    def simulate(self, *args: Any) -> tuple[Trace, Tensor]: ...

    def log_density(self, trace: Mapping[str, Tensor], *args: Any) -> Tensor: ...


class Fork(NamedTuple):
    """A choice that is run once for each of its alternatives, and the randomness that follows it."""

    options: Alternatives
    index: int
    state: Tensor


class Run:
    """One run of an objective: its rows, the costs met, and what multiplies them.

    The sum of all costs is the estimate. Each is multiplied by exp(l - stop(l)), l the log probability of all reinforce
    choices before it, and by the weights of all alternatives.
    """

    def __init__(self, rows: tuple[int, ...] = (), tape: list[Any] | None = None) -> None:
        self.rows = torch.Size(rows)
        self.kinds: tuple[str, ...] = ("row",) * len(rows)
        self.tape, self.place = tape, 0
        self.visit: Visit | None = None
        self.plain = False
        self.score: Tensor | None = None
        self.weights: list[Tensor] = []
        self.costs: list[Tensor] = []

    def dims(self, kind: str) -> tuple[int, ...]:
        """The rows of a kind, counted from the right."""
        return tuple(i - len(self.kinds) for i, each in enumerate(self.kinds) if each == kind)

    def lead(self, size: int, kind: str) -> None:
        self.rows, self.kinds = torch.Size((size, *self.rows)), (kind, *self.kinds)

    def choose(self, distribution: Distribution, strategy: str | None, baseline: Tensor | float) -> Tensor:
        """The value of a choice; what its strategy does to the gradient is noted."""
        strategy = named_strategy(distribution, strategy)
        shared = self.dims("alternatives")
        if self.plain or strategy == "reparam":
            reparam = distribution.has_rsample and not self.plain
            return self._noted(lambda: draw(distribution, self.rows, shared, reparam=reparam))
        if strategy == "reinforce":
            value = self._noted(lambda: draw(distribution, self.rows, shared, reparam=False))
            self._reinforce(distribution.log_prob(value), baseline)
            return value
        if self.tape is not None:
            fork = self._noted(lambda: self._fork(distribution, strategy, shared))
            self.weights.append(fork.options.weights[fork.index])
            return fork.options.values[fork.index]
        options = alternatives(distribution, self.rows, self.dims("plate"), shared, strategy)
        self.lead(len(options.values), "alternatives")
        self.weights.append(options.weights)
        return options.values

    def _fork(self, distribution: Distribution, strategy: str, shared: tuple[int, ...]) -> Fork:
        options = alternatives(distribution, self.rows, self.dims("plate"), shared, strategy)
        return Fork(options, 0, torch.get_rng_state())

    def _noted(self, make: Callable[[], Any]) -> Any:
        """What the tape holds at this place, or, past its end, something new that is put there."""
        if self.tape is None:
            return make()
        if self.place == len(self.tape):
            self.tape.append(make())
        self.place += 1
        return self.tape[self.place - 1]

    def _reinforce(self, log_prob: Tensor, baseline: Tensor | float) -> None:
        plates = self.dims("plate")
        if plates:
            log_prob = log_prob.sum(plates, keepdim=True)
        if isinstance(baseline, Tensor) or baseline:
            self.costs.append(torch.as_tensor(baseline).detach() * (1 - (log_prob - log_prob.detach()).exp()))
        self.score = log_prob if self.score is None else self.score + log_prob

    def add_cost(self, cost: Tensor) -> None:
        """Add a cost that the choices made so far, and none made later, are to blame for."""
        if "plate" in self.kinds:
            raise RuntimeError("add_cost must not be called inside a plate: reduce over the plate first")
        try:
            fits = torch.broadcast_shapes(cost.shape, self.rows) == self.rows
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"objective must give one number a row, {tuple(self.rows)} (declare event dimensions with "
                f"torch.distributions.Independent): got {tuple(cost.shape)}"
            )
        self.costs.append(cost if self.score is None else cost * (self.score - self.score.detach()).exp())

    def total(self) -> Tensor:
        """The estimate of this run, a mean over rows, whose gradient is one of the gradient."""
        weight = None
        for each in self.weights:
            weight = each if weight is None else weight * each
        result: Tensor | None = None
        for cost in self.costs:
            cost = cost if weight is None else cost * weight
            rows = self.kinds.count("row")
            shape = cost.shape[max(0, cost.ndim - rows) :]
            cost = cost.sum() / max(1, shape.numel())
            result = cost if result is None else result + cost
        assert result is not None
        return result


_RUN: ContextVar[Run | None] = ContextVar("run", default=None)


def current() -> Run:
    """The run that this code is part of.

    Raises:
        RuntimeError: outside one.
    """
    run = _RUN.get()
    if run is None:
        raise RuntimeError("choices must be made inside a program or an objective: use vi.simulate or vi.expectation")
    return run


@contextmanager
def running(run: Run) -> Iterator[Run]:
    """Make it the current run."""
    token = _RUN.set(run)
    try:
        yield run
    finally:
        _RUN.reset(token)


@contextmanager
def joined() -> Iterator[Run]:
    """The current run, or one of its own whose choices are drawn and not differentiated by their strategies."""
    run = _RUN.get()
    if run is not None:
        yield run
        return
    with running(Run()) as alone:
        alone.plain = True
        yield alone


@contextmanager
def seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Let all draws follow a generator; the global one is put back. With None, the global one is used."""
    if generator is None:
        yield
        return
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(seed))
        yield


class Visit:
    """One pass through a program's body: some choices are given, others drawn if they may be, and all are scored."""

    def __init__(self, given: Mapping[str, Tensor], *, free: bool) -> None:
        self.given, self.free = given, free
        self.trace: Trace = {}
        self.log_probs: dict[str, Tensor] = {}

    def choose(
        self, run: Run, name: str, distribution: Distribution, strategy: str | None, baseline: Tensor | float
    ) -> Tensor:
        if name in self.trace:
            raise ValueError(f"addresses must differ within a program: got {name!r} twice")
        if name in self.given:
            value = self.given[name]
        elif self.free:
            value = run.choose(distribution, strategy, baseline)
        else:
            raise ValueError(f"trace must hold every choice of the program: {name!r} is missing")
        self.trace[name] = value
        self.log_probs[name] = distribution.log_prob(value)
        return value

    def log_density(self, names: Mapping[str, Any] | None = None) -> Tensor:
        """The sum of log probabilities, of all choices or of those named."""
        chosen = [each for name, each in self.log_probs.items() if names is None or name in names]
        if not chosen:
            return torch.zeros(())
        result = chosen[0]
        for each in chosen[1:]:
            result = result + each
        return result


class Program:
    """A function that makes choices with `sample`; made by `program`.

    `simulate` and `log_density` are what objectives use of it. Called inside another program or an objective it runs as
    part of that.
    """

    def __init__(self, body: Callable[..., Any]) -> None:
        self.body = body
        update_wrapper(self, body)

    def __call__(self, *args: Any) -> Any:
        current()
        return self.body(*args)

    def visit(self, given: Mapping[str, Tensor], args: tuple[Any, ...], *, free: bool) -> Visit:
        """Run the body with some choices given."""
        with joined() as run:
            outer, run.visit = run.visit, Visit(given, free=free)
            visit = run.visit
            try:
                self.body(*args)
            finally:
                run.visit = outer
        extra = sorted(given.keys() - visit.trace.keys())
        if extra:
            raise ValueError(f"trace must hold choices of the program only: it never makes {extra[0]!r}")
        return visit

    def simulate(self, *args: Any) -> tuple[Trace, Tensor]:
        visit = self.visit({}, args, free=True)
        return visit.trace, visit.log_density()

    def log_density(self, trace: Mapping[str, Tensor], *args: Any) -> Tensor:
        return self.visit(trace, args, free=False).log_density()


@contextmanager
def leading(size: int) -> Iterator[int]:
    """A plate: `size` independent copies of what is chosen inside, along a new leading dimension.

    Yields that dimension, counted from the right of a row's number. It must be reduced away.
    """
    with joined() as run:
        run.lead(size, "plate")
        dim = -len(run.rows)
        try:
            yield dim
        finally:
            kept = [i for i in range(len(run.rows)) if i != len(run.rows) + dim]
            run.rows, run.kinds = torch.Size(run.rows[i] for i in kept), tuple(run.kinds[i] for i in kept)
        run.score = None if run.score is None else _without(run.score, dim)
        run.weights = [_without(each, dim) for each in run.weights]
        run.costs = [_without(each, dim) for each in run.costs]


def _without(each: Tensor, dim: int) -> Tensor:
    if each.ndim < -dim:
        return each
    if each.shape[dim] != 1:
        raise ValueError(f"baseline must be the same along a plate: got {tuple(each.shape)} inside one")
    return each.squeeze(dim)


def check_count(name: str, count: int) -> None:
    """Refuse what is not at least 1."""
    if count < 1:
        raise ValueError(f"{name} must be 1 or more: got {count}")
