"""Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization (Rosenfeld, Risteski, 2023)."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from assay import data
from assay.curvature import per_sample_gradients
from assay.lab import all_of, at_least, at_most, claim, lower
from assay.nn import mlp
from assay.probes import Groups, OpposingSignals, TwoLayerLinear, matched_groups, opposing_toy, sharpness

LEFT_OUT = ("ResNet-18, VGG and vision transformers on CIFAR-10; here a multilayer perceptron on 1,000 images",)


@claim(
    "opposing-signals",
    says="Learning the useful signal sharpens the valley around an unusable large feature until gradient descent "
    "alternates between the two groups that carry it.",
    arms=("opposing", "small_feature", "small_step"),
    holds=all_of(
        at_least("crossed", 0.5, arm="opposing"),
        at_least("spike", 1.03, arm="opposing"),
        at_most("opposition", -0.8, arm="opposing"),
        at_most("final_sharpness", 1.02, arm="opposing"),
        at_most("crossed", 0.5, arm="small_feature"),
        at_most("crossed", 0.5, arm="small_step"),
    ),
    smoke=dict(steps=150, num=200),
    reported={"two-layer linear network (section 3.2)": "sharpens, then oscillates"},
    left_out=("the theorem's constants: the data are rebuilt from the description",),
)
def toy_sharpens_and_alternates(arm, seed, *, alpha=10.0, signal=2.0, num=2_000, lr=0.12, steps=2_000, window=100):
    """Full-batch descent on half the mean squared error; sharpness from the closed-form Hessian, at every step.

    Spike: the largest loss in the hundred steps after the crossing of 2 / lr, over that at the crossing; opposition:
    the correlation of both halves' changes of loss in them. Final sharpness is in units of 2 / lr. The small feature
    has alpha 0.5, the small step is 0.05.

    Undecided, in one part: the spike is 1.08 with 0.04 between seeds, where 1.03 was asked for. The sharpness
    crosses 2 / lr in every seed, then both halves' losses change oppositely (a correlation of -0.999), and it ends
    at 0.93 of it; with the small feature or the small step it never gets there.
    """
    alpha = 0.5 if arm == "small_feature" else alpha
    lr = 0.05 if arm == "small_step" else lr
    generator = torch.Generator().manual_seed(seed)
    x, y = (part.double() for part in opposing_toy(alpha=alpha, signal=signal, num=num, generator=generator))
    network = TwoLayerLinear(x.shape[1], generator=generator).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    watched = OpposingSignals(halved_square, x, y, fraction=0.25)
    sharpnesses = []
    for _ in range(steps):
        losses = halved_square(network(x), y)
        watched.record(losses)
        sharpnesses.append(torch.linalg.eigvalsh(network.hessian(x, y))[-1].item())
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    means = torch.stack(watched.records).mean(1)
    crossing = next((step for step, value in enumerate(sharpnesses) if value > 2 / lr), None)
    spike, opposition = 1.0, 0.0
    if crossing is not None and crossing + window < steps:
        halves = Groups((x[:, -1] > 0).nonzero().flatten(), (x[:, -1] < 0).nonzero().flatten())
        opposition = watched.opposition(halves, crossing, window)
        spike = (means[crossing : crossing + window + 1].max() / means[crossing]).item()
    return {
        "crossed": float(crossing is not None),
        "spike": spike,
        "opposition": opposition,
        "final_sharpness": sharpnesses[-1] * lr / 2,
        "sharpness": np.array(sharpnesses[:400]),
        "loss": means[:400].numpy(),
    }


@claim(
    "opposing-signals",
    says="On real images the examples whose loss moves most in a step form two groups whose losses go on alternating, "
    "unlike other examples with equally large losses.",
    arms=("opposing", "matched", "random"),
    holds=all_of(
        at_most("opposition", -0.3, arm="opposing"),
        lower("opposition", "opposing", than="matched", by=0.3),
    ),
    together=True,
    smoke=dict(train=1_000, width=8, steps=12, window=2, every=2, apart=1, selections=2, lr=2.0, products=3),
    paper=dict(train=5_000, width=200, steps=5_000),
    reported={"CIFAR-10, ResNet-18 (figures)": "losses of the two groups alternate"},
    left_out=LEFT_OUT,
)
def real_outliers_oppose(
    arms,
    seed,
    *,
    train=1_000,
    width=64,
    lr=0.05,
    steps=1_200,
    window=50,
    every=10,
    apart=10,
    selections=5,
    fraction=0.01,
    products=15,
):
    """Full-batch descent. After sharpness has passed 2 / lr, groups are taken in the first steps that raise the loss.

    Selections are at least ten steps apart; opposition is looked at in the 50 steps after each, and averaged. Matched
    examples have the losses and gradient lengths of the groups right after the selection; they are divided by chance.
    """
    run = descended(seed, train, width, lr, steps, every, fraction, products, apart, selections, window)
    watched, generator = run["watched"], torch.Generator().manual_seed(seed)
    found = {arm: [] for arm in arms}
    for step, lengths in run["selected"]:
        groups = watched.groups(step)
        features = torch.stack([watched.records[step + 1], lengths], 1)
        pairs = {
            "opposing": groups,
            "matched": matched_groups(groups, features, generator=generator),
            "random": Groups(*torch.randperm(train, generator=generator)[: 2 * watched.size].chunk(2)),
        }
        for arm in arms:
            found[arm].append(watched.opposition(pairs[arm], step + 1, window))
    common = {key: run[key] for key in ("sharpness", "loss", "crossing")} | {"selections": float(len(run["selected"]))}
    # A run without a rise after the crossing shows no opposition.
    return {arm: {"opposition": float(np.mean(found[arm])) if found[arm] else 0.0} | common for arm in arms}


@claim(
    "opposing-signals",
    says="Removing a few per cent of opposing outliers slows the growth of sharpness more than removing as many other "
    "hard examples.",
    arms=("without_opposing", "without_matched", "without_random", "all_data"),
    holds=all_of(
        lower("sharpness", "without_opposing", than="without_matched"),
        lower("sharpness", "without_opposing", than="without_random"),
    ),
    together=True,
    smoke=dict(train=1_000, width=8, steps=12, window=2, every=2, apart=1, selections=2, lr=2.0, products=3),
    paper=dict(train=5_000, width=200, steps=5_000),
    left_out=LEFT_OUT,
)
def few_outliers_drive_sharpness(
    arms,
    seed,
    *,
    train=1_000,
    width=64,
    lr=0.05,
    steps=1_200,
    window=2,
    every=10,
    apart=3,
    selections=10,
    fraction=0.01,
    share=0.05,
    products=15,
):
    """The run of the second claim, with ten selections; those in most groups, at most 5 % of the data, are left out.

    Training starts anew from the same weights without them. Sharpness is the mean over the second quarter of the steps
    up to the crossing with all data, that of the loss of the remaining examples.
    """
    run = descended(seed, train, width, lr, steps, every, fraction, products, apart, selections, window)
    watched, generator = run["watched"], torch.Generator().manual_seed(seed)
    counts = torch.zeros(train)
    for step, _ in run["selected"]:
        counts[torch.cat(watched.groups(step))] += 1
    order = counts.argsort(descending=True, stable=True)
    outliers = order[: min(int(share * train), int((counts > 0).sum()))]
    removed = {"all_data": outliers[:0], "without_opposing": outliers}
    removed["without_random"] = torch.randperm(train, generator=generator)[: len(outliers)]
    removed["without_matched"] = outliers[:0]
    if len(outliers) > 1:
        step, lengths = run["selected"][0]
        features = torch.stack([watched.records[step + 1], lengths], 1)
        others = matched_groups(Groups(*outliers.chunk(2)), features, generator=generator)
        removed["without_matched"] = torch.cat(others)
    until = max(4, int(run["crossing"]))
    found = {}
    for arm in arms:
        keep = torch.ones(train, dtype=torch.bool)
        keep[removed[arm]] = False
        values = sharpness_until(seed, train, width, lr, until // 4, until // 2, every, products, keep)
        found[arm] = {"sharpness": values, "removed": float((~keep).sum()), "crossing": run["crossing"]}
    return found


def halved_square(outputs, targets):
    return 0.5 * (outputs - targets) ** 2


def each_cross_entropy(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def beginning(seed, train, width, lr):
    split = data.load("fashion", train=train, test=0, seed=seed)
    torch.manual_seed(seed)
    network = mlp(split.shape, widths=(width, width))
    return network, torch.optim.SGD(network.parameters(), lr=lr), *split.train


def descended(seed, train, width, lr, steps, every, fraction, products, apart, selections, window):
    """Full-batch descent with the losses of every example, sharpness now and then, and the steps to look at."""
    network, optimizer, x, y = beginning(seed, train, width, lr)
    watched = OpposingSignals(each_cross_entropy, x, y, fraction=fraction)
    curve, crossing, selected = [], None, []
    for step in range(steps):
        if step % every == 0 and crossing is None:
            curve.append(sharpness(network, F.cross_entropy, x, y, steps=products))
            crossing = step if curve[-1] >= 2 / lr else None
        losses = each_cross_entropy(network(x), y)
        watched.record(losses)
        rises = step > 0 and watched.records[-1].mean() > watched.records[-2].mean()
        spaced = not selected or step - 1 - selected[-1][0] >= apart
        if crossing is not None and rises and spaced and len(selected) < selections and step + window < steps:
            gradients = per_sample_gradients(network, F.cross_entropy, x, y, chunk=250)
            selected.append((step - 1, gradients.norm(dim=1)))
        if len(selected) == selections and step > selected[-1][0] + window + 1:
            break
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    means = torch.stack(watched.records).mean(1)
    reached = float(step if crossing is None else crossing)
    return {
        "watched": watched,
        "selected": selected,
        "crossing": reached,
        "sharpness": np.array(curve) * lr / 2,
        "loss": means.numpy(),
    }


def sharpness_until(seed, train, width, lr, start, stop, every, products, keep):
    network, optimizer, x, y = beginning(seed, train, width, lr)
    x, y = x[keep], y[keep]
    values = []
    for step in range(stop + 1):
        if step >= start and (step - start) % every == 0:
            values.append(sharpness(network, F.cross_entropy, x, y, steps=products))
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    return math.fsum(values) / len(values)
