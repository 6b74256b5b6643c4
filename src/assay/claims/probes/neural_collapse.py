"""Neural collapse in deep linear networks: from balanced to imbalanced data (Dang et al., 2023, arXiv:2301.00437)."""

import math

import torch
from scipy.stats import spearmanr
from torch import nn

from assay import data
from assay.lab import all_of, at_least, at_most, claim, lower
from assay.probes import NeuralCollapse, UnconstrainedFeatures, collapse_geometry, distance_to

LEFT_OUT = (
    "CIFAR-10; here digits of 8 x 8",
    "six ReLU layers of 2048 and VGG-16, ResNet-18; here three layers of 128",
    "12,000 epochs of Adam at 1e-4; here 3,000 full-batch steps",
)
SETTINGS = (
    dict(counts=(100, 50, 20, 10, 2, 1), dim=16, layers=1, lambda_w=5e-2, lambda_h=2e-3, std=0.5, lr=0.5),
    dict(counts=(40, 25, 12, 5), dim=8, layers=3, lambda_w=5e-3, lambda_h=1e-3, std=0.3, lr=0.1),
)


@claim(
    "neural-collapse",
    says="On imbalanced data gradient descent ends in orthogonal class vectors with exactly the predicted lengths, and "
    "classes smaller than the threshold vanish.",
    arms=("gd", "adam"),
    holds=all_of(
        at_most("length_error", 0.01, arm="gd"),
        at_most("length_error", 0.01, arm="adam"),
        at_most("cosine", 0.01, arm="gd"),
        at_most("cosine", 0.01, arm="adam"),
        at_most("vanished", 0.01, arm="gd"),
        at_most("vanished", 0.01, arm="adam"),
    ),
    smoke=dict(steps=200),
    paper=dict(steps=30_000),
    left_out=("widths to 2048 and six layers; here 16 and 8, one layer and three",),
)
def imbalanced_lengths_closed_form(arm, seed, *, steps=20_000):
    """Each measure is the worse of two settings, one layer with two classes below the threshold and three layers.

    Holds: lengths are right to 5e-4 by gradient descent and 1e-5 by Adam, cosines below 5e-4.
    """
    worst = {"length_error": 0.0, "cosine": 0.0, "vanished": 0.0}
    for number, s in enumerate(SETTINGS):
        generator = torch.Generator().manual_seed(2 * seed + number)
        model = UnconstrainedFeatures(
            s["counts"], s["dim"], num_layers=s["layers"], std=s["std"], generator=generator
        ).double()
        decays = [s["lambda_w"]] * s["layers"]
        minimise(model, decays, s["lambda_h"], arm, s["lr"], steps)
        expected = collapse_geometry(s["counts"], decays, s["lambda_h"])
        rows = model.layers[-1].detach()
        there = ~expected.collapsed
        unit = nn.functional.normalize(rows[there], dim=1)
        squared = expected.norms_w.square()
        found = {
            "length_error": ((rows.square().sum(1) - squared).abs().max() / squared.max()).item(),
            "cosine": (unit @ unit.T - torch.eye(len(unit), dtype=unit.dtype)).abs().max().item(),
            "vanished": rows[~there].norm(dim=1).max().item() if not there.all() else 0.0,
        }
        worst = {name: max(worst[name], value) for name, value in found.items()}
    return worst


def minimise(model, decays, lambda_h, arm, lr, steps):
    params = list(model.parameters())
    if arm == "gd":
        optimizer, decay = torch.optim.SGD(params, lr=lr), 1.0
    else:
        optimizer, decay = torch.optim.Adam(params, lr=1e-2, foreach=True), 0.01 ** (1 / steps)  # to 1e-4
    for _ in range(steps):
        for p, grad in zip(params, torch.autograd.grad(model.objective(decays, lambda_h), params), strict=True):
            p.grad = grad
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= decay


@claim(
    "neural-collapse",
    says="A real network trained to zero error on imbalanced data without bias shows the orthogonal, unequal-length "
    "geometry rather than the simplex or the equal-length one.",
    arms=("gof", "of", "etf", "no_decay"),
    holds=all_of(
        lower("distance", "gof", than="of"),
        lower("distance", "gof", than="etf"),
        at_least("length_spearman", 0.9, arm="gof"),
    ),
    together=True,
    smoke=dict(largest=20, smallest=5, steps=20, width=16),
    paper=dict(width=2048, steps=12_000),
    left_out=LEFT_OUT,
)
def trained_net_fits_predicted_geometry(
    arms, seed, *, largest=140, smallest=14, steps=3_000, width=128, lr=1e-3, lambda_w=5e-4, lambda_h=1e-4
):
    """The class means of the features that enter three linear layers, on the training set; lengths by the theorem.

    gof, of and etf are one network's distances to three frames; `no_decay` is another network's to the first.

    Holds: 0.016 to the orthogonal frame of the theorem's lengths, 0.48 to that of equal ones, 0.57 to the simplex; the
    lengths are in its order. Without weight decay it is 1.01.
    """
    counts = [round(largest * (smallest / largest) ** (k / 9)) for k in range(10)]
    inputs, targets = imbalanced(counts, seed)
    expected = collapse_geometry(counts, [lambda_w] * 3, lambda_h)
    frames = {"gof": expected, "of": "of", "etf": "etf", "no_decay": expected}
    results = {}
    for decays in ((lambda_w, lambda_h), (0.0, 0.0)):
        network = trained(inputs, targets, seed, width, steps, lr, *decays)
        found = measured(network, inputs, targets)
        own = [arm for arm in arms if (arm == "no_decay") == (decays == (0.0, 0.0))]
        for arm in own:
            results[arm] = {
                "distance": distance_to(frames[arm], found["means"][0].gram_h),
                "distance_of_classifier": distance_to(frames[arm], found["means"][-1].gram_w, of="weights"),
                "length_spearman": float(spearmanr(found["means"][-1].norms_w.tolist(), counts).statistic),
                "nc1": found["means"][0].nc1,
                "train_accuracy": found["accuracy"],
            }
    return results


