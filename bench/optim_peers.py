"""What a step of each optimizer costs, beside Adam and beside the packages that have the method too.

    python bench/optim_peers.py [--out docs/bench/optim.md] [--rounds 15] [--threads 1]

One convolutional network of a million weights for all. Methods that only need gradients are given the same ones and
their `step()` is timed; methods that look at the loss again are timed over a whole iteration (forward, backward, step)
on the same batch. All contenders of a table take turns, round after round, and a cell is a median. M-FAC's products
are set against the reading of its window that no method could spare. A peer that is not installed is a named empty
cell.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from assay import optim
from assay.lab.trial import tame_allocator

Make = Callable[[list[nn.Parameter]], Optimizer]
PEERS = {"pytorch-optimizer": "pytorch_optimizer", "torch-optimizer": "torch_optimizer"}


def network() -> nn.Module:
    """1.05 million weights: four convolutions with norms and two linear layers, for 3 x 32 x 32 images."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in ((3, 32), (32, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.GELU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 620), nn.GELU(), nn.Linear(620, 10))


def peer(package: str, name: str, **settings: Any) -> Make:
    def make(parameters: list[nn.Parameter]) -> Optimizer:
        return getattr(importlib.import_module(PEERS[package]), name)(parameters, **settings)

    return make


def adam(parameters: list[nn.Parameter]) -> Optimizer:
    return Adam(parameters, lr=1e-3, foreach=True)


# What only needs gradients: method -> contender -> how it is made.
STEPS: dict[str, dict[str, Make]] = {
    "Adam": {"torch": adam},
    "DiffGrad": {
        "assay": lambda p: optim.DiffGrad(p, lr=1e-3),
        "pytorch-optimizer": peer("pytorch-optimizer", "DiffGrad", lr=1e-3),
        "torch-optimizer": peer("torch-optimizer", "DiffGrad", lr=1e-3),
    },
    "CoordinateClipped(Adam)": {"assay": lambda p: optim.CoordinateClipped(adam(p))},
    "GradientNoise(Adam)": {"assay": lambda p: optim.GradientNoise(adam(p))},
    "OrthoGrad(Adam)": {
        "assay": lambda p: optim.OrthoGrad(adam(p)),
        "pytorch-optimizer": lambda p: importlib.import_module("pytorch_optimizer").OrthoGrad(adam(p)),
    },
    "MFAC, window 64": {"assay": lambda p: optim.MFAC(p, window=64)},
}
# What looks at the loss again: a whole iteration.
ITERATIONS: dict[str, dict[str, Make]] = {
    "Adam": {"torch": adam},
    "AdaHessian": {
        "assay": lambda p: optim.AdaHessian(p, lr=0.01),
        "pytorch-optimizer": peer("pytorch-optimizer", "AdaHessian", lr=0.01),
        "torch-optimizer": peer("torch-optimizer", "Adahessian", lr=0.01),
    },
    "AdaHessian, every tenth step": {
        "assay": lambda p: optim.AdaHessian(p, lr=0.01, update_every=10),
        "pytorch-optimizer": peer("pytorch-optimizer", "AdaHessian", lr=0.01, update_period=10),
    },
    "SAM(Adam)": {
        "assay": lambda p: optim.SAM(adam(p)),
        "pytorch-optimizer": peer("pytorch-optimizer", "SAM", base_optimizer=Adam, lr=1e-3),
    },
}


class Contender:
    """One optimizer on its own copy of the network."""

    def __init__(self, make: Make, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.model, self.inputs, self.targets = network(), inputs, targets
        self.parameters = list(self.model.parameters())
        self.optimizer = make(self.parameters)
        generator = torch.Generator().manual_seed(1)
        self.gradients = [torch.randn(p.shape, generator=generator) * 1e-3 for p in self.parameters]
        self.times: list[float] = []

    def step(self) -> None:
        """`step()` alone, after fresh gradients were put in place."""
        for p, g in zip(self.parameters, self.gradients, strict=True):
            p.grad = g.clone()
        begin = time.perf_counter()
        self.optimizer.step()
        self.times.append(time.perf_counter() - begin)

    def iterate(self) -> None:
        """Forward, backward and step."""
        kind = type(self.optimizer)
        graph = kind.__name__.lower() == "adahessian"
        due = graph and getattr(self.optimizer, "diagonal_due", True)
        begin = time.perf_counter()

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(self.inputs), self.targets)
            loss.backward(create_graph=due)
            return loss

        if kind.__name__ == "SAM":  # a closure that is called twice, here and there
            if kind.__module__.startswith("assay"):
                self.optimizer.step(closure)
            else:
                closure()
                self.optimizer.step(closure)
        else:
            closure()
            self.optimizer.step()
        self.times.append(time.perf_counter() - begin)


