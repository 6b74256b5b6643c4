"""Deeply-Supervised Nets (Lee et al., 2014, arXiv:1409.5185)."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from assay import data
from assay.data import Labelled
from assay.lab import Tune, all_of, claim, higher, lower
from assay.learn import BlockChain, DeepSupervision
from assay.losses import SquaredHinge
from assay.train import accuracy, fit

RATES = (3e-3, 1e-2, 3e-2, 1e-1)


@claim(
    "deeply-supervised",
    says="Adding companion objectives to hidden layers lowers test error of a plain convolutional network, most with "
    "few labels.",
    arms=("dsn", "plain", "plain_squared_hinge"),
    holds=all_of(
        lower("test_error", "dsn", than="plain"),
        lower("test_error", "dsn", than="plain_squared_hinge"),
    ),
    tune=Tune(
        {
            "lr": {
                "dsn": (3e-4, 1e-3, 3e-3, 1e-2),
                "plain": RATES,
                "plain_squared_hinge": (3e-4, 1e-3, 3e-3, 1e-2),
            },
            "alpha": {"dsn": (0.1, 0.3, 1.0), "plain": (0.3, 0.3, 0.3), "plain_squared_hinge": (0.3, 0.3, 0.3)},
        },
        by="test_error",
        best="min",
        seeds=(1000,),
    ),
    smoke=dict(train=100, test=50, epochs=1, widths=(4, 4, 4)),
    paper=dict(train=60_000, test=10_000, epochs=100, widths=(192, 192, 192)),
    reported={
        "MNIST": "0.39 % error",
        "CIFAR-10 without augmentation": "about 9.7 % error",
        "CIFAR-100": "34.57 % error",
        "SVHN": "1.92 % error",
    },
    left_out=(
        "MNIST, CIFAR-10 and -100, SVHN with networks in networks; here three convolutions on Fashion-MNIST",
        "widths 32, 64, 64; here 16, 32, 32",
    ),
)
def companion_losses_improve_generalisation(
    arm, seed, *, train=1_000, test=3_000, epochs=20, batch_size=32, widths=(16, 32, 32), lr=1e-2, alpha=0.3,
    validate=False,
):  # fmt: skip
    """A thousand labels, ReLU and no normalization; both squared hinge and cross-entropy are there without companions.

    The companions are squared hinge losses, fading to nothing by the end.

    Fails: 21.5 % error against 21.7 % with cross-entropy alone, but 19.5 % with the squared hinge alone: what helps
    here is the loss. Companions want a learning rate a tenth of that (0.001; the squared hinge's own is the largest
    of its grid), as their losses add up.
    """
    split = data.load("fashion", train=train, test=test, seed=seed, validate=validate)
    torch.manual_seed(seed)
    a, b, c = widths
    chain = BlockChain(
        nn.Sequential(nn.Conv2d(1, a, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(b, c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Linear(9 * c, split.num_classes)),
    )
    loss = F.cross_entropy if arm == "plain" else SquaredHinge()
    rule = None
    if arm == "dsn":
        steps = epochs * -(-len(split.train.targets) // batch_size)
        rule = DeepSupervision(chain, split.num_classes, split.train.inputs[:1], total_steps=steps, alpha=alpha)
    history = trained(chain, split.train, rule, loss, lr, epochs, batch_size, seed)
    return {"test_error": 100 * (1 - accuracy(chain, split.test)), "loss": history.loss}


@claim(
    "deeply-supervised",
    says="Companion objectives counter vanishing gradients: a deep plain network trains where the plain loss stalls, "
    "and its early features are more discriminative.",
    arms=("dsn", "plain", "greedy_layerwise"),
    holds=all_of(
        lower("train_loss", "dsn", than="plain"),
        higher("probe_accuracy", "dsn", than="plain"),
    ),
    tune=Tune({"lr": RATES}, by="train_loss", best="min", seeds=(1000,)),
    smoke=dict(train=100, test=50, epochs=1, channels=4, depth=6),
    left_out=("networks in networks; here twelve plain convolutions",),
)
def trains_deep_plain_nets(
    arm, seed, *, train=2_000, test=2_000, epochs=6, batch_size=64, channels=16, depth=12, lr=3e-2, validate=False
):
    """tanh, Xavier weights, no shortcuts, no normalization; a head after every third convolution.

    `train_loss` is that at the output on the training set at the end, the same loss for all. The probe is a linear
    classifier on the second convolution, trained apart. Greedy training gives each block and the classifier an equal
    share of the epochs, a block with a head of its own.

    Undecided: training losses of 0.89 and 0.98 without companions, probes of 75.9 and 75.0 %. The plain network
    does not stall: twelve layers of tanh with Xavier weights send as much gradient to the first as to the last (0.4
    to 2.3 of it), and all but one seed, at chance in both arms, train. Greedy training ends at 1.08.
    """
    split = data.load("fashion", train=train, test=test, seed=seed, validate=validate)
    torch.manual_seed(seed)
    chain = deep(split, channels, depth)
    steps = epochs * -(-len(split.train.targets) // batch_size)
    example = split.train.inputs[:1]
    ratio_first = first_gradient(chain, split.train)
    if arm == "greedy_layerwise":
        greedy(chain, split, lr, epochs, batch_size, seed)
    else:
        rule = None
        if arm == "dsn":
            rule = DeepSupervision(chain, split.num_classes, example, total_steps=steps, alpha=0.3)
        trained(chain, split.train, rule, F.cross_entropy, lr, epochs, batch_size, seed)
    with torch.no_grad():
        value = F.cross_entropy(chain(split.train.inputs), split.train.targets).item()
        layer = chain[0][: 2 * 2 + 1]  # pooling, then two convolutions with their tanh
        features = [layer(part.inputs).flatten(1) for part in (split.train, split.test)]
    probe = nn.Linear(features[0].shape[1], split.num_classes)
    optimizer = torch.optim.Adam(probe.parameters(), lr=1e-3)
    fit(probe, Labelled(features[0], split.train.targets), optimizer, epochs=10, batch_size=64, seed=seed)
    return {
        "train_loss": value,
        "probe_accuracy": accuracy(probe, Labelled(features[1], split.test.targets)),
        "test_accuracy": accuracy(chain, split.test),
        "first_gradient": ratio_first,
    }


def trained(chain, part, rule, loss, lr, epochs, batch_size, seed):
    parameters = [*chain.parameters(), *([] if rule is None else rule.parameters())]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    return fit(
        chain,
        part,
        optimizer,
        epochs=epochs,
        loss=loss,
        rule=rule,
        batch_size=batch_size,
        seed=seed,
        schedule=lambda each: CosineAnnealingLR(each, epochs),
    )


def deep(split, channels, depth):
    """Blocks of three convolutions; the images are halved first, to be fast."""
    parts: list[nn.Module] = []
    before = split.shape[0]
    for number in range(depth // 3):
        layers: list[nn.Module] = [nn.AvgPool2d(2)] if number == 0 else []
        for _ in range(3):
            conv = nn.Conv2d(before, channels, 3, padding=1)
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
            layers += [conv, nn.Tanh()]
            before = channels
        parts.append(nn.Sequential(*layers))
    parts.append(nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, split.num_classes)))
    return BlockChain(*parts)


def first_gradient(chain, part):
    """Norm of the first convolution's gradient, relative to the last one's, before training."""
    value = F.cross_entropy(chain(part.inputs[:256]), part.targets[:256])
    convs = [m for m in chain.modules() if isinstance(m, nn.Conv2d)]
    first, last = torch.autograd.grad(value, [convs[0].weight, convs[-1].weight])
    return (first.norm() / last.norm()).item()


def greedy(chain, split, lr, epochs, batch_size, seed):
    """Each block with a head of its own on what is below, then the classifier: equal shares of the epochs."""
    x, y = split.train
    share = max(1, epochs // len(chain))
    for number, block in enumerate(chain):
        with torch.no_grad():
            below = x if number == 0 else chain[:number](x)
        if number == len(chain) - 1:
            net = block
        else:
            width = 16 * block[-2].out_channels
            top = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(width, split.num_classes))
            net = nn.Sequential(block, top)
        trained(net, Labelled(below, y), None, F.cross_entropy, lr, share, batch_size, seed)
