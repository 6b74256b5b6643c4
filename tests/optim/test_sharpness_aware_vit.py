"""SAM against its two lines written out, on quadratics where all is known, and against the optimizer it wraps."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.optim import SAM, AdaHessian, GradientNoise, perturbed


def closure_of(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def matrix(n=4):
    a = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return a @ a.T + torch.eye(n, dtype=torch.float64)


@pytest.mark.parametrize("adaptive", [False, True])
def test_ten_steps_by_hand(adaptive):
    """Two tensors, one norm; momentum and weight decay of the wrapped optimizer at theta."""
    A, rho, lr = matrix(), 0.3, 0.05
    start = torch.linspace(0.5, 2.0, 4, dtype=torch.float64)
    parts = [nn.Parameter(start[:1].clone()), nn.Parameter(start[1:].clone())]
    optimizer = SAM(torch.optim.SGD(parts, lr=lr, momentum=0.9, weight_decay=0.01), rho=rho, adaptive=adaptive)

    def loss():
        x = torch.cat(parts)
        return x @ A @ x / 2

    x, buffer = start.clone(), torch.zeros_like(start)
    for _ in range(10):
        g = A @ x
        d = x.square() * g if adaptive else g
        norm = (x.abs() * g).norm() if adaptive else g.norm()
        worst = A @ (x + rho * d / norm)
        expected = (x @ A @ x / 2).item()
        buffer = 0.9 * buffer + worst + 0.01 * x
        x = x - lr * buffer
        assert optimizer.step(closure_of(optimizer, loss)).item() == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(torch.cat([p.detach() for p in parts]), x, rtol=1e-9, atol=1e-12)


def runs(make, steps=20, dropout=0.5):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))
    x, y = torch.randn(16, 5), torch.randint(3, (16,))
    optimizer = make(model.parameters())
    for _ in range(steps):
        optimizer.step(closure_of(optimizer, lambda: F.cross_entropy(model(x), y)))
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_radius_zero_is_the_wrapped_optimizer_bit_for_bit():
    """With dropout too: both passes see one mask, and the next step the next one. With a radius it is another run."""
    plain = runs(lambda p: torch.optim.AdamW(p, lr=0.01))
    assert torch.equal(runs(lambda p: SAM(torch.optim.AdamW(p, lr=0.01), rho=0.0)), plain)
    assert (runs(lambda p: SAM(torch.optim.AdamW(p, lr=0.01), rho=0.5)) - plain).abs().max() > 1e-3


def test_the_second_gradient_is_of_the_worst_neighbour():
    """L(theta + eps) - L(theta) = rho ||g|| + O(rho^2), and no other step of that length climbs more."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, dtype=torch.float64))
    rho, seen = 1e-3, []

    def loss():
        value = (weight**3 / 3 + weight.sin()).sum()
        seen.append(value.item())
        return value

    g = weight.detach().square() + weight.detach().cos()
    optimizer = SAM(torch.optim.SGD([weight], lr=0.0), rho=rho)
    optimizer.step(closure_of(optimizer, loss))
    assert seen[1] - seen[0] == pytest.approx(rho * g.norm().item(), rel=1e-2)
    for _ in range(50):
        other = F.normalize(torch.randn(6, dtype=torch.float64), dim=0)
        with perturbed([weight], [rho * other]):
            assert loss().item() <= seen[1] + 1e-9


def test_where_a_group_climbs_the_worst_is_below():
    """Maximizing f with SAM is minimizing -f with it."""
    ends = []
    for sign, maximize in ((1.0, False), (-1.0, True)):
        x = nn.Parameter(torch.tensor([0.3, -0.7]))
        optimizer = SAM(torch.optim.SGD([x], lr=0.1, maximize=maximize), rho=0.2)
        for _ in range(3):
            optimizer.step(closure_of(optimizer, lambda x=x, sign=sign: sign * (x.square().square() - x).sum()))
        ends.append(x.detach())
    torch.testing.assert_close(*ends)


