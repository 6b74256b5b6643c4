"""Scaled rates, Polyak's pair on a quadratic, and what is read off a Hessian."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.curvature import Hessian
from assay.data import Labelled
from assay.optim import LanczosLearningRate, lanczos_rate, polyak_rate, scale_learning_rate
from assay.train import fit


def test_scaling():
    assert scale_learning_rate(0.3, 64, 16) == pytest.approx(0.075)
    assert scale_learning_rate(0.3, 64, 16, rule="sqrt") == pytest.approx(0.15)
    assert scale_learning_rate(0.3, 64, 640, saturation=2.0) == 2.0
    assert scale_learning_rate(0.3, 64, 64, rule="sqrt") == 0.3


def test_polyaks_pair_is_the_fastest_on_a_quadratic():
    """The error of the slowest mode shrinks by (sqrt k - 1) / (sqrt k + 1) a step; other pairs are slower."""
    curvature = torch.tensor([1.0, 3.0, 7.0, 25.0], dtype=torch.float64)

    def left(lr, momentum, steps=200):
        x, before = torch.ones(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
        for _ in range(steps):
            x, before = x - lr * curvature * x + momentum * (x - before), x
        return x.norm().item() ** (1 / steps)

    rate = polyak_rate(25.0, 1.0)
    assert left(*rate) == pytest.approx((5 - 1) / (5 + 1), rel=0.05)
    for lr, momentum in ((rate.lr / 2, rate.momentum), (rate.lr, 0.0), (2 / 26, 0.0)):
        assert not left(lr, momentum) < left(*rate) + 0.02


def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return model, torch.randn(30, 4, dtype=torch.float64), torch.randint(3, (30,))


def test_the_rate_is_that_of_the_spectrum():
    """With as many steps as weights the Ritz values are the eigenvalues."""
    model, x, y = problem()
    operator = Hessian(model, F.cross_entropy, x, y)
    values = torch.linalg.eigvalsh(torch.stack([operator.matvec(e) for e in torch.eye(operator.size).double()]))
    expected = polyak_rate(values[-1].item(), values[values > 1e-3 * values[-1]][0].item())
    found = lanczos_rate(model, F.cross_entropy, x, y, steps=operator.size)
    assert found.lr == pytest.approx(expected.lr, rel=1e-4)
    assert found.momentum == pytest.approx(expected.momentum, rel=1e-4)
    few = lanczos_rate(model, F.cross_entropy, x, y, steps=8, generator=torch.Generator().manual_seed(0))
    assert few.lr < 4 / values[-1].item()


def test_the_scheduler_reads_at_once_and_every_so_often():
    model, x, y = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=9.0, momentum=0.99)
    schedule = LanczosLearningRate(optimizer, model, F.cross_entropy, x, y, steps=6, every=2, scale=0.5)
    first = schedule.rate
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * first.lr)
    assert optimizer.param_groups[0]["momentum"] == first.momentum
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    schedule.step()
    assert schedule.rate == first
    schedule.step()
    assert schedule.rate != first
    assert schedule.products == 12
    other = LanczosLearningRate(torch.optim.Adam(model.parameters()), model, F.cross_entropy, x, y)
    other.load_state_dict(schedule.state_dict())
    assert (other.calls, other.products) == (2, 12)
    assert "momentum" not in other.optimizer.param_groups[0]


def test_it_trains():
    model, x, _ = problem()
    y = (x[:, 0] > 0).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.0)
    history = fit(
        model,
        Labelled(x, y),
        optimizer,
        epochs=15,
        batch_size=30,
        schedule=lambda o: LanczosLearningRate(o, model, F.cross_entropy, x, y, scale=0.25),
    )
    assert history.loss[-1] < 0.5 * history.loss[0]


def test_what_is_refused():
    for name, value in (("lr", -1.0), ("batch", 0), ("new_batch", 0), ("rule", "cubic"), ("saturation", 0.0)):
        with pytest.raises(ValueError, match=name):
            scale_learning_rate(**{"lr": 0.1, "batch": 1, "new_batch": 1, name: value})
    for largest, smallest in ((1.0, 2.0), (1.0, 0.0), (math.inf, 1.0)):
        with pytest.raises(ValueError, match="smallest and largest"):
            polyak_rate(largest, smallest)
    model, x, y = problem()
    with pytest.raises(ValueError, match="positive curvature"):
        lanczos_rate(
            model, lambda o, t: -F.mse_loss(o, torch.zeros_like(o)) * 0 - (o**2).mean() * 1e-3, x * 0 + 1, y, steps=1
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for name, value in (("steps", 0), ("every", 0), ("scale", 0.0)):
        with pytest.raises(ValueError, match=name):
            LanczosLearningRate(optimizer, model, F.cross_entropy, x, y, **{name: value})
