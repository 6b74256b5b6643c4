"""Into how many linear pieces a ReLU network cuts a curve (Tiwari and Konidaris, 2022, arXiv:2301.00008)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

PIECEWISE_LINEAR = (nn.ReLU, nn.LeakyReLU, nn.PReLU)
NOT_PIECEWISE_LINEAR = (
    *(nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Mish, nn.Softsign),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.RReLU, nn.LogSigmoid),  # bend elsewhere than at 0, or at random
)


class RegionCount(NamedTuple):
    """The pieces of a curve.

    Args:
        regions: pieces on which the network is linear: boundaries + 1, or boundaries where the curve is closed.
        crossings: changes of a unit's sign; more than boundaries where several units change at one place.
        length: of the curve.
        positions: the parameters at which the boundaries lie, in order.
        neurons: hidden units that were watched.
    """

    regions: int
    crossings: int
    length: float
    positions: Float[Tensor, " boundaries"]
    neurons: int

    @property
    def density(self) -> float:
        """Regions a neuron and unit of length."""
        return self.regions / (self.neurons * self.length)


def activation_pattern(model: nn.Module, inputs: Float[Tensor, "n ..."]) -> Bool[Tensor, "n neurons"]:
    r"""Which hidden units are at work, $1[z_i(x) > 0]$: two points of one linear region have the same pattern.

    Args:
        model: a network whose activations are modules `ReLU`, `LeakyReLU` or `PReLU`; max-pooling is not looked at. It
            is copied, in double precision and evaluation mode (signs of rounding errors are no regions), and not
            touched.
        inputs: (n, ...).

    Returns:
        (n, all units), in the order in which the activations are called.

    Raises:
        ValueError: for a model without such activations, or with others; inputs that are none or not finite.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> net[0].weight.data, net[0].bias.data = torch.tensor([[1.0], [1.0], [-1.0]]), torch.tensor([0.0, -1.0, 2.0])
        >>> activation_pattern(net, torch.tensor([[0.5], [3.0]]))
        tensor([[ True, False,  True],
                [ True,  True, False]])
    """
    return torch.cat([z > 0 for z in _Watched(model)(inputs)], 1)


def regions_along_curve(
    model: nn.Module,
    curve: Callable[[Tensor], Tensor],
    interval: tuple[float, float] | None = None,
    *,
    samples: int = 4096,
    refine: bool = True,
    halvings: int = 30,
) -> RegionCount:
    r"""The linear pieces of a network along a curve, and where they end.

    The pattern of active units is taken at `samples` + 1 parameters at equal distances; wherever it changes, the place
    is narrowed down by bisection, which parts boundaries that lie close to each other. A piece that begins and ends
    between two samples is found only if some other boundary lies near it: take more samples where in doubt.

    Args:
        model: see `activation_pattern`.
        curve: maps m parameters to points (m, d) or what the model takes; those of `assay.data.curves` run by arc
            length.
        interval: first and last parameter; None takes the curve's own `interval`.
        samples: at least 2.
        refine: False counts every change between samples as one boundary.
        halvings: of a step between samples, at least 1; units that still change together lie on one boundary.

    Tiwari and Konidaris, 2022 (arXiv:2301.00008), the count of their experiments; the regions are those of activation
    patterns (Hanin and Rolnick, 2019).

    Raises:
        ValueError: as for `activation_pattern`; samples or halvings out of range, an interval that is empty or missing,
            a curve with points that are not finite.

    Example:
        >>> from assay.data import curves
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU())
        >>> net[0].weight.data = torch.tensor([[0.0, 1.0]])   # the line y = 0 meets the circle at half turns
        >>> found = regions_along_curve(net, curves.circle(), (1.0, 7.0))
        >>> found.regions, found.positions.round(decimals=4)
        (3, tensor([3.1416, 6.2832], dtype=torch.float64))
    """
    if samples < 2 or halvings < 1:
        raise ValueError(f"samples must be at least 2 and halvings at least 1: got {samples} and {halvings}")
    watched = _Watched(model)
    grid, points = _sampled(curve, interval, samples)
    pattern = watched.pattern(points)
    changed = (pattern[1:] != pattern[:-1]).any(1)
    low, high, before, after = grid[:-1][changed], grid[1:][changed], pattern[:-1][changed], pattern[1:][changed]
    for _ in range(halvings if refine and len(low) else 0):
        middle = (low + high) / 2
        between = watched.pattern(_points(curve, middle))
        left, right = (before != between).any(1), (between != after).any(1)
        low, high = torch.cat([low[left], middle[right]]), torch.cat([middle[left], high[right]])
        before, after = torch.cat([before[left], between[right]]), torch.cat([between[left], after[right]])
    positions = ((low + high) / 2).sort().values
    flat = points.flatten(1)
    length = float(flat.diff(dim=0).norm(dim=1).sum())
    closed = _closed(flat, length)
    count = len(positions)
    return RegionCount(
        regions=max(count, 1) if closed else count + 1,
        crossings=int((before != after).sum()),
        length=length,
        positions=positions,
        neurons=pattern.shape[1],
    )


def regions_along_segment(model: nn.Module, start: Float[Tensor, "..."], end: Float[Tensor, "..."]) -> RegionCount:
    r"""The linear pieces of a network along a straight line, exactly; positions run from 0 to 1.

    On the pieces that the layers below have left, the inputs of an activation are affine: signs at the ends of a piece
    tell whether it is cut, and the values where. One forward pass a layer.

    Args:
        model: see `activation_pattern`.
        start: one point, without the dimension of a batch.
        end: another one.

    Raises:
        ValueError: as for `activation_pattern`; points of different shapes, or equal ones.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
        >>> net[0].weight.data, net[0].bias.data = torch.tensor([[1.0], [2.0]]), torch.tensor([-1.0, -6.0])
        >>> regions_along_segment(net, torch.tensor([0.0]), torch.tensor([4.0])).positions   # at 1 and 3 of 4
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    if start.shape != end.shape:
        raise ValueError(f"end must have the shape of start {tuple(start.shape)}: got {tuple(end.shape)}")
    start, way = start.detach().double(), (end - start).detach().double()
    length = float(way.norm())
    if length == 0:
        raise ValueError("end must be another point than start: got the same")
    watched = _Watched(model)
    breaks = torch.tensor([0.0, 1.0], dtype=torch.float64, device=start.device)
    layers, neurons, crossings, layer = 1, 0, 0, 0
    while layer < layers:
        values = watched(start + breaks.view(-1, *[1] * start.ndim) * way)
        layers, z = len(values), values[layer]
        piece, unit = ((z[1:] > 0) != (z[:-1] > 0)).nonzero(as_tuple=True)
        one, other = z[piece, unit], z[piece + 1, unit]
        cuts = breaks[piece] + (breaks[piece + 1] - breaks[piece]) * one / (one - other)
        breaks = torch.cat([breaks, cuts]).unique()
        neurons, crossings, layer = neurons + z.shape[1], crossings + len(cuts), layer + 1
    inside = breaks[1:-1]
    return RegionCount(len(inside) + 1, crossings, length, inside, neurons)


