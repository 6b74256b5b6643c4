"""Full gradients: the authors' numbers, completeness, bias-free networks, unknown biases, what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.nn import build
from assay.probes import full_grad, full_gradients, input_gradient


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


def network():
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3)]
    net = nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(20, 3)).double().eval()
    for number, p in enumerate(net.parameters()):
        p.data = 0.5 * waves(tuple(p.shape), 0.3 * number)
    net[1].running_mean.copy_(waves((4,), 0.2))
    net[1].running_var.copy_(1.5 + waves((4,), 0.4))
    return net


X, Y = waves((3, 2, 8, 8), 0.1), torch.tensor([2, 0, 1])

# saliency/fullgrad.py of github.com/idiap/fullgrad-saliency on the network above in double precision, X and Y: the sum
# of the map, that after multiplication with waves((192,), .9), its value at [1, 0, 3, 4]; the sums of the bias terms in
# the order of the layers 0, 1, 4, 7, and that of gradient times input.
OFFICIAL_MAP = (451.0515231600475, -14.86742657673398, 1.9297391398393127)
OFFICIAL_BIASES = [-0.0585750339131878, -0.029091919364804264, -0.3982592562311509, 0.4237071445575795]
OFFICIAL_INPUT = -0.11357086329301391


def test_numbers_of_the_authors():
    net = network()
    found = full_gradients(net, X, Y)
    assert list(found.biases) == ["0", "1", "4", "7"]
    assert [term.sum().item() for term in found.biases.values()] == pytest.approx(OFFICIAL_BIASES, rel=1e-12)
    assert found.input.sum().item() == pytest.approx(OFFICIAL_INPUT, rel=1e-12)
    drawn = full_grad(net, X, Y)
    measured = (drawn.sum().item(), (drawn.flatten() * waves((192,), 0.9)).sum().item(), drawn[1, 0, 3, 4].item())
    assert measured == pytest.approx(OFFICIAL_MAP, rel=1e-12)


def trained(net, shape, dtype):
    """Running statistics and biases that matter."""
    torch.manual_seed(1)
    net = net.to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.2 * torch.randn_like(p)
        net.train()
        for _ in range(3):
            net(torch.rand(16, *shape, dtype=dtype))
    return net.eval()


class Functional(nn.Module):
    """Functions, a module that is run twice, an addition, in-place activations, averages."""

    def __init__(self, activation):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.activation = activation
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.first(x), inplace=True)
        x = self.activation(self.norm(self.twice(x))) + x
        x = F.avg_pool2d(self.activation(self.norm(self.twice(x))), 2)
        return self.head(x.mean((2, 3)))


NETWORKS = {
    "convnet": lambda: build("convnet", (1, 12, 12)),
    "smallcnn": lambda: build("smallcnn", (1, 12, 12)),
    "resnet8": lambda: build("resnet8", (1, 12, 12)),
    "mlp": lambda: build("mlp", (1, 12, 12), widths=(9, 8)),
    "functional": lambda: Functional(nn.ReLU(inplace=True)),
    "silu": lambda: Functional(nn.SiLU(inplace=True)),
    "gelu": lambda: Functional(nn.GELU()),
    "softplus": lambda: Functional(nn.Softplus()),
    "relu6": lambda: Functional(nn.ReLU6(inplace=True)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5)])
def test_completeness(name, dtype, tolerance):
    torch.manual_seed(0)
    net = trained(NETWORKS[name](), (1, 12, 12), dtype)
    x = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(1), dtype=dtype)
    found = full_gradients(net, x)
    torch.testing.assert_close(found.output, net(x).max(1).values.detach())
    assert found.residual.abs().max() <= tolerance * found.output.abs().max().clamp(min=1)
    alone = found.input.sum((1, 2, 3)) - found.output
    assert alone.abs().max() > 0.05  # the image alone is not all


def test_terms_by_hand():
    """Each term is a bias times the slope of the logit along it, by differences at that bias."""
    net, step = network(), 1e-6
    found = full_gradients(net, X, Y)

    def logits():
        with torch.no_grad():
            return net(X).gather(1, Y[:, None])[:, 0]

    for name in ("0", "4", "7", "1"):
        bias = net[int(name)].bias
        terms = found.biases[name].flatten(2).sum(2) if found.biases[name].ndim == 4 else found.biases[name]
        implicit = bias.detach().clone()
        if name == "1":
            implicit -= net[1].weight.detach() * net[1].running_mean / (net[1].running_var + net[1].eps).sqrt()
        for channel in range(len(bias)):
            with torch.no_grad():
                bias[channel] += step
                up = logits()
                bias[channel] -= 2 * step
                down = logits()
                bias[channel] += step
            slope = (up - down) / (2 * step)
            torch.testing.assert_close(terms[:, channel], implicit[channel] * slope, rtol=1e-6, atol=1e-9)


def test_without_biases_the_input_is_all():
    """Euler: a network without biases is x times its gradient; with the image doubled, so is the term."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2, bias=False))
    net, x = net.double(), torch.rand(3, 1, 8, 8).double()
    found = full_gradients(net, x)
    assert found.biases == {}
    torch.testing.assert_close(found.input.sum((1, 2, 3)), found.output)
    torch.testing.assert_close(full_gradients(net, 2 * x).input, 2 * found.input)
    drawn = full_grad(net, x, normalize=False)
    torch.testing.assert_close(drawn, (x * input_gradient(net, x)).abs())


