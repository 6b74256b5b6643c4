"""Cross-Entropy Loss Functions: Theoretical Analysis and Applications (Mao et al., 2023, arXiv:2304.07288)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from assay import data
from assay import nn as networks
from assay.curvature.hessian import evaluating
from assay.lab import Tune, all_of, at_least, at_most, claim, higher
from assay.losses import (
    CompSumLoss,
    SmoothAdversarialCompSum,
    best_conditional_risk,
    comp_sum_bound,
    conditional_risk,
    worst_case,
)
from assay.train import accuracy, fit

TAUS = {"tau_0": 0.0, "tau_0.5": 0.5, "tau_1": 1.0, "tau_1.5": 1.5, "tau_2": 2.0}
LEFT_OUT = (
    "CIFAR-10, CIFAR-100 and SVHN; here Fashion-MNIST",
    "WideResNets of 28 to 70 layers, generated data, AutoAttack; here a small CNN and two attacks of 30 steps",
)


@claim(
    "comp-sum-losses",
    says="Training with the regularised smooth adversarial comp-sum loss gives higher robust accuracy than TRADES and "
    "at the same time higher clean accuracy.",
    arms=("adv_comp_sum", "trades", "pgd_training", "standard"),
    holds=all_of(
        higher("robust_accuracy", "adv_comp_sum", than="trades"),
        higher("clean_accuracy", "adv_comp_sum", than="trades"),
    ),
    tune=Tune(
        {
            "lr": (1e-3, 3e-3),
            "knob": {
                "adv_comp_sum": (0.03, 0.1, 0.3, 1.0, 3.0),
                "trades": (1.0, 3.0, 6.0, 12.0, 24.0),
                "pgd_training": (0.0, 0.0, 0.0, 0.0, 0.0),
                "standard": (0.0, 0.0, 0.0, 0.0, 0.0),
            },
        },
        by="robust_accuracy",
        best="max",
    ),
    smoke=dict(train=64, test=20, epochs=1, attack_steps=2, widths=(4, 4, 8)),
    paper=dict(train=60_000, test=10_000, epochs=400, widths=(64, 128, 256), attack_steps=100),
    reported={
        "CIFAR-10 and 100, SVHN, robust accuracy under AutoAttack (tables)": "above TRADES for every network",
        "clean accuracy (tables)": "above TRADES as well",
    },
    left_out=LEFT_OUT,
)
def robust_and_clean(
    arm,
    seed,
    *,
    train=3_000,
    test=500,
    epochs=6,
    widths=(16, 32, 64),
    eps=0.1,
    steps=5,
    attack_steps=30,
    lr=3e-3,
    knob=1.0,
    validate=False,
):
    """All arms search with five steps of 0.03 in a box of 0.1; the knob is nu or TRADES's beta.

    Robust is what withstands both an attack on the cross-entropy and one on the margin, each of two restarts of thirty
    steps.

    Fails on robust accuracy, undecided on clean: 45.4 and 67.5 % against TRADES's 48.8 and 70.9 %; plain adversarial
    training has 45.5 and 64.6 %, training without an adversary 3.6 and 75.4 %. Of five weights each, 0.3 was the best
    nu and 12 the best beta; the larger of two rates was the best for all. The loss is right on linear models, where
    its supremum is known. A norm of the change of all margins, as strong for examples that are still misclassified,
    asks much of a network of 25,000 weights in six epochs; the paper's have a thousand times as many, and more.
    """
    split = data.load("fashion", train=train, test=test, seed=seed, validate=validate)
    torch.manual_seed(seed)
    network = convnet(widths)
    adversarial = SmoothAdversarialCompSum(nu=knob, eps=eps, steps=steps, step_size=0.03)
    search = dict(eps=eps, steps=steps, step_size=0.03)

    def rule(model, x, y, _):
        if arm == "adv_comp_sum":
            loss = adversarial(model, x, y)
        elif arm == "trades":
            with evaluating(model), torch.no_grad():
                clean = model(x).log_softmax(1)
            with evaluating(model):
                moved = worst_case(lambda z: divergence(clean, model(z).log_softmax(1)), x, **search)
            logits = model(x)
            apart = divergence(logits.log_softmax(1), model(moved).log_softmax(1)).mean()
            loss = F.cross_entropy(logits, y) + knob * apart
        elif arm == "pgd_training":
            with evaluating(model):
                moved = worst_case(lambda z: F.cross_entropy(model(z), y, reduction="none"), x, **search)
            loss = F.cross_entropy(model(moved), y)
        else:
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    history = fit(network, split.train, optimizer, epochs=epochs, rule=rule, seed=seed)
    judged = data.Labelled(split.test.inputs[:test], split.test.targets[:test])
    return {
        "robust_accuracy": robust_accuracy(network, judged, eps, attack_steps, seed),
        "clean_accuracy": accuracy(network, judged),
        "loss": history.loss,
    }


@claim(
    "comp-sum-losses",
    says="Of the comp-sum losses with tau 0, 0.5, 1, 1.5, 2, the logistic one is not beaten by more than half a point, "
    "while sum-exponential and mean absolute error are clearly worse.",
    arms=("tau_1", "tau_0", "tau_0.5", "tau_1.5", "tau_2"),
    holds=all_of(
        higher("test_accuracy", "tau_1", than="tau_0"),
        higher("test_accuracy", "tau_1", than="tau_2"),
        higher("test_accuracy", "tau_1", than="tau_0.5", by=-0.005),
        higher("test_accuracy", "tau_1", than="tau_1.5", by=-0.005),
    ),
    tune={
        "lr": {
            "tau_1": (0.02, 0.05, 0.1, 0.2),
            "tau_0": (0.001, 0.005, 0.02, 0.05),
            "tau_0.5": (0.01, 0.02, 0.05, 0.1),
            "tau_1.5": (0.02, 0.05, 0.1, 0.2),
            "tau_2": (0.05, 0.1, 0.3, 1.0),
        }
    },
    smoke=dict(train=64, test=50, widths=(2, 4, 4), epochs=1),
    paper=dict(dataset="cifar10", train=50_000, test=10_000, widths=(64, 128, 256), epochs=200),
    reported={"CIFAR-10, 100 and SVHN (table)": "the logistic loss best or on par; tau 0 and 2 behind"},
    left_out=LEFT_OUT,
)
def logistic_is_best(
    arm, seed, *, dataset="fashion", train=4_000, test=3_000, widths=(8, 16, 32), epochs=8, lr=0.1, validate=False
):
    """SGD with momentum and a cosine; each loss has a grid of rates of its own, as their gradients differ in size."""
    split = data.load(dataset, train=train, test=test, seed=seed, validate=validate)
    torch.manual_seed(seed)
    network = networks.resnet8(split.shape, split.num_classes, widths=widths)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    history = fit(
        network,
        split.train,
        optimizer,
        epochs=epochs,
        loss=CompSumLoss(tau=TAUS[arm]),
        seed=seed,
        schedule=lambda each: torch.optim.lr_scheduler.CosineAnnealingLR(each, epochs),
        channels_last=True,
    )
    return {"test_accuracy": accuracy(network, split.test), "loss": history.loss}


@claim(
    "comp-sum-losses",
    says="On a problem with known posteriors the zero-one excess of trained predictors never exceeds the bound "
    "computed from the surrogate excess, and there are distributions on which the bound is met.",
    arms=("tau_0", "tau_1", "tau_1.5", "tau_2"),
    holds=all_of(
        at_most("violation", 1e-6, arm="tau_0"),
        at_most("violation", 1e-6, arm="tau_1"),
        at_most("violation", 1e-6, arm="tau_1.5"),
        at_most("violation", 1e-6, arm="tau_2"),
        at_least("tightness", 0.99, arm="tau_1"),
    ),
    smoke=dict(train=100, unseen=100, epochs=2, checkpoints=2),
    reported={"theorem 3.1": "the bound, and that it is tight"},
)
def bound_holds_and_is_tight(arm, seed, *, train=2_000, unseen=20_000, epochs=20, checkpoints=10, lr=3e-3):
    """Four Gaussians in the plane, whose posterior is known. The bound is applied to means and every hundredth point.

    Tightness: the best ratio of excess and bound over two-class truths ((1 + b) / 2, (1 - b) / 2) with a prediction of
    one half each, of which the wrong class is taken.

    Undecided, of a theorem: no violation was seen in any seed, and the bound is met. But for tau 1.5 the margins are
    so small and uneven (0.0004 +- 0.0003) that Student's interval over five of them reaches below 0; that the margins
    cannot, it does not know.
    """
    tau, std = TAUS[arm], 0.8
    centers = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    draw = torch.Generator().manual_seed(seed)
    learn, judge = (data.blobs(count, centers, std=std, generator=draw) for count in (train, unseen))
    posterior = (-torch.cdist(judge.inputs, centers).square() / (2 * std**2)).softmax(1).double()
    torch.manual_seed(seed)
    network = networks.mlp((1, 1, 2), 4, widths=(64, 64))
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    violations = []

    def look(model):
        with torch.no_grad():
            logits = model(judge.inputs).double()
        excess = conditional_risk(tau, posterior, logits) - best_conditional_risk(tau, posterior)
        wrong = posterior.amax(1) - posterior.gather(1, logits.argmax(1, keepdim=True))[:, 0]
        pairs = [(wrong.mean().item(), excess.mean().item())]
        pairs += zip(wrong[::100].tolist(), excess[::100].tolist(), strict=True)
        violations.append(max(a - comp_sum_bound(tau, max(b, 0.0), 4) for a, b in pairs))

    for _ in range(checkpoints):
        each = max(1, epochs // checkpoints)
        fit(network, learn, optimizer, epochs=each, loss=CompSumLoss(tau=tau), seed=seed, on_epoch=look)
    ratios = []
    for b in (0.1, 0.3, 0.5, 0.7, 0.9):
        truth = torch.tensor([[(1 + b) / 2, (1 - b) / 2]], dtype=torch.float64)
        loss = conditional_risk(tau, truth, torch.zeros(1, 2, dtype=torch.float64))
        ratios.append(b / comp_sum_bound(tau, (loss - best_conditional_risk(tau, truth)).item(), 2))
    return {"violation": max(violations), "tightness": max(ratios) if math.isfinite(max(ratios)) else 0.0}


def convnet(widths):
    """Three strided convolutions with group norms, a mean and a linear layer."""
    layers, before = [], 1
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(4, width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def divergence(log_p, log_q):
    """KL(p || q), one number an example."""
    return (log_p.exp() * (log_p - log_q)).sum(1)


def robust_accuracy(network, part, eps, steps, seed):
    """The share that no attack turns: two restarts each on the cross-entropy and on the margin."""
    x, y = part
    network.eval()
    rest = torch.ones(len(y), dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)

    def margin(z):
        logits = network(z)
        right = logits.gather(1, y[:, None])[:, 0]
        return logits.scatter(1, y[:, None], -torch.inf).amax(1) - right

    for objective in (lambda z: F.cross_entropy(network(z), y, reduction="none"), margin):
        for _ in range(2):
            moved = worst_case(objective, x, eps=eps, steps=steps, generator=generator)
            with torch.no_grad():
                rest &= network(moved).argmax(1) == y
    return rest.double().mean().item()
