"""Straight paths: closed forms, an obstacle that is there, residuals, the surface, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.nn import mlp, smallcnn
from assay.probes import (
    Trajectory,
    largest_rise,
    path_plane,
    path_residuals,
    record,
    refresh_batch_norm,
    straight_path,
)


def product_loss(model):
    """The paper's deep linear example, f(x) = w^2 x with target x."""
    return (1 - model.weight.item() ** 2) ** 2 / 2


def scalar(value, dtype=torch.float64):
    model = nn.Linear(1, 1, bias=False).to(dtype)
    model.weight.data.fill_(value)
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("start", [0.0, 0.3, 0.8, -0.2, -1.1])
def test_the_deep_linear_example(start, dtype, tolerance):
    path = straight_path(scalar(start, dtype), scalar(1.0, dtype), product_loss, points=1001)
    expected = (1 - ((1 - path.ts) * start + path.ts) ** 2) ** 2 / 2
    torch.testing.assert_close(path.losses, expected, rtol=0, atol=tolerance)
    drop = (1 - start**2) ** 2 / 2
    if start >= 0:
        assert path.monotone
        assert path.rise <= 1e-6
    else:  # up to 1/2 at the saddle w = 0; from -1.1 down to the other minimum w = -1 first
        climb = 0.5 - (drop if start > -1 else 0.0)
        assert path.rise == pytest.approx(climb / drop, abs=1e-3)
        assert not path.monotone


def test_the_largest_rise_by_all_pairs():
    losses = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = [(losses[t] - losses[s]).item() for t in range(40) for s in range(t + 1)]
    assert largest_rise(losses) == pytest.approx(max(pairs), rel=1e-12)
    assert largest_rise(losses.sort(descending=True).values) == 0
    assert largest_rise(torch.tensor([4.0, 9.0, 1.0, 3.0])) == 5  # neither from the least nor to the last
    assert largest_rise(torch.tensor([9.0, 4.0, 1.0, 3.0])) == 2  # what lies before the least does not count


def test_ends_are_the_networks_own_losses():
    torch.manual_seed(0)
    start, end = (mlp((1, 5, 5), 3, widths=(8,)) for _ in range(2))
    x, y = torch.rand(20, 1, 5, 5), torch.arange(20) % 3
    for p in end.parameters():
        p.data.mul_(0.1)

    def loss(model):
        assert not model.training
        return F.cross_entropy(model(x), y).item()

    with torch.no_grad():
        ends = [F.cross_entropy(model(x), y).item() for model in (start, end)]
    first, last = (start, end) if ends[0] > ends[1] else (end, start)
    path = straight_path(first, last, loss)
    assert len(path.ts) == 51
    assert [path.losses[0].item(), path.losses[-1].item()] == pytest.approx(sorted(ends, reverse=True), rel=1e-6)
    wider = straight_path(first, last, loss, low=-0.35, high=1.35, points=4)
    assert wider.ts.tolist() == pytest.approx([-0.35, 0.0, 0.35 * 2 / 3 - 0.01666667, 0.78333333, 1.0, 1.35], abs=1e-6)
    assert wider.losses[1].item() == pytest.approx(max(ends), rel=1e-6)


def test_what_lies_outside_is_no_obstacle():
    """From w = -2 the way to w = 1 would cross the saddle; from 0.5 it does not, whatever lies behind it."""
    path = straight_path(scalar(0.5), scalar(1.0), product_loss, low=-5.0, high=2.0, points=71)
    assert path.monotone
    assert path.losses[0] > path.losses[10]


