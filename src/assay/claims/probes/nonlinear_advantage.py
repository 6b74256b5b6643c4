"""Nonlinear advantage: trained networks might not be as complex as you think (Mehmeti-Goepel & Disselhoff, 2022)."""

import copy
import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.data import Labelled, batches
from assay.lab import Tune, all_of, at_least, claim, higher, ratio
from assay.probes import LinearizableReLU, average_path_length, linearity_penalty, linearize_relus, snap
from assay.probes.nonlinear_advantage import nonlinear_fraction
from assay.train import accuracy

BLOCKS = {"resnet8": 1, "resnet14": 2, "resnet20": 3}
# Of the slopes: they have their own, constant rate. The penalty grows by RISE with each step of its phase. Slopes that
# are slower by twenty, under a penalty that is stronger by as much, rise all together, whatever the network needs.
SLOPE_RATE, RISE = 20.0, 8e-5
# The weight of the penalty of the third claim: with seed 1000 about 70 % of the channels of resnet8 become linear.
OMEGA = 0.0013
LEFT_OUT = (
    "CIFAR-10 and CIFAR-100 and larger pictures; here Fashion-MNIST of 14 x 14, and half of the width",
    "ResNets of up to 56 layers, 200 epochs; here 8 to 20 layers, 7 to 10 epochs",
    "a transformer on translation",
)
SMOKE = dict(train=100, test=50, widths=(4, 4, 4))


@claim(
    "nonlinear-advantage",
    says="With the same channels made linear and the same number of epochs, a network linearized after training is "
    "more accurate than one that is partially linear from the start.",
    arms=("late", "early_same_mask", "early_penalty"),
    holds=all_of(
        higher("test_accuracy", "late", than="early_same_mask", by=0.01),
        higher("test_accuracy", "late", than="early_penalty", by=0.01),
    ),
    together=True,
    tune=Tune({"lr": (0.03, 0.1)}, by="test_accuracy", best="max", arm="early_same_mask", seeds=(1000,)),
    smoke=SMOKE | dict(epochs=(1, 1, 1)),
    left_out=LEFT_OUT,
)
def late_beats_early(
    arms, seed, *, train=4_000, test=3_000, widths=(8, 16, 32), epochs=(6, 2, 2), share=0.7, lr=0.1, validate=False
):
    """Epochs with ReLU, with the penalty, and with the slopes fixed; the rate falls along half a cosine in the first,
    and again in the others.

    The penalty grows until the share of channels is linear; what it has not drawn there by the end of its phase is made
    linear by its slope. `early_penalty` begins with the penalty. The rate is that at which the opponent,
    `early_same_mask`, does best.

    Fails: 81.9 % late, 84.1 with the same channels linear from the start, 82.9 with the penalty first, at 71 % linear.
    Ten epochs of 4,000 images are too few to show an advantage of having been nonlinear: the late network changes while
    its rate falls for the last time, and has two epochs to recover; and the slopes of the channels that are left are at
    0.43 on average, where those of the mask's network are at 0. With slopes slower by twenty, which rise all together
    (0.82 of those that are left), it has 80.2 %.
    """
    split = pooled(train, test, seed, validate)
    start = network("resnet14", split, widths, seed)
    late = copy.deepcopy(start)
    learn(late, split, seed, lr, epochs, share=share)
    found = {}
    if "late" in arms:
        found["late"] = judged(late, split)
    if "early_same_mask" in arms:
        early = impose(copy.deepcopy(start), [act.linear for act in activations(late)])
        learn(early, split, seed, lr, epochs)
        found["early_same_mask"] = judged(early, split)
    if "early_penalty" in arms:
        early = copy.deepcopy(start)
        learn(early, split, seed, lr, epochs, share=share, first=0)
        found["early_penalty"] = judged(early, split)
    return found


@claim(
    "nonlinear-advantage",
    says="After training, most channels can be made linear with little loss, far less than when the same number of "
    "randomly chosen channels is made linear.",
    arms=("learned_late", "random_late", "dense"),
    holds=all_of(
        higher("test_accuracy", "learned_late", than="dense", by=-0.02),
        higher("test_accuracy", "learned_late", than="random_late"),
    ),
    together=True,
    tune=Tune({"lr": (0.03, 0.1)}, by="test_accuracy", best="max", arm="dense", seeds=(1000,)),
    smoke=SMOKE | dict(epochs=(1, 1, 1)),
    left_out=LEFT_OUT,
)
def much_is_unused(
    arms, seed, *, train=4_000, test=3_000, widths=(8, 16, 32), epochs=(6, 2, 2), share=0.6, lr=0.1, validate=False
):
    """As in the first claim. Random channels, as many in each layer, are linear from where the penalty begins."""
    split = pooled(train, test, seed, validate)
    start = network("resnet14", split, widths, seed)
    late = copy.deepcopy(start)
    learn(late, split, seed, lr, epochs, share=share)
    found = {}
    if "learned_late" in arms:
        found["learned_late"] = judged(late, split)
    if "random_late" in arms:
        generator = torch.Generator().manual_seed(seed)
        masks = [act.linear[torch.randperm(len(act.linear), generator=generator)] for act in activations(late)]
        random = copy.deepcopy(start)
        learn(random, split, seed, lr, epochs, masks=masks)
        found["random_late"] = judged(random, split)
    if "dense" in arms:
        dense = copy.deepcopy(start)
        learn(dense, split, seed, lr, epochs)
        found["dense"] = judged(dense, split)
    return found


