"""Layer masking: improved input masking for CNNs (Balasubramanian and Feizi, 2022, arXiv:2211.14646)."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from assay import data
from assay.data import Labelled
from assay.lab import all_of, claim, higher, lower
from assay.probes import LayerMasking, fill_from_neighbours, lime_image, paint
from assay.train import fit

SMOKE = dict(train=128, test=20, epochs=1, widths=(4, 4, 8, 8))
PAPER = dict(train=12_000, test=3_000, epochs=20, widths=(64, 128, 256, 256))
LEFT_OUT = (
    "seven networks trained on ImageNet; here four convolutions on items of clothing pasted onto photographs, 40 x 40",
    "people's judgements, and blocks in the order of their saliency",
)


@claim(
    "layer-masking",
    says="When the whole object is removed with a mask of its own outline, layer masking gives away the class through "
    "the outline much less often than painting black or grey does.",
    arms=("layer", "black", "grey", "grey_smooth", "inpaint_input"),
    holds=all_of(
        lower("leak", "layer", than="black", by=0.05),
        lower("leak", "layer", than="grey", by=0.05),
    ),
    together=True,
    smoke=SMOKE,
    paper=PAPER,
    reported={"what the abstract says": "the influence of the mask's shape is eliminated or minimized"},
    left_out=LEFT_OUT,
)
def mask_shape_leak(arms, seed, *, train=4_000, test=1_000, epochs=5, widths=(16, 32, 64, 64)):
    """Accuracy once the object is gone, on scenes classified correctly when whole: what is left is the mask.

    Undecided: 9.9 % with layer masking, which is chance, against 15.9 % for black and 14.0 % for grey. Layer masking
    gives nothing away, but painting gives so little away to these networks (68 % accurate) that 5 points are not
    undercut; grey with a soft edge comes to 12.1 %, filling the input alone to 10.3 %.
    """
    network, scenes, black, score = prepared(seed, train, test, epochs, widths)
    grown = F.max_pool2d(scenes.silhouettes.float(), 3, stride=1, padding=1)
    logits = removers(network, black)
    found = {}
    for arm in arms:
        said = in_parts(logits[arm], scenes.images, 1 - grown).argmax(1)
        found[arm] = {"leak": (said == scenes.labels).double().mean().item(), "test_accuracy": score}
    return found


@claim(
    "layer-masking",
    says="As random blocks are removed, the network keeps its correct predictions far longer under layer masking than "
    "under black or grey.",
    arms=("layer", "black", "grey", "grey_smooth"),
    holds=all_of(
        higher("survival", "layer", than="black", by=0.05),
        higher("survival", "layer", than="grey", by=0.05),
        higher("survival", "layer", than="grey_smooth", by=0.03),
    ),
    together=True,
    smoke=SMOKE | dict(fractions=(0.2, 0.6)),
    paper=PAPER,
    reported={"the authors' notebook, ResNet-50, random blocks": "0.585 layer, 0.269 smoothed grey, 0.246 grey"},
    left_out=LEFT_OUT,
)
def predictions_survive(
    arms,
    seed,
    *,
    train=4_000,
    test=500,
    epochs=5,
    widths=(16, 32, 64, 64),
    fractions=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
):
    """Accuracy on scenes classified correctly when whole, over removed shares of 4 x 4 blocks, in one random order."""
    network, scenes, black, score = prepared(seed, train, test, epochs, widths)
    ranks = torch.rand(len(scenes.images), 1, 10, 10, generator=torch.Generator().manual_seed(seed)).flatten(1)
    ranks = ranks.argsort(1).argsort(1).view(-1, 1, 10, 10)
    logits = removers(network, black)
    found = {}
    for arm in arms:
        curve = []
        for fraction in fractions:
            keep = F.interpolate((ranks >= round(100 * fraction)).float(), scale_factor=4, mode="nearest")
            said = in_parts(logits[arm], scenes.images, keep).argmax(1)
            curve.append((said == scenes.labels).double().mean().item())
        curve = torch.tensor(curve, dtype=torch.float64)
        found[arm] = {"survival": curve.mean().item(), "by_fraction": curve.numpy(), "test_accuracy": score}
    return found


@claim(
    "layer-masking",
    says="LIME explanations computed with layer masking put their top segments on the object more often than with "
    "black or grey.",
    arms=("layer", "black", "grey"),
    holds=all_of(
        higher("precision", "layer", than="black", by=0.02),
        higher("precision", "layer", than="grey", by=0.02),
    ),
    together=True,
    smoke=SMOKE | dict(scenes=2, samples=20),
    paper=PAPER | dict(scenes=500, samples=512),
    reported={"what the abstract says": "much better than black or grey for explanations like LIME"},
    left_out=LEFT_OUT,
)
def lime_localises(arms, seed, *, train=4_000, test=200, epochs=5, widths=(16, 32, 64, 64), scenes=40, samples=200):
    """Of the k segments of 5 x 5 pixels of largest weight, the share on the object, which half covers k of them."""
    network, those, black, score = prepared(seed, train, test, epochs, widths)
    segments = torch.arange(64).view(8, 8).repeat_interleave(5, 0).repeat_interleave(5, 1)
    logits = removers(network, black)
    covered = F.avg_pool2d(those.silhouettes.float(), 5).flatten(1) >= 0.5
    found = {}
    for arm in arms:
        shares = []
        for number in range(min(scenes, len(those.images))):
            count = int(covered[number].sum())
            if count == 0:
                continue
            weights = lime_image(
                lambda out: out,
                those.images[number],
                segments,
                int(those.labels[number]),
                masker=logits[arm],
                samples=samples,
                generator=torch.Generator().manual_seed(1000 * seed + number),
            )
            shares.append(covered[number][weights.topk(count).indices].double().mean())
        found[arm] = {
            "precision": torch.stack(shares).mean().item(),
            "area": covered[:scenes].double().mean().item(),
            "test_accuracy": score,
        }
    return found


def removers(network, black):
    """Ways of removing: (images, keep) -> logits. Images are normalized, so that grey, their mean, is 0."""
    masked = LayerMasking(network)
    return {
        "layer": masked,
        "black": lambda x, keep: network(paint(x, keep, black)),
        "grey": lambda x, keep: network(paint(x, keep, 0.0)),
        "grey_smooth": lambda x, keep: network(paint(x, keep, 0.0, smooth=1.5)),
        "inpaint_input": lambda x, keep: network(fill_from_neighbours(x, keep, x.shape[-1])),
    }


def in_parts(logits, images, keep, size=250):
    with torch.no_grad():
        return torch.cat([logits(x, k) for x, k in zip(images.split(size), keep.split(size), strict=True)])


def prepared(seed, train, test, epochs, widths):
    """A trained network, the test scenes that it classifies correctly, and what black is to it."""
    split = data.load("fashion", train=train, test=test, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    learned, judged = data.photo_split(color=False)
    learn = data.pasted_items(split.train, backgrounds=learned, generator=generator)
    judge = data.pasted_items(split.test, backgrounds=judged, generator=generator)
    std, mean = torch.std_mean(learn.images)
    learn, judge = (part._replace(images=(part.images - mean) / std) for part in (learn, judge))
    torch.manual_seed(seed)
    layers, channels = [], 1
    for width, stride in zip(widths, (1, 2, 2, 1), strict=True):
        layers += [nn.Conv2d(channels, width, 3, stride=stride, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    fit(
        network,
        Labelled(learn.images, learn.labels),
        torch.optim.Adam(network.parameters(), lr=3e-3),
        epochs=epochs,
        batch_size=64,
        seed=seed,
        schedule=lambda it: CosineAnnealingLR(it, epochs),
        channels_last=True,
    )
    network.eval()
    with torch.no_grad():
        right = torch.cat([network(part) for part in judge.images.split(250)]).argmax(1) == judge.labels
    kept = type(judge)(*(each[right] for each in judge)) if right.any() else judge
    return network, kept, -(mean / std).item(), right.double().mean().item()
