"""StableMax against its formula entry by entry, torch's conventions, and the softmax that it replaces."""

import math

import pytest
import torch
from torch.nn import functional as F

from assay.losses import StableMaxCrossEntropy, log_stablemax, stablemax

LOGITS = torch.tensor([[1.7, -0.4, 0.9, -3.2], [-0.3, 2.6, -7.1, 0.25], [-1.1, -0.2, -2.7, -5.3]], dtype=torch.float64)
TARGETS = torch.tensor([2, 1, 3])


def s(x):
    return x + 1 if x >= 0 else 1 / (1 - x)


def by_hand(row):
    values = [s(x) for x in row]
    return [value / sum(values) for value in values]


def test_each_entry_is_the_formula():
    expected = torch.tensor([by_hand(row) for row in LOGITS.tolist()], dtype=torch.float64)
    torch.testing.assert_close(stablemax(LOGITS), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(log_stablemax(LOGITS), expected.log(), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(stablemax(LOGITS.T, dim=0), expected.T, rtol=1e-14, atol=0)
    torch.testing.assert_close(stablemax(LOGITS).sum(1), torch.ones(3, dtype=torch.float64))


def test_loss_weights_and_smoothing_are_torchs():
    """Every convention of torch's cross-entropy, with this logarithm in place of the softmax's."""
    log_p = torch.tensor([[math.log(p) for p in by_hand(row)] for row in LOGITS.tolist()], dtype=torch.float64)
    weight = torch.tensor([0.5, 1.5, 2.0, 0.7], dtype=torch.float64)
    targets = torch.tensor([2, -1, 3])
    found = StableMaxCrossEntropy()(LOGITS, TARGETS)
    torch.testing.assert_close(found, F.nll_loss(log_p, TARGETS))
    weighted = StableMaxCrossEntropy(weight=weight, ignore_index=-1)(LOGITS, targets)
    torch.testing.assert_close(weighted, F.nll_loss(log_p, targets, weight=weight, ignore_index=-1))
    # torch smooths over softmax only; its mean divides by the weights of the kept targets
    smooth = StableMaxCrossEntropy(weight=weight, ignore_index=-1, label_smoothing=0.3)(LOGITS, targets)
    spread = [-(log_p[row] * weight).mean() for row in (0, 2)]
    direct = [-weight[targets[row]] * log_p[row, targets[row]] for row in (0, 2)]
    expected = (0.7 * sum(direct) + 0.3 * sum(spread)) / (weight[2] + weight[3])
    torch.testing.assert_close(smooth, expected)
    nothing = StableMaxCrossEntropy(ignore_index=-1)(LOGITS, torch.full((3,), -1))
    assert nothing.item() == 0


def test_gradient():
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: StableMaxCrossEntropy()(x, TARGETS), logits)
    zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)  # s is smooth there: slope 1 from both sides
    StableMaxCrossEntropy()(zero, torch.tensor([1])).backward()
    torch.testing.assert_close(zero.grad, torch.tensor([[1 / 3, -2 / 3, 1 / 3]], dtype=torch.float64))
    near = torch.full((1, 3), -1e-9, dtype=torch.float64, requires_grad=True)
    StableMaxCrossEntropy()(near, torch.tensor([1])).backward()
    torch.testing.assert_close(near.grad, zero.grad, rtol=1e-7, atol=1e-9)


def test_softmax_has_collapsed_where_this_has_not():
    """The ancestor: at a gap of 40 float32 softmax teaches nothing; here loss and gradient fall like one over it."""
    losses, slopes = {}, {}
    for name, loss in (("softmax", F.cross_entropy), ("stablemax", StableMaxCrossEntropy())):
        logits = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
        value = loss(logits, torch.tensor([0]))
        value.backward()
        losses[name], slopes[name] = value.item(), logits.grad[0, 0].item()
    assert losses["softmax"] == slopes["softmax"] == 0
    assert losses["stablemax"] == pytest.approx(math.log(43 / 41), rel=1e-6)
    assert slopes["stablemax"] == pytest.approx(1 / 43 - 1 / 41, rel=1e-5)


def test_the_type_it_is_computed_in():
    """An easy example's loss in single precision has lost most of its digits; in double it keeps them."""
    logits = torch.tensor([[3e5, 0.0]])
    exact = math.log1p(1 / 300001)
    double = StableMaxCrossEntropy()(logits, torch.tensor([0]))
    single = StableMaxCrossEntropy(dtype=torch.float32)(logits, torch.tensor([0]))
    assert double.dtype == single.dtype == torch.float32
    assert double.item() == pytest.approx(exact, rel=1e-6)
    assert single.item() != pytest.approx(exact, rel=1e-3)


def test_what_is_refused():
    for smoothing in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="label_smoothing"):
            StableMaxCrossEntropy(label_smoothing=smoothing)
    for weight in (torch.tensor([-1.0, 1.0]), torch.tensor([float("nan")])):
        with pytest.raises(ValueError, match="weight must be"):
            StableMaxCrossEntropy(weight=weight)
    with pytest.raises(ValueError, match="4 entries"):
        StableMaxCrossEntropy(weight=torch.ones(3))(LOGITS, TARGETS)
    with pytest.raises(TypeError, match="real numbers: got int32"):
        StableMaxCrossEntropy(dtype=torch.int32)
    with pytest.raises(ValueError, match="logits must be finite"):
        stablemax(torch.tensor([1.0, float("inf")]))
    with pytest.raises(TypeError, match="real numbers: got int64"):
        log_stablemax(torch.tensor([1, 2]))
