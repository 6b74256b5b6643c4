"""ARL and OGM-GE: coefficients typed out, limits, the theory of fusion, gradients scaled, what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.learn import ARL, OGM, dependence_coefficients, grad_scale
from assay.nn import LateFusion


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


def setting(third=False):
    torch.manual_seed(0)
    encoders = [nn.Sequential(nn.Linear(6, 4), nn.Tanh()), nn.Linear(5, 3)] + [nn.Linear(2, 2)] * third
    net = LateFusion(encoders, [4, 3] + [2] * third, 3).double()
    xs = [waves((8, 6), 0.1), waves((8, 5), 0.2)] + [waves((8, 2), 0.3)] * third
    return net, xs, torch.arange(8) % 3


def gradients(net, rule, xs, y):
    net.zero_grad()
    value = rule(net, xs, y, F.cross_entropy)
    return value, {name: p.grad.clone() for name, p in net.named_parameters()}


def test_coefficients_are_the_authors_lines():
    """The arithmetic of their training loop, in Python's own numbers, for two modalities."""
    a, v = 2 * waves((7, 4), 0.3), 0.6 * waves((7, 4), 0.9)
    size_a, size_v = a.abs().mean(0).sum().item(), v.abs().mean(0).sum().item()
    entropies = []
    for each in (a, v):
        p = torch.softmax(each, 1)
        entropies.append((-p * torch.log(p + 1e-16)).sum(1).mean().item())
    h = [max(0.3, each / sum(entropies)) for each in entropies]
    w = [1 / each / (1 / h[0] + 1 / h[1]) for each in h]
    c = [size_a / (size_a + size_v), size_v / (size_a + size_v)]
    scores = [math.exp(8.0 * c[1] * w[0]), math.exp(8.0 * c[0] * w[1])]
    found = dependence_coefficients([a, v], temperature=8.0)
    assert found.tolist() == pytest.approx([each / sum(scores) for each in scores], rel=1e-9)


def test_coefficients_behave():
    a, v = waves((7, 4), 0.3), waves((7, 4), 0.9)
    assert dependence_coefficients([a, a]).tolist() == [0.5, 0.5]
    assert dependence_coefficients([a, v, a + v]).sum().item() == pytest.approx(1)
    # Sharper at the same size: all of a row's logits on one class, where they were spread evenly.
    sharp = F.one_hot(torch.arange(7) % 4, 4).double() * 4
    even = torch.ones(7, 4).double()
    found = dependence_coefficients([sharp, even])
    assert found[0] > 0.7
    # The floor bounds w: shares of 0 and 1 count as 0.3 and 1, so that w = (10, 3) / 13; equal sizes halve it.
    limit = 1 / (1 + math.exp(-8 / 2 * 7 / 13))
    assert dependence_coefficients([100 * sharp, 100 * even]).max().item() == pytest.approx(limit, rel=1e-3)


def test_the_objective_typed_out():
    net, xs, y = setting()
    rule = ARL(gamma=1.7, temperature=60.0, warmup=0)
    value, found = gradients(net, rule, xs, y)
    q = rule.coefficients
    assert (q - 0.5).abs().max() > 0.01
    net.zero_grad()
    z = net.features(xs)
    total = F.cross_entropy(net.head(torch.cat(z, 1)), y)
    torch.testing.assert_close(value, total.detach())
    total = total + 1.7 * sum(F.cross_entropy(each, y) for each in net.unimodal(z))
    total.backward()
    for name, p in net.named_parameters():
        factor = 1 + q[int(name.split(".")[1])] if name.startswith("encoders") else 1
        torch.testing.assert_close(found[name], factor * p.grad)


@pytest.mark.parametrize("third", [False, True])
def test_without_gamma_and_temperature_it_is_joint_training(third):
    net, xs, y = setting(third)
    _, found = gradients(net, ARL(gamma=0.0, temperature=None), xs, y)
    net.zero_grad()
    F.cross_entropy(net(xs), y).backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=0, atol=0)


def test_warming_up():
    net, xs, y = setting()
    rule = ARL(warmup=2)
    coefficients = []
    for _ in range(3):
        rule(net, xs, y, F.cross_entropy)
        coefficients.append(rule.coefficients.tolist())
        rule.step_epoch(net)
    assert coefficients[0] == coefficients[1] == [0.5, 0.5]
    assert coefficients[2] != [0.5, 0.5]
    other = ARL(warmup=2)
    other.load_state_dict(rule.state_dict())
    assert other.epoch == 3


