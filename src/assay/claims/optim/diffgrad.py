"""diffGrad: an optimization method for convolutional neural networks (Dubey et al., 2019, arXiv:1909.11015)."""

import numpy as np
import torch
from torch.optim.lr_scheduler import MultiStepLR

from assay import data, nn
from assay.lab import all_of, at_least, claim, higher, lower
from assay.optim import DiffGrad
from assay.train import accuracy, fit

OPTIMIZERS = {
    "diffgrad": lambda parameters, lr: DiffGrad(parameters, lr=lr, keep_friction=True),
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr),
    "adam_half_lr": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr / 2),
    "amsgrad": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, amsgrad=True),
    "sgd_momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
}
SMOKE = dict(train=64, test=50, epochs=2, widths=(2, 4, 4))
PAPER = dict(dataset="cifar10", train=50_000, test=10_000, widths=(64, 128, 256), epochs=100, batch_size=128)
LEFT_OUT = (
    "ResNet-50 on CIFAR-10 and CIFAR-100, 100 epochs of 50,000 images; here a residual network of 8 layers, widths 8, "
    "16, 32, and 8 epochs of 3,000 Fashion-MNIST images",
    "6,000 images and widths 16, 32, 64, as first planned",
    "batches of 32 and 128; here of 64",
    "AdaGrad, AdaDelta and RMSProp as opponents; other activation functions",
)


@claim(
    "diffgrad",
    says="A small residual network trained with diffGrad reaches higher test accuracy than with Adam at the same "
    "learning rate and epochs.",
    arms=("diffgrad", "adam", "adam_half_lr", "amsgrad", "sgd_momentum"),
    holds=higher("test_accuracy", "diffgrad", than="adam"),
    tune={
        "lr": {
            "diffgrad": (1e-3,),
            "adam": (1e-3,),
            "adam_half_lr": (1e-3,),
            "amsgrad": (1e-3,),
            "sgd_momentum": (0.05,),
        }
    },
    smoke=SMOKE,
    paper=PAPER,
    left_out=(*LEFT_OUT, "the rate of SGD tuned; here it is 0.05, as the arm stands in no criterion"),
)
def accuracy_over_adam(
    arm,
    seed,
    *,
    dataset="fashion",
    train=3_000,
    test=3_000,
    widths=(8, 16, 32),
    epochs=8,
    batch_size=64,
    lr=1e-3,
    validate=False,
):
    """The authors' protocol: rate 1e-3 for three quarters of the epochs, then a tenth of it; the paper's is 80 of 100.

    Adam at half the rate stands beside them because a step of diffGrad lies between half of Adam's and all of it.

    Fails: 75.7 % against Adam's 79.5 %. The friction coefficient exceeds one half by 0.0017 on average, as the
    gradients of this network are far below 1: the method is Adam at half the rate, which has 75.6 %. In eight epochs
    half the rate is too little; SGD with momentum, at 0.05, has 82.6 %. The steps are those of the authors' corrected
    code, so that it is the method's dependence on the scale of the loss that decides.
    """
    split = data.load(dataset, train=train, test=test, seed=seed, validate=validate)
    return trained(arm, split, seed, widths=widths, epochs=epochs, batch_size=batch_size, lr=lr)


@claim(
    "diffgrad",
    says="The benefit comes from the gradient-change coefficient itself: with each arm's rate tuned, diffGrad beats "
    "Adam, and its coefficient is measurably away from one half.",
    arms=("diffgrad", "adam"),
    holds=all_of(
        higher("test_accuracy", "diffgrad", than="adam"),
        at_least("friction_excess", 0.01, arm="diffgrad"),
    ),
    tune={"lr": (1e-3, 2e-3, 4e-3, 8e-3)},
    smoke=SMOKE,
    paper=PAPER,
    left_out=(*LEFT_OUT, "rates 2.5e-4 and 5e-4 in the grid; here it begins at 1e-3 and goes to 8e-3"),
)
def more_than_half_rate(
    arm,
    seed,
    *,
    dataset="fashion",
    train=3_000,
    test=3_000,
    widths=(8, 16, 32),
    epochs=8,
    batch_size=64,
    lr=1e-3,
    validate=False,
):
    """As `accuracy_over_adam`; the excess is the mean of xi - 1/2 over all parameters and steps.

    Fails: accuracies are the same (83.4 % and 83.4), and the friction is 0.0014 above one half, where 0.01 was
    asked: gradients of single weights and their changes are so small (of the order of a thousandth) that the
    sigmoid of their change is 1/2 to two digits, whatever the step. On these networks diffGrad is Adam at half the
    rate.
    """
    split = data.load(dataset, train=train, test=test, seed=seed, validate=validate)
    return trained(arm, split, seed, widths=widths, epochs=epochs, batch_size=batch_size, lr=lr)


