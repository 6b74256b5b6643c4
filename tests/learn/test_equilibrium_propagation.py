"""Equilibrium propagation: the authors' numbers, implicit differentiation, orders of the Cauchy sum, symmetry."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from assay.learn import (
    EquilibriumNet,
    EquilibriumPropagation,
    dsilu,
    gradient_cosine,
    jacobian_homeostasis,
    steep_sigmoid,
)
from assay.learn.equilibrium_net import ACTIVATIONS, SLOPES


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


# github.com/Laborieux-Axel/generalized-holo-ep (jax 0.4.30, flax 0.8.5, float64; complex64 replaced by complex128, and
# FrozenDicts by dicts, for that version of flax): mlp_discrete_vf 6-5-4-3 with a readout to 3, sigmoid, cross-entropy,
# the weights of `reference` below; fwd from 0 for 60 steps, then hep_vf with T = 30, beta = 0.3 and N points.
# N -> first three entries of the gradients of the weights of in-l1 and out-l2, and of the readout's.
OFFICIAL_LOGITS = [
    [0.38391735616405437, -0.024534741347855882, -0.1118482319693236],
    [0.37966600847930687, -0.0325826831839251, -0.09947094011260459],
]
OFFICIAL = {
    0: (
        [0.001210760118751425, 0.00037914285848541135, -0.000630791212396875],
        [-0.024507603328805316, -0.0041760092243188955, -0.015215958066435215],
    ),
    1: (
        [0.0008785253716034905, 7.875132021606173e-05, -0.0007580607075923035],
        [-0.021280059910583918, -0.00367017026114703, -0.013529086914416736],
    ),
    2: (
        [0.0012189542007621853, 0.0004225592293296294, -0.0005725719503267428],
        [-0.023561347615473873, -0.004019234465222786, -0.014660530158866201],
    ),
    4: (
        [0.0012096982824699133, 0.000377562019539364, -0.0006321475607498422],
        [-0.024568977284469513, -0.004185954010832838, -0.015250376598825745],
    ),
    5: (
        [0.0012102216200311116, 0.0003782204013210269, -0.0006316637819871293],
        [-0.02450569009701319, -0.004175709430368613, -0.015214958539605692],
    ),
}
OFFICIAL_READOUT = [-0.02039680015429244, -0.004225231433451952]


def reference():
    """Their network, and a batch for it."""
    net = EquilibriumNet((6, 5, 4, 3), num_classes=3).double()
    phases = [(net.feed[0], 0.2, 0.7), (net.feed[1], 0.3, 0.8), (net.feed[2], 0.5, 0.9), (net.readout, 1.0, 1.1)]
    with torch.no_grad():
        for layer, weight, bias in phases:
            layer.weight.copy_(0.5 * waves(layer.weight.shape, weight))
            layer.bias.copy_(0.1 * waves(layer.bias.shape, bias))
        for layer, weight in zip(net.back, (0.4, 0.6), strict=True):
            layer.weight.copy_(0.5 * waves(layer.weight.shape, weight))
    return net, waves((2, 6), 0.1), torch.tensor([2, 0])


def small(angle=0.0, seed=0, sizes=(6, 9, 7, 5), tracked=150, **settings):
    generator = torch.Generator().manual_seed(seed)
    net = EquilibriumNet(sizes, 4, angle=angle, tracked=tracked, generator=generator, **settings).double()
    x = torch.rand(8, sizes[0], generator=generator, dtype=torch.float64)
    return net, x, torch.randint(4, (8,), generator=generator)


def gradients(net, rule, x, y, loss=F.cross_entropy):
    net.zero_grad()
    rule(net, x, y, loss)
    return torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.parametrize("points", OFFICIAL)
def test_gradients_are_the_authors(points):
    net, x, y = reference()
    torch.testing.assert_close(
        net.logits(net.settle(x, steps=60)), torch.tensor(OFFICIAL_LOGITS, dtype=torch.float64), rtol=1e-9, atol=0
    )
    rule = EquilibriumPropagation(beta=0.3, points=points, free_steps=60, nudge_steps=30)
    rule(net, x, y, F.cross_entropy)
    first, feedback = OFFICIAL[points]
    np.testing.assert_allclose(net.feed[0].weight.grad.flatten()[:3], first, rtol=1e-8)
    np.testing.assert_allclose(net.back[1].weight.grad.flatten()[:3], feedback, rtol=1e-8)
    np.testing.assert_allclose(net.readout.weight.grad.flatten()[:2], OFFICIAL_READOUT, rtol=1e-8)


def implicit(net, x, y, transpose):
    """Gradient of the mean loss of the resting state by solving (I - J D) or its transpose for every example."""
    u = net.settle(x, steps=400)
    flat = torch.cat(u, 1)
    act, slope = ACTIVATIONS[net.activation], SLOPES[net.activation]
    j = net.jacobian().detach()
    s = [act(each) for each in u]
    top = s[-1].detach().requires_grad_()
    (push,) = torch.autograd.grad(F.cross_entropy(F.linear(top, net.readout.weight, net.readout.bias), y), top)
    e = torch.zeros_like(flat)
    e[:, -push.shape[1] :] = push
    changes = []
    for row in range(len(x)):
        d = torch.diag(slope(flat[row]))
        if transpose:  # dL/du = D (I - J^T D)^-1 e
            changes.append(d @ torch.linalg.solve(torch.eye(len(d)).double() - j.T @ d, e[row]))
        else:  # ds/dbeta = D (I - J D)^-1 e
            changes.append(d @ torch.linalg.solve(torch.eye(len(d)).double() - j @ d, e[row]))
    change = torch.stack(changes).detach().split([layer.out_features for layer in net.feed], 1)
    net.zero_grad()
    driven = net.drive([each.detach() for each in s], x)
    total = sum((a * b).sum() for a, b in zip(change, driven, strict=True))
    (total + F.cross_entropy(F.linear(s[-1].detach(), net.readout.weight, net.readout.bias), y)).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.parametrize("angle", [0.0, 40.0, 90.0])
def test_no_points_is_the_exact_response_and_backpropagation_its_transpose(angle):
    net, x, y = small(angle)
    found = gradients(net, EquilibriumPropagation(points=0, free_steps=400, nudge_steps=400), x, y)
    torch.testing.assert_close(found, implicit(net, x, y, transpose=False), rtol=1e-8, atol=1e-12)
    net.zero_grad()
    F.cross_entropy(net(x), y).backward()
    through = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(through, implicit(net, x, y, transpose=True), rtol=1e-8, atol=1e-12)


def test_asymmetry_alone_is_the_bias():
    """One transposition: at angle 0 it makes no difference, at 90 degrees it does."""
    cosines = []
    for angle in (0.0, 90.0):
        net, x, y = small(angle)
        rule = EquilibriumPropagation(points=0, free_steps=300, nudge_steps=300)
        cosines.append(gradient_cosine(net, rule, x, y, F.cross_entropy)["feed.0.weight"])
    assert cosines[0] > 1 - 1e-9
    assert cosines[1] < 0.9


@pytest.mark.parametrize("points", [1, 2, 4, 6])
def test_the_error_falls_as_beta_to_the_points(points):
    """Halving beta divides it by 2^N (by 2 for a one-sided difference)."""
    net, x, y = small(30.0)
    u = net.settle(x, steps=400)
    exact = EquilibriumPropagation(points=0, nudge_steps=400).response(net, x, y, F.cross_entropy, u)
    errors = []
    for beta in (0.06, 0.03):
        rule = EquilibriumPropagation(beta=beta, points=points, nudge_steps=400)
        found = rule.response(net, x, y, F.cross_entropy, u)
        errors.append(torch.cat([a - b for a, b in zip(found, exact, strict=True)], 1).norm().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(points, abs=0.3)


@pytest.mark.parametrize("points", [3, 4])
def test_complex_slopes_of_the_mean_squared_error(points):
    """They continue the real ones: the sum agrees with the exact response to its order, for a quadratic loss too."""
    net, x, _ = small(30.0)
    y = waves((8, 4), 0.3)
    u = net.settle(x, steps=400)
    exact = EquilibriumPropagation(points=0, nudge_steps=400).response(net, x, y, F.mse_loss, u)
    found = EquilibriumPropagation(beta=1e-2, points=points, nudge_steps=400).response(net, x, y, F.mse_loss, u)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_the_activations_derivatives(name):
    z = waves((12,), 0.2).mul(3).requires_grad_()
    (exact,) = torch.autograd.grad(ACTIVATIONS[name](z).sum(), z)
    torch.testing.assert_close(SLOPES[name](z), exact, rtol=1e-12, atol=1e-14)


def test_activations_are_the_authors():
    """Their formulas, typed out: 1 / (1 + exp(-4z + 2)), and dsilu with two exponentials."""
    z = waves((12,), 0.2) * 3
    torch.testing.assert_close(steep_sigmoid(z), 1 / (1 + torch.exp(-4 * z + 2)))
    torch.testing.assert_close(dsilu(z), 0.5 * z / (1 + torch.exp(-z)) + (1 - 0.5 * z) / (1 + torch.exp(-(z - 2))))


def test_jacobian_is_that_of_the_drive():
    net, x, _ = small(50.0)
    s = torch.cat(net.settle(x, steps=50), 1)[:1]
    sizes = [layer.out_features for layer in net.feed]

    def drive(flat):
        return torch.cat(net.drive(list(flat.split(sizes, 1)), x[:1]), 1)[0]

    exact = torch.autograd.functional.jacobian(drive, s)[:, 0]
    torch.testing.assert_close(net.jacobian(), exact)
    even, odd = (exact + exact.T).norm() / 2, (exact - exact.T).norm() / 2
    assert net.symmetry() == pytest.approx((even / (even + odd)).item())


def test_homeostasis_is_the_antisymmetric_part():
    net, _, _ = small(70.0)
    j = net.jacobian().detach()
    exact = (j - j.T).square().sum() / (2 * len(j))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([jacobian_homeostasis(net, 50, probes=1, generator=generator).detach() for _ in range(400)])
    assert (draws.mean() - exact).abs() < 4 * draws.std() / math.sqrt(len(draws))
    # And its gradient drives J to symmetry, where that of |J|^2 alone would drive it to 0.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    before = j.norm()
    for _ in range(300):
        optimizer.zero_grad()
        jacobian_homeostasis(net, 20, generator=generator).backward()
        optimizer.step()
    assert net.symmetry() > 0.97
    assert net.jacobian().norm() > 0.3 * before


def test_homeostasis_adds_its_gradient_and_nothing_else():
    net, x, y = small(70.0)
    plain = gradients(net, EquilibriumPropagation(points=0), x, y)
    generator = torch.Generator().manual_seed(1)
    both = gradients(net, EquilibriumPropagation(points=0, homeostasis=0.5, generator=generator), x, y)
    net.zero_grad()
    jacobian_homeostasis(net, len(x), generator=torch.Generator().manual_seed(1)).mul(0.5).backward()
    extra = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(both, plain + extra)


def test_angle_and_initial_weights():
    tied, _, _ = small(0.0)
    assert all(torch.equal(b.weight, f.weight.T) for b, f in zip(tied.back, tied.feed[1:], strict=True))
    wide = EquilibriumNet((10, 400, 300), angle=60.0, generator=torch.Generator().manual_seed(0))
    a, b = wide.back[0].weight.flatten(), wide.feed[1].weight.T.flatten()
    # cos 60 W + sin 60 R; R is scaled by its own fan in (300), W by 400.
    expected = 0.5 / math.sqrt(0.25 + 0.75 * 400 / 300)
    assert F.cosine_similarity(a, b, dim=0).item() == pytest.approx(expected, abs=4 / math.sqrt(len(a)))


def test_what_has_not_settled_says_so():
    net, x, _ = small()
    net.settle(x, steps=3)
    early = net.residual.item()
    net.settle(x, steps=300)
    assert early > 1e-3
    assert net.residual.item() < 1e-12


def test_it_learns_with_any_optimizer():
    net, x, y = small(90.0)
    rule = EquilibriumPropagation(points=2, beta=0.3, homeostasis=0.1, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(rule(net, x, y, F.cross_entropy).item())
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(beta=0.0), "beta"),
        (dict(points=-1), "points"),
        (dict(free_steps=0), "free_steps"),
        (dict(nudge_steps=0), "nudge_steps"),
        (dict(probes=0), "probes"),
        (dict(homeostasis=-1.0), "homeostasis"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        EquilibriumPropagation(**settings)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(sizes=(4,)), "sizes"),
        (dict(sizes=(4, 0)), "sizes"),
        (dict(num_classes=0), "num_classes"),
        (dict(activation="relu"), "holomorphic"),
        (dict(angle=91.0), "angle"),
        (dict(steps=0), "steps"),
        (dict(steps=5, tracked=6), "tracked"),
    ],
)
def test_refused_networks(settings, name):
    with pytest.raises(ValueError, match=name):
        EquilibriumNet(**settings)


def test_refused_models_and_losses():
    net, x, y = small()
    with pytest.raises(TypeError, match="EquilibriumNet"):
        EquilibriumPropagation()(torch.nn.Linear(6, 4), x, y, F.cross_entropy)
    with pytest.raises(ValueError, match="loss"):
        EquilibriumPropagation(points=4)(net, x, y, lambda out, target: F.cross_entropy(out, target))
    with pytest.raises(ValueError, match="samples"):
        jacobian_homeostasis(net, 0)
