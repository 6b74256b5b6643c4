"""A Boundary Tilting Perspective on the Phenomenon of Adversarial Examples (Tanay and Griffin, 2016, arXiv:1608.07690).

T-shirts against dresses, in the space of raw pixels; all linear algebra in double precision.
"""

import math

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.lab import all_of, at_least, at_most, claim, higher, ratio
from assay.metrics import pgd
from assay.probes import (
    adversarial_strength,
    deviation_angle,
    distance,
    linear_boundary,
    nearest_centroid,
    tilt,
)

SMOKE = dict(train=60, validation=60, test=100, weakest=-3, strongest=1, levels=3, iterations=50)
PAPER = dict(dataset="mnist", classes=(3, 7), train=10_000, loss="squared_hinge")
LEFT_OUT = (
    "MNIST, 3 against 7; here Fashion-MNIST, classes 0 and 3",
    "the library's support vector machine; here the minimizer to a gradient of 1e-6",
)


@claim(
    "boundary-tilting",
    says="The deviation angle and adversarial strength fall as regularization grows, and the regularization chosen for "
    "accuracy already avoids the strong adversarial examples of the weakly regularized classifier without losing "
    "accuracy.",
    arms=("selected", "weak", "nearest_centroid"),
    holds=all_of(
        ratio("strength", "selected", to="weak", at_most=0.5),
        higher("test_accuracy", "selected", than="weak", by=-0.002),
        at_most("spearman", -0.9, arm="selected"),
    ),
    together=True,
    smoke=SMOKE,
    paper=PAPER,
    reported={"MNIST 3 against 7": "strong examples only with weak regularization, none at a proper level (figures)"},
    left_out=LEFT_OUT,
)
def regularization_controls_strength(
    arms,
    seed,
    *,
    dataset="fashion",
    classes=(0, 3),
    train=600,
    validation=1_600,
    test=600,
    weakest=-7,
    strongest=3,
    levels=21,
    loss="logistic",
    iterations=3_000,
):
    """Penalties from 10^-7 to 10^3; the validation images choose among them, on a tie the stronger one.

    At five seeds: the angle falls with the penalty throughout (Spearman -1.0), from 74 degrees at 10^-7 to 0 at 10^3.
    The selected classifier, at 56 degrees, has strength 1.8 and 92.7 % of the test images right; the weak one 3.8 and
    92.0 %, the nearest centroid 1.0 and 84.2 %. So the right level costs nothing and halves the strength
    (by 1.7 to 2.9 times, seed by seed), where less than half was asked for: the weak classifier of 600 images is at no
    more than 71 to 77 degrees, and the level that is best for accuracy, 0.003 to 0.01, keeps 50 to 61 of them.
    """
    parts = two_classes(dataset, classes, train, validation, test, seed)
    (x, y), (held, truth), (unseen, label) = parts
    penalties = np.logspace(weakest, strongest, levels)
    path, slopes = regularization_path(x, y, penalties, loss, iterations)
    angles = np.array([deviation_angle(c, x, y) for c in path])
    right = [accuracy(c, held, truth) for c in path]
    best = max(range(levels), key=lambda k: (right[k], k))
    chosen = {"selected": path[best], "weak": path[0], "nearest_centroid": nearest_centroid(x, y)}
    return {
        arm: {
            "strength": adversarial_strength(chosen[arm], x, y).mean,
            "angle_in_degrees": math.degrees(deviation_angle(chosen[arm], x, y)),
            "test_accuracy": accuracy(chosen[arm], unseen, label),
            "spearman": float(spearmanr(angles, penalties).statistic),
            "angles_by_penalty": np.degrees(angles),
            "test_accuracy_by_penalty": np.array([accuracy(c, unseen, label) for c in path]),
            "selected_penalty": penalties[best],
            "largest_slope_left": max(slopes),
        }
        for arm in arms
    }


@claim(
    "boundary-tilting",
    says="Tilting a classifier by a large angle along a direction in which the data hardly vary leaves accuracy as it "
    "was and brings the boundary close to every sample; the same tilt along a high-variance direction destroys "
    "accuracy.",
    arms=("flat", "high_variance"),
    holds=all_of(
        at_most("accuracy_change", 0.005, arm="flat"),
        at_least("accuracy_change", 0.05, arm="high_variance"),
        at_most("distance_ratio", 0.15, arm="flat"),
    ),
    together=True,
    smoke=SMOKE | dict(train=200),
    paper=PAPER,
    reported={"in theory": "strength can be made arbitrarily high whatever the performance"},
    left_out=LEFT_OUT,
)
def tilting_is_free_along_flat_directions(
    arms,
    seed,
    *,
    dataset="fashion",
    classes=(0, 3),
    train=2_000,
    validation=200,
    test=600,
    weakest=-4,
    strongest=1,
    levels=6,
    loss="logistic",
    iterations=3_000,
    degrees=84.0,
):
    """Turned about the mean of the training data; judged on test images.

    Undecided in one part: flat, 93.3 % become 92.9 (0.4 points, where 0.5 are allowed, and 0.8 between seeds) and the
    images are 0.104 times as far from the boundary; along a direction of high variance they become 64.5 %.
    """
    (x, y), (held, truth), (unseen, label) = two_classes(dataset, classes, train, validation, test, seed)
    path, _ = regularization_path(x, y, np.logspace(weakest, strongest, levels), loss, iterations)
    boundary = max(reversed(path), key=lambda c: accuracy(c, held, truth))
    values, vectors = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
    flat = vectors[:, int((values > 1e-6 * values[-1]).nonzero()[0])]
    leading = vectors.flip(1).T[:5]
    aside = leading[int(((leading @ boundary.normal).abs() < 0.5).nonzero()[0])]
    before = accuracy(boundary, unseen, label)

    def reach(c):
        away = distance(c, unseen) * (2 * label - 1)
        return away[away > 0].mean().item()

    results = {}
    for arm, direction in (("flat", flat), ("high_variance", aside)):
        turned = tilt(boundary, direction, math.radians(degrees), through=x.mean(0))
        after = accuracy(turned, unseen, label)
        results[arm] = {
            "accuracy_change": before - after,
            "accuracy_before": before,
            "accuracy_after": after,
            "distance_ratio": reach(turned) / reach(boundary),
            "deviation_angle_after": math.degrees(deviation_angle(turned, x, y)),
        }
    return {arm: results[arm] for arm in arms}


