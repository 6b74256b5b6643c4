"""Gradient noise: how much, when, after what, and what it does to a quadratic and to a dead network."""

import math

import pytest
import torch
from torch import nn

from assay.optim import GradientNoise, annealed_std


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def changes(steps, *, count=200_000, **settings):
    """What is added to a gradient of 0 in each step."""
    weight = nn.Parameter(torch.zeros(count))
    optimizer = GradientNoise(torch.optim.SGD([weight], lr=1.0), generator=seeded(), **settings)
    found = []
    for _ in range(steps):
        before = weight.detach().clone()
        weight.grad = torch.zeros(count)
        optimizer.step()
        found.append(before - weight.detach())
    return found


def test_the_variance_decays_as_the_paper_says():
    """Of n entries the sample variance is within 5 sqrt(2 / n) of the true one, relatively."""
    for t, noise in enumerate(changes(4, eta=0.3)):
        expected = 0.3 / (1 + t) ** 0.55
        assert noise.var().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / noise.numel()))
        assert abs(noise.mean().item()) < 5 * math.sqrt(expected / noise.numel())
        assert annealed_std(t, eta=0.3) ** 2 == pytest.approx(expected)
    assert annealed_std(7, eta=0.09, gamma=0.0) == pytest.approx(0.3)


def test_entries_and_steps_are_independent():
    first, second = changes(2, eta=1.0, gamma=0.0, count=100_000)
    for a, b in ((first, second), (first[:-1], first[1:])):
        assert abs((a * b).mean().item()) < 5 / math.sqrt(a.numel())


def test_without_eta_nothing_is_touched():
    """The ancestor, bit for bit; with eta it is another run."""
    ends = {}
    for eta in (None, 0.0, 0.01):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if eta is not None:
            optimizer = GradientNoise(optimizer, eta=eta)
        x = torch.randn(8, 3)
        for _ in range(20):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        ends[eta] = model.weight.detach().clone()
    assert torch.equal(ends[None], ends[0.0])
    assert (ends[None] - ends[0.01]).abs().max() > 1e-3


def test_langevin_on_a_quadratic():
    """SGD (rate a) on h x^2 / 2 with noise that stays: the stationary variance is a sigma^2 / (h (2 - a h))."""
    a, h, eta, count = 0.3, 2.0, 0.25, 20_000
    x = nn.Parameter(torch.zeros(count))
    optimizer = GradientNoise(torch.optim.SGD([x], lr=a), eta=eta, gamma=0.0, generator=seeded(1))
    for _ in range(60):  # (1 - a h)^60 is nothing
        x.grad = h * x.detach()
        optimizer.step()
    assert x.var().item() == pytest.approx(a * eta / (h * (2 - a * h)), rel=5 * math.sqrt(2 / count))


def test_clipping_comes_first():
    """A gradient of length 50 is cut to 1; the noise, about as long as sqrt(n), is not."""
    n = 10_000
    weight, other = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.zeros(1))
    optimizer = GradientNoise(torch.optim.SGD([weight, other], lr=1.0), eta=1.0, clip_norm=1.0, generator=seeded())
    weight.grad, other.grad = torch.full((n,), 0.4), torch.tensor([30.0])
    optimizer.step()
    noise = torch.randn(n, generator=seeded())
    torch.testing.assert_close(-weight.detach() - noise, torch.full((n,), 0.4 / 50), rtol=1e-3, atol=1e-5)
    small = nn.Parameter(torch.zeros(2))
    clipped = GradientNoise(torch.optim.SGD([small], lr=1.0), eta=0.0, clip_norm=10.0)
    small.grad = torch.tensor([3.0, 4.0])
    clipped.step()
    assert small.tolist() == [-3.0, -4.0]  # shorter than that: left alone


def test_a_network_of_zeros_wakes_up():
    """ReLU layers at zero have no gradient but in the last bias; with noise every layer moves."""
    layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)]
    moved = {}
    for name in ("plain", "noise"):
        network = nn.Sequential(*layers)
        for p in network.parameters():
            nn.init.zeros_(p)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        if name == "noise":
            optimizer = GradientNoise(optimizer, generator=seeded())
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(torch.ones(2, 4)), torch.tensor([0, 1])).backward()
            optimizer.step()
        moved[name] = [bool(p.abs().sum() > 0) for p in network.parameters()]
    assert moved["plain"] == [False] * 5 + [True]
    assert all(moved["noise"])


def test_its_generator_and_its_clock_are_saved():
    def make():
        weight = nn.Parameter(torch.zeros(5))
        return weight, GradientNoise(torch.optim.SGD([weight], lr=1.0), eta=1.0, generator=seeded(3))

    weight, optimizer = make()
    other, loaded = make()
    weight.grad = torch.ones(5)
    optimizer.step()
    assert optimizer.std == annealed_std(1, eta=1.0)
    loaded.load_state_dict(optimizer.state_dict())
    assert loaded.std == optimizer.std
    before = weight.detach().clone()
    for p, each in ((weight, optimizer), (other, loaded)):
        p.grad = torch.ones(5)
        each.step()
    torch.testing.assert_close(weight.detach() - before, other.detach())
    bare = GradientNoise(torch.optim.SGD([nn.Parameter(torch.zeros(5))], lr=1.0))
    with pytest.raises(ValueError, match="generator must be given"):
        bare.load_state_dict(optimizer.state_dict())


def test_what_is_refused():
    inner = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    for name in ("eta", "gamma"):
        for value in (-0.1, math.nan, math.inf):
            with pytest.raises(ValueError, match=name):
                GradientNoise(inner, **{name: value})
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="clip_norm"):
            GradientNoise(inner, clip_norm=value)
    with pytest.raises(ValueError, match="t must be"):
        annealed_std(-1, eta=1.0)
