"""Training the Untrainable: guidance by another network (Subramaniam et al., 2024, arXiv:2410.20035)."""

import torch
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.data import Labelled
from assay.lab import Tune, all_of, at_least, claim, higher
from assay.learn import Guidance
from assay.nn import resnet8
from assay.train import accuracy, fit

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SIDE = 36
LEFT_OUT = (
    "ImageNet, 50 layers, ResNet18 and 50 as guides, 100 epochs; here 30 layers, a residual network of 8 layers",
    "recurrent networks and transformers on sequences",
    "5,000 images for 25 epochs; here 2,500 for 15",
)
SMOKE = dict(train=100, test=50, epochs=1, batch_size=50, depth=4, width=16, guide_epochs=1, guide_widths=(4, 4, 8))


@claim(
    "guidance",
    says="Layer-wise alignment to a convolutional guide raises the test accuracy of a fully connected network that "
    "plain training leaves behind, even when the guide is untrained.",
    arms=("guided_untrained_cnn", "guided_trained_cnn", "plain", "distillation", "guided_untrained_fcn"),
    holds=all_of(
        higher("test_accuracy", "guided_untrained_cnn", than="plain"),
        higher("test_accuracy", "guided_untrained_cnn", than="guided_untrained_fcn"),
    ),
    tune=Tune({"lr": RATES}, by="test_accuracy", best="max", seeds=(1000,)),
    smoke=SMOKE,
    paper=dict(train=60_000, test=10_000, epochs=100, depth=50, width=2048, guide_widths=(64, 128, 256)),
    reported={
        "ImageNet top-5, 50-layer network": "1.65 % plain, 13.10 % with an untrained guide, 7.50 % with a trained one",
        "ImageNet top-5, wide network": "34.09 % plain, 43.01 % guided",
    },
    left_out=LEFT_OUT,
)
def guide_makes_fcn_trainable(
    arm,
    seed,
    *,
    train=2_500,
    test=3_000,
    epochs=15,
    batch_size=250,
    depth=30,
    width=128,
    guide_widths=(4, 8, 16),
    guide_epochs=8,
    lr=1e-3,
    validate=False,
):
    """Fashion-MNIST at random places of a 36 x 36 canvas, so that it matters where things are.

    The network has batch norms and ReLUs, as the authors' code has (without the norms nothing at all comes through
    thirty layers of torch's own initial weights: every arm stays at chance). The trained guide and the teacher of the
    distillation arm are the same network; distillation is the usual half of soft labels at temperature 4. The
    untrained fully connected guide has the target's architecture.

    Fails against plain training: 51.9 % with the untrained convolutional guide, 54.7 without any; from an untrained
    fully connected guide (49.5 %) five seeds do not tell it, and a trained guide brings 56.6, distillation from it
    56.1. Here plain training is not left behind: batch norms carry it through thirty layers, it knows 67 % of its
    training images, and 150 steps end before it overfits, which is where the paper's guides help. All rates lie
    inside their grids.
    """
    split, canvas = placed(train, test, seed, validate)
    torch.manual_seed(seed)
    network = deep_mlp(split.num_classes, depth, width)
    rule = None
    if arm != "plain":
        torch.manual_seed(10_000 + seed)
        if arm == "guided_untrained_fcn":
            guide = deep_mlp(split.num_classes, depth, width)
        else:
            guide = resnet8((1, SIDE, SIDE), split.num_classes, widths=guide_widths)
        if arm in ("guided_trained_cnn", "distillation"):
            fit(guide, canvas, torch.optim.Adam(guide.parameters(), lr=3e-3), epochs=guide_epochs, seed=seed)
        rule = distilling(guide.eval()) if arm == "distillation" else Guidance(guide)
    return trained(network, rule, split, canvas, epochs, batch_size, lr, seed)


