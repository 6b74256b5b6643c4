"""Bounds and objectives of variational inference, and programs whose choices are marginalised or normalised."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical

from assay.learn.generative_programs import Generative, Trace, current, joined, leading
from assay.learn.program_estimators import Estimator, check_count


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
        return model.log_density(_merged(trace, data), *model_args) - log_q

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
            weights = model.log_density(_merged(trace, data), *model_args) - log_q
        return weights.logsumexp(dim) - math.log(particles)

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
            log_p = model.log_density(_merged(trace, data), *model_args)
        weights = (log_p - log_q).detach()
        both = (weights.softmax(dim) * (log_p + log_q)).sum(dim)
        return both - both.detach() + weights.logsumexp(dim) - math.log(particles)

    return Estimator(objective, rows=rows)


class marginal:  # noqa: N801      it reads as a function of programs
    r"""A program of which some choices are kept and the others integrated out, with an estimated density.

    With u the others, r the proposal, and $u_1$ drawn together with x, $u_2, \dots \sim r$:

    $$\hat q(x) = \frac1N \sum_{i=1}^N \frac{q(x, u_i)}{r(u_i; x)}, \qquad E[1/\hat q(x) \mid x] = 1/q(x)$$

    where x is drawn (`simulate`), and all $u_i \sim r$, so that $E \hat q(x) = q(x)$, where it is scored
    (`log_density`). In an `elbo` the first gives hierarchical variational inference (N = 1), importance weighted for
    larger N, and inside an `iwelbo` doubly so; all are lower bounds.

    Args:
        program: $q(x, u)$.
        keep: addresses of x.
        proposal: $r$, a program called as `proposal(kept, *args)` that chooses all of u; None lets the program itself
            propose, given x.
        particles: $N$, 1 or more.

    The paper: its construct `marginal`, table 4; Ranganath et al. (2016), Sobolev and Vetrov (2019).

    Raises:
        ValueError: for particles below 1, and no address to keep; when used, for addresses that are never chosen.

    Example:
        >>> from torch.distributions import Bernoulli, Normal
        >>> @program
        ... def mixture():
        ...     b = sample("b", Bernoulli(0.25))
        ...     sample("x", Normal(4 * b, 1.0))
        >>> density = log_density(marginal(mixture, keep=("x",), particles=100_000), {"x": torch.tensor(4.0)})
        >>> round(density.exp().item(), 2)  # 0.25 N(4; 4, 1)
        0.1
    """

    def __init__(
        self, program: Program, *, keep: Sequence[str], proposal: Generative | None = None, particles: int = 1
    ) -> None:
        check_count("particles", particles)
        if not keep or isinstance(keep, str):
            raise ValueError(f"keep must name at least one address, in a tuple: got {keep!r}")
        self.program, self.keep, self.proposal, self.particles = program, tuple(keep), proposal, particles

    def simulate(self, *args: Any) -> tuple[Trace, Tensor]:
        """The kept choices, and an estimate of their log density."""
        visit = self.program.visit({}, args, free=True)
        missing = sorted(set(self.keep) - visit.trace.keys())
        if missing:
            raise ValueError(f"keep must name choices of the program: it never makes {missing[0]!r}")
        kept = {name: visit.trace[name] for name in self.keep}
        others = {name: value for name, value in visit.trace.items() if name not in kept}
        if self.proposal is None:
            total = visit.log_density(kept)
        else:
            total = visit.log_density() - self.proposal.log_density(others, kept, *args)
        if self.particles > 1:
            total = torch.logaddexp(total, self._weights(kept, args, self.particles - 1))
        return kept, total - math.log(self.particles)

    def log_density(self, trace: Mapping[str, Tensor], *args: Any) -> Tensor:
        """An estimate of the log density of the kept choices."""
        if trace.keys() != set(self.keep):
            raise ValueError(f"trace must hold {', '.join(self.keep)}: got {', '.join(trace) or 'nothing'}")
        return self._weights(trace, args, self.particles) - math.log(self.particles)

    def _weights(self, kept: Mapping[str, Tensor], args: tuple[Any, ...], count: int) -> Tensor:
        """The log of the sum of `count` importance weights."""
        with leading(count) as dim:
            if self.proposal is None:
                weights = self.program.visit(kept, args, free=True).log_density(kept)
            else:
                others, log_r = self.proposal.simulate(kept, *args)
                weights = self.program.log_density({**kept, **others}, *args) - log_r
        return _summed(weights, dim, count)


class normalize:  # noqa: N801
    r"""Sampling importance resampling: one of K draws of a proposal, in proportion to its weight, with its density.

    $$\hat q(x) = p(x, \text{data}) \Big/ \frac1K \sum_{k=1}^K \frac{p(x_k, \text{data})}{r(x_k)}$$

    x being one of the $x_k$, as `marginal` has it on either side. As a family it is close to the posterior; its `elbo`
    is the `iwelbo` of the proposal.

    Args:
        program: $p$.
        proposal: $r$, a program that chooses all of x.
        particles: $K$, 1 or more.
        data: address -> value, for choices of p that are observed.
        strategy: of the choice among particles, "reinforce" or "enumerate".

    The arguments of the program are those of the proposal too.

    The paper: its construct `normalize`; Lew, Cusumano-Towner and Mansinghka (2022).

    Raises:
        ValueError: for particles below 1, a strategy that is neither, an address in both proposal and data.

    Example:
        >>> from torch.distributions import Normal
        >>> @program
        ... def model():
        ...     x = sample("x", Normal(0.0, 1.0))
        ...     sample("y", Normal(x, 1.0))
        >>> @program
        ... def prior():
        ...     sample("x", Normal(0.0, 1.0))
        >>> posterior = normalize(model, prior, particles=200, data={"y": torch.tensor(2.0)})
        >>> with plate(1000):
        ...     trace, _ = simulate(posterior, generator=torch.Generator().manual_seed(0))
        >>> round(trace["x"].mean().item(), 1)  # y / 2
        1.0
    """

    def __init__(
        self,
        program: Generative,
        proposal: Generative,
        *,
        particles: int,
        data: Mapping[str, Tensor] | None = None,
        strategy: str = "reinforce",
    ) -> None:
        check_count("particles", particles)
        if strategy not in ("reinforce", "enumerate"):
            raise ValueError(f"strategy must be reinforce or enumerate: got {strategy!r}")
        self.program, self.proposal, self.particles = program, proposal, particles
        self.data, self.strategy = dict(data or {}), strategy

    def simulate(self, *args: Any) -> tuple[Trace, Tensor]:
        """One particle, and an estimate of its log density."""
        with joined() as run:
            with leading(self.particles) as dim:
                traces, log_p, weights = self._weighted(args)
            choice = Categorical(logits=weights.movedim(dim, -1))
            index = run.choose(choice, self.strategy, 0.0)
        mean = weights.logsumexp(dim) - math.log(self.particles)
        trace = {name: _taken(value, index, value.ndim - log_p.ndim, dim) for name, value in traces.items()}
        return trace, _taken(log_p, index, 0, dim) - mean

    def log_density(self, trace: Mapping[str, Tensor], *args: Any) -> Tensor:
        """An estimate of the log density of a particle."""
        log_p = self.program.log_density(_merged(trace, self.data), *args)
        total = log_p - self.proposal.log_density(trace, *args)
        if self.particles > 1:
            with leading(self.particles - 1) as dim:
                _, _, weights = self._weighted(args)
            total = torch.logaddexp(total, _summed(weights, dim, self.particles - 1))
        return log_p - total + math.log(self.particles)

    def _weighted(self, args: tuple[Any, ...]) -> tuple[Trace, Tensor, Tensor]:
        trace, log_r = self.proposal.simulate(*args)
        log_p = self.program.log_density(_merged(trace, self.data), *args)
        return trace, log_p, log_p - log_r


def _taken(values: Tensor, index: Tensor, event: int, dim: int) -> Tensor:
    """Of each row the particle with that index; `dim` is that of the particles, before event dimensions."""
    values = values.movedim(dim - event, 0)
    index = index.reshape(*index.shape, *[1] * event)
    for _ in range(index.ndim - values.ndim + 1):
        values = values.unsqueeze(1)
    return torch.take_along_dim(values, index[None], 0)[0]


def _summed(weights: Tensor, dim: int, count: int) -> Tensor:
    """Log of the sum of weights along a plate; weights in which nothing was drawn are all the same."""
    if weights.ndim < -dim or weights.shape[dim] != count:
        weights = weights if weights.ndim < -dim else weights.squeeze(dim)
        return weights + math.log(count)
    return weights.logsumexp(dim)


@contextmanager
def _undifferentiated() -> Iterator[None]:
    run = current()
    before, run.plain = run.plain, True
    try:
        with torch.no_grad():
            yield
    finally:
        run.plain = before


def _merged(trace: Mapping[str, Tensor], data: Mapping[str, Tensor]) -> Trace:
    both = sorted(trace.keys() & data.keys())
    if both:
        raise ValueError(f"data must hold no choice of the family: got {both[0]!r}, which is in both")
    return {**trace, **data}