@claim(
    "nonlinear-advantage",
    says="Under the same sparsity pressure networks of different depth end with nearly the same average path length.",
    arms=("resnet8", "resnet14", "resnet20"),
    holds=all_of(
        ratio("apl", "resnet20", to="resnet8", at_most=1.5),
        at_least("gain", -0.05, arm="resnet8"),
        at_least("gain", -0.05, arm="resnet14"),
        at_least("gain", -0.05, arm="resnet20"),
    ),
    smoke=SMOKE | dict(epochs=(1, 1, 1)),
    left_out=LEFT_OUT,
)
def effective_depth_is_nearly_constant(
    arm, seed, *, train=4_000, test=3_000, widths=(8, 16, 32), epochs=(4, 2, 1), omega=OMEGA, lr=0.1
):
    """`gain` is what test accuracy has risen by since before the penalty: a network that is shallow because it has
    collapsed does not count. All nonlinear, the average path lengths are 5.5, 10 and 14.5."""
    split = pooled(train, test, seed, validate=False)
    made = network(arm, split, widths, seed)
    before = []
    learn(made, split, seed, lr, epochs, omega=omega, watch=lambda net: before.append(accuracy(net, split.test)))
    found = judged(made, split)
    return found | {"gain": found["test_accuracy"] - before[0], "dense_accuracy": before[0]}


class Block(nn.Module):
    """A basic block of a residual network, its activations modules."""

    def __init__(self, before, width, stride):
        super().__init__()
        self.inner = nn.Sequential(
            *(nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)),
        )
        self.shortcut = nn.Identity()
        if before != width or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.inner(x) + self.shortcut(x))


def network(name, split, widths, seed):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    before = widths[0]
    for stage, width in enumerate(widths):
        for number in range(BLOCKS[name]):
            layers.append(Block(before, width, 2 if stage and not number else 1))
            before = width
    made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, split.num_classes))
    return linearize_relus(made, split.train.inputs[:2])


def pooled(train, test, seed, validate):
    split = data.load("fashion", train=train, test=test, seed=seed, validate=validate)
    small = [Labelled(F.avg_pool2d(part.inputs, 2), part.targets) for part in (split.train, split.test)]
    return dataclasses.replace(split, train=small[0], test=small[1])


def learn(model, split, seed, lr, epochs, *, share=None, omega=None, masks=None, first=None, watch=None):
    """Three phases; the second has the penalty, or begins with the masks. `first` = 0 puts it before the first."""
    generator = torch.Generator().manual_seed(seed)
    free, drawn, fixed = epochs
    order = [("penalty", drawn), ("plain", free), ("plain", fixed)] if first == 0 else [
        ("plain", free), ("penalty", drawn), ("plain", fixed)
    ]  # fmt: skip
    slopes = [act.alpha for act in activations(model)]
    named = {id(alpha) for alpha in slopes}
    weights = torch.optim.SGD([p for p in model.parameters() if id(p) not in named], lr=lr, momentum=0.9)
    total, done = sum(epochs), 0
    for kind, count in order:
        penalized = kind == "penalty" and (share is not None or omega is not None)
        if kind == "penalty" and masks is not None:
            impose(model, masks)
        if kind == "penalty" and watch is not None:
            watch(model)
        steps = 0
        for _ in range(count):
            lr_now = lr * rate(done, free, total)
            for x, y in batches(split.train, 128, generator=generator):
                for group in weights.param_groups:
                    group["lr"] = lr_now
                for alpha in slopes:
                    alpha.requires_grad_(penalized)
                    alpha.grad = None
                model.train()
                loss = F.cross_entropy(model(x), y)
                if penalized:
                    steps += 1
                    loss = loss + (omega if omega is not None else RISE * steps) * linearity_penalty(model)
                weights.zero_grad()
                loss.backward()
                weights.step()
                if penalized:
                    with torch.no_grad():
                        for alpha in slopes:
                            alpha -= SLOPE_RATE * alpha.grad
                    linear = snap(model) / sum(len(alpha) for alpha in slopes)
                    penalized = share is None or linear < share
            done += 1
        if kind == "penalty" and share is not None:
            top_up(model, share)
    for alpha in slopes:
        alpha.requires_grad_(False)


def rate(epoch, free, total):
    """Half a cosine over the first epochs, and again over the rest."""
    at, length = (epoch, free) if epoch < free else (epoch - free, total - free)
    return 0.5 * (1 + math.cos(math.pi * at / length))


@torch.no_grad()
def top_up(model, share):
    """Makes the channels of the largest slopes linear, until the share is reached."""
    acts = activations(model)
    alpha = torch.cat([act.alpha for act in acts])
    wanted = round(share * len(alpha))
    if sum(int(act.linear.sum()) for act in acts) < wanted:
        mask = torch.zeros_like(alpha, dtype=torch.bool)
        mask[alpha.topk(wanted).indices] = True
        impose(model, list(mask.split([len(act.alpha) for act in acts])))


@torch.no_grad()
def impose(model, masks):
    for act, mask in zip(activations(model), masks, strict=True):
        act.linear |= mask
        act.alpha[act.linear] = 1.0
    return model


def activations(model):
    return [m for m in model.modules() if isinstance(m, LinearizableReLU)]


def judged(model, split):
    return {
        "test_accuracy": accuracy(model, split.test),
        "linear": 1 - nonlinear_fraction(model),
        "apl": average_path_length(model, split.test.inputs[:2]),
        "slope": torch.cat([act.alpha for act in activations(model)]).mean().item(),
    }