@claim(
    "boundary-tilting",
    says="The closed form predicts how small the smallest successful attack is: measured minimal perturbations at the "
    "class means equal D cos(delta)(1 -+ o/D).",
    arms=("pgd_measured",),
    holds=at_most("error", 0.02, arm="pgd_measured"),
    smoke=SMOKE | dict(steps=10, halvings=8),
    paper=PAPER,
    left_out=LEFT_OUT,
)
def angle_predicts_attack_size(
    arm,
    seed,
    *,
    dataset="fashion",
    classes=(0, 3),
    train=600,
    test=100,
    weakest=-7,
    strongest=3,
    levels=21,
    loss="logistic",
    iterations=3_000,
    validation=0,
    steps=50,
    halvings=30,
):
    """The largest relative difference over the classifiers of the path and both means. The attack sees the gradient of
    the loss; its radius is found by bisection.

    Holds: they differ by 3e-8 at most.
    """
    (x, y), _, _ = two_classes(dataset, classes, train, validation, test, seed)
    path, _ = regularization_path(x, y, np.logspace(weakest, strongest, levels), loss, iterations)
    means = torch.stack([x[y == k].mean(0) for k in (0, 1)])
    half = (means[1] - means[0]).norm().item() / 2
    predicted, measured = [], []
    for boundary in path:
        s = adversarial_strength(boundary, x, y)
        sign = (1 + s.relative_offset, 1 - s.relative_offset)
        predicted.append([half * math.cos(s.angle) * part for part in sign])
        model = nn.Linear(len(boundary.normal), 1).double()
        model.weight.data, model.bias.data = boundary.normal[None], torch.tensor([boundary.offset]).double()
        measured.append([smallest_attack(model, means[k], k, half, steps, halvings) for k in (0, 1)])
    predicted, measured = np.array(predicted), np.array(measured)
    return {"error": float(np.abs(measured / predicted - 1).max()), "measured": measured, "predicted": predicted}


def smallest_attack(model, point, label, reach, steps, halvings):
    """The radius at which projected gradient ascent first crosses the boundary, by bisection in [0, 2 reach]."""
    target = torch.tensor([[float(label)]], dtype=torch.float64)
    low, high = 0.0, 2 * reach
    for _ in range(halvings):
        radius = (low + high) / 2
        found = pgd(
            model,
            point[None],
            target,
            eps=radius,
            norm="l2",
            steps=steps,
            loss=F.binary_cross_entropy_with_logits,
            random_start=False,
            bounds=None,
        )
        with torch.no_grad():
            crossed = (model(found).item() > 0) != bool(label)
        low, high = (low, radius) if crossed else (radius, high)
    return high


def two_classes(dataset, classes, train, validation, test, seed):
    """Training, validation and test part as flat rows in double precision, in equal shares of the classes."""
    split = data.load(dataset, seed=seed)
    x, y = split.train

    def take(x, y, start, count):
        half = count // 2
        rows = [(y == k).nonzero()[start : start + half, 0] for k in classes]
        labels = torch.arange(2).repeat_interleave(torch.tensor([len(each) for each in rows]))
        return x[torch.cat(rows)].flatten(1).double(), labels

    return take(x, y, 0, train), take(x, y, train // 2, validation), take(*split.test, 0, test)


def regularization_path(x, y, penalties, loss, iterations):
    """The minimizer of mean loss + penalty |w|^2 for each penalty, from the strongest on, each from the one before;
    and the length of the gradient that is left."""
    sign = (2 * y - 1).double()
    bound = {"logistic": lambda m: F.softplus(-m), "squared_hinge": lambda m: (1 - m).clamp_min(0) ** 2}[loss]
    weight = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    path, slopes = [], []
    for penalty in reversed(penalties):
        solver = torch.optim.LBFGS(
            [weight, bias],
            max_iter=iterations,
            max_eval=2 * iterations,
            tolerance_grad=1e-7,
            tolerance_change=0.0,
            history_size=50,
            line_search_fn="strong_wolfe",
        )

        def objective(penalty=penalty, solver=solver):
            solver.zero_grad()
            value = bound(sign * (x @ weight + bias)).mean() + penalty * (weight**2).sum()
            value.backward()
            return value

        solver.step(objective)
        objective()
        slopes.append(math.hypot(weight.grad.norm().item(), bias.grad.item()))
        path.append(linear_boundary(weight.detach().clone(), bias.item()))
    return path[::-1], slopes[::-1]


def accuracy(boundary, x, y):
    return ((distance(boundary, x) > 0) == (y == 1)).double().mean().item()
