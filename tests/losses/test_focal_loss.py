"""Focal loss against its formula in multiple precision, torch's cross-entropies and its own two forms."""

import math

import jaxtyping
import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from assay.losses import FocalLoss, prior_bias, sigmoid_focal_loss

LITERAL = [
    (
        0.25,
        2.0,
        [4.5964926684694694e-05, 0.12313621990412717, 0.02065548105505865, 1.1574202023666376, 8.561757715473179e-05],
    ),
    (
        0.4,
        1.5,
        [0.0001858076051683526, 0.24102191793744773, 0.05216918349341652, 0.9927696583916747, 0.000520982565619125],
    ),
]
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def questions(n=60, seed=0, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, generator=generator, dtype=torch.float64)
    targets = torch.randint(2, (n,), generator=generator)
    return logits.to(device, dtype), targets.to(device, dtype)


def examples(n=9, k=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=generator, dtype=torch.float64), torch.randint(k, (n,), generator=generator)


def naive(logit, target, alpha, gamma):
    """Equations 4 and 5 one after the other, for one number."""
    p = 1 / (1 + math.exp(-logit))
    p_t, alpha_t = (p, alpha) if target == 1 else (1 - p, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * math.log(p_t)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 2.7, 5.0])
@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_against_the_equation(alpha, gamma, device):
    logits, targets = questions(device=device)
    expected = [naive(x, y, alpha, gamma) for x, y in zip(logits.tolist(), targets.tolist(), strict=True)]
    for needs_grad in (False, True):
        found = sigmoid_focal_loss(logits.clone().requires_grad_(needs_grad), targets, alpha=alpha, gamma=gamma)
        torch.testing.assert_close(
            found.detach().cpu(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-15
        )


def test_literal_values_of_torchvision():
    """torchvision.ops.sigmoid_focal_loss (its file alone, commit 148ddaa, float64):

    x = torch.tensor([-3.2, -0.7, 0.4, 1.9, 2.6], dtype=torch.double); t = torch.tensor([0.0, 1, 1, 0, 1]).double()
    sigmoid_focal_loss(x, t, alpha=0.25, gamma=2.0), and with alpha=0.4, gamma=1.5

    Its largest rounding is that of 1 - p_t, an epsilon over 1 - p_t = 0.04 at the least, gamma times.
    """
    logits = torch.tensor([-3.2, -0.7, 0.4, 1.9, 2.6], dtype=torch.float64)
    targets = torch.tensor([0, 1, 1, 0, 1])
    for alpha, gamma, values in LITERAL:
        found = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
        torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64), rtol=2e-14, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.3])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_gradients_of_every_kind(gamma, alpha):
    """Reverse, forward, batched, and of the gradient itself."""
    logits, targets = questions(6)
    logits.requires_grad_()

    def loss(x):
        return sigmoid_focal_loss(x, targets, alpha=alpha, gamma=gamma)

    assert torch.autograd.gradcheck(loss, (logits,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, (logits,), check_fwd_over_rev=True)


def test_the_gradient_is_that_of_the_paper():
    """Appendix B, with y of 1 and -1 and x_t = y x: y (1 - p_t)^gamma (gamma p_t log p_t + p_t - 1)."""
    logits, targets = questions()
    logits.requires_grad_()
    sigmoid_focal_loss(logits, targets, alpha=None, gamma=2.0, reduction="sum").backward()
    sign = 2 * targets - 1
    p_t = (sign * logits.detach()).sigmoid()
    expected = sign * (1 - p_t) ** 2 * (2 * p_t * p_t.log() + p_t - 1)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0, 2.5])
def test_far_out_in_float32(gamma, device):
    """Value and gradient at |x| = 1e4: |x| and -1 where the answer is wrong, 0 where it is right (gamma above 0)."""
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4], device=device, requires_grad=True)
    targets = torch.tensor([1.0, 1.0, 0.0, 0.0], device=device)
    values = sigmoid_focal_loss(logits, targets, alpha=None, gamma=gamma)
    (slope,) = torch.autograd.grad(values.sum(), logits, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), logits)
    assert values.tolist() == [0.0, 1e4, 1e4, 0.0]
    assert slope.tolist() == [0.0, -1.0, 1.0, 0.0]
    assert bend.tolist() == [0.0] * 4
    assert torch.equal(sigmoid_focal_loss(logits.detach(), targets, alpha=None, gamma=gamma), values.detach())


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_float32_keeps_its_digits_on_the_way_out(gamma):
    """Against float64 for logits from -80 to 80: a dozen roundings, and exponents up to gamma * 80."""
    logits = torch.linspace(-80, 80, 4001).requires_grad_()
    targets = (torch.arange(4001) % 2).float()
    exact = logits.detach().double().requires_grad_()
    coarse = sigmoid_focal_loss(logits, targets, gamma=gamma)
    fine = sigmoid_focal_loss(exact, targets.double(), gamma=gamma)
    coarse.sum().backward()
    fine.sum().backward()
    tolerance = dict(rtol=16 * torch.finfo(torch.float32).eps * max(1.0, gamma), atol=1e-37)
    torch.testing.assert_close(coarse.detach().double(), fine.detach(), **tolerance)
    torch.testing.assert_close(logits.grad.double(), exact.grad, **tolerance)