def test_batch_norm_can_be_refreshed_on_the_way():
    torch.manual_seed(0)
    start = smallcnn((1, 6, 6), 3, widths=(4,))
    end, x = copy.deepcopy(start), torch.rand(12, 1, 6, 6)
    end[0].weight.data.mul_(-2)
    end[5].weight.data.mul_(0.1)
    count = []

    def refresh(model):
        count.append(1)
        refresh_batch_norm(model, x)

    straight_path(start, end, lambda model: model(x).square().sum().item(), points=7, refresh=refresh)
    assert len(count) == 7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_residuals_are_orthogonal(dtype):
    rows = torch.randn(6, 50, generator=torch.Generator().manual_seed(1), dtype=dtype)
    along, off = path_residuals(Trajectory.from_weights(rows), initial=1, final=4)
    moved = (rows - rows[1]).double()
    length = moved[4].norm()
    torch.testing.assert_close(along**2 + off**2, (moved**2).sum(1) / length**2)  # Pythagoras
    torch.testing.assert_close(along, moved @ moved[4] / length**2)
    assert along[[1, 4]].tolist() == pytest.approx([0, 1])
    assert off[[1, 4]].tolist() == pytest.approx([0, 0], abs=1e-7)
    straight = torch.linspace(0, 1, 5, dtype=dtype)[:, None] * rows[:1] + rows[1:2]
    along, off = path_residuals(Trajectory.from_weights(straight))
    torch.testing.assert_close(along, torch.linspace(0, 1, 5).double(), rtol=0, atol=1e-6)
    assert off.max() < 1e-6


def test_the_surface_passes_through_the_snapshots():
    torch.manual_seed(0)
    model = mlp((1, 3, 3), 2, widths=(4,)).double()
    trajectory = record(model, dtype=torch.float64)
    for _ in range(5):
        trajectory.append(model)
        for p in model.parameters():
            p.data.add_(torch.randn_like(p))
    x = torch.rand(10, 1, 3, 3).double()

    def loss(network):
        return network(x).square().mean().item()

    before = [p.clone() for p in model.parameters()]
    surface = path_plane(trajectory, model, loss, grid=4)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    along, off = path_residuals(trajectory)
    assert surface.x[[0, -1]].tolist() == pytest.approx([along.min().item() - 0.2, along.max().item() + 0.2])
    assert surface.y[-1].item() == pytest.approx(1.2 * off.max().item())
    start, line = trajectory.row(0), trajectory.row(-1) - trajectory.row(0)
    inner = [t for t in range(5) if off[t] > 1e-9]
    for i, place in enumerate(surface.x):
        t = min(inner, key=lambda t: abs(along[t] - place))
        residual = trajectory.row(t) - start - along[t] * line
        for j, distance in enumerate(surface.y):
            trajectory.write(model, start + place * line + distance * line.norm() * residual / residual.norm())
            assert surface.losses[i, j].item() == pytest.approx(loss(model), rel=1e-9)


def test_what_is_refused():
    start, end = scalar(0.5), scalar(1.0)
    with pytest.raises(ValueError, match="points must be at least 3: got 2"):
        straight_path(start, end, product_loss, points=2)
    with pytest.raises(ValueError, match="low must be below high"):
        straight_path(start, end, product_loss, low=1.0, high=1.0)
    with pytest.raises(ValueError, match="no length"):
        straight_path(start, start, product_loss)
    with pytest.raises(ValueError, match="lower loss"):
        straight_path(end, start, product_loss)
    with pytest.raises(ValueError, match="model_b"):
        straight_path(start, nn.Linear(2, 1, bias=False).double(), product_loss)
    with pytest.raises(ValueError, match="losses must be a row"):
        largest_rise(torch.tensor([1.0, float("nan")]))
    same = Trajectory.from_weights(torch.ones(3, 4))
    with pytest.raises(ValueError, match="initial and final"):
        path_residuals(same)
    with pytest.raises(ValueError, match="t must be in"):
        path_residuals(same, final=3)
    line = Trajectory.from_weights(torch.tensor([[0.0], [1.0], [2.0]]))
    with pytest.raises(ValueError, match="must leave the line"):
        path_plane(line, scalar(0.0), product_loss)
    for settings in (dict(grid=1), dict(margin=-1.0)):
        with pytest.raises(ValueError, match=next(iter(settings))):
            path_plane(line, scalar(0.0), product_loss, **settings)