def test_the_adaptive_radius_does_not_see_a_rescaling():
    """(10 a, b / 10) is the same function of the product a b; the loss at the worst point is the same, rho's is not."""
    worst = {}
    for adaptive in (False, True):
        worst[adaptive] = []
        for scale in (1.0, 10.0):
            a, b = (nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in (2.0 * scale, 0.7 / scale))
            seen = []

            def loss(a=a, b=b, seen=seen):
                value = (a * b - 3).square().sum()
                seen.append(value.item())
                return value

            optimizer = SAM(torch.optim.SGD([a, b], lr=0.0), rho=0.1, adaptive=adaptive)
            optimizer.step(closure_of(optimizer, loss))
            worst[adaptive].append(seen[1])
    assert worst[True][0] == pytest.approx(worst[True][1], rel=1e-9)
    assert abs(worst[False][0] - worst[False][1]) > 0.1


def test_the_papers_radius_unless_told():
    plain = runs(lambda p: SAM(torch.optim.SGD(p, lr=0.1)), steps=5)
    assert torch.equal(plain, runs(lambda p: SAM(torch.optim.SGD(p, lr=0.1), rho=0.05), steps=5))
    assert not torch.equal(plain, runs(lambda p: SAM(torch.optim.SGD(p, lr=0.1), rho=0.1), steps=5))


def test_without_gradients_the_wrapped_optimizer_still_steps():
    x = nn.Parameter(torch.ones(2))
    assert SAM(torch.optim.SGD([x], lr=1.0)).step(lambda: 2.0) == 2.0
    assert torch.equal(x.detach(), torch.ones(2))


def test_a_gradient_of_zero_moves_nothing():
    x = nn.Parameter(torch.zeros(3))
    optimizer = SAM(torch.optim.SGD([x], lr=1.0), rho=0.5)
    optimizer.step(closure_of(optimizer, lambda: x.square().sum()))
    assert torch.equal(x.detach(), torch.zeros(3))


def test_the_weights_come_back_when_the_loss_breaks():
    x = nn.Parameter(torch.tensor([0.1, 0.2]))
    optimizer, calls = SAM(torch.optim.SGD([x], lr=1.0), rho=1e6), []

    def closure():
        calls.append(x.detach().clone())
        if len(calls) == 2:
            raise RuntimeError("no luck")
        x.grad = torch.ones(2)
        return torch.tensor(0.0)

    with pytest.raises(RuntimeError, match="no luck"):
        optimizer.step(closure)
    assert calls[1].min() > 1e5
    assert torch.equal(x.detach(), calls[0])


def test_other_wrappers_go_round_it():
    x = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = GradientNoise(SAM(torch.optim.SGD([x], lr=0.1), rho=0.5), eta=0.0)
    optimizer.step(closure_of(optimizer, lambda: x.square().sum() / 2))
    torch.testing.assert_close(x.detach(), torch.tensor([2.67, 3.56]))


def test_what_is_refused():
    x = nn.Parameter(torch.ones(2))
    inner = torch.optim.SGD([x], lr=0.1)
    for rho in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="rho"):
            SAM(inner, rho=rho)
    with pytest.raises(TypeError, match="closure must be given for SAM"):
        SAM(inner).step()
    for needy in (AdaHessian([x]), torch.optim.LBFGS([x]), SAM(inner)):
        with pytest.raises(ValueError, match=f"got {type(needy).__name__}"):
            SAM(needy)


def test_perturbed_refuses_and_restores():
    x = nn.Parameter(torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"offsets .* \[\(2,\)\]: got \[\(3,\)\]"), perturbed([x], [torch.ones(3)]):
        pass
    with pytest.raises(ValueError, match="offsets"), perturbed([x], []):
        pass
    with perturbed([x], [torch.full((2,), 1e9)]):
        assert x.min() > 1e8
    assert torch.equal(x.detach(), torch.tensor([0.1, 0.2]))
    with perturbed([], []):
        pass
