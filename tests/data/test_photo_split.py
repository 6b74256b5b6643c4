"""The photographs to learn from and to judge by have no picture in common."""

import pytest
import torch

from assay.data import photo_split, photos


@pytest.mark.parametrize("validate", [False, True])
def test_parts_share_no_picture_and_tuning_never_sees_the_test_part(validate):
    train, judged = photo_split(size=32, validate=validate)
    _, test = photo_split(size=32)
    assert not set(train) & set(judged)
    assert not set(train) & set(test)
    assert bool(set(judged) & set(test)) is not validate
    for name, picture in {**train, **judged}.items():
        assert torch.equal(picture, photos(name, size=32)[name])


def test_all_photographs_are_in_one_part_or_the_other():
    train, test = photo_split(size=16, color=False)
    assert {*train, *test} == set(photos(size=16))
    assert next(iter(test.values())).shape == (1, 16, 16)


def test_a_size_out_of_range_is_refused():
    with pytest.raises(ValueError, match="size"):
        photo_split(size=0)
