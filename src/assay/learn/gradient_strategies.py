"""What a choice does to a gradient: draws that can be differentiated, and weighted alternatives that can be summed.

Shapes: a program runs for many rows at once, which are its leading dimensions, `rows`; a distribution's own event
dimensions come after them. Rows of plates and of the caller are independent draws; the rows of `Alternatives` are the
same draw seen with other values of an earlier choice, so that whatever does not depend on that choice is drawn once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal

STRATEGIES = ("reparam", "reinforce", "enumerate", "measure_valued")
MOST = 65_536
"""The most alternatives that one choice may have."""


class Alternatives(NamedTuple):
    r"""Values that a choice may take, and weights with $\nabla E[k] = E[\nabla \sum_a w_a k(x_a)]$.

    values: (alternatives, *rows, *event), rows that agree having length 1.
    weights: (alternatives, *rows), 1 along plates; they sum to 1, and their gradients to 0.
    """

    values: Tensor
    weights: Tensor


def named_strategy(distribution: Distribution, strategy: str | None) -> str:
    """The strategy of a choice: reparam where none is named and it can be, else reinforce.

    Raises:
        ValueError: for an unknown strategy, and for one that the distribution does not have.
    """
    base, _ = unwrapped(distribution)
    if strategy is None:
        return "reparam" if distribution.has_rsample else "reinforce"
    able = {
        "reparam": distribution.has_rsample,
        "reinforce": True,
        "enumerate": base.has_enumerate_support,
        "measure_valued": isinstance(base, Bernoulli | Normal),
    }
    if strategy not in able:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}: got {strategy!r}")
    if not able[strategy]:
        can = ", ".join(name for name, possible in able.items() if possible)
        raise ValueError(f"strategy must be one of {can} for {type(base).__name__}: got {strategy!r}")
    return strategy


def unwrapped(distribution: Distribution) -> tuple[Distribution, int]:
    """What `Independent` was put around, and how many dimensions it declared."""
    declared = 0
    while isinstance(distribution, Independent):
        declared += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, declared


def draw(distribution: Distribution, rows: torch.Size, shared: tuple[int, ...] = (), *, reparam: bool) -> Tensor:
    """One value a row, differentiable if `reparam`.

    Args:
        distribution: its batch shape broadcasts to `rows`; event dimensions are declared, by `Independent` or its own.
        rows: the leading shape of the value.
        shared: which rows, counted from the right as -1, -2, ..., see the same draw. Along them the value has length 1
            where the distribution has; where it has not, the randomness behind a normal, Bernoulli or categorical draw
            is shared, and others are drawn anew.

    Raises:
        ValueError: for a batch shape that does not broadcast to `rows`.
    """
    batch = distribution.batch_shape
    if not shared and batch == rows:
        return distribution.rsample() if reparam else distribution.sample()
    whole = list(rows)
    for dim in shared:
        whole[dim] = batch[dim] if -dim <= len(batch) else 1
    target = torch.Size(whole)
    if not _broadcasts(batch, target):
        raise ValueError(
            f"a choice must have a batch shape that broadcasts to the rows of the program, {tuple(rows)}, with event "
            f"dimensions declared by torch.distributions.Independent: got {tuple(batch)}"
        )
    if any(target[dim] > 1 for dim in shared):
        found = _coupled(distribution, target, shared, reparam)
        if found is not None:
            return found
    lead = len(target) - len(batch)
    if target[lead:] != batch:
        distribution, lead = distribution.expand(target), 0
    return distribution.rsample(target[:lead]) if reparam else distribution.sample(target[:lead])


def _broadcasts(shape: torch.Size, target: torch.Size) -> bool:
    return len(shape) <= len(target) and all(
        n in (1, m) for n, m in zip(reversed(shape), reversed(target), strict=False)
    )


def _coupled(distribution: Distribution, target: torch.Size, shared: tuple[int, ...], reparam: bool) -> Tensor | None:
    """A draw whose parameters differ among alternatives and whose randomness does not; None where there is no such."""
    base, declared = unwrapped(distribution)
    noise = list(target)
    for dim in shared:
        noise[dim] = 1
    event = base.batch_shape[len(base.batch_shape) - declared :]
    if type(base) is Normal:
        eps = torch.randn(*noise, *event, dtype=base.loc.dtype, device=base.loc.device)
        value = base.loc + base.scale * eps
        return value if reparam else value.detach()
    if isinstance(base, Bernoulli):
        u = torch.rand(*noise, *event, dtype=base.probs.dtype, device=base.probs.device)
        return (u < base.probs.detach()).to(u.dtype)
    if isinstance(base, Categorical):
        edges = base.probs.detach().cumsum(-1)[..., :-1]
        u = torch.rand(*noise, *event, 1, dtype=edges.dtype, device=edges.device)
        return (u >= edges).sum(-1)
    return None


def alternatives(
    distribution: Distribution, rows: torch.Size, plates: tuple[int, ...], shared: tuple[int, ...], strategy: str
) -> Alternatives:
    r"""The values that enumeration, or a measure-valued derivative, asks to continue with.

    Enumeration: every value of the support, $w = p(x)$. Measure-valued: one draw, of weight 1, and for each component
    the pair that makes up its derivative, of weights whose value is 0. For a Bernoulli the other value,
    $w = \pm (p - \bar p)$, the bar for a number that is not differentiated; for a normal mean, $c (m - \bar m)$ and
    its negative at $m \pm s W$ with W Weibull(scale $\sqrt 2$, shape 2) and $c = 1/(s \sqrt{2\pi})$; for a scale
    $(s - \bar s)/s$ at $m + s M$, M double-sided Maxwell, and its negative at the draw itself, to which M is coupled:
    $M = \mathrm{sign}(N) \sqrt{N^2 + 2E}$, E standard exponential.

    Args:
        distribution: with a finite support, or a Bernoulli or normal distribution.
        rows: as in `draw`.
        plates: rows, counted from the right, that go into one cost together: their components are components of one
            choice.
        shared: as in `draw`.
        strategy: enumerate or measure_valued.

    Raises:
        ValueError: for an enumeration of more than 65,536 values.
    """
    base, declared = unwrapped(distribution)
    event = base.batch_shape[len(base.batch_shape) - declared :]
    cells = [n if dim - len(rows) in plates else 1 for dim, n in enumerate(rows)]
    count = math.prod((*cells, *event))
    if strategy == "enumerate":
        support = base.enumerate_support(expand=False)
        support = support.reshape(len(support), *base.event_shape)
        if len(support) ** count > MOST:
            raise ValueError(f"enumerate must have at most {MOST} alternatives: got {len(support)} ** {count}")
        places = torch.cartesian_prod(*[torch.arange(len(support), device=support.device)] * count)
        values = support[places.reshape(-1, *cells, *event)]
        return Alternatives(values, _total(distribution.log_prob(values), plates).exp())
    x = draw(distribution, rows, shared, reparam=False)
    one = torch.eye(count, dtype=torch.bool, device=x.device).reshape(count, *cells, *event)
    pairs = _bernoulli_pairs(base, x) if isinstance(base, Bernoulli) else _normal_pairs(base, x)
    values = torch.cat([x[None], *(torch.where(one, value, x) for value, _ in pairs)])
    parts = [(one * weight).sum(tuple(range(-declared, 0))) if declared else one * weight for _, weight in pairs]
    moved = torch.cat([_total(part, plates) for part in parts])
    return Alternatives(values, torch.cat([1 - moved.sum(0, keepdim=True), moved]))


def _total(each: Tensor, plates: tuple[int, ...]) -> Tensor:
    return each.sum(plates, keepdim=True) if plates else each


def _bernoulli_pairs(base: Bernoulli, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(1 - x, (1 - 2 * x) * (base.probs - base.probs.detach()))]


def _normal_pairs(base: Normal, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    mean, scale = base.loc.detach(), base.scale.detach()
    shift, stretch = torch.zeros_like(x) + (base.loc - mean) / scale, torch.zeros_like(x) + (base.scale - scale) / scale
    radius = (2 * torch.empty_like(x).exponential_()).sqrt()
    normal = (x - mean) / scale
    maxwell = torch.where(normal < 0, -1.0, 1.0) * (normal.square() + 2 * torch.empty_like(x).exponential_()).sqrt()
    half = shift / math.sqrt(2 * math.pi)
    return [
        (mean + scale * radius, half),
        (mean - scale * radius, -half),
        (mean + scale * maxwell, stretch),
    ]
