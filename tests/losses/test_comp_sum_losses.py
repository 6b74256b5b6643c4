"""Comp-sum losses by their definition, their bounds on random problems, and the adversarial loss in closed form."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.losses import (
    CompSumLoss,
    SmoothAdversarialCompSum,
    best_conditional_risk,
    comp_sum_bound,
    comp_sum_transform,
    conditional_risk,
    minimizability_gap,
)

TAUS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
LOGITS = torch.tensor([[1.7, -0.4, 0.9], [-0.3, 2.6, -1.1], [0.2, 0.1, -2.7], [3.0, -1.0, 0.5]], dtype=torch.float64)
TARGETS = torch.tensor([2, 1, 0, 1])


def by_hand(row, y, tau):
    u = sum(math.exp(h - row[y]) for i, h in enumerate(row) if i != y)
    return math.log(1 + u) if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)


@pytest.mark.parametrize("tau", [*TAUS, 0.999, 1.0001])
def test_each_value_is_the_definition(tau):
    found = CompSumLoss(tau=tau, reduction="none")(LOGITS, TARGETS)
    expected = [by_hand(row, y, tau) for row, y in zip(LOGITS.tolist(), TARGETS.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0)


def test_known_members_of_the_family():
    """Cross-entropy, generalised cross-entropy, mean absolute error; their neighbours are others."""
    p = LOGITS.softmax(1).gather(1, TARGETS[:, None])[:, 0]
    torch.testing.assert_close(CompSumLoss()(LOGITS, TARGETS), F.cross_entropy(LOGITS, TARGETS))
    torch.testing.assert_close(CompSumLoss(tau=1.7)(LOGITS, TARGETS), ((1 - p**0.7) / 0.7).mean())
    torch.testing.assert_close(CompSumLoss(tau=2.0)(LOGITS, TARGETS), (1 - p).mean())
    assert abs(CompSumLoss(tau=1.1)(LOGITS, TARGETS) - F.cross_entropy(LOGITS, TARGETS)) > 0.01


def test_weights_and_ignored_labels_are_torchs():
    weight, targets = torch.tensor([0.5, 2.0, 1.3], dtype=torch.float64), torch.tensor([2, -1, 0, 1])
    found = CompSumLoss(weight=weight, ignore_index=-1)(LOGITS, targets)
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, targets, weight=weight, ignore_index=-1))
    assert CompSumLoss(tau=0.5, ignore_index=-1)(LOGITS, torch.full((4,), -1)).item() == 0


@pytest.mark.parametrize("tau", TAUS)
def test_gradient(tau):
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: CompSumLoss(tau=tau)(x, TARGETS), logits)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_bound_holds_on_random_problems(tau, k):
    """For random truths and predictions the loss's excess is never below the transform of the zero-one excess."""
    generator = torch.Generator().manual_seed(k)
    sharp = torch.rand(2000, 1, generator=generator, dtype=torch.float64) * 4
    posterior = (sharp * torch.randn(2000, k, generator=generator, dtype=torch.float64)).softmax(1)
    logits = sharp.flip(0) * torch.randn(2000, k, generator=generator, dtype=torch.float64)
    excess = conditional_risk(tau, posterior, logits) - best_conditional_risk(tau, posterior)
    wrong = posterior.amax(1) - posterior.gather(1, logits.argmax(1, keepdim=True))[:, 0]
    assert (wrong > 0).any()
    least = torch.tensor([comp_sum_transform(tau, each, k) for each in wrong.tolist()], dtype=torch.float64)
    assert (excess - least).min() > -1e-9


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_the_bound_is_met_by_two_classes(tau):
    """Truth ((1 + b) / 2, (1 - b) / 2), prediction one half each: with the tie broken wrongly the excess is b."""
    for b in (0.1, 0.5, 0.9):
        posterior = torch.tensor([[(1 + b) / 2, (1 - b) / 2]], dtype=torch.float64)
        excess = conditional_risk(tau, posterior, torch.zeros(1, 2).double()) - best_conditional_risk(tau, posterior)
        assert comp_sum_bound(tau, excess.item(), 2) == pytest.approx(b, rel=1e-6)


@pytest.mark.parametrize("tau", [*TAUS, 0.9999, 1.0001, 1.9999])
def test_bound_and_transform_are_inverse(tau):
    for beta in (0.0, 0.01, 0.3, 0.77, 1.0):
        assert comp_sum_bound(tau, comp_sum_transform(tau, beta, 4), 4) == pytest.approx(beta, abs=1e-7)
    assert comp_sum_bound(tau, 1e6, 4) == 1.0


