"""Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach (Granziol, Zohren, Roberts, 2020)."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.curvature import Hessian, batch_hessian_spectrum, effective_batch, top_eigenvalues
from assay.lab import all_of, at_least, at_most, claim, higher, lower, ratio
from assay.optim import LanczosLearningRate
from assay.train import Diverged, accuracy, fit

FITTED, JUDGED = (8, 32, 128, 512), (16, 64, 256)
LEFT_OUT = ("VGG-16 and WideResNet on CIFAR-100 and ImageNet; here small networks on digits and Fashion-MNIST",)


@claim(
    "batch-hessian-learning-rates",
    says="The mean top eigenvalue of the mini-batch Hessian exceeds the full-data one at every batch size and follows "
    "a + c/b, better than c/sqrt(b) or a constant.",
    arms=("inverse_b", "inverse_sqrt_b", "constant"),
    holds=all_of(
        at_least("excess", 1.0, arm="inverse_b"),
        lower("relative_error", "inverse_b", than="inverse_sqrt_b"),
        lower("relative_error", "inverse_b", than="constant"),
    ),
    together=True,
    smoke=dict(train=600, epochs=1, num_batches=2, lanczos_steps=4),
    paper=dict(train=1_437, num_batches=100, lanczos_steps=100),
    reported={"spectra of batches (figures)": "extremal eigenvalues shrink towards the empirical ones like 1 / B"},
    left_out=LEFT_OUT,
)
def extremal_inflation(arms, seed, *, train=1_200, epochs=3, num_batches=20, lanczos_steps=15):
    """A tanh network of two hidden layers. Laws a + c f(b), b the effective batch, are fitted by least squares.

    They are fitted to batches of 8, 32, 128 and 512 and judged on 16, 64 and 256. Excess: the least ratio of a mean top
    eigenvalue to that of all data.

    Undecided, after looks at five, ten and twenty seeds: the law a + c/b predicts unseen batch sizes within 1.4 %,
    c/sqrt(b) within 1.6 %, a constant within 5.4 %. Between the first two twenty seeds do not tell: the top
    eigenvalue of 3.7 hardly stands out of what twenty batches average to. The excess is there at all sizes but 512 of
    1,200 images, where it is nothing beside that noise.
    """
    split = data.load("digits", train=train, test=0, seed=seed)
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
    fit(network, split.train, torch.optim.Adam(network.parameters(), lr=3e-3), epochs=epochs, seed=seed)
    x, y = split.train
    generator = torch.Generator().manual_seed(seed)
    operator = Hessian(network, F.cross_entropy, x, y)
    full = top_eigenvalues(operator.matvec, operator.size, 1, tol=1e-4, generator=generator).values[0].item()
    means = {}
    for batch in sorted((*FITTED, *JUDGED)):
        settings = dict(batch=batch, num_batches=num_batches, lanczos_steps=lanczos_steps, generator=generator)
        means[batch] = batch_hessian_spectrum(network, F.cross_entropy, x, y, **settings).largest.mean().item()
    laws = {"inverse_b": lambda b: 1 / b, "inverse_sqrt_b": lambda b: b**-0.5, "constant": lambda b: 0 * b}
    results = {}
    for arm in arms:
        f = {batch: laws[arm](effective_batch(batch, train)) for batch in means}
        design = np.array([[1.0, f[batch]] for batch in FITTED])
        law = np.linalg.lstsq(design, np.array([means[batch] for batch in FITTED]), rcond=None)[0]
        errors = [abs(law[0] + law[1] * f[batch] - means[batch]) / means[batch] for batch in JUDGED]
        results[arm] = {
            "relative_error": float(np.mean(errors)),
            "excess": min(means.values()) / full,
            "top_by_batch": np.array(list(means.values())),
            "top_of_all": full,
        }
    return results


@claim(
    "batch-hessian-learning-rates",
    says="The largest stable learning rate grows about linearly with the batch size for SGD and about as its square "
    "root for Adam.",
    arms=("sgd", "adam"),
    holds=all_of(
        at_least("slope", 0.75, arm="sgd"),
        at_most("slope", 1.25, arm="sgd"),
        at_least("slope", 0.3, arm="adam"),
        at_most("slope", 0.7, arm="adam"),
    ),
    smoke=dict(train=100, batches=(2, 8), steps=6, repeats=2, halvings=2, width=8),
    reported={"VGG-16 and WideResNet, CIFAR-100 (figures)": "linear for SGD, square root for Adam"},
    left_out=LEFT_OUT,
)
def learning_rate_scaling(
    arm, seed, *, train=2_000, batches=(2, 4, 8, 16, 32, 64), steps=150, repeats=3, halvings=5, width=64
):
    """Bisection on the logarithm of the rate, to a quarter of a power of two.

    Stable: the mean of the loss on 500 training images over the last 20 of 150 steps (looked at every fifth) is below
    that at the start, for at least three in four runs. Batches whose rate is within 1.3 of the largest batch's are left
    out of the slope, but for the largest itself.
    """
    split = data.load("fashion", train=train, test=0, seed=seed)
    x, y = split.train
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
    network.append(nn.Linear(width, 10))
    fit(network, split.train, torch.optim.SGD(network.parameters(), lr=1e-3), epochs=1, seed=seed)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    watched = slice(0, min(500, train))

    def loss_now():
        with torch.no_grad():
            return F.cross_entropy(network(x[watched]), y[watched]).item()

    initial = loss_now()

    def stable(batch, lr):
        wins = 0
        for repeat in range(repeats):
            network.load_state_dict(start)
            optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[arm](network.parameters(), lr=lr)
            generator = torch.Generator().manual_seed(1000 * seed + repeat)
            seen = []
            for step in range(steps):
                rows = torch.randint(train, (batch,), generator=generator)
                optimizer.zero_grad()
                F.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()
                if step >= steps - 20 and step % 5 == 0:
                    seen.append(loss_now())
            wins += math.isfinite(seen[-1]) and float(np.mean(seen)) < initial
        return wins >= 0.75 * repeats

    limits = []
    for batch in batches:
        low, high = {"sgd": (-8.0, 4.0), "adam": (-13.0, -1.0)}[arm]
        for _ in range(halvings):
            middle = (low + high) / 2
            low, high = (middle, high) if stable(batch, 2.0**middle) else (low, middle)
        limits.append((low + high) / 2)
    kept = [i for i, limit in enumerate(limits) if limits[-1] - limit > math.log2(1.3)] + [len(limits) - 1]
    chosen = kept if len(kept) >= 3 else range(len(limits))
    slope = np.polyfit([math.log2(batches[i]) for i in chosen], [limits[i] for i in chosen], 1)[0]
    return {"slope": float(slope), "log2_limit_by_batch": np.array(limits), "batches_used": float(len(chosen))}


@claim(
    "batch-hessian-learning-rates",
    says="Learning rate and momentum read off ten Lanczos steps train within one percent test accuracy of a "
    "grid-searched pair at a fraction of the gradient evaluations.",
    arms=("lanczos_lr", "grid_search", "default_sgd"),
    holds=all_of(
        higher("test_accuracy", "lanczos_lr", than="grid_search", by=-0.01),
        ratio("gradient_evaluations", "lanczos_lr", to="grid_search", at_most=0.25),
    ),
    smoke=dict(train=100, test=50, epochs=1, rates=(0.1,), momenta=(0.0, 0.9), widths=(4, 4, 8)),
    reported={"pre-activation ResNet, CIFAR-100": "preliminary results (a figure)"},
    left_out=LEFT_OUT,
)
def lanczos_learner(
    arm,
    seed,
    *,
    train=4_000,
    test=3_000,
    epochs=6,
    batch_size=128,
    rates=(0.03, 0.1, 0.3, 1.0),
    momenta=(0.0, 0.9),
    widths=(16, 32, 64),
):
    """A small CNN with group norms. The spectrum is that of one fixed batch, read anew each epoch.

    A product counts as two gradients. The grid is judged by a tenth of the training images, trained on the rest; the
    best pair is trained once more on all. A run that diverges scores as chance does.
    """
    split = data.load("fashion", train=train, test=test, seed=seed)
    x, y = split.train
    cut = train - train // 10
    steps = -(-train // batch_size)

    def trained(examples, lr, momentum, read=False):
        torch.manual_seed(seed)
        layers, before = [], 1
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(4, width), nn.ReLU()]
            before = width
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))
        optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)
        batch, generator = examples[0][:batch_size], torch.Generator().manual_seed(seed)
        reader = LanczosLearningRate(
            optimizer, network, F.cross_entropy, batch, examples[1][:batch_size], generator=generator
        ) if read else None  # fmt: skip
        try:
            settings = dict(epochs=epochs, batch_size=batch_size, seed=seed)
            fit(network, examples, optimizer, **settings, schedule=(lambda _: reader) if read else None)
        except Diverged:
            return None, reader
        return network, reader

    count = float(epochs * steps)
    if arm == "grid_search":
        learn, held = data.Labelled(x[:cut], y[:cut]), data.Labelled(x[cut:], y[cut:])
        scores = {}
        for lr in rates:
            for momentum in momenta:
                network, _ = trained(learn, lr, momentum)
                scores[lr, momentum] = 0.1 if network is None else accuracy(network, held)
        network, _ = trained(split.train, *max(scores, key=scores.get))
        count *= 1 + 0.9 * len(scores)
    elif arm == "default_sgd":
        network, _ = trained(split.train, 0.1, 0.9)
    else:
        network, reader = trained(split.train, 0.1, 0.9, read=True)
        count += 2.0 * reader.products
    return {
        "test_accuracy": 0.1 if network is None else accuracy(network, split.test),
        "gradient_evaluations": count,
    }
