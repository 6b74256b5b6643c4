"""Scenes against what was planted in them."""

import pytest
import torch

from assay import data
from assay.data.embedded import labelled


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def flat(level, side=80):
    return [torch.full((1, side, side), level)]


def test_boxes_hold_all_that_was_changed_and_do_not_overlap():
    scenes = data.dense_digits(200, objects=(0, 4), backgrounds=flat(0.4), generator=seeded())
    numbers = (scenes.labels >= 0).sum(1)
    assert numbers.min() == 0
    assert numbers.max() == 4
    for image, boxes, labels, count in zip(scenes.images[:, 0], scenes.boxes, scenes.labels, numbers, strict=True):
        assert (labels[:count] >= 0).all()
        assert (labels[count:] == -1).all()
        assert not boxes[count:].any()
        inside = torch.zeros(64, 64, dtype=torch.long)
        for left, top, right, bottom in boxes[:count].tolist():
            assert 12 <= right - left == bottom - top <= 24
            inside[top:bottom, left:right] += 1
            assert (image[top:bottom, left:right] != 0.4).any()
        assert inside.max() <= 1
        assert (image[inside == 0] == 0.4).all()


def test_what_is_pasted_is_a_digit_of_that_label():
    """On a flat ground a glyph can be read back: a shipped digit of that label, times the contrast."""
    scenes = data.dense_digits(40, objects=(1, 1), backgrounds=flat(0.5), part="test", generator=seeded(1))
    glyphs, names = (torch.from_numpy(array.copy()) for array in labelled("digits-test"))
    for image, (left, top, right, bottom), label in zip(
        scenes.images, scenes.boxes[:, 0].tolist(), scenes.labels[:, 0].tolist(), strict=True
    ):
        ink = image[:, top:bottom, left:right] - 0.5
        assert ink.abs().max() > 0.25 * 0.6 * 0.5
        side = right - left
        shapes = torch.nn.functional.interpolate(glyphs / 16, size=(side, side), mode="bilinear").flatten(1)
        fit = (shapes @ ink.flatten()).abs() / (shapes.norm(dim=1) * ink.norm())
        assert fit.max() > 1 - 1e-5
        assert names[fit > 1 - 1e-5].eq(label).all()


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_ink_differs_from_what_is_under_it(level):
    scenes = data.dense_digits(100, objects=(1, 1), backgrounds=flat(level), generator=seeded(2))
    assert 0 <= scenes.images.min() <= scenes.images.max() <= 1
    change = (scenes.images - level).flatten(1)
    extreme = change.gather(1, change.abs().argmax(1, keepdim=True)).squeeze(1)
    assert (extreme.abs() > 0.25 * 0.6 * 0.8).all()  # distance, contrast, and what magnifying leaves of a peak
    if level == 0.5:
        assert 0.3 < (extreme > 0).float().mean() < 0.7


def test_backgrounds_are_crops_of_the_photographs():
    photo = data.photos("brick", color=False)
    scenes = data.dense_digits(3, objects=(0, 0), backgrounds=photo, generator=seeded())
    assert scenes.labels.shape == (3, 0)
    windows = photo["brick"][0].unfold(0, 64, 1).unfold(1, 64, 1).reshape(-1, 64 * 64)
    for image in scenes.images:
        assert (windows == image.flatten()).all(1).any()
    assert data.dense_digits(2, size=32, generator=seeded()).images.shape == (2, 1, 32, 32)


def test_the_same_generator_gives_the_same_scenes_and_the_parts_differ():
    first, again = (data.dense_digits(5, generator=seeded(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = data.dense_digits(5, part="test", generator=seeded(3))
    assert not torch.equal(first.images, other.images)
    before = torch.get_rng_state()
    data.dense_digits(2, generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_digit_without_room_is_left_out():
    scenes = data.dense_digits(20, size=24, objects=(3, 3), backgrounds=flat(0.5), generator=seeded())
    assert (scenes.labels >= 0).any(1).all()
    assert (scenes.labels == -1).any()


def test_refused_inputs():
    with pytest.raises(ValueError, match="n must be"):
        data.dense_digits(0)
    with pytest.raises(ValueError, match="size must be at least 24"):
        data.dense_digits(1, size=23)
    for objects in ((2, 1), (-1, 1)):
        with pytest.raises(ValueError, match="objects must be"):
            data.dense_digits(1, objects=objects)
    with pytest.raises(Exception, match="part"):
        data.dense_digits(1, part="validation")
    with pytest.raises(ValueError, match="size must not exceed"):
        data.dense_digits(1, backgrounds=flat(0.5, side=30))
