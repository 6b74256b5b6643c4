"""Which shortcut cues will DNNs choose? (Scimeca et al., 2021, arXiv:2110.03095)."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from assay.curvature import filter_normalized_rise
from assay.data import Labelled, batches
from assay.lab import all_of, at_least, claim, higher, lower
from assay.nn import mlp
from assay.probes import CueTest, basin_retention
from assay.train import evaluate, fit

LEFT_OUT = (
    "dSprites of 64 x 64 and UTKFace; here shapes of our own of 32 x 32",
    "ResNet20 and a vision transformer",
)
SOLVED = 0.05


@claim(
    "shortcut-cues",
    says="When color, shape, scale and orientation predict the label equally well, networks follow color.",
    arms=("cnn", "mlp"),
    holds=all_of(
        at_least("color_margin", 0.3, arm="cnn"),
        at_least("color_margin", 0.3, arm="mlp"),
    ),
    smoke=dict(train=100, test=100, epochs=1),
    paper=dict(train=50_000),
    reported={
        "dSprites": "color accuracy near 100 % off the diagonal, other cues near chance, for three architectures"
    },
    left_out=LEFT_OUT,
)
def color_is_chosen(arm, seed, *, train=3_000, test=2_000, epochs=15, lr=1e-3):
    """Training ends when the loss is 0.01, or after 15 epochs.

    At five seeds the convolutional network follows color on 90 % of the images where the cues disagree and scale on 40,
    the perceptron color on 99.5 %; the others are at a third, which is chance.
    """
    generator = torch.Generator().manual_seed(seed)
    cues = CueTest()
    part = cues.diagonal(train, generator)
    torch.manual_seed(seed)
    network = convnet() if arm == "cnn" else mlp((3, 32, 32), 3, widths=(256, 256))
    loss = until_solved(network, part, part, epochs, lr, seed, solved=0.01)
    scores = cues.score(network, test, generator=generator)
    margin = scores["color"] - max(value for name, value in scores.items() if name != "color")
    return {"color_margin": margin, **scores, "train_loss": loss}


@claim(
    "shortcut-cues",
    says="Solutions that follow the preferred cue (color) lie in flatter minima than solutions that follow shape or "
    "orientation.",
    arms=("color", "shape", "orientation"),
    holds=all_of(
        lower("rise", "color", than="shape"),
        lower("rise", "color", than="orientation"),
    ),
    smoke=dict(train=100, diagonal=100, epochs=1, directions=2, solved=10.0),
    left_out=LEFT_OUT,
)
def preferred_cue_is_flatter(
    arm, seed, *, train=8_000, diagonal=1_000, epochs=30, lr=3e-3, radius=0.25, directions=20, solved=SOLVED
):
    """The same initial weights for all; each learns its cue until it solves the diagonal set, where rises are measured.

    A network that does not get there has no rise: its trial is an error. The loss looked for is 0.05, as a network of
    this size that follows shape does not get to 0.01 on images it has not seen; training
    ends with the first batch that gets there, so that color, learned within a few, is no further along.
    """
    network, part, generator, loss = follower(arm, seed, train, diagonal, epochs, lr, solved)
    rises = {
        each: filter_normalized_rise(
            network, F.cross_entropy, *part, radius=each, directions=directions, generator=generator
        )
        for each in sorted({0.1, radius, 0.5})
    }
    scores = CueTest().score(network, generator=generator)
    return {
        "rise": rises[radius],
        "diagonal_loss": loss,
        "own": scores[arm],
        **{f"rise_at_{r}": v for r, v in rises.items()},
    }


@claim(
    "shortcut-cues",
    says="The preferred cue occupies more of parameter space: perturbed and retrained on ambiguous data, "
    "color-following networks stay with color more often than shape- or orientation-following ones stay with theirs.",
    arms=("color", "shape", "orientation"),
    holds=all_of(
        higher("retention", "color", than="shape", by=0.2),
        higher("retention", "color", than="orientation", by=0.2),
    ),
    smoke=dict(train=100, diagonal=100, epochs=1, retrain_epochs=1, draws=1, solved=10.0, test=100),
    left_out=(*LEFT_OUT, "the authors' own measure of abundance"),
)
def preferred_cue_is_abundant(
    arm, seed, *, train=8_000, diagonal=1_000, test=1_000, epochs=30, retrain_epochs=5, lr=3e-3, radius=1.0, draws=5,
    solved=SOLVED,
):  # fmt: skip
    """The networks of `preferred_cue_is_flatter`, moved by the length of their weights and trained on the diagonal set.

    At the radii 0.25 and 0.5 all should stay.
    """
    network, part, generator, loss = follower(arm, seed, train, diagonal, epochs, lr, solved)

    def retrain(net):
        until_solved(net, part, part, retrain_epochs, lr, seed, solved=0.01)

    def score(net):
        return CueTest().score(net, test, generator=torch.Generator().manual_seed(seed))

    kept = {
        each: basin_retention(network, retrain, score, radius=each, draws=draws, generator=generator)
        for each in sorted({0.25, 0.5, radius})
    }
    return {"retention": kept[radius], "diagonal_loss": loss, **{f"retention_at_{r}": v for r, v in kept.items()}}


def convnet():
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3)),
    )


def follower(cue, seed, train, diagonal, epochs, lr, solved):
    """A network that was taught one cue, and the diagonal set that it solves with it."""
    generator = torch.Generator().manual_seed(seed)
    cues = CueTest()
    part = cues.diagonal(diagonal, generator)
    taught = cues.biased(train, cue, generator)
    torch.manual_seed(seed)
    network = convnet()
    loss = until_solved(network, taught, part, epochs, lr, seed, solved)
    if loss > solved:
        raise RuntimeError(f"taught {cue}, the network has a loss of {loss:.3f} on the diagonal after {epochs} epochs")
    return network, part, generator, loss


def until_solved(network, taught, judged, epochs, lr, seed, solved):
    """Adam until the loss on `judged` is low enough; that loss.

    It is looked at after every thousand images; the thousand that got there are gone through again, batch by batch.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    loss, order = float("inf"), torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for piece in batches(taught, 1_000, generator=order):
            before = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
            loss = step(network, piece, optimizer, order, judged)
            if loss > solved:
                continue
            network.load_state_dict(before[0])
            optimizer.load_state_dict(before[1])
            for part in batches(Labelled(*piece), 64, generator=order):
                loss = step(network, part, optimizer, order, judged)
                if loss <= solved:
                    return loss
    return loss


def step(network, part, optimizer, order, judged):
    fit(network, Labelled(*part), optimizer, epochs=1, batch_size=64, generator=order)
    return evaluate(network, judged)
