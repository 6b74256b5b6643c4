"""Convergent learning: do different networks learn the same representations? (Li et al., 2015, arXiv:1511.07543)."""

from dataclasses import replace

import torch
from scipy.stats import spearmanr
from torch import nn

from assay import data
from assay.lab import all_of, at_least, claim, higher, lower
from assay.probes import (
    UnitCorrelation,
    assign_units,
    record_activations,
    rotated_units,
    sparse_prediction,
    stream_activations,
    unit_correlation,
    unit_samples,
    units_needed,
)
from assay.train import accuracy, fit

LAYERS = ("1", "3", "5")
SMOKE = dict(train=128, images=40, epochs=1, samples=400)
PAPER = dict(dataset="imagenet", model="alexnet")
LEFT_OUT = (
    "four AlexNets on ImageNet, conv1 to fc7; here three small networks on Fashion-MNIST, three convolutions",
    "mutual information as a score, which the paper finds to give nearly the same matching",
)


@claim(
    "convergent-learning",
    says="How well a unit is matched is a property of the feature: units matched well in one other network are the "
    "ones matched well in another, and some units are matched well while others are not.",
    arms=("trained", "untrained"),
    holds=all_of(at_least("reliability", 0.4, arm="trained"), at_least("spread", 0.2, arm="trained")),
    together=True,
    smoke=dict(train=128, images=40, epochs=1),
    reported={"validation accuracy of the four networks": "58.65 to 58.84 %"},
    left_out=LEFT_OUT,
)
def some_features_are_reliable(arms, seed, *, train=6_000, images=1_000, epochs=4, lr=1e-3):
    """Scores of the units of network 1 with network 2, and with network 3; all positions but the border.

    Holds: reliability 0.54, spread 0.43. Untrained networks have as much of both, 0.56 and 0.56: what can be
    matched hangs on the filters that units happen to have, too. Training makes the matches themselves better, 0.70,
    0.80 and 0.80 by layer where untrained layers have 0.64, 0.51 and 0.38. Three networks a seed.
    """
    split = pictures(train, images, seed)
    results = {}
    for arm in arms:
        nets = [network(split, seed, number, lr, epochs if arm == "trained" else 0) for number in range(3)]
        reliability, spread = [], []
        for layer in LAYERS:
            alive = [lively(net, layer, split) for net in nets]
            scores = []
            for other in (1, 2):
                table = correlations(nets[0], nets[other], layer, split)[alive[0]][:, alive[other]]
                scores.append(assign_units(table).score)
            both = ~(scores[0].isnan() | scores[1].isnan())
            reliability.append(float(spearmanr(scores[0][both], scores[1][both]).statistic))
            found = torch.cat([score[~score.isnan()] for score in scores])
            ends = found.quantile(torch.tensor([0.1, 0.9]).double())
            spread.append((ends[1] - ends[0]).item())
            results.setdefault(arm, {})[f"matched_{layer}"] = scores[0][both].mean().item()
        results[arm] |= {
            "reliability": sum(reliability) / 3,
            "spread": sum(spread) / 3,
            "test_accuracy": accuracy(nets[0], split.test),
        }
    return results


@claim(
    "convergent-learning",
    says="A layer's units are predicted well from all units of another network's layer, much better than from the "
    "single best-matching unit: the span is shared, the basis vectors less so.",
    arms=("many_units", "one_unit", "untrained_many"),
    holds=all_of(
        higher("r2", "many_units", than="one_unit", by=0.1),
        higher("r2", "many_units", than="untrained_many"),
    ),
    together=True,
    smoke=SMOKE,
    left_out=LEFT_OUT,
)
def subspaces_more_than_basis(arms, seed, *, train=6_000, images=1_000, epochs=4, lr=1e-3, samples=20_000, ridge=1e-3):
    """The middle layer; fitted to positions of one half of the images, judged on those of the other.

    Holds: R2 of 0.978 from all units, 0.816 from the best one; all units of an untrained network have 0.949 already.
    """
    split = pictures(train, images, seed)
    target, source = (network(split, seed, number, lr, epochs) for number in range(2))
    blank = network(split, seed, 2, lr, 0)
    truth, seen = halves(target, split, samples, seed), halves(source, split, samples, seed)
    raw = halves(blank, split, samples, seed)
    alive = truth[0].std(0) > 0.05 * truth[0].std(0).median()
    truth = [part[:, alive] for part in truth]
    best = unit_correlation(*(part[0] for part in (truth, seen))).abs().argmax(1)
    alone = []
    for i, j in enumerate(best.tolist()):
        held_out = (seen[1][:, [j]], truth[1][:, [i]])
        alone.append(sparse_prediction(seen[0][:, [j]], truth[0][:, [i]], l1=0.0, ridge=ridge, held_out=held_out).r2)

    def explained(parts):
        found = sparse_prediction(parts[0], truth[0], l1=0.0, ridge=ridge, held_out=(parts[1], truth[1]))
        return found.r2.mean().item()

    return {
        "many_units": {"r2": explained(seen)},
        "one_unit": {"r2": torch.cat(alone).mean().item()},
        "untrained_many": {"r2": explained(raw)},
    }