@claim(
    "diffgrad",
    says="On the paper's three one-dimensional non-convex functions diffGrad ends nearer the global minimum than Adam.",
    arms=("diffgrad", "adam", "adam_half_lr"),
    holds=lower("gap", "diffgrad", than="adam"),
    smoke=dict(starts=5, iterations=20),
    paper=dict(starts=1),
    reported={
        "from -1, learning rate 0.1": "diffGrad reaches the global minimum of all three, Adam passes it (figures)"
    },
    left_out=("the single start at -1; here random starts near it",),
)
def analytic_functions(arm, seed, *, starts=30, iterations=300, lr=0.1, beta1=0.95, beta2=0.999):
    """Starts uniform in (-1.2, -0.8); the gap is f(x) - min f on [-1.5, 1.5], averaged over starts and functions.

    The second function's derivative is the right one: the authors' notebook leaves out the factor 8 of sin(8x).

    Holds: a gap of 0.084 against Adam's 0.156. But Adam at half the rate has 0.001: what keeps diffGrad from passing
    the minimum is the smaller step, of which its friction allows it only a part.
    """
    generator = torch.Generator().manual_seed(seed)
    begin = torch.rand(starts, generator=generator, dtype=torch.float64) * 0.4 - 1.2
    grid = torch.linspace(-1.5, 1.5, 300_001, dtype=torch.float64)
    measures = {}
    for name, function in FUNCTIONS.items():
        x = torch.nn.Parameter(begin.clone())
        optimizer = OPTIMIZERS[arm]([x], lr)
        optimizer.param_groups[0]["betas"] = (beta1, beta2)
        for _ in range(iterations):
            optimizer.zero_grad()
            function(x).sum().backward()
            optimizer.step()
        measures[f"gap_{name}"] = float((function(x.detach()) - function(grid).min()).mean())
    return {"gap": sum(measures.values()) / len(measures)} | measures


def trained(arm, split, seed, *, widths, epochs, batch_size, lr):
    """Train the claims' network by the authors' schedule and watch diffGrad's friction on the way."""
    torch.manual_seed(seed)
    network = nn.build("resnet8", split.shape, split.num_classes, widths=widths)
    optimizer = OPTIMIZERS[arm](network.parameters(), lr)
    excess = []

    def watch(_):
        if arm == "diffgrad":
            excess.append(float(torch.cat([xi.flatten() for xi in optimizer.friction]).mean()) - 0.5)

    history = fit(
        network,
        split.train,
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        schedule=lambda each: MultiStepLR(each, [max(1, epochs * 3 // 4)]),
        on_step=watch,
        channels_last=True,
    )
    return {
        "test_accuracy": accuracy(network, split.test),
        "friction_excess": float(np.mean(excess)) if excess else 0.0,
        "loss": history.loss,
    }


def valley(x):
    """Two parabolas that meet at 0; the left one is the deeper."""
    return torch.where(x <= 0, (x + 0.3) ** 2, (x - 0.2) ** 2 + 0.05)


def waves(x):
    """A steep slope that runs into a cubic with a wave on it."""
    return torch.where(x <= -0.9, -40 * x - 35.15, x**3 + x * torch.sin(8 * x) + 0.85)


def tents(x):
    """Parabolas outside, a tent inside, whose middle is the minimum."""
    inner = torch.where(x.abs() <= 0.4, 7 / 8 * x.abs(), 0.75 - x.abs())
    return torch.where(x.abs() <= 0.5, inner, x**2)


FUNCTIONS = {"valley": valley, "waves": waves, "tents": tents}
