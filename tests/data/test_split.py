"""Splits by seed: disjoint, nested, blind to the test set while tuning; and batches."""

import numpy as np
import pytest
import torch

from assay import data
from assay.data import Labelled, batches, load, sources


def numbered(part, count=None):
    """300 + 50 images of 2 pixels that spell their own row number; class 4 is rare (3 of 300)."""
    n = {"train": 300, "test": 50}[part]
    rows = np.arange(n)
    targets = np.where(rows % 100 == 99, 4, rows % 4)
    images = np.stack([rows // 256, rows % 256], axis=1).reshape(n, 1, 1, 2)
    return images.astype(np.uint8), targets.astype(np.uint8)


@pytest.fixture
def numbers(monkeypatch):
    source = sources.Source(tuple("abcde"), (1, 1, 2), 255, 300, 50, numbered)
    monkeypatch.setitem(sources.SOURCES, "numbers", source)


def rows(part):
    """The row numbers that images spell."""
    pixels = (part.inputs.double() * 255).round().long().reshape(-1, 2)
    return (256 * pixels[:, 0] + pixels[:, 1]).tolist()


@pytest.mark.usefixtures("numbers")
def test_parts_are_disjoint_and_every_image_keeps_its_label():
    for seed in range(5):
        split = load("numbers", train=150, validation=90, seed=seed)
        train, validation = rows(split.train), rows(split.validation)
        assert (len(set(train)), len(set(validation)), len(set(train) & set(validation))) == (150, 90, 0)
        for part in (split.train, split.validation):
            assert part.targets.tolist() == [4 if r % 100 == 99 else r % 4 for r in rows(part)]
        assert rows(split.test) == list(range(50))


@pytest.mark.usefixtures("numbers")
def test_train_and_validation_use_up_the_pool_by_default():
    split = load("numbers", validation=40)
    assert sorted(rows(split.train) + rows(split.validation)) == list(range(300))


@pytest.mark.usefixtures("numbers")
def test_larger_requests_contain_smaller_ones():
    small, large = load("numbers", train=60, validation=20, seed=3), load("numbers", train=200, validation=50, seed=3)
    assert rows(large.train)[:60] == rows(small.train)
    assert rows(large.validation)[-20:] == rows(small.validation)
    assert rows(load("numbers", test=7).test) == list(range(7))


@pytest.mark.usefixtures("numbers")
def test_the_seed_alone_makes_the_order():
    torch.manual_seed(0)
    once = rows(load("numbers", seed=1).train)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert rows(load("numbers", seed=1).train) == once != rows(load("numbers", seed=2).train)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("numbers")
def test_every_class_is_there_however_small_the_part():
    """Class 4 is one in a hundred: of 5 examples drawn freely it would be among them in 5 % of seeds."""
    for seed in range(20):
        assert sorted(load("numbers", train=5, seed=seed).train.targets.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("numbers")
def test_the_draw_is_uniform_but_for_the_first_example_of_each_class():
    """Where does row 17 land? Anywhere: its mean place over seeds is within five standard errors of the middle."""
    places = np.array([rows(load("numbers", seed=seed, test=0).train).index(17) for seed in range(400)])
    assert abs(places.mean() - 149.5) < 5 * 300 / np.sqrt(12 * 400) + 3


@pytest.mark.usefixtures("numbers")
def test_validate_holds_out_the_last_tenth_of_the_training_part():
    real, tuning = load("numbers", train=205, validation=30), load("numbers", train=205, validation=30, validate=True)
    assert rows(tuning.train) == rows(real.train)[:185]
    assert rows(tuning.test) == rows(real.train)[185:]
    assert rows(tuning.validation) == rows(real.validation)


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_validate_never_opens_the_test_file(name, monkeypatch):
    def guarded(file, open_it=sources.labelled):
        if "test" in file:
            raise AssertionError(f"{file} was opened")
        return open_it(file)

    monkeypatch.setattr(sources, "labelled", guarded)
    load(name, validate=True, test=100)
    load(name, test=0)
    with pytest.raises(AssertionError, match="was opened"):
        load(name)


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_images_are_their_bytes_over_white(name):
    white = {"digits": 16, "fashion": 255}[name]
    stored, targets = sources.labelled(f"{name}-test")
    test = load(name).test
    assert test.inputs.dtype == torch.float32
    assert test.targets.dtype == torch.int64
    np.testing.assert_allclose(test.inputs.numpy(), stored.astype(np.float64) / white, rtol=1e-7, atol=0)
    assert test.targets.tolist() == targets.tolist()
    assert (test.inputs.min().item(), test.inputs.max().item()) == (0.0, 1.0)


def test_what_is_handed_out_is_the_callers_own():
    one = load("digits")
    one.train.inputs.zero_()
    one.test.inputs.zero_()
    assert load("digits").train.inputs.max() == load("digits").test.inputs.max() == 1


def test_split_says_what_it_holds():
    split = load("fashion", train=50)
    assert (split.num_classes, split.shape, split.classes[9]) == (10, (1, 28, 28), "Ankle boot")
    assert len(split.validation.targets) == 0
    assert split.validation.inputs.shape == (0, 1, 28, 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 1438}, "train \\+ validation must be at most 1,437, all that digits has: got 1,438"),
        (
            {"train": 1400, "validation": 38},
            "train \\+ validation must be at most 1,437, all that digits has: got 1,438",
        ),
        ({"test": 361}, "test must be at most 360, all that digits has: got 361"),
        ({"train": -1}, "train must not be negative: got -1"),
        ({"validation": -1}, "validation must not be negative: got -1"),
        ({"test": -1}, "test must not be negative: got -1"),
        ({"seed": -1}, "seed must not be negative: got -1"),
        ({"train": 9}, "train must be at least 10, one example a class of digits: got 9"),
        ({"validation": 1430}, "train must be at least 10, one example a class of digits: got 7"),
        ({"train": 10, "validate": True}, "train must be at least 10, .* after a tenth is held out: got 9"),
    ],
)
def test_refused_counts(options, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **options)


