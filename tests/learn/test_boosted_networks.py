"""Boosted networks against the authors' code, a transcription, closed forms and the sum they are made of."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional as F

from assay.learn import BoostedNetwork
from assay.learn.boosted_networks import LOSSES, _newton_step
from assay.learn.small_network import SmallNetwork
from assay.train import Diverged

# Numbers of github.com/GAA-UAM/GBNN at b0b4cfa with scikit-learn 1.9.1, SciPy 1.17.1:
#
#   i = np.arange(6); h = np.cos(1.0 + i); y = np.array([1, -1, -1, 1, -1, -1.0]); f = np.sin(0.5 + i)
#   l = log_exponential_loss(); r = l.derive(y, f); l.model0(y), l.newton_step(y, r, h), l(y, f).mean()
#   m = multi_class_loss(); y = np.eye(3)[[0, 2, 1, 1]]; k = np.arange(12.0).reshape(4, 3)
#   r = m.derive(y, np.sin(k)); m.newton_step(y, r, np.cos(0.3 + k)), m(y, np.sin(k)) / 4
BINARY = [1, 0, 0, 1, 0, 0]
BINARY_RESIDUALS = [
    *(0.55421657463691, -1.760540105888347, -1.535961486757414),
    *(1.337069967888484, -0.248005277002367, -0.392127330524394),
]
MULTI_RESIDUALS = [
    [0.8276561711436, -0.399799220063872, -0.427856951079728],
    [-0.574622973297678, -0.234110124869682, 0.808733098167359],
    [-0.140700879222179, 0.641101969717175, -0.500401090494997],
    [-0.614249532697196, 0.763898533717957, -0.149649001020761],
]

# The whole of the same code, weights of each network started at 0.7 cos(calls + 0, 1, ...), where calls counts layers:
#
#   def start(self, fan_in, fan_out, dtype):
#       calls[0] += 1; drawn = 0.7 * np.cos(calls[0] + np.arange((fan_in + 1) * fan_out))
#       return drawn[:-fan_out].reshape(fan_in, fan_out), drawn[-fan_out:]
#   MLPRegressor._init_coef = start; calls = [0]            # [-2] for numbers: fit makes a shell of two layers first
#   X = np.sin(np.arange(24.0)).reshape(12, 2)
#   GNEGNEClassifier(total_nn=6, num_nn_step=2, eta=0.5, subsample=1.0, max_iter=6).fit(X, y)._decision_function(X[:2])
#
# of which the logit is twice; with GNEGNERegressor for numbers. scikit-learn's squared error of k outputs is k times
# smaller than its gradient says; it was multiplied by k. Of the multi-class losses, which the code sums over the
# examples, here is the mean.
OFFICIAL = {
    "logistic": dict(
        y=torch.arange(12) % 5 % 2,
        outputs=[-0.67514444390433, -0.44183144072319],
        multipliers=[1.32591672170324, 0.53744297987347, 0.57814313134668],
        losses=[0.67210869266766, 0.66768907256564, 0.66492500214763],
    ),
    "cross_entropy": dict(
        y=torch.arange(12) % 5 % 3,
        outputs=[
            [0.58585538796602, 0.32881284791549, -0.7525546903395],
            [0.03859090179674, 0.29527204197848, -0.34570842105881],
        ],
        multipliers=[2.32239433521927, 2.5891058965348, 1.2131543961498],
        losses=[12.38812237381408 / 12, 12.139526458808 / 12, 12.11884862103578 / 12],
    ),
    "squared": dict(
        y=torch.cos(2 * torch.arange(12.0, dtype=torch.float64)),
        outputs=[0.83195431636007, -0.35951824078795],
        multipliers=[0.5, 0.5, 0.5],
        losses=[0.18370268468475, 0.04585631683409, 0.01171030072743],
    ),
}


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def near(found, expected, rtol=1e-12, atol=1e-13):
    """Twelve digits for what takes a few operations on numbers that were printed with fourteen."""
    torch.testing.assert_close(torch.as_tensor(found, dtype=torch.float64), double(expected), rtol=rtol, atol=atol)


def test_constants_residuals_and_newton_steps_are_the_authors():
    i = torch.arange(6, dtype=torch.float64)[:, None]
    logistic, y = LOSSES["logistic"], 2.0 * double(BINARY)[:, None] - 1
    r = logistic.residual(y, torch.sin(0.5 + i))
    near(r[:, 0], BINARY_RESIDUALS)
    near(logistic.start(y), [-0.346573590279973])
    near(_newton_step(torch.cos(1.0 + i), r, logistic.curvature(y, r)), 0.615799969141911)
    near(logistic.value(y, torch.sin(0.5 + i)), 0.8938012783958674)
    k = torch.arange(12, dtype=torch.float64).view(4, 3)
    multi, y = LOSSES["cross_entropy"], F.one_hot(torch.tensor([0, 2, 1, 1])).double()
    r = multi.residual(y, k.sin())
    near(r, MULTI_RESIDUALS)
    near(multi.start(y), [0.0, 0.0, 0.0])
    near(_newton_step(torch.cos(0.3 + k), r, multi.curvature(y, r)), 2.2898815467634033)
    near(multi.value(y, k.sin()), 1.470139955164496)


@pytest.mark.parametrize("loss", OFFICIAL)
def test_whole_runs_are_the_authors(loss, monkeypatch):
    """Six L-BFGS iterations a group: rounding, at 1e-16 of a step, has no time to grow beyond 1e-10."""
    calls = 0

    def started(d, j, k, activation, _):
        nonlocal calls
        layers = []
        for fan_in, fan_out in ((d, j), (j, k)):
            calls += 1
            drawn = 0.7 * np.cos(calls + np.arange((fan_in + 1) * fan_out))
            layers += [drawn[:-fan_out].reshape(fan_in, fan_out), drawn[-fan_out:]]
        return SmallNetwork(*layers, activation)

    monkeypatch.setattr(SmallNetwork, "drawn", started)
    x = torch.arange(24, dtype=torch.float64).sin().view(12, 2)
    expected = OFFICIAL[loss]
    booster = BoostedNetwork(units=6, units_per_step=2, step_size=0.5, subsample=1.0, loss=loss, max_iter=6)
    booster.fit(x, expected["y"])
    near(booster.decision_function(x[:2]), expected["outputs"], rtol=1e-9)
    near(booster.multipliers, expected["multipliers"], rtol=1e-9)
    near(booster.losses, expected["losses"], rtol=1e-9)


def transcribed(x, y, k, *, steps, j, step_size, sampled, alpha, max_iter, seed, loss):
    """F_T at x, with the residuals, Newton steps and slopes of the fits left to autograd; `loss(F, y)` a mean."""
    generator = torch.Generator().manual_seed(seed)
    n, d = x.shape
    output = torch.zeros(n, k, dtype=torch.float64)
    for _ in range(steps):
        output.requires_grad_()
        (slope,) = torch.autograd.grad(n * loss(output, y), output)
        r = -slope.detach()
        drawn = 2 * torch.rand(d * j + j + j * k + k, generator=generator, dtype=torch.float64) - 1
        drawn[: d * j + j] *= math.sqrt(6 / (d + j))
        drawn[d * j + j :] *= math.sqrt(6 / (j + k))
        rows = torch.randperm(n, generator=generator)[:sampled]

        def h(flat, inputs):
            w, b, v, c = flat.split([d * j, j, j * k, k])
            return torch.tanh(inputs @ w.view(d, j) + b) @ v.view(j, k) + c

        def objective(flat, r=r, rows=rows, h=h):
            flat = torch.tensor(flat, requires_grad=True)
            w, _, v, _ = flat.split([d * j, j, j * k, k])
            value = (r[rows] - h(flat, x[rows])).square().sum() + alpha * (w.square().sum() + v.square().sum())
            value = value / (2 * sampled)
            value.backward()
            return value.item(), flat.grad.numpy()

        found = minimize(objective, drawn.numpy(), jac=True, method="L-BFGS-B", options=dict(maxiter=max_iter, gtol=0))
        step = h(torch.tensor(found.x), x).detach()
        hessian = torch.autograd.functional.hessian(lambda f: n * loss(f, y), output.detach())
        bend = (step.square() * hessian.flatten().view(n * k, n * k).diagonal().view(n, k)).sum()
        output = (output + step_size * (step * r).sum() / bend * step).detach()
    return output


def test_against_a_transcription_with_autograd():
    """Subsample, penalty, several outputs, tanh; ten iterations let rounding grow to some 1e-12."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(17, 3, generator=generator, dtype=torch.float64)
    y = torch.arange(17) % 4
    settings = dict(step_size=0.3, alpha=0.2, max_iter=10)
    booster = BoostedNetwork(
        units=9,
        units_per_step=2,
        subsample=0.7,
        activation="tanh",
        generator=torch.Generator().manual_seed(5),
        **settings,
    ).fit(x, y)
    expected = transcribed(x, y, 4, steps=4, j=2, sampled=11, seed=5, loss=F.cross_entropy, **settings)
    torch.testing.assert_close(booster.decision_function(x), expected, rtol=1e-8, atol=1e-9)
    assert len(booster.multipliers) == 4  # the ninth unit makes no pair
    near(booster.losses[-1], F.cross_entropy(expected, y).item(), rtol=1e-8)


