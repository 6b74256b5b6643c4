"""Cauchy-Schwarz Divergence Information Bottleneck for Regression (Yu et al., 2024, arXiv:2404.17951)."""

import copy
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.lab import Tune, all_of, claim, higher, lower
from assay.losses import CSIBLoss, cs_mutual_information, distance_correlation
from assay.train import fit

KNOBS = {
    "cs_ib": (1e-3, 1e-2, 1e-1, 1.0),
    "mse": (3e-4, 1e-3, 3e-3, 1e-2),
    "vib": (1e-4, 1e-3, 1e-2, 1e-1),
    "nonlinear_ib": (1e-4, 1e-3, 1e-2, 1e-1),
    "mse_weight_decay": (1e-4, 1e-3, 1e-2, 1e-1),
}
FEWER_KNOBS = {
    "cs_ib": (1e-3, 1e-2, 1e-1, 1.0),
    "mse": (3e-4, 1e-3, 3e-3, 1e-2),
    "vib": (1e-4, 1e-3, 1e-2, 1e-1),
    "mse_weight_decay": (1e-4, 1e-3, 1e-2, 1e-1),
}
BETAS = {
    "cs_ib": (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "vib": (0.0, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0),
    "nonlinear_ib": (0.0, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0),
}
SMOKE = dict(points=80, digits=80, epochs=2)
PAPER = dict(points=20_640, epochs=100, batch_size=128)
LEFT_OUT = (
    "California Housing, Appliance Energy, Beijing PM2.5, Bike Sharing, rotated MNIST, UTKFace; here the angles of "
    "rotated 8 x 8 digits, and Friedman's function with noise of Student's t",
    "the diabetes data of scikit-learn, which do not ship: the rotated digits stand in",
    "HSIC bottleneck and variational discrete-time bottlenecks as opponents",
    "ten values of beta; here four",
)


@claim(
    "cauchy-schwarz-bottleneck",
    says="Networks trained with the Cauchy-Schwarz bottleneck reach lower test error than plain squared-error training "
    "and than variational and nonlinear information bottlenecks.",
    arms=("cs_ib", "mse", "vib", "nonlinear_ib", "mse_weight_decay"),
    holds=all_of(lower("test_rmse", "cs_ib", than="mse"), lower("test_rmse", "cs_ib", than="vib")),
    tune=Tune({"knob": KNOBS}, by="test_rmse", best="min"),
    smoke=SMOKE,
    paper=PAPER,
    left_out=LEFT_OUT,
)
def generalisation(
    arm, seed, *, points=600, digits=450, epochs=150, batch_size=64, lr=1e-3, code=128, knob=1e-3, validate=False
):
    """Root mean square errors on standardised targets; the epoch that is best on validation data is the one tested.

    Every arm has one knob of four values: beta, the weight decay, or for plain squared error the learning rate.

    Undecided, with no sign of an advantage: 0.320 against 0.316 (squared error), 0.311 (variational) and 0.309
    (weight decay) in units of the target's standard deviation, of which seeds alone make up 0.03. The tuned beta is
    0.01, at which the bottleneck hardly compresses. Values agree with the authors' code. With six hundred examples
    and early stopping for all, no regulariser here does much.
    """
    scores = {}
    for name, parts in datasets(seed, points, digits, validate).items():
        network = trained(arm, seed, parts, epochs, batch_size, lr, code, knob)
        scores[f"test_rmse_{name}"] = rmse(network, parts[2])
        scores[f"train_rmse_{name}"] = rmse(network, parts[0])
    return {"test_rmse": (scores["test_rmse_digits"] + scores["test_rmse_friedman"]) / 2, **scores}


@claim(
    "cauchy-schwarz-bottleneck",
    says="At the same test error budget the CS bottleneck degrades less under FGSM input perturbations than "
    "squared-error training.",
    arms=("cs_ib", "mse", "vib", "mse_weight_decay"),
    holds=all_of(lower("attacked_rmse", "cs_ib", than="mse"), lower("attacked_rmse", "cs_ib", than="vib")),
    tune=Tune({"knob": FEWER_KNOBS}, by="test_rmse", best="min"),
    smoke=SMOKE,
    paper=PAPER,
    left_out=(*LEFT_OUT, "strengths 0 to 0.6 in thirteen steps; here 0.1, 0.2 and 0.3", "the PGD attack"),
)
def adversarial_robustness(
    arm, seed, *, points=600, digits=450, epochs=150, batch_size=64, lr=1e-3, code=128, knob=1e-3, validate=False
):
    """The networks of `generalisation`, tuned as there, for the error without an attack.

    Every input coordinate is moved by 0.1, 0.2 or 0.3 standard deviations along the sign of the gradient of the squared
    error through the network itself.
    """
    clean, attacked = [], []
    for parts in datasets(seed, points, digits, validate).values():
        network = trained(arm, seed, parts, epochs, batch_size, lr, code, knob)
        clean.append(rmse(network, parts[2]))
        attacked.append([rmse(network, fgsm(network, parts[2], eps)) for eps in (0.1, 0.2, 0.3)])
    curve = np.array([np.mean(clean), *np.mean(attacked, 0)])
    return {"attacked_rmse": float(curve[1:].mean()), "test_rmse": float(curve[0]), "rmse_by_strength": curve}


@claim(
    "cauchy-schwarz-bottleneck",
    says="For the same compression of the input the CS bottleneck keeps more predictive information than the "
    "variational bottleneck.",
    arms=("cs_ib", "vib", "nonlinear_ib"),
    holds=higher("plane_area", "cs_ib", than="vib"),
    smoke=dict(points=80, epochs=2),
    paper=dict(points=20_640, epochs=100, batch_size=128),
    left_out=LEFT_OUT,
)
def information_plane(arm, seed, *, points=600, epochs=100, batch_size=64, lr=1e-3, code=128):
    """Eight networks an arm, one for each beta, on Friedman's function.

    Predictive information is log(var / mse) / 2 on test points. Compression is 1 - I / I(beta 0), with the normalised
    I_CS between test inputs and their codes without noise, by median bandwidths: it does not see the scale of a code,
    nor the noise that the opponents add to it. The distance correlation of inputs and codes is a second ruler. A
    network counts for every compression up to its own.
    """
    parts = datasets(seed, points, 0, False)["friedman"]
    x, y = parts[2]
    predictive, information, correlation = [], [], []
    for beta in BETAS[arm]:
        network = trained(arm, seed, parts, epochs, batch_size, lr, code, beta)
        with torch.no_grad():
            codes = network(x)[1]
        predictive.append(max(0.0, 0.5 * math.log(y.var(correction=0) / rmse(network, parts[2]) ** 2)))
        shared = cs_mutual_information(x, codes, sigma_x="median", sigma_t="median", normalized=True)
        information.append(shared.item())
        correlation.append(distance_correlation(x, codes))
    return {
        "plane_area": plane_area(predictive, information),
        "plane_area_by_distance_correlation": plane_area(predictive, correlation),
        "predictive_by_beta": np.array(predictive),
        "information_by_beta": np.array(information),
        "distance_correlation_by_beta": np.array(correlation),
    }


def plane_area(predictive, information, furthest=0.8):
    """Area under the best predictive information at a compression of r or more, for r from 0 to `furthest`."""
    compression = 1 - np.array(information) / max(information[0], 1e-12)
    levels = np.linspace(0, furthest, 81)
    best = [max((p for p, c in zip(predictive, compression, strict=True) if c >= r), default=0.0) for r in levels]
    return float(np.mean(best) * furthest)


def datasets(seed, points, digits, validate):
    """Name -> (train, validation, test), 60, 20 and 20 per cent; with `validate`, of what is not the test part."""
    generator = torch.Generator().manual_seed(seed)
    found = {"friedman": parted(data.friedman(points, degrees=3, generator=generator), validate)}
    if digits:
        images = data.load("digits", train=digits, test=0, seed=seed).train.inputs
        angles = (torch.rand(digits, generator=generator) - 0.5) * math.pi / 2
        zero = torch.zeros_like(angles)
        turns = torch.stack([angles.cos(), -angles.sin(), zero, angles.sin(), angles.cos(), zero], 1).view(-1, 2, 3)
        grid = F.affine_grid(turns, list(images.shape), align_corners=False)
        turned = F.grid_sample(images, grid, align_corners=False)
        found["digits"] = parted(data.Labelled(turned.flatten(1), angles), validate)
    return found


def parted(labelled, validate):
    """Inputs less their means over one standard deviation for all, targets standardised, by the training part."""
    x, y = labelled.inputs, labelled.targets[:, None]
    count = int(0.8 * len(x)) if validate else len(x)
    first, second = int(0.6 * count), int(0.8 * count)
    x = (x - x[:first].mean(0)) / x[:first].var(0).mean().sqrt()
    y = (y - y[:first].mean()) / y[:first].std()
    cuts = (slice(first), slice(first, second), slice(second, count))
    return [data.Labelled(x[cut], y[cut]) for cut in cuts]


class Bottleneck(nn.Module):
    """The authors' encoder and decoder. Gives (inputs, code without noise, logarithm of its variance, prediction)."""

    def __init__(self, features, code, noise):
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, code))
        )
        self.mean, self.log_variance = nn.Linear(code, code), nn.Linear(code, code)
        self.decoder = nn.Sequential(nn.Linear(code, 128), nn.ReLU(), nn.Linear(128, 1))
        self.noise = noise

    def forward(self, x):
        hidden = self.encoder(x)
        mean = self.mean(hidden)
        spread = {"none": None, "fixed": torch.full_like(mean, -1.0), "learned": self.log_variance(hidden)}[self.noise]
        drawn = mean
        if self.training and spread is not None:
            drawn = mean + (spread / 2).exp() * torch.randn_like(mean)
        return x, mean, spread, self.decoder(drawn)


