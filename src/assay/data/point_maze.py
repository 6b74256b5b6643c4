"""A point in a maze: many walk at once, walls are lines, and only the goal pays."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CORNERS = (
    *((0.25, 0.25), (0.78, 0.25), (0.78, 0.75), (0.25, 0.75)),
    *((0.25, 0.65), (0.66, 0.65), (0.66, 0.35), (0.25, 0.35)),
)
U_WALL = tuple((*a, *b) for a, b in zip(CORNERS, (*CORNERS[1:], CORNERS[0]), strict=True))
GRID = 40
Policy = Callable[[Tensor], Tensor]


class Transitions(NamedTuple):
    """Steps that were made: states (n, 2), actions (n, 2), next states (n, 2), rewards (n,), whether it ended (n,)."""

    states: Float[Tensor, "n 2"]
    actions: Float[Tensor, "n 2"]
    next_states: Float[Tensor, "n 2"]
    rewards: Float[Tensor, " n"]
    done: Bool[Tensor, " n"]


class PointMaze:
    """The unit square with walls that are line segments, a place to start from and a goal.

    A state is a place, an action a displacement, cut to length `reach`. Of a move that would cross a wall or leave the
    square, the part along x is made if that is free, or that along y, or none. Entering the goal pays 1 and ends the
    walk; nothing else pays.

    Args:
        walls: segments (x1, y1, x2, y2); the default is the outline of a thick U that opens to the left, with the
            start in it and the goal behind its back.
        start: where walks that are judged begin.
        goal: middle of the goal.
        radius: of the goal, positive.
        reach: greatest length of a move, positive.

    Raises:
        ValueError: for sizes that are not positive, places outside the square, a goal that cannot be reached.

    Example:
        >>> maze = PointMaze()
        >>> here = torch.tensor([[0.65, 0.5], [0.5, 0.5]])
        >>> there, reward, done = maze.step(here, torch.tensor([[0.1, 0.0], [0.0, -0.03]]))
        >>> there.tolist(), reward.tolist()  # a wall; nothing in the way
        ([[0.6499999761581421, 0.5], [0.5, 0.4699999988079071]], [0.0, 0.0])
    """

    def __init__(
        self,
        walls: Sequence[tuple[float, float, float, float]] = U_WALL,
        *,
        start: tuple[float, float] = (0.5, 0.5),
        goal: tuple[float, float] = (0.9, 0.5),
        radius: float = 0.07,
        reach: float = 0.05,
    ) -> None:
        for name, value in (("radius", radius), ("reach", reach)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite: got {value}")
        for name, place in (("start", start), ("goal", goal)):
            if not all(0 <= each <= 1 for each in place):
                raise ValueError(f"{name} must lie in the unit square: got {place}")
        self.walls = torch.tensor(walls, dtype=torch.float32).view(-1, 4)
        self.start, self.goal = torch.tensor(start), torch.tensor(goal)
        self.radius, self.reach = radius, reach
        self.distances = self._distances()
        if not self.distance(self.start[None]).isfinite().all():
            raise ValueError("goal must be reachable from start: walls are in the way")

    def step(
        self, states: Float[Tensor, "n 2"], actions: Float[Tensor, "n 2"]
    ) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """One move of each: (next states, rewards, whether the goal was entered)."""
        length = actions.norm(dim=1, keepdim=True)
        move = actions * (self.reach / length.clamp_min(self.reach))
        there = states
        for part in (move * torch.tensor([0.0, 1.0]), move * torch.tensor([1.0, 0.0]), move):
            moved = states + part
            free = ((moved >= 0) & (moved <= 1)).all(1) & ~self.blocked(states, moved)
            there = torch.where(free[:, None], moved, there)
        done = (there - self.goal).norm(dim=1) <= self.radius
        return there, done.float(), done

    def blocked(self, a: Float[Tensor, "n 2"], b: Float[Tensor, "n 2"]) -> Bool[Tensor, " n"]:
        """Whether the straight way from a to b crosses a wall."""
        p, q = self.walls[None, :, :2], self.walls[None, :, 2:]
        a, b = a[:, None], b[:, None]
        apart = _side(p, q, a) * _side(p, q, b) <= 0
        return (apart & (_side(a, b, p) * _side(a, b, q) <= 0)).any(1)

    def distance(self, states: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """Length of the way to the goal round the walls, from a grid of 40 x 40; infinite where there is none."""
        cell = (states * GRID).long().clamp(0, GRID - 1)
        return self.distances[cell[:, 0], cell[:, 1]]

    def homewards(self, states: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """Unit steps along a shortest way to the goal: of sixteen moves, the one after which it is nearest."""
        turns = torch.arange(16) * (math.pi / 8)
        ways = torch.stack([turns.cos(), turns.sin()], 1)
        ends = states[:, None] + self.reach * ways
        flat = ends.reshape(-1, 2)
        closed = self.blocked(states[:, None].expand_as(ends).reshape(-1, 2), flat) | ((flat < 0) | (flat > 1)).any(1)
        left = torch.where(closed, torch.inf, self.distance(flat.clamp(0, 1))).view(len(states), 16)
        return ways[left.argmin(1)]

    def dataset(
        self,
        episodes: int,
        *,
        length: int = 12,
        noise: float = 0.5,
        astray: float = 0.4,
        generator: torch.Generator | None = None,
    ) -> Transitions:
        """Pieces of walks that begin anywhere; none of them goes from the start to the goal.

        Each is of somebody who heads for the goal round the walls, or, with probability `astray`, for a random
        direction; noise is added to every move. They are too short for the whole way, so that who learns from them
        must put pieces together.

        Args:
            episodes: pieces, at least 1.
            length: moves each, at least 1, fewer than the way from start to goal takes.
            noise: standard deviation of what is added to a move, in units of `reach`, 0 or more.
            astray: share of those who head for somewhere else, in [0, 1].
            generator: where it all comes from.

        Raises:
            ValueError: for arguments out of range.
        """
        if episodes < 1:
            raise ValueError(f"episodes must be at least 1: got {episodes}")
        least = (self.distance(self.start[None]).item() - self.radius) / self.reach
        if not 1 <= length < least:
            raise ValueError(f"length must be from 1 to {math.ceil(least) - 1}, below the whole way: got {length}")
        if not noise >= 0 or not 0 <= astray <= 1:
            raise ValueError(f"noise must be 0 or more and astray lie in [0, 1]: got {noise} and {astray}")
        # Drawn anew until outside of what walls enclose.
        states = torch.rand(episodes, 2, generator=generator)
        while (inside := self.distance(states).isinf()).any():
            states = torch.where(inside[:, None], torch.rand(episodes, 2, generator=generator), states)
        lost = torch.rand(episodes, generator=generator) < astray
        turn = 2 * math.pi * torch.rand(episodes, generator=generator)
        away = torch.stack([turn.cos(), turn.sin()], 1)
        alive = (states - self.goal).norm(dim=1) > self.radius
        rows: list[tuple[Tensor, ...]] = []
        for _ in range(length):
            heading = torch.where(lost[:, None], away, self.homewards(states))
            pushed = heading + noise * torch.randn(episodes, 2, generator=generator)
            actions = self.reach * pushed / pushed.norm(dim=1, keepdim=True).clamp_min(1.0)
            there, reward, done = self.step(states, actions)
            rows.append(tuple(each[alive] for each in (states, actions, there, reward, done)))
            alive = alive & ~done
            states = there
        return Transitions(*(torch.cat(each) for each in zip(*rows, strict=True)))

    def success_rate(
        self, policy: Policy, *, episodes: int = 100, horizon: int = 80, generator: torch.Generator | None = None
    ) -> float:
        """Share of walks from about the start that enter the goal.

        Args:
            policy: states (n, 2) -> actions (n, 2).
            episodes: walks, at least 1; each starts within 0.03 of the start.
            horizon: moves a walk has, at least 1.
            generator: where the starts come from.

        Raises:
            ValueError: for counts below 1.

        Example:
            >>> maze = PointMaze()
            >>> maze.success_rate(lambda s: maze.reach * maze.homewards(s), generator=torch.Generator().manual_seed(0))
            1.0
            >>> maze.success_rate(lambda s: maze.goal - s, episodes=10)  # straight into the wall
            0.0
        """
        if episodes < 1 or horizon < 1:
            raise ValueError(f"episodes and horizon must be at least 1: got {episodes} and {horizon}")
        states = self.start + 0.06 * (torch.rand(episodes, 2, generator=generator) - 0.5)
        home = torch.zeros(episodes, dtype=torch.bool)
        for _ in range(horizon):
            with torch.no_grad():
                there, _, done = self.step(states, policy(states))
            states = torch.where(home[:, None], states, there)
            home = home | done
        return home.double().mean().item()

    def _distances(self) -> Tensor:
        """Of the middle of each cell to the goal: a wave over eight neighbours, again where a shorter way is found."""
        middles = (torch.arange(GRID) + 0.5) / GRID
        places = torch.stack(torch.meshgrid(middles, middles, indexing="ij"), -1)
        found = torch.full((GRID, GRID), torch.inf)
        near = (places - self.goal).norm(dim=2)
        inside = near <= max(self.radius, 1 / GRID)
        found[inside] = near[inside]
        steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
        open_ways = {}
        for i, j in steps:
            ends = places + torch.tensor([i, j]) / GRID
            fits = ((ends > 0) & (ends < 1)).all(2)
            closed = self.blocked(places.reshape(-1, 2), ends.reshape(-1, 2)).view(GRID, GRID)
            open_ways[i, j] = (fits & ~closed).tolist()
        values = found.tolist()
        queue = deque((a, b) for a, b in inside.nonzero().tolist())
        while queue:
            a, b = queue.popleft()
            for i, j in steps:
                if open_ways[i, j][a][b] and values[a][b] + math.hypot(i, j) / GRID < values[a + i][b + j] - 1e-12:
                    values[a + i][b + j] = values[a][b] + math.hypot(i, j) / GRID
                    queue.append((a + i, b + j))
        return torch.tensor(values)


def _side(p: Tensor, q: Tensor, x: Tensor) -> Tensor:
    """On which side of the line from p to q x lies."""
    return (q[..., 0] - p[..., 0]) * (x[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (x[..., 0] - p[..., 0])