def test_without_gamma_it_is_balanced_cross_entropy():
    logits, targets = questions()
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    balance = torch.where(targets == 1, 0.3, 0.7)
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=0.3, gamma=0.0), balance * plain)
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=None, gamma=0.0), plain)
    ratio = sigmoid_focal_loss(logits, targets, alpha=0.3) / (balance * plain)  # and with it, it is not
    assert ratio.max() < 1
    assert ratio.median() < 0.5


def test_easy_examples_count_less_by_the_factors_of_the_paper():
    """Section 3.2: at gamma 2, 100 times less at p_t = 0.9, and at most 4 times less at p_t <= 0.5."""
    p = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    ratio = -p.log() / sigmoid_focal_loss(p.logit(), torch.ones(3), alpha=None)
    torch.testing.assert_close(ratio, (1 - p) ** -2, rtol=1e-13, atol=0)
    assert ratio[:2].tolist() == pytest.approx([100.0, 4.0], rel=1e-13)
    assert ratio[2] < 4


def test_reductions_and_the_normalizer():
    logits, targets = questions(12)
    logits, targets = logits.view(3, 4), targets.view(3, 4)
    values = sigmoid_focal_loss(logits, targets)
    assert values.shape == (3, 4)
    for normalizer in (5, 5.0, torch.tensor(5.0, dtype=torch.float64)):
        torch.testing.assert_close(
            sigmoid_focal_loss(logits, targets, reduction="sum", normalizer=normalizer), values.sum() / 5
        )
        torch.testing.assert_close(sigmoid_focal_loss(logits, targets, normalizer=normalizer), values / 5)
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, reduction="mean"), values.mean())


def test_targets_may_be_of_any_kind_and_logits_of_half_precision():
    logits, targets = questions(dtype=torch.float32)
    expected = sigmoid_focal_loss(logits, targets)
    for kind in (torch.bool, torch.int64, torch.uint8, torch.float64):
        assert torch.equal(sigmoid_focal_loss(logits, targets.to(kind)), expected)
    half = sigmoid_focal_loss(logits.bfloat16(), targets)
    assert half.dtype == torch.float32
    assert torch.equal(half, sigmoid_focal_loss(logits.bfloat16().float(), targets))


