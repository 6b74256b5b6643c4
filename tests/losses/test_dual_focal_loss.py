"""Dual focal loss against its definition row by row, the authors' code, and its two ancestors."""

import math

import pytest
import torch
from torch.nn import functional as F

from assay.losses import DualFocalLoss, FocalLoss

# Losses/dual_focal_loss.py of github.com/Linwei94/ICML2023-DualFocalLoss in float64: the `loss` of its forward, before
# it is summed, for logits = torch.tensor(ROWS), targets = torch.tensor([0, 1, 3]) and three values of gamma.
ROWS = [[1.2, -0.3, 0.8, 0.1], [-1.0, 0.4, 2.0, 0.3], [0.2, 0.5, -0.7, -1.9]]
OFFICIAL = {
    1.0: [0.681832400130219, 1.9344603029635559, 3.023099537061197],
    2.5: [0.5361344234923145, 1.8957233213939064, 2.8322793425843673],
    5.0: [0.35914276584364885, 1.8328777715200553, 2.5406342484233115],
}
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def examples(n=40, k=5, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    return logits.to(device), torch.randint(k, (n,), generator=generator).to(device)


def by_hand(logits, targets, gamma):
    values = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        total = sum(map(math.exp, row))
        p = [math.exp(x) / total for x in row]
        below = [q for q in p if q < p[target]]
        values.append(-((1 - p[target] + max(below, default=0.0)) ** gamma) * math.log(p[target]))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.5, 5.0])
def test_against_the_definition(gamma, device):
    logits, targets = examples(device=device)
    found = DualFocalLoss(gamma=gamma, reduction="none")(logits, targets).cpu()
    torch.testing.assert_close(found, by_hand(logits, targets, gamma), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gamma", OFFICIAL)
def test_literal_values_of_the_authors_code(gamma):
    logits = torch.tensor(ROWS, dtype=torch.float64)
    found = DualFocalLoss(gamma=gamma, reduction="none")(logits, torch.tensor([0, 1, 3]))
    torch.testing.assert_close(found, torch.tensor(OFFICIAL[gamma], dtype=torch.float64), rtol=1e-13, atol=0)


def test_ancestors():
    """Without gamma cross-entropy; where nothing is below the right class focal loss; elsewhere neither."""
    logits, targets = examples()
    plain = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(DualFocalLoss(gamma=0.0, reduction="none")(logits, targets), plain)
    dual = DualFocalLoss(gamma=3.0, reduction="none")(logits, targets)
    focal = FocalLoss(gamma=3.0, reduction="none")(logits, targets)
    last = targets == logits.argmin(1)
    assert 0 < last.sum() < len(targets)
    torch.testing.assert_close(dual[last], focal[last], rtol=1e-12, atol=1e-14)
    assert (dual[~last] > 1.001 * focal[~last]).all()
    assert (dual[~last] < plain[~last]).all()


def test_the_runner_up_is_below_the_right_class_and_not_the_second_of_all():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2], [0.2, 0.5, 0.3]], dtype=torch.float64)
    loss = DualFocalLoss(gamma=1.0, reduction="none")(p.log(), torch.tensor([0, 0, 0]))
    torch.testing.assert_close(loss / -p[:, 0].log(), torch.tensor([0.8, 0.9, 0.8], dtype=torch.float64))


def test_equals_are_not_below():
    """Equal logits give equal probabilities: two classes at the top, or all alike."""
    logits = torch.tensor([[1.0, 1.0, -2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    p = logits.softmax(1)
    loss = DualFocalLoss(gamma=2.0, reduction="none")(logits, torch.tensor([0, 1]))
    factor = torch.stack([1 - p[0, 0] + p[0, 2], 1 - p[1, 1]])
    torch.testing.assert_close(loss, -torch.stack([p[0, 0], p[1, 1]]).log() * factor**2)


def test_with_two_classes():
    """Right: (2 (1 - p))^gamma, as p_j = 1 - p. Wrong: focal."""
    p = torch.tensor([[0.8, 0.2], [0.35, 0.65]], dtype=torch.float64)
    loss = DualFocalLoss(gamma=3.0, reduction="none")(p.log(), torch.tensor([0, 0]))
    expected = -p[:, 0].log() * torch.tensor([0.4, 0.65], dtype=torch.float64) ** 3
    torch.testing.assert_close(loss, expected)


def test_the_minimiser_of_the_binary_risk_is_nearer_the_truth_than_that_of_focal_loss():
    """At a posterior of 0.7, over a grid of predictions: 0.704, 0.691, 0.685 against 0.617, 0.558, 0.538."""
    q = torch.linspace(0.5005, 0.9995, 1999, dtype=torch.float64)
    logits = torch.stack([q.log(), (1 - q).log()], dim=1)
    zeros = torch.zeros(len(q), dtype=torch.long)

    def minimiser(loss):
        return q[(0.7 * loss(logits, zeros) + 0.3 * loss(logits, zeros + 1)).argmin()].item()

    for gamma, dual, focal in ((1.0, 0.704, 0.617), (3.0, 0.691, 0.558), (5.0, 0.685, 0.538)):
        assert minimiser(DualFocalLoss(gamma=gamma, reduction="none")) == pytest.approx(dual, abs=1e-3)
        assert minimiser(FocalLoss(gamma=gamma, reduction="none")) == pytest.approx(focal, abs=1e-3)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.5])
def test_gradcheck(gamma):
    logits, targets = examples(6)
    logits.requires_grad_()
    loss = DualFocalLoss(gamma=gamma)
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), (logits,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, targets), (logits,))


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5])
def test_far_out_in_float32(gamma):
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, -1e4]], requires_grad=True)
    values = DualFocalLoss(gamma=gamma, reduction="none")(logits, torch.tensor([0, 0]))
    (slope,) = torch.autograd.grad(values.sum(), logits)
    assert values.tolist() == [pytest.approx(0.0, abs=1e-13), 1e4]
    torch.testing.assert_close(slope, torch.tensor([[0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]), rtol=0, atol=1e-12)


def test_weights_ignored_labels_and_means():
    logits, targets = examples(6, 3)
    weight = torch.tensor([0.2, 1.5, 3.0], dtype=torch.float64)
    values = by_hand(logits, targets, 2.0)
    marked = targets.clone()
    marked[4] = -1
    kept = torch.arange(6) != 4
    options = dict(gamma=2.0, weight=weight, ignore_index=-1)
    expected = torch.where(kept, weight[targets] * values, 0.0)
    torch.testing.assert_close(DualFocalLoss(reduction="none", **options)(logits, marked), expected)
    torch.testing.assert_close(DualFocalLoss(reduction="sum", **options)(logits, marked), expected.sum())
    mean = expected.sum() / weight[targets][kept].sum()
    torch.testing.assert_close(DualFocalLoss(**options)(logits, marked), mean)
    assert DualFocalLoss()(logits, torch.full((6,), -100)).item() == 0.0


def test_refusals():
    logits, targets = examples()
    for gamma in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="gamma must be"):
            DualFocalLoss(gamma=gamma)
    with pytest.raises(ValueError, match="weight must be"):
        DualFocalLoss(weight=torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="weight must have 5 entries"):
        DualFocalLoss(weight=torch.ones(3))(logits, targets)
    with pytest.raises(ValueError, match="classes"):
        DualFocalLoss()(logits[:, :1], targets * 0)
    with pytest.raises(ValueError, match="targets must lie"):
        DualFocalLoss()(logits, targets + 1)
    with pytest.raises(ValueError, match="reduction"):
        DualFocalLoss(reduction="median")
    assert "gamma=5" in repr(DualFocalLoss())
