"""Invariance to light: by hand, with rendered worlds, what is refused."""

import pytest
import torch

from assay.data.scenes import Camera, Light, random_scene, render
from assay.probes import illumination_invariance


def test_by_hand():
    z = torch.tensor([[2.0, 4.0], [1.0, 5.0]])
    shots = torch.stack([1.1 * z, 1.2 * z, 0.7 * z])
    found = illumination_invariance(lambda x: x, shots, z)
    assert found.error_by_light == pytest.approx([0.1, 0.2, 0.3], abs=1e-6)
    assert found.degradation == pytest.approx(2.5, rel=1e-5)
    assert found.invariance == pytest.approx((0.5 + 1 / 3) / 2, rel=1e-5)
    mean = z
    within = (z * torch.tensor([1.1, 1.2, 0.7]).std()).square().mean()
    assert found.spread == pytest.approx((within / mean.var()).item(), rel=1e-5)
    other = illumination_invariance(lambda x: x, shots, z, reference=2)
    assert other.degradation == pytest.approx(0.5, rel=1e-5)


def test_rendered_worlds():
    """What sees the scene alone is invariant, what sees colours is not, a constant is invariant and wrong."""
    generator = torch.Generator().manual_seed(0)
    camera = Camera(size=(16, 16), position=(0, 4, -4))
    lights = [Light(), Light(azimuth=2.5), Light(ambient=0.8)]
    scenes = [random_scene(generator) for _ in range(3)]
    views = [[render(scene, light, camera) for scene in scenes] for light in lights]
    depth = torch.stack([shot.depth.clamp_max(20) for shot in views[0]])
    shots = torch.stack([torch.stack([shot.rgb.mean(0) for shot in row]) for row in views])
    exact = illumination_invariance(lambda x: depth, shots, depth)
    assert (exact.spread, max(exact.error_by_light)) == (0.0, 0.0)
    naive = illumination_invariance(lambda x: 8 * x + 0.1, shots, depth)
    assert naive.spread > 0.05
    constant = illumination_invariance(lambda x: torch.full_like(depth, 5.0), shots, depth)
    assert constant.degradation == pytest.approx(1)
    assert constant.error_by_light[0] > 0.1


def test_what_is_refused():
    z = torch.ones(2, 3)
    for shots, truth, settings, name in (
        (torch.ones(1, 2, 3), z, {}, "shots"),
        (torch.ones(2, 4, 3), z, {}, "truth"),
        (torch.ones(2, 2, 3), 0 * z, {}, "positive"),
        (torch.ones(2, 2, 3), z, dict(reference=2), "reference"),
        (torch.ones(2, 2, 4), z, {}, "predict"),
    ):
        with pytest.raises(ValueError, match=name):
            illumination_invariance(lambda x: x, shots, truth, **settings)
