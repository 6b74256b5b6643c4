"""Improving Multimodal Learning via Imbalanced Learning (Wei et al., 2025, arXiv:2507.10203)."""

import math

import numpy as np
import torch
from torch import nn

from assay import data
from assay.data import Labelled
from assay.lab import Tune, all_of, at_least, at_most, claim, higher
from assay.learn import ARL, OGM
from assay.nn import LateFusion
from assay.train import accuracy, fit


@claim(
    "asymmetric-multimodal",
    says="Re-weighting the two encoders by inverse prediction variance gives higher multimodal accuracy than plain "
    "joint training and than gradient balancing.",
    arms=("arl", "joint", "joint_plus_unimodal_losses", "ogm_ge", "equal_coefficients"),
    holds=all_of(
        higher("test_accuracy", "arl", than="joint"),
        higher("test_accuracy", "arl", than="joint_plus_unimodal_losses"),
        higher("test_accuracy", "arl", than="ogm_ge"),
        higher("test_accuracy", "arl", than="equal_coefficients"),
    ),
    tune=Tune(
        {
            "lr": (0.01, 0.03, 0.1),
            "gamma": {
                "arl": (1.0, 2.0, 4.0),
                "joint": (1.0, 1.0, 1.0),
                "joint_plus_unimodal_losses": (1.0, 2.0, 4.0),
                "ogm_ge": (1.0, 1.0, 1.0),
                "equal_coefficients": (1.0, 2.0, 4.0),
            },
            "temperature": {
                "arl": (2.0, 8.0),
                "joint": (8.0, 8.0),
                "joint_plus_unimodal_losses": (8.0, 8.0),
                "ogm_ge": (8.0, 8.0),
                "equal_coefficients": (8.0, 8.0),
            },
            "alpha": {
                "arl": (0.3, 0.3),
                "joint": (0.3, 0.3),
                "joint_plus_unimodal_losses": (0.3, 0.3),
                "ogm_ge": (0.1, 0.3),
                "equal_coefficients": (0.3, 0.3),
            },
        },
        by="test_accuracy",
        best="max",
        seeds=(1000,),
    ),
    smoke=dict(train=100, test=60, epochs=2, warmup=1),
    reported={"what the abstract says": "better than balancing on CREMA-D, Kinetics-Sounds, AVE and VGGSound"},
    left_out=(
        "sound and video, ResNet18 encoders; here digits of 8 x 8 and noisy clothes of 28 x 28, small encoders",
        "100 epochs, and a decay of the learning rate; here 15",
    ),
)
def beats_balanced_training(
    arm,
    seed,
    *,
    train=1_200,
    test=3_000,
    epochs=15,
    batch_size=64,
    noise=0.6,
    warmup=3,
    gamma=1.0,
    temperature=8.0,
    alpha=0.3,
    lr=0.03,
    validate=False,
):
    """Class k of digits with a random item of class k of Fashion-MNIST under noise; test pairs are of other items.

    SGD with momentum as in the paper: Adam, which was planned, divides gradients by their size, and a factor on those
    of an encoder is gone (with it the three arms with unimodal losses were at 95.7 % within 0.02 points).
    `joint_plus_unimodal_losses` has the unimodal losses of ARL and no re-weighting, `equal_coefficients` both, with
    q = 1/2.

    Undecided against each: 95.6 % with 1.7 points between seeds, plain joint training 95.5, with unimodal losses
    95.7, OGM-GE 95.2, equal coefficients 96.0. At the chosen temperature of 2 the coefficients are 0.55 and 0.45,
    near what equal ones are; the lost seed of ARL is one of slow learning at the shared rate of 0.03. On pairs that
    a late fusion has 95 % of right there is little to win.

    Undecided against each: 95.6 % with 1.7 points between seeds, plain joint training 95.5, with unimodal losses
    95.7, OGM-GE 95.2, equal coefficients 96.0. At the chosen temperature of 2 the coefficients end at 0.55 and
    0.45, near what equal ones are, so that the arms hardly differ in what they do; and on pairs of which joint
    training has 95 % right there is little to win.
    """
    learn, judge = pairs(train, test, seed, noise, validate)
    torch.manual_seed(seed)
    network = fusion()
    rules = {
        "arl": ARL(gamma=gamma, temperature=temperature, warmup=warmup),
        "joint": ARL(gamma=0.0, temperature=None),
        "joint_plus_unimodal_losses": ARL(gamma=gamma, temperature=None),
        "ogm_ge": OGM(alpha=alpha),
        "equal_coefficients": ARL(gamma=gamma, warmup=math.inf),
    }
    rule = rules[arm]
    history = fit(
        network,
        learn,
        torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4),
        epochs=epochs,
        batch_size=batch_size,
        rule=rule,
        seed=seed,
        on_epoch=getattr(rule, "step_epoch", ()),
    )
    return {
        "test_accuracy": accuracy(network, judge),
        "coefficient_of_digits": rule.coefficients[0].item(),
        "loss": history.loss,
    }