def test_scaled_gradients():
    x = waves((5,), 0.1).requires_grad_()
    y = grad_scale(x, 0.3)
    assert torch.equal(x, y)
    torch.testing.assert_close(torch.autograd.grad(y.sin().sum(), x)[0], 1.3 * x.detach().cos())
    # It is the derivative of the rescaled function: twice over, too.
    first = torch.autograd.grad(grad_scale(x, 0.3).pow(3).sum(), x, create_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(first.sum(), x)[0], 1.3 * 6 * x.detach() * 1.3, rtol=1e-9, atol=1e-9)


def test_inverse_variance_is_the_best_fusion():
    """r^2 s1 + (1 - r)^2 s2 is least, at s1 s2 / (s1 + s2), for r / (1 - r) = s2 / s1: by Monte Carlo."""
    generator = torch.Generator().manual_seed(0)
    s1, s2 = 1.0, 4.0
    errors = torch.randn(2, 200_000, generator=generator) * torch.tensor([[s1**0.5], [s2**0.5]])
    ratios = torch.linspace(0, 1, 41)
    spread = torch.stack([(r * errors[0] + (1 - r) * errors[1]).square().mean() for r in ratios])
    assert ratios[spread.argmin()].item() == pytest.approx(s2 / (s1 + s2), abs=0.026)
    assert spread.min().item() == pytest.approx(s1 * s2 / (s1 + s2), rel=0.02)


def test_modulation_by_hand():
    net, xs, y = setting()
    rule = OGM(alpha=0.4, ge=False)
    _, found = gradients(net, rule, xs, y)
    net.zero_grad()
    F.cross_entropy(net(xs), y).backward()
    z = [each.detach() for each in net.features(xs)]
    w = net.head.weight.detach().split([4, 3], 1)
    scores = []
    for each, weight in zip(z, w, strict=True):
        p = torch.softmax(each @ weight.T + net.head.bias.detach() / 2, 1)
        scores.append(sum(p[row, label].item() for row, label in enumerate(y.tolist())))
    ratios = [scores[0] / scores[1], scores[1] / scores[0]]
    k = [1 - math.tanh(0.4 * ratio) if ratio > 1 else 1.0 for ratio in ratios]
    assert min(k) < 1
    assert max(k) == 1
    for name, p in net.named_parameters():
        factor = k[int(name.split(".")[1])] if name.startswith("encoders") else 1.0
        torch.testing.assert_close(found[name], factor * p.grad)


def test_enhancement_is_noise_of_the_gradients_size_on_what_is_slowed():
    net, xs, y = setting()
    _, plain = gradients(net, OGM(alpha=0.4, ge=False), xs, y)
    rule = OGM(alpha=0.4, generator=torch.Generator().manual_seed(0))
    draws = [gradients(net, rule, xs, y)[1] for _ in range(400)]
    slow = int(rule.coefficients.argmin())
    for name, g in plain.items():
        noise = torch.stack([each[name] - g for each in draws])
        if name.startswith(f"encoders.{slow}"):
            assert noise.std().item() == pytest.approx(g.std().item(), rel=0.1)
            assert noise.mean().abs() < 4 * noise.std() / math.sqrt(noise.numel())
        else:
            assert noise.abs().max() == 0


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(gamma=-1.0), "gamma"),
        (dict(temperature=0.0), "temperature"),
        (dict(warmup=-1), "warmup"),
        (dict(floor=0.5), "floor"),
        (dict(floor=0.0), "floor"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        ARL(**settings)


def test_refused_calls():
    net, xs, y = setting(third=True)
    with pytest.raises(TypeError, match="LateFusion"):
        ARL()(nn.Linear(6, 3), xs[0], y, F.cross_entropy)
    with pytest.raises(TypeError, match="LateFusion"):
        OGM()(nn.Linear(6, 3), xs[0], y, F.cross_entropy)
    with pytest.raises(ValueError, match="two modalities"):
        OGM()(net, xs, y, F.cross_entropy)
    with pytest.raises(ValueError, match="alpha"):
        OGM(alpha=0.0)
    with pytest.raises(ValueError, match="unimodal"):
        dependence_coefficients([waves((3, 2), 0.1)])
    with pytest.raises(ValueError, match="floor"):
        ARL(warmup=0, floor=0.4)(net, xs, y, F.cross_entropy)