def boundary_distance(
    model: nn.Module,
    curve: Callable[[Tensor], Tensor],
    interval: tuple[float, float] | None = None,
    *,
    at: Float[Tensor, " m"],
    samples: int = 4096,
) -> Float[Tensor, " m"]:
    """The way along a curve from each place to the nearest boundary of a linear region; infinite where there is none.

    Args:
        model: see `activation_pattern`.
        curve: see `regions_along_curve`.
        interval: see there.
        at: parameters within the interval.
        samples: as there, and for the arc length.

    Raises:
        ValueError: as for `regions_along_curve`; places outside the interval.

    Example:
        >>> from assay.data import curves
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU())
        >>> net[0].weight.data = torch.tensor([[0.0, 1.0]])
        >>> boundary_distance(net, curves.circle(), (-1.0, 5.0), at=torch.tensor([1.0, 3.0])).round(decimals=4)
        tensor([1.0000, 0.1416], dtype=torch.float64)
    """
    count = regions_along_curve(model, curve, interval, samples=samples)
    grid, points = _sampled(curve, interval, samples)
    at = at.double()
    if not bool(((at >= grid[0]) & (at <= grid[-1])).all()):
        raise ValueError(f"at must lie in {(grid[0].item(), grid[-1].item())}: got {at.tolist()}")
    flat = points.flatten(1)
    run = torch.cat([flat.new_zeros(1), flat.diff(dim=0).norm(dim=1).cumsum(0)])

    def arc(s: Tensor) -> Tensor:
        index = torch.searchsorted(grid, s, right=True).clamp(1, len(grid) - 1)
        share = (s - grid[index - 1]) / (grid[index] - grid[index - 1])
        return run[index - 1] + share * (run[index] - run[index - 1])

    if not len(count.positions):
        return torch.full_like(at, math.inf)
    away = (arc(at)[:, None] - arc(count.positions)[None]).abs()
    if _closed(flat, count.length):
        away = torch.minimum(away, count.length - away)
    return away.min(1).values