def test_compiled_and_mapped(monkeypatch):
    """One graph, once the tests' own checks of shapes are off."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    logits, targets = questions(8)
    logits.requires_grad_()

    def loss(x, y):
        return sigmoid_focal_loss(x, y, gamma=1.5, reduction="sum")

    value = loss(logits, targets)
    (slope,) = torch.autograd.grad(value, logits)
    traced = torch.compile(loss, backend="aot_eager", fullgraph=True)(logits, targets)
    torch.testing.assert_close(traced, value)
    torch.testing.assert_close(torch.autograd.grad(traced, logits)[0], slope)
    torch.testing.assert_close(vmap(grad(loss))(logits.detach(), targets), slope)
    torch.testing.assert_close(vmap(grad(loss), (0, None))(logits.detach().expand(3, 8), targets)[2], slope)


def test_sigmoid_refusals():
    logits, targets = questions(4)
    for gamma in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="gamma must be"):
            sigmoid_focal_loss(logits, targets, gamma=gamma)
    for alpha in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="alpha must lie"):
            sigmoid_focal_loss(logits, targets, alpha=alpha)
    for normalizer in (0, -1.0, math.nan, math.inf, torch.tensor(0.0)):
        with pytest.raises(ValueError, match="normalizer must be positive"):
            sigmoid_focal_loss(logits, targets, reduction="sum", normalizer=normalizer)
    with pytest.raises(ValueError, match="normalizer must be None"):
        sigmoid_focal_loss(logits, targets, reduction="mean", normalizer=2)
    with pytest.raises(ValueError, match="reduction"):
        sigmoid_focal_loss(logits, targets, reduction="median")
    with pytest.raises(ValueError, match="targets must have the shape"):
        sigmoid_focal_loss(logits, targets[:3])
    with pytest.raises(ValueError, match="logits must have"):
        sigmoid_focal_loss(logits[:0], targets[:0])
    for wrong in (0.5, 2.0, -1.0, 1 + 2**-52, 1e-320, math.nan, math.inf):
        with pytest.raises(ValueError, match="targets must be 0 or 1"):
            sigmoid_focal_loss(logits, torch.cat([targets[:3], torch.tensor([wrong], dtype=torch.float64)]))
    with pytest.raises(ValueError, match="targets must be 0 or 1"):
        sigmoid_focal_loss(logits, torch.tensor([0, 1, 2, 0]))
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="logits must be finite"):
            sigmoid_focal_loss(torch.cat([logits[:3], torch.tensor([wrong], dtype=torch.float64)]), targets)
    with pytest.raises(TypeError):
        sigmoid_focal_loss(targets.long(), targets)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
def test_the_softmax_form_against_its_equation(gamma):
    logits, targets = examples()
    expected = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        p = math.exp(row[target]) / sum(map(math.exp, row))
        expected.append(-((1 - p) ** gamma) * math.log(p))
    found = FocalLoss(gamma=gamma, reduction="none")(logits, targets)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def test_with_two_classes_it_is_the_sigmoid_form_of_the_difference():
    logits, targets = examples(k=2)
    found = FocalLoss(gamma=1.7, reduction="none")(logits, targets)
    torch.testing.assert_close(
        found, sigmoid_focal_loss(logits[:, 1] - logits[:, 0], targets, alpha=None, gamma=1.7), rtol=1e-11, atol=1e-15
    )


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_without_gamma_it_is_all_that_torchs_cross_entropy_is(weighted, smoothing, reduction):
    logits, targets = examples()
    logits, targets = logits.unsqueeze(2).repeat(1, 1, 3), torch.stack([targets, targets.flip(0), targets * 0 + 1], 1)
    targets[2, 1] = targets[5, 0] = -7
    weight = torch.tensor([0.3, 1.2, 0.0, 2.5], dtype=torch.float64) if weighted else None
    options = dict(weight=weight, ignore_index=-7, label_smoothing=smoothing, reduction=reduction)
    expected = F.cross_entropy(logits, targets, **options)
    torch.testing.assert_close(FocalLoss(gamma=0.0, **options)(logits, targets), expected)
    difference = (FocalLoss(gamma=2.0, **options)(logits, targets) - expected).abs().max()
    assert difference > 0.1  # and with gamma it is not


def test_smoothing_weighs_every_class_by_its_own_factor():
    logits, targets = examples(3)
    weight = torch.tensor([0.3, 1.2, 0.4, 2.5], dtype=torch.float64)
    expected = []
    for p, target in zip(logits.softmax(1).tolist(), targets.tolist(), strict=True):
        share = [0.1 / 4 + 0.9 * (c == target) for c in range(4)]
        expected.append(
            sum(-s * w * (1 - q) ** 1.5 * math.log(q) for s, w, q in zip(share, weight.tolist(), p, strict=True))
        )
    loss = FocalLoss(gamma=1.5, weight=weight, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(loss(logits, targets), torch.tensor(expected, dtype=torch.float64))
    mean = FocalLoss(gamma=1.5, weight=weight, label_smoothing=0.1)
    torch.testing.assert_close(mean(logits, targets).item(), sum(expected) / weight[targets].sum().item())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 2.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_gradcheck(gamma, smoothing):
    logits, targets = examples(3)
    logits.requires_grad_()
    loss = FocalLoss(gamma=gamma, label_smoothing=smoothing)
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), (logits,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, targets), (logits,))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 1.5, 2.0])
def test_softmax_far_out_in_float32(gamma):
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, -1e4]], requires_grad=True)
    values = FocalLoss(gamma=gamma, reduction="none")(logits, torch.tensor([0, 0]))
    (slope,) = torch.autograd.grad(values.sum(), logits, create_graph=True)
    (bend,) = torch.autograd.grad(slope.square().sum(), logits)
    assert values.tolist() == [pytest.approx(0.0, abs=1e-13), 1e4]
    torch.testing.assert_close(slope, torch.tensor([[0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]), rtol=0, atol=1e-12)
    assert bend.isfinite().all()


def test_a_batch_of_nothing_but_ignored_labels_costs_nothing():
    logits = examples(3)[0].requires_grad_()
    loss = FocalLoss()(logits, torch.full((3,), -100))
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


def test_softmax_refusals():
    logits, targets = examples()
    for gamma in (-1.0, math.nan):
        with pytest.raises(ValueError, match="gamma must be"):
            FocalLoss(gamma=gamma)
    for smoothing in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="label_smoothing must lie"):
            FocalLoss(label_smoothing=smoothing)
    for weight in ([1.0, -1.0], [1.0, math.nan]):
        with pytest.raises(ValueError, match="weight must be"):
            FocalLoss(weight=torch.tensor(weight))
    with pytest.raises(ValueError, match="weight must have 4 entries"):
        FocalLoss(weight=torch.ones(3))(logits, targets)
    with pytest.raises(ValueError, match="targets must lie"):
        FocalLoss(ignore_index=7)(logits, torch.full_like(targets, -100))
    with pytest.raises(ValueError, match="classes"):
        FocalLoss()(logits[:, :1], targets * 0)
    with pytest.raises(TypeError):
        FocalLoss(alpha=0.25)
    assert "gamma=3" in repr(FocalLoss(gamma=3))


def test_prior_bias_is_the_logit_of_the_prior():
    assert prior_bias() == pytest.approx(-4.59511985013459, rel=1e-14)  # -log 99
    for prior in (0.2, 0.5, 0.9):
        assert 1 / (1 + math.exp(-prior_bias(prior))) == pytest.approx(prior, rel=1e-14)
    for prior in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="prior must lie"):
            prior_bias(prior)
