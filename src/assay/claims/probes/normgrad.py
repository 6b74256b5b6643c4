"""NormGrad: revisiting backpropagation saliency methods (Rebuffi et al., 2020, arXiv:2004.02866)."""

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from assay import data
from assay.data import Labelled
from assay.lab import all_of, claim, higher, lower
from assay.probes import (
    activation_gradients,
    class_sensitivity,
    grad_cam,
    magnitude,
    meta_saliency,
    norm_grad,
    pointing_game,
)
from assay.probes.saliency import magnified
from assay.train import fit

TAPS = ("pool0", "pool1", "pool2")
RATES = (1e-3, 1e-2, 1e-1)
SMOKE = dict(train=128, test=20, validation=20, epochs=1, widths=(4, 4, 8))
PAPER = dict(train=12_000, test=3_000, validation=500, epochs=20, widths=(64, 128, 256))
LEFT_OUT = (
    "VGG16 and ResNet50 trained on ImageNet; here six convolutions on items of clothing pasted onto photographs, "
    "56 x 56, with three fragments of other items",
    "PASCAL VOC07 and COCO14, whose scenes hold objects of several classes",
    "a tolerance of 15 pixels; here 1",
)


@claim(
    "normgrad",
    says="At layers before the last convolutional block NormGrad still points at the object while Grad-CAM does not.",
    arms=("norm_grad", "grad_cam", "gradient", "linear_approximation"),
    holds=higher("pointing", "norm_grad", than="grad_cam", by=0.1),
    together=True,
    smoke=SMOKE,
    paper=PAPER,
    reported={"what the abstract says": "Grad-CAM fails anywhere besides the last convolutional layer"},
    left_out=LEFT_OUT,
)
def works_at_early_layers(arms, seed, *, train=4_000, test=500, validation=250, epochs=5, widths=(8, 16, 32)):
    """The share of scenes, all classified correctly, whose map is largest on the object: the mean of two early taps.

    Holds: 93.2 % against 75.6 %, where a random place would score about 11 %, the object's share of the scene. That
    Grad-CAM "does not" point there is too strong for these scenes, with one object each. Gradient times activation
    without the mean of the gradients over places comes to 94.4 %: it is that mean that costs Grad-CAM its place, and
    the norm is not what wins. The networks classify 60 % of scenes correctly after 5 epochs of 4,000.
    """
    network, _, judge, area, score = prepared(seed, train, validation, test, epochs, widths)

    def maps_of(arm, x, y, tap):
        if arm == "norm_grad":
            return norm_grad(network, x, y, tap)
        if arm == "grad_cam":
            return grad_cam(network, x, y, tap)
        values, slopes = activation_gradients(network, x, y, [tap])[tap]
        raw = magnitude(slopes) if arm == "gradient" else (values * slopes).sum(dim=1, keepdim=True)
        return magnified(raw, (x.shape[2], x.shape[3]))

    found = {}
    for arm in arms:
        by_tap = [hits(lambda x, y, arm=arm, tap=tap: maps_of(arm, x, y, tap), judge) for tap in TAPS]
        found[arm] = {"pointing": sum(by_tap[:2]) / 2, **dict(zip(TAPS, by_tap, strict=True))}
    return {arm: each | {"area": area, "test_accuracy": score} for arm, each in found.items()}


@claim(
    "normgrad",
    says="The product of NormGrad maps of several layers points better than the best single layer.",
    arms=("combined", "best_layer", "grad_cam_last"),
    holds=all_of(
        higher("pointing", "combined", than="best_layer"),
        higher("pointing", "combined", than="grad_cam_last"),
    ),
    together=True,
    smoke=SMOKE,
    paper=PAPER,
    reported={"what the abstract says": "maps of different layers hold complementary information"},
    left_out=LEFT_OUT,
)
def layers_combine(arms, seed, *, train=4_000, test=500, validation=250, epochs=5, widths=(8, 16, 32)):
    """The single layer is the best of three on other scenes; Grad-CAM is at the last, which suits it.

    Undecided: 96.1 % against 92.5 % for the single layer (an interval from -0.3 to 7.8 points at five seeds), and
    84.7 % for Grad-CAM, against which the product holds.
    """
    network, choose, judge, area, score = prepared(seed, train, validation, test, epochs, widths)
    best = max(TAPS, key=lambda tap: hits(lambda x, y: norm_grad(network, x, y, tap), choose))
    maps = {
        "combined": lambda x, y: norm_grad(network, x, y, TAPS),
        "best_layer": lambda x, y: norm_grad(network, x, y, best),
        "grad_cam_last": lambda x, y: grad_cam(network, x, y, TAPS[-1]),
    }
    chosen = float(TAPS.index(best))
    return {
        arm: {"pointing": hits(maps[arm], judge), "best_tap": chosen, "area": area, "test_accuracy": score}
        for arm in arms
    }


