"""Equilibrium propagation without weight symmetry (Laborieux & Zenke, 2024, arXiv:2309.02214)."""

from itertools import pairwise

import torch
from torch.nn import functional as F

from assay import data
from assay.lab import Tune, all_of, at_least, claim, higher, ratio
from assay.learn import EquilibriumNet, EquilibriumPropagation, gradient_cosine
from assay.train import accuracy, fit

LEFT_OUT = ("convolutional networks on CIFAR-10, CIFAR-100 and ImageNet 32 x 32", "networks without reciprocal wiring")
ANGLES = (0, 30, 60, 90)


@claim(
    "equilibrium-propagation",
    says="Penalising the antisymmetric part of the Jacobian raises the accuracy of EP in a network with independent "
    "feedback weights.",
    arms=("ep_homeostasis", "ep", "ep_symmetric_init", "bp"),
    holds=all_of(
        higher("test_accuracy", "ep_homeostasis", than="ep"),
        higher("symmetry", "ep_homeostasis", than="ep"),
    ),
    tune=Tune(
        {
            "lr": (3e-4, 1e-3, 3e-3, 1e-2),
            "coefficient": {
                "ep_homeostasis": (0.1, 1.0, 10.0),
                "ep": (0.0, 0.0, 0.0),
                "ep_symmetric_init": (0.0, 0.0, 0.0),
                "bp": (0.0, 0.0, 0.0),
            },
        },
        by="test_accuracy",
        best="max",
        seeds=(1000,),
    ),
    smoke=dict(train=100, test=50, epochs=1, sizes=(784, 12, 12, 10)),
    paper=dict(train=60_000, test=10_000, epochs=50, sizes=(784, 256, 256, 10), free_steps=150, nudge_steps=20),
    left_out=(*LEFT_OUT, "layers of 256, 150 free steps, 50 epochs of 60,000; here 128, 60 steps, 6 epochs of 3,000"),
)
def homeostasis_rescues_asymmetry(
    arm,
    seed,
    *,
    train=3_000,
    test=3_000,
    epochs=6,
    batch_size=50,
    sizes=(784, 128, 128, 10),
    free_steps=60,
    nudge_steps=20,
    lr=1e-3,
    coefficient=0.0,
    validate=False,
):
    """AdamW, feedback at 90 degrees (0 in `ep_symmetric_init`), exact derivatives of the resting state.

    `bp` goes back through the last 20 of the same steps, in the network at 90 degrees.

    Undecided: 54.4 % with the penalty, 48.8 without, with 8 and 9 points between seeds; symmetry ends at 0.94 and
    0.52, where the margin is 0.42 in every seed. Gradients agree with the authors' code for all numbers of points.
    The largest of three coefficients was chosen, and 360 steps are a thirtieth of the authors' training: tied
    weights reach 68.9 % (and lose their symmetry to 0.87 on the way), backpropagation through the settling 76.7.
    """
    split = data.load("fashion", train=train, test=test, seed=seed, validate=validate)
    generator = torch.Generator().manual_seed(seed)
    angle = 0.0 if arm == "ep_symmetric_init" else 90.0
    settings = dict(steps=free_steps, tracked=nudge_steps, generator=generator)
    network = EquilibriumNet(sizes, split.num_classes, angle=angle, **settings)
    rule = None
    if arm != "bp":
        steps = dict(points=0, free_steps=free_steps, nudge_steps=nudge_steps)
        rule = EquilibriumPropagation(homeostasis=coefficient, generator=generator, **steps)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    symmetry = [network.symmetry()]
    history = fit(
        network,
        split.train,
        optimizer,
        epochs=epochs,
        rule=rule,
        batch_size=batch_size,
        seed=seed,
        on_epoch=lambda net: symmetry.append(net.symmetry()),
    )
    return {
        "test_accuracy": accuracy(network, split.test),
        "symmetry": symmetry[-1],
        "symmetry_at_start": symmetry[0],
        "loss": history.loss,
    }


@claim(
    "equilibrium-propagation",
    says="With a finite nudge the Cauchy estimate is unbiased at any asymmetry, so the remaining misalignment with "
    "backprop is due to asymmetry alone.",
    arms=("points_6", "points_2", "points_1", "exact"),
    holds=all_of(
        ratio("relative_error", "points_1", to="points_6", at_least=100),
        at_least("cosine_at_0", 0.999, arm="exact"),
        at_least("least_fall", 0.0, arm="exact"),
    ),
    together=True,
    smoke=dict(images=8, sizes=(784, 12, 12, 10), steps=40, nudge_steps=20),
    paper=dict(sizes=(784, 256, 256, 10)),
    left_out=LEFT_OUT,
)
def nudge_is_not_the_problem(
    arms, seed, *, images=64, sizes=(784, 64, 64, 10), steps=300, nudge_steps=100, beta=0.5, angle=45.0
):
    """Random networks in double precision.

    `relative_error` is that of the response of the resting state to the nudge, against its exact derivative, at 45
    degrees. For `exact`, `cosine_at_0` is that of its gradient to backpropagation through the settling with tied
    weights, and `least_fall` the least fall of that cosine from one of the angles 0, 30, 60, 90 to the next.

    All weights between layers are halved: as they are drawn, the spectral radius of J is 2.0 at 0 degrees and 1.7 at
    45, and some images still swing after 300 steps, so that the error of settling is measured. `residual` tells.

    Undecided, at 20 seeds: six points err by 1 % (by 0.77 in one network of twenty), one point by a half; the ratio
    is 56 in the mean where 100 was asked for. A nudge of 0.5 is not far from where the series ends. The cosine is 1
    at 0 degrees and falls to 0.80, 0.62 and 0.59.
    """
    part = data.load("fashion", train=max(images, 10), test=0, seed=seed).train
    x, y = part.inputs[:images].double(), part.targets[:images]

    def network(degrees):
        generator = torch.Generator().manual_seed(seed)
        settings = dict(angle=float(degrees), steps=steps, tracked=nudge_steps, generator=generator)
        net = EquilibriumNet(sizes, 10, **settings).double()
        with torch.no_grad():
            for layer in (*net.feed[1:], *net.back):
                layer.weight.mul_(0.5)
        return net

    net = network(angle)
    u = net.settle(x, steps=steps)
    residual = net.residual.item()
    exact = EquilibriumPropagation(points=0, nudge_steps=nudge_steps).response(net, x, y, F.cross_entropy, u)
    length = torch.cat(exact, 1).norm()
    found = {}
    for arm in arms:
        if arm == "exact":
            rule = EquilibriumPropagation(points=0, free_steps=steps, nudge_steps=nudge_steps)
            cosines = [gradient_cosine(network(each), rule, x, y, F.cross_entropy)[""] for each in ANGLES]
            falls = [a - b for a, b in pairwise(cosines)]
            found[arm] = {"cosine_at_0": cosines[0], "least_fall": min(falls), "residual": residual}
            found[arm] |= {f"cosine_at_{each}": cosine for each, cosine in zip(ANGLES, cosines, strict=True)}
        else:
            rule = EquilibriumPropagation(beta=beta, points=int(arm.removeprefix("points_")), nudge_steps=nudge_steps)
            response = rule.response(net, x, y, F.cross_entropy, u)
            apart = torch.cat([a - b for a, b in zip(response, exact, strict=True)], 1).norm()
            found[arm] = {"relative_error": (apart / length).item()}
    return found
