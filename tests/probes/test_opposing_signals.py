"""Groups by hand, correlations by numpy, matches by brute force, the toy's Hessian and sharpening; what is refused."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.curvature import hessian_matrix
from assay.probes import Groups, OpposingSignals, TwoLayerLinear, matched_groups, opposing_toy, sharpness


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def each(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def watched(steps=8, m=60, fraction=0.2):
    """Losses of two alternating groups of 12, the rest noise."""
    found = OpposingSignals(each, torch.zeros(m, 2), torch.zeros(m, dtype=torch.long), fraction=fraction)
    noise = 0.1 * torch.randn(steps, m, generator=generator(), dtype=torch.float64)
    for step in range(steps):
        losses = 3 + noise[step]
        losses[:12] += (-1.0) ** step * (1 + 0.1 * step)
        losses[12:24] -= (-1.0) ** step * (1 + 0.1 * step)
        found.record(losses)
    return found


def test_groups_and_correlations_by_numpy():
    found = watched()
    losses = torch.stack(found.records).numpy()
    change = losses[3] - losses[2]
    groups = found.groups(2)
    assert groups.up.tolist() == np.argsort(-change)[:12].tolist()
    assert groups.down.tolist() == np.argsort(change)[:12].tolist()
    assert set(groups.down.tolist()) == set(range(12))
    means = np.stack([losses[1:7, groups.up.numpy()].mean(1), losses[1:7, groups.down.numpy()].mean(1)])
    np.testing.assert_allclose(found.group_losses(groups, 1, 6).numpy(), means)
    expected = np.corrcoef(np.diff(means))[0, 1]
    assert found.opposition(groups, 1, 5) == pytest.approx(expected)
    assert expected < -0.99
    still = Groups(torch.arange(2), torch.arange(2, 4))
    found.records = [torch.ones(60)] * 8
    assert found.opposition(still, 0, 5) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_are_those_of_the_network_and_it_is_left_alone(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2)).to(dtype)
    x, y = torch.randn(40, 3, generator=generator(), dtype=dtype), torch.arange(40) % 2
    found = OpposingSignals(each, x, y, fraction=0.25)
    model[2].eval()
    statistics = model[1].running_mean.clone()
    found.on_step(model)
    assert (model.training, model[2].training) == (True, False)
    assert torch.equal(model[1].running_mean, statistics)
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    torch.testing.assert_close(found.records[0].mean(), F.cross_entropy(model(x), y))
    assert not found.records[0].requires_grad
    broken = nn.Sequential(nn.Linear(4, 2)).to(dtype)
    with pytest.raises(RuntimeError):
        found.on_step(broken)
    assert broken.training


def test_matches_are_the_best_of_all():
    """Brute force over all ways to give three members three of four others."""
    features = torch.tensor([[1.0, 2], [4, 0], [9, 1], [1.2, 2.1], [8, 1], [4.5, 0.5], [20, 5]], dtype=torch.float64)
    members, rest = [0, 1, 2], [3, 4, 5, 6]
    scaled = features / features.std(0)
    cost = {
        some: sum((scaled[a] - scaled[b]).abs().sum().item() for a, b in zip(members, some, strict=True))
        for some in itertools.permutations(rest, 3)
    }
    with pytest.raises(ValueError, match="at most half"):
        matched_groups(Groups(torch.tensor([0, 1]), torch.tensor([2, 3])), features)
    found = matched_groups(Groups(torch.tensor([0, 1]), torch.tensor([2])), features, generator=generator())
    assert {*found.up.tolist(), *found.down.tolist()} == set(min(cost, key=cost.get))


def test_matched_groups_mix_both_sides_by_chance():
    features = torch.cat([torch.full((20, 1), 5.0), torch.zeros(80, 1), torch.full((20, 1), 5.0)])
    groups = Groups(torch.arange(10), torch.arange(10, 20))
    found = matched_groups(groups, features, generator=generator(1))
    assert {*found.up.tolist(), *found.down.tolist()} == set(range(100, 120))
    assert len(found.up) == len(found.down) == 10
    assert found.up.tolist() == matched_groups(groups, features, generator=generator(1)).up.tolist()
    assert set(found.up.tolist()) != set(matched_groups(groups, features, generator=generator(2)).up.tolist())
    with pytest.raises(ValueError, match="finite"):
        matched_groups(groups, features * math.nan)


def test_sharpness_is_the_largest_eigenvalue():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(12, 3, generator=generator(), dtype=torch.float64), torch.arange(12) % 2
    exact = np.linalg.eigvalsh(hessian_matrix(model, F.cross_entropy, x, y).numpy()).max()
    assert sharpness(model, F.cross_entropy, x, y) == pytest.approx(exact, rel=1e-9)
    one = sharpness(model, F.cross_entropy, x, y, steps=3)
    assert one == sharpness(model, F.cross_entropy, x, y, steps=3)
    assert one < exact


def test_the_toys_hessian_is_autograds():
    x, y = (part.double() for part in opposing_toy(num=50, dim=3, generator=generator()))
    network = TwoLayerLinear(4, scale=0.7, c=0.6, generator=generator(1)).double()
    expected = hessian_matrix(network, lambda out, t: 0.5 * F.mse_loss(out, t), x, y)
    torch.testing.assert_close(network.hessian(x, y), expected, rtol=1e-9, atol=1e-10)


def test_the_toys_data():
    x, y = opposing_toy(alpha=4.0, signal=3.0, dim=5, num=4000, gamma=0.5, generator=generator())
    assert set(x[:, 5].tolist()) == {2.0, -2.0}
    assert abs(x[:, 5].mean().item()) < 5 * 2 / math.sqrt(4000)
    beta = torch.linalg.lstsq(x[:, :5], y - 1.0).solution  # gamma |x_o| = 1
    assert beta.norm().item() == pytest.approx(3.0, abs=1e-4)
    assert x[:, :5].var().item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / 20_000))


@pytest.mark.parametrize(("alpha", "lr", "crosses"), [(10.0, 0.12, True), (0.5, 0.12, False), (10.0, 0.05, False)])
def test_it_sharpens_until_the_halves_alternate(alpha, lr, crosses):
    x, y = (part.double() for part in opposing_toy(alpha=alpha, generator=generator(5)))
    network = TwoLayerLinear(11, generator=generator(6)).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    halves = Groups((x[:, -1] > 0).nonzero().flatten(), (x[:, -1] < 0).nonzero().flatten())
    found = OpposingSignals(lambda out, t: 0.5 * (out - t) ** 2, x, y, fraction=0.2)
    curve = []
    for _ in range(120):
        found.on_step(network)
        curve.append(torch.linalg.eigvalsh(network.hessian(x, y))[-1].item())
        optimizer.zero_grad()
        found.loss(network(x), y).mean().backward()
        optimizer.step()
    assert (max(curve) > 2 / lr) == crosses
    if crosses:
        first = next(step for step, value in enumerate(curve) if value > 2 / lr)
        assert found.opposition(halves, first, 50) < -0.9
        assert curve[-1] < max(curve)


def test_refused():
    x, y = torch.zeros(100, 2), torch.zeros(100, dtype=torch.long)
    for fraction in (0.0, 0.5, 0.05):
        with pytest.raises(ValueError, match="fraction"):
            OpposingSignals(each, x, y, fraction=fraction)
    found = OpposingSignals(F.cross_entropy, x, y, fraction=0.2)
    with pytest.raises(ValueError, match="one number an example"):
        found.on_step(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="finite"):
        found.record(torch.full((100,), math.nan))
    found.record(torch.ones(100))
    with pytest.raises(ValueError, match="step"):
        found.groups(0)
    with pytest.raises(ValueError, match="window"):
        found.opposition(Groups(torch.arange(2), torch.arange(2)), 0, 1)
    for settings, name in (
        (dict(alpha=0.0), "alpha"),
        (dict(signal=-1.0), "signal"),
        (dict(dim=0), "dim"),
        (dict(num=1), "num"),
    ):
        with pytest.raises(ValueError, match=name):
            opposing_toy(**settings)
    for settings, name in ((dict(dim=0), "dim"), (dict(dim=2, scale=-1.0), "scale")):
        with pytest.raises(ValueError, match=name):
            TwoLayerLinear(**settings)