@claim(
    "convergent-learning",
    says="The learned basis is not arbitrary: matched correlations fall when the partner's units are randomly rotated "
    "within their span; yet few-to-one prediction needs more than one unit.",
    arms=("actual_basis", "rotated_basis"),
    holds=all_of(
        higher("matched", "actual_basis", than="rotated_basis", by=0.05),
        at_least("used", 2, arm="actual_basis"),
        lower("used", "actual_basis", than="rotated_basis"),
    ),
    together=True,
    smoke=SMOKE,
    left_out=LEFT_OUT,
)
def code_is_partly_local(
    arms, seed, *, train=6_000, images=1_000, epochs=4, lr=1e-3, samples=20_000, rotations=5, targets=32
):
    """A mean over three layers, and over five rotations of each; the median number of units over all targets."""
    split = pictures(train, images, seed)
    nets = [network(split, seed, number, lr, epochs) for number in range(2)]
    generator = torch.Generator().manual_seed(seed)
    matched = {arm: [] for arm in arms}
    used = {arm: [] for arm in arms}
    for layer in LAYERS:
        one, two = (torch.cat(halves(net, split, samples, seed, layer)) for net in nets)
        one, two = (part[:, part.std(0) > 0.05 * part.std(0).median()] for part in (one, two))
        some = torch.randperm(one.shape[1], generator=generator)[:targets]
        bases = [("actual_basis", two)]
        bases += [("rotated_basis", rotated_units(two, generator=generator)) for _ in range(rotations)]
        for arm, basis in bases:
            score = assign_units(unit_correlation(one, basis)).score
            matched[arm].append(score[~score.isnan()].mean())
            used[arm].append(units_needed(basis, one[:, some]).used.double())
    return {
        arm: {
            "matched": torch.stack(matched[arm]).mean().item(),
            "used": torch.cat(used[arm]).quantile(0.5).item(),
            "used_mean": torch.cat(used[arm]).mean().item(),
        }
        for arm in arms
    }


def pictures(train, images, seed):
    """Fashion-MNIST, each image with its mean taken off, so that brightness drives no unit."""
    split = data.load("fashion", train=train, test=images, seed=seed)
    centred = {
        name: data.Labelled(part.inputs - part.inputs.mean((1, 2, 3), keepdim=True), part.targets)
        for name, part in (("train", split.train), ("test", split.test))
    }
    return replace(split, **centred)


def network(split, seed, number, lr, epochs):
    """The same images for all; initial weights and order of batches are each network's own."""
    torch.manual_seed(10 * seed + number)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 49, 10),
    )
    if epochs:
        fit(net, split.train, torch.optim.Adam(net.parameters(), lr=lr), epochs=epochs, seed=10 * seed + number)
    return net


def correlations(one, two, layer, split):
    both = UnitCorrelation()
    streams = [stream_activations(net, [layer], split.test.inputs, batch_size=250) for net in (one, two)]
    for a, b in zip(*streams, strict=True):
        both.update(unit_samples(a[layer], border=1), unit_samples(b[layer], border=1))
    return both.value()


def lively(net, layer, split):
    """Units whose standard deviation is at least 5 % of the layer's median."""
    maps = record_activations(net, [layer], split.test.inputs)[layer]
    deviation = unit_samples(maps, border=1).std(0)
    return deviation > 0.05 * deviation.median()


def halves(net, split, samples, seed, layer=LAYERS[1]):
    """The same positions for every network: some of one half of the images, some of the other."""
    maps = record_activations(net, [layer], split.test.inputs)[layer]
    parts = [unit_samples(part, border=1) for part in maps.chunk(2)]
    generator = torch.Generator().manual_seed(seed)
    return [part[torch.randperm(len(part), generator=generator)[:samples]] for part in parts]
