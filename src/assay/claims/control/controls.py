"""Controls: the same method twice, and methods with one thing broken. None of these claims may hold."""

from dataclasses import replace

import torch

from assay import data, nn
from assay.lab import claim, higher, lower
from assay.probes import CMD, record
from assay.train import accuracy, fit

SMALL = {"train": 100, "test": 100, "epochs": 1}


def trained(seed, optimizer, *, train, test, epochs, shuffle=False, **options):
    """Test accuracy of a small perceptron on handwritten digits, trained by an optimizer of torch."""
    split = data.load("digits", train=train, test=test, seed=seed)
    learn = split.train
    if shuffle:
        order = torch.randperm(len(learn.targets), generator=torch.Generator().manual_seed(seed))
        learn = data.Labelled(learn.inputs, learn.targets[order])
    network = nn.mlp(split.shape, split.num_classes, widths=(32,))
    fit(network, learn, optimizer(network.parameters(), **options), epochs=epochs, batch_size=32, seed=seed)
    return {"test_accuracy": accuracy(network, split.test)}


def decomposed(seed, *, train, test, epochs, lr, num_modes):
    """A recorded training run and its modes."""
    split = data.load("digits", train=train, test=test, seed=seed)
    network = nn.mlp(split.shape, split.num_classes, widths=(32,))
    trajectory = record(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    fit(network, split.train, optimizer, epochs=epochs, batch_size=32, seed=seed, probes=[trajectory])
    generator = torch.Generator().manual_seed(seed)
    return trajectory, CMD(num_modes, num_samples=300, generator=generator).fit(trajectory)


@claim(
    "controls",
    control=True,
    says="The same training run under two names: the first tests better than the second.",
    arms=("first", "second"),
    holds=higher("test_accuracy", "first", than="second"),
    smoke=SMALL,
)
def same_method_twice(arm, seed, *, train=500, test=360, epochs=8, lr=0.1):
    """The arms differ in their random numbers alone, as two honest runs of one method would."""
    torch.manual_seed(2 * seed + (arm == "second"))
    return trained(seed, torch.optim.SGD, train=train, test=test, epochs=epochs, lr=lr)


@claim(
    "controls",
    control=True,
    says="Stochastic gradient descent with the sign of its step flipped tests better than as it should be.",
    arms=("flipped", "sgd"),
    holds=higher("test_accuracy", "flipped", than="sgd"),
    smoke=SMALL,
)
def flipped_sign(arm, seed, *, train=500, test=360, epochs=8, lr=0.03):
    """The learning rate is so small that the flipped arm does not collapse: it is judged by what it learns."""
    return trained(seed, torch.optim.SGD, train=train, test=test, epochs=epochs, lr=lr, maximize=arm == "flipped")


@claim(
    "controls",
    control=True,
    says="Momentum with its velocity term zeroed tests better, in a few epochs at a small learning rate, than with it.",
    arms=("zeroed", "momentum"),
    holds=higher("test_accuracy", "zeroed", than="momentum"),
    smoke=SMALL,
)
def zeroed_velocity(arm, seed, *, train=500, test=360, epochs=5, lr=0.01, momentum=0.9):
    velocity = 0.0 if arm == "zeroed" else momentum
    return trained(seed, torch.optim.SGD, train=train, test=test, epochs=epochs, lr=lr, momentum=velocity)


@claim(
    "controls",
    control=True,
    says="A network trained on labels that have been dealt out anew tests better than one trained on the true labels.",
    arms=("dealt", "true"),
    holds=higher("test_accuracy", "dealt", than="true"),
    smoke=SMALL,
)
def dealt_labels(arm, seed, *, train=500, test=360, epochs=8, lr=0.1):
    return trained(seed, torch.optim.SGD, train=train, test=test, epochs=epochs, lr=lr, shuffle=arm == "dealt")


@claim(
    "controls",
    control=True,
    says="A run that collapses tests better than one that does not.",
    arms=("collapsing", "sgd"),
    holds=higher("test_accuracy", "collapsing", than="sgd"),
    smoke=SMALL,
)
def collapsing_run(arm, seed, *, train=500, test=360, epochs=8, lr=0.1, explosive=10.0):
    """A collapse counts as the worst value seen, never as a missing one."""
    options = {"lr": explosive, "maximize": True} if arm == "collapsing" else {"lr": lr}
    return trained(seed, torch.optim.SGD, train=train, test=test, epochs=epochs, **options)


@claim(
    "controls",
    control=True,
    together=True,
    says="Correlated modes follow the weights better when every weight is given the reference of another mode.",
    arms=("permuted", "cmd"),
    holds=lower("relative_error", "permuted", than="cmd"),
    smoke={"train": 100, "test": 100, "epochs": 4},
)
def permuted_modes(arms, seed, *, train=500, test=360, epochs=12, lr=0.1, num_modes=5):
    """The lines are fitted anew, so that nothing but the choice of the reference is broken."""
    trajectory, modes = decomposed(seed, train=train, test=test, epochs=epochs, lr=lr, num_modes=num_modes)
    other = (modes.mode.int() + 1) % modes.num_modes
    paths, weights = modes.reference.double()[other].T, trajectory.weights.double()
    moves = paths - paths.mean(0)
    scale = (moves * weights).sum(0) / moves.square().sum(0)
    offset = weights.mean(0) - scale * paths.mean(0)
    kind, label = modes.scale.dtype, modes.mode.dtype
    permuted = replace(modes, mode=other.to(label), scale=scale.to(kind), offset=offset.to(kind))
    return errors(trajectory, permuted=permuted, cmd=modes)


@claim(
    "controls",
    control=True,
    together=True,
    says="Correlated modes follow the weights better when the signs of the correlations are ignored.",
    arms=("unsigned", "cmd"),
    holds=lower("relative_error", "unsigned", than="cmd"),
    smoke={"train": 100, "test": 100, "epochs": 4},
)
def ignored_signs(arms, seed, *, train=500, test=360, epochs=12, lr=0.1, num_modes=5):
    """Every weight moves with its reference, never against it; the lines keep their means."""
    trajectory, modes = decomposed(seed, train=train, test=test, epochs=epochs, lr=lr, num_modes=num_modes)
    middle = modes.reference.mean(1)[modes.mode.int()]
    scale = modes.scale.abs()
    offset = modes.offset + (modes.scale - scale) * middle
    return errors(trajectory, unsigned=replace(modes, scale=scale, offset=offset), cmd=modes)


def errors(trajectory, **arms):
    return {arm: {"relative_error": modes.relative_error(trajectory)} for arm, modes in arms.items()}