def objective(arm, beta):
    """loss(what the network gives, targets) of an arm; the bottleneck with the authors' kernels of width 1."""
    bottleneck = CSIBLoss(beta=beta)

    def loss(outputs, y):
        x, mean, spread, predicted = outputs
        if arm == "cs_ib":
            return bottleneck(x, mean, y, predicted)
        error = F.mse_loss(predicted, y)
        if arm == "vib":  # Kullback-Leibler divergence from the standard normal
            return error + beta * 0.5 * (mean.square() + spread.exp() - spread - 1).sum(1).mean()
        if arm == "nonlinear_ib":  # Kolchinsky, Tracey (2017): a bound from distances between the codes' Gaussians
            pairs = torch.cdist(mean, mean, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * math.exp(-1.0))
            return error - beta * ((-pairs).logsumexp(1) - math.log(len(mean))).mean()
        return error

    return loss


def trained(arm, seed, parts, epochs, batch_size, lr, code, knob):
    """A network with the weights of its best validation epoch."""
    noise = {"vib": "learned", "nonlinear_ib": "fixed"}.get(arm, "none")
    torch.manual_seed(seed)
    network = Bottleneck(parts[0].inputs.shape[1], code, noise)
    rate = knob if arm == "mse" else lr
    decay = knob if arm == "mse_weight_decay" else 0.0
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay)
    best = [math.inf, network.state_dict()]

    def keep_the_best(model):
        error = rmse(model, parts[1])
        if error < best[0]:
            best[:] = error, copy.deepcopy(model.state_dict())

    fit(
        network,
        parts[0],
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        loss=objective(arm, knob),
        seed=seed,
        on_epoch=keep_the_best,
    )
    network.load_state_dict(best[1])
    return network.eval()


def rmse(network, part):
    network.eval()
    with torch.no_grad():
        return F.mse_loss(network(part.inputs)[3], part.targets).sqrt().item()


def fgsm(network, part, eps):
    x = part.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.mse_loss(network(x)[3], part.targets), x)
    return data.Labelled(part.inputs + eps * gradient.sign(), part.targets)
