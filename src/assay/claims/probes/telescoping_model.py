"""Deep learning through a telescoping lens (Jeffares et al., 2024, arXiv:2411.00247)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.data import Labelled
from assay.lab import all_of, at_least, at_most, claim, higher, ratio
from assay.probes import BoostedTrees, Telescope, TelescopingSmoother, effective_parameters, tangent
from assay.train import fit

OPTIMIZERS = {"sgd": (torch.optim.SGD, 1e-2), "adam": (torch.optim.Adam, 1e-4)}


def half_squares(outputs, targets):
    return F.mse_loss(outputs, targets) / 2


@claim(
    "telescoping-model",
    says="The telescoping sum reproduces the trained network's test outputs far better than a single linearisation at "
    "initialisation, for SGD and for Adam.",
    arms=("telescope_sgd", "linear_sgd", "telescope_adam", "linear_adam"),
    holds=all_of(
        ratio("error", "telescope_sgd", to="linear_sgd", at_most=0.1),
        ratio("error", "telescope_adam", to="linear_adam", at_most=0.1),
        at_most("error", 0.1, arm="telescope_sgd"),
    ),
    together=True,
    smoke=dict(train=40, test=40, steps=8, batch=20, width=8),
    left_out=("the paper's own networks, learning rates and binary tasks; here shirts against coats",),
)
def telescope_tracks_the_network(arms, seed, *, train=1_000, test=500, steps=1_500, batch=100, width=100):
    """Mean distance to the network's outputs, against how far those moved; also at ten times the learning rates.

    Fails: the sum is off by eleven times what the outputs moved with SGD and by half of it with Adam, a single
    linearisation by 0.93 and 0.91. What each step's second order leaves out adds up over 1,500 steps; at ten times
    the rates it is 12 and 8 times as much, in proportion, as it must be for a sum of first orders. At these rates,
    set before anything was run, the approximation has ended; tests show it converge as steps shrink.
    """
    examples, held = two_classes(train, test, seed)
    results = {arm: {} for arm in arms}
    for name, (optimizer, rate) in OPTIMIZERS.items():
        for times, suffix in ((1, ""), (10, "_at_10_times_the_rate")):
            torch.manual_seed(seed)
            network = nn.Sequential(
                nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
            )
            telescope = Telescope(network, held.inputs)
            fit(
                network,
                examples,
                optimizer(network.parameters(), lr=times * rate),
                epochs=steps * batch // train,
                loss=half_squares,
                batch_size=batch,
                seed=seed,
                on_step=telescope.on_step,
            )
            with torch.no_grad():
                final = network(held.inputs)
            moved = (final - telescope.initial).abs().mean()
            right = (final.sign() == held.targets).double().mean().item()
            for arm, found in (
                ("telescope", telescope.prediction),
                ("linear", telescope.linear_prediction(network)),
            ):
                results[f"{arm}_{name}"] |= {
                    f"error{suffix}": ((found - final).abs().mean() / moved).item(),
                    f"test_accuracy{suffix}": right,
                }
    return results


def two_classes(train, test, seed):
    """Shirts (1) against coats (-1)."""
    split = data.load("fashion", train=12_000, seed=seed)
    parts = []
    for part, count in ((split.train, train), (split.test, test)):
        rows = ((part.targets == 6) | (part.targets == 4)).nonzero()[:count, 0]
        targets = torch.where(part.targets[rows] == 6, 1.0, -1.0)
        parts.append(Labelled(part.inputs[rows].flatten(1), targets[:, None]))
    return parts


@claim(
    "telescoping-model",
    says="Grokking is a passage into benign overfitting: between fitting the training set and generalising, the "
    "effective parameters used on test inputs fall further below those used on training inputs.",
    arms=("grokking", "no_grokking"),
    holds=all_of(
        ratio("delay", "grokking", to="no_grokking", at_least=2),
        at_least("gap_rise", 0.05, arm="grokking"),
        at_least("gap_when_general", 0, arm="grokking"),
        at_most("track_error", 0.1, arm="grokking"),
        at_most("track_error", 0.1, arm="no_grokking"),
    ),
    smoke=dict(train=20, test=20, steps=30),
    left_out=("polynomial regression and MNIST from large initial weights; here a sparse parity",),
)
def effective_parameters_see_grokking(
    arm, seed, *, train=140, test=400, steps=7_000, dim=30, pairs=30, lr=0.03, decay=0.02, every=10
):
    """Full-batch gradient descent on half the squared error, with the tangent kernel of two layers.

    Fitted at the first step with a training error below 5 %; general at the first later one with a test error below
    half of its maximum, or at the end if that never comes. Looked at every 10 steps. The network is homogeneous of
    degree 2, so weight decay takes the share `2 lr decay` off its outputs, in every step.
    """
    scale = 1.5 if arm == "grokking" else 0.3
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(2, (train + test, dim), generator=generator).double() * 2 - 1
    y = x[:, 0] * x[:, 1]
    w = scale / math.sqrt(dim) * torch.randn(pairs, dim, generator=generator, dtype=torch.float64)
    v = scale / math.sqrt(2 * pairs) * torch.randn(pairs, generator=generator, dtype=torch.float64)
    w, v = torch.cat([w, w]), torch.cat([v, -v])
    f, fitted, targets, product = torch.zeros(train + test).double(), x[:train], y[:train], x @ x[:train].T
    smoother = TelescopingSmoother(f[:train], f[train:])
    curves = {"train_error": [], "test_error": [], "train_parameters": [], "test_parameters": []}
    for step in range(steps + 1):
        on = x @ w.T
        hidden, on = on.relu(), (on > 0).double()
        f = hidden @ v
        if step % every == 0:
            for name, part, weights in (
                ("train", slice(train), smoother.train),
                ("test", slice(train, None), smoother.test),
            ):
                curves[f"{name}_error"].append((f[part] - y[part]).square().mean().item())
                curves[f"{name}_parameters"].append(effective_parameters(weights))
        if step == steps:
            break
        kernel = product * ((on * v.square()) @ on[:train].T) + hidden @ hidden[:train].T
        smoother.step(kernel, lr=lr, shrink=2 * lr * decay)
        wrong = (f[:train] - targets) / train
        slope_w, slope_v = (wrong[:, None] * on[:train] * v).T @ fitted, wrong @ hidden[:train]
        w, v = (1 - lr * decay) * w - lr * slope_w, (1 - lr * decay) * v - lr * slope_v
    curves = {name: torch.tensor(values, dtype=torch.float64) for name, values in curves.items()}
    last, half = len(curves["train_error"]) - 1, curves["test_error"].max() / 2
    fit_at = first(curves["train_error"] < 0.05, 1, last)
    general_at = first(curves["test_error"] < half, fit_at, last)
    gap = 1 - curves["test_parameters"] / curves["train_parameters"].clamp(min=1e-12)
    return {
        "delay": general_at / fit_at,
        "gap_rise": (gap[general_at] - gap[fit_at]).item(),
        "gap_when_general": gap[general_at].item(),
        "track_error": (smoother.predict(targets) - f[train:]).abs().mean().item(),
        "step_fitted": float(every * fit_at),
        "step_general": float(every * general_at),
        "generalised": float(curves["test_error"][general_at] < half),
        **{name: values.numpy() for name, values in curves.items()},
    }


def first(yes, start, last):
    found = yes[start:].nonzero()
    return start + int(found[0]) if len(found) else last


@claim(
    "telescoping-model",
    says="The more irregular the test inputs, the more gradient-boosted trees win over a neural network, and the "
    "network's smoother weights blow up there while the trees' do not.",
    arms=("network", "boosting"),
    holds=all_of(
        at_least("gap_ratio", 1.1, arm="network"),
        higher("weight_ratio", "network", than="boosting"),
    ),
    together=True,
    smoke=dict(train=60, test=100, watched=20, epochs=2, trees=5),
    left_out=("tabular benchmarks; here Friedman's function of heavy-tailed inputs",),
)
def boosting_wins_on_irregular_inputs(
    arms, seed, *, train=600, test=2_000, watched=200, epochs=150, trees=300, batch=48, noise=1.0
):
    """Both choose learning rate and length of training on a fifth of the training points.

    `gap_ratio` is network's over boosting's test error with half of the inputs irregular, over the same without any;
    `weight_ratio` the largest squared weights of an irregular over that of a regular input, of `watched` each.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = heavy_tailed(train + test, noise, generator)
    held = train // 5
    learn, choose = (x[held:train], y[held:train]), (x[:held], y[:held])
    x_test, y_test = x[train:], y[train:]
    far = (x_test - learn[0].mean(0)).norm(dim=1)
    irregular = far > far.quantile(0.9)
    regular_rows, irregular_rows = (~irregular).nonzero()[:, 0], irregular.nonzero()[:, 0]
    again = irregular_rows[torch.randint(len(irregular_rows), (len(regular_rows),), generator=generator)]
    looked = torch.cat([regular_rows[:watched], irregular_rows[:watched]])

    forest, used = boosted(learn, choose, trees)
    tree_errors = (forest.predict(x_test, trees=used) - y_test).square()
    tree_weights = forest.smoother(x_test[looked], trees=used)
    network, smoother = descended(learn, choose, x_test[looked], seed, epochs, batch)
    with torch.no_grad():
        net_errors = (network(x_test) - y_test).square()
    results = {}
    for arm, errors, weights in (
        ("network", net_errors, smoother.test),
        ("boosting", tree_errors, tree_weights),
    ):
        size = weights.square().sum(1)
        count = min(watched, len(regular_rows))
        results[arm] = {
            "error_regular": errors[regular_rows].mean().item(),
            "error_half_irregular": ((errors[regular_rows].mean() + errors[again].mean()) / 2).item(),
            "weight_ratio": (size[count:].max() / size[:count].max()).item(),
            "largest_weights_regular": size[:count].max().item(),
        }
    quotient = {
        key: results["network"][key] / results["boosting"][key] for key in ("error_regular", "error_half_irregular")
    }
    results["network"]["gap_ratio"] = quotient["error_half_irregular"] / quotient["error_regular"]
    return results


