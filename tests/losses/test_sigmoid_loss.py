"""Contrastive losses pair by pair, by torch's own entropies, in chunks, and against each other."""

import math

import pytest
import torch
from torch.nn import functional as F

from assay.losses import SigmoidContrastiveLoss, SoftmaxContrastiveLoss

BOTH = [SigmoidContrastiveLoss, SoftmaxContrastiveLoss]


def pairs(n=7, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=generator, dtype=torch.float64).unbind()


def softplus(x):
    return math.log1p(math.exp(-abs(x))) + max(x, 0)


def test_sigmoid_pair_by_pair():
    a, b = pairs()
    loss = SigmoidContrastiveLoss(init_temperature=3.0, init_bias=-1.5).double()
    total = 0.0
    for i in range(7):
        for j in range(7):
            inner = sum(x * y for x, y in zip(a[i].tolist(), b[j].tolist(), strict=True))
            logit = 3.0 * inner / (a[i].norm() * b[j].norm()).item() - 1.5
            total += softplus(-logit if i == j else logit)
    assert loss(a, b).item() == pytest.approx(total / 7, rel=1e-6)  # by n, not n^2; parameters start in single


def test_both_are_torchs_entropies():
    a, b = (F.normalize(each, dim=1) for each in pairs())
    sigmoid = SigmoidContrastiveLoss(init_temperature=4.0, init_bias=-2.0).double()
    expected = F.binary_cross_entropy_with_logits(4 * a @ b.T - 2, torch.eye(7).double(), reduction="none").sum(1)
    for reduction, value in (("none", expected), ("sum", expected.sum()), ("mean", expected.mean())):
        sigmoid.reduction = reduction
        torch.testing.assert_close(sigmoid(a, b), value)
    softmax = SoftmaxContrastiveLoss(init_temperature=4.0).double()
    targets = torch.arange(7)
    expected = (F.cross_entropy(4 * a @ b.T, targets) + F.cross_entropy(4 * b @ a.T, targets)) / 2
    torch.testing.assert_close(softmax(a, b), expected)


def test_at_the_start_the_loss_is_that_of_the_prior():
    """Orthogonal towers: softplus(10) + (n - 1) softplus(-10); for one pair alone -log sigmoid."""
    a, b = torch.eye(8, dtype=torch.float64).split(4)
    assert SigmoidContrastiveLoss().double()(a, b).item() == pytest.approx(softplus(10) + 3 * softplus(-10), rel=1e-6)
    assert SigmoidContrastiveLoss().double()(a[:1], a[:1]).item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("kind", BOTH)
def test_the_two_towers_are_alike_and_lengths_do_not_matter(kind):
    a, b = pairs()
    loss = kind().double()
    torch.testing.assert_close(loss(a, b), loss(b, a))
    torch.testing.assert_close(loss(3 * a, 0.1 * b), loss(a, b))


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("kind", BOTH)
def test_chunks_change_neither_value_nor_gradients(kind, chunk):
    found = []
    for each in (None, chunk):
        a, b = (x.clone().requires_grad_() for x in pairs())
        loss = kind(chunk=each).double()
        value = loss(a, b)
        value.backward()
        found.append([value.detach(), a.grad, b.grad, *(p.grad for p in loss.parameters())])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-12)


def test_chunks_need_less_memory():
    from assay.metrics.memory import peak_memory

    a, b = torch.randn(2, 3000, 16).unbind()
    extra = {}
    for chunk in (200, None):
        a.requires_grad_()
        SigmoidContrastiveLoss(chunk=chunk)(a, b).backward()
        with peak_memory() as memory:
            SigmoidContrastiveLoss(chunk=chunk)(a, b).backward()
        extra[chunk] = memory.extra
    assert extra[None] > 2 * 3000 * 3000 * 4
    assert extra[200] < extra[None] / 2


@pytest.mark.parametrize("kind", BOTH)
def test_gradient(kind):
    a, b = (x.clone().requires_grad_() for x in pairs(4, 3))
    loss = kind(init_temperature=2.0).double()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b), (a, b))
    loss(a, b).backward()
    assert all(p.grad.abs() > 0 for p in loss.parameters())  # temperature and bias learn


def test_without_a_bias_the_first_gradient_is_about_the_imbalance():
    """The ancestor of bias -10 is 0: there most of the loss is of wrong pairs that are not alike at all."""
    a, b = pairs(64, 256)
    shares = {}
    for bias in (-10.0, 0.0):
        logits = 10 * F.normalize(a, dim=1) @ F.normalize(b, dim=1).T + bias
        wrong = F.softplus(logits).sum() - F.softplus(logits.diagonal()).sum()
        loss = SigmoidContrastiveLoss(init_bias=bias, reduction="sum").double()(a, b)
        shares[bias] = (wrong / loss).item()
    assert shares[0.0] > 0.9
    assert shares[-10.0] < 0.1


def test_the_temperature_of_the_softmax_is_kept_below_a_hundred():
    a, b = pairs()
    high, top = (SoftmaxContrastiveLoss(init_temperature=t).double() for t in (1e4, 100.0))
    torch.testing.assert_close(high(a, b), top(a, b), rtol=1e-6, atol=0)


def test_what_is_refused():
    a, b = pairs()
    for kind in BOTH:
        for value in (0.0, -1.0, math.inf):
            with pytest.raises(ValueError, match="init_temperature"):
                kind(init_temperature=value)
        with pytest.raises(ValueError, match="chunk"):
            kind(chunk=0)
        with pytest.raises(ValueError, match="reduction"):
            kind(reduction="median")
        with pytest.raises(ValueError, match=r"a and b must be \(n, d\)"):
            kind()(a, b[1:])
        with pytest.raises(ValueError, match="b must be finite"):
            kind()(a, b * math.nan)
        with pytest.raises(ValueError, match="a must have no vector of length 0"):
            kind()(a * 0, b)
    with pytest.raises(ValueError, match="init_bias"):
        SigmoidContrastiveLoss(init_bias=math.nan)
    with pytest.raises(ValueError, match="n at least 2"):
        SoftmaxContrastiveLoss()(a[:1], b[:1])
