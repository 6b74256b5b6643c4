"""IGNITE against closed forms, second derivatives, its own algorithm written out, and plain training."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from assay.data import Labelled
from assay.optim import IGNITE, ascend_designs, gradient_norm_penalty, surrogate_sharpness
from assay.train import fit


def surrogate(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double(), torch.randn(11, 4, dtype=torch.float64)


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def test_of_a_linear_surrogate_all_is_known():
    model, x = nn.Linear(4, 1).double(), torch.randn(11, 4, dtype=torch.float64)
    expected = 0.3 * math.sqrt(x.mean(0).square().sum().item() + 1)
    assert surrogate_sharpness(model, x, rho=0.3) == pytest.approx(expected, rel=1e-12)
    assert flat(gradient_norm_penalty(model, x)).abs().max() < 1e-12  # its gradient does not depend on the weights


class Quadratic(nn.Module):
    """h(theta) = theta' A theta / 2, whatever the inputs."""

    def __init__(self):
        super().__init__()
        a = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.A = a + a.T
        self.w = nn.Parameter(torch.linspace(-1, 2, 5, dtype=torch.float64))

    def forward(self, x):
        return self.w @ self.A @ self.w / 2 + 0 * x[:, 0]


def test_of_a_quadratic_the_difference_is_exact():
    model, x = Quadratic(), torch.zeros(3, 1, dtype=torch.float64)
    g = model.A @ model.w.detach()
    expected = 0.7 * model.A @ g / g.norm()
    for r in (0.01, 1.0):
        torch.testing.assert_close(gradient_norm_penalty(model, x, rho=0.7, r=r)[0], expected, rtol=1e-9, atol=1e-12)


def test_the_difference_is_of_first_order():
    """Against double backward: halving r halves the error."""
    model, x = surrogate()
    parameters = list(model.parameters())
    first = torch.autograd.grad(model(x).mean(), parameters, create_graph=True)
    norm = torch.cat([g.flatten() for g in first]).norm()
    exact = flat(torch.autograd.grad(0.05 * norm, parameters, allow_unused=True, materialize_grads=True))
    errors = [(flat(gradient_norm_penalty(model, x, r=r)) - exact).norm().item() for r in (0.02, 0.01)]
    assert errors[0] < 0.05 * exact.norm()
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_it_is_the_rise_of_the_mean_prediction_nearby():
    model, x = surrogate()
    before, rho = model(x).mean().item(), 1e-3
    gradient = torch.autograd.grad(model(x).mean(), list(model.parameters()))
    length = flat(gradient).norm()
    with torch.no_grad():
        for p, g in zip(model.parameters(), gradient, strict=True):
            p.add_(rho * g / length)
    risen = model(x).mean().item() - before
    model, x = surrogate()
    assert surrogate_sharpness(model, x, rho=rho) == pytest.approx(risen, rel=1e-2)


