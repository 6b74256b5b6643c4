"""What the top of a Hessian's spectrum costs, beside curvlinops with ARPACK, PyHessian and hessian-eigenthings.

    python bench/curvature_peers.py [--out docs/bench/curvature.md] [--count 10] [--images 1000]

One network (a convnet of 106k weights, trained for two epochs on Fashion-MNIST), one set of images for all. The truth
is Lanczos in float64 carried on until all residuals are below 1e-9. Every contender works in float32; ARPACK and
ours are driven to the accuracy 1e-3, the others have their own stopping rules, taken at their defaults and at the
tolerance that reaches it. An error is the largest over the eigenvalues, relative to each. A peer that is not installed
is a named empty cell.
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
from torch import nn
from torch.nn import functional as F

import assay.nn
from assay import data
from assay.curvature import Hessian, hutchinson_trace, lanczos, top_eigenvalues
from assay.lab.trial import tame_allocator
from assay.train import fit


class Missing(Exception):
    """A peer that is not installed."""


def network(train: int = 6_000) -> tuple[nn.Module, data.Split]:
    torch.manual_seed(0)
    split = data.load("fashion", train=train, seed=0)
    model = assay.nn.convnet()
    fit(model, split.train, torch.optim.Adam(model.parameters(), lr=1e-3), epochs=2)
    return model.eval(), split


def ours(tol: float) -> Callable[..., tuple[np.ndarray, int]]:
    def run(model: nn.Module, x: torch.Tensor, y: torch.Tensor, count: int) -> tuple[np.ndarray, int]:
        operator = Hessian(model, F.cross_entropy, x, y)
        generator = torch.Generator().manual_seed(1)
        found = top_eigenvalues(operator.matvec, operator.size, count, tol=tol, generator=generator)
        return found.values.numpy(), operator.products

    return run


def kept_graph_arpack(model: nn.Module, x: torch.Tensor, y: torch.Tensor, count: int) -> tuple[np.ndarray, int]:
    """The same operator, driven by SciPy's ARPACK: what restarting and asking for small residuals costs."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    operator = Hessian(model, F.cross_entropy, x, y)

    def product(v: np.ndarray) -> np.ndarray:
        return operator.matvec(torch.from_numpy(np.ascontiguousarray(v.reshape(-1), dtype=np.float32))).numpy()

    linear = LinearOperator((operator.size, operator.size), matvec=product, dtype=np.float32)
    start = np.random.default_rng(1).normal(size=operator.size).astype(np.float32)
    values = eigsh(linear, k=count, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)
    return np.sort(values)[::-1], operator.products


def curvlinops_arpack(model: nn.Module, x: torch.Tensor, y: torch.Tensor, count: int) -> tuple[np.ndarray, int]:
    try:
        from curvlinops import HessianLinearOperator
    except ImportError:
        raise Missing("curvlinops-for-pytorch") from None
    from scipy.sparse.linalg import LinearOperator, eigsh

    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False)
    size = sum(p.numel() for p in parameters)
    products = 0

    def product(v: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        vector = torch.from_numpy(np.ascontiguousarray(v.reshape(-1), dtype=np.float32))
        return (operator @ vector).detach().numpy()

    linear = LinearOperator((size, size), matvec=product, dtype=np.float32)
    start = np.random.default_rng(1).normal(size=size).astype(np.float32)
    values = eigsh(linear, k=count, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)
    return np.sort(values)[::-1], products


def pyhessian(tol: float) -> Callable[..., tuple[np.ndarray, int]]:
    def run(model: nn.Module, x: torch.Tensor, y: torch.Tensor, count: int) -> tuple[np.ndarray, int]:
        try:
            module = importlib.import_module("pyhessian.hessian")
        except ImportError:
            raise Missing("PyHessian") from None
        products = 0
        original = module.hessian_vector_product

        def counted(*arguments: object) -> object:
            nonlocal products
            products += 1
            return original(*arguments)

        module.hessian_vector_product = counted
        try:
            torch.manual_seed(1)
            values, _ = module.hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False).eigenvalues(
                maxIter=500, tol=tol, top_n=count
            )
        finally:
            module.hessian_vector_product = original
            for p in model.parameters():
                p.grad = None
        return np.sort(np.array(values))[::-1], products

    return run


def measure(contender: Callable[..., tuple[np.ndarray, int]], *arguments: object) -> tuple[float, np.ndarray, int]:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values, products = contender(*arguments)
    return time.perf_counter() - start, values, products


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tame_allocator()  # for all alike: temporaries that glibc gives back and faults in again would decide else
    model, split = network()
    x, y = split.train.inputs[: options.images], split.train.targets[: options.images]
    exact = Hessian(model.double(), F.cross_entropy, x.double(), y)
    truth = top_eigenvalues(
        exact.matvec, exact.size, options.count, tol=1e-10, max_products=400, dtype=torch.float64,
        generator=torch.Generator().manual_seed(2),
    ).values.numpy()  # fmt: skip
    model.float()
    contenders: dict[str, Callable[..., tuple[np.ndarray, int]]] = {
        "assay `top_eigenvalues`, tol 1e-3": ours(1e-3),
        "assay `top_eigenvalues`, tol 1e-7": ours(1e-7),
        "assay `Hessian` + ARPACK, tol 1e-3": kept_graph_arpack,
        "curvlinops + ARPACK, tol 1e-3": curvlinops_arpack,
        "PyHessian, its default tol 1e-3": pyhessian(1e-3),
    }
    rows = []
    first = None
    for name, contender in contenders.items():
        try:
            seconds, values, products = measure(contender, model, x, y, options.count)
        except Missing as missing:
            rows.append(f"| {name} | ({missing} is not installed) | | | |")
            continue
        first = seconds if first is None else first
        error = np.abs(values - truth).max() if len(values) != len(truth) else (np.abs(values - truth) / truth).max()
        rows.append(f"| {name} | {products} | {seconds:.1f} | {seconds / first:.2f} | {error:.1e} |")
        print(rows[-1], flush=True)

    operator = Hessian(model, F.cross_entropy, x, y)
    start = time.perf_counter()
    lanczos(operator.matvec, operator.size, 100)
    density = time.perf_counter() - start
    trace = hutchinson_trace(operator.matvec, operator.size, num_probes=50)
    text = f"""# What curvature costs

Written by `python bench/curvature_peers.py --out docs/bench/curvature.md`; {platform.machine()},
{options.threads} thread(s), torch {torch.__version__}, {", ".join(versions())}.
Convnet of {operator.size:,} weights, {options.images:,} images, the
{options.count} largest eigenvalues ({truth[0]:.2f} to {truth[-1]:.2f}). Compare within the table only.

| method | products | seconds | of ours | largest relative error |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

100 Lanczos steps with full reorthogonalisation: {density:.1f} s. Trace by 50 probes: {trace.value:.1f}
[{trace.low:.1f}, {trace.high:.1f}] at 95 %.
"""
    print(text)
    if options.out:
        options.out.write_text(text)


def versions() -> list[str]:
    found = []
    for name in ("scipy", "curvlinops-for-pytorch", "PyHessian"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return found


if __name__ == "__main__":
    main()
