"""Empirical Analysis of the Hessian of Over-Parametrized Neural Networks (Sagun et al., 2017, arXiv:1706.04454)."""

import copy

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.curvature import hessian_matrix
from assay.lab import all_of, at_least, at_most, claim, close, higher, monotone
from assay.nn import convnet
from assay.probes import barrier, spectrum_summary
from assay.train import accuracy, evaluate, fit

LEFT_OUT = ("MNIST subsets and networks trained until the gradient vanishes; here Gaussian clusters, at equal loss",)


@claim(
    "hessian-spectrum",
    says="More parameters add eigenvalues at zero and leave the number of outliers alone.",
    arms=("width_8", "width_16", "width_32", "width_48"),
    holds=all_of(
        at_most("outlier_change", 0.4, arm="width_48"),
        monotone("near_zero_by_width", arm="width_48"),
    ),
    together=True,
    smoke=dict(points=40, target=0.3),
    paper=dict(points=1_000),
    reported={"spectra of networks of growing width (figures)": "the bulk at zero grows, the outliers stay"},
    left_out=LEFT_OUT,
)
def width_grows_only_the_bulk(arms, seed, *, points=500, scale=0.5, std=0.5, lr=0.5, target=0.02, max_steps=5_000):
    """Four clusters, one a class, in 20 dimensions; two hidden tanh layers; gradient descent to one training loss.

    The centres' entries are N(0, 1/4), the noise's too. With centres twice as far apart a training loss of 0.02 is
    reached within ten to sixty steps, where the part of the Hessian that is not Gauss-Newton is a third of it (here
    less than a tenth): the Gauss-Newton matrix has about C (C - 1) outliers there too, the Hessian 10 to 50.

    Holds, at twenty seeds: 11.7, 10.8, 9.4 and 8.7 outliers at widths 8, 16, 32 and 48 while the weights grow
    thirteen-fold; their number falls rather than staying, as the part that is not Gauss-Newton does (from 23 % of it
    to 7 %). The share near zero goes from 21 % to 67 %.

    Outliers are eigenvalues above a tenth of the largest, near zero those below a thousandth of it. Outlier change: the
    difference between the widest and the narrowest network over their mean.
    """
    examples = clusters(seed, 4, points, scale, std)
    found = {arm: measured(examples, int(arm.removeprefix("width_")), seed, lr, target, max_steps) for arm in arms}
    first, last = found["width_8"]["num_outliers"], found["width_48"]["num_outliers"]
    found["width_48"]["outlier_change"] = abs(last - first) / ((last + first) / 2)
    found["width_48"]["near_zero_by_width"] = np.array([found[arm]["near_zero_fraction"] for arm in arms])
    return found


@claim(
    "hessian-spectrum",
    says="With the network fixed, more classes add outliers, and making the data less separable moves the outliers but "
    "not the bulk.",
    arms=("classes_2", "classes_3", "classes_4", "classes_6", "closer"),
    holds=all_of(
        at_least("rank_correlation", 0.9, arm="classes_6"),
        higher("lambda_max", "closer", than="classes_4"),
        close("near_zero_fraction", "closer", to="classes_4", within=0.1),
    ),
    together=True,
    smoke=dict(points=40, width=6, target=0.3),
    paper=dict(points=1_000),
    reported={"spectra of Gaussian blobs (figures)": "as many large eigenvalues as clusters ask for"},
    left_out=LEFT_OUT,
)
def data_set_the_outliers(
    arms, seed, *, points=500, width=24, scale=0.5, nearer=0.6, std=0.5, lr=0.5, target=0.02, max_steps=5_000
):
    """As in the first claim. The closer clusters are trained for as many steps as the four ordinary ones took.

    Undecided at five seeds, in one part only: the Gauss-Newton matrix has 4.9, 7.2, 9.3 and 14.9 outliers for 2, 3, 4
    and 6 classes, the Hessian 13.7, 8.0, 9.5 and 16.1 (fifteen seeds). Two classes are told apart in sixteen steps, and
    what is left of the Hessian beside Gauss-Newton stands out in a spectrum whose largest eigenvalue is small; the rank
    correlation is 0.43 where 0.9 was asked for. Closer clusters triple the largest eigenvalue and leave the bulk.
    """
    found = {}
    for arm in arms:
        if arm == "closer":
            examples, steps = clusters(seed, 4, points, nearer * scale, std), int(found["classes_4"]["steps"])
            found[arm] = measured(examples, width, seed, lr, 0.0, steps)
        else:
            examples = clusters(seed, int(arm.removeprefix("classes_")), points, scale, std)
            found[arm] = measured(examples, width, seed, lr, target, max_steps)
    counts = [found[arm]["num_outliers"] for arm in arms if arm != "closer"]
    constant = len(set(counts)) == 1
    found["classes_6"]["rank_correlation"] = 0.0 if constant else float(spearmanr(range(len(counts)), counts)[0])
    return found


