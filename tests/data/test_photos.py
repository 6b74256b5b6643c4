"""Area averaging against its integral, and patches against where they were cut."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from assay.data import patches, photos
from assay.data.photos import area_weights


@pytest.mark.parametrize(("source", "target"), [(7, 3), (256, 100), (300, 256), (5, 5), (9, 1), (12, 4)])
def test_area_weights_are_overlaps_in_exact_arithmetic(source, target):
    step = Fraction(source, target)
    exact = [
        [max(Fraction(0), min((i + 1) * step, j + 1) - max(i * step, j)) / step for j in range(source)]
        for i in range(target)
    ]
    np.testing.assert_allclose(area_weights(source, target), np.array(exact, dtype=float), atol=1e-13)


def test_area_averaging_keeps_the_mean_and_whole_factors_are_block_means():
    full = photos("coffee")["coffee"].double()
    for size in (100, 64):
        small = photos("coffee", size=size)["coffee"].double()
        torch.testing.assert_close(small.mean((1, 2)), full.mean((1, 2)), rtol=0, atol=1e-7)
    torch.testing.assert_close(small, full.reshape(3, 64, 4, 64, 4).mean((2, 4)), rtol=0, atol=1e-7)


def test_twelve_photographs_in_range_and_not_flat():
    everything = photos()
    assert len(everything) == 12
    assert list(everything) == sorted(everything)
    for name, image in everything.items():
        assert image.shape == (3, 256, 256), name
        assert image.dtype == torch.float32
        assert 0.0 <= image.min() < 0.45, name
        assert 0.6 < image.max() <= 1.0, name
        assert image.std() > 0.03, name


def test_some_are_colourful_and_some_are_grey():
    grey = {
        name for name, image in photos().items() if torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
    }
    assert grey == {"brick", "camera", "cell", "clock", "grass", "gravel"}


def test_without_colour_it_is_the_luma():
    colour, luma = photos("chelsea")["chelsea"].double(), photos("chelsea", color=False)["chelsea"].double()
    expected = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]
    torch.testing.assert_close(luma[0], expected, rtol=0, atol=1e-7)
    assert torch.equal(photos("brick", color=False)["brick"][0], photos("brick")["brick"][1])


def test_names_choose_and_order():
    assert list(photos(["rocket", "brick"], size=8)) == ["rocket", "brick"]
    assert photos([]) == {}


def test_refused_names_and_sizes():
    with pytest.raises(ValueError, match="no photograph 'astronut'; nearest is 'astronaut'; there are astro"):
        photos(["brick", "astronut"])
    with pytest.raises(ValueError, match="names must differ"):
        photos(["brick", "brick"])
    for size in (0, 257):
        with pytest.raises(ValueError, match=rf"size must lie in 1\.\.256: got {size}"):
            photos(size=size)


def numbered(height, width, start):
    return (start + torch.arange(height * width)).reshape(1, height, width).float().repeat(2, 1, 1)


def test_each_patch_is_a_window_of_one_image():
    images = {"a": numbered(6, 9, 0), "b": numbered(5, 4, 1000)}
    cut = patches(images, 3, 60, generator=torch.Generator().manual_seed(0))
    for patch in cut:
        first = int(patch[0, 0, 0])
        image, (row, column) = (
            (images["a"], divmod(first, 9)) if first < 1000 else (images["b"], divmod(first - 1000, 4))
        )
        assert torch.equal(patch, image[:, row : row + 3, column : column + 3])


def test_every_position_of_every_image_is_equally_likely():
    """28 windows in one image and 6 in the other: 34 places, each equally often within five standard errors."""
    images, count = [numbered(6, 9, 0), numbered(5, 4, 1000)], 34 * 600
    corners = patches(images, 3, count, generator=torch.Generator().manual_seed(1))[:, 0, 0, 0]
    values, found = corners.unique(return_counts=True)
    assert len(values) == 34
    assert (found - 600).abs().max() < 5 * np.sqrt(600)


def test_the_generator_makes_the_patches():
    images = list(photos(["brick", "grass"]).values())
    one, same, other = (patches(images, 8, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_refused_patches():
    image = torch.zeros(1, 8, 6)
    with pytest.raises(ValueError, match="images must hold at least one"):
        patches([], 2, 1)
    with pytest.raises(ValueError, match=r"size must not exceed any image: got 7 for an image of \(1, 8, 6\)"):
        patches([image], 7, 1)
    with pytest.raises(ValueError, match="size must be at least 1: got 0"):
        patches([image], 0, 1)
    with pytest.raises(ValueError, match="count must be at least 1: got 0"):
        patches([image], 2, 0)
    with pytest.raises(ValueError, match=r"same number of channels: got \[1, 3\]"):
        patches([image, torch.zeros(3, 8, 6)], 2, 1)
