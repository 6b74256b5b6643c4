"""Facets: denoising to its optimum, climbing step by step, starts that are blobs' means; what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.probes import MultifacetedVisualization, Octave, facet_starts, maximize_activation, tv_denoise


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def variation(u):
    down, right = F.pad(u.diff(dim=2), (0, 0, 0, 1)), F.pad(u.diff(dim=3), (0, 1))
    return (down.square() + right.square()).sum(1).sqrt().sum().item()


def test_denoising_is_the_minimum():
    """No worse than gradient descent on a smoothed problem, and than any small change."""
    f, weight = noise(1, 2, 5, 6), 3.0

    def energy(u):
        return variation(u) + weight / 2 * (u - f).square().sum().item()

    u = tv_denoise(f, weight, iterations=1000)
    least = energy(u)
    for seed in range(20):
        for size in (1e-2, 1e-4):
            assert energy(u + size * (noise(*f.shape, seed=seed) - 0.5)) >= least - 1e-6
    x = f.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=1e-2)
    for step in range(1200):
        if step == 800:
            optimizer.param_groups[0]["lr"] = 1e-3
        down, right = F.pad(x.diff(dim=2), (0, 0, 0, 1)), F.pad(x.diff(dim=3), (0, 1))
        loss = ((down.square() + right.square()).sum(1) + 1e-8).sqrt().sum() + weight / 2 * (x - f).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert least <= energy(x.detach()) + 1e-6
    assert energy(x.detach()) - least < 0.05 * (energy(f) - least)


def test_much_and_no_denoising():
    f = noise(3, 1, 6, 6)
    torch.testing.assert_close(tv_denoise(f, 1e8), f, atol=1e-6, rtol=0)
    flat = tv_denoise(f, 1e-2, iterations=3000)
    torch.testing.assert_close(flat, f.mean((2, 3), keepdim=True).expand_as(f), atol=1e-3, rtol=0)
    torch.testing.assert_close(tv_denoise(f, 2.0).mean((2, 3)), f.mean((2, 3)))
    torch.testing.assert_close(tv_denoise(f, 2.0)[1:2], tv_denoise(f[1:2], 2.0))
    torch.testing.assert_close(tv_denoise(f.float(), 2.0).double(), tv_denoise(f, 2.0), atol=1e-5, rtol=0)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)).double()


def test_steps_by_hand():
    """Two octaves without enlarging: gradient over its mean size, clipped, denoised, step and weight in between."""
    model, start = network(), noise(2, 1, 6, 6)
    octaves = [Octave(3, (0.04, 0.01), (5.0, 20.0)), Octave(2, (0.02, 0.02), (9.0, 9.0), margin=2)]
    x = start.clone()
    for size, weight, margin in ((0.04, 5, 0), (0.03, 10, 0), (0.02, 15, 0), (0.02, 9, 2), (0.02, 9, 2)):
        for n in range(2):
            crop = x[n : n + 1].clone().requires_grad_()
            (g,) = torch.autograd.grad(model(crop)[0, 1], crop)
            mask = torch.zeros(6, 6, dtype=torch.float64)
            mask[margin : 6 - margin, margin : 6 - margin] = 1
            g = g * mask
            x[n : n + 1] = tv_denoise((crop.detach() + size * g / g.abs().mean()).clamp(0, 1), weight)
    torch.testing.assert_close(maximize_activation(model, 1, start, octaves=octaves), x, atol=1e-9, rtol=0)


def test_a_linear_unit_in_a_box():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
    plain = [Octave(60, (0.06, 0.06), (1e9, 1e9))]
    for low, high in ((0.0, 1.0), (-2.0, 3.0)):
        start = low + (high - low) * noise(3, 1, 6, 6)
        found = maximize_activation(model, 1, start, octaves=plain, range=(low, high))
        best = torch.where(model[1].weight[1] > 0, high, low).view(1, 1, 6, 6)
        sure = (model[1].weight[1].abs() > 0.02).view(1, 1, 6, 6).expand(3, -1, -1, -1)
        torch.testing.assert_close(found[sure], best.expand(3, -1, -1, -1)[sure].double(), atol=1e-5, rtol=0)


def test_the_scale_of_a_unit_does_not_matter():
    model, start = network(), noise(2, 1, 6, 6)
    before = maximize_activation(model, 1, start, octaves=[Octave(3, (0.02, 0.02), (5.0, 5.0))])
    model[3].weight.data *= 7
    torch.testing.assert_close(
        maximize_activation(model, 1, start, octaves=[Octave(3, (0.02, 0.02), (5.0, 5.0))]), before
    )


def test_the_middle_of_a_channel():
    """Only what the middle position of a convolution sees is changed."""
    model, start = network(), noise(1, 1, 6, 6)
    found = maximize_activation(model, 2, start, layer="0", octaves=[Octave(1, (0.01, 0.01), (1e9, 1e9))])
    changed = ((found - start).abs() > 1e-6)[0, 0]
    assert changed[2:5, 2:5].all()
    assert changed.sum() == 9


def test_enlarged_octaves():
    model, start = network(), noise(3, 1, 6, 6)
    octaves = [Octave(2, (0.02, 0.02), (8.0, 8.0)), Octave(30, (0.02, 0.02), (1e3, 1e3), scale=1.5)]
    one, two = (
        maximize_activation(model, 1, start, octaves=octaves, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(one, two)
    assert one.shape == start.shape
    assert (model(one)[:, 1] > model(start)[:, 1]).all()
    assert 0 <= one.min() <= one.max() <= 1


def test_models_are_left_as_they_were():
    model = network().train()
    before = [p.clone() for p in model.parameters()]
    maximize_activation(model, 1, noise(1, 1, 6, 6), octaves=[Octave(2, (0.02, 0.02), (5.0, 5.0))])
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def blobs():
    """Two kinds of images, dark with a bright left and with a bright right half."""
    kinds = torch.arange(40) % 2
    images = 0.1 * noise(40, 1, 4, 4)
    images[kinds == 0, :, :, :2] += 0.8
    images[kinds == 1, :, :, 2:] += 0.8
    return images, kinds


def test_starts_are_the_means_of_kinds():
    images, kinds = blobs()
    model = nn.Sequential(nn.Flatten(), nn.Identity())
    starts, found = facet_starts(model, images, code_layer="1", facets=2, nearest=40)
    assert torch.equal(found[:, None] == found, kinds[:, None] == kinds)
    for kind in (0, 1):
        label = found[kinds == kind][0]
        torch.testing.assert_close(starts[label], images[kinds == kind].mean(0))
    near, _ = facet_starts(model, images, code_layer="1", facets=2, nearest=1)
    assert all(any(torch.allclose(start, image) for image in images) for start in near)
    whole, _ = facet_starts(model, images, code_layer="1", facets=1, nearest=40)
    torch.testing.assert_close(whole[0], images.mean(0))


def test_a_picture_for_each_kind():
    """A unit that fires for either half: from its facets' starts each picture has one bright half."""
    images, _ = blobs()

    class Either(nn.Module):
        def forward(self, x):
            left, right = x[..., :2].mean((1, 2, 3)), x[..., 2:].mean((1, 2, 3))
            return torch.stack([torch.maximum(left - right, right - left), left], 1)

    model = nn.Sequential(nn.Identity(), Either())
    octaves = [Octave(20, (0.02, 0.02), (50.0, 50.0))]
    pictures = MultifacetedVisualization(model, "0", facets=2, nearest=10, octaves=octaves)(0, images)
    sides = torch.sign(pictures[..., :2].mean((1, 2, 3)) - pictures[..., 2:].mean((1, 2, 3)))
    assert sorted(sides.tolist()) == [-1, 1]
    assert model(pictures)[:, 0].min() > model(images)[:, 0].max()


