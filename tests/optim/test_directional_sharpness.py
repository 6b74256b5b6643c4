"""Coordinate clipping against its definition by sorting, and what it does to a step."""

import math

import pytest
import torch

from assay.optim import CoordinateClipped, coordinate_clip


def numbers(*shape, phase):
    """Generic values, no two alike, of both signs."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (torch.sin(1.7 * i + phase) + 0.3 * torch.cos(0.37 * i * i + phase)).reshape(shape)


GRADIENTS = [numbers(5, 4, phase=0.3), 3 * numbers(7, phase=1.1), 0.1 * numbers(2, 2, 2, phase=2.0)]


def by_hand(values, fraction):
    """One number after the other, with the threshold found by sorting."""
    magnitudes = sorted((abs(v) for v in values), reverse=True)
    threshold = magnitudes[min(math.floor(fraction * len(values)), len(values) - 1)]
    return [math.copysign(min(abs(v), threshold), v) for v in values]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.37, 0.5, 1.0])
def test_all_entries_share_one_threshold(fraction):
    flat = [v for g in GRADIENTS for v in g.flatten().tolist()]
    found = coordinate_clip(GRADIENTS, fraction)
    assert [v for g in found for v in g.flatten().tolist()] == by_hand(flat, fraction)
    assert [g.shape for g in found] == [g.shape for g in GRADIENTS]
    changed = sum((a != b).sum().item() for a, b in zip(found, GRADIENTS, strict=True))
    assert changed == min(math.floor(fraction * len(flat)), len(flat) - 1)


def test_or_each_tensor_has_its_own():
    for g, found in zip(GRADIENTS, coordinate_clip(GRADIENTS, 0.3, per_tensor=True), strict=True):
        assert found.flatten().tolist() == by_hand(g.flatten().tolist(), 0.3)


def test_its_ends_are_the_identity_and_signs():
    for a, b in zip(coordinate_clip(GRADIENTS, 1e-9), GRADIENTS, strict=True):
        assert torch.equal(a, b)
    least = min(g.abs().min() for g in GRADIENTS)
    for a, b in zip(coordinate_clip(GRADIENTS, 1.0), GRADIENTS, strict=True):
        assert torch.equal(a, b.sign() * least)


def test_nothing_is_clipped_that_is_not_there():
    assert coordinate_clip([], 0.1) == []
    assert coordinate_clip([torch.zeros(0)], 0.1)[0].shape == (0,)


def moved(clip, steps=3):
    """Where SGD with momentum gets to, by the class, and step by step."""
    weight = torch.nn.Parameter(numbers(6, phase=0.0))
    optimizer = CoordinateClipped(torch.optim.SGD([weight], lr=0.2, momentum=0.9), fraction=0.4, clip=clip)
    by_steps, buffer = numbers(6, phase=0.0), torch.zeros(6, dtype=torch.float64)
    for t in range(steps):
        g = numbers(6, phase=1.0 + t)
        weight.grad = g.clone()
        optimizer.step()
        if clip == "gradient":
            buffer = 0.9 * buffer + coordinate_clip([g], 0.4)[0]
            by_steps = by_steps - 0.2 * buffer
        else:
            buffer = 0.9 * buffer + g
            by_steps = by_steps + coordinate_clip([-0.2 * buffer], 0.4)[0]
    return weight.detach(), by_steps


@pytest.mark.parametrize("clip", ["gradient", "update"])
def test_three_steps_by_hand(clip):
    found, expected = moved(clip)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_gradients_and_updates_are_not_the_same_thing():
    assert (moved("gradient")[0] - moved("update")[0]).abs().max() > 1e-3


def test_the_whole_argument_on_a_quadratic():
    """A = diag(1000, 1, ..., 1): the gradient's direction has sharpness near 1000, the clipped one's 1000 / n."""
    n = 50
    diagonal = torch.ones(n, dtype=torch.float64)
    diagonal[0] = 1000.0
    g = diagonal * (0.5 + torch.arange(n, dtype=torch.float64) % 3)

    def sharpness(v):
        return (diagonal * v * v).sum() / (v * v).sum()

    (clipped,) = coordinate_clip([g], 1 / n)
    assert sharpness(g) > 990
    assert sharpness(clipped) < 100
    (signs,) = coordinate_clip([g], 1.0)
    torch.testing.assert_close(sharpness(signs), torch.tensor((1000.0 + n - 1) / n, dtype=torch.float64))


def test_the_ancestor_takes_the_large_coordinate_whole():
    weight, other = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
    clipped = CoordinateClipped(torch.optim.SGD([weight], lr=1.0), fraction=0.25)
    plain = torch.optim.SGD([other], lr=1.0)
    for p in (weight, other):
        p.grad = torch.tensor([100.0, -2.0, 1.0, 0.5])
    clipped.step()
    plain.step()
    assert weight.tolist() == [-2.0, 2.0, -1.0, -0.5]
    assert other.tolist() == [-100.0, 2.0, -1.0, -0.5]


def test_what_is_refused():
    weight = torch.nn.Parameter(torch.ones(2))
    inner = torch.optim.SGD([weight], lr=0.1)
    for fraction in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            coordinate_clip(GRADIENTS, fraction)
        with pytest.raises(ValueError, match="fraction"):
            CoordinateClipped(inner, fraction=fraction)
    with pytest.raises(ValueError, match="gradients must be finite"):
        coordinate_clip([torch.tensor([1.0, float("nan")])], 0.1)
    weight.grad = torch.tensor([1.0, float("inf")])
    with pytest.raises(ValueError, match="gradients must be finite"):
        CoordinateClipped(inner).step()
    with pytest.raises(ValueError, match="'gradient' or 'update': got 'both'"):
        CoordinateClipped(inner, clip="both")
