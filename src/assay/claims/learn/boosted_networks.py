"""Sequential Training of Neural Networks with Gradient Boosting (Emami and Martínez-Muñoz, 2023, arXiv:1909.12098).

Every network has one hidden layer of sigmoid units.
"""

import contextlib
import functools

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.lab import Tune, all_of, at_most, claim, lower
from assay.learn import BoostedNetwork
from assay.train import Diverged, accuracy, fit

TASKS = {"digits": 10, "fashion": 10, "shirts": 2, "friedman": 1, "teacher": 1}  # outputs, or classes
GRIDS = {
    "boosted": [dict(units_per_step=j, step_size=s) for j in (1, 3) for s in (0.1, 0.5, 1.0)],
    "adam": [dict(lr=lr, weight_decay=w) for lr in (1e-3, 4e-3, 1.6e-2) for w in (1e-5, 1e-3)],
    "sgd": [dict(lr=lr, weight_decay=w) for lr in (0.03, 0.1, 0.3) for w in (1e-5, 1e-3)],  # of labels
    "lbfgs": [dict(alpha=alpha) for alpha in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)],
}
NUMBERS = {"sgd": [dict(lr=lr, weight_decay=w) for lr in (1e-3, 3e-3, 1e-2) for w in (1e-5, 1e-3)]}  # more diverges


@claim(
    "boosted-networks",
    says="A network grown by boosting generalises at least as well as one of the same size trained as a whole.",
    arms=("boosted", "adam", "lbfgs", "sgd"),
    holds=all_of(
        lower("mean_rank", "boosted", than="adam"),
        lower("mean_rank", "boosted", than="lbfgs"),
        lower("mean_rank", "boosted", than="sgd"),
    ),
    together=True,
    smoke=dict(points=80, units=6, epochs=2, iterations=3),
    paper=dict(points=10_000, epochs=200),
    reported={"abstract": "competitive with networks trained by Adam, L-BFGS and SGD"},
    left_out=(
        "the tables of the UCI repository; here two sets of images and what tells a shirt from a T-shirt, Friedman's "
        "function and a noisy teacher, since no table ships with this package",
        "ten-fold cross-validation inside and out; here five splits, and tuning on a third of the training part",
        "subsamples of 0.25, 0.75 and 1, groups of 2 and 4, steps of 0.025 and 0.05 in the grid",
        "deep networks and their features",
    ),
)
def competitive_with_joint_training(arms, seed, *, points=600, units=200, epochs=100, iterations=200):
    """Seven tenths of the points are learned from. Ranks 1 to 4 in each of five tasks, ties shared; the mean of them.

    Errors are shares of wrong labels, or the root mean square over the standard deviation. Every arm has six points to
    be tuned over in each task, on a third of what is learned from; Adam and SGD are also given the best number of
    epochs. Fashion is averaged to 7 x 7 pixels.

    Fails, against L-BFGS: mean ranks 2.60 boosted, 2.40 Adam, 1.84 L-BFGS, 3.16 SGD. With Adam it is level (errors of
    4.9 against 4.8 % on digits, 27.1 and 27.4 on fashion, 16.7 and 16.1 on shirts, 0.296 and 0.303 on Friedman's
    function, 0.516 and 0.514 on the teacher) and it is better than SGD, which hardly starts on Friedman's function. But
    L-BFGS, whose penalty is tuned over five orders of magnitude, is ahead in four tasks of five (4.1 %, 25.1 %, 15.8 %,
    0.252, 0.518). The method does what the authors' code does, to nine digits; its grid has no penalty to tune, only
    the step and the size of a group. Whether larger or other tables turn the order is not known.
    """
    errors = {arm: [] for arm in arms}
    for name, outputs in TASKS.items():
        learn, test = parts(name, seed, points)
        for arm in arms:
            tuned = best(arm, learn, outputs, seed, units, epochs, iterations)
            errors[arm].append(error(trained(arm, learn, outputs, seed, units, iterations, **tuned), test, outputs))
    ranks = rankdata([errors[arm] for arm in arms], axis=0).mean(axis=1)
    return {
        arm: {"mean_rank": float(rank)} | {f"error_{name}": e for name, e in zip(TASKS, errors[arm], strict=True)}
        for arm, rank in zip(arms, ranks, strict=True)
    }


