"""Forecasts of barriers: exact for quadratics, the integral identity, dense Hessians, layers, forks, refusals."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.nn import mlp, smallcnn
from assay.probes import (
    barrier,
    fork,
    interpolate,
    layerwise_barrier,
    predicted_barrier,
    predicted_layerwise_barrier,
)

SHAPE = (1, 3, 3)


def pair(make, dtype=torch.float64):
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(make().to(dtype))
    x = torch.rand(15, *SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(2))
    return *models, x, torch.arange(15) % 3


def smooth():
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("t", [0.5, 0.2])
def test_exact_where_the_loss_is_quadratic(dtype, tolerance, t):
    a, b, x, _ = pair(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), dtype)
    y = torch.rand(15, 2, dtype=dtype)

    def loss(model):
        return F.mse_loss(model(x), y).item()

    measured = loss(interpolate(a, b, t)) - (1 - t) * loss(a) - t * loss(b)
    assert measured < 0
    found = predicted_barrier(a, b, F.mse_loss, x, y, t=t)
    assert found == pytest.approx(measured, rel=tolerance)
    d = [q - p for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    image = x.flatten(1) @ d[0].T + d[1]
    curved = 2 * (image**2).mean().item()
    assert found == pytest.approx(-t * (1 - t) / 2 * curved, rel=tolerance)
    without = predicted_barrier(a, b, F.mse_loss, x, y, t=t, gradients=False)
    assert without == pytest.approx(t * (1 - t) / 2 * curved, rel=tolerance)  # the ends are no minima: they do matter


def dense(model, x, y):
    """Gradient and Hessian of the mean loss with respect to all parameters, by torch's own functional Hessian."""
    names, shapes = zip(*[(n, p.shape) for n, p in model.named_parameters()], strict=True)

    def value(flat):
        parts = flat.split([s.numel() for s in shapes])
        weights = {n: part.view(s) for n, part, s in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, weights, (x,)), y)

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return flat, torch.func.grad(value)(flat), torch.autograd.functional.hessian(value, flat)


@pytest.mark.parametrize("t", [0.5, 0.3])
def test_the_formula_with_dense_hessians(t):
    a, b, x, y = pair(smooth)
    (flat_a, grad_a, hess_a), (flat_b, grad_b, hess_b) = dense(a, x, y), dense(b, x, y)
    d = flat_b - flat_a

    def formula(d):
        curved = t * d @ hess_a @ d + (1 - t) * d @ hess_b @ d
        return (t * (1 - t) / 2 * curved + t * (1 - t) * (grad_a - grad_b) @ d).item()

    assert predicted_barrier(a, b, F.cross_entropy, x, y, t=t) == pytest.approx(formula(d), rel=1e-9)
    layers = predicted_layerwise_barrier(a, b, F.cross_entropy, x, y, t=t)
    ends = {"1": slice(0, 40), "3": slice(40, 55)}
    assert list(layers) == list(ends)
    for layer, part in ends.items():
        alone = torch.zeros_like(d)
        alone[part] = d[part]
        assert layers[layer] == pytest.approx(formula(alone), rel=1e-9)
        names = [f"{layer}.weight", f"{layer}.bias"]
        assert predicted_barrier(a, b, F.cross_entropy, x, y, t=t, only=names) == pytest.approx(layers[layer], rel=1e-9)


def test_a_barrier_is_negative_curvature_on_the_line():
    """B(t) = -int G(t, s) D'H(A + sD)D ds with G = min(s, t)(1 - max(s, t)), by the trapezoidal rule."""
    a, b, x, y = pair(smooth)
    for p in (*a.parameters(), *b.parameters()):
        p.data.mul_(3)
    d = dense(b, x, y)[0] - dense(a, x, y)[0]
    ts = torch.linspace(0, 1, 41, dtype=torch.float64)
    curved = torch.stack([d @ dense(interpolate(a, b, s), x, y)[2] @ d for s in ts.tolist()])
    found = barrier(a, b, lambda model: F.cross_entropy(model(x), y).item(), points=41)
    for k in (10, 16, 20):
        t = ts[k]
        green = torch.minimum(ts, t) * (1 - torch.maximum(ts, t))
        measured = found.losses[k] - torch.lerp(found.losses[0], found.losses[-1], t)
        # The rule's error falls with the square of the step of 1/40; the curvature turns on a scale of about 1/4.
        assert measured.item() == pytest.approx(-torch.trapezoid(green * curved, ts).item(), rel=1e-2)