def heavy_tailed(count, noise, generator):
    """Friedman's first function, of ten inputs from Student's t with 2.5 degrees of freedom, 0.5 + 0.25 t."""
    normal = torch.randn(count, 10, generator=generator, dtype=torch.float64)
    # chi-squared with 2.5 degrees of freedom: a Gamma variable of shape 1.25, as the global seed is the trial's
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
    chi = 2 * torch._standard_gamma(torch.full((count, 10), 1.25, dtype=torch.float64))
    x = 0.5 + 0.25 * normal / (chi / 2.5).sqrt()
    y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return x, y + noise * torch.randn(count, generator=generator, dtype=torch.float64)


def boosted(learn, choose, trees):
    best = (math.inf, None, 0)
    for lr in (0.03, 0.1, 0.3):
        forest = BoostedTrees(trees, depth=3, lr=lr).fit(*learn)
        for used in range(10, trees + 1, 10) if trees >= 10 else (trees,):
            error = (forest.predict(choose[0], trees=used) - choose[1]).square().mean().item()
            best = min(best, (error, forest, used), key=lambda each: each[0])
    return best[1:]


class Scaled(nn.Module):
    """A perceptron on standardized targets, in their own unit outside."""

    def __init__(self, mean, std):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
        self.mean, self.std = mean, std

    def forward(self, x):
        return self.std * self.body(x)[:, 0] + self.mean