def test_three_steps_by_hand():
    """Gradient, multiplier and weights, with SGD, in the algorithm's own order."""
    model, x = surrogate()
    twin, _ = surrogate()
    y = torch.sin(3 * x[:, :1])
    rule = IGNITE(rho=0.5, r=0.1, lam=0.2, eta=0.3, epsilon=0.4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    lam = 0.2
    for _ in range(3):
        optimizer.zero_grad()
        value = rule(model, x, y, mse_loss)
        optimizer.step()
        parameters = list(twin.parameters())
        loss = mse_loss(twin(x), y)
        assert value.item() == pytest.approx(loss.item(), rel=1e-10)
        g = torch.autograd.grad(loss, parameters)
        penalty = gradient_norm_penalty(twin, x, rho=0.5, r=0.1)
        sharpness = surrogate_sharpness(twin, x, rho=0.5)
        with torch.no_grad():
            for p, a, b in zip(parameters, g, penalty, strict=True):
                p.sub_(0.05 * (a + lam * b))
        lam = max(0.0, lam + 0.3 * (sharpness - 0.4))
        assert rule.sharpness.item() == pytest.approx(sharpness, rel=1e-9)
        assert rule.lam.item() == pytest.approx(lam, rel=1e-6)
    torch.testing.assert_close(flat(model.parameters()), flat(twin.parameters()), rtol=1e-6, atol=1e-9)


def ends(rule):
    model, x = surrogate()
    fit(model, Labelled(x, x[:, :1]), torch.optim.Adam(model.parameters(), lr=0.01), epochs=5, loss=mse_loss, rule=rule)
    return flat(model.parameters())


def test_without_a_multiplier_it_is_plain_training_and_with_one_it_is_not():
    plain = ends(None)
    torch.testing.assert_close(ends(IGNITE(lam=0.0, eta=0.0)), plain, rtol=0, atol=0)
    assert (ends(IGNITE(lam=1.0, dual=False)) - plain).abs().max() > 1e-3


def test_the_multiplier_stays_at_zero_and_may_stay_put():
    model, x = surrogate()
    for rule, lam in ((IGNITE(lam=0.01, eta=1.0, epsilon=1e3), 0.0), (IGNITE(lam=0.01, eta=1.0, dual=False), 0.01)):
        rule(model, x, x[:, :1], mse_loss)
        assert rule.lam.item() == pytest.approx(lam)
    other = IGNITE()
    other.load_state_dict(rule.state_dict())
    assert other.lam.item() == pytest.approx(0.01)


def test_it_keeps_sharpness_down():
    """At the constraint the surrogate is less sharp than without, though both fit."""
    found = {}
    for name, rule in (("plain", None), ("ignite", IGNITE(lam=1.0, eta=1.0, epsilon=0.06))):
        model, x = surrogate()
        y = 3 * x[:, :1]
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        fit(model, Labelled(x, y), optimizer, epochs=150, batch_size=11, loss=mse_loss, rule=rule)
        found[name] = surrogate_sharpness(model, x)
    assert found["ignite"] < 0.8 * found["plain"]


def test_dropout_is_off_while_it_looks_and_the_mode_is_given_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.9), nn.Linear(50, 1))
    x = torch.randn(3, 4)
    assert surrogate_sharpness(model, x) == surrogate_sharpness(model, x)
    assert model.training
    assert model[1].training


def test_a_flat_surrogate_has_no_penalty():
    model = nn.Linear(2, 1, bias=False)
    assert torch.equal(gradient_norm_penalty(model, torch.zeros(3, 2))[0], torch.zeros(1, 2))


def test_designs_climb():
    model, x = surrogate()
    found = ascend_designs(model, x, steps=30, lr=0.05)
    assert (model(found) > model(x)).all()
    by_hand = x.clone()
    for _ in range(2):
        by_hand.requires_grad_()
        (slope,) = torch.autograd.grad(model(by_hand).sum(), by_hand)
        by_hand = (by_hand + 0.05 * 2 * slope).detach()  # the root of d = 4
    torch.testing.assert_close(ascend_designs(model, x, steps=2, lr=0.05), by_hand)
    assert torch.equal(ascend_designs(model, x, steps=0), x)


def test_what_is_refused():
    model, x = surrogate()
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="rho"):
            surrogate_sharpness(model, x, rho=value)
        with pytest.raises(ValueError, match="r must"):
            gradient_norm_penalty(model, x, r=value)
        with pytest.raises(ValueError, match="lr"):
            ascend_designs(model, x, lr=value)
    for name in ("lam", "eta", "epsilon"):
        with pytest.raises(ValueError, match=name):
            IGNITE(**{name: -0.1})
    with pytest.raises(ValueError, match="steps"):
        ascend_designs(model, x, steps=-1)
    with pytest.raises(ValueError, match=r"one number an example, \(11,\) or \(11, 1\): got \(11, 2\)"):
        surrogate_sharpness(nn.Linear(4, 2).double(), x)
    with pytest.raises(ValueError, match="finite predictions"):
        surrogate_sharpness(model, x * math.inf)
