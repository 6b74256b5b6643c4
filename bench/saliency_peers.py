"""What maps of where a classifier looks cost beside captum, and whether they are the same.

    python bench/saliency_peers.py [--out docs/bench/saliency.md] [--rounds 5] [--threads 1]

Both get the same network, images and classes and take turns; a cell is a median. The last column is the largest
difference between the two maps over their largest value. A peer that is not installed is a named empty cell.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from assay import nn as networks
from assay import probes
from assay.lab.trial import tame_allocator
from assay.metrics.memory import peak_memory

STEPS = 50
ROWS = ("input gradient", "gradient x input", "integrated gradients", "integrated gradients, 16 at a time", "Grad-CAM")


def setting() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    network = networks.resnet8((3, 64, 64), widths=(8, 16, 32))
    network(torch.rand(32, 3, 64, 64))  # running statistics
    return network.eval(), torch.rand(4, 3, 64, 64), torch.arange(4)


def ours(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], Tensor]]:
    return {
        "input gradient": lambda: probes.input_gradient(network, x, y),
        "gradient x input": lambda: probes.input_x_gradient(network, x, y),
        "integrated gradients": lambda: probes.integrated_gradients(network, x, y, steps=STEPS),
        "integrated gradients, 16 at a time": lambda: probes.integrated_gradients(
            network, x, y, steps=STEPS, batch_size=16
        ),
        "Grad-CAM": lambda: probes.grad_cam(network, x, y, "5", relu=False, size=(16, 16)),
    }


def captums(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], Tensor]]:
    attr = importlib.import_module("captum.attr")
    saliency, product = attr.Saliency(network), attr.InputXGradient(network)
    integrated, cam = attr.IntegratedGradients(network), attr.LayerGradCam(network, network[5])
    x = x.clone().requires_grad_()
    return {
        "input gradient": lambda: saliency.attribute(x, target=y, abs=False),
        "gradient x input": lambda: product.attribute(x, target=y),
        "integrated gradients": lambda: integrated.attribute(x, target=y, n_steps=STEPS),
        "integrated gradients, 16 at a time": lambda: integrated.attribute(
            x, target=y, n_steps=STEPS, internal_batch_size=16
        ),
        "Grad-CAM": lambda: cam.attribute(x, target=y),
    }


def milliseconds(contenders: list[Callable[[], Tensor]], rounds: int) -> list[float]:
    """Medians, the contenders taking turns; the first round is not counted."""
    times: list[list[float]] = [[] for _ in contenders]
    for turn in range(rounds + 1):
        for work, found in zip(contenders, times, strict=True):
            begin = time.perf_counter()
            work()
            if turn:
                found.append(1e3 * (time.perf_counter() - begin))
    return [statistics.median(found) for found in times]


def peak(work: Callable[[], Tensor]) -> float:
    with peak_memory() as used:
        work()
    return used.extra / 2**20


def compared(rounds: int) -> str:
    given = setting()
    own = ours(*given)
    try:
        theirs = captums(*given)
    except ImportError:
        theirs = {}
    memory = {name: [peak(each[name]) for each in (own, theirs) if each] for name in ROWS[2:4]}
    tame_allocator()
    rows = ["| | assay (ms) | captum (ms) | of ours | difference |", "| --- | --- | --- | --- | --- |"]
    for name in ROWS:
        if not theirs:
            rows.append(f"| {name} | {milliseconds([own[name]], rounds)[0]:.1f} | (not installed) | | |")
            continue
        mine, other = milliseconds([own[name], theirs[name]], rounds)
        a, b = own[name](), theirs[name]().detach()
        gap = ((a - b).abs().max() / b.abs().max()).item()
        rows.append(f"| {name} | {mine:.1f} | {other:.1f} | {other / mine:.2f} | {gap:.0e} |")
    rows += ["", "### Memory of integrated gradients", "", "| | assay (MiB) | captum (MiB) |", "| --- | --- | --- |"]
    for name, found in memory.items():
        cells = [f"{value:.0f}" for value in found] + ["(not installed)"] * (2 - len(found))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the tables here instead of printing them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message=".*hook.*")
    try:
        version = importlib.metadata.version("captum")
    except importlib.metadata.PackageNotFoundError:
        version = "(not installed)"
    text = f"""# What maps of a classifier cost

Written by `python bench/saliency_peers.py --out docs/bench/saliency.md`; {platform.machine()},
{options.threads} thread(s), torch {torch.__version__}, captum {version}.
A residual network of 8 layers (8, 16 and 32 channels), 4 images of 3 x 64 x 64, {STEPS} steps where there are steps.

### Time

{compared(options.rounds)}
"""
    if options.out:
        options.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