@claim(
    "boosted-networks",
    says="Removing the last-trained half of the hidden units costs little accuracy, unlike removing units of a jointly "
    "trained network.",
    arms=("boosted", "adam_magnitude_pruned", "adam_random_pruned"),
    holds=all_of(
        at_most("accuracy_drop", 1.0, arm="boosted"),
        lower("accuracy_drop", "boosted", than="adam_magnitude_pruned"),
    ),
    tune=Tune(
        {
            "knob": {
                "boosted": (1, 2, 5),
                "adam_magnitude_pruned": (1e-3, 3e-3, 1e-2),
                "adam_random_pruned": (1e-3, 3e-3, 1e-2),
            }
        },
        by="test_accuracy",
        best="max",
    ),
    smoke=dict(train=100, test=50, units=20, epochs=2, iterations=3),
    paper=dict(train=1_437),
    reported={"abstract": "a number of the last units can be switched off without a significant reduction"},
    left_out=("curves of the error against the number of units for the tables of the first claim",),
)
def units_can_be_switched_off(
    arm, seed, *, train=1_000, test=360, units=200, epochs=60, iterations=200, step_size=0.5, knob=1, validate=False
):
    """Percentage points of test accuracy that go with half of the units, and the accuracy by share of units kept.

    The knob is the number of units a step, or Adam's learning rate. Magnitude is the length of a unit's outgoing
    weights; a unit that is removed leaves its mean activation behind, in the bias of the output, which costs nothing
    and helps (without that: `accuracy_drop_plain`).

    Holds, after looks at five, ten and twenty seeds: 0.07 points go with the last half of the boosted units, 1.01 with
    the smallest half of Adam's (2.72 where they leave nothing behind), 1.63 with a random half. The whole networks have
    89.5 and 90.2 %.
    """
    split = data.load("digits", train=train, test=test, seed=seed, validate=validate)
    shift, scale = split.train.inputs.mean(0), split.train.inputs.std(0) + 0.05
    learn, judge = (
        data.Labelled(((part.inputs - shift) / scale).flatten(1), part.targets) for part in (split.train, split.test)
    )
    shares = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    if arm == "boosted":
        booster = grown(learn, 10, seed, units, iterations, units_per_step=int(knob), step_size=step_size)
        steps = len(booster.losses)
        kept = [int(knob) * round(share * steps) for share in shares]
        curve = [100 * accuracy(booster.truncate(k).to_module(), judge) for k in kept]
        return {
            "accuracy_drop": curve[-1] - curve[0],
            "accuracy_drop_plain": curve[-1] - curve[0],
            "test_accuracy": curve[-1],
            "accuracy_by_units": np.array(curve),
        }
    network = trained("adam", learn, 10, seed, units, iterations, lr=knob, weight_decay=1e-5, epochs=epochs)
    if arm == "adam_magnitude_pruned":
        order = network[2].weight.norm(dim=0).argsort(descending=True)
    else:
        order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
    curve = [100 * accuracy(pruned(network, order[: round(share * units)], learn), judge) for share in shares]
    plain = 100 * accuracy(pruned(network, order[: units // 2], learn, fold=False), judge)
    return {
        "accuracy_drop": curve[-1] - curve[0],
        "accuracy_drop_plain": curve[-1] - plain,
        "test_accuracy": curve[-1],
        "accuracy_by_units": np.array(curve),
    }


def pruned(network, kept, learn, fold=True):
    """The network with the kept hidden units; the others' mean activation goes into the bias where `fold`."""
    first, out = network[0], network[2]
    gone = torch.ones(first.out_features, dtype=torch.bool)
    gone[kept] = False
    smaller = nn.Sequential(
        nn.Linear(first.in_features, len(kept)), nn.Sigmoid(), nn.Linear(len(kept), out.out_features)
    )
    with torch.no_grad():
        mean = network[:2](learn.inputs).mean(0)
        smaller[0].weight.copy_(first.weight[kept])
        smaller[0].bias.copy_(first.bias[kept])
        smaller[2].weight.copy_(out.weight[:, kept])
        smaller[2].bias.copy_(out.bias + fold * (out.weight[:, gone] @ mean[gone]))
    return smaller


def parts(name, seed, points):
    """What is learned from and what judges, seven to three; standardised by the former."""
    generator = torch.Generator().manual_seed(seed)
    if name == "friedman":
        x, y = data.friedman(points, generator=generator)
    elif name == "teacher":
        x = torch.randn(points, 10, generator=generator)
        hidden = torch.tanh(x @ torch.randn(10, 20, generator=generator) / 10**0.5)
        y = hidden @ torch.randn(20, generator=generator) / 20**0.5
        y = y + 0.3 * torch.randn(points, generator=generator)
    else:
        part = data.load("digits" if name == "digits" else "fashion", test=0, seed=seed).train
        if name == "shirts":
            rows = ((part.targets == 0) | (part.targets == 6)).nonzero()[:points, 0]
            part = data.Labelled(part.inputs[rows], (part.targets[rows] == 6).long())
        x, y = part.inputs[:points], part.targets[:points]
        x = (x if name == "digits" else F.avg_pool2d(x, 4)).flatten(1)
    cut = 7 * points // 10
    x = (x - x[:cut].mean(0)) / (x[:cut].std(0) + 0.05)
    if y.is_floating_point():
        y = (y - y[:cut].mean()) / y[:cut].std()
    return data.Labelled(x[:cut], y[:cut]), data.Labelled(x[cut:], y[cut:])


def best(arm, learn, outputs, seed, units, epochs, iterations):
    """The settings with the least error on the last third of what is learned from, epochs included."""
    cut = 2 * len(learn.targets) // 3
    front, held = data.Labelled(*(each[:cut] for each in learn)), data.Labelled(*(each[cut:] for each in learn))
    grid = (outputs == 1 and NUMBERS.get(arm)) or GRIDS[arm]
    found = []
    for settings in grid:
        curve = []
        watch = functools.partial(lambda curve, model: curve.append(error(model, held, outputs)), curve)
        with contextlib.suppress(Diverged):
            if arm in ("boosted", "lbfgs"):
                watch(trained(arm, front, outputs, seed, units, iterations, **settings))
            else:
                trained(arm, front, outputs, seed, units, iterations, epochs=epochs, on_epoch=watch, **settings)
        found += [(e, settings | dict(epochs=epoch)) for epoch, e in enumerate(curve, start=1)]
    return min(found, key=lambda pair: pair[0])[1]


def error(network, part, outputs):
    with torch.no_grad():
        values = network(part.inputs)
    if outputs == 1:
        return ((values[:, 0] - part.targets).square().mean() / part.targets.var(correction=0)).sqrt().item()
    labels = (values[:, 0] > 0).long() if outputs == 2 else values.argmax(1)
    return (labels != part.targets).float().mean().item()


def grown(learn, outputs, seed, units, iterations, **settings):
    loss = {1: "squared", 2: "logistic"}.get(outputs, "cross_entropy")
    generator = torch.Generator().manual_seed(seed)
    booster = BoostedNetwork(units=units, loss=loss, max_iter=iterations, generator=generator, **settings)
    return booster.fit(*learn)


def trained(arm, learn, outputs, seed, units, iterations, *, lr=0.0, weight_decay=0.0, alpha=0.0, epochs=1, **settings):
    """The network that an arm makes. `alpha` is a penalty on squared weights, over twice the number of examples."""
    if arm == "boosted":
        return grown(learn, outputs, seed, units, iterations, **settings).to_module()
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(learn.inputs.shape[1], units), nn.Sigmoid(), nn.Linear(units, outputs if outputs > 2 else 1)
    )
    for layer in network[::2]:
        nn.init.xavier_uniform_(layer.weight)
    loss = {
        1: lambda f, y: F.mse_loss(f[:, 0], y),
        2: lambda f, y: F.binary_cross_entropy_with_logits(f[:, 0], y.float()),
    }.get(outputs, F.cross_entropy)
    if arm == "lbfgs":
        whole = len(learn.targets)

        def penalised(f, y):
            return loss(f, y) + alpha / (2 * whole) * sum(layer.weight.square().sum() for layer in network[::2])

        optimizer = torch.optim.LBFGS(network.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")
        fit(network, learn, optimizer, epochs=1, batch_size=whole, loss=penalised)
    else:
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[arm]
        momentum = dict(momentum=0.9, nesterov=True) if arm == "sgd" else {}
        optimizer = make(network.parameters(), lr=lr, weight_decay=weight_decay, **momentum)
        fit(network, learn, optimizer, epochs=epochs, batch_size=32, loss=loss, seed=seed, **settings)
    return network
