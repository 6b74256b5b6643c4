"""Sigmoid Loss for Language Image Pre-Training (Zhai et al., 2023, arXiv:2303.15343)."""

import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

from assay import data
from assay.lab import Tune, all_of, at_most, claim, higher, ratio
from assay.losses import SigmoidContrastiveLoss, SoftmaxContrastiveLoss
from assay.metrics.memory import peak_memory

# Learning rates: the best of 3e-4, 1e-3, 3e-3, 1e-2, 3e-2 for each by recall on held-out training images, seeds 1000
# and 1001 (26 November 2026), where they were 0.526, 0.550, 0.125 and 0.393.
TUNED = {"sigmoid_small": 1e-3, "softmax_small": 1e-3, "sigmoid_large": 1e-3, "softmax_large": 3e-3}
SMOKE = dict(train=64, test=50, epochs=1)
LEFT_OUT = (
    "image and text towers on WebLI; here the left and the right half of Fashion-MNIST images, two small CNNs",
    "batches of 512 to a million; here 16, 256 and 512",
)


@claim(
    "sigmoid-loss",
    says="At a small batch size the sigmoid loss retrieves better than the softmax loss after the same number of "
    "examples seen, and the difference shrinks at a large batch size.",
    arms=("sigmoid_small", "softmax_small", "sigmoid_large", "softmax_large"),
    holds=all_of(
        higher("recall_at_1", "sigmoid_small", than="softmax_small"),
        higher("advantage", "sigmoid_small", than="sigmoid_large"),
    ),
    together=True,
    smoke=SMOKE | dict(small=8, large=32),
    paper=dict(train=60_000, test=10_000, small=512, large=32_768, epochs=100),
    reported={"ImageNet, zero-shot, by batch size (figure)": "sigmoid ahead below 16k, as good as softmax at 32k"},
    left_out=LEFT_OUT,
)
def small_batch(arms, seed, *, train=6_000, test=1_000, small=16, large=512, epochs=6):
    """Advantage: recall of the sigmoid loss less that of softmax at the same batch size.

    Undecided: at batches of 16 both retrieve alike (49.3 and 49.6 %). That the difference is smaller at small batches
    than at large ones holds, but not as the paper means it: at 512 the sigmoid loss is far behind (12 against 37 %),
    since six epochs are 72 steps there, too few for temperature and bias to leave where they start, for any of five
    rates. Losses and gradients agree with binary cross-entropy over all pairs.
    """
    split = data.load("fashion", train=train, test=test, seed=seed)
    results = {}
    for arm in arms:
        kind, size = arm.split("_")
        loss = SigmoidContrastiveLoss() if kind == "sigmoid" else SoftmaxContrastiveLoss()
        batch = {"small": small, "large": large}[size]
        recall, first = retrieved(split, loss, seed, lr=TUNED[arm], batch_size=batch, epochs=epochs)
        results[arm] = {"recall_at_1": recall, "first_losses": first}
    for size in ("small", "large"):
        sigmoid, softmax = (results[f"{kind}_{size}"] for kind in ("sigmoid", "softmax"))
        sigmoid["advantage"] = sigmoid["recall_at_1"] - softmax["recall_at_1"]
    return results


@claim(
    "sigmoid-loss",
    says="Initialising the bias at minus ten rather than zero gives better retrieval after the same training.",
    arms=("bias_minus10", "bias_0_learned", "no_bias"),
    holds=all_of(
        higher("recall_at_1", "bias_minus10", than="bias_0_learned"),
        higher("recall_at_1", "bias_minus10", than="no_bias"),
    ),
    tune=Tune({"lr": (3e-4, 1e-3, 3e-3, 1e-2)}, by="recall_at_1", best="max"),
    smoke=SMOKE | dict(batch_size=16),
    paper=dict(train=60_000, test=10_000, batch_size=8_192, epochs=100),
    left_out=LEFT_OUT,
)
def bias_matters(arm, seed, *, train=6_000, test=1_000, batch_size=256, epochs=4, lr=1e-3, validate=False):
    """The bias is learned in all arms but the last, where there is none."""
    split = data.load("fashion", train=train, test=min(test, 2_000), seed=seed, validate=validate)
    loss = SigmoidContrastiveLoss(init_bias=-10.0 if arm == "bias_minus10" else 0.0)
    loss.bias.requires_grad_(arm != "no_bias")
    recall, first = retrieved(split, loss, seed, lr=lr, batch_size=batch_size, epochs=epochs)
    return {"recall_at_1": recall, "first_losses": first}