@claim(
    "guidance",
    says="Guiding only the first few hundred steps and then training normally keeps most of the gain, so better "
    "initialisations of fully connected networks exist.",
    arms=("guided_50_steps", "guided_always", "plain"),
    holds=all_of(
        higher("test_accuracy", "guided_50_steps", than="plain"),
        at_least("kept", 0.5, arm="guided_50_steps"),
    ),
    tune=Tune({"lr": RATES}, by="test_accuracy", best="max", arm="guided_50_steps", seeds=(1000,)),
    together=True,
    smoke=SMOKE | dict(early=1),
    reported={"steps of guidance in the paper": "about 300"},
    left_out=(*LEFT_OUT, "150 steps of 500; here 50 of 150", "a learning rate for each arm: all share one"),
)
def early_guidance_suffices(
    arms,
    seed,
    *,
    train=2_500,
    test=3_000,
    epochs=15,
    batch_size=250,
    depth=30,
    width=128,
    guide_widths=(4, 8, 16),
    guide_epochs=0,
    early=50,
    lr=1e-3,
    validate=False,
):
    """The untrained convolutional guide. `kept` is the gain over plain training, as a share of that of guiding always.

    Where guiding always gains nothing there is nothing to keep, and the share is 0.

    Fails: there is no gain to keep. Plain training reaches 57.8 %, 50 guided steps 55.3, guidance to the end 52.0.
    """
    split, canvas = placed(train, test, seed, validate)
    found = {}
    for arm in arms:
        torch.manual_seed(seed)
        network = deep_mlp(split.num_classes, depth, width)
        torch.manual_seed(10_000 + seed)
        guide = resnet8((1, SIDE, SIDE), split.num_classes, widths=guide_widths)
        rule = {"plain": None, "guided_always": Guidance(guide), "guided_50_steps": Guidance(guide, steps=early)}[arm]
        found[arm] = trained(network, rule, split, canvas, epochs, batch_size, lr, seed)
    if {"guided_always", "plain", "guided_50_steps"} <= set(found):
        plain, early_on, always = (found[arm]["test_accuracy"] for arm in ("plain", "guided_50_steps", "guided_always"))
        found["guided_50_steps"]["kept"] = (early_on - plain) / (always - plain) if always > plain else 0.0
    return found


def trained(network, rule, split, canvas, epochs, batch_size, lr, seed):
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    history = fit(network, canvas, optimizer, epochs=epochs, batch_size=batch_size, rule=rule, seed=seed)
    judged = Labelled(on_canvas(split.test.inputs, 1), split.test.targets)
    return {
        "test_accuracy": accuracy(network, judged),
        "train_accuracy": accuracy(network, canvas),
        "loss": history.loss,
        "seconds": history.seconds,
    }


def placed(train, test, seed, validate):
    split = data.load("fashion", train=train, test=test, seed=seed, validate=validate)
    return split, Labelled(on_canvas(split.train.inputs, 2 + seed), split.train.targets)


def on_canvas(images, seed):
    """Each image at a place of its own."""
    generator = torch.Generator().manual_seed(seed)
    n, _, height, width = images.shape
    canvas = torch.zeros(n, 1, SIDE, SIDE)
    spare = SIDE - height
    rows, columns = torch.randint(0, spare + 1, (2, n), generator=generator)
    y = rows[:, None, None] + torch.arange(height)[None, :, None]
    x = columns[:, None, None] + torch.arange(width)[None, None, :]
    canvas[torch.arange(n)[:, None, None], 0, y, x] = images[:, 0]
    return canvas


def deep_mlp(num_classes, depth, width):
    layers = [nn.Flatten(), nn.Linear(SIDE * SIDE, width), nn.BatchNorm1d(width), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


def distilling(teacher, temperature=4.0):
    """Half the loss of the labels, half that of the teacher's softened outputs (Hinton et al., 2015)."""

    def rule(model, inputs, targets, loss):
        with torch.no_grad():
            soft = F.log_softmax(teacher(inputs) / temperature, dim=1)
        logits = model(inputs)
        value = loss(logits, targets)
        own = F.log_softmax(logits / temperature, dim=1)
        apart = F.kl_div(own, soft, log_target=True, reduction="batchmean") * temperature**2
        ((value + apart) / 2).backward()
        return value

    return rule