@claim(
    "normgrad",
    says="Taking one gradient step on the class in question before computing the map makes the maps of the most and "
    "the least likely class less alike.",
    arms=("meta", "plain"),
    holds=all_of(
        lower("similarity", "meta", than="plain", by=0.02),
        higher("pointing", "meta", than="plain", by=-0.03),
    ),
    together=True,
    smoke=SMOKE | dict(test=10, choose=5),
    paper=PAPER,
    reported={"what the abstract says": "the sensitivity of any method to the class is improved"},
    left_out=LEFT_OUT,
)
def meta_step_is_class_sensitive(
    arms, seed, *, train=4_000, test=100, validation=250, choose=30, epochs=5, widths=(8, 16, 32)
):
    """Correlation of the two maps at the middle tap; the step's length is the one of three that lowers it most.

    Undecided, by the guard alone: the correlation falls from 0.93 to 0.51, which holds with a wide margin, while
    pointing goes from 92.7 to 90.0 %, 2.7 points where 3 were allowed, on 60 scenes a seed. The step chosen is 1e-3 at
    three seeds, where pointing does not suffer (0 to 5 points up), and 1e-2 and 1e-1 at the others, where it loses 11
    and 13 points: chosen by the correlation alone, it may be too long.
    """
    network, held, judge, area, score = prepared(seed, train, validation, test, epochs, widths)

    def plain(model, x, y):
        return norm_grad(model, x, y, TAPS[1])

    def stepped(lr):
        return lambda model, x, y: meta_saliency(plain, model, x, y, lr=lr)

    def similarity(maps, images):
        return class_sensitivity(maps, network, images).mean().item()

    lr = min(RATES, key=lambda rate: similarity(stepped(rate), held.images[:choose]))
    maps = {"meta": stepped(lr), "plain": plain}
    return {
        arm: {
            "similarity": similarity(maps[arm], judge.images),
            "pointing": hits(lambda x, y, arm=arm: maps[arm](network, x, y), judge),
            "lr": lr,
            "area": area,
            "test_accuracy": score,
        }
        for arm in arms
    }


def prepared(seed, train, validation, test, epochs, widths):
    """A trained network, and the scenes to choose by and to judge by that it classifies correctly."""
    split = data.load("fashion", train=train, validation=validation, test=test, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    learned, judged = data.photo_split(color=False)
    learn, choose, judge = (
        data.pasted_items(part, size=56, clutter=3, backgrounds=photos, generator=generator)
        for part, photos in ((split.train, learned), (split.validation, learned), (split.test, judged))
    )
    std, mean = torch.std_mean(learn.images)
    learn, choose, judge = (part._replace(images=(part.images - mean) / std) for part in (learn, choose, judge))
    torch.manual_seed(seed)
    network = vgg(widths)
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
        right = [network(part.images).argmax(1) == part.labels for part in (choose, judge)]
    score = right[1].double().mean().item()
    choose, judge = (
        type(part)(*(each[kept] for each in part)) if kept.any() else part
        for part, kept in zip((choose, judge), right, strict=True)
    )
    return network, choose, judge, judge.silhouettes.double().mean().item(), score


def vgg(widths):
    """Two convolutions and a pooling for each width, then two linear layers on all places."""
    network, channels = nn.Sequential(), 1
    for number, width in enumerate(widths):
        for place in "ab":
            network.add_module(f"conv{number}{place}", nn.Conv2d(channels, width, 3, padding=1))
            network.add_module(f"norm{number}{place}", nn.BatchNorm2d(width))
            network.add_module(f"relu{number}{place}", nn.ReLU())
            channels = width
        network.add_module(f"pool{number}", nn.MaxPool2d(2))
    network.add_module("flat", nn.Flatten())
    network.add_module("hidden", nn.Linear(49 * channels, 128))
    network.add_module("relu", nn.ReLU())
    network.add_module("head", nn.Linear(128, 10))
    return network


def hits(maps, scenes, size=100):
    """The share of scenes whose map is largest on the object, or one pixel beside it."""
    found = [
        pointing_game(maps(x, y), where, tolerance=1)
        for x, y, where in zip(*(each.split(size) for each in scenes), strict=True)
    ]
    return torch.cat(found).double().mean().item()
