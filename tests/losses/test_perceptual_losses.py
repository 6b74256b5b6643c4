"""Gram matrices and feature losses by hand, their invariances, and images found by optimization."""

import math

import pytest
import torch

from assay.losses import (
    FeatureReconstructionLoss,
    FrozenFeatures,
    GramStyleLoss,
    TotalVariation,
    gram_matrix,
    style_objective,
    stylize_by_optimization,
)


def images(n=2, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gram_by_hand():
    x = images()
    found = gram_matrix(x)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                expected = (x[b, i] * x[b, j]).sum().item() / (3 * 16 * 16)
                assert found[b, i, j].item() == pytest.approx(expected, rel=1e-12)
    assert torch.linalg.eigvalsh(found).min() > -1e-12
    shuffled = x.flatten(2)[:, :, torch.randperm(256)].view_as(x)
    torch.testing.assert_close(gram_matrix(shuffled), found)
    c = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    constant = c.view(1, 3, 1, 1).expand(1, 3, 4, 5)
    torch.testing.assert_close(gram_matrix(constant)[0], torch.outer(c, c) / 3)


def test_feature_loss_by_hand():
    network, x, y = FrozenFeatures().double(), images(seed=0), images(seed=1)
    expected = 0.0
    for name in ("relu1", "relu3"):
        a, b = (network(each, [name])[name] for each in (x, y))
        expected += sum(((a[i] - b[i]) ** 2).sum().item() / a[i].numel() for i in range(2)) / 2
    found = FeatureReconstructionLoss(network, layers=("relu1", "relu3"))(x, y)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_style_loss_by_hand():
    network, x, style = FrozenFeatures().double(), images(seed=0), images(1, 24, seed=1)
    expected = 0.0
    for name in ("relu1", "relu2"):
        a, s = (gram_matrix(network(each, [name])[name]) for each in (x, style))
        expected += sum(((a[i] - s[0]) ** 2).sum().item() for i in range(2)) / 2
    found = GramStyleLoss(network, style=style, layers=("relu1", "relu2"))(x)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_style_does_not_see_places_and_content_does():
    """The ancestor of Gram matrices is comparing features place by place."""
    x = images(1)
    moved = x.roll((4, 8), (2, 3))
    features = FrozenFeatures().double()
    style, content = GramStyleLoss(features, style=x), FeatureReconstructionLoss(features)
    assert style(moved) < 0.2 * style(images(1, seed=5) * 0.5)
    assert content(moved, x) > 0.5 * content(images(1, seed=5), x)
    assert style(x).item() < 1e-20
    assert content(x, x).item() == 0


def test_gradients_reach_the_image_and_nothing_else():
    x = images(1).requires_grad_()
    features = FrozenFeatures().double()
    total = GramStyleLoss(features, style=images(1, seed=1))(x) + FeatureReconstructionLoss(features)(x, images(1))
    total.backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in features.parameters())


def test_finite_differences_of_the_style_loss():
    loss = GramStyleLoss(FrozenFeatures().double(), style=images(1, seed=1))
    x, v = images(1).requires_grad_(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    v /= v.norm()
    (slope,) = torch.autograd.grad(loss(x), x)
    with torch.no_grad():
        difference = (loss(x + 1e-5 * v) - loss(x - 1e-5 * v)) / 2e-5
    assert difference.item() == pytest.approx((slope * v).sum().item(), rel=1e-5)


def test_total_variation_in_closed_form():
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    ramp = (2 * rows - 3 * columns).expand(2, 3, 5, 7)
    assert TotalVariation()(ramp).item() == 3 * (4 * 7 * 4 + 5 * 6 * 9)
    assert TotalVariation(power=1)(ramp).item() == 3 * (4 * 7 * 2 + 5 * 6 * 3)
    assert TotalVariation()(torch.ones(1, 1, 4, 4)).item() == 0


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_the_objective_falls(optimizer):
    content = images(1, 16).float()
    losses = {
        "content": FeatureReconstructionLoss(),
        "style": GramStyleLoss(style=images(1, 16, seed=1).float()),
        "variation": TotalVariation(),
    }
    objective = style_objective(content, losses, weights={"content": 1.0, "style": 50.0, "variation": 1e-4})
    expected = losses["content"](content, content) + 50 * losses["style"](content) + 1e-4 * losses["variation"](content)
    torch.testing.assert_close(objective(content), expected)
    seen = []
    image, curve = stylize_by_optimization(
        content, objective, steps=15, optimizer=optimizer, callback=lambda step, value: seen.append((step, value))
    )
    assert curve[0].item() == pytest.approx(objective(content).item(), rel=1e-5)
    assert curve[-1] < 0.9 * curve[0]
    assert [step for step, _ in seen] == list(range(15))
    assert 0 <= image.min() <= image.max() <= 1
    if optimizer == "lbfgs":
        assert (curve.diff() <= 1e-6).all()  # a line search never climbs


def test_what_is_refused():
    x = images(1)
    with pytest.raises(ValueError, match=r"features must be \(n, c, h, w\)"):
        gram_matrix(torch.zeros(1, 0, 2, 2))
    for make in (
        lambda: FeatureReconstructionLoss(layers=("relu9",)),
        lambda: GramStyleLoss(style=x, layers=("relu9",)),
    ):
        with pytest.raises(ValueError, match="relu1, relu2, relu3: got 'relu9'"):
            make()
    with pytest.raises(ValueError, match="one shape"):
        FeatureReconstructionLoss(FrozenFeatures().double())(x, x[..., :8])
    with pytest.raises(ValueError, match="output must be finite"):
        FeatureReconstructionLoss(FrozenFeatures().double())(x * math.nan, x)
    with pytest.raises(ValueError, match="style must be one image"):
        GramStyleLoss(style=images(2))
    with pytest.raises(ValueError, match="power"):
        TotalVariation(power=3)
    with pytest.raises(ValueError, match=r"x must be \(n, c, h, w\)"):
        TotalVariation()(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="steps"):
        stylize_by_optimization(x, lambda x: x.sum(), steps=0)
    with pytest.raises(ValueError, match="'lbfgs' or 'adam': got 'sgd'"):
        stylize_by_optimization(x, lambda x: x.sum(), optimizer="sgd")
    with pytest.raises(ValueError, match="objective must be finite"):
        stylize_by_optimization(x, lambda x: x.sum() * math.nan, optimizer="adam", steps=1)
    variation = {"variation": TotalVariation()}
    with pytest.raises(ValueError, match="same names"):
        style_objective(x, variation, weights={"style": 1.0})
    with pytest.raises(ValueError, match="weights must be finite"):
        style_objective(x, variation, weights={"variation": -1.0})
