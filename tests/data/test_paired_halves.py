"""Halves that make the whole again."""

import pytest
import torch

from assay.data import paired_halves


def test_the_halves_are_those_of_each_image():
    images = torch.rand(3, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    left, right = paired_halves(images)
    assert left.shape == right.shape == (3, 2, 5, 4)
    assert torch.equal(torch.cat([left, right], 3), images)


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match=r"even width: got \(1, 1, 2, 3\)"):
        paired_halves(torch.zeros(1, 1, 2, 3))
