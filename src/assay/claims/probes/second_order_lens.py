"""Interpreting the second-order effects of neurons in CLIP (Gandelsman et al., 2024, arXiv:2406.04341)."""

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from assay import data
from assay.lab import all_of, at_least, claim, higher
from assay.nn import ClassTokenViT
from assay.probes import SecondOrderLens, mean_ablate, principal_directions
from assay.train import fit

LEFT_OUT = (
    "CLIP ViT-B/32 and ViT-L/14, ImageNet; here a vision transformer of four blocks on Fashion-MNIST",
    "a text encoder; here the output is the class token after the last norm, and a linear layer classifies",
)
SMOKE = dict(train=100, known=50, test=50, epochs=1, d=16)


@claim(
    "second-order-lens",
    says="Removing what a middle layer's neurons do through later attention heads costs accuracy; removing their "
    "direct effect on the output hardly does.",
    arms=("second_order", "first_order", "random_directions"),
    holds=all_of(
        higher("drop", "second_order", than="first_order", by=0.05),
        higher("drop", "second_order", than="random_directions", by=0.05),
    ),
    together=True,
    smoke=SMOKE,
    left_out=LEFT_OUT,
)
def second_order_matters_first_does_not(
    arms, seed, *, train=8_000, known=2_000, test=1_000, epochs=6, d=64, layer=1, lr=1e-3
):
    """The second of four blocks, all of whose neurons are brought to their mean over images of training.

    Random directions: the second-order effects turned by one random rotation, so that lengths and what neurons have in
    common stay.

    Fails, as nothing costs anything: 0.1 points through later heads, 0.0 directly, 0.1 in random directions, of 81.4 %.
    Together the second-order effects change the output by 1.1 of a length of 8.5, first-order ones by 2.2; blocks 1 and
    3 of one network are no different. Four blocks that tell ten classes apart do not hang on one of them; the effects
    themselves agree with explicit loops and add up to what later heads read.
    """
    model, seen, judged = trained(seed, train, known, test, epochs, d, lr)
    lens = SecondOrderLens(model, layer)
    output = lens.output(judged.inputs)
    intact = right(model, output, judged)
    second, reference = lens.second_order(judged.inputs), lens.second_order(seen.inputs).mean(0)
    found = {}
    for arm in arms:
        if arm == "first_order":
            effects, mean = lens.first_order(judged.inputs), lens.first_order(seen.inputs).mean(0)
        else:
            effects, mean = second, reference
        if arm == "random_directions":
            turn = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)))[0]
            effects, mean = effects @ turn, mean @ turn
        accuracy = right(model, mean_ablate(output, effects, mean), judged)
        found[arm] = {"drop": intact - accuracy, "accuracy": accuracy, "intact": intact}
        found[arm]["length"] = (effects - mean).sum(1).norm(dim=1).mean().item()
    return found


@claim(
    "second-order-lens",
    says="Replacing every neuron's second-order effect by its projection on one fixed direction keeps nearly all the "
    "accuracy that full ablation destroys.",
    arms=("one_direction", "random_direction", "ablated", "intact"),
    holds=all_of(
        higher("accuracy", "one_direction", than="intact", by=-0.02),
        higher("accuracy", "one_direction", than="random_direction", by=0.03),
        higher("accuracy", "one_direction", than="ablated", by=0.03),
    ),
    together=True,
    smoke=SMOKE,
    left_out=LEFT_OUT,
)
def one_direction_is_enough(
    arms, seed, *, train=8_000, known=4_000, test=1_000, epochs=6, d=64, layer=1, lr=1e-3, top=0.02
):
    """Directions from the 2 % of images of training on which a neuron's effect is largest.

    Fails, as ablation destroys nothing here (see the first claim): 81.4 % with one direction, 81.3 with a random one
    and without any, 81.4 intact.
    """
    model, seen, judged = trained(seed, train, known, test, epochs, d, lr)
    lens = SecondOrderLens(model, layer)
    output, effects = lens.output(judged.inputs), lens.second_order(judged.inputs)
    directions, mean, _ = principal_directions(lens.second_order(seen.inputs), top)
    other = torch.nn.functional.normalize(
        torch.randn(directions.shape, generator=torch.Generator().manual_seed(seed)), dim=1
    )
    outputs = {
        "one_direction": lambda: mean_ablate(output, effects, mean, project=directions),
        "random_direction": lambda: mean_ablate(output, effects, mean, project=other),
        "ablated": lambda: mean_ablate(output, effects, mean),
        "intact": lambda: output,
    }
    return {arm: {"accuracy": right(model, outputs[arm](), judged)} for arm in arms}


@claim(
    "second-order-lens",
    says="Leaving a neuron's second-order effect in place only on the 2 % of images where it is largest recovers most "
    "of the accuracy lost by removing it everywhere.",
    arms=("keep_top", "keep_random", "ablated"),
    holds=all_of(
        at_least("recovered", 0.5, arm="keep_top"),
        higher("recovered", "keep_top", than="keep_random", by=0.3),
    ),
    together=True,
    smoke=SMOKE,
    left_out=LEFT_OUT,
)
def effects_are_rare(arms, seed, *, train=8_000, known=4_000, test=2_000, epochs=6, d=64, layer=1, lr=1e-3, top=0.02):
    """Lengths that 2 % of the images of training reach; at 5 and 10 % it is shown too. `recovered` is the share of what
    accuracy ablation takes, of at least one image.

    Undecided, and not to be decided: ablation takes nothing here (81.19 % intact, 81.17 without), so that shares of it
    scatter by more than one.
    """
    model, seen, judged = trained(seed, train, known, test, epochs, d, lr)
    lens = SecondOrderLens(model, layer)
    output, effects = lens.output(judged.inputs), lens.second_order(judged.inputs)
    reference = lens.second_order(seen.inputs)
    generator = torch.Generator().manual_seed(seed)
    found = {arm: {} for arm in arms}
    for share in (top, 0.05, 0.1):
        _, mean, threshold = principal_directions(reference, share)
        length = (effects - mean).norm(dim=2)
        masks = {
            "keep_top": length >= threshold,
            "keep_random": torch.rand(length.shape, generator=generator) < share,
            "ablated": torch.zeros_like(length, dtype=torch.bool),
        }
        intact = right(model, output, judged)
        gone = right(model, mean_ablate(output, effects, mean), judged)
        lost = max(intact - gone, 1 / len(judged.targets))
        for arm in arms:
            accuracy = right(model, mean_ablate(output, effects, mean, keep=masks[arm]), judged)
            ending = "" if share == top else f"_at_{share}"
            found[arm][f"recovered{ending}"] = (accuracy - gone) / lost
            found[arm][f"kept{ending}"] = masks[arm].double().mean().item()
        for arm in arms:
            found[arm] |= {"intact": intact, "gone": gone}
    return found


def trained(seed, train, known, test, epochs, d, lr):
    """(model, images of training to take means from, images to judge by)."""
    split = data.load("fashion", train=train, test=test, seed=seed)
    torch.manual_seed(seed)
    model = ClassTokenViT(split.shape, split.num_classes, d=d)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    fit(
        model,
        split.train,
        optimizer,
        epochs=epochs,
        batch_size=128,
        seed=seed,
        schedule=lambda each: CosineAnnealingLR(each, epochs),
    )
    return model.eval(), data.Labelled(*(part[:known] for part in split.train)), split.test


def right(model, output, judged):
    with torch.no_grad():
        return (model.head(output).argmax(1) == judged.targets).double().mean().item()
