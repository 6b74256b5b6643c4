"""Relighting: what one light has in common with another, ranges, the same seed, what is refused."""

import math

import pytest
import torch

from assay.data import relight
from assay.data.relight import _decode, _encode


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def factors(seed, strength=1.0, size=40):
    """What linear light is multiplied by, up to the power of the tone curve: dim grey, so that nothing is cut."""
    grey = torch.full((3, size, size), 0.25)
    return relight(grey, strength, seeded(seed))


@pytest.mark.parametrize("seed", range(4))
def test_pixel_by_pixel(seed):
    """The same draws in the same order, one pixel at a time, by the words of the docstring."""
    image, strength = 0.1 + 0.8 * torch.rand(3, 6, 9, generator=seeded(9)), 1.3
    generator = seeded(seed)

    def uniform(low, high):
        return low + (high - low) * torch.rand((), generator=generator).item()

    gain, channel = uniform(0.4, 1.6), [uniform(0.7, 1.3) for _ in range(3)]
    waves = int(torch.randint(3, 6, (), generator=generator))
    turns, cycles, phases = ([uniform(0, high) for _ in range(waves)] for high in (2 * math.pi, 3.0, 2 * math.pi))
    shadows = []
    for _ in range(int(torch.randint(1, 4, (), generator=generator))):
        shadows.append(tuple(uniform(*each) for each in ((0, 2 * math.pi), (0.2, 0.6), (0.5, 3.0), (0, 9), (0, 6))))
    power = uniform(0.7, 1.4) ** strength
    noise = 0.01 * torch.randn(3, 6, 9, generator=generator)
    expected = torch.zeros(3, 6, 9)
    for c in range(3):
        for row in range(6):
            for col in range(9):
                y, x = row + 0.5, col + 0.5
                angles = zip(turns, cycles, phases, strict=True)
                shade = [
                    math.cos(2 * math.pi * k * (x / 9 * math.cos(a) + y / 6 * math.sin(a)) + p) for a, k, p in angles
                ]
                light = gain * channel[c] * (1 + 0.5 * sum(shade) / waves)
                for angle, through, soft, x0, y0 in shadows:
                    depth = 1.702 * ((x - x0) * math.cos(angle) + (y - y0) * math.sin(angle)) / soft
                    light *= 1 - (1 - through * (0.95, 1.0, 1.1)[c]) / (1 + math.exp(-depth))
                value = image[c, row, col].item()
                linear = value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
                linear *= light**strength
                value = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
                expected[c, row, col] = min(1, max(0, min(1, max(0, value)) ** power + noise[c, row, col].item()))
    torch.testing.assert_close(relight(image, strength, seeded(seed)), expected, rtol=0, atol=1e-5)


def test_strength_nothing_leaves_noise_alone():
    image = 0.2 + 0.6 * torch.rand(3, 50, 50, generator=seeded(1))
    off = relight(image, 0.0, seeded()) - image
    # 7,500 draws: the deviation is known to 0.01 / sqrt(15,000), here with four of those to each side.
    assert off.std().item() == pytest.approx(0.01, abs=4 * 0.01 / 15_000**0.5)
    assert off.mean().abs().item() < 4 * 0.01 / 7_500**0.5


def test_transfer_curves_are_those_of_srgb():
    """Literal values of IEC 61966-2-1: encoded 0.5 is 0.214041, and the curve's two ends meet."""
    x = torch.tensor([0.0, 0.02, 0.04045, 0.5, 1.0]).double()
    assert _decode(x).tolist() == pytest.approx([0.0, 0.02 / 12.92, 0.0031308, 0.2140411, 1.0], abs=1e-6)
    torch.testing.assert_close(_encode(_decode(x)), x, rtol=0, atol=1e-5)


def test_light_differs_between_draws_and_within_a_picture():
    shots = torch.stack([factors(seed) for seed in range(40)])
    assert ((shots >= 0) & (shots <= 1)).all()
    means = shots.mean((2, 3))
    assert means.std(0).min() > 0.03  # gains
    assert (means[:, 0] / means[:, 2]).log().std() > 0.1  # of channels
    inside = shots.mean(1).flatten(1).std(1)
    assert (inside > 0.02).float().mean() > 0.9  # shadows and shading
    stronger = torch.stack([factors(seed, 2.0) for seed in range(40)])
    relative = [(each.std((1, 2, 3)) / each.mean((1, 2, 3))).mean() for each in (shots, stronger)]
    assert relative[1] > 1.3 * relative[0]


def test_the_same_seed_and_the_given_image_left_as_it_was():
    image = torch.rand(3, 20, 30, generator=seeded(2))
    kept = image.clone()
    assert torch.equal(relight(image, 1.5, seeded(4)), relight(image, 1.5, seeded(4)))
    assert not torch.equal(relight(image, 1.5, seeded(4)), relight(image, 1.5, seeded(5)))
    assert torch.equal(image, kept)


@pytest.mark.parametrize(
    ("image", "strength", "name"),
    [
        (torch.zeros(2, 4, 4), 1.0, "three"),
        (torch.full((3, 4, 4), 1.2), 1.0, "image"),
        (torch.full((3, 4, 4), float("nan")), 1.0, "image"),
        (torch.zeros(3, 4, 4), -1.0, "strength"),
    ],
)
def test_what_is_refused(image, strength, name):
    with pytest.raises(ValueError, match=name):
        relight(image, strength)
