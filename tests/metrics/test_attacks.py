"""Projected gradient ascent: by hand, where the answer is known, the constraints, a model left as it was, refusals."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.metrics import pgd


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


def network():
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    generator = torch.Generator().manual_seed(2)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return net


X, Y = 0.5 + 0.4 * waves((5, 6), 0.2), torch.tensor([0, 2, 1, 1, 0])


def slope_by_hand(net, x, y):
    """The gradient of the mean cross entropy, through tanh, typed out."""
    w, b, v, c = (p.detach().numpy() for p in net.parameters())
    hidden = np.tanh(x @ w.T + b)
    logits = hidden @ v.T + c
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return ((p / len(y)) @ v * (1 - hidden**2)) @ w


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_steps_by_hand(norm):
    net, eps, rate = network(), 0.3, 0.13
    x0 = X.numpy()
    x = x0.copy()
    for _ in range(4):
        g = slope_by_hand(net, x, Y.numpy())
        if norm == "linf":
            x = np.clip(x + rate * np.sign(g), x0 - eps, x0 + eps)
        else:
            x = x + rate * g / np.linalg.norm(g, axis=1, keepdims=True)
            away = np.linalg.norm(x - x0, axis=1, keepdims=True)
            x = x0 + (x - x0) * np.minimum(1, eps / away)
        x = np.clip(x, 0, 1)
    found = pgd(net, X, Y, eps=eps, norm=norm, steps=4, step_size=rate, random_start=False)
    np.testing.assert_allclose(found.numpy(), x, rtol=0, atol=1e-12)


def test_the_worst_for_a_line_is_found():
    """Of a linear model of two classes: all the way down the sign of w, or down w itself."""
    w = waves((1, 6), 0.4)
    net = nn.Linear(6, 1, bias=False).double()
    net.weight.data = w

    def logistic(out, sign):
        return F.softplus(-sign * out[:, 0]).mean()

    sign = torch.tensor([1.0, -1, 1, 1, -1]).double()
    options = dict(
        eps=0.2, steps=30, step_size=0.2, loss=logistic, bounds=None, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(pgd(net, X, sign, **options), X - 0.2 * sign[:, None] * w.sign())
    found = pgd(net, X, sign, norm="l2", **options)
    # A step as long as the radius at least halves the angle to w: 30 of them leave pi / 2^30.
    torch.testing.assert_close(found, X - 0.2 * sign[:, None] * w / w.norm(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constraints_and_gain(norm, dtype):
    net, x = network().to(dtype), X.to(dtype)
    found = pgd(net, x, Y, eps=0.25, norm=norm, generator=torch.Generator().manual_seed(1))
    away = found - x
    length = away.abs().amax(1) if norm == "linf" else away.norm(dim=1)
    assert found.dtype == dtype
    assert length.max() <= 0.25 * (1 + 8 * torch.finfo(dtype).eps)
    assert found.min() >= 0
    assert found.max() <= 1
    with torch.no_grad():
        rise = F.cross_entropy(net(found), Y) - F.cross_entropy(net(x), Y)
        random = pgd(net, x, Y, eps=0.25, norm=norm, steps=0, generator=torch.Generator().manual_seed(1))
        chance = F.cross_entropy(net(random), Y) - F.cross_entropy(net(x), Y)
    assert rise > max(3 * chance.item(), 0.1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_start_is_uniform_in_the_ball(norm):
    x = torch.zeros(4000, 3).double()
    net = nn.Linear(3, 2).double()
    generator = torch.Generator().manual_seed(0)
    y = torch.zeros(4000, dtype=torch.long)
    found = pgd(net, x, y, eps=2.0, norm=norm, steps=0, bounds=None, generator=generator)
    length = found.abs().flatten() if norm == "linf" else found.norm(dim=1)
    share = (length / 2.0) ** (1 if norm == "linf" else 3)  # uniform on [0, 1]
    assert share.mean().item() == pytest.approx(0.5, abs=5 * (12 * len(share)) ** -0.5)
    assert share.max() <= 1 + 1e-12
    assert found.mean(0).abs().max() < 5 * 2.0 / 4000**0.5


def test_no_way_up_and_no_room_leave_the_inputs():
    net = nn.Linear(6, 2).double()
    nn.init.zeros_(net.weight)
    for norm in ("linf", "l2"):
        assert torch.equal(pgd(net, X, Y.clamp(max=1), eps=0.1, norm=norm, random_start=False), X)
        assert torch.equal(pgd(network(), X, Y, eps=0.0, norm=norm), X)


def test_small_gradients_have_a_direction():
    """Of confident examples in single precision: squares would underflow, lengths must not."""
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = 1e-25 * torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    x = torch.tensor([[0.5, 0.5]])
    found = pgd(net, x, torch.tensor([0]), eps=0.1, norm="l2", random_start=False)
    torch.testing.assert_close(found, torch.tensor([[0.44, 0.58]]))


def test_the_model_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    net[0].eval()
    net[3].weight.grad = torch.ones(3, 8).double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        found = [pgd(net, X, Y, eps=0.1, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    assert torch.equal(*found)  # dropout is off
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [m.training for m in net] == [False, True, True, True]
    assert torch.equal(net[3].weight.grad, torch.ones(3, 8).double())
    assert net[0].weight.grad is None
    with pytest.raises(RuntimeError):
        pgd(net, X[:, :5], Y, eps=0.1)
    assert [m.training for m in net] == [False, True, True, True]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(eps=-0.1), "eps"),
        (dict(eps=math.nan), "eps"),
        (dict(steps=-1), "steps"),
        (dict(step_size=0.0), "step_size"),
        (dict(bounds=(1.0, 0.0)), "bounds"),
        (dict(bounds=(0.0, 0.5)), r"inputs must lie in \(0.0, 0.5\)"),
        (dict(loss=lambda out, y: out.sum() / 0), "loss must be finite"),
    ],
)
def test_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        pgd(network(), X, Y, **{"eps": 0.1} | settings)
    with pytest.raises(ValueError, match="at least one"):
        pgd(network(), X[:0], Y[:0], eps=0.1)


def test_another_norm_is_refused():
    with pytest.raises(ValueError, match="norm must be 'linf' or 'l2': got 'l1'"):
        pgd(network(), X, Y, eps=0.1, norm="l1")
