"""Items on photographs: what is where, by looking at each scene; clutter; the draw; what is refused."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from assay.data import Labelled, load, pasted_items


def items(n=60):
    return load("fashion", train=n, seed=3).train


def drawn(seed=0, **settings):
    return pasted_items(items(), generator=torch.Generator().manual_seed(seed), **settings)


GREY = [torch.full((1, 64, 64), 0.5)]


def test_an_item_is_where_its_silhouette_is():
    scenes, given = drawn(backgrounds=GREY), items()
    for image, item, inside in zip(scenes.images, given.inputs, scenes.silhouettes, strict=True):
        filled = ndimage.binary_fill_holes(item[0].numpy() > 0.1)
        lines, columns = np.nonzero(filled)
        at_lines, at_columns = np.nonzero(inside[0].numpy())
        down, right = at_lines.min() - lines.min(), at_columns.min() - columns.min()
        np.testing.assert_array_equal(at_lines, lines + down)
        np.testing.assert_array_equal(at_columns, columns + right)
        np.testing.assert_array_equal(image[0].numpy()[at_lines, at_columns], item[0].numpy()[lines, columns])
        assert (image[~inside] == 0.3).all()
    assert torch.equal(scenes.labels, given.targets)


def test_holes_are_filled():
    ring = torch.zeros(1, 1, 28, 28)
    ring[..., 5:20, 5:20] = 0.8
    ring[..., 9:14, 9:14] = 0.0
    scenes = pasted_items(Labelled(ring, torch.tensor([0])), backgrounds=GREY, size=28)
    assert scenes.silhouettes.sum() == 15 * 15
    assert scenes.images[0, 0, 11, 11] == 0


def test_items_are_not_filled_across_each_other():
    """Three images, the middle one a disc's outline with a gap: alone it encloses nothing."""
    outline = torch.zeros(3, 1, 28, 28)
    outline[..., 5:20, 5:20] = 0.8
    outline[1, 0, 9:14, 9:14] = 0.0
    outline[1, 0, 11, 14:28] = 0.0
    scenes = pasted_items(Labelled(outline, torch.arange(3)), backgrounds=GREY, size=28)
    assert scenes.silhouettes.sum((1, 2, 3)).tolist() == [225, 225 - 25 - 6, 225]


def test_clutter_is_of_other_labels_and_keeps_off_the_item():
    """Items of one brightness a label say whose fragment it is."""
    labels = torch.arange(90) % 3
    whole = torch.zeros(90, 1, 28, 28)
    whole[..., 4:24, 10:18] = 1.0
    given = Labelled(whole * torch.tensor([0.2, 0.5, 0.9])[labels, None, None, None], labels)
    scenes = pasted_items(given, size=56, clutter=2, backgrounds=GREY, generator=torch.Generator().manual_seed(0))
    brightness = torch.tensor([0.2, 0.5, 0.9])
    met = set()
    for image, label, inside in zip(scenes.images, scenes.labels.tolist(), scenes.silhouettes, strict=True):
        assert (image[inside] == brightness[label]).all()
        met |= {(label, round(value, 1)) for value in image[~inside].unique().tolist()} - {(label, 0.3)}
    assert met == {(0, 0.5), (0, 0.9), (1, 0.2), (1, 0.9), (2, 0.2), (2, 0.5)}
    covered = (scenes.images != 0.3) & ~scenes.silhouettes
    assert covered.sum((1, 2, 3)).max() <= 2 * 64
    assert covered.sum((1, 2, 3)).double().mean() > 64


def test_places_are_uniform():
    scenes = pasted_items(
        Labelled(torch.ones(4000, 1, 28, 28), torch.zeros(4000, dtype=torch.long)),
        backgrounds=GREY,
        size=31,
        generator=torch.Generator().manual_seed(0),
    )
    corner = scenes.silhouettes[:, 0].flatten(1).double().argmax(1)
    counts = torch.bincount(4 * (corner // 31) + corner % 31, minlength=16).double()
    assert counts.shape == (16,)
    chi = ((counts - 250) ** 2 / 250).sum().item()
    assert chi < 15 + 5 * 30**0.5  # mean and standard deviation of chi square with 15 degrees of freedom


def test_the_seed_decides():
    assert torch.equal(drawn(1, clutter=2).images, drawn(1, clutter=2).images)
    assert not torch.equal(drawn(1).images, drawn(2).images)
    scenes = drawn(size=56, clutter=3)
    assert scenes.images.shape == (60, 1, 56, 56)
    assert scenes.images.dtype == torch.float32
    assert scenes.images.min() >= 0
    assert scenes.images.max() <= 1
    assert scenes.images[~drawn(size=56).silhouettes].std() > 0.05  # photographs have texture


@pytest.mark.parametrize(
    ("given", "settings", "words"),
    [
        (Labelled(torch.ones(0, 1, 28, 28), torch.ones(0).long()), {}, "at least one"),
        (Labelled(torch.ones(2, 3, 28, 28), torch.ones(2).long()), {}, "grey images"),
        (Labelled(torch.ones(2, 1, 28, 28), torch.ones(3).long()), {}, "a label each"),
        (Labelled(torch.ones(2, 1, 28, 28), torch.ones(2).long()), dict(size=27), "size must be at least 28"),
        (Labelled(torch.ones(2, 1, 28, 28), torch.arange(2)), dict(clutter=-1), "clutter must not be negative"),
        (Labelled(torch.ones(2, 1, 28, 28), torch.ones(2).long()), dict(clutter=1), "clutter must be 0"),
    ],
)
def test_refused(given, settings, words):
    with pytest.raises(ValueError, match=words):
        pasted_items(given, backgrounds=GREY, **settings)