def race(
    methods: dict[str, dict[str, Make]], how: str, rounds: int, batch: int
) -> dict[tuple[str, str], list[float] | str]:
    """Seconds of every contender by round, the first two rounds left out, or why there are none."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.rand(batch, 3, 32, 32, generator=generator)
    targets = torch.randint(10, (batch,), generator=generator)
    found: dict[tuple[str, str], list[float] | str] = {}
    running: dict[tuple[str, str], Contender] = {}
    for method, contenders in methods.items():
        for name, make in contenders.items():
            try:
                running[method, name] = Contender(make, inputs, targets)
            except ImportError:
                found[method, name] = f"{name} is not installed"
    for turn in range(rounds + 2):
        for key, contender in list(running.items()):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    getattr(contender, how)()
            except Exception as error:
                found[key] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
                del running[key]
        gc.collect()
        print(f"{how}: round {turn}", file=sys.stderr, flush=True)
    return found | {key: contender.times[2:] for key, contender in running.items()}


def table(methods: dict[str, dict[str, Make]], found: dict[tuple[str, str], list[float] | str]) -> str:
    base = found["Adam", "torch"]
    assert isinstance(base, list)
    rows = ["| method | package | ms | of Adam |", "| --- | --- | --- | --- |"]
    for method, contenders in methods.items():
        for name in contenders:
            times = found[method, name]
            if isinstance(times, str):
                rows.append(f"| {method} | {name} | ({times}) | |")
                continue
            ratio = statistics.median(t / b for t, b in zip(times, base, strict=True))
            rows.append(f"| {method} | {name} | {1e3 * statistics.median(times):.2f} | {ratio:.2f} |")
    return "\n".join(rows)


def products(window: int, sizes: list[int], rounds: int) -> str:
    """M-FAC: a new gradient and a product, beside reading the window twice, which both must."""
    rows = ["| weights | update and product (ms) | two passes over the window (ms) | ratio | ns a weight |"]
    rows.append("| --- | --- | --- | --- | --- |")
    for size in sizes:
        inverse = optim.DynamicInverseFisher(size, window)
        generator = torch.Generator().manual_seed(size)
        gradients = torch.randn(4, size, generator=generator)
        stored = torch.randn(window, size, generator=generator)
        coefficients = torch.randn(window, generator=generator)
        for each in range(window):
            inverse.update(gradients[each % 4] * (1 + each))
        ours, bare = [], []
        for turn in range(rounds):
            begin = time.perf_counter()
            inverse.update_mul(gradients[turn % 4])
            ours.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            stored @ gradients[turn % 4]
            coefficients @ stored
            bare.append(time.perf_counter() - begin)
        a, b = statistics.median(ours), statistics.median(bare)
        rows.append(f"| {size:,} | {1e3 * a:.2f} | {1e3 * b:.2f} | {a / b:.2f} | {1e9 * a / size:.1f} |")
        print(rows[-1], file=sys.stderr, flush=True)
        del inverse, stored, gradients
    return "\n".join(rows)


def versions() -> str:
    found = [f"torch {torch.__version__}"]
    for name in PEERS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the tables here instead of printing them")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--window", type=int, default=32, help="gradients that M-FAC keeps in the third table")
    parser.add_argument("--largest", type=int, default=10_000_000, help="weights in the last row of the third table")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tame_allocator()  # for all alike: temporaries that glibc gives back and faults in again would decide else
    sizes = [size for size in (10_000, 100_000, 1_000_000, 10_000_000) if size <= options.largest]
    count = sum(p.numel() for p in network().parameters())
    text = f"""# What a step costs

Written by `python bench/optim_peers.py --out docs/bench/optim.md`; {platform.machine()}, {options.threads} thread(s),
{versions()}.
A network of {count:,} weights; medians of {options.rounds} interleaved rounds, ratios taken round by round. Compare
within one table only.

What takes longer than Adam has more to read or to find out: a norm over everything before anything is changed
(`OrthoGrad`), a number drawn for every weight (`GradientNoise`), an order among all entries (`CoordinateClipped`), two
passes over all gradients of the window (`MFAC`), a second gradient (`SAM`), a gradient of the gradient (`AdaHessian`).

### A step, gradients given

{table(STEPS, race(STEPS, "step", options.rounds, options.batch))}

### An iteration on {options.batch} images: forward, backward and step

{table(ITERATIONS, race(ITERATIONS, "iterate", options.rounds, options.batch))}

### M-FAC by dimension, window of {options.window}

{products(options.window, sizes, options.rounds)}
"""
    if options.out:
        options.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
