"""The kin of the calibration error against counting by hand."""

import math

import pytest
import torch

from assay.metrics import (
    adaptive_calibration_error,
    calibration_error,
    classwise_calibration_error,
    confidence_gap,
    maximum_calibration_error,
)

EVERY = [adaptive_calibration_error, classwise_calibration_error, confidence_gap, maximum_calibration_error]


def rows(n=203, k=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    probabilities = logits.softmax(1)
    return probabilities, torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def tops(probabilities, targets):
    """(confidence, rightness) of each example."""
    return [
        (max(p), float(p.index(max(p)) == y)) for p, y in zip(probabilities.tolist(), targets.tolist(), strict=True)
    ]


@pytest.mark.parametrize("bins", [1, 4, 15, 203, 500])
def test_adaptive_bins_hold_equally_many(bins):
    probabilities, targets = rows()
    order = sorted(tops(probabilities, targets))
    count = min(bins, len(order))
    sizes = [len(order) // count + (b < len(order) % count) for b in range(count)]
    total, start = 0.0, 0
    for size in sizes:
        members = order[start : start + size]
        total += abs(sum(right - confidence for confidence, right in members))
        start += size
    found = adaptive_calibration_error(probabilities, targets, bins)
    assert found == pytest.approx(total / len(order), rel=1e-10)
    if bins == 1:
        assert found == pytest.approx(abs(confidence_gap(probabilities, targets)), rel=1e-10)
    if bins == 15:
        assert found != pytest.approx(calibration_error(probabilities, targets, bins), rel=1e-2)


def test_adaptive_bins_do_not_see_the_order_of_equals():
    probabilities = torch.tensor([[0.75, 0.25]] * 6)
    for targets in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 0, 1]):
        assert adaptive_calibration_error(probabilities, torch.tensor(targets), bins=2) == pytest.approx(0.25)


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_classwise_is_the_mean_over_classes_of_binary_problems(bins):
    probabilities, targets = rows()
    total = 0.0
    for c in range(4):
        members = [[] for _ in range(bins)]
        for p, y in zip(probabilities[:, c].tolist(), targets.tolist(), strict=True):
            members[max(math.ceil(p * bins), 1) - 1].append((y == c) - p)
        total += sum(abs(sum(member)) for member in members) / len(targets)
    assert classwise_calibration_error(probabilities, targets, bins) == pytest.approx(total / 4, rel=1e-10)


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_maximum_is_the_worst_bin(bins):
    probabilities, targets = rows()
    members = [[] for _ in range(bins)]
    for confidence, right in tops(probabilities, targets):
        members[math.ceil(confidence * bins) - 1].append(right - confidence)
    worst = max(abs(sum(member) / len(member)) for member in members if member)
    found = maximum_calibration_error(probabilities, targets, bins)
    assert found == pytest.approx(worst, rel=1e-10)
    assert found >= calibration_error(probabilities, targets, bins)


def test_a_bin_of_one_example_counts_in_full():
    probabilities = torch.tensor([[0.95, 0.05], [0.55, 0.45], [0.55, 0.45]], dtype=torch.float64)
    assert maximum_calibration_error(probabilities, torch.tensor([1, 0, 1]), 10) == pytest.approx(0.95)


def test_the_gap_has_a_sign_and_is_no_larger_than_the_calibration_error():
    """Confidence 0.9 and accuracy 0.6: over-confident by exactly 0.3; the other way round, under-confident."""
    sure = torch.tensor([[0.9, 0.1]] * 10, dtype=torch.float64)
    targets = torch.tensor([0] * 6 + [1] * 4)
    assert confidence_gap(sure, targets) == pytest.approx(0.3, abs=1e-12)
    for measure in (adaptive_calibration_error, maximum_calibration_error, classwise_calibration_error):
        assert measure(sure, targets) == pytest.approx(0.3, abs=1e-12)
    unsure = torch.tensor([[0.6, 0.4]] * 10, dtype=torch.float64)
    assert confidence_gap(unsure, torch.tensor([0] * 9 + [1])) == pytest.approx(-0.3, abs=1e-12)
    probabilities, targets = rows()
    assert abs(confidence_gap(probabilities, targets)) <= calibration_error(probabilities, targets) + 1e-12


def test_labels_drawn_from_the_predictions_leave_only_noise():
    """Each of B bins errs by about sqrt(n_b p (1 - p)) / n: together below sqrt(B / n) / 2, in the mean."""
    generator = torch.Generator().manual_seed(1)
    probabilities, _ = rows(40_000)
    targets = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    bound = math.sqrt(15 / 40_000) / 2
    assert adaptive_calibration_error(probabilities, targets) < 1.5 * bound
    assert classwise_calibration_error(probabilities, targets) < 1.5 * bound
    assert abs(confidence_gap(probabilities, targets)) < 5 * 0.5 / math.sqrt(40_000)
    shifted = probabilities**2 / (probabilities**2).sum(1, keepdim=True)
    assert adaptive_calibration_error(shifted, targets) > 10 * bound
    assert classwise_calibration_error(shifted, targets) > 4 * bound


@pytest.mark.parametrize("measure", EVERY)
def test_refused_inputs(measure):
    probabilities, targets = rows(6)
    for wrong in (probabilities * 1.1, probabilities - 0.5, probabilities * math.nan):
        with pytest.raises(ValueError, match="probabilities must be rows"):
            measure(wrong, targets)
    for label in (-1, 4):
        with pytest.raises(ValueError, match="targets must lie"):
            measure(probabilities, torch.full_like(targets, label))
    with pytest.raises(ValueError, match="at least one row"):
        measure(probabilities[:0], targets[:0])
    with pytest.raises(Exception, match=r"targets|shape"):
        measure(probabilities, targets[:3])
    if measure is not confidence_gap:
        with pytest.raises(ValueError, match="bins must be"):
            measure(probabilities, targets, 0)
