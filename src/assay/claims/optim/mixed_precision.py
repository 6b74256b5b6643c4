"""Mixed Precision Training (Micikevicius et al., 2017, arXiv:1710.03740)."""

import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from assay import data, nn
from assay.lab import Tune, all_of, at_most, claim, higher, lower
from assay.optim import MixedPrecision
from assay.probes import exponent_histogram
from assay.train import accuracy, fit

LEFT_OUT = (
    "AlexNet to ResNet-50 on ImageNet, detectors, speech, translation, language models and GANs; here a residual "
    "network of 8 layers on Fashion-MNIST, and a small transformer on a language from a formula",
    "half precision arithmetic; here its rounding, with products in single precision",
)


@claim(
    "mixed-precision",
    says="Half-precision storage with master weights and loss scaling trains to the accuracy of single precision.",
    arms=("mixed", "float32"),
    holds=higher("test_accuracy", "mixed", than="float32", by=-0.005),
    together=True,
    tune=Tune({"lr": (0.03, 0.1, 0.3, 1.0)}, by="test_accuracy", best="max", arm="float32"),
    smoke=dict(train=64, test=50, widths=(2, 4, 4), epochs=1),
    paper=dict(dataset="cifar10", train=50_000, test=10_000, widths=(64, 128, 256), epochs=160),
    reported={"ResNet-50 on ImageNet, top-1 (table 1)": "75.92 % in single, 76.04 % in mixed precision"},
    left_out=LEFT_OUT,
)
def matches_single_precision(
    arms,
    seed,
    *,
    dataset="fashion",
    train=4_000,
    test=3_000,
    widths=(8, 16, 32),
    epochs=6,
    lr=0.1,
    loss_scale=1024.0,
    validate=False,
):
    """SGD with momentum and a cosine, the rate tuned in single precision and used by both.

    Undecided, after looks at five, ten and twenty seeds: 79.4 % in mixed and 79.1 % in single precision. At the rate
    that is best in single precision (0.3) accuracies differ from seed to seed by a point and a half, and twenty of
    them tell no half a point, though the interval reaches from -0.4 to +2.0 points about the margin. No step was left
    out; a pass agrees with one in which every stored tensor is rounded by hand.
    """
    split = data.load(dataset, train=train, test=test, seed=seed, validate=validate)
    results = {}
    for arm in arms:
        torch.manual_seed(seed)
        network = nn.resnet8(split.shape, split.num_classes, widths=widths)
        optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
        rule = None
        if arm == "mixed":
            optimizer = MixedPrecision(optimizer, network, loss_scale=loss_scale)
            rule = optimizer.rule
        history = fit(
            network,
            split.train,
            optimizer,
            epochs=epochs,
            rule=rule,
            seed=seed,
            schedule=lambda each: CosineAnnealingLR(each, epochs),
            channels_last=True,
        )
        results[arm] = {"test_accuracy": accuracy(network, split.test), "loss": history.loss}
        results[arm]["skipped"] = float(getattr(optimizer, "skipped", 0))
    return results


