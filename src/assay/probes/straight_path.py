"""The straight line from a network's first weights to its last, and how far training strayed from it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.probes.path import Refresh, losses_along
from assay.probes.trajectory import Trajectory

LITTLE = 1e-3
"""A path that rises by no more of its whole drop counts as monotone."""


class StraightPath(NamedTuple):
    """What `straight_path` finds.

    Args:
        ts: where it looked, (points,), float64.
        losses: the loss there.
        rise: the largest climb between t = 0 and 1, in units of the drop from L(0) to L(1).
        monotone: whether the rise is at most 1e-3.
    """

    ts: Float[Tensor, " points"]
    losses: Float[Tensor, " points"]
    rise: float
    monotone: bool


class PathPlane(NamedTuple):
    """What `path_plane` finds.

    Args:
        x: coordinates along the line, (grid,).
        y: distances from the line, (grid,), in the same units.
        losses: the loss, (grid, grid), rows for x.
    """

    x: Float[Tensor, " grid"]
    y: Float[Tensor, " grid"]
    losses: Float[Tensor, "grid grid"]


def largest_rise(losses: Float[Tensor, " points"]) -> float:
    r"""$\max_{s \le t} L(t) - L(s)$: the largest climb met on a walk through the losses in their order, 0 or more.

    Args:
        losses: one for each point of the path, at least one.

    Raises:
        ValueError: for no losses, or one that is not a number.

    Example:
        >>> largest_rise(torch.tensor([5.0, 2.0, 3.0, 1.0, 1.5]))    # from 2 to 3
        1.0
    """
    if losses.ndim != 1 or len(losses) == 0 or losses.isnan().any():
        raise ValueError(f"losses must be a row of at least one number and no NaN: got {losses}")
    return (losses - losses.cummin(0).values).max().item()


def straight_path(
    initial: nn.Module,
    final: nn.Module,
    loss: Callable[[nn.Module], float],
    *,
    low: float = 0.0,
    high: float = 1.0,
    points: int = 51,
    refresh: Refresh | None = None,
) -> StraightPath:
    r"""$L(t) = L((1 - t)\,\theta_0 + t\,\theta_f)$ from the initial to the final weights of one run.

    An obstacle that training had to overcome on its way straight down would show as a rise,
    $\max_{0 \le s < t \le 1} [L(t) - L(s)] / [L(0) - L(1)]$.

    Args:
        initial: the network before training.
        final: the same after it.
        loss: loss(model) -> a number, over all training examples; the network comes in evaluation mode.
        low: first t; below 0 looks behind the start.
        high: last t, above `low`; above 1 looks beyond the end.
        points: of the grid, at least 3; a coarse grid misses bumps. 0 and 1 are added where they are not in it.
        refresh: as for `assay.probes.barrier`.

    Goodfellow et al., 2014 (arXiv:1412.6544), section 3. The rise is this library's measure of what the paper shows.

    Raises:
        ValueError: for fewer than 3 points, `low` not below `high`, networks that differ in shape or do not differ in
            any weight, an end that is no lower than the start.

    Example:
        >>> start, end = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> start.weight.data, end.weight.data = torch.tensor([[-0.5]]), torch.tensor([[1.0]])
        >>> path = straight_path(start, end, lambda model: (1 - model.weight.item() ** 2) ** 2 / 2, points=4)
        >>> path.losses     # (1 - w^2)^2 / 2 at w = -1/2, 0, 1/2, 1: the saddle at 0 is an obstacle
        tensor([0.2812, 0.5000, 0.2812, 0.0000], dtype=torch.float64)
        >>> round(path.rise, 4), path.monotone      # (1/2 - 9/32) / (9/32)
        (0.7778, False)
    """
    if points < 3:
        raise ValueError(f"points must be at least 3: got {points}")
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low must be below high and both finite: got {low} and {high}")
    pairs = zip(initial.parameters(), final.parameters(), strict=False)
    if all(p.shape == q.shape and torch.equal(p, q.to(p)) for p, q in pairs):
        raise ValueError("final must differ from initial: all weights are equal, and the line has no length")
    grid = torch.linspace(low, high, points, dtype=torch.float64)
    ts = torch.cat([grid, torch.tensor([0.0, 1.0], dtype=torch.float64)]).unique()
    losses = losses_along(initial, final, loss, ts, refresh=refresh)
    inside = losses[(ts >= 0) & (ts <= 1)]
    drop = (inside[0] - inside[-1]).item()
    if drop <= 0:
        raise ValueError(f"final must have a lower loss than initial: got {inside[-1]:g} against {inside[0]:g}")
    rise = largest_rise(inside) / drop
    return StraightPath(ts, losses, rise, rise <= LITTLE)


def path_residuals(
    trajectory: Trajectory, *, initial: int = 0, final: int = -1
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    r"""Where each snapshot lies along the straight line between two of them, and how far from it.

    $a_t = \langle\theta_t - \theta_0,\, u\rangle$ and $\|\theta_t - \theta_0 - a_t u\|$, both in units of
    $\|\theta_f - \theta_0\|$, with $u = (\theta_f - \theta_0)/\|\theta_f - \theta_0\|$.

    Args:
        trajectory: the snapshots, as `record` makes them; initial and final weights are among them.
        initial: the snapshot at which the line begins; negative counts from the end.
        final: the one at which it ends.

    Returns:
        (T,) coordinates along the line, 0 at `initial` and 1 at `final`, and (T,) distances from it; float64.

    The paper: section 6.

    Raises:
        ValueError: for snapshots that are not there, or that have the same weights.

    Example:
        >>> walked = Trajectory.from_weights(torch.tensor([[0.0, 0.0], [1.0, 2.0], [4.0, 0.0]]))
        >>> path_residuals(walked)
        (tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64), tensor([0.0000, 0.5000, 0.0000], dtype=torch.float64))
    """
    start, line, _ = _line(trajectory, initial, final)
    along, off = [], []
    for t in range(len(trajectory)):
        moved = trajectory.row(t).double() - start
        along.append((moved @ line) / (line @ line))
        off.append((moved - along[-1] * line).norm() / line.norm())
    return torch.stack(along), torch.stack(off)


def path_plane(
    trajectory: Trajectory,
    model: nn.Module,
    loss: Callable[[nn.Module], float],
    *,
    grid: int = 25,
    margin: float = 0.2,
) -> PathPlane:
    r"""The loss over (coordinate along the line, distance from it), in which the trajectory is a curve.

    $L(\theta_0 + x\,(\theta_f - \theta_0) + y\,\|\theta_f - \theta_0\|\, v_x)$, where $v_x$ is the unit vector that
    leads from the line to the snapshot whose coordinate is nearest to x (of those that are off the line). It turns with
    x: the surface is no plane of the weight space.

    Args:
        trajectory: the snapshots, from the initial to the final weights.
        model: a network that they fit; a copy of it is used.
        loss: loss(model) -> a number; the network comes in evaluation mode.
        grid: points along each coordinate, at least 2.
        margin: by how much the surface reaches beyond the trajectory, at least 0.

    The paper: section 6, the figures of the training trajectory's residual. Which residual belongs to which x is this
    library's choice.

    Raises:
        ValueError: for fewer than 2 points, a negative margin, a trajectory that never leaves its line.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> rows = torch.tensor([[0.0, 0.0], [1.0, 2.0], [4.0, 0.0]])
        >>> walked = Trajectory.from_weights(rows, {"weight": slice(0, 2)})
        >>> surface = path_plane(walked, model, lambda model: model.weight[0, 1].item(), grid=3, margin=0.0)
        >>> surface.x.tolist(), surface.y.tolist()
        ([0.0, 0.5, 1.0], [0.0, 0.25, 0.5])
        >>> surface.losses[0]      # the second weight, y times the length 4 of the line
        tensor([0., 1., 2.], dtype=torch.float64)
    """
    if grid < 2:
        raise ValueError(f"grid must be at least 2: got {grid}")
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must be 0 or more: got {margin}")
    start, line, length = _line(trajectory, 0, -1)
    along, off = path_residuals(trajectory)
    away = (off > 1e-9).nonzero()[:, 0]  # the ends are on the line but for rounding
    if len(away) == 0:
        raise ValueError("trajectory must leave the line between its ends: it does not")
    x = torch.linspace(along.min() - margin, along.max() + margin, grid, dtype=torch.float64)
    y = torch.linspace(0, (1 + margin) * off.max(), grid, dtype=torch.float64)
    network = copy.deepcopy(model).eval()
    losses = torch.empty(grid, grid, dtype=torch.float64)
    for i, place in enumerate(x):
        nearest = int(away[(along[away] - place).abs().argmin()])
        direction = trajectory.row(nearest).double() - start - along[nearest] * line
        direction /= direction.norm()
        for j, distance in enumerate(y):
            trajectory.write(network, start + place * line + distance * length * direction)
            with torch.no_grad():
                losses[i, j] = float(loss(network))
    return PathPlane(x, y, losses)


def _line(trajectory: Trajectory, initial: int, final: int) -> tuple[Tensor, Tensor, Tensor]:
    start = trajectory.row(initial).double()
    line = trajectory.row(final).double() - start
    length = line.norm()
    if length == 0:
        raise ValueError(f"initial and final must be snapshots of different weights: got {initial} and {final}")
    return start, line, length
