"""The straight line between two networks: networks on it, their losses, and how high it climbs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

BASELINES = ("linear", "mean")
Refresh = Callable[[nn.Module], Any]


class Barrier(NamedTuple):
    """What `barrier` finds between two networks.

    Args:
        height: the largest excess of the loss over the baseline on the grid.
        argmax: the t at which it is met.
        losses: the loss at each t, (points,), float64.
        ts: the grid, from 0 (the first network) to 1 (the second), float64.
    """

    height: float
    argmax: float
    losses: Float[Tensor, " points"]
    ts: Float[Tensor, " points"]


def interpolate(model_a: nn.Module, model_b: nn.Module, t: float, *, only: Sequence[str] | None = None) -> nn.Module:
    r"""A network on the line through two others: $\theta(t) = (1 - t)\,\theta_A + t\,\theta_B$.

    Buffers of real numbers (the running statistics of batch normalization) are interpolated too, so that t = 0 and 1
    give back A and B; in between they are not those of the network (see `refresh_batch_norm`).

    Args:
        model_a: where t is 0; everything else of the new network (modes, counters, `requires_grad`) is a copy of its.
        model_b: where t is 1; parameters and buffers of the same names and shapes.
        t: any number; the line goes on beyond both.
        only: names of the parameters and buffers that move; the rest stays with A. All when None.

    Raises:
        ValueError: for networks of other names or shapes, a t that is not finite, a name that is not there.

    Example:
        >>> a, b = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> for model, value in ((a, 1.0), (b, 5.0)):
        ...     for p in model.parameters():
        ...         _ = nn.init.constant_(p, value)
        >>> {name: p.item() for name, p in interpolate(a, b, 0.25, only=["weight"]).named_parameters()}
        {'weight': 2.0, 'bias': 1.0}
    """
    line = _Line(model_a, model_b, only)
    line.go(t)
    return line.model


def losses_along(
    model_a: nn.Module,
    model_b: nn.Module,
    loss: Callable[[nn.Module], float],
    ts: Float[Tensor, " points"],
    *,
    refresh: Refresh | None = None,
    only: Sequence[str] | None = None,
) -> Float[Tensor, " points"]:
    r"""$L(\theta(t))$ at each t, in float64; `loss` is given a network in evaluation mode and no gradient is kept.

    Args:
        model_a: where t is 0.
        model_b: where t is 1; same names and shapes.
        loss: loss(model) -> a number. The network it is given is moved on afterwards: it must not keep it.
        ts: where to look.
        refresh: called with the network before each `loss`, to re-estimate statistics of batch normalization; a network
            that has some is warned about when this is None.
        only: as for `interpolate`.

    Raises:
        ValueError: as for `interpolate`, or for a loss that is not a number.

    Example:
        >>> a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> a.weight.data, b.weight.data = torch.tensor([[-1.0]]), torch.tensor([[3.0]])
        >>> losses_along(a, b, lambda model: model.weight.item() ** 2, torch.tensor([0.0, 0.25, 0.5, 1.0]))
        tensor([1., 0., 1., 9.], dtype=torch.float64)
    """
    line = _Line(model_a, model_b, only)
    if refresh is None and any(isinstance(m, _BatchNorm) and m.track_running_stats for m in line.model.modules()):
        warnings.warn(
            "batch normalization between the two networks uses statistics that are not its own; give refresh=",
            stacklevel=3,
        )
    losses = []
    for t in ts.tolist():
        line.go(t)
        if refresh is not None:
            refresh(line.model)
        line.model.eval()
        with torch.no_grad():
            losses.append(float(loss(line.model)))
        if losses[-1] != losses[-1]:
            raise ValueError(f"loss must be a number: got {losses[-1]} at t = {t}")
    return torch.tensor(losses, dtype=torch.float64)


def barrier(
    model_a: nn.Module,
    model_b: nn.Module,
    loss: Callable[[nn.Module], float],
    *,
    points: int = 21,
    baseline: str = "linear",
    refresh: Refresh | None = None,
) -> Barrier:
    r"""How far the loss rises above its ends on the straight line from A to B.

    $\max_t\ L(\theta(t)) - [(1 - t) L(\theta_A) + t L(\theta_B)]$, over a grid of t: a lower bound of the true height.
    With `baseline="mean"` what is subtracted is $(L(\theta_A) + L(\theta_B)) / 2$ at every t, as in Git Re-Basin.

    Args:
        model_a: one end.
        model_b: the other; same names and shapes.
        loss: loss(model) -> a number, on a fixed set of examples; the network comes in evaluation mode.
        points: of the grid, at least 3; with an odd number the middle is one of them.
        baseline: `"linear"` or `"mean"`.
        refresh: as for `losses_along`.

    Frankle et al., 2020 (arXiv:1912.05671); Entezari et al., 2022 (arXiv:2110.06296), definition 2 for the linear
    baseline; Ainsworth et al., 2022 (arXiv:2209.04836), definition 2.1 for the mean.

    Raises:
        ValueError: for fewer than 3 points, an unknown baseline, networks of other names or shapes.

    Example:
        >>> a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> a.weight.data, b.weight.data = torch.tensor([[-1.0]]), torch.tensor([[1.0]])
        >>> found = barrier(a, b, lambda model: (1 - model.weight.item() ** 2) ** 2)   # two minima, a hill between
        >>> found.height, found.argmax
        (1.0, 0.5)
    """
    if points < 3:
        raise ValueError(f"points must be at least 3: got {points}")
    if baseline not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}: got {baseline!r}")
    ts = torch.linspace(0, 1, points, dtype=torch.float64)
    losses = losses_along(model_a, model_b, loss, ts, refresh=refresh)
    at_ends = torch.lerp(losses[0], losses[-1], ts) if baseline == "linear" else (losses[0] + losses[-1]) / 2
    excess = losses - at_ends
    top = int(excess.argmax())
    return Barrier(excess[top].item(), ts[top].item(), losses, ts)


def refresh_batch_norm(model: nn.Module, inputs: Tensor, *, batch_size: int = 500) -> None:
    """Estimate the running statistics of batch normalization anew, in place, as plain averages over batches.

    Only these layers see training mode meanwhile (no dropout); every mode and momentum is left as it was. A network
    without them is left alone.

    Args:
        model: whose statistics are replaced.
        inputs: examples, the first dimension counts them.
        batch_size: examples at a time, at least 2; a last batch of one is left out.

    Raises:
        ValueError: for fewer than two examples or a batch size below 2.

    Example:
        >>> model = nn.BatchNorm1d(1)
        >>> refresh_batch_norm(model, torch.tensor([[1.0], [3.0], [11.0], [13.0]]), batch_size=2)
        >>> model.running_mean, model.running_var     # means 2 and 12, variances 2 and 2
        (tensor([7.]), tensor([2.]))
    """
    if len(inputs) < 2 or batch_size < 2:
        raise ValueError(
            f"inputs must hold at least 2 examples and batch_size be at least 2: got {len(inputs)} and {batch_size}"
        )
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    with _modes(model), torch.no_grad():
        model.eval()
        momenta = [norm.momentum for norm in norms]
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's sign for a plain average
                norm.training = True
            for part in inputs.split(batch_size):
                if len(part) > 1:
                    model(part)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


@contextmanager
def _modes(model: nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


class _Line:
    """A copy of A that can be put anywhere on the line, in place."""

    def __init__(self, model_a: nn.Module, model_b: nn.Module, only: Sequence[str] | None) -> None:
        start, end = _tensors(model_a), _tensors(model_b)
        shapes = [{name: tuple(t.shape) for name, t in each.items()} for each in (start, end)]
        if shapes[0] != shapes[1]:
            other = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
            raise ValueError(f"model_b must have the names and shapes of model_a: they differ in {other[0][0]!r}")
        for name in only or ():
            if name not in start:
                raise ValueError(f"only must name parameters or buffers of the networks: got {name!r}")
        moving = list(start) if only is None else list(only)
        self.model = copy.deepcopy(model_a)
        for p in self.model.parameters():
            p.grad = None
        here = _tensors(self.model)
        self._places = [(here[name], start[name].detach().clone(), end[name].detach()) for name in moving]

    @torch.no_grad()
    def go(self, t: float) -> None:
        if not abs(t) < float("inf"):
            raise ValueError(f"t must be finite: got {t}")
        for place, start, end in self._places:
            place.copy_(torch.lerp(start, end.to(start), t))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of real numbers."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: t for name, t in named.items() if t.is_floating_point()}
