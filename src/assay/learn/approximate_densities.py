"""Programs without an exact density: some choices integrated out, or one draw chosen among many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical

from assay.learn.generative_programs import Generative, Program, Run, Trace, check_count, joined, leading


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
        >>> from assay.learn import vi
        >>> @vi.program
        ... def mixture():
        ...     b = vi.sample("b", Bernoulli(0.25))
        ...     vi.sample("x", Normal(4 * b, 1.0))
        >>> density = vi.log_density(vi.marginal(mixture, keep=("x",), particles=100_000), {"x": torch.tensor(4.0)})
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
        return summed(weights, dim, count)


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
        >>> from assay.learn import vi
        >>> @vi.program
        ... def model():
        ...     x = vi.sample("x", Normal(0.0, 1.0))
        ...     vi.sample("y", Normal(x, 1.0))
        >>> @vi.program
        ... def prior():
        ...     vi.sample("x", Normal(0.0, 1.0))
        >>> posterior = vi.normalize(model, prior, particles=200, data={"y": torch.tensor(2.0)})
        >>> with vi.plate(1000):
        ...     trace, _ = vi.simulate(posterior, generator=torch.Generator().manual_seed(0))
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
                traces, events, log_p, weights = self._weighted(run, args)
            choice = Categorical(logits=weights.movedim(dim, -1))
            index = run.choose(choice, self.strategy, 0.0)
        mean = weights.logsumexp(dim) - math.log(self.particles)
        trace = {name: _taken(value, index, events[name], dim) for name, value in traces.items()}
        return trace, _taken(log_p, index, 0, dim) - mean

    def log_density(self, trace: Mapping[str, Tensor], *args: Any) -> Tensor:
        """An estimate of the log density of a particle."""
        log_p = self.program.log_density(merged(trace, self.data), *args)
        total = log_p - self.proposal.log_density(trace, *args)
        if self.particles > 1:
            with joined() as run, leading(self.particles - 1) as dim:
                weights = self._weighted(run, args)[-1]
            total = torch.logaddexp(total, summed(weights, dim, self.particles - 1))
        return log_p - total + math.log(self.particles)

    def _weighted(self, run: Run, args: tuple[Any, ...]) -> tuple[Trace, dict[str, int], Tensor, Tensor]:
        """Draws of the proposal, how many event dimensions each has, their log densities and weights."""
        before = len(run.rows)
        if isinstance(self.proposal, Program):
            visit = self.proposal.visit({}, args, free=True)
            trace, log_r = visit.trace, visit.log_density()
            events = {name: value.ndim - visit.log_probs[name].ndim for name, value in trace.items()}
        else:
            trace, log_r = self.proposal.simulate(*args)
            if len(run.rows) > before:
                raise ValueError("proposal must be a program where its choices have alternatives: got an estimate")
            events = {name: value.ndim - before for name, value in trace.items()}
        log_p = self.program.log_density(merged(trace, self.data), *args)
        return trace, events, log_p, log_p - log_r


def _taken(values: Tensor, index: Tensor, event: int, dim: int) -> Tensor:
    """Of each row the particle with that index; `dim` is that of the particles, before event dimensions."""
    values = values.movedim(dim - event, 0)
    index = index.reshape(index.shape + (1,) * event)
    for _ in range(index.ndim - values.ndim + 1):
        values = values.unsqueeze(1)
    return torch.take_along_dim(values, index[None], 0)[0]


def summed(weights: Tensor, dim: int, count: int) -> Tensor:
    """Log of the sum of weights along a plate; weights in which nothing was drawn are all the same."""
    if weights.ndim < -dim or weights.shape[dim] != count:
        weights = weights if weights.ndim < -dim else weights.squeeze(dim)
        return weights + math.log(count)
    return weights.logsumexp(dim)


def merged(trace: Mapping[str, Tensor], data: Mapping[str, Tensor]) -> Trace:
    """A trace and the data, which must hold other choices."""
    both = sorted(trace.keys() & data.keys())
    if both:
        raise ValueError(f"data must hold no choice of the family: got {both[0]!r}, which is in both")
    return {**trace, **data}
