"""Incorporating Surrogate Gradient Norm to Improve Offline Optimization Techniques (Dao et al., 2024)."""

import functools
import math

import torch
from torch import nn
from torch.nn.functional import mse_loss, one_hot

from assay import data
from assay.lab import Tune, all_of, claim, higher, lower
from assay.optim import IGNITE, SAM, ascend_designs, surrogate_sharpness
from assay.train import fit

TASKS = ("hartmann", "ackley", "rastrigin", "potts")
KNOBS = {
    "ga_ignite": (0.03, 0.1, 0.3, 1.0),
    "ga": (0.0, 0.0, 0.0, 0.0),
    "ga_weight_decay": (1e-5, 1e-4, 1e-3, 1e-2),
    "ga_sam": (0.01, 0.05, 0.1, 0.2),
}
SMOKE = dict(points=64, width=8, epochs=2, designs=8, steps=3)
PAPER = dict(points=10_000, width=2_048, epochs=100)
LEFT_OUT = (
    "Ant, D'Kitty, TF-Bind-8 and TF-Bind-10 of Design-Bench; here three formulas and a random Potts energy",
    "ten base optimizers; here gradient ascent",
    "surrogates of width 2,048; here 256",
)


@claim(
    "ignite",
    says="Gradient ascent on a surrogate trained with the gradient-norm constraint finds designs with a higher true "
    "score than on a plainly trained surrogate, averaged over tasks.",
    arms=("ga_ignite", "ga", "ga_weight_decay", "ga_sam"),
    holds=higher("normalized_score", "ga_ignite", than="ga"),
    tune=Tune({"knob": KNOBS}, by="normalized_score", best="max"),
    smoke=SMOKE,
    paper=PAPER,
    reported={"Design-Bench, 100th percentile (tables)": "improvements of up to 9.6 %"},
    left_out=LEFT_OUT,
)
def best_design(
    arm, seed, *, points=2_000, width=256, epochs=60, designs=128, steps=200, lr=0.01, knob=0.1, validate=False
):
    """The best of 128 designs, which start at the best offline ones; offline data are the worse half of a random draw.

    Scores are the true function's, as a share of its range. The knob is epsilon, the weight decay, or SAM's rho. Tuning
    has offline data of its own (`validate` draws no other).

    Undecided: 0.824 of the range against 0.832 for plain ascent; no arm differs from another by more than the seeds
    do (0.02). The median design is a little better with the constraint (0.618 against 0.605). The paper's gains are
    on robots' gaits and binding sites, with surrogates eight times as wide; whether smooth formulas leave less to be
    won is not known. The penalty's gradient agrees with second derivatives.
    """
    results = {}
    for task in TASKS:
        f, x, y = offline(task, seed, points)
        found, _ = searched(arm, task, seed, x, y, knob, width, epochs, designs, steps, lr)
        low, high = extent(task, seed)
        scores = (f(found) - low) / (high - low)
        results[f"best_{task}"], results[f"median_{task}"] = scores.max().item(), scores.median().item()
    best, median = (sum(results[f"{kind}_{task}"] for task in TASKS) / len(TASKS) for kind in ("best", "median"))
    return {"normalized_score": best, "median_score": median, **results}


@claim(
    "ignite",
    says="Lowering the surrogate's sharpness on the offline data lowers its sharpness on unseen better-scoring data, "
    "and shrinks the over-estimation at the found designs.",
    arms=("ignite", "plain"),
    holds=all_of(
        lower("sharpness_unseen", "ignite", than="plain"),
        lower("overestimate", "ignite", than="plain"),
    ),
    smoke=SMOKE,
    paper=PAPER,
    reported={"theorem 1": "sharpness on all data is bounded by that on the offline data"},
    left_out=LEFT_OUT,
)
def sharpness_transfers(arm, seed, *, points=2_000, width=256, epochs=60, designs=128, steps=200, lr=0.01, epsilon=0.1):
    """Means over the tasks. The over-estimation is in standard deviations of the offline scores."""
    sums = {"sharpness_offline": 0.0, "sharpness_unseen": 0.0, "overestimate": 0.0, "train_loss": 0.0}
    for task in TASKS:
        f, x, y = offline(task, seed, points)
        unseen, _ = halves(task, seed, points)[1]
        kind = {"ignite": "ga_ignite", "plain": "ga"}[arm]
        found, model = searched(kind, task, seed, x, y, epsilon, width, epochs, designs, steps, lr)
        shift, scale = x.mean(0), x.std(0)
        sums["sharpness_offline"] += surrogate_sharpness(model, (x - shift) / scale)
        sums["sharpness_unseen"] += surrogate_sharpness(model, (unseen - shift) / scale)
        with torch.no_grad():
            predicted = model((found - shift) / scale)[:, 0]
            fitted = model((x - shift) / scale)[:, 0]
        sums["overestimate"] += (predicted - (f(found) - y.mean()) / y.std()).mean().item()
        sums["train_loss"] += mse_loss(fitted, (y - y.mean()) / y.std()).item()
    return {name: total / len(TASKS) for name, total in sums.items()}


