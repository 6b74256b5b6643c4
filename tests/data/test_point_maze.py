"""A point in a maze: crossing by brute force, distances round walls, pieces to be put together, what is refused."""

import math
from itertools import pairwise

import pytest
import torch

from assay.data import PointMaze


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crossing_by_brute_force():
    """A way crosses a wall when two of many points, one on each, (nearly) coincide."""
    maze = PointMaze()
    a, b = torch.rand(2, 200, 2, generator=draw())
    t = torch.linspace(0, 1, 400)
    ways = a[:, None] + t[:, None] * (b - a)[:, None]
    walls = maze.walls[:, None, :2] + t[:, None] * (maze.walls[:, None, 2:] - maze.walls[:, None, :2])
    near = torch.cdist(ways.flatten(0, 1), walls.flatten(0, 1)).view(200, -1).amin(1)
    found = maze.blocked(a, b)
    assert (near[found] < 4e-3).all()
    assert (near[~found] > 0).all()
    assert 20 < found.sum() < 180
    sure = near > 4e-3
    assert not found[sure].any()


def test_moves_are_cut_and_walls_and_borders_hold():
    maze = PointMaze()
    s = torch.tensor([[0.5, 0.5], [0.64, 0.5], [0.99, 0.1], [0.83, 0.5]])
    a = torch.tensor([[3.0, 4.0], [0.03, 0.0], [0.02, 0.0], [0.01, 0.0]])
    there, reward, done = maze.step(s, a)
    along, _, _ = maze.step(s[1:3], torch.tensor([[0.03, 0.02], [0.02, -0.01]]))  # it slides
    torch.testing.assert_close(along, torch.tensor([[0.64, 0.52], [0.99, 0.09]]))
    torch.testing.assert_close(there[0], torch.tensor([0.53, 0.54]))
    assert torch.equal(there[1:3], s[1:3])
    assert reward.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert done.tolist() == [False, False, False, True]


def test_distances_go_round_the_walls():
    maze = PointMaze()
    behind = torch.tensor([[0.63, 0.5], [0.81, 0.5]])  # a wall between them
    inside, outside = maze.distance(behind)
    assert outside.item() == pytest.approx(0.09, abs=0.03)
    # Out to the left, round a corner and back: at least the straight legs, at most what eight directions make of them.
    way = [(0.63, 0.5), (0.25, 0.35), (0.25, 0.25), (0.78, 0.25), (0.9, 0.5)]
    corner = sum(math.dist(a, b) for a, b in pairwise(way))
    assert corner - 0.06 < inside.item() < 1.1 * corner + 0.06
    nothing = PointMaze(walls=())
    assert nothing.distance(torch.tensor([[0.08, 0.5]])).item() == pytest.approx(0.8, abs=0.03)


def test_homewards_arrives_from_everywhere():
    maze = PointMaze()
    states = torch.rand(300, 2, generator=draw())
    states = states[maze.distance(states).isfinite()]  # not those inside of the walls
    home = torch.zeros(len(states), dtype=torch.bool)
    for _ in range(60):
        there, _, done = maze.step(states, maze.reach * maze.homewards(states))
        states = torch.where(home[:, None], states, there)
        home |= done
    assert home.float().mean() > 0.99


def test_no_piece_goes_all_the_way():
    maze = PointMaze()
    seen = maze.dataset(400, generator=draw())
    assert len(seen.states) > 2000
    assert (seen.actions.norm(dim=1) <= maze.reach + 1e-6).all()
    there, reward, done = maze.step(seen.states, seen.actions)
    assert torch.equal(there, seen.next_states)
    assert torch.equal(reward, seen.rewards)
    assert torch.equal(done, seen.done)
    assert 20 < int(done.sum()) < 250  # some arrive, from near by
    assert maze.distance(maze.start[None]).item() > 12 * maze.reach + maze.radius
    assert ((seen.states - maze.goal).norm(dim=1) > maze.radius).all()  # nobody walks on after the end
    again = maze.dataset(400, generator=draw())
    assert torch.equal(seen.actions, again.actions)


def test_astray_and_noise():
    maze = PointMaze()
    straight = maze.dataset(50, noise=0.0, astray=0.0, generator=draw())
    torch.testing.assert_close(straight.actions, maze.reach * maze.homewards(straight.states))
    lost = maze.dataset(200, noise=0.0, astray=1.0, generator=draw())
    along = (lost.actions * maze.homewards(lost.states)).sum(1) / maze.reach
    assert along.mean().abs() < 0.4  # 1 for those above; a little below 0, as some are stuck at walls


def test_success_is_counted_once_and_at_any_time():
    maze = PointMaze()
    way = lambda s: maze.reach * maze.homewards(s)  # noqa: E731
    assert maze.success_rate(way, generator=draw()) == 1.0
    assert maze.success_rate(way, horizon=5, generator=draw()) == 0.0
    assert maze.success_rate(lambda s: torch.zeros_like(s), generator=draw()) == 0.0


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: PointMaze(radius=0.0), "radius"),
        (lambda: PointMaze(reach=-1.0), "reach"),
        (lambda: PointMaze(start=(2.0, 0.0)), "start"),
        (lambda: PointMaze(goal=(0.5, -0.1)), "goal"),
        (lambda: PointMaze(walls=((0.7, -1.0, 0.7, 2.0),)), "reachable"),
        (lambda: PointMaze().dataset(0), "episodes"),
        (lambda: PointMaze().dataset(5, length=30), "length"),
        (lambda: PointMaze().dataset(5, noise=-1.0), "noise"),
        (lambda: PointMaze().dataset(5, astray=2.0), "astray"),
        (lambda: PointMaze().success_rate(lambda s: s, episodes=0), "episodes"),
    ],
)
def test_what_is_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make()
