"""Do deep neural network solutions form a star domain? (Sonthalia et al., 2024, arXiv:2403.07968)."""

import copy
import statistics

import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from assay import data, metrics, nn
from assay.lab import all_of, at_most, claim, higher, lower
from assay.probes import PermutationSpec, Starlight, merge_many, star_barriers, star_samples
from assay.train import evaluate, fit

SMOKE = dict(train=200, test=100, anchors=3, epochs=1, star_epochs=2)
PAPER = dict(dataset="mnist", train=60_000, test=10_000)
LEFT_OUT = (
    "ResNet-18, DenseNet, VGG and wide residual networks on CIFAR-10, CIFAR-100 and ImageNet; here a perceptron",
    "MNIST; here 4,000 images of Fashion-MNIST",
    "200 epochs for the star; here 40, four times those of an anchor",
)


@claim(
    "star-domain",
    says="One trained star model has much lower barriers to unseen independent solutions than those solutions have "
    "among each other, all permutation-aligned.",
    arms=("star", "anchor", "merged", "long_anchor"),
    holds=all_of(
        at_most("barrier_over_anchors", 0.6, arm="star"),
        lower("barrier", "star", than="merged"),
        lower("barrier", "star", than="long_anchor"),
    ),
    together=True,
    smoke=SMOKE | dict(held_out=1, probed=100, points=3),
    paper=PAPER,
    reported={
        "MNIST, width 16, anchor against star": "0.312 against 0.111 (result files of the authors' repository)",
        "width 32": "0.193 against 0.063",
        "width 256": "0.006 against 0.003",
        "ResNet-18 on CIFAR-10": "0.381 against 0.148",
    },
    left_out=LEFT_OUT,
)
def star_reaches_unseen_solutions(
    arms,
    seed,
    *,
    dataset="fashion",
    train=4_000,
    probed=2_000,
    test=0,
    anchors=10,
    held_out=3,
    epochs=10,
    star_epochs=40,
    width=32,
    points=21,
):
    """Mean barrier of the training loss to networks that were no anchors, in nats, each aligned to the centre.

    Undecided: the star's barrier to networks it has not seen is 0.050, 0.53 of that between anchors (0.096) where
    0.6 was allowed, with 0.08 between seeds. It is lower than that of the mean of the matched anchors (0.069; this
    part holds); training longer brings nothing (0.096).
    """
    split = data.load(dataset, train=train, test=test, seed=seed)
    spec, known, starlight, long_anchor = solutions(split, seed, anchors, epochs, star_epochs, width)
    unseen = [trained(split, seed + 1_000_000 * (i + 1), epochs, width) for i in range(held_out)]
    seen = data.Labelled(split.train.inputs[:probed], split.train.targets[:probed])
    generator = torch.Generator().manual_seed(seed)
    merged = merge_many(known, spec, generator=generator)
    tune(merged, split, seed, epochs)

    def height(centre):
        heights = star_barriers(
            centre, unseen, lambda model: evaluate(model, seen), spec, points=points, generator=generator
        )
        return heights.mean().item()

    heights = {
        "star": height(starlight.star),
        "anchor": statistics.fmean(height(anchor) for anchor in known[:held_out]),
        "merged": height(merged),
        "long_anchor": height(long_anchor),
    }
    losses = {
        "star": evaluate(starlight.star, seen),
        "anchor": evaluate(known[0], seen),
        "merged": evaluate(merged, seen),
        "long_anchor": evaluate(long_anchor, seen),
    }
    return {
        arm: {
            "barrier": heights[arm],
            "barrier_over_anchors": heights[arm] / heights["anchor"],
            "train_loss": losses[arm],
        }
        for arm in arms
    }


