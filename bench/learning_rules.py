"""What learning rules cost beside backpropagation: time and peak memory of one step on a deep convolutional chain.

    python bench/learning_rules.py [--out docs/bench/learn.md] [--rounds 7] [--threads 1]

All rules get the same network and batch and take turns; times are medians, memory is what tensors take at once beyond
those that were there before the step, the gradients among them.
"""

from __future__ import annotations

import argparse
import platform
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from assay import learn
from assay.lab.trial import tame_allocator
from assay.metrics.costs import step_costs

CLASSES = 10


def chain(depth: int, channels: int = 16) -> learn.BlockChain:
    """Convolutions with batch norm and ReLU at full resolution, then the mean over places and a linear layer."""
    parts: list[nn.Module] = []
    before = 1
    for _ in range(depth):
        conv = nn.Conv2d(before, channels, 3, padding=1, bias=False)
        parts.append(nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU()))
        before = channels
    top = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))
    return learn.BlockChain(*parts, top)


RULES = {
    "backpropagation": lambda net, x: learn.backpropagation,
    "LLS": lambda net, x: learn.LLS(net, CLASSES),
    "ScalableForwardForward": lambda net, x: learn.ScalableForwardForward(net, CLASSES, x[:1]),
    "DirectFeedbackAlignment": lambda net, x: learn.DirectFeedbackAlignment(net),
    "ForwardGradient, local losses alone": lambda net, x: learn.ForwardGradient(
        net, target="local", num_classes=CLASSES, example=x[:1], per_sample=False
    ),
    "ForwardGradient, local guess": lambda net, x: learn.ForwardGradient(
        net, num_classes=CLASSES, example=x[:1], per_sample=False
    ),
    "ForwardGradient, local guess by example": lambda net, x: learn.ForwardGradient(
        net, num_classes=CLASSES, example=x[:1]
    ),
    "DeepSupervision": lambda net, x: learn.DeepSupervision(net, CLASSES, x[:1], total_steps=1000),
}


def measure(depth: int, batch: int, rounds: int) -> dict[str, tuple[float, float]]:
    """(median milliseconds, MiB) of one call of each rule."""
    torch.manual_seed(0)
    x, y = torch.rand(batch, 1, 28, 28), torch.randint(CLASSES, (batch,))
    net = chain(depth)

    def step(rule):
        net.zero_grad(set_to_none=False)
        rule(net, x, y, F.cross_entropy)

    steps = {name: partial(step, make(net, x)) for name, make in RULES.items()}
    return {name: (1e3 * each["seconds"], each["peak_mib"]) for name, each in step_costs(steps, repeats=rounds).items()}


def table(depth: int, batch: int, rounds: int) -> str:
    found = measure(depth, batch, rounds)
    time_base, memory_base = found["backpropagation"]
    lines = [
        f"### {depth} convolutions of 16 channels, {batch} images of 28 x 28",
        "",
        "| | a step (ms) | of backpropagation | peak (MiB) | of backpropagation |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (spent, peak) in found.items():
        lines.append(f"| {name} | {spent:.0f} | {spent / time_base:.2f} | {peak:.0f} | {peak / memory_base:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    wanted = parser.parse_args()
    tame_allocator()
    torch.set_num_threads(wanted.threads)
    text = "\n\n".join(
        [
            "# What learning rules cost",
            "Written by `python bench/learning_rules.py --out docs/bench/learn.md`; "
            f"{platform.machine()}, {wanted.threads} thread(s),\ntorch {torch.__version__}. "
            "Medians of interleaved rounds; compare within one table only. Memory is what tensors\n"
            "take at once beyond those that were there, the gradients among them.",
            *(table(depth, 128, wanted.rounds) for depth in (4, 8, 16)),
        ]
    )
    print(text)
    if wanted.out:
        wanted.out.write_text(text + "\n")
