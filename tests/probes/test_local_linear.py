"""Jacobians and tangent maps, against differences, products of weights and torch's own."""

import pytest
import torch
from torch import nn

from assay.probes import jacobian, local_affine


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))


def points(n=5, dtype=torch.float64):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_relu_network_is_the_product_of_its_weights(dtype):
    net, x = network().to(dtype), points(dtype=dtype)
    found = jacobian(net, x)
    for number, at in enumerate(x):
        active = (net[0](at) > 0).to(dtype)
        torch.testing.assert_close(found[number], net[2].weight @ (active[:, None] * net[0].weight))


def test_a_smooth_function_against_torch_and_differences():
    def function(x):
        return torch.stack([x.flatten(1).sin().sum(1), (x[:, 0, 0] * x[:, 1, 2]).exp(), x.flatten(1)[:, 3] ** 3], 1)

    x = points().view(5, 2, 3)
    found = jacobian(function, x)
    assert found.shape == (5, 3, 6)
    theirs = torch.autograd.functional.jacobian(lambda one: function(one[None])[0], x[2])
    torch.testing.assert_close(found[2], theirs.reshape(3, 6))
    step = 1e-6
    for j in range(6):
        move = torch.zeros(6).double()
        move[j] = step
        differences = (function(x + move.view(2, 3)) - function(x - move.view(2, 3))) / (2 * step)
        torch.testing.assert_close(found[:, :, j], differences, rtol=1e-7, atol=1e-8)


def test_images_and_chunks():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1))
    net.double()
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    whole = jacobian(net, x)
    assert whole.shape == (2, 16, 16)
    for chunk in (1, 5, 16, 100):
        torch.testing.assert_close(jacobian(net, x, chunk=chunk), whole)
    torch.testing.assert_close(jacobian(net, x[:1]), whole[:1])  # evaluation mode: examples do not see each other


def test_the_tangent_map_is_the_network_in_its_region():
    net, x = network().double(), points()
    near = local_affine(net, x)
    torch.testing.assert_close(near(x), net(x).detach())
    moved = x + 1e-4 * points(5).flip(0)
    assert torch.equal(net[0](moved) > 0, net[0](x) > 0)
    torch.testing.assert_close(near(moved), net(moved).detach(), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(near(-x), net(-x).detach())


def test_a_constant_has_no_slope():
    assert torch.equal(jacobian(lambda x: torch.ones(len(x), 2), points()), torch.zeros(5, 2, 6))
    first = jacobian(lambda x: torch.stack([x[:, 0], torch.ones(len(x)).double()], 1), points())
    assert torch.equal(first[:, 1], torch.zeros(5, 6).double())


def test_everything_is_left_as_it_was():
    net, x = nn.Sequential(network(), nn.BatchNorm1d(4), nn.Dropout()).double(), points()
    net[2].eval()
    x.requires_grad_()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        jacobian(net, x)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training
    assert net[1].training
    assert not net[2].training
    assert x.grad is None
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    with pytest.raises(RuntimeError):
        jacobian(net, x[:, :3])
    assert net[1].training


def test_what_is_refused():
    for bad in (torch.zeros(0, 3), torch.zeros(3)):
        with pytest.raises(ValueError, match="inputs must be of shape"):
            jacobian(lambda x: x, bad)
    with pytest.raises(ValueError, match="inputs must be finite"):
        jacobian(lambda x: x, torch.tensor([[float("nan")]]))
    with pytest.raises(ValueError, match="chunk"):
        jacobian(lambda x: x, torch.zeros(1, 2), chunk=0)
    with pytest.raises(ValueError, match="one output an example"):
        jacobian(lambda x: x.sum(0, keepdim=True), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="finite derivatives"):
        local_affine(torch.sqrt, torch.zeros(1, 2))