@claim(
    "neural-collapse",
    says="On balanced data squared loss gives an orthogonal frame without and a simplex frame with last-layer bias, at "
    "every linear layer.",
    arms=("no_bias", "bias"),
    holds=all_of(
        at_least("margin_of_orthogonal", 0, arm="no_bias"),
        at_least("margin_of_simplex", 0, arm="bias"),
    ),
    together=True,
    smoke=dict(each=8, steps=20, width=16),
    paper=dict(width=2048, steps=12_000),
    left_out=(*LEFT_OUT, "one to nine linear layers; here three"),
)
def bias_decides_the_frame(arms, seed, *, each=100, steps=3_000, width=128, lr=1e-3, lambda_w=5e-4, lambda_h=1e-4):
    """Means are not centred; distances are averages over the inputs of the three linear layers.

    The features may have any sign, as in the theorem: behind a last ReLU no two class means could have the negative
    cosine of a simplex, whatever the bias. `margin_of_orthogonal` is the distance to the simplex minus that to the
    orthogonal frame, and `margin_of_simplex` the same turned round.
    """
    inputs, targets = imbalanced([each] * 10, seed)
    results = {}
    for arm in arms:
        network = trained(inputs, targets, seed, width, steps, lr, lambda_w, lambda_h, bias=arm == "bias", signed=True)
        found = measured(network, inputs, targets)
        to = {
            name: math.fsum(distance_to(name, layer.gram_h) for layer in found["means"]) / len(found["means"])
            for name in ("of", "etf")
        }
        results[arm] = {
            "distance_of": to["of"],
            "distance_etf": to["etf"],
            "margin_of_orthogonal": to["etf"] - to["of"],
            "margin_of_simplex": to["of"] - to["etf"],
            "classifier_of": distance_to("of", found["means"][-1].gram_w),
            "classifier_etf": distance_to("etf", found["means"][-1].gram_w),
            "nc1": found["means"][0].nc1,
            "train_accuracy": found["accuracy"],
        }
    return results


def imbalanced(counts, seed):
    """So many digits of each class, in the order that the seed draws."""
    inputs, targets = data.load("digits", test=0, seed=seed).train
    rows = torch.cat([(targets == k).nonzero()[:count, 0] for k, count in enumerate(counts)])
    assert len(rows) == sum(counts)
    return inputs[rows].flatten(1), targets[rows]


def trained(inputs, targets, seed, width, steps, lr, lambda_w, lambda_h, *, bias=False, signed=False):
    """Three ReLU layers (the last without ReLU if `signed`) and three linear ones, decay inside the loss."""
    torch.manual_seed(seed)
    body = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)]
    features = nn.Sequential(*body, *([] if signed else [nn.ReLU()]))
    linear = nn.Sequential(
        nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False), nn.Linear(width, 10, bias=bias)
    )
    network = nn.Sequential(features, linear)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, foreach=True)
    wanted = nn.functional.one_hot(targets, 10).float()
    for _ in range(steps):
        h = features(inputs)
        loss = (linear(h) - wanted).square().sum() / len(h) + lambda_h * h.square().sum()
        loss = loss + lambda_w * sum(layer.weight.square().sum() for layer in linear)
        optimizer.zero_grad()
        (loss / 2).backward()
        optimizer.step()
    return network


def measured(network, inputs, targets):
    """`NeuralCollapse` of what enters each linear layer, with the product of the weights from there on."""
    features, linear = network
    means = []
    with torch.no_grad():
        h = features(inputs)
        for number, layer in enumerate(linear):
            product = linear[-1].weight
            for earlier in reversed(list(linear)[number:-1]):
                product = product @ earlier.weight
            means.append(NeuralCollapse(10)(h, targets, product))
            h = layer(h)
        accuracy = (h.argmax(1) == targets).double().mean().item()
    return {"means": means, "accuracy": accuracy}