def expected_density_first_layer(
    curve: Callable[[Tensor], Tensor],
    interval: tuple[float, float] | None = None,
    *,
    weight_std: float,
    bias_std: float,
    samples: int = 4096,
) -> float:
    r"""Boundaries a unit of length that one random unit of the first layer makes on a curve, by Kac and Rice.

    $z = w \cdot x + b$ with $w \sim N(0, \sigma_w^2 I)$, $b \sim N(0, \sigma_b^2)$ vanishes along a curve with unit
    tangent $\tau$ at the rate $\frac{1}{\pi}\sqrt{\operatorname{Var}(z' \mid z) / \operatorname{Var} z}$, where
    $\operatorname{Var} z = \sigma_w^2 |x|^2 + \sigma_b^2$, $\operatorname{Var} z' = \sigma_w^2$ and
    $\operatorname{Cov}(z, z') = \sigma_w^2\, x \cdot \tau$.

    Args:
        curve: see `regions_along_curve`.
        interval: see there.
        weight_std: $\sigma_w$, above 0.
        bias_std: $\sigma_b$, 0 or more.
        samples: chords of the integral, at least 2.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> from assay.data import curves
        >>> rate = expected_density_first_layer(curves.circle(), weight_std=1.0, bias_std=0.1)
        >>> round(2 * math.pi * rate, 3)    # 2 / sqrt(1.01): a line nearly through the centre cuts a circle twice
        1.99
    """
    if not (0 < weight_std < math.inf and 0 <= bias_std < math.inf):
        raise ValueError(f"weight_std must be above 0 and bias_std 0 or more: got {weight_std} and {bias_std}")
    if samples < 2:
        raise ValueError(f"samples must be at least 2: got {samples}")
    flat = _sampled(curve, interval, samples)[1].flatten(1)
    chord, middle = flat.diff(dim=0), (flat[1:] + flat[:-1]) / 2
    step = chord.norm(dim=1)
    var, slope = weight_std**2 * (middle**2).sum(1) + bias_std**2, weight_std**2
    covariance = weight_std**2 * (middle * chord).sum(1) / step.clamp_min(torch.finfo(step.dtype).tiny)
    rate = ((slope - covariance**2 / var).clamp_min(0) / var).sqrt() / math.pi
    return float((rate * step).sum() / step.sum())


class _Watched:
    """A copy of a model in double precision that gives the inputs of its activations, a tensor (n, units) a call."""

    def __init__(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, NOT_PIECEWISE_LINEAR):
                raise ValueError(f"model must have activations that bend at 0 only: got {type(module).__name__} {name}")
        self.model = copy.deepcopy(model).double().eval()
        self.seen: list[Tensor] = []
        found = [m for m in self.model.modules() if isinstance(m, PIECEWISE_LINEAR)]
        if not found:
            raise ValueError("model must have ReLU, LeakyReLU or PReLU modules: got none")
        for module in found:
            module.register_forward_pre_hook(self._take)

    def _take(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.seen.append(given[0].flatten(1).clone())  # an activation in place would overwrite it

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        if len(inputs) == 0 or not inputs.isfinite().all():
            raise ValueError(f"inputs must be at least one and finite: got {tuple(inputs.shape)}")
        self.seen = []
        with torch.no_grad():
            self.model(inputs.double())
        return self.seen

    def pattern(self, inputs: Tensor) -> Tensor:
        return torch.cat([z > 0 for z in self(inputs)], 1)


def _sampled(
    curve: Callable[[Tensor], Tensor], interval: tuple[float, float] | None, samples: int
) -> tuple[Tensor, Tensor]:
    ends = getattr(curve, "interval", None) if interval is None else interval
    if ends is None:
        raise ValueError("interval must be given for a curve that has none of its own")
    if not ends[0] < ends[1] < math.inf:
        raise ValueError(f"interval must be a first and a greater last parameter: got {ends}")
    grid = torch.linspace(*ends, samples + 1, dtype=torch.float64)
    return grid, _points(curve, grid)


def _points(curve: Callable[[Tensor], Tensor], s: Tensor) -> Tensor:
    points = curve(s).detach().double()
    if points.ndim < 2 or len(points) != len(s):
        raise ValueError(f"curve must give one point a parameter, ({len(s)}, ...): got {tuple(points.shape)}")
    if not points.isfinite().all():
        raise ValueError("curve must give finite points: got NaN or infinity")
    return points


def _closed(flat: Tensor, length: float) -> bool:
    return bool((flat[0] - flat[-1]).norm() <= 1e-9 * max(length, 1e-300))
