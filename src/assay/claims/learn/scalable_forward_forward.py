"""Scalable Forward-Forward Algorithm (Krutsylo, 2025, arXiv:2501.03176)."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from assay import data
from assay.data import Labelled
from assay.lab import Tune, all_of, claim, higher, lower, ratio
from assay.learn import BlockChain, ScalableForwardForward, backpropagation
from assay.metrics.costs import step_costs
from assay.nn import resnet8
from assay.train import accuracy, fit

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
OBJECTIVES = {
    "sff_block": ("logistic", "softmax"),
    "sff_layer": ("logistic", "softmax"),
    "bp": ("softmax", "softmax"),
}
LEFT_OUT = (
    "MobileNetV3 and ResNet18 on CIFAR-10, Imagenette and others; here a residual network of 8 layers on Fashion-MNIST",
    "the paper's own loss and threshold, which are not told; here the better of two forms by validation",
)


@claim(
    "scalable-forward-forward",
    says="Training residual blocks separately with class-wise goodness performs at least on a par with end-to-end "
    "backpropagation, and better than strict layer-wise training.",
    arms=("sff_block", "sff_layer", "bp"),
    holds=all_of(
        higher("test_accuracy", "sff_block", than="bp", by=-0.01),
        higher("test_accuracy", "sff_block", than="sff_layer"),
    ),
    tune=Tune({"lr": RATES, "objective": OBJECTIVES}, by="test_accuracy", best="max", seeds=(1000,)),
    smoke=dict(train=128, test=50, epochs=1, widths=(4, 8, 8)),
    paper=dict(train=60_000, test=10_000, epochs=100, widths=(16, 32, 64)),
    reported={
        "CIFAR-10, by a third party": "81.38 % against 78.49 % for backpropagation",
        "Imagenette, ResNet18, by a third party": "83.24 % against 81.84 %",
    },
    left_out=(*LEFT_OUT, "widths 16, 32, 64 and 6,000 images; here 8, 16, 32 and 2,500"),
)
def block_hybrid_matches_backprop(
    arm,
    seed,
    *,
    train=2_500,
    test=3_000,
    epochs=8,
    batch_size=64,
    widths=(8, 16, 32),
    lr=3e-3,
    objective="logistic",
    validate=False,
):
    """The blocks are the stem and three residual blocks; the strict arm has one convolution a block and no shortcuts.

    Backpropagation has the mean over places and a linear layer on top, as the network comes. All arms have a cosine
    schedule: at a constant rate, 114 steps of 128 left the running statistics of the batch norms behind, and accuracies
    in evaluation mode scattered by 6 to 10 points from seed to seed.

    Fails: 75.1 % block by block against 81.9 % for backpropagation, 6.8 points where 1 was allowed; strict layers
    are at 73.1 %, below the blocks as claimed. All chose the softmax of goodness, of rates inside their grids but
    for the strict arm's, the largest. 320 steps are few for blocks of which each sees only what those before it
    have made of the picture so far.
    """
    split = data.load("fashion", train=train, test=test, seed=seed, validate=validate)
    torch.manual_seed(seed)
    model, rule, judged = contender(arm, split, widths, objective)
    optimizer = torch.optim.Adam([*model.parameters(), *rule_parameters(rule)], lr=lr)
    history = fit(
        model,
        split.train,
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        rule=rule,
        seed=seed,
        schedule=lambda each: CosineAnnealingLR(each, epochs),
    )
    return {"test_accuracy": accuracy(judged, split.test), "loss": history.loss, "seconds": history.seconds}


@claim(
    "scalable-forward-forward",
    says="Local block training has its advantage over backpropagation on small training sets.",
    arms=("sff_block", "bp"),
    holds=higher("test_accuracy", "sff_block", than="bp"),
    tune=Tune(
        {
            "lr": (1e-3, 3e-3, 1e-2),
            "shift": (0, 2),
            "weight_decay": (0.0, 1e-3),
            "objective": {"sff_block": ("logistic", "softmax"), "bp": ("softmax", "softmax")},
        },
        by="test_accuracy",
        best="max",
        seeds=(1000,),
    ),
    smoke=dict(train=100, test=50, epochs=1, widths=(4, 8, 8)),
    left_out=(*LEFT_OUT, "transfer learning", "60 epochs; here 30"),
)
def stronger_with_little_data(
    arm,
    seed,
    *,
    train=500,
    test=3_000,
    epochs=30,
    batch_size=64,
    widths=(8, 16, 32),
    lr=3e-3,
    shift=0,
    weight_decay=0.0,
    objective="logistic",
    validate=False,
):
    """Five hundred labels. Random shifts and weight decay are chosen for both arms by validation.

    Both are stopped where a tenth of the labels, held out from training, was classified best.

    Undecided: 60.4 % and 63.5 for backpropagation, which is ahead in three seeds of five.
    """
    split = data.load("fashion", train=train, test=test, seed=seed, validate=validate)
    held = len(split.train.targets) // 10
    learn = Labelled(*(each[held:] for each in split.train))
    watch = Labelled(*(each[:held] for each in split.train))
    torch.manual_seed(seed)
    model, rule, judged = contender(arm, split, widths, objective)
    optimizer = torch.optim.AdamW([*model.parameters(), *rule_parameters(rule)], lr=lr, weight_decay=weight_decay)
    best = [-1.0, 0.0]

    def look(_):
        seen = accuracy(judged, watch)
        if seen > best[0]:
            best[:] = [seen, accuracy(judged, split.test)]

    fit(
        model,
        learn,
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        rule=shifted(rule, shift),
        seed=seed,
        on_epoch=look,
    )
    return {"test_accuracy": best[1], "validation_accuracy": best[0]}


@claim(
    "scalable-forward-forward",
    says="Training block by block takes less memory than backpropagation at a similar speed.",
    arms=("sff_block", "bp"),
    holds=all_of(lower("peak_mib", "sff_block", than="bp"), ratio("seconds", "sff_block", to="bp", at_most=1.25)),
    together=True,
    exclusive=True,
    smoke=dict(batch_size=16, widths=(4, 8, 8), repeats=1),
    reported={"what the abstract says": "more memory efficient; a similar training speed"},
    left_out=("MobileNetV3 and ResNet18 on pictures of 32 x 32; here a residual network of 8 layers on 28 x 28",),
)
def less_memory_at_similar_speed(arms, seed, *, batch_size=128, widths=(16, 32, 64), repeats=7):
    """Tensors alive at once in a step of the rule alone, its gradients being there already.

    That a chain of sixteen equal convolutions takes 0.18 of the memory was known when this claim was written. A similar
    speed is at most a quarter more time.

    Holds: 49.8 MiB against 62.8, and 1.04 times the time. The first residual block, at full resolution, is what the
    memory goes into.
    """
    split = data.load("fashion", train=batch_size, test=10, seed=seed)
    steps = {}
    for arm in arms:
        torch.manual_seed(seed)
        model, rule, _ = contender(arm, split, widths, "softmax")

        def step(model=model, rule=rule or backpropagation):
            model.zero_grad(set_to_none=False)
            rule(model, *split.train, F.cross_entropy)

        steps[arm] = step
    return step_costs(steps, repeats=repeats)


def contender(arm, split, widths, objective):
    """(network, its rule, what is judged)."""
    network = resnet8(split.shape, split.num_classes, widths=widths)
    if arm == "bp":
        return network, None, network
    chain = BlockChain(*list(BlockChain.of(network))[:-1]) if arm == "sff_block" else layers(split.shape, widths)
    rule = ScalableForwardForward(chain, split.num_classes, split.train.inputs[:1], objective=objective)
    return chain, rule, rule.voter()


def layers(shape, widths):
    """The convolutions of the residual network, each a block of its own."""
    a, b, c = widths
    plan = [(shape[0], a, 1), (a, a, 1), (a, a, 1), (a, b, 2), (b, b, 1), (b, c, 2), (c, c, 1)]
    return BlockChain(
        *(
            nn.Sequential(nn.Conv2d(i, o, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o, stride in plan
        )
    )


def rule_parameters(rule):
    return [] if rule is None else rule.parameters()


def shifted(rule, most):
    """A rule that sees its images moved by up to `most` pixels each way; None is backpropagation."""
    inner = rule or backpropagation
    if most == 0:
        return inner

    def moved(model, inputs, targets, loss):
        padded = F.pad(inputs, (most,) * 4)
        at = torch.randint(0, 2 * most + 1, (2,)).tolist()
        height, width = inputs.shape[2:]
        return inner(model, padded[:, :, at[0] : at[0] + height, at[1] : at[1] + width], targets, loss)

    return moved
