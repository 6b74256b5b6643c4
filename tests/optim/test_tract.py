"""TrAct against least squares, the authors' code, and the ordinary layer that it replaces."""

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.optim import TrAct, tract_gradient


def numbers(*shape, phase):
    """Generic values without a random generator: the recipe of the authors' numbers below."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (torch.sin(1.7 * i + phase) + 0.3 * torch.cos(0.37 * i * i + phase)).reshape(shape)


# TrActLinear(5, 2, 0.1) and TrActConv2d(2, 3, (3, 2), stride=2, padding=1, lambda_=0.1) of
# github.com/Felix-Petersen/tract (src/tract.py), loss (output * g).sum() with the weights, inputs and g of `numbers`.
OFFICIAL = {
    7: [
        [-2.0299882410493764, 0.34712392646624146, -4.919254090773291, -1.407741214219389, -3.027888014747316],
        [-1.1303297781940973, 2.007449583783686, 2.322491693413054, -0.42316087920377915, 1.458293688941461],
    ],
    3: [
        [-0.8003659851395192, 2.298183078463311, 0.7815241345852655, -1.481237970935291, -1.1139654876721035],
        [0.1686374597029721, 0.000604566663098792, -0.2697502094187669, -0.49300863897002173, 0.4410913098482024],
    ],
}
OFFICIAL_CONV = [
    *(-1.0481809766946222, 0.07109348293511886, 4.413384745900237, -2.4119598027386195),
    *(5.291806218659138, 4.404380072905242, -9.7116764366468, 5.924583102207828),
]
OFFICIAL_CONV_NORM = 33.89115787529997


@pytest.mark.parametrize("rows", [7, 3])
def test_linear_is_the_authors(rows):
    """More rows than columns, and fewer; the bias's gradient is the ordinary one."""
    x, g = numbers(rows, 5, phase=0.2), numbers(rows, 2, phase=1.1)
    plain = nn.Linear(5, 2, dtype=torch.float64)
    plain.weight.data = numbers(2, 5, phase=2.0)
    (TrAct(plain)(x) * g).sum().backward()
    expected = torch.tensor(OFFICIAL[rows], dtype=torch.float64)
    torch.testing.assert_close(plain.weight.grad, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(tract_gradient(x, g, lam=0.1), expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(plain.bias.grad, g.sum(0))


def test_convolution_is_the_authors():
    plain = nn.Conv2d(2, 3, (3, 2), stride=2, padding=1, dtype=torch.float64)
    plain.weight.data = numbers(3, 2, 3, 2, phase=2.0)
    out = TrAct(plain)(numbers(2, 2, 5, 6, phase=0.2))
    (out * numbers(*out.shape, phase=1.1)).sum().backward()
    found = plain.weight.grad
    np.testing.assert_allclose(found.flatten()[::5], OFFICIAL_CONV, rtol=1e-9)
    assert found.norm().item() == pytest.approx(OFFICIAL_CONV_NORM, rel=1e-9)


@pytest.mark.parametrize("rows", [9, 4])
def test_it_is_the_least_squares_step(rows):
    """The stacked system [x / sqrt(b); sqrt(lam) I] D^T = [-eta b G / sqrt(b); 0] by numpy; D = -eta * the gradient."""
    x, g, lam, eta = numbers(rows, 6, phase=0.3), numbers(rows, 3, phase=1.3), 0.07, 0.2
    left = np.concatenate([x.numpy() / rows**0.5, lam**0.5 * np.eye(6)])
    right = np.concatenate([-eta * rows * g.numpy() / rows**0.5, np.zeros((6, 3))])
    step = np.linalg.lstsq(left, right, rcond=None)[0].T
    np.testing.assert_allclose(-eta * tract_gradient(x, g, lam=lam).numpy(), step, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("settings", [{"dilation": 2, "padding": "same"}, {"padding": "valid", "stride": (2, 1)}])
def test_a_convolution_is_a_linear_layer_of_patches(settings):
    plain = nn.Conv2d(2, 3, 3, bias=False, dtype=torch.float64, **settings)
    x = numbers(2, 2, 7, 6, phase=0.5)
    out = TrAct(plain, lam=0.3)(x)
    assert torch.equal(out, plain(x))
    g = numbers(*out.shape, phase=0.9)
    (out * g).sum().backward()
    padding = 2 if settings["padding"] == "same" else 0
    dilation, stride = settings.get("dilation", 1), settings.get("stride", 1)
    patches = F.unfold(x, 3, padding=padding, dilation=dilation, stride=stride).transpose(1, 2).flatten(0, 1)
    expected = tract_gradient(patches, g.flatten(2).transpose(1, 2).flatten(0, 1), lam=0.3)
    torch.testing.assert_close(plain.weight.grad.flatten(1), expected)


def test_contrast_does_not_matter_without_a_ridge():
    """Up to lam, activations move by -eta b G whatever the scale of the input; an ordinary step moves by its square."""
    x, g = numbers(4, 6, phase=0.1), numbers(4, 3, phase=0.8)
    for contrast in (1.0, 0.05):
        moved = contrast * x @ tract_gradient(contrast * x, g, lam=1e-10).T
        torch.testing.assert_close(moved, 4 * g, rtol=1e-4, atol=1e-6)


def test_a_large_ridge_is_ordinary_training():
    x, g = numbers(8, 5, phase=0.1), numbers(8, 2, phase=0.8)
    torch.testing.assert_close(1e9 * tract_gradient(x, g, lam=1e9), g.T @ x, rtol=1e-7, atol=1e-8)


def test_the_ordinary_gradient_is_another():
    """The ancestor: at the paper's lam and standardised inputs they are not even parallel."""
    x, g = numbers(8, 5, phase=0.1), numbers(8, 2, phase=0.8)
    cosine = F.cosine_similarity(tract_gradient(x, g).flatten(), (g.T @ x).flatten(), dim=0)
    assert cosine < 0.95


def test_parameters_output_and_other_gradients_are_those_of_the_layer():
    torch.manual_seed(0)
    plain = nn.Linear(5, 3)
    layer = TrAct(plain)
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias
    assert list(layer.state_dict()) == ["weight", "bias"]
    x = torch.randn(2, 4, 5, requires_grad=True)  # tokens: each is a row
    assert torch.equal(layer(x), plain(x))
    layer(x).square().mean().backward()
    found = [x.grad.clone(), plain.bias.grad.clone(), plain.weight.grad.clone()]
    x.grad = plain.bias.grad = plain.weight.grad = None
    out = plain(x)
    out.retain_grad()
    out.square().mean().backward()
    assert torch.equal(found[0], x.grad)
    assert torch.equal(found[1], plain.bias.grad)
    torch.testing.assert_close(found[2], tract_gradient(x.detach().flatten(0, 1), out.grad.flatten(0, 1)))
    with torch.no_grad():
        assert torch.equal(layer(x), plain(x))


def test_half_precision_is_solved_in_single():
    torch.manual_seed(0)
    plain = nn.Linear(12, 3)
    x = torch.randn(40, 12)
    TrAct(plain)(x).square().mean().backward()
    exact, plain.weight.grad = plain.weight.grad, None
    with torch.autocast("cpu", torch.bfloat16):
        out = TrAct(plain)(x)
    assert out.dtype == torch.bfloat16
    out.float().square().mean().backward()
    assert plain.weight.grad.dtype == torch.float32
    assert (plain.weight.grad - exact).norm() < 0.03 * exact.norm()  # bfloat16 keeps 8 bits: 0.4 % an entry


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler's own
def test_it_trains_with_any_optimizer_and_compiles(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the checks of the tests cannot be traced
    torch.manual_seed(0)
    network = nn.Sequential(TrAct(nn.Conv2d(1, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    x, y = torch.randn(16, 1, 6, 6), torch.arange(16) % 2
    traced = torch.compile(network, backend="aot_eager")
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(traced(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_gradient_cannot_be_differentiated_again():
    layer = TrAct(nn.Linear(3, 2))
    loss = layer(torch.randn(4, 3)).square().sum()
    (gradient,) = torch.autograd.grad(loss, layer.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiat"):
        gradient.sum().backward()


def test_what_is_refused():
    linear = nn.Linear(3, 2)
    for lam in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="lam"):
            TrAct(linear, lam=lam)
        with pytest.raises(ValueError, match="lam"):
            tract_gradient(torch.ones(2, 3), torch.ones(2, 1), lam=lam)
    with pytest.raises(TypeError, match=r"nn\.Linear or nn\.Conv2d: got Conv1d"):
        TrAct(nn.Conv1d(1, 1, 1))
    with pytest.raises(ValueError, match="groups=1: got 2"):
        TrAct(nn.Conv2d(2, 2, 1, groups=2))
    with pytest.raises(ValueError, match="zeros: got 'circular'"):
        TrAct(nn.Conv2d(2, 2, 1, padding_mode="circular"))
    with pytest.raises(ValueError, match="even kernel"):
        TrAct(nn.Conv2d(2, 2, 2, padding="same"))
    with pytest.raises(ValueError, match="x must be finite"):
        TrAct(linear)(torch.full((1, 3), torch.nan))
    with pytest.raises(ValueError, match="grad_out must be finite"):
        tract_gradient(torch.ones(2, 3), torch.full((2, 1), torch.inf))
