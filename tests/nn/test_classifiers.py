"""The plain networks against naive transcriptions in float64, and what every shared network must allow."""

import numpy as np
import pytest
import torch
from torch import nn as torch_nn
from torch.nn import functional

from assay import nn

SMALL = {
    "mlp": {"widths": (5, 4)},
    "smallcnn": {"widths": (3, 4, 5)},
    "convnet": {"widths": (3, 4, 5)},
    "resnet8": {"widths": (3, 4, 5)},
    "tinyvit": {"patch": 4, "d": 8, "depth": 2, "heads": 2},
}


def make(name, shape=(2, 8, 8), num_classes=3, seed=0):
    torch.manual_seed(seed)
    network = nn.build(name, shape, num_classes, **SMALL[name]).double()
    for module in network.modules():  # generic statistics, so that normalization is seen
        if isinstance(module, torch_nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
        if isinstance(module, torch_nn.BatchNorm2d | torch_nn.LayerNorm):
            module.weight.data.normal_()
            module.bias.data.normal_()
    return network


def conv(x, weight, bias, stride, padding):
    """Cross-correlation by loops: x (c, h, w), weight (d, c, k, k)."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    k = weight.shape[-1]
    rows, columns = ((side - k) // stride + 1 for side in x.shape[1:])
    out = np.zeros((len(weight), rows, columns))
    for d in range(len(weight)):
        for i in range(rows):
            for j in range(columns):
                window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
                out[d, i, j] = (window * weight[d]).sum() + (0.0 if bias is None else bias[d])
    return out


def pool(x):
    c, h, w = x.shape
    out = np.zeros((c, h // 2, w // 2))
    for i in range(h // 2):
        for j in range(w // 2):
            out[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max(axis=(1, 2))
    return out


def layers(network, kind):
    return [
        [None if t is None else t.detach().numpy() for t in (m.weight, m.bias)]
        for m in network.modules()
        if isinstance(m, kind)
    ]


def test_mlp_is_its_matrix_products():
    network, x = make("mlp"), torch.randn(4, 2, 8, 8, dtype=torch.float64)
    (w1, b1), (w2, b2), (w3, b3) = layers(network, torch_nn.Linear)
    for image, logits in zip(x.numpy(), network(x).detach().numpy(), strict=True):
        hidden = np.maximum(w2 @ np.maximum(w1 @ image.reshape(-1) + b1, 0) + b2, 0)
        np.testing.assert_allclose(logits, w3 @ hidden + b3, atol=1e-12)


def test_convnet_rectifies_and_pools_after_each_convolution():
    network, x = make("convnet"), torch.randn(2, 2, 8, 8, dtype=torch.float64)
    (k1, c1), (k2, c2) = layers(network, torch_nn.Conv2d)
    (w1, b1), (w2, b2) = layers(network, torch_nn.Linear)
    for image, logits in zip(x.numpy(), network(x).detach().numpy(), strict=True):
        first = pool(np.maximum(conv(image, k1, c1, 1, 1), 0))
        second = pool(np.maximum(conv(first, k2, c2, 1, 1), 0))
        hidden = np.maximum(w1 @ second.reshape(-1) + b1, 0)
        np.testing.assert_allclose(logits, w2 @ hidden + b2, atol=1e-12)


def test_smallcnn_strides_normalizes_rectifies_and_averages():
    network, x = make("smallcnn").eval(), torch.randn(2, 2, 8, 8, dtype=torch.float64)
    kernels = layers(network, torch_nn.Conv2d)
    norms = [m for m in network.modules() if isinstance(m, torch_nn.BatchNorm2d)]
    ((w, b),) = layers(network, torch_nn.Linear)
    for image, logits in zip(x.numpy(), network(x).detach().numpy(), strict=True):
        for (kernel, bias), norm in zip(kernels, norms, strict=True):
            assert bias is None
            mean, variance, scale, shift = (
                t.detach().numpy()[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            )
            image = conv(image, kernel, None, 2, 1)
            image = np.maximum((image - mean) / np.sqrt(variance + norm.eps) * scale + shift, 0)
        np.testing.assert_allclose(logits, w @ image.mean(axis=(1, 2)) + b, atol=1e-12)


@pytest.mark.parametrize(("channels", "height", "width", "k"), [(1, 28, 28, 10), (3, 32, 32, 7), (2, 9, 14, 3)])
def test_parameter_counts_by_formula(channels, height, width, k):
    def count(network):
        return sum(p.numel() for p in network.parameters())

    c, shape = channels, (channels, height, width)
    inputs = channels * height * width
    assert count(nn.mlp(shape, k, widths=(30, 20))) == (inputs + 1) * 30 + 31 * 20 + 21 * k
    assert count(nn.mlp(shape, k, widths=())) == (inputs + 1) * k
    a, b, d = 6, 11, 13
    cells = (height // 2 // 2) * (width // 2 // 2)
    convnet = (9 * c + 1) * a + (9 * a + 1) * b + (cells * b + 1) * d + (d + 1) * k
    assert count(nn.convnet(shape, k, widths=(a, b, d))) == convnet
    smallcnn = 9 * c * a + 9 * a * b + 9 * b * d + 2 * (a + b + d) + (d + 1) * k
    assert count(nn.smallcnn(shape, k, widths=(a, b, d))) == smallcnn
    resnet = 9 * c * a + 2 * a + (18 * a * a + 4 * a)
    resnet += (9 * a * b + 9 * b * b + a * b + 6 * b) + (9 * b * d + 9 * d * d + b * d + 6 * d) + (d + 1) * k
    assert count(nn.resnet8(shape, k, widths=(a, b, d))) == resnet
    patch = 7 if height % 7 == 0 and width % 7 == 0 else 1 if height == 9 else 8
    tokens = (height // patch) * (width // patch)
    vit = (c * patch**2 + 1) * 12 + tokens * 12 + 3 * (12 * 144 + 13 * 12) + 24 + 13 * k
    assert count(nn.tinyvit(shape, k, patch=patch, d=12, depth=3, heads=3)) == vit


def test_the_convnet_of_the_claims_has_about_106k_weights():
    assert sum(p.numel() for p in nn.convnet().parameters()) == 160 + 4640 + 100_416 + 650


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name):
    network, x = make(name), torch.randn(6, 2, 8, 8, dtype=torch.float64)
    functional.cross_entropy(network(x), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", SMALL)
def test_hessian_vector_products_agree_with_differences_of_gradients(name):
    """Second-order optimizers differentiate twice, through every layer."""
    network, x = make(name).eval(), torch.randn(6, 2, 8, 8, dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)
    directions = [torch.randn_like(p) for p in parameters]
    targets = torch.tensor([0, 1, 2, 0, 1, 2])

    def gradient(step, graph=False):
        moved = [(p.detach() + step * v).requires_grad_() for p, v in zip(parameters, directions, strict=True)]
        logits = torch.func.functional_call(network, dict(zip(names, moved, strict=True)), (x,))
        return moved, torch.autograd.grad(functional.cross_entropy(logits, targets), moved, create_graph=graph)

    at, grads = gradient(0.0, graph=True)
    exact = torch.autograd.grad(sum((g * v).sum() for g, v in zip(grads, directions, strict=True)), at)
    h = 1e-7
    largest = max(e.abs().max().item() for e in exact)
    for e, up, down in zip(exact, gradient(h)[1], gradient(-h)[1], strict=True):
        torch.testing.assert_close(e, (up - down) / (2 * h), rtol=0.0, atol=1e-5 * largest)


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)  # torch's own, in its first jvp
@pytest.mark.parametrize("name", SMALL)
def test_forward_mode_agrees_with_backward_mode(name):
    network, x = make(name).eval(), torch.randn(4, 2, 8, 8, dtype=torch.float64)
    parameters = dict(network.named_parameters())
    directions = {key: torch.randn_like(p) for key, p in parameters.items()}

    def loss(values):
        return torch.func.functional_call(network, values, (x,)).square().sum()

    _, slope = torch.func.jvp(loss, (parameters,), (directions,))
    grads = torch.autograd.grad(loss(parameters), list(parameters.values()))
    expected = sum((g * v).sum() for g, v in zip(grads, directions.values(), strict=True))
    torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SMALL)
def test_examples_do_not_mix_in_evaluation(name):
    network, x = make(name).eval(), torch.randn(5, 2, 8, 8, dtype=torch.float64)
    alone = torch.cat([network(each[None]) for each in x])
    torch.testing.assert_close(network(x), alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_the_global_seed_makes_the_weights(name):
    one, same, other = (torch.cat([p.flatten() for p in make(name, seed=s).parameters()]) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_build_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"no network 'convent'; nearest is 'convnet'; there are mlp, smallcnn"):
        nn.build("convent")
    with pytest.raises(TypeError, match=r"mlp has no option 'depth'; it has widths"):
        nn.build("mlp", depth=3)
    assert isinstance(nn.build("tinyvit", (3, 16, 16), 5, patch=4), type(nn.tinyvit()))


@pytest.mark.parametrize("name", SMALL)
def test_refused_shapes(name):
    with pytest.raises(ValueError, match=r"shape must be \(channels, height, width\), each at least 1: got \(0, 28"):
        nn.build(name, (0, 28, 28))
    with pytest.raises(ValueError, match="num_classes must be at least 1: got 0"):
        nn.build(name, (1, 28, 28), 0)


def test_refused_widths():
    for name in ("mlp", "smallcnn", "convnet", "resnet8"):
        with pytest.raises(ValueError, match=r"widths must each be at least 1: got \(4, 0, 4\)"):
            nn.build(name, widths=(4, 0, 4))
    with pytest.raises(ValueError, match="widths must name at least one convolution"):
        nn.smallcnn(widths=())
    with pytest.raises(ValueError, match="shape must be at least 4 high and wide"):
        nn.convnet((1, 3, 8))