def example(loss, seed=0, n=60):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    score = torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2]
    labels = torch.bucketize(score, double([-0.4, 0.6]))
    return x, {"squared": score, "logistic": 5 - (labels > 0).long(), "cross_entropy": 3 * labels - 1}[loss]


def grown(loss, **settings):
    settings = dict(units=12, units_per_step=3, loss=loss, generator=torch.Generator().manual_seed(1)) | settings
    x, y = example(loss)
    return BoostedNetwork(**settings).fit(x, y), x, y


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "identity"])
def test_one_module_is_the_whole_sum(loss, activation):
    booster, x, _ = grown(loss, activation=activation)
    module = booster.to_module()
    assert [type(layer) for layer in module[::2]] == [nn.Linear, nn.Linear]
    assert module[0].out_features == 12
    torch.testing.assert_close(module(x).reshape(booster.decision_function(x).shape), booster.decision_function(x))
    hidden, out = module[1](module[0](x)), module[2].weight
    for units in (0, 3, 6, 9):
        short = booster.truncate(units)
        torch.testing.assert_close(short.decision_function(x), booster.decision_function(x, units=units))
        torch.testing.assert_close(
            short.to_module()(x), hidden[:, :units] @ out[:, :units].T + short.to_module()[2].bias, rtol=1e-10, atol=0
        )
        assert len(short.losses) == units // 3
    assert len(booster.losses) == 4


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_those_of_the_first_units(loss):
    booster, x, y = grown(loss)
    measured = {
        "squared": lambda f: F.mse_loss(f, y),
        "logistic": lambda f: F.binary_cross_entropy_with_logits(f, (y == 5).double()),
        "cross_entropy": lambda f: F.cross_entropy(f, (y + 1) // 3),
    }[loss]
    for step in (1, 4):
        near(booster.losses[step - 1], measured(booster.decision_function(x, units=3 * step)).item(), rtol=1e-10)


def test_with_no_units_it_is_the_best_constant():
    """The ends of the losses: mean, log-odds, and the logarithms of the shares where they are asked for."""
    for loss, settings in (("squared", {}), ("logistic", {}), ("cross_entropy", dict(log_priors=True))):
        booster, x, y = grown(loss, **settings)
        constant = booster.decision_function(x, units=0)[0]
        if loss == "squared":
            near(constant, y.mean().item())
        elif loss == "logistic":
            near(constant.sigmoid(), (y == 5).double().mean().item())
        else:
            near(constant.softmax(0), (torch.unique(y, return_counts=True)[1].double() / len(y)).tolist())
    booster, x, _ = grown("cross_entropy")
    assert (booster.decision_function(x, units=0) == 0).all()


def test_the_loss_never_rises_where_every_group_sees_everything():
    booster, _, y = grown("squared", subsample=1.0, units=30, units_per_step=2, step_size=1.0)
    curve = torch.cat([y.var(correction=0)[None], booster.losses])
    assert (curve.diff() < 1e-9).all()
    assert curve[-1] < 0.05 * curve[0]


def test_each_group_is_one_newton_step_long():
    """Along the last group's outputs g, from where it started: sum g r / sum g^2 l'' is 1 / step_size."""
    booster, x, y = grown("cross_entropy", step_size=0.4)
    before, after = (booster.decision_function(x, units=units) for units in (6, 9))
    p, g = before.softmax(1), after - before
    r = F.one_hot((y + 1) // 3) - p
    near((g * r).sum() / (g.square() * p * (1 - p)).sum(), 1 / 0.4, rtol=1e-9)


def test_linear_units_reach_least_squares():
    """Full groups of linear units without a penalty: one group is the solution, others add nothing."""
    x, y = example("squared")
    design = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    best = design @ torch.linalg.lstsq(design, y[:, None]).solution
    booster = BoostedNetwork(units=3, activation="identity", loss="squared", subsample=1.0, alpha=0.0).fit(x, y)
    # L-BFGS stops where the half mean square falls by less than 2.2e-9; that leaves errors of about its root.
    assert (booster.decision_function(x) - best[:, 0]).square().mean().sqrt() < 1e-3


def test_what_distinguishes_it_from_one_network_trained_as_a_whole():
    """The first units do not know of the later ones: a shorter run gives the very same units."""
    longer, x, _ = grown("cross_entropy", units=12)
    shorter, _, _ = grown("cross_entropy", units=6)
    assert torch.equal(longer.truncate(6).decision_function(x), shorter.decision_function(x))
    assert (longer.decision_function(x) - shorter.decision_function(x)).abs().max() > 0.1


def test_what_distinguishes_it_from_boosting_without_a_line_search():
    """With the multiplier 1 of the squared loss, class probabilities would barely move."""
    booster, _, _ = grown("cross_entropy", step_size=1.0, subsample=1.0)
    assert (
        booster.multipliers[0] > 2
    )  # p (1 - p) is at most 1/4, so that a residual asks for at least four times itself
    near(grown("squared", step_size=0.3)[0].multipliers, [0.3] * 4)


def test_labels_come_back_as_they_were():
    for loss, classes in (("logistic", [4, 5]), ("cross_entropy", [-1, 2, 5])):
        booster, x, y = grown(loss, units=60)
        assert booster.classes.tolist() == classes
        assert (booster.predict(x) == y).double().mean() > 0.9
    truth = example("logistic")[1] == 5
    booster = BoostedNetwork(units=30, loss="logistic").fit(x, truth)
    assert booster.predict(x).dtype == torch.bool
    assert (booster.predict(x) == truth).double().mean() > 0.9


def test_precision_shape_and_randomness():
    x, y = example("squared")
    both = torch.stack([y, -y], dim=1).float()
    settings = dict(units=8, loss="squared")
    found = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(7)
        found.append(BoostedNetwork(generator=generator, **settings).fit(x.float(), both))
    outputs = [booster.decision_function(x.float()) for booster in found]
    assert outputs[0].shape == (60, 2)
    assert outputs[0].dtype == torch.float32 == found[0].to_module()[0].weight.dtype
    assert torch.equal(*outputs)
    torch.manual_seed(0)
    first = BoostedNetwork(**settings).fit(x, y).predict(x)
    assert not torch.equal(first, BoostedNetwork(**settings).fit(x, y).predict(x))
    one = BoostedNetwork(subsample=1e-3, **settings).fit(x, y)  # a subsample is one example at least
    assert one.predict(x).isfinite().all()


def test_on_frozen_features_it_makes_the_last_layers():
    x, y = example("cross_entropy")
    body = nn.Sequential(nn.Linear(3, 10), nn.Tanh()).double()
    with torch.no_grad():
        booster = BoostedNetwork(units=9).fit(body(x), y)
        torch.testing.assert_close(nn.Sequential(body, booster.to_module())(x), booster.decision_function(body(x)))


def test_it_stops_where_a_newton_step_has_no_length():
    """Two points that are told apart: the curvature falls by orders of magnitude with every step."""
    x = double([[-1.0], [1.0]])
    booster = BoostedNetwork(units=200, loss="logistic", subsample=1.0, generator=torch.Generator().manual_seed(0))
    booster.fit(x, torch.tensor([0, 1]))
    assert 0 < len(booster.losses) < 200
    assert booster.decision_function(x).isfinite().all()
    assert booster.predict(x).tolist() == [0, 1]
    assert booster.to_module()[0].out_features == len(booster.losses)
    assert _newton_step(torch.zeros(3, 1), torch.ones(3, 1), torch.ones(3, 1)) is None


def test_a_loss_that_runs_away_is_told():
    x, y = example("squared")
    with pytest.raises(Diverged, match="loss inf after step 1: take smaller steps"):
        BoostedNetwork(units=3, loss="squared", step_size=1e200).fit(x, y)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("units_per_step", 0),
        ("units_per_step", 201),
        ("step_size", 0.0),
        ("step_size", math.nan),
        ("step_size", math.inf),
        ("subsample", 0.0),
        ("subsample", 1.1),
        ("loss", "hinge"),
        ("activation", "gelu"),
        ("max_iter", 0),
        ("tol", -1.0),
        ("alpha", math.inf),
    ],
)
def test_refused_settings(name, value):
    with pytest.raises(ValueError, match=f"{name} must .*{value}"):
        BoostedNetwork(**{name: value})