@claim(
    "asymmetric-multimodal",
    says="The best dependence ratio between modalities is the inverse ratio of their prediction variances, not one.",
    arms=("inverse_variance", "balanced", "best_of_sweep"),
    holds=all_of(
        at_most("excess", 0.02, arm="inverse_variance"),
        at_least("least_excess", 0.05, arm="balanced"),
    ),
    together=True,
    smoke=dict(samples=40, resamples=5, tests=200),
    left_out=("classification by deep encoders; here ridge regression on random features",),
)
def inverse_variance_is_best_dependence(
    arms, seed, *, samples=200, resamples=20, tests=5_000, dims=10, features=60, noises=(0.25, 4.0), ridge=1.0
):
    """Two views of one teacher, with label noise 1 and another; variances come from resampled training sets alone.

    Fusion is r f_1 + (1 - r) f_2; the error is the mean square over test points and resamples, against the teacher.
    `excess` is relative to the best of 41 ratios, the largest over the two other noises; `least_excess` the smallest.

    Holds: at the inverse ratio of the variances the error is 1.1 % above that of the best of 41 ratios, in the
    worse of the two cases; at equal weights it is 71 % above in the better one, and 4.2 times as large in the
    other.
    """
    excess = {arm: [] for arm in arms}
    curves = []
    for other in noises:
        generator = np.random.default_rng([seed, round(100 * other)])
        weight = generator.normal(size=dims) / math.sqrt(dims)
        unseen = generator.normal(size=(tests, dims))
        truth = np.tanh(unseen @ weight)
        predictions = []
        for noise in (1.0, other):
            plane, phase = generator.normal(size=(dims, features)), generator.uniform(0, 2 * math.pi, features)
            rows = []
            for _ in range(resamples):
                x = generator.normal(size=(samples, dims))
                y = np.tanh(x @ weight) + noise * generator.normal(size=samples)
                z, zu = np.cos(0.3 * x @ plane + phase), np.cos(0.3 * unseen @ plane + phase)
                rows.append(zu @ np.linalg.solve(z.T @ z + ridge * np.eye(features), z.T @ y))
            predictions.append(np.stack(rows))
        variances = [each.var(0, ddof=1).mean() for each in predictions]
        ratios = np.linspace(0, 1, 41)
        errors = np.array([((r * predictions[0] + (1 - r) * predictions[1] - truth) ** 2).mean() for r in ratios])
        chosen = {
            "inverse_variance": variances[1] / sum(variances),
            "balanced": 0.5,
            "best_of_sweep": ratios[errors.argmin()],
        }
        for arm in arms:
            r = chosen[arm]
            error = ((r * predictions[0] + (1 - r) * predictions[1] - truth) ** 2).mean()
            excess[arm].append(error / errors.min() - 1)
        curves.append(errors / errors.min())
    return {
        arm: {"excess": max(each), "least_excess": min(each), "error_by_ratio": curves[0]}
        for arm, each in excess.items()
    }


def pairs(train, test, seed, noise, validate):
    """Training and test pairs, flattened side by side."""
    generator = torch.Generator().manual_seed(seed)
    digits = data.load("digits", train=1_300, seed=seed, validate=validate)
    clothes = data.load("fashion", train=3_000, test=2_000, seed=seed, validate=validate)

    def paired(one, two, count):
        order = torch.randint(len(one.targets), (count,), generator=generator)
        images = []
        for label in one.targets[order].tolist():
            same = (two.targets == label).nonzero()[:, 0]
            images.append(two.inputs[same[torch.randint(len(same), (), generator=generator)]])
        noisy = torch.stack(images) + noise * torch.randn(count, 1, 28, 28, generator=generator)
        return Labelled(torch.cat([one.inputs[order].flatten(1), noisy.flatten(1)], 1), one.targets[order])

    return paired(digits.train, clothes.train, train), paired(digits.test, clothes.test, test)


def fusion():
    left = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
    right = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 49, 32),
        nn.ReLU(),
    )
    return LateFusion([left, right], [32, 32], 10, shapes=[(1, 8, 8), (1, 28, 28)])
