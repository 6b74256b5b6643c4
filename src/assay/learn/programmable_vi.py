r"""Programmable variational inference: objectives are programs over models and families, and differentiate themselves.

A model or a family is a function that makes choices with `sample`; an objective is a function of no arguments that
returns numbers and may draw (`sample`, `simulate`) and score (`log_density`). `expectation` makes an estimator of

$$L(\theta) = E[\text{objective}], \qquad \nabla_\theta L$$

of it, unbiased for every mix of the strategies that its choices name. Write k for all that follows a choice x ~ p:

- `reparam`: x is a differentiable function of p's parameters and of noise;
- `reinforce`: $\nabla E[k] = E[\nabla k + (k - b) \nabla \log p(x)]$ with b a `baseline`;
- `enumerate`: $\nabla \sum_x p(x) k(x)$, exactly;
- `measure_valued`: $\nabla E[k] = E[\nabla k] + c\, (E_{p^+} k - E_{p^-} k)$, for Bernoulli and normal choices.

Shapes: a program runs for many rows at once. Whatever it chooses has the rows in front, and a distribution's
batch shape must broadcast to them; dimensions that belong to one choice are declared, by
`torch.distributions.Independent`. `plate` and the alternatives of a choice add rows in front: write code that
broadcasts.

The paper: Becker, Lew, Wang, Ghavami, Huot, Rinard and Mansinghka, Probabilistic Programming with Programmable
Variational Inference (PLDI 2024, arXiv:2406.15742); gradients as in ADEV (Lew et al., POPL 2023).

    from assay.learn import vi

Example:
    >>> from torch.distributions import Normal
    >>> mean = torch.tensor(0.0, requires_grad=True)
    >>> @program
    ... def model():
    ...     x = sample("x", Normal(0.0, 1.0))
    ...     sample("y", Normal(x, 1.0))
    >>> @program
    ... def family():
    ...     sample("x", Normal(mean, 0.5**0.5))
    >>> value, (slope,) = elbo(model, family, {"y": torch.tensor(2.0)}).value_and_grad(
    ...     [mean], samples=10_000, generator=torch.Generator().manual_seed(0)
    ... )
    >>> round(value.item(), 1), round(slope.item(), 1)  # log N(2; 0, 2) - 1, 2 (1 - mean)
    (-3.3, 2.0)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from assay.learn.approximate_densities import marginal, merged, normalize, summed
from assay.learn.generative_programs import (
    Fork,
    Generative,
    Program,
    Run,
    Trace,
    check_count,
    current,
    leading,
    running,
    seeded,
)
from assay.losses.checks import readable

__all__ = [
    "Estimator",
    "Program",
    "add_cost",
    "elbo",
    "expectation",
    "iwelbo",
    "log_density",
    "marginal",
    "normalize",
    "plate",
    "program",
    "sample",
    "simulate",
    "wake",
]


def program(body: Callable[..., Any]) -> Program:
    """Make a program of a function that makes choices with `sample`; a decorator.

    Inside another program or an objective it may be called like a function, and its choices are then theirs.

    Args:
        body: any function of positional arguments.

    The paper: its generative language, as in figure 2.

    Example:
        >>> from torch.distributions import Bernoulli
        >>> @program
        ... def coin(p):
        ...     sample("heads", Bernoulli(p))
        >>> round(log_density(coin, {"heads": torch.tensor(1.0)}, torch.tensor(0.3)).exp().item(), 3)
        0.3
    """
    return Program(body)


def sample(
    name: str,
    distribution: Distribution,
    *,
    strategy: str | None = None,
    baseline: Float[Tensor, "..."] | float = 0.0,
) -> Tensor:
    r"""Make a choice: the value at an address, with a strategy for the gradient of what follows.

    Args:
        name: the address; each may be used once in a program. In an objective itself it is only a name.
        distribution: its batch shape broadcasts to the rows, its event shape is that of one choice.
        strategy: "reparam", "reinforce", "enumerate" or "measure_valued"; None takes reparam where it can be, and
            reinforce where not. Components of a choice are enumerated together (2^d values for d coins); a
            measure-valued derivative continues with d + 1 values for d coins and 3 d + 1 for d normal components.
        baseline: $b$ of reinforce, one number or one a row; it may depend on earlier choices, not on this one.

    Returns:
        (*rows, *event). Rows of alternatives of which the distribution does not know have length 1, or are missing.

    The paper: the strategies behind figure 7; pairs of a normal's derivative after Mohamed et al. (2020), table 1.

    Differs from the paper: the strategy is an argument, not part of the distribution's name, and components of one
    choice have a measure-valued derivative too.

    Raises:
        RuntimeError: outside a program and an objective.
        ValueError: for an unknown strategy, one that the distribution does not have, undeclared dimensions, an address
            used twice, an enumeration of more than 65,536 values.

    Example:
        >>> from torch.distributions import Bernoulli
        >>> p = torch.tensor(0.3, requires_grad=True)
        >>> estimator = expectation(lambda: 5 * sample("b", Bernoulli(p), strategy="measure_valued"))
        >>> estimator.value_and_grad([p])[1]  # 5 (1 - 0), whatever is drawn
        [tensor(5.)]
    """
    run = current()
    if run.visit is None:
        return run.choose(distribution, strategy, baseline)
    return run.visit.choose(run, name, distribution, strategy, baseline)


def simulate(
    generative: Generative, *args: Any, generator: torch.Generator | None = None
) -> tuple[Trace, Float[Tensor, "..."]]:
    """Run a program: its choices by address, and the log density (or an estimate of it) at them, one a row.

    Args:
        generative: a program, or what `marginal` and `normalize` make.
        args: of the program.
        generator: for draws outside an objective; None uses the global one.

    The paper: its construct `sim`.

    Example:
        >>> from torch.distributions import Normal
        >>> @program
        ... def wide():
        ...     sample("x", Normal(0.0, 10.0))
        >>> with plate(3):
        ...     trace, log_q = simulate(wide)
        >>> trace["x"].shape, torch.equal(log_q, Normal(0.0, 10.0).log_prob(trace["x"]))
        (torch.Size([3]), True)
    """
    with seeded(generator):
        return generative.simulate(*args)


def log_density(generative: Generative, trace: Mapping[str, Any], *args: Any) -> Float[Tensor, "..."]:
    """The log density of a program (or an estimate of it) at a trace that holds all its choices, one a row.

    Args:
        generative: a program, or what `marginal` and `normalize` make.
        trace: address -> value.
        args: of the program.

    The paper: its construct `density`.

    Raises:
        ValueError: naming the address, for a trace that lacks a choice or holds one that is not made.

    Example:
        >>> from torch.distributions import Normal
        >>> @program
        ... def pair():
        ...     x = sample("x", Normal(0.0, 1.0))
        ...     sample("y", Normal(x, 2.0))
        >>> found = log_density(pair, {"x": torch.tensor(1.0), "y": torch.tensor(1.0)})
        >>> round(found.item(), 4)  # -1/2 - log 2 - log(2 pi)
        -3.031
    """
    return generative.log_density(trace, *args)


@contextmanager
def plate(size: int) -> Iterator[int]:
    """Make `size` independent copies of every choice inside, along a new leading dimension.

    Yields the dimension, counted from the right, by which a number a row is to be reduced before the objective
    returns: `with plate(5) as dim: ...` and `torch.logsumexp(weights, dim)`.

    Args:
        size: 1 or more.

    Raises:
        ValueError: for a size below 1.

    Example:
        >>> from torch.distributions import Normal
        >>> def average():
        ...     with plate(4) as dim:
        ...         x = sample("x", Normal(3.0, 0.0001))
        ...     return x.mean(dim)
        >>> round(expectation(average)(samples=2).item(), 2)
        3.0
    """
    check_count("size", size)
    with leading(size) as dim:
        yield dim


def add_cost(cost: Float[Tensor, "..."]) -> None:
    """Add a number to the objective here, so that no choice made later is held responsible for it.

    What an objective returns is held against all its choices; the expectation is the same, the variance of reinforce
    is not.

    Args:
        cost: one number a row.

    The paper: `add_cost` of its implementation, from ADEV (Lew et al., 2023).

    Raises:
        RuntimeError: outside an objective, and inside a plate.
        ValueError: for what is not one number a row.

    Example:
        >>> from torch.distributions import Bernoulli
        >>> p = torch.tensor(0.5, requires_grad=True)
        >>> def objective():
        ...     add_cost(torch.tensor(1000.0))
        ...     return 0 * sample("b", Bernoulli(p), strategy="reinforce")
        >>> value, (slope,) = expectation(objective).value_and_grad([p])
        >>> value.item(), abs(slope.item())  # returned, 1000 would be multiplied by 2 or -2
        (1000.0, 0.0)
    """
    current().add_cost(cost)


class Estimator:
    """An estimator of an expectation and of its gradient; made by `expectation` and by what calls it.

    Called, it gives a number whose value is an unbiased estimate and whose gradient, `backward()`, is one of the
    gradient: `loss = -estimator(); loss.backward()`. First derivatives are unbiased for every strategy.

    Args:
        objective: a function of no arguments that returns one number a row.
        rows: the rows of the objective, as in a batch of examples; the estimate is the mean over them.
        branching: run the objective once for every sample and every alternative, so that Python may branch on a choice.

    Raises:
        ValueError: when called, for samples below 1, what is not one number a row, an estimate that is NaN.

    Example:
        >>> from torch.distributions import Bernoulli
        >>> p = torch.tensor(0.25, requires_grad=True)
        >>> def objective():
        ...     return torch.tensor(8.0) if sample("b", Bernoulli(p), strategy="enumerate") else torch.tensor(4.0)
        >>> Estimator(objective, branching=True).value_and_grad([p])  # 4 + 4 p
        (tensor(5.), [tensor(4.)])
    """

    def __init__(self, objective: Callable[[], Any], *, rows: Sequence[int] = (), branching: bool = False) -> None:
        for size in rows:
            check_count("rows", size)
        self.objective, self.rows, self.branching = objective, tuple(rows), branching

    def __call__(self, *, samples: int = 1, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """The mean of `samples` independent estimates, differentiable."""
        check_count("samples", samples)
        with seeded(generator):
            if self.branching:
                value = torch.stack([self._branch() for _ in range(samples)]).mean()
            else:
                value = self._once(Run((samples, *self.rows) if samples > 1 else self.rows))
        if readable(value) and value.isnan():
            raise ValueError("objective must not be NaN: got NaN")
        return value

    def value_and_grad(
        self, params: Iterable[Tensor], generator: torch.Generator | None = None, samples: int = 1
    ) -> tuple[Float[Tensor, ""], list[Tensor]]:
        """The estimate, and of its gradient one tensor for each parameter; zeros where it does not depend on one."""
        params = list(params)
        value = self(samples=samples, generator=generator)
        if not value.requires_grad:
            return value, [torch.zeros_like(p) for p in params]
        return value.detach(), list(torch.autograd.grad(value, params, allow_unused=True, materialize_grads=True))

    def _once(self, run: Run) -> Tensor:
        with running(run):
            cost = self.objective()
            if not isinstance(cost, Tensor):
                raise TypeError(f"objective must return a tensor: got {type(cost).__name__}")
            run.add_cost(cost)
        return run.total()

    def _branch(self) -> Tensor:
        """Depth first through all alternatives; what follows a choice sees the same randomness in each."""
        tape: list[Any] = []
        total = self._once(Run(self.rows, tape))
        while True:
            while tape and not (isinstance(tape[-1], Fork) and tape[-1].index + 1 < len(tape[-1].options.values)):
                tape.pop()
            if not tape:
                return total
            tape[-1] = tape[-1]._replace(index=tape[-1].index + 1)
            torch.set_rng_state(tape[-1].state)
            total = total + self._once(Run(self.rows, tape))


def expectation(objective: Callable[[], Any], *, rows: Sequence[int] = (), branching: bool = False) -> Estimator:
    r"""The expectation of an objective, $L(\theta) = E[\text{objective}]$, as an estimator of it and of its gradient.

    Args:
        objective: a function of no arguments that returns one number a row, with choices made by `sample` and
            `simulate`. Parameters are whatever tensors it uses.
        rows: as in a batch of 64 examples, (64,); the expectation is then the mean over them.
        branching: whether Python branches on choices. Then the objective runs once for every sample and every
            alternative; otherwise it runs once, for all together, and branches with `torch.where`.

    The paper: its construct `E`, and the translation by ADEV.

    Differs from the paper: JAX there, PyTorch here. Alternatives become a dimension, or runs of their own, in
    place of continuations.

    Example:
        >>> from torch.distributions import Normal
        >>> m = torch.tensor(1.5, requires_grad=True)
        >>> square = expectation(lambda: sample("x", Normal(m, 1.0), strategy="measure_valued") ** 2)
        >>> _, (slope,) = square.value_and_grad([m], torch.Generator().manual_seed(0), samples=20_000)
        >>> round(slope.item(), 1)  # 2 m
        3.0
    """
    return Estimator(objective, rows=rows, branching=branching)


def elbo(
    model: Generative,
    family: Generative,
    data: Mapping[str, Tensor],
    *,
    model_args: Sequence[Any] = (),
    family_args: Sequence[Any] = (),
    rows: Sequence[int] = (),
) -> Estimator:
    r"""The evidence lower bound, $E_{x \sim q}[\log p(x, y) - \log q(x)]$.

    Args:
        model: $p$; chooses what the family chooses, and the data.
        family: $q$.
        data: address -> observed value.
        model_args: arguments of the model.
        family_args: arguments of the family.
        rows: of model and family, as in `expectation`.

    The paper: figure 2.

    Raises:
        ValueError: for an address in both family and data; when called, as `Estimator` and `log_density`.

    Example:
        >>> from torch.distributions import Normal
        >>> @program
        ... def model():
        ...     x = sample("x", Normal(0.0, 1.0))
        ...     sample("y", Normal(x, 1.0))
        >>> @program
        ... def posterior():
        ...     sample("x", Normal(1.0, 0.5**0.5))
        >>> round(elbo(model, posterior, {"y": torch.tensor(2.0)})().item(), 3)  # log N(2; 0, 2), whatever is drawn
        -2.266
    """

    def objective() -> Tensor:
        trace, log_q = family.simulate(*family_args)
        return model.log_density(merged(trace, data), *model_args) - log_q

    return Estimator(objective, rows=rows)


def iwelbo(
    model: Generative,
    family: Generative,
    data: Mapping[str, Tensor],
    *,
    particles: int,
    model_args: Sequence[Any] = (),
    family_args: Sequence[Any] = (),
    rows: Sequence[int] = (),
) -> Estimator:
    r"""The importance-weighted bound, $E \log \frac1K \sum_{k=1}^K p(x_k, y) / q(x_k)$.

    Args:
        model, family, data, model_args, family_args, rows: as in `elbo`.
        particles: $K$, 1 or more; with 1 it is the `elbo`.

    The paper: table 4, IWELBO; Burda, Grosse and Salakhutdinov (2016).

    Raises:
        ValueError: as `elbo`, and for particles below 1.

    Example:
        >>> from torch.distributions import Normal
        >>> @program
        ... def model():
        ...     x = sample("x", Normal(0.0, 1.0))
        ...     sample("y", Normal(x, 1.0))
        >>> @program
        ... def prior():
        ...     sample("x", Normal(0.0, 1.0))
        >>> g, y = torch.Generator().manual_seed(0), {"y": torch.tensor(2.0)}
        >>> [round(iwelbo(model, prior, y, particles=k)(samples=20_000, generator=g).item(), 1) for k in (1, 1000)]
        [-3.4, -2.3]
    """
    check_count("particles", particles)

    def objective() -> Tensor:
        with leading(particles) as dim:
            trace, log_q = family.simulate(*family_args)
            weights = model.log_density(merged(trace, data), *model_args) - log_q
        return summed(weights, dim, particles) - math.log(particles)

    return Estimator(objective, rows=rows)


def wake(
    model: Generative,
    family: Generative,
    data: Mapping[str, Tensor],
    *,
    particles: int,
    model_args: Sequence[Any] = (),
    family_args: Sequence[Any] = (),
    rows: Sequence[int] = (),
) -> Estimator:
    r"""Reweighted wake-sleep, both wake phases: $\sum_k \bar w_k (\nabla \log p(x_k, y) + \nabla \log q(x_k))$.

    $\bar w_k$ are normalised importance weights, $x_k \sim q$, and neither is differentiated: the model climbs an
    estimate of $\log p(y)$, the family one of $E_{p(x|y)} \log q(x)$. The value is that of `iwelbo`. No choice needs a
    strategy.

    Args:
        model, family, data, model_args, family_args, rows: as in `elbo`; densities of the family must be exact.
        particles: $K$, 1 or more.

    The paper: RWS in figure 7; Bornschein and Bengio (2015). Of what they climb, both gradients are biased by O(1/K).

    Differs from the paper: there the phases are two objectives; parameters of model and family being other ones, it is
    one here.

    Raises:
        ValueError: as `iwelbo`.

    Example:
        >>> from torch.distributions import Bernoulli
        >>> logit = torch.tensor(0.0, requires_grad=True)
        >>> @program
        ... def model():
        ...     b = sample("b", Bernoulli(0.5))
        ...     sample("y", Bernoulli(0.2 + 0.7 * b))
        >>> @program
        ... def family():
        ...     sample("b", Bernoulli(logits=logit))
        >>> estimator = wake(model, family, {"y": torch.tensor(1.0)}, particles=10_000)
        >>> _, (slope,) = estimator.value_and_grad([logit], torch.Generator().manual_seed(0))
        >>> round(slope.item(), 1)  # p(b | y) - 1/2 = 0.9 / 1.1 - 1/2
        0.3
    """
    check_count("particles", particles)

    def objective() -> Tensor:
        with leading(particles) as dim, _undifferentiated():
            trace, _ = family.simulate(*family_args)
        with leading(particles) as dim:
            log_q = family.log_density(trace, *family_args)
            log_p = model.log_density(merged(trace, data), *model_args)
        weights = (log_p - log_q).detach()
        both = (weights.softmax(dim) * (log_p + log_q)).sum(dim)
        return both - both.detach() + weights.logsumexp(dim) - math.log(particles)

    return Estimator(objective, rows=rows)


@contextmanager
def _undifferentiated() -> Iterator[None]:
    run = current()
    before, run.plain = run.plain, True
    try:
        with torch.no_grad():
            yield
    finally:
        run.plain = before
