"""Flatness along filter-normalized directions: a quadratic by hand, rescaling, what is left alone and refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.curvature import filter_normalized_direction, filter_normalized_rise


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2)
    ).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_filter_is_as_long_as_the_weights(dtype):
    net = network(dtype)
    net[4].weight.requires_grad_(False)
    way = filter_normalized_direction(net, generator=seeded())
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    for (name, p), d in zip(named, way, strict=True):
        if p.ndim < 2:
            assert not d.any(), name
            continue
        torch.testing.assert_close(d.flatten(1).norm(dim=1), p.flatten(1).norm(dim=1))
        assert not torch.allclose(d / p, (d / p).flatten()[0])  # and points elsewhere


def test_mean_rise_of_a_quadratic():
    """For |A w|^2 / m with one filter w: the mean of r^2 d^T H d / 2 over directions of length |w|."""
    line = nn.Linear(5, 1, bias=False).double()
    x = torch.randn(7, 5, generator=seeded(), dtype=torch.float64)
    y = (x @ line.weight.detach().T).detach()  # at the minimum: no slope
    rise = filter_normalized_rise(line, F.mse_loss, x, y, radius=0.3, directions=4000, generator=seeded(1))
    hessian = 2 / 7 * x.T @ x
    length = line.weight.square().sum()
    mean = 0.3**2 / 2 * length * hessian.trace() / 5
    spread = 0.3**2 / 2 * length * (2 * (hessian @ hessian).trace() / 35).sqrt()  # at most that of a sphere
    assert abs(rise - mean.item()) < 4 * spread.item() / 4000**0.5


def test_rescaled_filters_have_the_same_rise():
    """c in front of a ReLU and 1/c behind leave function and rise alone; without the lengths the rise changes."""
    net, x, y = network(), torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 2
    net.eval()

    def both(r):
        return filter_normalized_rise(net, F.cross_entropy, x, y, radius=r, directions=3, generator=seeded(2))

    def plain(r):
        moved = []
        for seed in range(3):
            draw = seeded(seed)
            before = [p.clone() for p in net.parameters()]
            with torch.no_grad():
                for p in net.parameters():
                    p += r * torch.randn(p.shape, generator=draw, dtype=p.dtype)
                moved.append(F.cross_entropy(net(x), y).item())
                for p, old in zip(net.parameters(), before, strict=True):
                    p.copy_(old)
        return sum(moved) / 3

    first = both(0.4), plain(0.4)
    with torch.no_grad():
        net[4].weight.mul_(7.0)
        net[4].bias.mul_(7.0)
        net[6].weight.div_(7.0)
    again = both(0.4), plain(0.4)
    assert again[0] == pytest.approx(first[0], rel=1e-9)
    assert again[1] != pytest.approx(first[1], rel=1e-2)


def test_zero_and_left_as_found():
    net, x, y = network(), torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 2
    net[1].eval()
    before = [t.clone() for t in net.state_dict().values()]
    assert filter_normalized_rise(net, F.cross_entropy, x, y, radius=0.0, directions=2) == 0
    filter_normalized_rise(net, F.cross_entropy, x, y, radius=1.0, directions=2)
    with pytest.raises(RuntimeError):
        filter_normalized_rise(net, F.cross_entropy, x[:, :, :2], y, radius=1.0)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before, strict=True))
    assert net.training
    assert not net[1].training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_what_is_refused():
    net, x, y = network(), torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 2
    with pytest.raises(ValueError, match="radius must be 0 or more"):
        filter_normalized_rise(net, F.cross_entropy, x, y, radius=-1.0)
    with pytest.raises(ValueError, match="directions must be at least 1: got 0"):
        filter_normalized_rise(net, F.cross_entropy, x, y, radius=1.0, directions=0)
    with pytest.raises(ValueError, match="loss must be finite"):
        filter_normalized_rise(net, lambda a, b: a.sum() / 0, x, y, radius=1.0, directions=1)
