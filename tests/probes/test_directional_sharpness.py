"""Directional sharpness by full Hessians and finite differences, and the landscape along directions."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

from assay.curvature import Hessian, top_eigenvalues
from assay.probes import compare_directions, directional_sharpness


def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 4)).double()
    return model, torch.randn(9, 3, dtype=torch.float64), torch.randint(4, (9,))


def full_hessian(model, x, y):
    """By functions of the flat weights, in evaluation mode."""
    names = list(dict(model.named_parameters()))
    shapes = [p.shape for p in model.parameters()]

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(functional_call(model, weights, x), y)

    model.eval()
    return loss, hessian(loss)(flat(model))


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def split(vector, model):
    parts = vector.split([p.numel() for p in model.parameters()])
    return [part.view_as(p) for part, p in zip(parts, model.parameters(), strict=True)]


def test_it_is_the_rayleigh_quotient_of_the_hessian():
    model, x, y = problem()
    loss, H = full_hessian(model, x, y)
    model.train()
    v = torch.randn(len(H), dtype=torch.float64)
    found = directional_sharpness(model, F.cross_entropy, x, y, split(3 * v, model))
    assert found == pytest.approx((v @ H @ v / (v @ v)).item(), rel=1e-9)
    assert model.training  # given back as it was; the dropout was off
    model.eval()
    h, u = 1e-4, v / v.norm()
    start = flat(model)
    second = (loss(start + h * u) - 2 * loss(start) + loss(start - h * u)) / h**2
    assert found == pytest.approx(second.item(), rel=1e-4)


def test_no_direction_is_sharper_than_the_top_eigenvector():
    model, x, y = problem()
    _, H = full_hessian(model, x, y)
    values, vectors = torch.linalg.eigh(H)
    operator = Hessian(model, F.cross_entropy, x, y)
    top = top_eigenvalues(operator.matvec, operator.size, 1, tol=1e-8, dtype=torch.float64).values[0].item()
    along = directional_sharpness(model, F.cross_entropy, x, y, split(vectors[:, -1], model))
    assert along == pytest.approx(top, rel=1e-6) == pytest.approx(values[-1].item(), rel=1e-6)


def test_directions_are_compared_at_one_point():
    model, x, y = problem()
    loss, H = full_hessian(model, x, y)
    start = flat(model)
    g = torch.func.grad(loss)(start)
    directions = {"gradient": split(g, model), "signs": split(g.sign(), model), "up": split(-g, model)}
    steps = torch.tensor([0.01, 0.1, 1.0, 3.0])
    found = compare_directions(model, F.cross_entropy, x, y, directions, steps=steps)
    for name, v in (("gradient", g), ("signs", g.sign()), ("up", -g)):
        d = found[name]
        assert d.sharpness == pytest.approx((v @ H @ v / (v @ v)).item(), rel=1e-9)
        assert d.alignment == pytest.approx((v @ g / (v.norm() * g.norm())).item(), rel=1e-9)
        expected = [loss(start - step * v / v.norm()).item() for step in steps.double()]
        torch.testing.assert_close(d.losses.tolist(), expected, rtol=1e-6, atol=0)
        gain = max(0.0, loss(start).item() - min(expected))
        assert d.best_decrease == pytest.approx(gain, rel=1e-6, abs=1e-12)
    assert found["gradient"].alignment == pytest.approx(1)
    assert found["up"].best_step == found["up"].best_decrease == 0
    assert torch.equal(flat(model), start)  # put back exactly


def test_the_weights_come_back_when_the_loss_breaks():
    model, x, y = problem()
    start, calls = flat(model), []

    def breaks(outputs, targets):
        calls.append(None)
        if len(calls) == 3:
            raise RuntimeError("no luck")
        return F.cross_entropy(outputs, targets)

    with pytest.raises(RuntimeError, match="no luck"):
        compare_directions(model, breaks, x, y, {"all": split(torch.ones_like(start), model)})
    assert torch.equal(flat(model), start)


def test_a_linear_loss_has_no_curvature_and_a_blow_up_is_infinite():
    model = nn.Linear(2, 1, bias=False)
    x = torch.tensor([[1.0, 2.0]])
    assert directional_sharpness(model, lambda o, _: o.mean(), x, x, [torch.ones(1, 2)]) == 0
    steps = torch.tensor([1.0, 1e30])
    found = compare_directions(model, lambda o, _: (o**2).mean(), x, x, {"v": [torch.ones(1, 2)]}, steps=steps)
    assert math.isinf(found["v"].losses[1].item())


def test_what_is_refused():
    model, x, y = problem()
    good = split(torch.ones_like(flat(model)), model)
    cases = {
        "shaped as the trainable": good[:-1],
        "length 0": [torch.zeros_like(v) for v in good],
        "finite": [v * math.nan for v in good],
    }
    for message, direction in cases.items():
        with pytest.raises(ValueError, match=message):
            directional_sharpness(model, F.cross_entropy, x, y, direction)
    with pytest.raises(ValueError, match="steps"):
        compare_directions(model, F.cross_entropy, x, y, {"v": good}, steps=torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="loss must be finite"):
        directional_sharpness(model, lambda o, t: F.cross_entropy(o, t) * math.nan, x, y, good)
