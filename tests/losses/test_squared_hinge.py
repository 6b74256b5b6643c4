"""The squared hinge over classes: brute force, torch's own, two classes, what is refused."""

import math

import pytest
import torch
from torch.nn import functional as F

from assay.losses import SquaredHinge


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


SCORES, TARGETS = 2 * waves((6, 4), 0.3), torch.tensor([0, 3, 1, 2, 2, 0])


@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_brute_force(margin):
    exact = []
    for s, y in zip(SCORES.tolist(), TARGETS.tolist(), strict=True):
        exact.append(sum(max(0.0, margin - s[y] + s[k]) ** 2 for k in range(4) if k != y))
    found = SquaredHinge(margin, reduction="none")(SCORES, TARGETS)
    torch.testing.assert_close(found, torch.tensor(exact, dtype=torch.float64))
    torch.testing.assert_close(SquaredHinge(margin)(SCORES, TARGETS), found.mean())
    torch.testing.assert_close(SquaredHinge(margin, reduction="sum")(SCORES, TARGETS), found.sum())


def test_it_is_torchs_times_the_classes():
    torch.testing.assert_close(SquaredHinge()(SCORES, TARGETS), 4 * F.multi_margin_loss(SCORES, TARGETS, p=2))
    assert abs(SquaredHinge()(SCORES, TARGETS) - 4 * F.multi_margin_loss(SCORES, TARGETS, p=1)) > 0.1


def test_two_classes_are_a_support_vector_machine():
    """With scores (-f / 2, f / 2) it is max(0, 1 - y f)^2, as scikit-learn's squared_hinge."""
    f, y = 3 * waves((8,), 0.2), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    found = SquaredHinge(reduction="none")(torch.stack([-f / 2, f / 2], 1), y)
    torch.testing.assert_close(found, (1 - (2 * y - 1) * f).clamp_min(0).square())


def test_gradients_and_a_met_margin():
    assert torch.autograd.gradcheck(lambda s: SquaredHinge()(s, TARGETS), (SCORES.clone().requires_grad_(),))
    assert torch.autograd.gradgradcheck(lambda s: SquaredHinge()(s, TARGETS), (SCORES.clone().requires_grad_(),))
    scores = torch.tensor([[5.0, 1.0, 3.9]], requires_grad=True)
    value = SquaredHinge()(scores, torch.tensor([0]))
    value.backward()
    assert value.item() == 0
    assert scores.grad.abs().sum() == 0


def test_half_precision_is_summed_in_single():
    scores = (300 * SCORES).bfloat16()
    found = SquaredHinge()(scores, TARGETS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, SquaredHinge()(scores.float(), TARGETS))


def test_what_is_refused():
    for settings, name in ((dict(margin=0.0), "margin"), (dict(reduction="median"), "reduction")):
        with pytest.raises(ValueError, match=name):
            SquaredHinge(**settings)
    with pytest.raises(ValueError, match="targets"):
        SquaredHinge()(SCORES, TARGETS + 1)
    with pytest.raises(ValueError, match="scores"):
        SquaredHinge()(SCORES[0], TARGETS[:1])
