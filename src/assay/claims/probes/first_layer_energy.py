"""What do CNNs learn in the first layer and why? A linear systems perspective (Chowers and Weiss, 2022,
arXiv:2206.02454)."""

import numpy as np
import torch
from torch import nn

from assay import data
from assay.lab import all_of, at_least, at_most, claim, higher
from assay.probes import energy_profile, filter_whiteness, fit_time, patch_basis
from assay.train import accuracy, fit

LEFT_OUT = (
    "VGG11, VGG13, ResNet20 and others on CIFAR-10 and -100; here a small network on Fashion-MNIST",
    "27 components of 3 x 3 patches in colour; here the 25 of 5 x 5 grey patches",
)
SMOKE = dict(train=200, epochs=1)


@claim(
    "first-layer-energy",
    says="The one-parameter formula of linear CNNs predicts the energy profile of a nonlinear CNN's first layer, "
    "better than a one-parameter power law of the singular values.",
    arms=("formula", "power_law", "singular_values", "whitening"),
    holds=all_of(at_least("correlation", 0.85, arm="formula"), higher("correlation", "formula", than="power_law")),
    together=True,
    smoke=SMOKE,
    paper=dict(train=15_000, epochs=30),
    reported={"the abstract": "an excellent fit, for ResNet and VGG"},
    left_out=LEFT_OUT,
)
def formula_fits_nonlinear_cnn(arms, seed, *, train=4_000, epochs=8, lr=0.05):
    """Each opponent at its best parameter; the power is fitted on [-3, 3].

    Holds: a correlation of 0.926, the best power 0.881, singular values themselves 0.656, their inverses -0.83; the
    networks fit 63 % of their training images.
    """
    images, targets, patches = prepared(train, seed)
    net, initial, loss = trained(images, targets, seed, epochs, lr)
    measured = energy_profile(net[0].weight, patches.basis, initial=initial)
    sigma = patches.singular / patches.singular[0]
    powers = [sigma**p for p in np.linspace(-3, 3, 601)]
    best = fit_time(measured, sigma)
    candidates = {
        "formula": [best.profile],
        "power_law": powers,
        "singular_values": [sigma],
        "whitening": [1 / sigma],
    }
    results = {}
    for arm in arms:
        fits = [(correlation(profile, measured), profile) for profile in candidates[arm] if profile.std() > 1e-9]
        value, profile = max(fits, key=lambda pair: pair[0])
        results[arm] = {"correlation": value, "profile": (profile / profile.max()).numpy()}
    results["formula"] |= {
        "time": best.t,
        "measured": measured.numpy(),
        "singular": sigma.numpy(),
        "loss": loss,
        "train_accuracy": accuracy(net, data.Labelled(images, targets)),
    }
    return results


@claim(
    "first-layer-energy",
    says="Energy profiles agree across initializations and even between true and random labels, while they differ from "
    "the profile of the initial weights.",
    arms=("two_seeds", "true_vs_random_labels", "trained_vs_initial"),
    holds=all_of(
        at_least("correlation", 0.9, arm="two_seeds"),
        at_least("correlation", 0.8, arm="true_vs_random_labels"),
        at_most("correlation", 0.5, arm="trained_vs_initial"),
    ),
    together=True,
    smoke=SMOKE,
    paper=dict(train=15_000, epochs=100),
    reported={"profiles across seeds, data, architectures and labels": "remarkably consistent (figures)"},
    left_out=LEFT_OUT,
)
def profile_is_consistent(arms, seed, *, train=2_000, epochs=15, lr=0.05):
    """Initial weights are taken off where two trained networks are compared."""
    images, targets, patches = prepared(train, seed)
    shuffled = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))]
    net, initial, _ = trained(images, targets, seed, epochs, lr)
    other, other_initial, _ = trained(images, targets, 10_000 + seed, epochs, lr)
    random, random_initial, _ = trained(images, shuffled, 20_000 + seed, epochs, lr)
    profile = energy_profile(net[0].weight, patches.basis, initial=initial)
    before = energy_profile(initial, patches.basis)
    pairs = {
        "two_seeds": (profile, energy_profile(other[0].weight, patches.basis, initial=other_initial)),
        "true_vs_random_labels": (profile, energy_profile(random[0].weight, patches.basis, initial=random_initial)),
        "trained_vs_initial": (energy_profile(net[0].weight, patches.basis), before),
    }
    results = {
        arm: {"correlation": correlation(*pairs[arm]), "one": pairs[arm][0].numpy(), "other": pairs[arm][1].numpy()}
        for arm in arms
    }
    fitted = {
        "two_seeds": (other, targets),
        "true_vs_random_labels": (random, shuffled),
        "trained_vs_initial": (net, targets),
    }
    for arm, (model, labels) in fitted.items():
        results[arm]["train_accuracy"] = accuracy(model, data.Labelled(images, labels))
    return results


@claim(
    "first-layer-energy",
    says="As training goes on, the first layer of a linear CNN moves from following the data's spectrum toward "
    "whitening it.",
    arms=("late", "early"),
    holds=higher("whiteness", "late", than="early", by=0.1),
    together=True,
    smoke=dict(train=200, late=300),
    reported={"the limit of many steps": "a whitening transformation (theorem)"},
    left_out=("networks that are trained from small random weights; here the filters themselves, from 0",),
)
def linear_cnn_whitens(arms, seed, *, train=8_000, outputs=64, early=10, late=30_000):
    """Mean patches, squared loss, labels drawn at random for each image and output; full-batch gradient descent.

    Holds: from 0.040, one component of 25, after 10 steps to 0.273 after 30,000. That is moving toward white and far
    from it: the standard deviations of mean patches span five orders of magnitude, and 30,000 steps at this rate reach
    the 6 components above 6e-3 of the first. Of single patches, which span a factor of 30, they would reach all 25.
    """
    images, _, patches = prepared(train, seed, mean_patches=True)
    rows = nn.functional.unfold(images, 5).mean(2).double()
    rows = (rows - rows.mean(0)) @ patches.basis
    labels = torch.randn(len(rows), outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    covariance, cross = rows.T @ rows / len(rows), rows.T @ (labels - labels.mean(0)) / len(rows)
    eta = 1 / patches.singular[0] ** 2
    filters, results = torch.zeros_like(cross), {}
    for step in range(1, late + 1):
        filters = filters + eta * (cross - covariance @ filters)
        for arm in arms:
            if step == {"early": early, "late": late}[arm]:
                bank = filters.T @ patches.basis.T
                results[arm] = {
                    "whiteness": filter_whiteness(bank, patches),
                    "profile": energy_profile(bank, patches.basis).numpy(),
                    "label_covariance_by_sigma": (cross.norm(dim=1) / patches.singular).numpy(),
                }
    return results


def prepared(train, seed, *, mean_patches=False):
    """Standardized images, their labels, and the components of their 5 x 5 patches."""
    split = data.load("fashion", train=train, test=0, seed=seed)
    images = (split.train.inputs - split.train.inputs.mean()) / split.train.inputs.std()
    return images, split.train.targets, patch_basis(images, 5, mean_patches=mean_patches)


def trained(images, targets, seed, epochs, lr):
    """Plain SGD: momentum, Adam and weight decay are outside of the theory."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 64, 5, padding=2),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    initial = net[0].weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    history = fit(net, data.Labelled(images, targets), optimizer, epochs=epochs, batch_size=64, seed=seed)
    return net, initial, history.loss


def correlation(one, other):
    return float(torch.corrcoef(torch.stack([one.double(), other.double()]))[0, 1])