def descended(learn, choose, watched, seed, epochs, batch):
    """The best epoch of the best rate by the held-out points, and that run once more with its smoother."""
    best = (math.inf, 0.0, 0)
    for lr in (0.01, 0.03, 0.1, 0.3):
        for epoch, network in enumerate(runs(learn, seed, epochs, batch, lr), 1):
            with torch.no_grad():
                error = (network(choose[0]) - choose[1]).square().mean().item()
            if not math.isfinite(error):
                break
            best = min(best, (error, lr, epoch))
    _, lr, epochs = best
    kept = {}

    def follow(network, rows):
        both = torch.cat([learn[0], watched])
        if not kept:
            with torch.no_grad():
                start = (network(both) - network.mean) / network.std
            kept["smoother"] = TelescopingSmoother(start[: len(learn[0])], start[len(learn[0]) :])
        kernel = tangent.linear_kernel(network.body, both, learn[0][rows])
        kept["smoother"].step(kernel, rows, lr=lr)

    *_, network = runs(learn, seed, epochs, batch, lr, follow)
    return network, kept["smoother"]


def runs(learn, seed, epochs, batch, lr, before=None):
    """Plain gradient descent on half the squared error of standardized targets; the network after every epoch."""
    torch.manual_seed(seed)
    x, y = learn
    network = Scaled(y.mean(), y.std()).double()
    wanted = (y - y.mean()) / y.std()
    optimizer, order = torch.optim.SGD(network.parameters(), lr=lr), torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(batch):
            if before is not None:
                before(network, rows)
            optimizer.zero_grad()
            half_squares(network.body(x[rows])[:, 0], wanted[rows]).backward()
            optimizer.step()
        yield network