def test_refused_priors():
    with pytest.raises(ValueError, match=r"log_priors must be False .* got True for squared"):
        BoostedNetwork(loss="squared", log_priors=True)


def test_refused_examples():
    x, y = example("cross_entropy")
    numbers = example("squared")[1]
    booster = BoostedNetwork(units=2)
    for call in (booster.to_module, lambda: booster.truncate(1), lambda: booster.predict(x)):
        with pytest.raises(RuntimeError, match="call fit first"):
            call()
    for inputs, shape in ((x[0], r"\(3,\)"), (x[:, :0], r"\(60, 0\)")):
        with pytest.raises(ValueError, match=rf"x must be \(n, d\): got {shape}"):
            booster.fit(inputs, y)
    with pytest.raises(TypeError, match=r"x must be real numbers: got torch.int64"):
        booster.fit(x.long(), y)
    with pytest.raises(ValueError, match="x must be finite"):
        booster.fit(x * math.nan, y)
    with pytest.raises(ValueError, match="one entry an example, at least one: got 59 for 60"):
        booster.fit(x, y[:59])
    with pytest.raises(ValueError, match="got 0 for 0"):
        booster.fit(x[:0], y[:0])
    with pytest.raises(ValueError, match="y must hold at least two classes: got 1"):
        booster.fit(x, 0 * y)
    with pytest.raises(TypeError, match=r"y must be labels, whole numbers: got torch.float64"):
        booster.fit(x, numbers)
    with pytest.raises(ValueError, match=r"y must be \(n\), one label an example: got \(60, 1\)"):
        booster.fit(x, y[:, None])
    with pytest.raises(ValueError, match="y must hold two classes: got 3"):
        BoostedNetwork(loss="logistic").fit(x, y)
    regression = BoostedNetwork(loss="squared", units=4, units_per_step=2)
    with pytest.raises(TypeError, match=r"y must be real numbers for the squared loss: got torch.int64"):
        regression.fit(x, y)
    with pytest.raises(ValueError, match=r"y must be \(n\) or \(n, k\): got \(60, 1, 1\)"):
        regression.fit(x, numbers[:, None, None])
    with pytest.raises(ValueError, match="y must be finite"):
        regression.fit(x, numbers / 0)
    regression.fit(x, numbers)
    with pytest.raises(ValueError, match=r"x must be \(n, 3\): got \(60, 2\)"):
        regression.predict(x[:, :2])
    for units in (1, 6, -2):
        with pytest.raises(ValueError, match=rf"units must be a multiple of 2 in 0\.\.4: got {units}"):
            regression.truncate(units)


def test_a_class_of_one_member_is_allowed():
    x, y = example("cross_entropy")
    y = torch.where(torch.arange(60) == 7, 99, y)
    assert BoostedNetwork(units=4).fit(x, y).decision_function(x).shape == (60, 4)