def test_two_classes_and_too_few_to_hold_out_a_tenth(monkeypatch):
    source = sources.Source(
        ("a", "b"),
        (1, 1, 2),
        255,
        8,
        8,
        lambda part, count: (np.zeros((8, 1, 1, 2), "u1"), np.arange(8, dtype="u1") % 2),
    )
    monkeypatch.setitem(sources.SOURCES, "two", source)
    with pytest.raises(ValueError, match="train must be at least 10 for validate=True to hold out a tenth: got 8"):
        load("two", validate=True)


def test_unknown_names_get_the_nearest_spelling():
    with pytest.raises(ValueError, match="no data set 'CIFAR-10'; nearest is 'cifar10'; there are digits, fashion"):
        load("CIFAR-10")
    with pytest.raises(ValueError, match="no data set 'imagenet'; there are"):
        load("imagenet")


def ramp(n):
    return Labelled(torch.arange(float(n)).reshape(n, 1), torch.arange(n))


@pytest.mark.parametrize(("n", "size"), [(10, 3), (9, 3), (2, 5), (7, 1)])
def test_batches_visit_every_example_once_in_the_order_of_the_generator(n, size):
    expected = torch.randperm(n, generator=torch.Generator().manual_seed(4)).tolist()
    found = list(batches(ramp(n), size, generator=torch.Generator().manual_seed(4)))
    assert [len(targets) for _, targets in found] == [size] * (n // size) + ([n % size] if n % size else [])
    assert torch.cat([targets for _, targets in found]).tolist() == expected
    assert all(torch.equal(inputs[:, 0].long(), targets) for inputs, targets in found)


def test_dropping_the_last_batch_drops_only_what_does_not_fill_one():
    for n, size, kept in ((10, 3, 9), (9, 3, 9), (2, 5, 0)):
        for shuffle in (True, False):
            found = list(batches(ramp(n), size, shuffle=shuffle, drop_last=True))
            assert [len(targets) for _, targets in found] == [size] * (kept // size)


def test_each_pass_draws_a_new_order_and_none_without_shuffling():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.cat([t for _, t in batches(ramp(50), 8, generator=generator)]).tolist() for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(50))
    assert torch.cat([t for _, t in batches(ramp(50), 8, shuffle=False)]).tolist() == list(range(50))


def test_batches_refuse_at_once():
    with pytest.raises(ValueError, match="batch_size must be at least 1: got 0"):
        batches(ramp(3), 0)
    with pytest.raises(ValueError, match="as many targets as inputs: got 3 inputs, 2 targets"):
        batches(Labelled(torch.zeros(3), torch.zeros(2)), 2)


def test_the_table_of_contents_is_true():
    assert all(hasattr(data, name) for name in data.__all__)