@claim(
    "sigmoid-loss",
    says="Because no normalisation is needed, the loss can be computed in chunks exactly, with at least five times "
    "less peak memory at a batch of 8,192, whereas the whole-batch softmax needs the full matrix.",
    arms=("sigmoid_chunked", "softmax_whole", "softmax_chunked_logsumexp"),
    holds=all_of(
        ratio("peak_bytes", "softmax_whole", to="sigmoid_chunked", at_least=5),
        at_most("gradient_difference", 1e-5, arm="sigmoid_chunked"),
    ),
    together=True,
    exclusive=True,
    smoke=dict(n=600, chunk=50, repeats=1),
    reported={"memory of a device": "b^2 of its own pairs, not the square of the whole batch"},
    left_out=("several devices, batches of a million",),
)
def chunked_memory(arms, seed, *, n=8_192, d=64, chunk=512, repeats=3):
    """Beyond the embeddings, with the gradients; the difference is the largest from the whole loss's gradient."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, d, generator=generator).unbind()
    made = {
        "sigmoid_chunked": (SigmoidContrastiveLoss(chunk=chunk), SigmoidContrastiveLoss()),
        "softmax_whole": (SoftmaxContrastiveLoss(), SoftmaxContrastiveLoss()),
        "softmax_chunked_logsumexp": (SoftmaxContrastiveLoss(chunk=chunk), SoftmaxContrastiveLoss()),
    }
    results = {}
    for arm in arms:
        loss, whole = made[arm]
        gradients, seconds, peaks = [], [], []
        for each in (loss, whole):
            left, right = a.clone().requires_grad_(), b.clone().requires_grad_()
            each(left, right).backward()
            gradients.append(left.grad)
        for _ in range(repeats):
            left, right = a.clone().requires_grad_(), b.clone().requires_grad_()
            with peak_memory() as memory:
                start = time.perf_counter()
                loss(left, right).backward()
                seconds.append(time.perf_counter() - start)
            peaks.append(memory.extra)
        results[arm] = {
            "peak_bytes": float(max(statistics.median(peaks), 1)),
            "gradient_difference": (gradients[0] - gradients[1]).abs().max().item(),
            "seconds": statistics.median(seconds),
        }
    return results


def tower():
    layers = []
    for fan_in, fan_out in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(fan_in, fan_out, 3, 2, 1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64))


def retrieved(split, loss, seed, *, lr, batch_size, epochs):
    """Recall at 1 of the test pairs, both ways, after training two towers; and the losses of the first 20 steps."""
    torch.manual_seed(seed)
    left, right = tower(), tower()
    parameters = [p for part in (left, right, loss) for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(seed)
    pairs, first = data.paired_halves(split.train.inputs), []
    for _ in range(epochs):
        for a, b in data.batches(pairs, batch_size, generator=generator):
            if len(a) < 2:
                continue
            optimizer.zero_grad()
            value = loss(left(a), right(b))
            value.backward()
            optimizer.step()
            if len(first) < 20:
                first.append(value.item())
        schedule.step()
    left.eval(), right.eval()
    with torch.no_grad():
        judged = data.paired_halves(split.test.inputs)
        a, b = (F.normalize(net(part), dim=1) for net, part in ((left, judged.inputs), (right, judged.targets)))
    similar, here = a @ b.T, torch.arange(len(a))
    recall = [(each.argmax(1) == here).double().mean().item() for each in (similar, similar.T)]
    return sum(recall) / 2, torch.tensor(first)