def test_it_is_the_limit_of_short_ways():
    """Third order in the distance: a tenth of the way, a thousandth of the error or less."""
    a, other, x, y = pair(smooth)
    errors = []
    for part in (0.1, 0.01):
        b = interpolate(a, other, part)
        loss = lambda model: F.cross_entropy(model(x), y).item()  # noqa: E731
        measured = loss(interpolate(a, b, 0.5)) - (loss(a) + loss(b)) / 2
        errors.append(abs(predicted_barrier(a, b, F.cross_entropy, x, y) - measured))
    assert errors[1] < 3e-3 * errors[0]


@pytest.mark.parametrize("t", [0.5, 0.25])
def test_layers_by_hand(t):
    a, b, x, y = pair(lambda: mlp(SHAPE, 3, widths=(5, 4)))

    def loss(model):
        assert not model.training
        return F.cross_entropy(model(x), y).item()

    found = layerwise_barrier(a, b, loss, t=t)
    assert list(found) == ["1", "3", "5"]
    assert a.training
    for m in (a, b):
        m.eval()
    for layer, value in found.items():
        ends = []
        for here, there, far in ((a, b, t), (b, a, 1 - t)):
            state = {k: v.clone() for k, v in here.state_dict().items()}
            for key in (f"{layer}.weight", f"{layer}.bias"):
                state[key] = (1 - far) * here.state_dict()[key] + far * there.state_dict()[key]
            model = mlp(SHAPE, 3, widths=(5, 4)).double().eval()
            model.load_state_dict(state)
            ends.append(loss(model) - loss(here))
        assert value == pytest.approx((1 - t) * ends[0] + t * ends[1], rel=1e-9)
    if t == 0.5:
        back = layerwise_barrier(b, a, loss)
        assert list(back.values()) == pytest.approx(list(found.values()), rel=1e-9)


def test_forks_share_the_trunk_and_its_momentum():
    torch.manual_seed(0)
    model = mlp(SHAPE, 3, widths=(4,))
    start = (model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    x, y = torch.rand(40, *SHAPE), torch.arange(40) % 3

    def advance(run, first, last, seed):
        network, optimizer = run
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        for step in range(first, last):
            rows = order[4 * step : 4 * step + 4]
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()

    before = [p.clone() for p in model.parameters()]
    one, two = (network for network, _ in fork(start, advance, 4, 8, seed=5))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    by_hand = mlp(SHAPE, 3, widths=(4,))
    by_hand.load_state_dict(model.state_dict())
    run = (by_hand, torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9))
    advance(run, 0, 4, 5)
    advance(run, 4, 8, 7)
    assert all(torch.equal(p, q) for p, q in zip(by_hand.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one[1].weight, two[1].weight)
    ends = [network for network, _ in fork(start, advance, 8, 8, children=3)]
    assert all(torch.equal(ends[0][1].weight, end[1].weight) for end in ends)


def test_modes_and_gradients_are_left():
    a, b, x, y = pair(lambda: smallcnn(SHAPE, 3, widths=(4,)))
    a[1].eval()
    modes = [m.training for m in a.modules()]
    buffers = [t.clone() for t in a.buffers()]
    predicted_barrier(a, b, F.cross_entropy, x, y)
    layerwise_barrier(a, b, lambda model: model(x).sum().item())
    assert [m.training for m in a.modules()] == modes
    assert all(torch.equal(s, t) for s, t in zip(buffers, a.buffers(), strict=True))
    assert all(p.grad is None for m in (a, b) for p in m.parameters())


def test_what_is_refused():
    a, b, x, y = pair(smooth)
    for t in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"t must be in \(0, 1\)"):
            predicted_barrier(a, b, F.cross_entropy, x, y, t=t)
        with pytest.raises(ValueError, match="t must be in"):
            predicted_layerwise_barrier(a, b, F.cross_entropy, x, y, t=t)
        with pytest.raises(ValueError, match="t must be in"):
            layerwise_barrier(a, b, lambda model: 0.0, t=t)
    with pytest.raises(ValueError, match=r"only .* got '2\.weight'"):
        predicted_barrier(a, b, F.cross_entropy, x, y, only=["2.weight"])
    with pytest.raises(ValueError, match="names or shapes differ"):
        predicted_barrier(a, mlp(SHAPE, 3, widths=(5,)).double(), F.cross_entropy, x, y)
    for settings in (dict(at=-1, steps=3), dict(at=4, steps=3), dict(at=0, steps=0)):
        with pytest.raises(ValueError, match="at must lie between"):
            fork([], lambda *_: None, **settings)
    with pytest.raises(ValueError, match="children"):
        fork([], lambda *_: None, 0, 1, children=0)
