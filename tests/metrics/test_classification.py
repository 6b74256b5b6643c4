"""Accuracy and calibration error against counting by hand."""

import math
import random

import pytest
import torch

from assay.metrics import accuracy, calibration_error


def rows(n=200, k=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=generator, dtype=dtype), torch.randint(k, (n,), generator=generator)


@pytest.mark.parametrize("top", [1, 2, 5, 7])
def test_accuracy_counts_rows_whose_target_is_among_the_largest(top):
    logits, targets = rows()
    hits = 0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda j: -row[j])[:top]
        hits += target in best
    assert accuracy(logits, targets, top=top) == pytest.approx(hits / len(targets), abs=1e-15)


def test_ties_score_the_expectation_of_breaking_them_at_random():
    logits = torch.tensor([[1.0, 1.0, 0.0, 1.0], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    targets = torch.tensor([3, 2, 1])
    draw = random.Random(0)
    for top in (1, 2, 3):
        trials, hits = 20_000, 0
        for _ in range(trials):
            for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
                best = sorted(range(4), key=lambda j: (-row[j], draw.random()))[:top]
                hits += target in best
        standard_error = math.sqrt(0.25 / (3 * trials))
        assert abs(accuracy(logits, targets, top=top) - hits / (3 * trials)) < 5 * standard_error


def test_accuracy_sees_only_the_order_of_the_logits():
    logits, targets = rows(dtype=torch.float32)
    assert accuracy(logits, targets) == accuracy(3 * logits - 40, targets) == accuracy(logits.softmax(1), targets)


def naive_calibration_error(probabilities, targets, bins):
    members = [[] for _ in range(bins)]
    for row, target in zip(probabilities.tolist(), targets.tolist(), strict=True):
        confidence = max(row)
        for b in range(bins):
            if b / bins < confidence <= (b + 1) / bins:
                members[b].append((confidence, row.index(confidence) == target))
    total = 0.0
    for member in filter(None, members):
        conf = sum(c for c, _ in member) / len(member)
        acc = sum(right for _, right in member) / len(member)
        total += len(member) / len(targets) * abs(acc - conf)
    return total


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_against_a_naive_transcription(bins):
    logits, targets = rows(n=300)
    probabilities = (2 * logits).softmax(1)
    expected = naive_calibration_error(probabilities, targets, bins)
    assert calibration_error(probabilities, targets, bins=bins) == pytest.approx(expected, abs=1e-12)


def test_one_bin_is_the_gap_between_accuracy_and_mean_confidence():
    logits, targets = rows()
    probabilities = logits.softmax(1)
    gap = abs(accuracy(logits, targets) - probabilities.amax(1).mean().item())
    assert calibration_error(probabilities, targets, bins=1) == pytest.approx(gap, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(dtype):
    # 0.6 ends bin 3 of 5 and shares it with 0.5, which is wrong: |1/2 - 0.55|. In bin 4 it would stand alone: 0.45.
    probabilities = torch.tensor([[0.6, 0.4], [0.5, 0.5]], dtype=dtype)
    assert calibration_error(probabilities, torch.tensor([0, 1]), bins=5) == pytest.approx(0.05, abs=1e-6)


def test_certainty_that_is_right_has_no_error_and_certainty_that_is_wrong_all_of_it():
    sure = torch.eye(3)
    assert calibration_error(sure, torch.tensor([0, 1, 2])) == 0.0
    assert calibration_error(sure, torch.tensor([1, 2, 0])) == 1.0


@pytest.mark.parametrize("measure", [accuracy, calibration_error])
def test_bad_rows_are_refused_by_name(measure):
    name = "logits" if measure is accuracy else "probabilities"
    good = torch.full((2, 2), 0.5)
    with pytest.raises(ValueError, match=rf"{name} must have at least one row"):
        measure(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match=rf"{name} must be numbers: got NaN"):
        measure(torch.tensor([[0.5, math.nan]]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"targets must lie in 0\.\.1: got 0\.\.2"):
        measure(good, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"targets must lie in 0\.\.1: got -1"):
        measure(good, torch.tensor([0, -1]))


def test_bad_options_are_refused_by_name():
    good, targets = torch.full((2, 2), 0.5), torch.tensor([0, 1])
    for top in (0, 3):
        with pytest.raises(ValueError, match=rf"top must lie in 1\.\.2: got {top}"):
            accuracy(good, targets, top=top)
    with pytest.raises(ValueError, match="bins must be at least 1: got 0"):
        calibration_error(good, targets, bins=0)
    for wrong in (torch.tensor([[0.7, 0.7]]), torch.tensor([[1.5, -0.5]])):
        with pytest.raises(ValueError, match="probabilities must be rows of numbers"):
            calibration_error(wrong, torch.tensor([0]))
