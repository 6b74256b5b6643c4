"""Rounding against numpy's half precision, the scaler against torch's, and training with and without its parts."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.data import Labelled
from assay.optim import LossScaler, MixedPrecision, round_to_half, rounded_layers
from assay.train import fit


def test_rounding_is_numpys():
    """Normal, subnormal, ties, overflow, and the two neighbours of every power of two."""
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            (rng.normal(size=200_000) * 2.0 ** rng.integers(-30, 20, size=200_000)).astype(np.float32),
            np.float32(1) + np.arange(0, 64, dtype=np.float32) * np.float32(2**-13),
            np.nextafter(np.float32(2.0) ** np.arange(-26, 17, dtype=np.float32), np.float32(0)),
            np.array([65504, 65519, 65520, -65520, 0.0, -0.0], np.float32),
        ]
    )
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).astype(np.float32)
    found = round_to_half(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def test_the_gradient_is_rounded_too():
    x = torch.ones(2, requires_grad=True)
    (round_to_half(x) * torch.tensor([1 + 2**-12, 2.0**-26])).sum().backward()
    assert x.grad.tolist() == [1.0, 0.0]
    wide = torch.ones(1, dtype=torch.float16)
    assert round_to_half(wide, torch.float32) is wide
    assert round_to_half(torch.tensor([1 + 2**-9]), torch.bfloat16).item() == 1.0


def test_the_scaler_decides_as_torchs():
    """One script of overflows, both scalers."""
    script = [False, True, False, False, False, True, True, *[False] * 7]
    ours = LossScaler(init=64.0, interval=3)
    theirs = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for found in script:
        optimizer.zero_grad()
        theirs.scale(weight.sum() * (math.inf if found else 1.0)).backward()
        theirs.step(optimizer)
        theirs.update()
        ours.update(found)
        assert ours.value == theirs.get_scale()
    copy = LossScaler(init=1.0, interval=3)
    copy.load_state_dict(ours.state_dict())
    assert (copy.value, copy.good) == (ours.value, ours.good)


def test_unscaling():
    scaler = LossScaler(init=8.0)
    grads = [torch.tensor([8.0, 16.0]), torch.tensor([[4.0]])]
    assert scaler.scale(torch.tensor(3.0)).item() == 24.0
    assert not scaler.unscale_(grads)
    assert [g.flatten().tolist() for g in grads] == [[1.0, 2.0], [0.5]]
    assert scaler.unscale_([torch.tensor([1.0]), torch.tensor([math.inf])])
    assert scaler.unscale_([torch.tensor([math.nan])])
    large = torch.full((4,), 3e38)
    assert not scaler.unscale_([large * torch.tensor([1.0, 1.0, 1.0, 1.0])])  # a sum that overflows is no overflow
    assert not scaler.unscale_([])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def by_hand(model, x, y, scale, half=lambda t: t.half().float()):
    """The gradients of the network with each stored tensor rounded on its way, in the order of its parameters."""
    w1, b1, g, b, w2, b2 = (half(p.detach()) for p in model.parameters())
    a0 = half(x)
    a1 = half(a0 @ w1.T + b1)
    mean, var = a1.mean(1, keepdim=True), a1.var(1, keepdim=True, correction=0)
    normal = (a1 - mean) / (var + 1e-5).sqrt()
    a2 = half(normal * g + b)
    a3 = half(a2.clamp_min(0))
    out = half(a3 @ w2.T + b2)
    d = half(scale * (out.softmax(1) - F.one_hot(y, 3)) / len(x))
    dw2, db2 = half(d.T @ a3), half(d.sum(0))
    d = half(d @ w2)
    d = half(d * (a2 > 0))
    dg, db = half((d * normal).sum(0)), half(d.sum(0))
    inner = d * g
    centred = inner - inner.mean(1, keepdim=True) - normal * (inner * normal).mean(1, keepdim=True)
    d = half(centred / (var + 1e-5).sqrt())
    return [half(d.T @ a0) / scale, half(d.sum(0)) / scale, dg / scale, db / scale, dw2 / scale, db2 / scale]


def test_a_pass_by_hand():
    """Every stored tensor and every gradient rounded, once; products in single precision."""
    model = network()
    x, y = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1])
    mixed = MixedPrecision(torch.optim.SGD(model.parameters(), lr=0.1), model, loss_scale=1024.0)
    mixed.rule(model, x, y, F.cross_entropy)
    plain = by_hand(model, x, y, 1024.0, half=lambda t: t)
    for p, expected, exact in zip(model.parameters(), by_hand(model, x, y, 1024.0), plain, strict=True):
        # An entry may fall to the other side of a tie where sums are taken in another order: one spacing of half.
        assert (p.grad - expected).abs().max() <= 2**-10 * expected.abs().max()
        assert (p.grad - expected).abs().mean() < 0.25 * (exact - expected).abs().mean() + 1e-9


def test_powers_of_two_change_nothing_where_nothing_is_lost():
    model = network()
    x, y = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1])
    found = []
    for scale in (16.0, 64.0):
        model.zero_grad()
        MixedPrecision(torch.optim.SGD(model.parameters(), lr=0.1), model, loss_scale=scale).rule(
            model, x, y, F.cross_entropy
        )
        found.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        large = a.abs() > 1e-3
        assert torch.equal(a[large], b[large])


def ends(**settings):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(2)
    examples = Labelled(torch.randn(40, 6, generator=generator), torch.randint(3, (40,), generator=generator))
    if settings:
        optimizer = MixedPrecision(optimizer, model, **settings)
        fit(model, examples, optimizer, epochs=3, batch_size=10, rule=optimizer.rule)
    else:
        fit(model, examples, optimizer, epochs=3, batch_size=10)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_storing_in_full_is_ordinary_training_and_in_half_is_not():
    """The ancestor, bit for bit, with a factor that is a power of two; half precision is near it and another."""
    plain = ends()
    torch.testing.assert_close(ends(store=torch.float32), plain, rtol=0, atol=1e-7)
    half = ends(store=torch.float16)
    assert 1e-6 < (half - plain).abs().max() < 0.02


def test_the_master_copy_adds_up_what_half_loses():
    """4,096 steps of 2^-12 from 1: to 2 with a master copy, nowhere without."""
    found = {}
    for master in (True, False):
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        mixed = MixedPrecision(torch.optim.SGD(model.parameters(), lr=2**-12), model, master_weights=master)
        for _ in range(64):
            mixed.zero_grad()
            mixed.rule(model, torch.ones(1, 1), torch.zeros(1, 1), lambda outputs, _: -outputs.sum())
            mixed.step()
        found[master] = model.weight.item()
    assert found[True] == 1 + 64 * 2**-12
    assert found[False] == 1.0


def test_the_factor_saves_gradients_that_half_loses():
    model = nn.Linear(2, 1, bias=False)
    grads = {}
    for scale in (1.0, 1024.0):
        model.zero_grad()
        mixed = MixedPrecision(torch.optim.SGD(model.parameters(), lr=0.1), model, loss_scale=scale)
        mixed.rule(model, torch.ones(1, 2), torch.zeros(1, 1), lambda outputs, _: 2.0**-26 * outputs.sum())
        grads[scale] = model.weight.grad.clone()
    assert torch.equal(grads[1.0], torch.zeros(1, 2))
    assert torch.equal(grads[1024.0], torch.full((1, 2), 2.0**-26))


def test_an_overflow_is_skipped_and_the_factor_shrinks():
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    mixed = MixedPrecision(torch.optim.SGD(model.parameters(), lr=0.1), model, loss_scale="dynamic")
    mixed.rule(model, torch.full((1, 1), 100.0), torch.zeros(1, 1), lambda outputs, _: 10 * outputs.sum())
    mixed.step()
    assert model.weight.item() == before
    assert (mixed.skipped, mixed.factor) == (1, 2.0**14)
    mixed.zero_grad()
    mixed.rule(model, torch.ones(1, 1), torch.zeros(1, 1), lambda outputs, _: outputs.sum())
    mixed.step()
    assert model.weight.item() != before
    other = MixedPrecision(torch.optim.SGD(model.parameters(), lr=0.1), model, loss_scale="dynamic")
    other.load_state_dict(mixed.state_dict())
    assert (other.skipped, other.factor) == (1, 2.0**14)


def test_hooks_go_when_the_pass_is_over():
    model = network()
    with rounded_layers(model), pytest.raises(RuntimeError):
        model(torch.ones(1, 5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_is_refused():
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    for scale in (0.0, -1.0, math.nan, "static"):
        with pytest.raises(ValueError, match="loss_scale"):
            MixedPrecision(inner, model, loss_scale=scale)
    with pytest.raises(ValueError, match="parameters of the model"):
        MixedPrecision(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), model)
    with pytest.raises(ValueError, match="real parameters"):
        MixedPrecision(inner, nn.ReLU())
    with pytest.raises(ValueError, match="inputs must be finite"):
        MixedPrecision(inner, model).rule(model, torch.full((1, 6), math.nan), torch.tensor([0]), F.cross_entropy)
    with pytest.raises(TypeError, match="dtype must be of real numbers: got int8"):
        round_to_half(torch.ones(1), torch.int8)
    for name, value in (("init", 0.0), ("growth", 1.0), ("backoff", 1.0), ("interval", 0)):
        with pytest.raises(ValueError, match=name):
            LossScaler(**{name: value})
