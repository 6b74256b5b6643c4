"""NormGrad: outer products by brute force, real inserted layers, products of maps, the meta step, refusals."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.probes import (
    activation_gradients,
    class_sensitivity,
    grad_cam,
    input_gradient,
    magnitude,
    meta_saliency,
    norm_grad,
)


def network():
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Tanh()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(80, 3)).double().eval()
    for p in net.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return net


X, Y = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1)).double(), torch.tensor([2, 0, 1])


def contributions(x, g, virtual):
    """(n, entries, h, w), each place's term of the gradient of the weight of a virtual layer, by its definition."""
    n, c, h, w = x.shape
    if virtual == "bias":
        return g
    if virtual == "scaling":
        return g * x
    around = x if virtual == "conv1x1" else F.unfold(x, 3, padding=1).view(n, 9 * c, h, w)
    return torch.einsum("nchw,ndhw->ncdhw", g, around).flatten(1, 2)


REDUCED = {
    "norm": lambda t: t.square().sum(1).sqrt(),
    "positive_norm": lambda t: t.clamp(min=0).square().sum(1).sqrt(),
    "sum": lambda t: t.sum(1),
    "max": lambda t: t.amax(1),
}


@pytest.mark.parametrize("virtual", ["conv1x1", "conv3x3", "scaling", "bias"])
@pytest.mark.parametrize("aggregate", REDUCED)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_closed_forms_against_outer_products(virtual, aggregate, dtype, rtol):
    net, x = network().to(dtype), X.to(dtype)
    values, slopes = activation_gradients(net, x, Y, ["0"])["0"]
    expected = REDUCED[aggregate](contributions(values, slopes, virtual))
    found = norm_grad(net, x, Y, "0", virtual=virtual, aggregate=aggregate)
    torch.testing.assert_close(found[:, 0], expected, rtol=rtol, atol=rtol * expected.abs().max().item())
    assert found.dtype == dtype


class Scale(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1).double())
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1).double())

    def forward(self, x):
        return self.weight * x + self.bias


@pytest.mark.parametrize("virtual", ["conv1x1", "conv3x3", "scaling", "bias"])
def test_contributions_add_up_to_the_gradient_of_a_real_layer(virtual):
    net = network()
    size = {"conv1x1": 1, "conv3x3": 3}.get(virtual)
    if size is None:
        put = Scale(4)
    else:
        put = nn.Conv2d(4, 4, size, padding=size // 2, bias=False).double()
        nn.init.dirac_(put.weight)
    longer = nn.Sequential(net[0], put, *net[1:])
    longer(X).gather(1, Y[:, None]).sum().backward()
    weight = put.bias if virtual == "bias" else put.weight
    values, slopes = activation_gradients(net, X, Y, ["0"])["0"]
    total = contributions(values, slopes, virtual).sum((0, 2, 3))
    torch.testing.assert_close(total, weight.grad.flatten())


def test_the_default_is_the_product_of_two_lengths():
    """|x| |dx|, as github.com/ruthcfong/TorchRay has it; not the gradient's length alone, nor gradient times x."""
    net = network()
    x, g = (t.numpy() for t in activation_gradients(net, X, Y, ["2"])["2"])
    by_hand = np.sqrt((x**2).sum(1)) * np.sqrt((g**2).sum(1))
    found = norm_grad(net, X, Y, "2", size=(4, 4))
    np.testing.assert_allclose(found[:, 0].numpy(), by_hand, rtol=1e-12)
    assert not np.allclose(by_hand, np.abs((x * g).sum(1)), rtol=0.1)
    full = norm_grad(net, X, Y, "2")
    torch.testing.assert_close(full, F.interpolate(found, (6, 6), mode="bilinear"))


def test_scaled_logits_scale_the_map():
    net = network()
    once = norm_grad(net, X, Y, "0")
    net[7].weight.data *= 3
    torch.testing.assert_close(norm_grad(net, X, Y, "0"), 3 * once)


def test_layers_multiply_after_scaling():
    net = network()
    maps = [norm_grad(net, X, Y, name) for name in ("0", "2", "4")]
    expected = torch.ones(3, 1, 6, 6).double()
    for each in maps:
        low, high = each.amin((2, 3), keepdim=True), each.amax((2, 3), keepdim=True)
        expected = expected * (each - low) / (high - low)
    torch.testing.assert_close(norm_grad(net, X, Y, ["0", "2", "4"]), expected)
    torch.testing.assert_close(norm_grad(net, X, Y, ["2"]), maps[1])
    assert not norm_grad(net, 0 * X[:1], Y[:1], ["0", "1"], virtual="bias", size=(1, 1)).any()  # constant: 0, no NaN


def test_mean_pooling_hides_the_class_from_the_last_layer():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
    found = class_sensitivity(lambda m, x, y: norm_grad(m, x, y, "1"), net, X)
    torch.testing.assert_close(found, torch.ones(3).double())
    assert (class_sensitivity(lambda m, x, y: grad_cam(m, x, y, "1", relu=False), net, X) < 0.99).all()


def test_class_sensitivity_is_a_correlation():
    net = network()

    def maps(model, x, y):
        return norm_grad(model, x, y, "0")

    logits = net(X)
    a, b = (maps(net, X, y).flatten(1).numpy() for y in (logits.argmax(1), logits.argmin(1)))
    expected = [np.corrcoef(one, other)[0, 1] for one, other in zip(a, b, strict=True)]
    np.testing.assert_allclose(class_sensitivity(maps, net, X).numpy(), expected, rtol=1e-9)
    assert class_sensitivity(lambda m, x, y: torch.ones(3, 1, 6, 6), net, X).tolist() == [0.0] * 3


def gradient(model, x, y):
    return magnitude(input_gradient(model, x, y))


@pytest.mark.parametrize("negate", [False, True])
def test_the_meta_step_by_hand(negate):
    found = meta_saliency(gradient, network(), X, Y, lr=0.05, negate=negate)
    for image in range(3):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, maximize=negate)
        F.cross_entropy(net(X[image : image + 1]), Y[image : image + 1]).backward()
        optimizer.step()
        expected = gradient(net, X[image : image + 1], Y[image : image + 1])
        torch.testing.assert_close(found[image : image + 1], expected)
    assert not torch.allclose(found, gradient(network(), X, Y), rtol=1e-3)
    torch.testing.assert_close(meta_saliency(gradient, network(), X, Y, lr=0.0), gradient(network(), X, Y))