@claim(
    "hessian-spectrum",
    says="Continuing a large-batch solution with small batches leads to a different point that the straight line "
    "reaches without a barrier.",
    arms=("continued", "independent"),
    holds=all_of(at_most("barrier", 0.05, arm="continued"), at_most("above_a_fifth", 0.0, arm="continued")),
    together=True,
    smoke=dict(train=100, test=50, large=50, patience=1, cap=2, small_epochs=1, points=5),
    paper=dict(train=12_000, cap=200, small_epochs=20),
    reported={"CIFAR-10, batches of 512, then 64 (figure)": "no barrier between the two solutions"},
    left_out=("CIFAR-10 and hundreds of epochs",),
)
def large_and_small_batch_share_a_basin(
    arms,
    seed,
    *,
    train=8_000,
    test=2_000,
    large=2_000,
    large_lr=0.3,
    patience=5,
    cap=40,
    small=32,
    small_lr=0.05,
    small_epochs=5,
    points=11,
):
    """Plain SGD. Large batches until the loss changes by less than 1 % in five epochs; then small ones.

    Independent: small batches from another initialisation, for as many epochs as the continued run has of them, against
    the same large-batch end. The loss along the line is that of 2,000 training images. Above a fifth: the barrier of
    the continued run minus a fifth of that of the independent one.

    Holds: no barrier at all, 1.28 for independent runs. The continued run has gone on by half of the way that the
    large batches came, from 76 to 85 % on the test images. Large batches end after 36 of 40 epochs on average, that is
    before their loss has settled: the paper's end points are.
    """
    split = data.load("fashion", train=train, test=test, seed=seed)
    torch.manual_seed(seed)
    big, other = convnet(), convnet()
    start = flat(big)
    generator = torch.Generator().manual_seed(seed)

    def train_on(model, batch_size, lr, epochs):
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        settings = dict(epochs=epochs, batch_size=batch_size, generator=generator, channels_last=True)
        return fit(model, split.train, optimizer, **settings).loss[-1]

    before = train_on(big, large, large_lr, patience)
    epochs = patience
    while epochs < cap:
        now = train_on(big, large, large_lr, patience)
        epochs += patience
        if abs(before - now) < 0.01 * before:
            break
        before = now
    ends = {"continued": copy.deepcopy(big), "independent": other}
    found = {}
    looked_at = data.Labelled(split.train.inputs[:2_000], split.train.targets[:2_000])
    for arm in arms:
        train_on(ends[arm], small, small_lr, small_epochs)
        line = barrier(big, ends[arm], lambda model: evaluate(model, looked_at), points=points)
        found[arm] = {
            "barrier": line.height,
            "losses_along": line.losses.numpy(),
            "distance": ((flat(ends[arm]) - flat(big)).norm() / (flat(big) - start).norm()).item(),
            "test_accuracy": accuracy(ends[arm], split.test),
            "large_batch_test_accuracy": accuracy(big, split.test),
            "large_batch_epochs": float(epochs),
        }
    found["continued"]["above_a_fifth"] = found["continued"]["barrier"] - 0.2 * found["independent"]["barrier"]
    return found


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def clusters(seed, classes, points, scale, std):
    generator = torch.Generator().manual_seed(seed)
    centers = scale * torch.randn(classes, 20, generator=generator, dtype=torch.float64)
    return data.blobs(points, centers, std=std, generator=generator)


def measured(examples, width, seed, lr, target, max_steps):
    """Full-batch gradient descent in double precision, and the spectrum where it ends."""
    torch.manual_seed(seed)
    classes = int(examples.targets.max()) + 1
    layers = (nn.Linear(20, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, classes))
    network = nn.Sequential(*layers).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for step in range(max_steps + 1):
        loss = F.cross_entropy(network(examples.inputs), examples.targets)
        if loss.item() <= target or step == max_steps:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    matrix = hessian_matrix(network, F.cross_entropy, *examples)
    gauss = hessian_matrix(network, F.cross_entropy, *examples, kind="gauss_newton")
    values, values_of_gauss = torch.linalg.eigvalsh(matrix), torch.linalg.eigvalsh(gauss)
    summary = spectrum_summary(values)
    return {
        "num_outliers": float(summary.num_outliers),
        "gauss_newton_outliers": float(spectrum_summary(values_of_gauss).num_outliers),
        "near_zero_fraction": summary.near_zero_fraction,
        "lambda_max": summary.top,
        "num_negative": float(summary.num_negative),
        "rest_over_gauss_newton": (torch.linalg.eigvalsh(matrix - gauss).abs().max() / values_of_gauss.max()).item(),
        "top_40": values.flip(0)[:40].numpy(),
        "loss": loss.item(),
        "steps": float(step),
    }