def searched(arm, task, seed, x, y, knob, width, epochs, designs, steps, lr):
    """Designs that gradient ascent on an arm's surrogate finds, brought back into the task's space; the surrogate."""
    shift, scale = x.mean(0), x.std(0)
    inputs, targets = (x - shift) / scale, ((y - y.mean()) / y.std())[:, None]
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Linear(x.shape[1], width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 1))
    )
    decay = knob if arm == "ga_weight_decay" else 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=decay)
    if arm == "ga_sam":
        optimizer = SAM(optimizer, rho=knob)
    rule = IGNITE(epsilon=knob) if arm == "ga_ignite" else None
    fit(model, data.Labelled(inputs, targets), optimizer, epochs=epochs, loss=mse_loss, rule=rule, seed=seed)
    start = inputs[y.topk(designs).indices]
    found = ascend_designs(model, start, steps=steps, lr=lr) * scale + shift
    if task == "potts":
        found = one_hot(found.view(len(found), 8, 4).argmax(2), 4).float().flatten(1)
    return found.clamp(-1, 1), model


def offline(task, seed, points):
    """The true function, and the worse half of twice as many random designs with their scores."""
    x, y = halves(task, seed, points)[0]
    return truth(task, seed), x, y


@functools.lru_cache(maxsize=16)
def halves(task, seed, points):
    generator = torch.Generator().manual_seed(seed)
    if task == "potts":
        x = one_hot(torch.randint(4, (2 * points, 8), generator=generator), 4).float().flatten(1)
    else:
        x = 2 * torch.rand(2 * points, {"hartmann": 6, "ackley": 10, "rastrigin": 8}[task], generator=generator) - 1
    y = truth(task, seed)(x)
    order = y.argsort()
    return (x[order[:points]], y[order[:points]]), (x[order[points:]], y[order[points:]])


@functools.lru_cache(maxsize=16)
def extent(task, seed):
    """Least and greatest score of the whole landscape; the least of formulas from a hundred thousand random points."""
    f = truth(task, seed)
    if task == "potts":
        every = torch.cartesian_prod(*[torch.arange(4)] * 8)
        scores = f(one_hot(every, 4).float().flatten(1))
        return scores.min().item(), scores.max().item()
    d = {"hartmann": 6, "ackley": 10, "rastrigin": 8}[task]
    some = 2 * torch.rand(100_000, d, generator=torch.Generator().manual_seed(0)) - 1
    return f(some).min().item(), {"hartmann": 3.32237, "ackley": 0.0, "rastrigin": 0.0}[task]


def truth(task, seed):
    """Higher is better. The optimum of Ackley and Rastrigin lies off the middle, by seed."""
    if task == "hartmann":
        return hartmann
    generator = torch.Generator().manual_seed(10_000 + seed)
    if task == "potts":
        coupling = torch.randn(32, 32, generator=generator)
        return lambda x: ((x @ coupling) * x).sum(1)
    place = torch.rand({"ackley": 10, "rastrigin": 8}[task], generator=generator) - 0.5
    return lambda x: {"ackley": ackley, "rastrigin": rastrigin}[task](x - place)


def ackley(x):
    x = 5 * x
    flat = -20 * torch.exp(-0.2 * x.square().mean(1).sqrt())
    return -(flat - torch.exp((2 * math.pi * x).cos().mean(1)) + 20 + math.e)


def rastrigin(x):
    x = 3 * x
    return -(10 + x.square() - 10 * (2 * math.pi * x).cos()).sum(1)


def hartmann(x):
    """Six dimensions, on the unit cube."""
    x = (x + 1) / 2
    a = torch.tensor(
        [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
    )
    p = 1e-4 * torch.tensor(
        [
            [1312.0, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )
    alpha = torch.tensor([1.0, 1.2, 3.0, 3.2])
    return (alpha * torch.exp(-(a * (x[:, None] - p).square()).sum(2))).sum(1)