@claim(
    "star-domain",
    says="The star model alone is a better classifier than a single solution, though not as good as an ensemble of the "
    "anchors.",
    arms=("star", "anchor", "long_anchor", "ensemble"),
    holds=all_of(
        lower("test_nll", "star", than="anchor"),
        higher("test_accuracy", "star", than="anchor", by=-0.002),
        lower("test_nll", "ensemble", than="star"),
    ),
    together=True,
    smoke=SMOKE,
    paper=PAPER,
    left_out=LEFT_OUT,
)
def star_is_better_than_one_model(
    arms, seed, *, dataset="fashion", train=4_000, test=3_000, anchors=10, epochs=10, star_epochs=40, width=32
):
    """An anchor's numbers are means over all anchors.

    Fails by its likelihood: 84.0 % and 0.480 nats, anchors 83.5 and 0.465, their ensemble 83.9 and 0.447. The star
    model has trained four times as long as an anchor and is overconfident (a calibration error of 0.043 beside 0.017);
    an anchor that trained as long has 0.510 nats.
    """
    split = data.load(dataset, train=train, test=test, seed=seed)
    _, known, starlight, long_anchor = solutions(split, seed, anchors, epochs, star_epochs, width)
    alone = [quality([anchor], split.test) for anchor in known]
    return {
        "star": quality([starlight.star], split.test),
        "anchor": {name: statistics.fmean(each[name] for each in alone) for name in alone[0]},
        "long_anchor": quality([long_anchor], split.test),
        "ensemble": quality(known, split.test),
    }


@claim(
    "star-domain",
    says="Averaging predictions over networks drawn from the star domain gives better predictive likelihood than "
    "averaging as many of the independent solutions.",
    arms=("star_bma", "anchor_ensemble", "star"),
    holds=lower("test_nll", "star_bma", than="anchor_ensemble"),
    together=True,
    smoke=SMOKE | dict(more_samples=4),
    paper=PAPER,
    left_out=LEFT_OUT,
)
def sampling_the_star_domain_calibrates(
    arms,
    seed,
    *,
    dataset="fashion",
    train=4_000,
    test=3_000,
    anchors=10,
    epochs=10,
    star_epochs=40,
    width=32,
    more_samples=50,
):
    """As many samples as there are anchors; with more samples too, and calibration in 15 bins, for the record."""
    split = data.load(dataset, train=train, test=test, seed=seed)
    _, known, starlight, _ = solutions(split, seed, anchors, epochs, star_epochs, width)
    generator = torch.Generator().manual_seed(seed)
    drawn = list(star_samples(starlight.star, starlight.anchors, max(anchors, more_samples), generator=generator))
    sampled = quality(drawn[:anchors], split.test)
    more = quality(drawn, split.test)
    return {
        "star_bma": sampled | {f"{name}_of_more_samples": value for name, value in more.items()},
        "anchor_ensemble": quality(known, split.test),
        "star": quality([starlight.star], split.test),
    }


def solutions(split, seed, anchors, epochs, star_epochs, width):
    """Spec, anchors, the trained star with its aligned anchors, and a network trained as long as the star."""
    known = [trained(split, seed + 1_000 * (i + 1), epochs, width) for i in range(anchors)]
    spec = PermutationSpec.of(known[0], split.train.inputs)
    torch.manual_seed(seed)
    star = nn.mlp(split.shape, split.num_classes, widths=(width,))
    long_anchor = copy.deepcopy(star)
    starlight = Starlight(star, known, spec, generator=torch.Generator().manual_seed(seed))
    tune(star, split, seed, star_epochs, rule=starlight, on_epoch=starlight.align)
    tune(long_anchor, split, seed, star_epochs)
    return spec, known, starlight, long_anchor


def trained(split, seed, epochs, width):
    torch.manual_seed(seed)
    network = nn.mlp(split.shape, split.num_classes, widths=(width,))
    tune(network, split, seed, epochs)
    return network


def tune(network, split, seed, epochs, *, rule=None, on_epoch=()):
    """The one recipe: SGD with momentum and a cosine schedule."""
    fit(
        network,
        split.train,
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        epochs=epochs,
        batch_size=128,
        rule=rule,
        on_epoch=on_epoch,
        schedule=lambda optimizer: CosineAnnealingLR(optimizer, epochs),
        seed=seed,
    )


def quality(networks, examples):
    """Of the mean of the networks' predicted probabilities."""
    with torch.no_grad():
        mean = torch.stack([network.eval()(examples.inputs).softmax(1) for network in networks]).mean(0)
    return {
        "test_nll": F.nll_loss(mean.clamp_min(1e-12).log(), examples.targets).item(),
        "test_accuracy": metrics.accuracy(mean, examples.targets),
        "calibration_error": metrics.calibration_error(mean, examples.targets, 15),
    }