@claim(
    "mixed-precision",
    says="Without the float32 master copy, or without loss scaling, training ends with a clearly higher training loss "
    "in a regime of small updates and small gradients.",
    arms=("mixed", "no_master", "no_scaling", "pure_half"),
    holds=all_of(lower("train_loss", "mixed", than="no_master"), lower("train_loss", "mixed", than="no_scaling")),
    smoke=dict(vocabulary=16, sentences=64, context=8, d=8, depth=1, steps=4),
    paper=dict(vocabulary=32_000, sentences=100_000, context=128, d=512, depth=6, steps=100_000),
    reported={
        "Mandarin speech, without a master copy": "80 % worse, relatively",
        "bigLSTM and Multibox SSD, without scaling": "do not train",
    },
    left_out=(
        *LEFT_OUT,
        "1,500 steps, as first planned; here 800",
        "the rate tuned; here 0.3",
    ),
)
def both_ingredients_needed(
    arm,
    seed,
    *,
    vocabulary=512,
    sentences=12_800,
    context=32,
    d=64,
    depth=2,
    batch_size=32,
    steps=800,
    lr=0.3,
    loss_scale=1024.0,
):
    """SGD with momentum, the rate falling by a cosine to 1e-4 of its peak; the loss is the mean over all words.

    The loss at the end is that of the last hundred batches, before their steps. Shares of weight gradients that are
    exactly 0, and of updates that change no weight, tell how small they are.
    """
    generator = torch.Generator().manual_seed(seed)
    text = data.markov_language(sentences, context, vocabulary=vocabulary, generator=generator)
    torch.manual_seed(seed)
    network = nn.decoder(vocabulary, context, d=d, depth=depth)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    mixed = MixedPrecision(
        optimizer,
        network,
        loss_scale=loss_scale if arm in ("mixed", "no_master") else 1.0,
        master_weights=arm in ("mixed", "no_scaling"),
    )
    schedule = CosineAnnealingLR(optimizer, steps, eta_min=1e-4 * lr)
    losses, zeros, lost = [], [], []
    for step in range(steps):
        rows = torch.randint(sentences, (batch_size,), generator=generator)
        mixed.zero_grad()
        loss = mixed.rule(
            network, text.inputs[rows], text.targets[rows], lambda x, y: F.cross_entropy(x.flatten(0, 1), y.flatten())
        )
        watched = step % max(1, steps // 20) == 0 and not mixed.found_inf
        if watched:
            zeros.append(exponent_histogram([p.grad for p in network.parameters()]).zeros)
            before = [p.detach().clone() for p in network.parameters()]
        mixed.step()
        if watched:
            same = sum(int((a == b).sum()) for a, b in zip(before, network.parameters(), strict=True))
            lost.append(same / sum(p.numel() for p in network.parameters()))
        schedule.step()
        losses.append(loss.item())
    return {
        "train_loss": float(torch.tensor(losses[-100:]).mean()),
        "zero_gradients": float(torch.tensor(zeros).mean()),
        "updates_lost": float(torch.tensor(lost).mean()),
        "skipped": float(mixed.skipped),
    }


@claim(
    "mixed-precision",
    says="Stored activations, weights and gradients need at most 0.6 of the single-precision bytes although a master "
    "copy is added.",
    arms=("mixed", "float32"),
    holds=at_most("bytes_ratio", 0.6, arm="mixed"),
    together=True,
    exclusive=True,
    smoke=dict(batch_size=10, widths=(2, 4, 4)),
    reported={"memory": "nearly half, as activations are most of it"},
    left_out=LEFT_OUT,
)
def memory(arms, seed, *, batch_size=128, widths=(16, 32, 64)):
    """Bytes between forward and backward: what autograd keeps, packed into half precision where nothing is lost by it,
    then weights (half, and the master copy), gradients and momentum. At a batch of ten for comparison.
    """
    results = {arm: {} for arm in arms}
    for images, name in ((batch_size, "bytes"), (10, "bytes_of_ten")):
        split = data.load("fashion", train=images, test=0, seed=seed)
        for arm in arms:
            torch.manual_seed(seed)
            network = nn.resnet8(split.shape, split.num_classes, widths=widths)
            results[arm][name] = float(held(arm, network, split.train))
    for arm in arms:
        results[arm]["bytes_ratio"] = results[arm]["bytes"] / results["float32"]["bytes"]
        results[arm]["bytes_ratio_of_ten"] = results[arm]["bytes_of_ten"] / results["float32"]["bytes_of_ten"]
    return results


def held(arm, network, part):
    """Bytes of everything that is kept for the backward pass, of weights, gradients and momentum."""
    kept = {}
    weights = {p.data_ptr() for p in network.parameters()}

    def pack(x):
        if x.data_ptr() in weights:
            return x
        exact = x.dtype == torch.float32 and arm == "mixed" and bool((x.half().float() == x).all())
        stored = x.half() if exact else x
        kept[x.data_ptr(), x.numel()] = stored.numel() * stored.element_size()
        return stored, x.dtype

    def unpack(stored):
        return stored if isinstance(stored, torch.Tensor) else stored[0].to(stored[1])

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    mixed = MixedPrecision(optimizer, network, store=torch.float16 if arm == "mixed" else torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        mixed.rule(network, *part, F.cross_entropy)
    count = sum(p.numel() for p in network.parameters())
    # Master copy and momentum in single precision; weights and gradients in half, or in single without a copy.
    return sum(kept.values()) + count * (4 + 4 + 2 + 2 if arm == "mixed" else 4 + 4 + 4)
