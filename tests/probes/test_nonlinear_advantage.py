"""Linearizable activations, their penalty, and average path lengths: limits, figures of the paper, paths one by one."""

import math
from itertools import product

import pytest
import torch
from torch import nn

from assay.probes import (
    LinearizableReLU,
    average_path_length,
    linearity_penalty,
    linearize_relus,
    nonlinear_fraction,
    snap,
)


class Skip(nn.Module):
    def __init__(self, inner, after=None):
        super().__init__()
        self.inner, self.after = inner, nn.Identity() if after is None else after

    def forward(self, x):
        return self.after(self.inner(x) + x)


def stack():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).double()


def test_at_0_it_is_the_network_and_at_1_it_is_affine():
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(1)).double()
    plain, model = stack(), linearize_relus(stack(), x)
    model.double()
    assert torch.equal(model(x), plain(x))
    assert [type(m) for m in model] == [nn.Linear, LinearizableReLU, nn.Linear, LinearizableReLU, nn.Linear]
    for act in (model[1], model[3]):
        act.alpha.data.fill_(1.0)
    affine = (x @ model[0].weight.T + model[0].bias) @ model[2].weight.T + model[2].bias
    torch.testing.assert_close(model(x), affine @ model[4].weight.T + model[4].bias)
    assert not torch.allclose(model(x), plain(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_have_their_own_slopes(dtype):
    act = LinearizableReLU(3).to(dtype)
    act.alpha.data = torch.tensor([0.0, 0.3, 1.0], dtype=dtype)
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    for c in range(3):
        torch.testing.assert_close(act(x)[:, c], nn.functional.leaky_relu(x[:, c], act.alpha[c].item()))
    x = x[:, :, 0, 0].double().requires_grad_()
    assert torch.autograd.gradcheck(act.double(), x)


def test_the_penalty_counts_channels_and_draws_harder_near_1():
    act = LinearizableReLU(7)
    assert linearity_penalty(act).item() == pytest.approx(7, rel=1e-6)
    act.alpha.data = torch.tensor([0.0, 0.2, 0.5, 0.9, 0.99, 1.3, 0.4])
    expected = sum(abs(1 - a) ** 0.5 for a in (0.0, 0.2, 0.5, 0.9, 0.99, 1.3, 0.4))
    assert linearity_penalty(act).item() == pytest.approx(expected, rel=1e-6)
    linearity_penalty(act).backward()
    slope = -act.alpha.grad
    torch.testing.assert_close(slope[:5], 0.5 / (1 - act.alpha.data[:5]).sqrt())
    assert slope[4] > 4 * slope[1]  # an l1 penalty would pull all alike


def test_snapped_channels_stay():
    act = LinearizableReLU(4)
    act.alpha.data = torch.tensor([-0.1, 0.6, 0.9901, 1.4])
    assert snap(act) == 2
    assert act.linear.tolist() == [False, False, True, True]
    assert nonlinear_fraction(act) == 0.5
    optimizer = torch.optim.SGD(act.parameters(), lr=0.1, weight_decay=0.5)  # which would pull them back
    for _ in range(3):
        loss = act(-torch.ones(2, 4)).square().sum() + linearity_penalty(act)
        optimizer.zero_grad()
        loss.backward()
        assert act.alpha.grad[2:].tolist() == [0, 0]
        optimizer.step()
        snap(act)
    assert act.alpha[2:].tolist() == [1, 1]
    assert torch.equal(act(-torch.ones(2, 4))[:, 2:], -torch.ones(2, 2))


def test_lengths_of_stacks_and_of_the_papers_figure():
    x = torch.zeros(1, 5).double()
    assert average_path_length(stack(), x) == 2
    model = linearize_relus(stack(), x).double()
    assert average_path_length(model, x) == 2
    model[1].linear[:2] = True
    assert average_path_length(model, x) == 0.75 + 1
    model[1].linear[:] = model[3].linear[:] = True
    assert average_path_length(model, x) == 0
    # a skip around four hidden layers of four units: one path of 257, or one branch of two
    layers = [nn.Linear(1, 4), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(4, 4), nn.ReLU()]
    model = Skip(nn.Sequential(*layers, nn.Linear(4, 1)))
    assert average_path_length(model, torch.zeros(1, 1), normalized=False) == pytest.approx(4 * 256 / 257)
    assert average_path_length(model, torch.zeros(1, 1)) == 2


def test_all_paths_of_a_small_graph_one_by_one():
    """Three layers with a skip around the middle one; units on a path drawn by hand."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(3, 2), LinearizableReLU(2), nn.Linear(2, 3))
    model = nn.Sequential(nn.Linear(1, 3), LinearizableReLU(3), Skip(inner), LinearizableReLU(3), nn.Linear(3, 1))
    model[1].linear[0] = model[3].linear[2] = inner[1].linear[1] = True
    first, middle, last = (~a.linear.numpy() for a in (model[1], inner[1], model[3]))
    lengths = [float(first[a]) + middle[b] + last[c] for a, b, c in product(range(3), range(2), range(3))]
    by_count = (sum(lengths) + sum(float(first[a]) + last[a] for a in range(3))) / (len(lengths) + 3)
    # a unit behind the sum is reached by 3 * 2 paths through the branch and by one that skips it
    assert average_path_length(model, torch.zeros(1, 1), normalized=False) == pytest.approx(by_count)
    assert average_path_length(model, torch.zeros(1, 1)) == pytest.approx(2 / 3 + 0.5 * 0.5 + 2 / 3)


def test_residual_networks():
    def block():
        return Skip(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1)), nn.ReLU())

    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), *(block() for _ in range(3)))
    linearize_relus(model, torch.zeros(2, 1, 28, 28))
    assert average_path_length(model, torch.zeros(1, 1, 28, 28)) == pytest.approx(1 + 1.5 * 3)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_what_is_refused():
    x = torch.zeros(1, 5)
    for call, name in (
        (lambda: LinearizableReLU(0), "channels"),
        (lambda: LinearizableReLU(3)(x), "3 channels"),
        (lambda: linearize_relus(nn.Linear(5, 2), x), "nn.ReLU"),
        (lambda: linearity_penalty(LinearizableReLU(2), 0.0), "power"),
        (lambda: linearity_penalty(nn.Linear(2, 2)), "LinearizableReLU"),
        (lambda: snap(LinearizableReLU(2), 1.0), "threshold"),
        (lambda: nonlinear_fraction(nn.Linear(2, 2)), "LinearizableReLU"),
        (lambda: average_path_length(nn.Sequential(nn.Linear(5, 2), nn.Tanh()), x), "got Tanh"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
    relu = nn.ReLU()
    with pytest.raises(ValueError, match="one number of channels"):
        linearize_relus(nn.Sequential(nn.Linear(5, 4), relu, nn.Linear(4, 3), relu), x)

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"torch\.fx can trace"):
        average_path_length(Branching(), x)

    class Functional(nn.Module):
        def forward(self, x):
            return torch.relu(x)

    with pytest.raises(ValueError, match=r"as nn\.ReLU modules"):
        average_path_length(Functional(), x)
    assert math.isfinite(average_path_length(nn.Flatten(), x))
