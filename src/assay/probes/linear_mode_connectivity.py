"""When two trained networks are joined by a straight line of low loss: barriers by layer, and a forecast of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from assay.curvature import Hessian
from assay.probes.path import interpolate

Run = TypeVar("Run")


def layers_of(model: nn.Module) -> dict[str, list[str]]:
    """The trainable parameters of each module that has some of its own: a weight and its bias are one layer.

    Example:
        >>> layers_of(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)))
        {'0': ['0.weight', '0.bias'], '2': ['2.weight']}
    """
    layers: dict[str, list[str]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            layers.setdefault(name.rpartition(".")[0], []).append(name)
    return layers


def predicted_barrier(
    model_a: nn.Module,
    model_b: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    t: float = 0.5,
    only: Sequence[str] | None = None,
    gradients: bool = True,
) -> float:
    r"""The loss above the chord at t, forecast from gradients and curvatures at the two ends alone.

    $B(t) \approx \frac{t(1-t)}{2}\,[\,t\,D^\top H_A D + (1 - t)\,D^\top H_B D\,] + t(1-t)\,(g_A - g_B)^\top D$ with
    $D = \theta_B - \theta_A$: the second-order expansions from A and B, weighted $1 - t$ and $t$. Exact where the loss
    is quadratic.

    Args:
        model_a: one end, used in evaluation mode.
        model_b: the other; same names and shapes.
        loss: loss(outputs, targets) -> the mean over the examples.
        inputs: examples; barriers are to be measured on the same.
        targets: their targets.
        t: where, in (0, 1).
        only: names of the parameters that move; all when None. With those of one layer, the forecast of its
            `layerwise_barrier`.
        gradients: False leaves their term out, as for ends that are minima.

    Singh et al., 2024 (arXiv:2406.16300), the analysis of the barrier height. The paper's own wording was not at hand:
    this is the expansion that its abstract describes.

    Raises:
        ValueError: for a t outside (0, 1), networks of other names or shapes, a name that is not there.

    Example:
        >>> a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> a.weight.data, b.weight.data = torch.tensor([[-1.0]]), torch.tensor([[3.0]])
        >>> one = torch.ones(1, 1)
        >>> predicted_barrier(a, b, nn.functional.mse_loss, one, one)    # (w - 1)^2: 0 in the middle, 4 at the ends
        -4.0
    """
    if not 0 < t < 1:
        raise ValueError(f"t must be in (0, 1): got {t}")
    ends = _Ends(model_a, model_b, loss, inputs, targets)
    for name in only or ():
        if name not in ends.places:
            raise ValueError(f"only must name trainable parameters of the networks: got {name!r}")
    return ends.forecast(t, list(ends.places) if only is None else list(only), gradients=gradients)


def predicted_layerwise_barrier(
    model_a: nn.Module,
    model_b: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    t: float = 0.5,
    gradients: bool = True,
) -> dict[str, float]:
    """`predicted_barrier` of each layer by itself, two Hessian-vector products a layer.

    Args:
        model_a: one end, used in evaluation mode.
        model_b: the other; same names and shapes.
        loss: loss(outputs, targets) -> the mean over the examples.
        inputs: examples.
        targets: their targets.
        t: where, in (0, 1).
        gradients: False leaves their term out.

    Raises:
        ValueError: for a t outside (0, 1), networks of other names or shapes.

    Example:
        >>> a, b = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> for model, value in ((a, -1.0), (b, 3.0)):
        ...     for p in model.parameters():
        ...         _ = nn.init.constant_(p, value)
        >>> one = torch.ones(1, 1)
        >>> predicted_layerwise_barrier(a, b, nn.functional.mse_loss, one, one)    # (w + b - 1)^2: 9, 25; 1 between
        {'': -16.0}
    """
    if not 0 < t < 1:
        raise ValueError(f"t must be in (0, 1): got {t}")
    ends = _Ends(model_a, model_b, loss, inputs, targets)
    return {layer: ends.forecast(t, names, gradients=gradients) for layer, names in layers_of(model_a).items()}


def layerwise_barrier(
    model_a: nn.Module, model_b: nn.Module, loss: Callable[[nn.Module], float], *, t: float = 0.5
) -> dict[str, float]:
    r"""The barrier that moving one layer alone meets, seen from both ends.

    $B_l = (1 - t)\,[L(\theta_A + t P_l D) - L(\theta_A)] + t\,[L(\theta_B - (1 - t) P_l D) - L(\theta_B)]$, where
    $P_l$ keeps layer l of $D = \theta_B - \theta_A$.

    Args:
        model_a: one end.
        model_b: the other; same names and shapes.
        loss: loss(model) -> a number; the network comes in evaluation mode.
        t: how far, in (0, 1).

    The paper: layer-wise linear mode connectivity. Symmetric in A and B at t = 1/2.

    Raises:
        ValueError: for a t outside (0, 1), networks of other names or shapes.

    Example:
        >>> a, b = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> for model, value in ((a, 1.0), (b, 3.0)):
        ...     for p in model.parameters():
        ...         _ = nn.init.constant_(p, value)
        >>> layerwise_barrier(a, b, lambda model: model.weight.item() * model.bias.item())    # 2 * 2 - (1 + 9) / 2
        {'': -1.0}
    """
    if not 0 < t < 1:
        raise ValueError(f"t must be in (0, 1): got {t}")

    def at(model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            return float(loss(model))

    ends = at(copy.deepcopy(model_a)), at(copy.deepcopy(model_b))
    found = {}
    for layer, names in layers_of(model_a).items():
        from_a = at(interpolate(model_a, model_b, t, only=names))
        from_b = at(interpolate(model_b, model_a, 1 - t, only=names))
        found[layer] = (1 - t) * (from_a - ends[0]) + t * (from_b - ends[1])
    return found


def fork(
    start: Run,
    advance: Callable[[Run, int, int, int], object],
    at: int,
    steps: int,
    *,
    children: int = 2,
    seed: int = 0,
) -> list[Run]:
    """Runs that share their first steps and then go on, each with data in an order of its own.

    Args:
        start: what is trained and whatever belongs to it, such as (model, optimizer); it is copied, never changed.
        advance: advance(run, first, last, seed) trains `run` in place from step `first` up to, not including, `last`,
            with the data in the order that `seed` gives.
        at: steps they share, from 0 to `steps`.
        steps: of each run, at least 1.
        children: how many, at least 1.
        seed: of the trunk's order; child i has the order of seed + i + 1.

    Raises:
        ValueError: for counts out of range.

    Example:
        >>> walk = lambda run, first, last, seed: run.extend((step, seed) for step in range(first, last))
        >>> fork([], walk, 1, 3)
        [[(0, 0), (1, 1), (2, 1)], [(0, 0), (1, 2), (2, 2)]]
    """
    if steps < 1 or not 0 <= at <= steps:
        raise ValueError(f"at must lie between 0 and steps, and steps be at least 1: got {at} and {steps}")
    if children < 1:
        raise ValueError(f"children must be at least 1: got {children}")
    trunk = copy.deepcopy(start)
    if at:
        advance(trunk, 0, at, seed)
    runs = [copy.deepcopy(trunk) for _ in range(children)]
    for number, run in enumerate(runs):
        if at < steps:
            advance(run, at, steps, seed + number + 1)
    return runs


class _Ends:
    """Gradients and Hessians at both ends, and the way between them."""

    def __init__(
        self,
        model_a: nn.Module,
        model_b: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
    ) -> None:
        shapes = [{name: p.shape for name, p in m.named_parameters() if p.requires_grad} for m in (model_a, model_b)]
        if shapes[0] != shapes[1]:
            raise ValueError("model_b must have the trainable parameters of model_a: names or shapes differ")
        self.hessians = [Hessian(model, loss, inputs, targets) for model in (model_a, model_b)]
        flat = [torch.cat([p.detach().reshape(-1) for p in h.parameters]) for h in self.hessians]
        self.way = flat[1] - flat[0]
        self.slope = self.hessians[0].gradient - self.hessians[1].gradient
        self.places: dict[str, slice] = {}
        begin = 0
        for name, shape in shapes[0].items():
            self.places[name] = slice(begin, begin := begin + shape.numel())

    def forecast(self, t: float, names: Sequence[str], *, gradients: bool) -> float:
        part = torch.zeros_like(self.way)
        for name in names:
            part[self.places[name]] = self.way[self.places[name]]
        curved = [(part @ hessian.matvec(part)).item() for hessian in self.hessians]
        value = t * (1 - t) / 2 * (t * curved[0] + (1 - t) * curved[1])
        return value + (t * (1 - t) * (self.slope @ part).item() if gradients else 0.0)
