"""Sprites: areas, moments, one channel, inside the image, what is refused."""

import math

import pytest
import torch

from assay.data import sprites


def every_cue():
    return torch.cartesian_prod(*[torch.arange(3)] * 4)


def drawn(cues, **kw):
    return sprites(len(cues), cues=cues, generator=torch.Generator().manual_seed(0), **kw)[0]


def test_areas_in_closed_form():
    """A square of s pixels has s^2, an ellipse 0.6 pi s^2 / 4; a heart is like itself at every size."""
    cues = every_cue()
    area = drawn(cues, noise=0.0).sum(dim=(1, 2, 3))
    across = 20 * torch.tensor([0.5, 0.75, 1.0])[cues[:, 2]]
    shape = cues[:, 1]
    relative = area / across.square()
    torch.testing.assert_close(relative[shape == 0], torch.ones(27), rtol=0.03, atol=0)
    torch.testing.assert_close(relative[shape == 1], torch.full((27,), 0.15 * math.pi), rtol=0.03, atol=0)
    heart = relative[shape == 2]
    assert heart.max() / heart.min() < 1.03


def test_colour_is_one_channel():
    cues = every_cue()
    channels = drawn(cues, noise=0.0).amax(dim=(2, 3))
    torch.testing.assert_close(channels, torch.nn.functional.one_hot(cues[:, 0], 3).float())


def test_orientation_from_moments():
    """The ellipse's long axis is turned against the clock, rows going down."""
    cues = torch.tensor([[0, 1, 2, turn] for turn in (0, 1, 2)])
    images = drawn(cues, noise=0.0)[:, 0]
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    for image, degrees in zip(images, (0, 30, 60), strict=True):
        w = image / image.sum()
        dx, dy = x - (w * x).sum(), -(y - (w * y).sum())
        xx, yy, xy = (w * dx * dx).sum(), (w * dy * dy).sum(), (w * dx * dy).sum()
        angle = math.degrees(math.atan2(2 * xy, xx - yy) / 2)
        assert abs(angle - degrees) < 2
        assert math.sqrt(yy if degrees == 0 else torch.linalg.eigvalsh(torch.tensor([[xx, xy], [xy, yy]]))[0]) == (
            pytest.approx(6 / 2, rel=0.03)
        )


def test_shapes_are_inside_wherever_they_are():
    """Nothing is cut off: the area does not hang on the place, and places reach all four sides."""
    cues = torch.tensor([[0, s, 2, turn] for s in (0, 1, 2) for turn in (0, 1, 2) for _ in range(40)])
    images = drawn(cues, noise=0.0)[:, 0]
    areas = images.sum(dim=(1, 2)).view(9, 40)
    assert bool(((areas.amax(1) - areas.amin(1)) / areas.mean(1) < 0.03).all())
    seen = images.view(9, 40, 32, 32).amax(1)
    for edge in (seen[:, 0], seen[:, -1], seen[:, :, 0], seen[:, :, -1]):
        assert bool((edge.amax(1) > 0).any())


def test_cues_are_independent_and_uniform():
    _, cues = sprites(2700, size=16, generator=torch.Generator().manual_seed(1))
    share = torch.nn.functional.one_hot(cues, 3).double()
    error = 4 * math.sqrt(2 / 9 / 2700)
    assert bool(((share.mean(0) - 1 / 3).abs() < error).all())
    joint = torch.einsum("nai,nbj->abij", share, share) / 2700
    apart = ~torch.eye(4, dtype=torch.bool)
    assert bool(((joint[apart] - 1 / 9).abs() < 4 * math.sqrt(8 / 81 / 2700)).all())


def test_noise_seed_and_range():
    cues = every_cue()[:9]
    clean, noisy = drawn(cues, noise=0.0), drawn(cues, noise=0.1)
    assert torch.equal(drawn(cues, noise=0.1), noisy)
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    between = (clean > 0.4) & (clean < 0.6)
    assert (noisy - clean)[between].std().item() == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n=0), "n must be at least 1: got 0"),
        (dict(n=1, size=15), "size must be at least 16: got 15"),
        (dict(n=1, noise=-0.1), "noise must be 0 or more"),
        (dict(n=2, cues=torch.zeros(2, 4, dtype=torch.long) + 3), "cues must lie in 0 to 2: got 3 to 3"),
        (dict(n=2, cues=torch.zeros(1, 4, dtype=torch.long)), r"cues must be \(2, 4\)"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        sprites(**arguments)