def test_what_is_refused(monkeypatch):
    model, start = network(), noise(2, 1, 6, 6)
    with pytest.raises(ValueError, match="weight must be above 0"):
        tv_denoise(start, 0.0)
    with pytest.raises(ValueError, match="iterations must be at least 1: got 0"):
        tv_denoise(start, 1.0, iterations=0)
    with pytest.raises(ValueError, match=r"start must lie in 0.0..1.0"):
        maximize_activation(model, 0, start + 0.5)
    with pytest.raises(ValueError, match=r"start must be \(n, c, h, w\)"):
        maximize_activation(model, 0, start[:0])
    with pytest.raises(ValueError, match=r"unit must lie in 0..2: got 3"):
        maximize_activation(model, 3, start)
    for octaves in ([], [Octave(0, (1, 1), (1, 1))], [Octave(1, (1, 1), (1, 1), scale=0.5)]):
        with pytest.raises(ValueError, match="octaves must be at least one"):
            maximize_activation(model, 0, start, octaves=octaves)
    with pytest.raises(ValueError, match="margin must leave some"):
        maximize_activation(model, 0, start, octaves=[Octave(1, (0.1, 0.1), (1, 1), margin=3)])
    for settings in (dict(facets=0), dict(nearest=0), dict(pca=0)):
        with pytest.raises(ValueError, match="must be at least 1: got 0"):
            facet_starts(model, noise(20, 1, 6, 6), code_layer="2", **settings)
    with pytest.raises(ValueError, match="images must be at least 10: got 9"):
        facet_starts(model, noise(9, 1, 6, 6), code_layer="2")
    everything_one = lambda plane, facets, generator: torch.zeros(len(plane), dtype=torch.long)  # noqa: E731
    monkeypatch.setattr("assay.probes.multifaceted_visualization.k_means", everything_one)
    with pytest.raises(ValueError, match="of 3 kinds some stay empty"):
        facet_starts(model, noise(9, 1, 6, 6), code_layer="2", facets=3)