def test_the_transform_runs_through_the_logistic_one():
    """At tau near 1 from below; from above the constant in front is that of k = 2 there."""
    assert comp_sum_transform(1 - 1e-7, 0.4, 7) == pytest.approx(comp_sum_transform(1.0, 0.4, 7), rel=1e-5)
    assert comp_sum_transform(1 + 1e-7, 0.4, 7) == pytest.approx(comp_sum_transform(1.0, 0.4, 7), rel=1e-5)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_no_prediction_is_better_than_the_best(tau):
    posterior = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        risk = conditional_risk(tau, posterior, logits).sum()
        risk.backward()
        return risk

    optimizer.step(closure)
    best = best_conditional_risk(tau, posterior)
    torch.testing.assert_close(conditional_risk(tau, posterior, logits).detach(), best, rtol=1e-6, atol=0)
    assert minimizability_gap(tau, posterior, torch.zeros(1, 3, dtype=torch.float64)) > 0.005


def linear():
    model = nn.Linear(3, 2).double()
    torch.manual_seed(0)
    model.weight.data = torch.randn(2, 3, dtype=torch.float64)
    return model, torch.rand(5, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])


def test_of_two_classes_and_a_linear_model_all_is_known():
    """The margin moves by at most eps ||w_0 - w_1||_1; the other entry of the margins is 0."""
    model, x, y = linear()
    eps, rho, nu = 0.07, 1.4, 0.6
    loss = SmoothAdversarialCompSum(rho=rho, nu=nu, eps=eps, steps=20, step_size=None, bounds=None)
    worst = eps * (model.weight[0] - model.weight[1]).abs().sum().item() / rho
    expected = F.cross_entropy(model(x) / rho, y).item() + nu * worst
    assert loss(model, x, y).item() == pytest.approx(expected, rel=1e-6)
    (slope,) = torch.autograd.grad(loss(model, x, y), model.weight)
    a = eps * nu / rho * (model.weight[0] - model.weight[1]).sign()
    (plain,) = torch.autograd.grad(F.cross_entropy(model(x) / rho, y), model.weight)
    torch.testing.assert_close(slope, plain + torch.stack([a, -a]), rtol=1e-5, atol=1e-8)


def test_without_a_radius_or_a_weight_it_is_the_plain_loss():
    model, x, y = linear()
    for settings in (dict(nu=0.0), dict(eps=0.0)):
        found = SmoothAdversarialCompSum(tau=1.5, rho=2.0, **settings)(model, x, y)
        torch.testing.assert_close(found, CompSumLoss(tau=1.5)(model(x) / 2, y))
    assert SmoothAdversarialCompSum(tau=1.5, rho=2.0)(model, x, y) > found + 0.01


def test_statistics_are_not_touched_by_the_search():
    """Batch normalisation sees the two passes of the loss, and none of the twenty of the search."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    loss = SmoothAdversarialCompSum(eps=0.1, steps=20)
    loss(model, torch.rand(6, 3), torch.tensor([0, 1, 1, 0, 1, 0]))
    assert model[1].num_batches_tracked == 2
    assert model[1].training


def test_what_is_refused():
    for tau in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="tau"):
            CompSumLoss(tau=tau)
        with pytest.raises(ValueError, match="tau"):
            comp_sum_transform(tau, 0.5, 3)
        with pytest.raises(ValueError, match="tau"):
            best_conditional_risk(tau, torch.tensor([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="weight must be"):
        CompSumLoss(weight=torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="3 entries"):
        CompSumLoss(weight=torch.ones(2).double())(LOGITS, TARGETS)
    for name, value in (("rho", 0.0), ("nu", -1.0), ("eps", math.inf)):
        with pytest.raises(ValueError, match=name):
            SmoothAdversarialCompSum(**{name: value})
    for beta in (-0.1, 1.1):
        with pytest.raises(ValueError, match="beta"):
            comp_sum_transform(1.0, beta, 3)
    with pytest.raises(ValueError, match="num_classes"):
        comp_sum_transform(1.0, 0.5, 1)
    with pytest.raises(ValueError, match="excess"):
        comp_sum_bound(1.0, -0.1, 3)
    with pytest.raises(ValueError, match="posterior must be"):
        conditional_risk(1.0, torch.tensor([[1.0]]), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="sum to 1"):
        best_conditional_risk(1.0, torch.tensor([[0.5, 0.6]]))
