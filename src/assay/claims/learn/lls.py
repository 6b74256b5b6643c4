"""LLS: a local learning rule inspired by the synchronization of neurons (Apolinario et al., 2025, arXiv:2405.15868)."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from assay import data
from assay.lab import Tune, all_of, claim, higher, ratio
from assay.learn import LLS, BlockChain, DirectFeedbackAlignment, backpropagation
from assay.metrics.costs import step_costs
from assay.train import accuracy, fit

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
LEFT_OUT = (
    "the schedule-free AdamW of the authors; here AdamW with a cosine schedule, for every arm",
    "100 epochs of 60,000 images; here 6 of 4,000",
    "widths 32, 64, 128 and 512; here half of them",
    "VGG8, and CIFAR, Imagenette, TinyImageNet, Visual Wake Words",
)
SMOKE = dict(train=128, test=50, epochs=1)
PAPER = dict(train=60_000, test=10_000, epochs=100, widths=(32, 64, 128, 512))


@claim(
    "lls",
    says="Training every layer on fixed periodic targets reaches an accuracy close to backpropagation, with no trained "
    "auxiliary parameters, and better than direct feedback alignment.",
    arms=("lls", "lls_mxm", "bp", "dfa", "random_basis"),
    holds=all_of(
        higher("test_accuracy", "lls", than="bp", by=-0.03),
        higher("test_accuracy", "lls", than="dfa"),
    ),
    tune=Tune({"lr": RATES}, by="test_accuracy", best="max", seeds=(1000,)),
    smoke=SMOKE,
    paper=PAPER,
    reported={"what the abstract says": "comparable to backpropagation from MNIST to TinyImageNet"},
    left_out=LEFT_OUT,
)
def comparable_to_backprop(
    arm, seed, *, train=4_000, test=3_000, epochs=6, widths=(16, 32, 64, 256), lr=3e-3, validate=False
):
    """One network, with batch norms and leaky ReLUs, and one optimizer for all arms.

    Fails: 81.5 % against 87.0 % for backpropagation, 5.4 points where 3 were allowed, and 80.8 % for direct
    feedback alignment, from which five seeds do not tell it. A matrix learned for each block brings 82.3 %. Waves
    or random vectors make no difference (81.7 %). All learning rates but that of the matrices lie inside their
    grids, losses agree with the authors' code; six epochs of 4,000 images are a hundredth of their training.
    """
    rules = {
        "lls": lambda chain: LLS(chain, 10, pool=(4, 2, 2, 4)),
        "lls_mxm": lambda chain: LLS(chain, 10, variant="MxM", pool=(4, 2, 2, 4)),
        "random_basis": lambda chain: LLS(chain, 10, waveform="random", pool=(4, 2, 2, 4)),
        "bp": lambda chain: None,
        "dfa": DirectFeedbackAlignment,
    }
    return trained(rules[arm], seed, train, test, epochs, widths, lr, validate)


@claim(
    "lls",
    says="The periodicity matters: fixed periodic vectors work better than fixed random vectors of the same shape.",
    arms=("cosine", "square", "random_basis"),
    holds=all_of(
        higher("test_accuracy", "cosine", than="random_basis"),
        higher("test_accuracy", "square", than="cosine", by=-0.02),
        higher("test_accuracy", "cosine", than="square", by=-0.02),
    ),
    tune=Tune({"lr": RATES}, by="test_accuracy", best="max", seeds=(1000,)),
    smoke=SMOKE,
    paper=PAPER,
    left_out=(*LEFT_OUT, "the authors' random basis, which is a tenth as long and not met by a normalized activity"),
)
def periodic_beats_random_basis(
    arm, seed, *, train=4_000, test=3_000, epochs=6, widths=(16, 32, 64, 256), lr=3e-3, validate=False
):
    """The random vectors have the scale of a wave, and the activity is brought to length 1 in every arm.

    Undecided: 81.5 % with cosines, 81.2 with square waves, 81.7 with random vectors: half a point between
    them, which five seeds do not tell apart.
    """
    waveform = "random" if arm == "random_basis" else arm

    def rule(chain):
        return LLS(chain, 10, waveform=waveform, pool=(4, 2, 2, 4))

    return trained(rule, seed, train, test, epochs, widths, lr, validate)


@claim(
    "lls",
    says="A step of training every layer on fixed targets takes about half of the memory that backpropagation takes.",
    arms=("lls", "bp"),
    holds=ratio("peak_mib", "lls", to="bp", at_most=0.6),
    together=True,
    exclusive=True,
    smoke=dict(batch_size=64, repeats=1),
    reported={"what the abstract says": "about half of the memory"},
    left_out=("widths 32, 64, 128 and 512; here half of them", "VGG8 and larger images"),
)
def half_the_memory(arms, seed, *, batch_size=256, widths=(16, 32, 64, 256), repeats=7):
    """Tensors alive at once in a step, its gradients and AdamW's moments being there already.

    That a chain of sixteen equal blocks takes 0.29 of the memory that is resident was known (docs/bench/learn.md) when
    this claim was written. Resident memory said 112.7 MiB against 113.1 for this network: most of it were holes that
    the allocator leaves between what one block frees and the next one asks for, so that tensors are counted now.

    Fails: 61.3 MiB against 81.4, three quarters, in the same time. The first block has the largest maps by far, and
    holds nearly all of what a step of this chain needs, whichever rule trains it; depth at equal sizes is what local
    training saves.
    """
    split = data.load("fashion", train=batch_size, test=10, seed=seed)
    steps = {}
    for arm in arms:
        torch.manual_seed(seed)
        chain = small_conv(widths)
        rule = LLS(chain, 10, pool=(4, 2, 2, 4)) if arm == "lls" else backpropagation
        optimizer = torch.optim.AdamW([*chain.parameters(), *getattr(rule, "parameters", list)()], lr=1e-3)

        def step(chain=chain, rule=rule, optimizer=optimizer):
            optimizer.zero_grad(set_to_none=False)
            rule(chain, *split.train, F.cross_entropy)
            optimizer.step()

        steps[arm] = step
    return step_costs(steps, repeats=repeats)


def trained(rule_of, seed, train, test, epochs, widths, lr, validate):
    split = data.load("fashion", train=train, test=test, seed=seed, validate=validate)
    torch.manual_seed(seed)
    chain = small_conv(widths)
    rule = rule_of(chain)
    parameters = [*chain.parameters(), *([] if rule is None else getattr(rule, "parameters", list)())]
    history = fit(
        chain,
        split.train,
        torch.optim.AdamW(parameters, lr=lr),
        epochs=epochs,
        rule=rule,
        seed=seed,
        schedule=lambda optimizer: CosineAnnealingLR(optimizer, epochs),
    )
    return {"test_accuracy": accuracy(chain, split.test), "loss": history.loss, "seconds": history.seconds}


def small_conv(widths):
    """The authors' SmallConv: the local loss of a block is at the end of its activation, before pooling."""
    a, b, c, d = widths
    return BlockChain(
        nn.Sequential(nn.Conv2d(1, a, 3, padding=1), nn.BatchNorm2d(a), nn.LeakyReLU()),
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.LeakyReLU()),
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(b, c, 3, padding=1), nn.BatchNorm2d(c), nn.LeakyReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * c, d), nn.BatchNorm1d(d), nn.LeakyReLU()),
        nn.Linear(d, 10),
    )
