"""What a spectral density costs, beside curvlinops and PyHessian: same network, images, Lanczos steps and probes.

    python bench/spectrum_peers.py [--out docs/bench/spectrum.md] [--images 1000] [--steps 80] [--probes 2]

A density should integrate to 1, and its mean times the number of weights is the trace, whose 95 % interval by 50
probes is printed beside. A peer that is not installed, or fails, is a named empty cell.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from curvature_peers import Missing, network
from torch import nn
from torch.nn import functional as F

from assay.curvature import Hessian, hutchinson_trace, spectral_density
from assay.lab.trial import tame_allocator

Curve = tuple[np.ndarray, np.ndarray, str]


def ours(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, probes: int) -> Curve:
    operator = Hessian(model, F.cross_entropy, x, y)
    generator = torch.Generator().manual_seed(1)
    found = spectral_density(operator.matvec, operator.size, steps=steps, num_probes=probes, generator=generator)
    return found.grid.numpy(), found.density.numpy(), str(found.products)


def curvlinops(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, probes: int) -> Curve:
    try:
        from curvlinops import HessianLinearOperator
        from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum
    except ImportError:
        raise Missing("curvlinops-for-pytorch") from None
    torch.manual_seed(1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False)
    grid, density = lanczos_approximate_spectrum(operator, steps, num_repeats=probes)
    return grid.numpy(), density.numpy(), f"{steps * probes} and those for the ends"


def pyhessian(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, probes: int) -> Curve:
    try:
        module = importlib.import_module("pyhessian.hessian")
    except ImportError:
        raise Missing("PyHessian") from None
    torch.manual_seed(1)
    try:
        nodes, weights = module.hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False).density(steps, probes)
    finally:
        for p in model.parameters():
            p.grad = None
    nodes, weights = np.array(nodes), np.array(weights)
    width = 0.01 * (nodes.max() - nodes.min())  # it leaves the smoothing to a plotting script: ours, for both
    grid = np.linspace(nodes.min() - 5 * width, nodes.max() + 5 * width, 1000)
    bells = np.exp(-0.5 * ((grid[:, None, None] - nodes) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return grid, (bells * weights).sum(2).mean(1), str(steps * probes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tame_allocator()
    model, split = network()
    x, y = split.train.inputs[: options.images], split.train.targets[: options.images]
    size = sum(p.numel() for p in model.parameters())
    contenders: dict[str, Callable[..., Curve]] = {
        "assay `spectral_density`": ours,
        "curvlinops `lanczos_approximate_spectrum`": curvlinops,
        "PyHessian `density`": pyhessian,
    }
    rows: list[str] = []
    first: float | None = None
    for name, contender in contenders.items():
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                grid, density, products = contender(model, x, y, options.steps, options.probes)
        except Missing as missing:
            rows.append(f"| {name} | ({missing} is not installed) | | | | |")
            continue
        except Exception as error:
            rows.append(f"| {name} | (fails: {type(error).__name__}: {' '.join(str(error).split())[:90]}) | | | | |")
            continue
        seconds = time.perf_counter() - start
        first = seconds if first is None else first
        step = grid[1] - grid[0]
        total, mean = density.sum() * step, (grid * density).sum() * step
        rows.append(
            f"| {name} | {products} | {seconds:.1f} | {seconds / first:.2f} | {total:.4f} | {mean * size:.1f} |"
        )
        print(rows[-1], flush=True)
    operator = Hessian(model, F.cross_entropy, x, y)
    trace = hutchinson_trace(operator.matvec, size, num_probes=50, generator=torch.Generator().manual_seed(2))
    text = f"""# What a spectral density costs

Written by `python bench/spectrum_peers.py --out docs/bench/spectrum.md`; {platform.machine()},
{options.threads} thread(s), torch {torch.__version__}, {", ".join(versions())}.
Convnet of {size:,} weights, {options.images:,} images, {options.steps} Lanczos steps from {options.probes} probes.
Compare within the table only. The trace by 50 probes: {trace.value:.1f} [{trace.low:.1f}, {trace.high:.1f}] at 95 %.

| method | products | seconds | of ours | integral | mean x weights |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""
    print(text)
    if options.out:
        options.out.write_text(text)


def versions() -> list[str]:
    found = []
    for name in ("curvlinops-for-pytorch", "PyHessian"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return found


if __name__ == "__main__":
    main()
