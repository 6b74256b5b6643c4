"""Angles and strengths of linear boundaries: direct distances, rotations, limits, what is refused."""

import math

import pytest
import torch

from assay.probes import (
    LinearBoundary,
    adversarial_strength,
    deviation_angle,
    distance,
    linear_boundary,
    nearest_adversarial,
    nearest_centroid,
    tilt,
)


def samples(n=300, d=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    centers = torch.randn(2, d, generator=generator, dtype=torch.float64) * 2
    return (centers[y] + torch.randn(n, d, generator=generator, dtype=torch.float64)).to(dtype), y


def rotated(x, y, degrees, offset):
    """A boundary at an angle to the nearest centroid's that crosses the line of the means at middle + offset."""
    b = nearest_centroid(x, y).normal
    aside = torch.linspace(-1, 1, len(b)).to(b)
    aside = aside - (aside @ b) * b
    normal = math.cos(math.radians(degrees)) * b + math.sin(math.radians(degrees)) * aside / aside.norm()
    middle = (x[y == 0].mean(0) + x[y == 1].mean(0)) / 2
    return LinearBoundary(normal, -float(normal @ (middle + offset * b)))


@pytest.mark.parametrize("degrees", [0.0, 30.0, 60.0, 85.0])
@pytest.mark.parametrize("share", [0.0, 0.2, -0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strength_is_the_ratio_of_distances(degrees, share, dtype):
    x, y = samples(dtype=dtype)
    zero, one = x[y == 0].mean(0), x[y == 1].mean(0)
    half = (one - zero).norm().item() / 2
    boundary = rotated(x, y, degrees, share * half)
    found = adversarial_strength(boundary, x, y)
    near = nearest_centroid(x, y)
    cos = math.cos(math.radians(degrees))
    rel = 2e-4 if dtype == torch.float32 else 1e-10  # 1 / cos of 85 degrees and 1 - 0.7 blow rounding up by fifty
    for strength, mean, side in ((found.class0, zero, 1), (found.class1, one, -1)):
        by_hand = abs(distance(near, mean[None])).item() / abs(distance(boundary, mean[None])).item()
        assert strength == pytest.approx(by_hand, rel=rel)
        assert strength == pytest.approx(1 / (cos * (1 + side * share)), rel=rel)
    assert found.mean == (found.class0 + found.class1) / 2
    assert found.angle == pytest.approx(math.radians(degrees), rel=rel, abs=1e-6 if dtype == torch.float32 else 1e-12)
    assert found.relative_offset == pytest.approx(share, abs=rel)
    assert deviation_angle(boundary, x, y) == found.angle


def test_the_nearest_centroid_decides_by_the_nearer_mean():
    x, y = samples()
    boundary = nearest_centroid(x, y)
    to = torch.cdist(x, torch.stack([x[y == 0].mean(0), x[y == 1].mean(0)]))
    assert torch.equal(distance(boundary, x) > 0, to[:, 1] < to[:, 0])
    assert boundary.normal.norm().item() == pytest.approx(1, rel=1e-12)
    assert adversarial_strength(boundary, x, y)[:3] == pytest.approx((1, 1, 1), rel=1e-12)


def test_the_nearest_adversarial_example_is_at_the_distance_and_across():
    x, _ = samples()
    boundary = linear_boundary(torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0, -1.0]).double(), 0.7)
    across, short = nearest_adversarial(boundary, x), nearest_adversarial(boundary, x, -1e-3)
    assert torch.equal(distance(boundary, across) > 0, distance(boundary, x) < 0)
    assert torch.equal(distance(boundary, short) > 0, distance(boundary, x) > 0)
    on = nearest_adversarial(boundary, x, 0.0)
    torch.testing.assert_close((on - x).norm(dim=1), distance(boundary, x).abs())
    away = (x[:, None] + torch.randn(300, 50, 6, generator=torch.Generator().manual_seed(1)).double()).flatten(0, 1)
    same = distance(boundary, away).abs() < 0.05  # no point of the boundary is nearer than the projection
    apart = (away.view(300, 50, 6) - x[:, None]).norm(dim=2).flatten()
    assert (apart[same] > distance(boundary, x).abs().repeat_interleave(50)[same] - 0.05).all()


def test_tilting_turns_the_normal_and_keeps_the_point():
    x, y = samples()
    boundary = rotated(x, y, 20.0, 0.1)
    direction = torch.linspace(1, 2, 6).double()
    z = direction - (direction @ boundary.normal) * boundary.normal
    z = z / z.norm()
    b = nearest_centroid(x, y).normal
    for degrees in (0.0, 10.0, 84.0):
        theta = math.radians(degrees)
        turned = tilt(boundary, direction, theta, through=x.mean(0))
        cosine = math.cos(theta) * float(boundary.normal @ b) + math.sin(theta) * float(z @ b)
        assert float(turned.normal @ b) == pytest.approx(cosine, rel=1e-10)
        assert float(turned.normal @ boundary.normal) == pytest.approx(math.cos(theta), rel=1e-10)
        pivot = x.mean(0) - distance(boundary, x.mean(0)[None]) * boundary.normal
        assert distance(turned, pivot[None]).abs().item() < 1e-12
    same = tilt(boundary, direction, 0.0)
    assert same.offset == pytest.approx(boundary.offset, rel=1e-12)


def test_tilting_along_a_flat_direction_is_free():
    """Two classes 4 apart along the first axis, spread 0.01 along the last and 1 along the middle one."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(2000) % 2
    x = torch.randn(2000, 3, generator=generator).double() * torch.tensor([1.0, 1.0, 0.01])
    x[:, 0] += 4.0 * y - 2
    boundary = linear_boundary(torch.tensor([1.0, 0.0, 0.0]).double())

    def accuracy(c):
        return ((distance(c, x) > 0) == (y == 1)).double().mean().item()

    flat, wide = (tilt(boundary, torch.eye(3)[k].double(), math.radians(85)) for k in (2, 1))
    assert accuracy(flat) == pytest.approx(accuracy(boundary), abs=0.02)
    assert distance(flat, x).abs().mean() < 0.1 * distance(boundary, x).abs().mean()
    assert accuracy(wide) < 0.65


def test_what_is_refused():
    x, y = samples()
    boundary = nearest_centroid(x, y)
    for call, name in (
        (lambda: linear_boundary(torch.zeros(3)), "weight"),
        (lambda: nearest_centroid(x, y * 0), "y must hold the classes 0 and 1"),
        (lambda: nearest_centroid(x, torch.arange(300) % 3), "y must hold the classes 0 and 1"),
        (lambda: nearest_centroid(x, y[:9]), "y must hold"),
        (lambda: nearest_centroid(torch.ones(300, 6), y), "different means"),
        (lambda: deviation_angle(boundary, x[:, :3], y), "x must be"),
        (lambda: adversarial_strength(LinearBoundary(boundary.normal, 1e3), x, y), "part the means"),
        (lambda: adversarial_strength(LinearBoundary(-boundary.normal, -boundary.offset), x, y), "part the means"),
        (lambda: nearest_adversarial(boundary, x, -1.0), "overshoot"),
        (lambda: tilt(boundary, torch.ones(3).double(), 0.1), "direction must be of shape"),
        (lambda: tilt(boundary, 2 * boundary.normal, 0.1), "along the normal"),
        (lambda: tilt(boundary, torch.zeros(6).double(), 0.1), "zero"),
        (lambda: tilt(boundary, x[0], math.pi / 2), "angle"),
        (lambda: tilt(boundary, x[0], -0.1), "angle"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
