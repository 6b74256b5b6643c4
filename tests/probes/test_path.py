"""The line between two networks: its ends, its middle by hand, barriers in closed form, statistics, what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.nn import mlp, smallcnn
from assay.probes import barrier, interpolate, losses_along, refresh_batch_norm

SHAPE = (1, 6, 6)


def pair(make, dtype=torch.float32):
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(make().to(dtype))
    return models


def images(n=12, dtype=torch.float32):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_on_the_line_by_hand(dtype):
    a, b = pair(lambda: smallcnn(SHAPE, 3, widths=(4, 5)), dtype)
    with torch.no_grad():
        b(images(dtype=dtype))  # running statistics that differ
    for t in (0.0, 0.3, 1.0, -0.5, 1.7):
        there = interpolate(a, b, t)
        for (name, p), q, r in zip(there.named_parameters(), a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, (1 - t) * q + t * r, msg=name)
        torch.testing.assert_close(there[1].running_var, (1 - t) * a[1].running_var + t * b[1].running_var)
    for t, end in ((0.0, a), (1.0, b)):
        whole, expected = interpolate(a, b, t).eval(), end.eval()
        assert torch.equal(whole(images(dtype=dtype)), expected(images(dtype=dtype)))


def test_the_networks_are_left_alone():
    a, b = pair(lambda: mlp(SHAPE, 3, widths=(5,)))
    a[1].weight.requires_grad_(False)
    a[3].weight.grad = torch.ones_like(a[3].weight)
    b.eval()
    before = [p.clone() for p in (*a.parameters(), *b.parameters())]
    there = interpolate(a, b, 0.4)
    with torch.no_grad():
        for p in there.parameters():
            p.zero_()
    assert all(torch.equal(p, q) for p, q in zip((*a.parameters(), *b.parameters()), before, strict=True))
    assert there.training
    assert not b.training
    assert [p.requires_grad for p in there.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in there.parameters())
    assert a[3].weight.grad is not None


def test_only_some_move():
    a, b = pair(lambda: mlp(SHAPE, 3, widths=(5,)))
    there = interpolate(a, b, 1.0, only=["3.weight"])
    assert torch.equal(there[3].weight, b[3].weight)
    assert torch.equal(there[3].bias, a[3].bias)
    assert torch.equal(there[1].weight, a[1].weight)


def test_barriers_in_closed_form():
    """Quadratic bowl: L(t) - chord = -t (1 - t) |d|^2 / 2; turned over, +|d|^2 / 8 at the middle."""
    a, b = pair(lambda: nn.Linear(4, 3), torch.float64)
    d = sum(((p - q) ** 2).sum() for p, q in zip(a.parameters(), b.parameters(), strict=True)).item()

    def bowl(model):
        return sum((p**2).sum() for p in model.parameters()).item() / 2

    found = barrier(a, b, bowl, points=11)
    assert found.height == 0
    chord = torch.lerp(found.losses[0], found.losses[-1], found.ts)
    torch.testing.assert_close(found.losses - chord, -found.ts * (1 - found.ts) * d / 2, rtol=1e-10, atol=1e-12)
    hill = barrier(a, b, lambda model: -bowl(model), points=11)
    assert hill.height == pytest.approx(d / 8, rel=1e-12)
    assert hill.argmax == 0.5


def test_baselines_differ_where_the_ends_do():
    a, b = pair(lambda: nn.Linear(1, 1, bias=False), torch.float64)
    a.weight.data, b.weight.data = torch.tensor([[0.0]]).double(), torch.tensor([[1.0]]).double()

    def line(model):
        return 4 * model.weight.item()

    assert barrier(a, b, line).height == pytest.approx(0, abs=1e-15)
    mean = barrier(a, b, line, baseline="mean")  # the higher end lies half the difference above the mean
    assert (mean.height, mean.argmax) == (2.0, 1.0)


def test_symmetric_and_zero_to_itself():
    a, b = pair(lambda: mlp(SHAPE, 3, widths=(5,)), torch.float64)
    x, y = images(dtype=torch.float64), torch.arange(12) % 3

    def loss(model):
        return F.cross_entropy(model(x), y).item()

    forth, back = barrier(a, b, loss), barrier(b, a, loss)
    assert forth.height == pytest.approx(back.height, rel=1e-12)
    torch.testing.assert_close(forth.losses, back.losses.flip(0))
    assert barrier(a, a, loss).height == 0


def test_permuted_units_make_a_barrier():
    torch.manual_seed(0)
    a = mlp(SHAPE, 3, widths=(6,)).double()
    for p in a.parameters():
        p.data.mul_(3)
    b = interpolate(a, a, 0.0)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    b[1].weight.data, b[1].bias.data = a[1].weight.data[order], a[1].bias.data[order]
    b[3].weight.data = a[3].weight.data[:, order]
    x = images(dtype=torch.float64)
    target = a(x).detach()
    torch.testing.assert_close(b(x), target, rtol=1e-12, atol=1e-12)
    assert barrier(a, b, lambda model: F.mse_loss(model(x), target).item()).height > 1e-3


def test_evaluation_mode_and_the_callers_refresh():
    a, b = pair(lambda: smallcnn(SHAPE, 3, widths=(4,)))
    x, seen = images(), []

    def loss(model):
        seen.append(model.training)
        return model(x).square().mean().item()

    with pytest.warns(UserWarning, match="refresh="):
        stale = losses_along(a, b, loss, torch.tensor([0.5]))
    fresh = losses_along(a, b, loss, torch.tensor([0.5]), refresh=lambda m: refresh_batch_norm(m, x))
    assert seen == [False, False]
    assert not torch.allclose(stale, fresh)
    middle = interpolate(a, b, 0.5)
    middle.train()
    middle[1].momentum = 1.0
    with torch.no_grad():
        middle(x)
    torch.testing.assert_close(fresh[0].item(), middle.eval()(x).square().mean().item())


def test_statistics_are_those_of_the_data():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    model[1].eval()
    modes = [m.training for m in model.modules()]
    x = images(9)
    refresh_batch_norm(model, x, batch_size=4)
    with torch.no_grad():
        parts = [model[1](part).transpose(0, 1).flatten(1) for part in (x[:4], x[4:8])]  # the ninth stands alone
    torch.testing.assert_close(model[2].running_mean, torch.stack([p.mean(1) for p in parts]).mean(0))
    torch.testing.assert_close(model[2].running_var, torch.stack([p.var(1) for p in parts]).mean(0))
    assert [m.training for m in model.modules()] == modes
    assert model[2].momentum == 0.1
    with pytest.raises(RuntimeError):
        refresh_batch_norm(model, torch.rand(4, 2, 6, 6))
    assert [m.training for m in model.modules()] == modes
    assert model[2].momentum == 0.1


def test_what_is_refused():
    a, b = pair(lambda: mlp(SHAPE, 3, widths=(5,)))
    with pytest.raises(ValueError, match="points must be at least 3: got 2"):
        barrier(a, b, lambda model: 0.0, points=2)
    with pytest.raises(ValueError, match="baseline must be one of linear, mean: got 'chord'"):
        barrier(a, b, lambda model: 0.0, baseline="chord")
    with pytest.raises(ValueError, match=r"differ in '1\.bias'"):
        interpolate(a, mlp(SHAPE, 3, widths=(6,)), 0.5)
    with pytest.raises(ValueError, match="t must be finite"):
        interpolate(a, b, float("nan"))
    with pytest.raises(ValueError, match=r"only .* got '9\.weight'"):
        interpolate(a, b, 0.5, only=["9.weight"])
    with pytest.raises(ValueError, match="loss must be a number"):
        barrier(a, b, lambda model: float("nan"))
    for inputs, size in ((images(1), 5), (images(4), 1)):
        with pytest.raises(ValueError, match="at least 2"):
            refresh_batch_norm(a, inputs, batch_size=size)