def test_the_model_is_left_as_it_was():
    net = network().train()
    net[0].weight.requires_grad_(False)
    net[7].weight.grad = torch.ones_like(net[7].weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def unchanged():
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert all(m.training for m in net)
        assert not net[0].weight.requires_grad
        assert net[0].bias.requires_grad
        assert torch.equal(net[7].weight.grad, torch.ones_like(net[7].weight))
        assert net[0].bias.grad is None

    found = meta_saliency(gradient, net, X, Y, lr=0.1)
    torch.testing.assert_close(found, meta_saliency(gradient, network(), X, Y, lr=0.1))  # all weights take the step
    unchanged()

    def stumble(model, x, y):
        raise RuntimeError("stumbled")

    with pytest.raises(RuntimeError, match="stumbled"):
        meta_saliency(stumble, net, X, Y, lr=0.1)
    unchanged()
    norm_grad(net, X, Y, ["0", "2"])
    class_sensitivity(gradient, net, X)
    unchanged()
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda n: norm_grad(n, X, Y, "0", virtual="conv5x5"), "virtual must be one of conv1x1, .*: got 'conv5x5'"),
        (lambda n: norm_grad(n, X, Y, "0", aggregate="mean"), "aggregate must be one of norm, .*: got 'mean'"),
        (lambda n: norm_grad(n, X, Y, "9"), "layer must be a module of the model: got '9'"),
        (lambda n: norm_grad(n, X, Y, "5"), r"must have an output \(n, c, h, w\)"),
        (lambda n: norm_grad(n, X, Y, []), "layers must name at least one"),
        (lambda n: norm_grad(n, X, Y + 1, "0"), r"targets must lie in 0\.\.2"),
        (lambda n: meta_saliency(gradient, n, X, Y, lr=-1.0), "lr must be 0 or more"),
        (lambda n: meta_saliency(gradient, n, X, Y, lr=math.inf), "lr must be 0 or more"),
        (lambda n: meta_saliency(gradient, n, X, Y + 1), r"targets must lie in 0\.\.2"),
    ],
)
def test_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(network())