def test_within_a_linear_region_terms_do_not_change():
    net, near = network(), X + 1e-9 * waves(X.shape, 0.5)
    one, other = full_gradients(net, X, Y), full_gradients(net, near, Y)
    for name, term in one.biases.items():
        torch.testing.assert_close(term, other.biases[name], rtol=0, atol=1e-13)
    assert not torch.equal(one.input, other.input)


def test_doubled_biases_of_a_linear_network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(108, 3)).double()
    one = full_gradients(net, X, Y)
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.bias *= 2
    two = full_gradients(net, X, Y)
    for name in ("0", "2"):
        torch.testing.assert_close(two.biases[name], 2 * one.biases[name])
    torch.testing.assert_close(two.input, one.input)
    torch.testing.assert_close(one.biases["2"].sum(1), net[2].bias.detach()[Y] / 2)


def test_the_map_by_hand():
    net = network()
    found = full_gradients(net, X, Y)

    def scaled(t):
        flat = t.abs().flatten(1)
        flat = flat - flat.min(1, keepdim=True).values
        return (flat / (flat.max(1, keepdim=True).values + 1e-6)).view(t.shape)

    expected = scaled(found.input).sum(1, keepdim=True)
    for name in ("0", "1", "4"):
        grown = F.interpolate(scaled(found.biases[name]), (8, 8), mode="bilinear", align_corners=True)
        expected = expected + grown.sum(1, keepdim=True)
        if name == "1":
            torch.testing.assert_close(full_grad(net, X, Y, layers=["0", "1"]), expected)
    torch.testing.assert_close(full_grad(net, X, Y), expected)
    assert not torch.allclose(full_grad(net, X, Y), full_grad(net, X, Y + torch.tensor([-1, 1, 1])), rtol=0.1)


class Shifted(nn.Module):
    def forward(self, x):
        return F.gelu(x)


def test_unknown_biases_are_refused_by_name():
    torch.manual_seed(0)
    known = nn.Sequential(nn.Flatten(), nn.Linear(128, 6), nn.GELU(), nn.Linear(6, 3)).double()
    full_gradients(known, X, Y)
    named = nn.Sequential(nn.Flatten(), nn.Linear(128, 6), Shifted(), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    with pytest.raises(ValueError, match=r"biases of 2 \(Shifted\), 3 \(LayerNorm\) are not known"):
        full_gradients(named, X, Y)
    softmax = nn.Sequential(*known, nn.Softmax(1))
    with pytest.raises(ValueError, match=r"4 \(Softmax\)"):
        full_grad(softmax, X, Y)
    functional = Functional(nn.ReLU()).double()
    functional.forward = lambda x: functional.head(F.gelu(functional.first(x)).mean((2, 3)))
    with pytest.raises(ValueError, match="a function in its forward"):
        full_gradients(functional, X[:, :1], Y)


def test_other_refusals():
    with pytest.raises(ValueError, match=r"layers must have a bias with height and width \(0, 1, 4\): got '7'"):
        full_grad(network(), X, Y, layers=["0", "7"])
    with pytest.raises(ValueError, match="got '2'"):
        full_grad(network(), X, Y, layers=["2"])
    with pytest.raises(ValueError, match=r"targets must lie in 0\.\.2"):
        full_gradients(network(), X, Y + 1)
    with pytest.raises(ValueError, match="images must be finite"):
        full_grad(network(), X / 0)


def test_the_model_is_left_as_it_was():
    net = network().train()
    net[1].eval()
    for p in net.parameters():
        p.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        found = full_gradients(net, X, Y)
    reference = full_gradients(network(), X, Y)
    torch.testing.assert_close(found.biases["4"], reference.biases["4"])
    assert not any(term.requires_grad for term in (*found.biases.values(), found.input, found.output))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [m.training for m in net] == [True, False] + [True] * 6
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    with pytest.raises(ValueError, match="targets"):
        full_gradients(net, X, Y + 5)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert net[0].training
