"""Toward Understanding Why Adam Converges Faster Than SGD for Transformers (Pan, Li, 2023, arXiv:2306.00204)."""

import numpy as np
import torch
from torch.nn import functional as F

from assay import data, nn
from assay.lab import Tune, all_of, at_least, claim, higher, lower
from assay.optim import CoordinateClipped, coordinate_clip
from assay.probes import directional_sharpness

SMOKE = dict(vocabulary=16, sentences=64, context=8, d=8, depth=1)
LEFT_OUT = (
    "machine translation of books and masked language models; here a language from a formula and next-word prediction",
    "the models' sizes; here two layers of width 64",
    "Lion, Adafactor and normalized SGD",
)
RATES = {
    "sgdm_clip10": (0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    "sgdm": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "sgdm_normclip": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
}


@claim(
    "directional-sharpness",
    says="Measured at the same parameters, the SGD update direction has at least ten times the directional sharpness "
    "of Adam's direction on a transformer.",
    arms=("sgd", "adam", "sgd_clip10"),
    holds=all_of(
        lower("log10_sharpness", "adam", than="sgd", by=1.0),
        lower("log10_sharpness", "sgd_clip10", than="sgd"),
    ),
    together=True,
    smoke=SMOKE | dict(steps=8, warmup=2, every=2, probed=8),
    paper=dict(vocabulary=32_000, sentences=100_000, context=128, d=512, depth=6, steps=20_000),
    reported={
        "directional sharpness along training (figures)": "SGD's above that of adaptive methods by large factors"
    },
    left_out=LEFT_OUT,
)
def sgd_direction_is_sharper(
    arms,
    seed,
    *,
    vocabulary=512,
    sentences=12_800,
    context=32,
    d=64,
    depth=2,
    batch_size=32,
    steps=600,
    warmup=100,
    every=20,
    probed=64,
    lr=1e-3,
    control_lr=0.3,
):
    """Medians over points of one trajectory, Adam's, of the logarithm of the sharpness on a fixed batch.

    Adam's direction is the update of its own state, SGD's the gradient of the present batch, clipped or not. The same
    along a trajectory of SGD is the control against a path that would suit Adam. A sharpness that is not above 1e-9
    counts as that; how often it is negative is reported.

    Holds: at the same weights the direction of SGD is sharper than Adam's by a factor of 16 (10^1.21), and clipping a
    tenth of its coordinates takes away a factor of 4. Along SGD's own path the difference is larger still (10^2.1).
    """
    text = language(seed, vocabulary, sentences, context)
    fixed = data.Labelled(text.inputs[-probed:], text.targets[-probed:])
    learn = data.Labelled(text.inputs[:-probed], text.targets[:-probed])
    results = {arm: {} for arm in arms}
    for walker in ("adam", "sgd"):
        torch.manual_seed(seed)
        network = nn.decoder(vocabulary, context, d=d, depth=depth)
        adam = Directions(network)
        walking = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[walker]
        optimizer = walking(network.parameters(), lr=lr if walker == "adam" else control_lr)
        found = {arm: [] for arm in arms}
        for step, (x, y) in enumerate(drawn(learn, batch_size, steps, seed)):
            optimizer.zero_grad()
            words_loss(network(x), y).backward()
            gradient = [p.grad.clone() for p in network.parameters()]
            ways = {"sgd": gradient, "adam": adam.update(gradient), "sgd_clip10": coordinate_clip(gradient, 0.1)}
            if step >= warmup and step % every == 0:
                for arm in arms:
                    value = directional_sharpness(network, words_loss, fixed.inputs, fixed.targets, ways[arm])
                    found[arm].append(value)
            optimizer.step()
        for arm in arms:
            values = np.array(found[arm])
            name = "log10_sharpness" if walker == "adam" else "log10_sharpness_on_sgds_path"
            results[arm][name] = float(np.median(np.log10(np.maximum(values, 1e-9))))
            results[arm][f"negative_on_{walker}s_path"] = float((values < 0).mean())
    return results


@claim(
    "directional-sharpness",
    says="SGD with momentum and 10 percent coordinate clipping reaches a lower training loss in the same steps than "
    "SGD with momentum and than globally norm-clipped SGD, and closes most of the gap to Adam.",
    arms=("sgdm_clip10", "sgdm", "sgdm_normclip", "adam"),
    holds=all_of(
        lower("train_loss", "sgdm_clip10", than="sgdm"),
        lower("train_loss", "sgdm_clip10", than="sgdm_normclip"),
    ),
    tune=Tune({"lr": RATES}, by="train_loss", best="min"),
    smoke=SMOKE | dict(steps=8),
    paper=dict(vocabulary=32_000, sentences=100_000, context=128, d=512, depth=6, steps=20_000),
    left_out=(*LEFT_OUT, "the threshold of the norm tuned with the rate; here 1", "1,500 steps; here 1,000"),
)
def clipping_speeds_up_sgd(
    arm,
    seed,
    *,
    vocabulary=512,
    sentences=12_800,
    context=32,
    d=64,
    depth=2,
    batch_size=32,
    steps=1_000,
    lr=1.0,
    validate=False,
):
    """The mean over the last hundred steps of the loss of the batch that each step starts from, in nats a word.

    Tuning judges by sentences of its own.
    """
    text = language(seed + 10_000 * validate, vocabulary, sentences, context)
    torch.manual_seed(seed)
    network = nn.decoder(vocabulary, context, d=d, depth=depth)
    if arm == "adam":
        optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    else:
        optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    if arm == "sgdm_clip10":
        optimizer = CoordinateClipped(optimizer, fraction=0.1)
    losses = []
    for x, y in drawn(text, batch_size, steps, seed):
        optimizer.zero_grad()
        loss = words_loss(network(x), y)
        loss.backward()
        if arm == "sgdm_normclip":
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if not torch.isfinite(loss):
            return {"train_loss": 1e3, "loss": np.array(losses)}
        optimizer.step()
        losses.append(loss.item())
    return {"train_loss": float(np.mean(losses[-100:])), "loss": np.array(losses)}


@claim(
    "directional-sharpness",
    says="A small share of coordinates carries the bad sharpness: clipping the largest one percent of the gradient "
    "already lowers directional sharpness by ten times, and in a CNN on images the same clipping helps much less.",
    arms=("transformer", "cnn"),
    holds=all_of(
        at_least("log10_reduction", 1.0, arm="transformer"),
        higher("log10_reduction", "transformer", than="cnn"),
    ),
    smoke=SMOKE | dict(steps=6, points=2, probed=8, images=32),
    paper=dict(vocabulary=32_000, sentences=100_000, context=128, d=512, depth=6, steps=20_000),
    left_out=(*LEFT_OUT, "ResNet on CIFAR-10 as the contrast; here a small CNN on Fashion-MNIST"),
)
def few_coordinates(
    arm,
    seed,
    *,
    vocabulary=512,
    sentences=6_400,
    context=32,
    d=64,
    depth=2,
    images=3_000,
    batch_size=32,
    steps=400,
    points=10,
    probed=64,
    lr=1e-3,
):
    """Medians over `points` of a run of Adam: log10 of the sharpness of the gradient over that of the clipped one.

    Fails by the factor: clipping one percent takes away a factor of 3 (10^0.49), not of ten; in the CNN of 1.4, so
    that the contrast is there. Ten percent take away 4 (`sgd_direction_is_sharper`).
    """
    torch.manual_seed(seed)
    if arm == "transformer":
        examples, loss = language(seed, vocabulary, sentences, context), words_loss
        network = nn.decoder(vocabulary, context, d=d, depth=depth)
    else:
        split = data.load("fashion", train=images, test=0, seed=seed)
        examples, loss = split.train, F.cross_entropy
        network = nn.smallcnn(split.shape, split.num_classes)
    fixed = data.Labelled(examples.inputs[-probed:], examples.targets[-probed:])
    learn = data.Labelled(examples.inputs[:-probed], examples.targets[:-probed])
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    reductions, every = [], max(1, steps // points)
    for step, (x, y) in enumerate(drawn(learn, batch_size, steps, seed)):
        optimizer.zero_grad()
        loss(network(x), y).backward()
        if step % every == every - 1:
            gradient = [p.grad.clone() for p in network.parameters()]
            plain, clipped = (
                directional_sharpness(network, loss, fixed.inputs, fixed.targets, way)
                for way in (gradient, coordinate_clip(gradient, 0.01))
            )
            reductions.append(np.log10(max(plain, 1e-9) / max(clipped, 1e-9)))
        optimizer.step()
    return {"log10_reduction": float(np.median(reductions)), "log10_reduction_by_point": np.array(reductions)}


class Directions:
    """The update of Adam from a state of its own, whoever moves the weights."""

    def __init__(self, network):
        self.shadow = [torch.nn.Parameter(torch.zeros_like(p)) for p in network.parameters()]
        self.optimizer = torch.optim.Adam(self.shadow, lr=1.0)

    def update(self, gradient):
        with torch.no_grad():
            torch._foreach_zero_(self.shadow)
        for p, g in zip(self.shadow, gradient, strict=True):
            p.grad = g.clone()
        self.optimizer.step()
        return [-p.detach() for p in self.shadow]


def language(seed, vocabulary, sentences, context):
    generator = torch.Generator().manual_seed(seed)
    return data.markov_language(sentences, context, vocabulary=vocabulary, generator=generator)


def words_loss(logits, words):
    return F.cross_entropy(logits.flatten(0, -2) if logits.ndim == 3 else logits, words.flatten())


def drawn(examples, batch_size, steps, seed):
    """As many batches as there are steps, over and over the examples in new orders."""
    generator = torch.Generator().manual_seed(seed)
    left = steps
    while left:
        for batch in data.batches(examples, min(batch_size, len(examples.targets)), generator=generator):
            if not left:
                return
            left -= 1
            yield batch
