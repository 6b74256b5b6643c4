"""AdaHessian: an adaptive second-order optimizer (Yao et al., 2020, arXiv:2006.00719)."""

# ruff: noqa: PT028      a claim may be called test_accuracy; pytest looks for tests elsewhere

import statistics
import time

import numpy as np
import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import MultiStepLR

from assay import data, nn
from assay.lab import Tune, all_of, at_most, claim, higher
from assay.optim import AdaHessian
from assay.train import Diverged, accuracy, fit

OPTIMIZERS = {
    "adahessian": AdaHessian,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd_momentum": lambda parameters, **options: torch.optim.SGD(parameters, momentum=0.9, **options),
}


@claim(
    "adahessian",
    says="At equal epochs a small residual network reaches higher test accuracy with AdaHessian than with Adam.",
    arms=("adahessian", "adam", "adamw", "sgd_momentum"),
    holds=higher("test_accuracy", "adahessian", than="adam"),
    tune={
        "lr": {
            "adahessian": (0.05, 0.15, 0.5, 1.5),
            "adam": (3e-4, 1e-3, 3e-3, 1e-2),
            "adamw": (1e-3, 3e-3, 1e-2, 3e-2),
            "sgd_momentum": (0.03, 0.1, 0.3, 1.0),
        }
    },
    smoke=dict(train=32, test=50, epochs=1, widths=(2, 4, 4), batch_size=32),
    paper=dict(dataset="cifar10", train=50_000, test=10_000, widths=(16, 32, 64), epochs=160, batch_size=256),
    reported={
        "ResNet20 on CIFAR-10, test accuracy": "AdaHessian 92.13 %, Adam 90.33 %, AdamW 91.97 %, SGD 92.08 %",
        "ResNet32 on CIFAR-10, test accuracy": "AdaHessian 93.08 %, Adam 91.63 %, AdamW 92.72 %, SGD 93.14 %",
    },
    left_out=(
        "ResNet20 and 32 on CIFAR-10, ResNet18 on ImageNet; here a residual network of 8 layers on Fashion-MNIST",
        "160 epochs of 50,000 images, batches of 256; here 6 epochs of 2,500 in batches of 64",
        "widths 16, 32, 64; here 8, 16, 32",
    ),
)
def test_accuracy(
    arm,
    seed,
    *,
    dataset="fashion",
    train=2_500,
    test=3_000,
    widths=(8, 16, 32),
    epochs=6,
    batch_size=64,
    lr=1e-3,
    weight_decay=5e-4,
    validate=False,
):
    """The learning rate falls by ten at half and at five sixths of the epochs.

    The weight decay is decoupled for AdaHessian and AdamW and part of the gradient for Adam and SGD, as in the paper.

    Fails: 75.1 % against Adam's 78.1 % (AdamW 78.3, SGD 76.2 %), all at the best of four rates that lie inside their
    grids, but for Adam's, whose best is the largest, 0.01. Steps agree with the authors' code on the same signs. What
    is left of the paper's setting is little: 240 steps of one probe each, of a small network with batch norms; its
    160 epochs are 31,000.
    """
    split = data.load(dataset, train=train, test=test, seed=seed, validate=validate)
    network = nn.build("resnet8", split.shape, split.num_classes, widths=widths)
    optimizer = OPTIMIZERS[arm](network.parameters(), lr=lr, weight_decay=weight_decay)
    milestones = [max(1, epochs // 2), max(2, epochs * 5 // 6)]
    history = fit(
        network,
        split.train,
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        schedule=lambda each: MultiStepLR(each, milestones),
        channels_last=arm != "adahessian",  # a matter of speed alone: second derivatives are slower in that layout
    )
    return {"test_accuracy": accuracy(network, split.test), "loss": history.loss, "seconds": history.seconds}


@claim(
    "adahessian",
    says="When the learning rate is wrong by factors of two to eight AdaHessian loses less accuracy than AdamW does.",
    arms=("adahessian", "adamw", "adam"),
    holds=higher("worst_accuracy", "adahessian", than="adamw"),
    tune=Tune(
        {"lr": {"adahessian": (0.05, 0.15, 0.5), "adamw": (1e-3, 3e-3, 1e-2), "adam": (3e-4, 1e-3, 3e-3)}},
        by="accuracy_at_best",
        best="max",
    ),
    smoke=dict(train=100, test=100, epochs=1, factors=(0.5, 1.0)),
    left_out=(
        "a transformer translating IWSLT14, judged by BLEU; here a small CNN on 8 x 8 digits, judged by accuracy",
        "warm-up of the learning rate",
    ),
)
def lr_robustness(
    arm,
    seed,
    *,
    dataset="digits",
    train=1_200,
    test=360,
    epochs=12,
    batch_size=64,
    lr=1e-3,
    factors=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    validate=False,
):
    """Factors are relative to each arm's own best learning rate; a run that diverges scores as chance does.

    Fails: at its worst factor AdaHessian keeps 87.5 % of the digits (93.9 % at its best), AdamW 92.8 (95.1) and
    Adam 92.1. Factors reach from a quarter to eight times the tuned rate; for AdaHessian that is from 0.04 to 1.2,
    and its upper end is past Newton's step.
    """
    split = data.load(dataset, train=train, test=test, seed=seed, validate=validate)
    curve = []
    for factor in factors:
        torch.manual_seed(seed)
        network = nn.smallcnn(split.shape, split.num_classes)
        optimizer = OPTIMIZERS[arm](network.parameters(), lr=lr * factor)
        try:
            fit(network, split.train, optimizer, epochs=epochs, batch_size=batch_size, seed=seed)
            curve.append(accuracy(network, split.test))
        except Diverged:
            curve.append(1 / split.num_classes)
    return {
        "worst_accuracy": min(curve),
        "accuracy_at_best": curve[factors.index(1.0)],
        "accuracy_by_factor": np.array(curve),
    }


@claim(
    "adahessian",
    says="One AdaHessian iteration costs at most three times an SGD iteration, and near one when the diagonal is "
    "refreshed every fifth step.",
    arms=("adahessian", "adahessian_every5", "adam", "sgd"),
    holds=all_of(
        at_most("step_seconds_ratio", 3.0, arm="adahessian"),
        at_most("step_seconds_ratio", 1.6, arm="adahessian_every5"),
    ),
    together=True,
    exclusive=True,
    smoke=dict(batch_size=10, blocks=1, widths=(2, 4, 4)),
    left_out=("ResNet20 on CIFAR-10 on one GPU; here a residual network of 8 layers on a processor",),
)
def step_cost(arms, seed, *, batch_size=128, blocks=4, widths=(16, 32, 64)):
    """Whole iterations (forward, backward, step) in interleaved blocks of five, so that each holds one refresh.

    The seconds of an arm are the median over the blocks after the first; no graph is made for a step that needs none.
    """
    split = data.load("fashion", train=batch_size, test=0, seed=seed)
    steps = {arm: iteration(arm, split, widths) for arm in arms}
    seconds = {arm: [] for arm in arms}
    for _ in range(1 + blocks):
        for arm, step in steps.items():
            start = time.perf_counter()
            for _ in range(5):
                step()
            seconds[arm].append((time.perf_counter() - start) / 5)
    median = {arm: statistics.median(times[1:]) for arm, times in seconds.items()}
    return {arm: {"step_seconds_ratio": median[arm] / median["sgd"], "step_seconds": median[arm]} for arm in arms}


def iteration(arm, split, widths):
    """A function that makes one iteration of an arm, at a learning rate too small to lead it astray."""
    network = nn.resnet8(split.shape, split.num_classes, widths=widths)
    parameters = list(network.parameters())
    optimizer = {
        "adahessian": lambda: AdaHessian(parameters, lr=1e-4),
        "adahessian_every5": lambda: AdaHessian(parameters, lr=1e-4, update_every=5),
        "adam": lambda: torch.optim.Adam(parameters, lr=1e-4),
        "sgd": lambda: torch.optim.SGD(parameters, lr=1e-4, momentum=0.9),
    }[arm]()

    def step():
        loss = F.cross_entropy(network(split.train.inputs), split.train.targets)
        graph = getattr(optimizer, "diagonal_due", False)
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, create_graph=graph), strict=True):
            p.grad = g
        optimizer.step()

    return step
