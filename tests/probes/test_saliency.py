"""Baselines of attribution: another library's numbers, completeness, limits, a model left as it was, refusals."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.probes import (
    activation_gradients,
    grad_cam,
    input_gradient,
    input_x_gradient,
    integrated_gradients,
    magnitude,
    smooth_grad,
)
from assay.probes.scores import checked_targets, evaluated, leaf


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


def network():
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3)]
    net = nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)).double().eval()
    for number, p in enumerate(net.parameters()):
        p.data = 0.5 * waves(tuple(p.shape), 0.3 * number)
    net[1].running_mean.copy_(waves((4,), 0.2))
    net[1].running_var.copy_(1.5 + waves((4,), 0.4))
    return net


X, Y = waves((3, 2, 8, 8), 0.1), torch.tensor([2, 0, 1])

# captum 0.9.0 on the network above, X and Y: (the sum of the attribution times waves(its size, .9), the sum of its
# absolute values). IntegratedGradients with n_steps=20 and baselines=.2; LayerGradCam of layers 4, and 2 with
# relu_attributions=True; all else by default (Saliency with abs=False).
CAPTUM = {
    "input_gradient": (-0.0703963533125096, 19.762190931133283),
    "input_x_gradient": (-0.16418378463268324, 12.405591229207577),
    "integrated_gradients": (-0.07165906357034063, 12.667651576543438),
    "grad_cam, 4": (-0.044549803822822684, 0.8611765195171204),
    "grad_cam, 2": (-0.0013541952274082703, 0.006782967066806587),
}


@pytest.mark.parametrize("name", CAPTUM)
def test_numbers_of_captum(name):
    net = network()
    found = {
        "input_gradient": lambda: input_gradient(net, X, Y),
        "input_x_gradient": lambda: input_x_gradient(net, X, Y),
        "integrated_gradients": lambda: integrated_gradients(net, X, Y, steps=20, baseline=0.2, batch_size=7),
        "grad_cam, 4": lambda: grad_cam(net, X, Y, "4", relu=False, size=(2, 2)),
        "grad_cam, 2": lambda: grad_cam(net, X, Y, "2", size=(8, 8)),
    }[name]()
    weighted, size = CAPTUM[name]
    rel = 1e-7 if name == "integrated_gradients" else 1e-9  # their weights of the points are in single precision
    assert (found.flatten() * waves((found.numel(),), 0.9)).sum().item() == pytest.approx(weighted, rel=rel)
    assert found.abs().sum().item() == pytest.approx(size, rel=rel)


def test_the_gradient_is_the_slope():
    net, step = network(), 1e-6
    found = input_gradient(net, X, Y)
    with torch.no_grad():
        for pixel in ((0, 1, 3, 4), (1, 0, 7, 0), (2, 1, 0, 5)):
            up, down = X.clone(), X.clone()
            up[pixel] += step
            down[pixel] -= step
            image, label = pixel[0], Y[pixel[0]]
            slope = (net(up)[image, label] - net(down)[image, label]).item() / (2 * step)
            assert found[pixel].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_integrated_gradients_are_complete():
    """Their sum is the difference of the logits; gradient times input is not, the way being curved."""
    net, base = network(), 0.3 * waves((1, 2, 8, 8), 0.7)
    with torch.no_grad():
        rise = (net(X) - net(base)).gather(1, Y[:, None])[:, 0]
    total = integrated_gradients(net, X, Y, baseline=base, steps=300).sum((1, 2, 3))
    # Along the way the integrand jumps at each kink of a ReLU or a maximum; the error falls as 1 / steps.
    torch.testing.assert_close(total, rise, rtol=0, atol=2e-3)
    assert ((input_gradient(net, X, Y) * (X - base)).sum((1, 2, 3)) - rise).abs().max() > 0.02


@pytest.mark.parametrize("averaged", [integrated_gradients, smooth_grad])
def test_channels_last_unless_the_model_counts_on_channels_first(averaged):
    class Viewed(nn.Module):
        def forward(self, x):
            return x.view(len(x), -1)

    layouts = []
    maps = []
    for flat in (nn.Flatten(), Viewed()):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), flat, nn.Linear(108, 4))
        net[0].register_forward_pre_hook(
            lambda _, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
        maps.append(averaged(net, waves((3, 2, 8, 8), 0.1).float(), Y))
        layouts.append(None)
    seen = layouts.index(None)
    assert all(layouts[1:seen])  # all but the first look, at the classes
    assert not any(layouts[seen + 3 : -1])  # all but the trial
    assert maps[0].is_contiguous()
    assert maps[1].is_contiguous()
    torch.testing.assert_close(maps[0], maps[1])


def test_integrated_gradients_on_a_smooth_model_in_closed_form():
    """f = sum x^4: the integral of 4 a^3 x^3 times x is x^4, to which two points are exact."""
    net = nn.Sequential(Power(4), nn.Flatten(), Sum())
    torch.testing.assert_close(integrated_gradients(net, X, steps=2), X**4)
    assert not torch.allclose(integrated_gradients(net, X, steps=1), X**4, rtol=0.1)


def test_batches_and_default_classes_do_not_matter():
    net = network()
    with torch.no_grad():
        best = net(X).argmax(1)
    whole = integrated_gradients(net, X, best, steps=5, batch_size=100)
    for batch_size in (1, 4):
        torch.testing.assert_close(integrated_gradients(net, X, steps=5, batch_size=batch_size), whole)
    torch.testing.assert_close(input_gradient(net, X), input_gradient(net, X, best))


def test_smooth_grad_is_the_mean_over_its_noise():
    net = network()
    found = smooth_grad(net, X, Y, sigma=0.3, samples=4, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    copies = [X + 0.3 * torch.randn(X.shape, generator=generator, dtype=X.dtype) for _ in range(4)]
    torch.testing.assert_close(found, torch.stack([input_gradient(net, c, Y) for c in copies]).mean(0))
    torch.testing.assert_close(smooth_grad(net, X, Y, sigma=0.0, samples=2), input_gradient(net, X, Y))


def test_smooth_grad_of_a_quadratic_is_its_gradient_in_expectation():
    net, samples, sigma = nn.Sequential(Power(2), nn.Flatten(), Sum()), 400, 0.5
    found = smooth_grad(net, X, sigma=sigma, samples=samples, generator=torch.Generator().manual_seed(0))
    error = (found - 2 * X).flatten() / (2 * sigma / samples**0.5)  # standard normal
    assert error.abs().max() < 5
    assert error.std().item() == pytest.approx(1.0, abs=5 * (2 * error.numel()) ** -0.5)


def test_grad_cam_by_hand():
    net = network()
    x, g = activation_gradients(net, X, Y, ["3"])["3"]
    torch.testing.assert_close(x, net[:4](X).detach())
    expected = np.maximum((g.numpy().mean((2, 3))[:, :, None, None] * x.numpy()).sum(1), 0)
    found = grad_cam(net, X, Y, "3", size=(4, 4))
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=1e-12, atol=1e-15)
    full = grad_cam(net, X, Y, "3")
    torch.testing.assert_close(full, F.interpolate(found, (8, 8), mode="bilinear"))
    assert (grad_cam(net, X, Y, "3", relu=False) < 0).any()
    assert (full >= 0).all()


def test_recorded_layers_survive_what_overwrites_them():
    safe, unsafe = network(), network()
    unsafe[2] = nn.ReLU(inplace=True)
    for name in ("1", "2"):
        for a, b in zip(*(activation_gradients(n, X, Y, [name])[name] for n in (safe, unsafe)), strict=True):
            torch.testing.assert_close(a, b)
    several = activation_gradients(unsafe, X, Y, ["4", "1"])
    assert list(several) == ["4", "1"]
    torch.testing.assert_close(several["1"], activation_gradients(safe, X, Y, ["1"])["1"])


def test_the_largest_channel_makes_the_map():
    a = waves((2, 3, 4, 4), 0.3)
    np.testing.assert_array_equal(magnitude(a).numpy(), np.abs(a.numpy()).max(axis=1, keepdims=True))


EVERY = {
    "input_gradient": input_gradient,
    "input_x_gradient": input_x_gradient,
    "integrated_gradients": lambda *a: integrated_gradients(*a, steps=2),
    "smooth_grad": lambda *a: smooth_grad(*a, samples=2),
    "grad_cam": lambda net, x, y: grad_cam(net, x, y, "4"),
}


@pytest.mark.parametrize("method", EVERY.values(), ids=EVERY)
def test_the_model_is_left_as_it_was(method):
    net = network().float()
    net.train()
    net[3].eval()
    net[0].weight.requires_grad_(False)
    net[7].weight.grad = torch.ones_like(net[7].weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = X.float().requires_grad_()
    with torch.no_grad():
        found = method(net, x, Y)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    if method is not EVERY["smooth_grad"]:  # whose noise is drawn in another precision
        torch.testing.assert_close(found.double(), method(network(), X, Y), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [m.training for m in net] == [True] * 3 + [False] + [True] * 4
    assert net[0].weight.grad is None
    assert torch.equal(net[7].weight.grad, torch.ones_like(net[7].weight))
    assert x.grad is None
    assert not any(m._forward_hooks for m in net.modules())


def test_inference_mode_does_not_matter():
    net = network()
    with torch.inference_mode():
        images = X + 0
        found = input_gradient(net, images, Y)
    torch.testing.assert_close(found, input_gradient(net, X, Y))


def test_hooks_and_modes_after_an_error():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), Stumble()).double().train()
    with pytest.raises(RuntimeError, match="stumbled"):
        activation_gradients(net, X, Y, ["0"])
    assert net.training
    assert net[2].training
    assert not net[0]._forward_hooks
    with pytest.raises(KeyError), evaluated(net):
        raise KeyError
    assert net[1].training


class Power(nn.Module):
    def __init__(self, exponent):
        super().__init__()
        self.exponent = exponent

    def forward(self, x):
        return x**self.exponent


class Sum(nn.Module):
    def forward(self, x):
        return x.sum(1, keepdim=True)


class Stumble(nn.Module):
    def forward(self, x):
        raise RuntimeError("stumbled")


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.idle = nn.Conv2d(2, 2, 1)
        self.aside = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        self.aside(x)
        return self.conv(self.conv(x)).flatten(1)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda n: input_gradient(n, X[:0], Y[:0]), ValueError, "images must hold at least one"),
        (lambda n: input_gradient(n, X / 0, Y), ValueError, "images must be finite"),
        (lambda n: leaf(torch.ones(1, 2, 8, 8, dtype=torch.long)), TypeError, "floating-point"),
        (lambda n: input_gradient(n, X, Y[:2]), ValueError, r"targets must be one class an image, \(3,\): got \(2,\)"),
        (lambda n: input_gradient(n, X, Y + 1), ValueError, r"targets must lie in 0..2: got 1..3"),
        (lambda n: input_gradient(n, X, Y - 1), ValueError, "targets must lie in 0..2: got -1..1"),
        (lambda n: input_gradient(n[:5], X, Y), ValueError, r"model must return logits \(n, k\)"),
        (lambda n: input_gradient(n.append(Power(-math.inf)), X, Y), ValueError, "finite logits"),
        (lambda n: integrated_gradients(n, X, Y + 1), ValueError, "targets must lie in 0..2"),
        (lambda n: integrated_gradients(n[:5], X, Y), ValueError, r"model must return logits"),
        (lambda n: integrated_gradients(n, X, Y, steps=0), ValueError, "steps must be at least 1: got 0"),
        (lambda n: integrated_gradients(n, X, Y, batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda n: integrated_gradients(n, X, Y, baseline=X[:2]), ValueError, "baseline must broadcast"),
        (lambda n: smooth_grad(n, X, Y, samples=0), ValueError, "samples must be at least 1"),
        (lambda n: smooth_grad(n, X, Y, sigma=-0.1), ValueError, "sigma must be 0 or more"),
        (lambda n: smooth_grad(n, X, Y[:1]), ValueError, "targets must be one class an image"),
        (lambda n: grad_cam(n, X, Y, "conv5"), ValueError, "layer must be a module of the model: got 'conv5'"),
        (lambda n: grad_cam(n, X, Y, "7"), ValueError, r"layer '7' must have an output \(n, c, h, w\): got \(3, 3\)"),
        (lambda n: activation_gradients(n, X, Y, []), ValueError, "layers must name at least one"),
        (lambda n: grad_cam(Twice().double(), X, Y, "conv"), ValueError, "'conv' must be run once .*: got 2 times"),
        (lambda n: grad_cam(Twice().double(), X, Y, "idle"), ValueError, "'idle' must be run once .*: got 0 times"),
        (lambda n: grad_cam(Twice().double(), X, Y, "aside"), ValueError, "'aside' must have a part in the logits"),
    ],
)
def test_refused(call, error, words):
    with pytest.raises(error, match=words):
        call(network())


def test_targets_of_real_numbers_are_refused():
    for wrong in (torch.ones(3), torch.ones(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match="targets must be whole numbers"):
            checked_targets(torch.ones(3, 2), wrong)


def test_a_model_that_does_not_look_has_no_gradient():
    class Blind(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 2, dtype=x.dtype)

    assert not input_gradient(Blind(), X).any()
