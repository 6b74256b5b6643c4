"""Maximal Initial Learning Rates in Deep ReLU Networks (Iyer, Hanin, Rolnick, 2022, arXiv:2212.07295)."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.curvature import Hessian, top_eigenvalues
from assay.lab import all_of, at_least, claim, higher, lower, ratio
from assay.probes import maximal_learning_rate, power_law_fit, slow_input_layer

LEFT_OUT = (
    "the authors' data sets, thresholds, sizes and reduced input rate",
    "several networks for each rate; here one initialisation, the same for all rates",
)
SMOKE = dict(train=400, epochs=8, depths=(1, 2), widths=(32, 48, 64), tolerance=0.5, threshold=0.25)


@claim(
    "maximal-initial-learning-rate",
    says="One number, depth times width, predicts the maximal initial learning rate.",
    arms=("depth_times_width", "depth", "width", "two_exponents"),
    holds=all_of(
        at_least("r2", 0.9, arm="depth_times_width"),
        lower("loo_rmse", "depth_times_width", than="depth"),
        lower("loo_rmse", "depth_times_width", than="width"),
        ratio("loo_rmse", "depth_times_width", to="two_exponents", at_most=1.5),
    ),
    together=True,
    smoke=SMOKE,
    reported={"figures": "eta* is well predicted as a power of depth times width"},
    left_out=LEFT_OUT,
)
def power_of_depth_times_width(
    arms,
    seed,
    *,
    train=1_437,
    epochs=6,
    threshold=0.6,
    depths=(2, 4, 8),
    widths=(32, 64, 128, 256),
    least_width=8,
    input_ratio=0.1,
    tolerance=0.1,
):
    """ReLU networks of constant width, He initialisation, cross-entropy, plain SGD; depth counts hidden layers.

    Networks whose width is at least eight times their depth. The budget is six epochs of twelve batches.

    Fails: with an exponent of its own, depth counts as its power -1.40 and width as -0.26 (R2 0.96); their product
    explains 66 %, depth alone 91 %. In the 72 steps of the budget depth limits the rate, and width hardly does. Longer
    budgets, other thresholds and the authors' data were not tried.
    """
    nets = [(d, w) for d in depths for w in widths if w >= least_width * d]
    rates = searched(nets, seed, train, epochs, threshold, input_ratio, tolerance)
    depth, width = torch.tensor(nets, dtype=torch.float64).T
    predictors = {
        "depth_times_width": {"depth x width": depth * width},
        "depth": {"depth": depth},
        "width": {"width": width},
        "two_exponents": {"depth": depth, "width": width},
    }
    return {arm: fitted(rates, predictors[arm]) for arm in arms}


@claim(
    "maximal-initial-learning-rate",
    says="The law holds when the input layer learns slowly and is worse when it learns at full rate.",
    arms=("slow_input", "full_input"),
    holds=higher("r2", "slow_input", than="full_input"),
    together=True,
    smoke=SMOKE,
    reported={"abstract": "provided that the input layer is trained at a relatively small learning rate"},
    left_out=LEFT_OUT,
)
def slow_input_layer_is_needed(
    arms,
    seed,
    *,
    train=1_437,
    epochs=6,
    threshold=0.6,
    depths=(2, 4, 8),
    widths=(32, 64, 128),
    least_width=8,
    input_ratio=0.1,
    tolerance=0.1,
):
    """As in the first claim; the same search from the same networks for both.

    The network of depth 8 and width 32 is left out: the condition on the width rules it out, and at two of five seeds
    it does not get to 0.6 with a slow input layer at any rate.
    """
    nets = [(d, w) for d in depths for w in widths if w >= least_width * d]
    product = torch.tensor([d * w for d, w in nets], dtype=torch.float64)
    found = {}
    for arm in arms:
        here = input_ratio if arm == "slow_input" else 1.0
        rates = searched(nets, seed, train, epochs, threshold, here, tolerance)
        found[arm] = fitted(rates, {"depth x width": product})
    return found


@claim(
    "maximal-initial-learning-rate",
    says="Sharpness at initialisation predicts the maximal rate, but not through two over sharpness.",
    arms=("sharpness_power", "two_over_sharpness"),
    holds=all_of(
        at_least("r2", 0.7, arm="sharpness_power"),
        at_least("slope_off_minus_one", 0.15, arm="sharpness_power"),
        ratio("rmse", "sharpness_power", to="two_over_sharpness", at_most=0.5),
    ),
    together=True,
    smoke=SMOKE | dict(initialisations=1),
    reported={"figures": "closely though not inversely related"},
    left_out=LEFT_OUT,
)
def related_to_sharpness_but_not_inverse(
    arms,
    seed,
    *,
    train=1_437,
    epochs=6,
    threshold=0.6,
    depths=(2, 4, 8),
    widths=(32, 64, 128, 256),
    least_width=8,
    input_ratio=0.1,
    tolerance=0.1,
    initialisations=3,
):
    """The networks of the first claim; the mean top eigenvalue of three initialisations, on 1,000 training images.

    Undecided in one part: R2 is 0.76, from which five seeds do not tell 0.7. The slope is -0.75 and not -1, and the
    fitted power errs by 0.41 in the logarithm where two over sharpness errs by 2.8.
    """
    nets = [(d, w) for d in depths for w in widths if w >= least_width * d]
    rates = searched(nets, seed, train, epochs, threshold, input_ratio, tolerance)
    x, y = standardised(seed, train)
    generator = torch.Generator().manual_seed(seed)
    sharpness = []
    for depth, width in nets:
        tops = []
        for number in range(initialisations):
            operator = Hessian(network(width, depth, 1_000 * seed + number), F.cross_entropy, x[:1_000], y[:1_000])
            found = top_eigenvalues(operator.matvec, operator.size, 1, tol=1e-2, generator=generator)
            tops.append(found.values[0].item())
        sharpness.append(float(np.mean(tops)))
    sharpness = torch.tensor(sharpness, dtype=torch.float64)
    law = power_law_fit(rates, {"sharpness": sharpness})
    predictions = {
        "sharpness_power": law.intercept + law.exponents["sharpness"] * sharpness.log(),
        "two_over_sharpness": math.log(2) - sharpness.log(),
    }
    return {
        arm: {
            "rmse": (rates.log() - predictions[arm]).square().mean().sqrt().item(),
            "r2": law.r2,
            "slope": law.exponents["sharpness"],
            "slope_off_minus_one": abs(law.exponents["sharpness"] + 1),
            "sharpness": sharpness.numpy(),
            "rates": rates.numpy(),
        }
        for arm in arms
    }


def fitted(rates, predictors):
    law = power_law_fit(rates, predictors)
    exponents = {f"exponent_of_{name.replace(' ', '_')}": value for name, value in law.exponents.items()}
    return {"r2": law.r2, "loo_rmse": law.loo_rmse, "rates": rates.numpy()} | exponents


def searched(nets, seed, train, epochs, threshold, input_ratio, tolerance):
    """The maximal rate of each network; each rate starts from the same weights and sees the same batches."""
    x, y = standardised(seed, train)

    def learn(model, lr):
        optimizer = torch.optim.SGD(slow_input_layer(model, lr, ratio=input_ratio), lr=lr)
        generator = torch.Generator().manual_seed(seed)
        best = 0.0
        for _ in range(epochs):
            for rows in torch.randperm(len(x), generator=generator).split(128):
                loss = F.cross_entropy(model(x[rows]), y[rows])
                if not math.isfinite(loss.item()):
                    return math.nan
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                best = max(best, (model(x).argmax(1) == y).float().mean().item())
            if best >= threshold:
                break
        return best

    rates = []
    for depth, width in nets:
        make = lambda run, depth=depth, width=width: network(width, depth, 1_000 * seed + run)  # noqa: E731
        low = 0.1
        while not learn(make(0), low) >= threshold:
            low /= 2
            if low < 1e-3:
                raise ValueError(f"no rate from 0.1 down to 0.001 brings depth {depth}, width {width} to {threshold}")
        rates.append(maximal_learning_rate(make, learn, threshold=threshold, low=low, tolerance=tolerance).lr)
    return torch.tensor(rates, dtype=torch.float64)


def standardised(seed, train):
    """Digits, pixel by pixel; those that hardly ever vary are divided by 0.05."""
    x, y = data.load("digits", train=train, test=0, seed=seed).train
    x = x.flatten(1)
    return (x - x.mean(0)) / x.std(0).clamp(min=0.05), y


def network(width, depth, seed):
    """He initialisation, variance 2 / fan-in; no biases to begin with."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for fan_in, fan_out in zip((64, *[width] * depth), (*[width] * depth, 10), strict=True):
        layer = nn.Linear(fan_in, fan_out)
        nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in), generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
