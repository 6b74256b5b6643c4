"""Known limits of the rate, the search step by step, fits of known powers; what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.probes import maximal_learning_rate, power_law_fit, slow_input_layer


def limit(at):
    return lambda model, lr: float(lr <= at)


def nothing(run):
    return nn.Linear(1, 1)


@pytest.mark.parametrize("at", [0.37, 0.0123, 5.1])
def test_a_known_limit_within_twenty_evaluations(at):
    found = maximal_learning_rate(nothing, limit(at), threshold=0.5)
    assert at / 1.05 <= found.lr <= at < found.fails <= 1.05 * found.lr
    assert len(found.tried) <= 22
    assert found.bounded
    assert all((wins == 1) == (rate <= at) for rate, wins in found.tried)


def test_the_search_step_by_step():
    found = maximal_learning_rate(nothing, limit(0.9), threshold=0.5, low=0.1, tolerance=0.5)
    assert [rate for rate, _ in found.tried] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, math.sqrt(0.8 * 1.6)])
    assert (found.lr, found.fails) == pytest.approx((0.8, math.sqrt(0.8 * 1.6)))


def test_a_bowl_is_stable_up_to_two_over_its_curvature():
    """Full-batch descent on linear regression: eta* = 2 / lambda_max(2 X^T X / n)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    y = torch.zeros(20, 1, dtype=torch.float64)

    def descend(model, lr):
        before = F.mse_loss(model(x), y).item()
        for _ in range(400):
            model.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            with torch.no_grad():
                model.weight -= lr * model.weight.grad
        return float(loss.item() < before)

    def make(run):
        torch.manual_seed(run)
        return nn.Linear(3, 1, bias=False).double()

    found = maximal_learning_rate(make, descend, threshold=0.5, low=0.01)
    exact = 2 / (2 * torch.linalg.eigvalsh(x.T @ x / 20).max().item())
    assert exact / 1.06 < found.lr < 1.06 * exact


def test_majorities_and_runs_that_are_not_numbers():
    def train(model, lr):
        return math.nan if lr > (0.1, 0.3, 1.0)[int(model.bias.item())] else 1.0

    def make(run):
        model = nn.Linear(1, 1)
        nn.init.constant_(model.bias, float(run))
        return model

    found = maximal_learning_rate(make, train, threshold=0.5, low=0.05, trials=3)
    assert 0.3 / 1.05 <= found.lr <= 0.3  # two of three
    assert found.tried[0] == (0.05, 3)


def test_a_high_end_that_still_succeeds():
    found = maximal_learning_rate(nothing, limit(9.0), threshold=0.5, low=0.1, high=0.5)
    assert (found.lr, found.fails, found.bounded) == (0.5, math.inf, False)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(threshold=0.0), "threshold"),
        (dict(threshold=1.0), "threshold"),
        (dict(low=0.0), "low"),
        (dict(low=2.0), "low must be a rate that succeeds"),
        (dict(high=1e-5), "high"),
        (dict(tolerance=0.0), "tolerance"),
        (dict(trials=0), "trials"),
    ],
)
def test_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        maximal_learning_rate(nothing, limit(1.0), **{"threshold": 0.5} | settings)


def test_the_input_layer_is_slow():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 3)), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1, bias=False))
    slow, rest = slow_input_layer(model, 2.0, ratio=0.25)
    assert slow["params"] == list(model[0].parameters())
    assert len(rest["params"]) == 3
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.SGD([slow, rest], lr=2.0)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for index, (p, old) in enumerate(zip(model.parameters(), before, strict=True)):
        torch.testing.assert_close(old - p, torch.full_like(p, 0.5 if index < 2 else 2.0))
    for settings, name in ((dict(lr=0.0), "lr"), (dict(lr=1.0, ratio=0.0), "ratio")):
        with pytest.raises(ValueError, match=name):
            slow_input_layer(model, **settings)
    with pytest.raises(ValueError, match="two layers"):
        slow_input_layer(nn.Linear(2, 2), 1.0)


def points(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 9, generator=generator, dtype=torch.float64) + 0.5
    noise = torch.randn(9, generator=generator, dtype=torch.float64)
    return a.to(dtype), b.to(dtype), (2 * a**1.5 * b**-0.7 * torch.exp(0.1 * noise)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fits_are_numpys(dtype):
    a, b, y = points(dtype)
    law = power_law_fit(y, {"a": a})
    slope, intercept = np.polyfit(np.log(a.numpy()), np.log(y.numpy()), 1)
    assert (law.exponents["a"], law.intercept) == pytest.approx((slope, intercept), rel=1e-4)
    assert law.r2 == pytest.approx(np.corrcoef(np.log(a.numpy()), np.log(y.numpy()))[0, 1] ** 2, rel=1e-4)
    left = []
    for out in range(9):
        rest = np.arange(9) != out
        fit = np.polyfit(np.log(a.numpy()[rest]), np.log(y.numpy()[rest]), 1)
        left.append(np.polyval(fit, np.log(a.numpy()[out])) - np.log(y.numpy()[out]))
    assert law.loo_rmse == pytest.approx(np.sqrt(np.mean(np.square(left))), rel=1e-4)
    both = power_law_fit(y, {"a": a, "b": b})
    assert both.r2 > law.r2


def test_exact_powers_are_found():
    a, b, _ = points()
    law = power_law_fit(3 * a**2 / b, {"a": a, "b": b})
    assert law.exponents == pytest.approx({"a": 2.0, "b": -1.0})
    assert math.exp(law.intercept) == pytest.approx(3.0)
    assert law.loo_rmse < 1e-12


def test_refused_fits():
    a, _, y = points()
    for predictors, name in (
        ({}, "predictors"),
        ({"a": -a}, "a must be 9"),
        ({"a": a[:3]}, "a must be 9"),
        ({"a": a, "c": a**2}, "none be a power"),
        ({"a": torch.ones(9)}, "must vary"),
    ):
        with pytest.raises(ValueError, match=name):
            power_law_fit(y, predictors)
    with pytest.raises(ValueError, match="at least 3 points"):
        power_law_fit(y[:2], {"a": a[:2]})
