"""Multifaceted feature visualization (Nguyen et al., 2016, arXiv:1602.03616)."""

import torch
from torch import nn

from assay import data
from assay.lab import Tune, all_of, at_least, claim, higher
from assay.probes import Octave, facet_starts, maximize_activation
from assay.train import accuracy, fit

PAIRS = ((0, 7), (1, 4), (2, 5), (3, 9), (6, 8))
GRID = {"step": (0.01, 0.02, 0.04), "weight": (2.0, 6.0, 18.0)}
SMOKE = dict(train=200, judges=200, images=30, epochs=1, shorten=20)
LEFT_OUT = (
    "an AlexNet on ImageNet, 1,000 units with 10 facets each; here five units that fire for two kinds of clothes each",
    "the judgement of eyes; here that of a network with other weights and other training images",
)


@claim(
    "multifaceted-visualization",
    says="For output units trained to fire for two visually different kinds of item, images from facet starts show "
    "both kinds, where the same number of images from random starts mostly show one or neither.",
    arms=("facets", "noise_start", "mean_of_random", "start_only"),
    holds=all_of(
        higher("coverage", "facets", than="noise_start", by=0.1),
        higher("coverage", "facets", than="mean_of_random", by=0.1),
    ),
    tune=Tune(GRID, by="purity", best="max", seeds=(1000,)),
    smoke=SMOKE,
    reported={"the grocery store unit": "rows of produce, and storefronts (a figure)"},
    left_out=LEFT_OUT,
)
def every_facet_appears(
    arm,
    seed,
    *,
    train=4_000,
    judges=4_000,
    images=300,
    epochs=4,
    lr=1e-3,
    facets=4,
    nearest=15,
    step=0.02,
    weight=6.0,
    shorten=1,
    validate=False,
):
    """Coverage: the share of a unit's two kinds that the judge is sure of, 0.5 or more, in one of its four images.

    Holds: of ten classes 7.2 are seen in the facets' pictures, 4.8 from means of random pictures, 1 from noise; 8.8
    in the starts themselves, before anything is made to fire more.
    """
    return visualized(
        arm, seed, train, judges, images, epochs, lr, facets, nearest, step, weight, shorten, validate=validate
    )


@claim(
    "multifaceted-visualization",
    says="Facet images look like one kind of item, not a mixture: an independent classifier is surer of them at equal "
    "or higher activation of the unit.",
    arms=("facets", "noise_start", "mean_of_random"),
    holds=all_of(
        higher("purity", "facets", than="noise_start", by=0.05),
        higher("purity", "facets", than="mean_of_random", by=0.05),
        at_least("activation_over_real", 0.0, arm="facets"),
    ),
    tune=Tune(GRID, by="purity", best="max", seeds=(1000,)),
    smoke=SMOKE,
    left_out=LEFT_OUT,
)
def facet_images_are_not_mixtures(
    arm,
    seed,
    *,
    train=4_000,
    judges=4_000,
    images=300,
    epochs=4,
    lr=1e-3,
    facets=4,
    nearest=15,
    step=0.02,
    weight=6.0,
    shorten=1,
    validate=False,
):
    """Activation over real: that of the unit, mean over its images, less its 90th percentile on real ones."""
    return visualized(
        arm, seed, train, judges, images, epochs, lr, facets, nearest, step, weight, shorten, validate=validate
    )


def visualized(arm, seed, train, judges, images, epochs, lr, facets, nearest, step, weight, shorten, *, validate):
    """Networks, images and starts come from the seed alone: all arms look into the same network."""
    split = data.load("fashion", train=train + judges, test=500, seed=seed, validate=validate)
    count = min(train, len(split.train.inputs) // 2)
    inputs, kinds = split.train
    pair_of = torch.zeros(10, dtype=torch.long)
    for unit, pair in enumerate(PAIRS):
        pair_of[list(pair)] = unit
    net = network(inputs[:count], pair_of[kinds[:count]], len(PAIRS), seed, epochs, lr)
    judge = network(inputs[count:], kinds[count:], 10, 10_000 + seed, epochs, lr)
    octaves = [
        Octave(60 // shorten, (step, step / 2), (weight, 4 * weight)),
        Octave(40 // shorten, (step / 2, step / 2), (2 * weight, 5 * weight), scale=1.14),
    ]
    generator = torch.Generator().manual_seed(seed)
    coverage, purity, over, gain = [], [], [], []
    for unit, pair in enumerate(PAIRS):
        own = inputs[:count][pair_of[kinds[:count]] == unit]
        with torch.no_grad():
            real = torch.cat([net(part)[:, unit] for part in own.split(500)])
        top = own[real.topk(min(images, len(own))).indices]
        starts = started(arm, net, top, facets, nearest, generator)
        pictures = starts
        if arm != "start_only":
            pictures = maximize_activation(net, unit, starts, octaves=octaves, generator=generator)
        with torch.no_grad():
            sure = judge(pictures).softmax(1)
            fired = net(pictures)[:, unit]
            before = net(starts)[:, unit]
        coverage.append((sure[:, list(pair)] >= 0.5).any(0).double().mean())
        purity.append(sure.amax(1).double().mean())
        over.append((fired.mean() - real.quantile(0.9)).double())
        gain.append((fired - before).mean().double())
    return {
        "coverage": torch.stack(coverage).mean().item(),
        "purity": torch.stack(purity).mean().item(),
        "activation_over_real": torch.stack(over).mean().item(),
        "activation_gain": torch.stack(gain).mean().item(),
        "network_accuracy": accuracy(net, data.Labelled(split.test.inputs, pair_of[split.test.targets])),
        "judge_accuracy": accuracy(judge, split.test),
    }


def started(arm, net, images, facets, nearest, generator):
    """As many starts in every arm; the opponents' means are of images drawn at random from the same."""
    if arm in ("facets", "start_only"):
        return facet_starts(net, images, code_layer="6", facets=facets, nearest=nearest, generator=generator)[0]
    if arm == "mean_of_random":
        picks = [torch.randperm(len(images), generator=generator)[:nearest] for _ in range(facets)]
        return torch.stack([images[pick].mean(0) for pick in picks])
    return (0.5 + 0.1 * torch.randn(facets, *images.shape[1:], generator=generator)).clamp(0, 1)


def network(inputs, targets, classes, seed, epochs, lr):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * 16, classes),
    )
    fit(net, data.Labelled(inputs, targets), torch.optim.Adam(net.parameters(), lr=lr), epochs=epochs, seed=seed)
    return net
