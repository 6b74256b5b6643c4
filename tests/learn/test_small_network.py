"""Small networks against a torch module of the same weights, and where their fit must end."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from assay.learn.small_network import ACTIVATIONS, SmallNetwork


def network(activation, seed=0):
    return SmallNetwork.drawn(3, 4, 2, activation, torch.Generator().manual_seed(seed))


def as_module(small):
    """In torch, from whose own layers the order and shape of everything follow."""
    first, out = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
    with torch.no_grad():
        for layer, weight, bias in ((first, small.W, small.b), (out, small.V, small.c)):
            layer.weight.copy_(torch.from_numpy(weight.T.copy()))
            layer.bias.copy_(torch.from_numpy(bias))
    return nn.Sequential(first, ACTIVATIONS[small.activation].module(), out)


def problem():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    return x, torch.stack([torch.sin(2 * x[:, 0]), x[:, 1] * x[:, 2]], dim=1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_outputs_are_a_torch_modules(activation):
    x, _ = problem()
    small = network(activation)
    torch.testing.assert_close(torch.from_numpy(small(x.numpy())), as_module(small)(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "identity"])
def test_a_fit_ends_where_torch_finds_no_slope(activation):
    """It ends where 2.2e-9 is the most that an iteration gains, which a slope of 1e-3 would exceed."""
    x, r = problem()
    fitted = network(activation).fitted(x.numpy(), r.numpy(), alpha=0.5, max_iter=5_000, tol=0.0)
    module = as_module(fitted)
    squares = (r - module(x)).square().sum() + 0.5 * sum(layer.weight.square().sum() for layer in module[::2])
    slopes = torch.autograd.grad(squares / 100, list(module.parameters()))
    assert max(slope.abs().max().item() for slope in slopes) < 1e-3
    before = as_module(network(activation))
    assert (r - module(x)).square().sum() < 0.9 * (r - before(x)).square().sum()


@pytest.mark.parametrize(("activation", "gain"), [("sigmoid", 2), ("tanh", 6), ("relu", 6)])
def test_weights_are_uniform_within_glorots_bounds(activation, gain):
    """Of 30,000 uniform numbers the greatest is within 1e-3 of the bound, but for a chance of exp(-15)."""
    small = SmallNetwork.drawn(100, 300, 100, activation, torch.Generator().manual_seed(0))
    bound = math.sqrt(gain / 400)
    for weight in (small.W, small.V):
        assert 0.999 * bound < np.abs(weight).max() <= bound
        assert abs(weight.mean()) < 4 * bound / math.sqrt(3 * weight.size)
    for bias in (small.b, small.c):
        assert 0.8 * bound < np.abs(bias).max() <= bound
