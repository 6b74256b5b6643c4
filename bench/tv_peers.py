"""What total variation costs: the exact flow of a signal beside single times, and iteration to equal accuracy.

    python bench/tv_peers.py [--out docs/bench/tv.md] [--sizes 1000 10000 100000 1000000] [--limit 60]

A signal takes a new normal level every hundred samples on average, and noise of a fifth of its deviation; t is 2. In
one dimension the exact solution judges, in two ours at a gap of 1e-8. Accuracy is by how much the objective is above
the least one, over |f - mean|^2 / 2. A program that iterates has its own stopping rule switched off and is given as
many iterations as it needs to be as accurate as asked (found by doubling and halving); that run is what is timed. One
that would need more than `--limit` seconds is shown with how far it came. What is exact takes turns, and a cell is a
median of five. Times are those of the processor. Peers that are not installed are named empty cells.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assay.imaging import rof, total_variation, tv_flow, tv_prox
from assay.imaging.plateaus import compiled
from assay.lab.trial import tame_allocator

T = 2.0
TIMES = 50


class Missing(Exception):
    """A peer that is not installed."""


def module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Missing(f"{package} is not installed") from None


def signal(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    jumps = torch.rand(n, generator=generator, dtype=torch.float64) < 0.01
    levels = torch.randn(n, generator=generator, dtype=torch.float64)[jumps.cumsum(0)]
    return levels + 0.2 * torch.randn(n, generator=generator, dtype=torch.float64)


def picture(n: int) -> Tensor:
    """Squares and discs with noise, (n, n)."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=torch.float64),) * 2, indexing="ij")
    clean = torch.zeros_like(x)
    for k in range(24):
        cy, cx, r, value = torch.rand(4, generator=generator, dtype=torch.float64)
        r = 0.03 + 0.12 * r
        inside = (y - cy) ** 2 + (x - cx) ** 2 < r**2 if k % 2 else ((y - cy).abs() < r) & ((x - cx).abs() < r)
        clean[inside] = value
    return clean + 0.1 * torch.randn(n, n, generator=generator, dtype=torch.float64)


def objective(u: Tensor, f: Tensor, t: float, isotropic: bool = True) -> float:
    value = total_variation(u.reshape(f.shape), dims=f.ndim, isotropic=isotropic)
    return float(t * value + (u.reshape(f.shape) - f).square().sum() / 2)


def medians(contenders: dict[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float | str]:
    """Milliseconds, the contenders taking turns; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    reasons: dict[str, str] = {}
    for turn in range(rounds + 1):
        for name, work in contenders.items():
            if name in reasons:
                continue
            begin = time.process_time()
            try:
                work()
            except Missing as missing:
                reasons[name] = f"({missing})"
                continue
            if turn:
                times[name].append(1e3 * (time.process_time() - begin))
    return {name: reasons[name] if name in reasons else statistics.median(times[name]) for name in contenders}


def iterated(
    work: Callable[[int], Tensor], excess: Callable[[Tensor], float], goal: float, limit: float, start: int = 10
) -> tuple[float, int, float]:
    """Milliseconds, iterations and accuracy of the first run that is as accurate as asked, or of the last in time."""
    work(2)  # whatever is compiled or imported

    def run(iterations: int) -> tuple[float, int, float]:
        begin = time.process_time()
        found = work(iterations)
        return 1e3 * (time.process_time() - begin), iterations, excess(found)

    last = run(start)
    while last[2] > goal and 2e-3 * last[0] < limit:
        last = run(2 * last[1])
    few = last[1] // 2
    for _ in range(3 if last[2] <= goal and last[1] > start else 0):  # an eighth of the difference is left
        middle = run((few + last[1]) // 2)
        if middle[2] <= goal:
            last = middle
        else:
            few = middle[1]
    return last


def line_peers(f: Tensor) -> dict[str, Callable[[float], Any]]:
    y = f.numpy()
    return {
        "assay `tv_prox`": lambda t: tv_prox(f, t),
        "prox-tv `tv1_1d`": lambda t: module("prox_tv", "prox-tv").tv1_1d(y, t),
        "TVDCondat2013 `tvd_2013`": lambda t: module("TVDCondat2013", "TVDCondat2013").tvd_2013(y, t),
        "TVDCondat2013 `tvd_tautstring`": lambda t: module("TVDCondat2013", "TVDCondat2013").tvd_tautstring(y, t),
    }


def chambolle(f: Tensor, t: float) -> Callable[[int], Tensor]:
    restoration = module("skimage.restoration", "scikit-image")
    y = f.numpy()
    # its objective is half of this one's, with the same weight on the norm
    return lambda n: torch.from_numpy(restoration.denoise_tv_chambolle(y, weight=t, eps=0, max_num_iter=n))


def fista(f: Tensor, t: float) -> Callable[[int], Tensor]:
    pyproximal = module("pyproximal", "pyproximal")
    y = f.numpy().ravel()
    dims = tuple(f.shape)
    return lambda n: torch.from_numpy(pyproximal.TV(dims=dims, sigma=1.0, niter=n, rtol=0.0).prox(y, t))


def dual(f: Tensor, t: float, isotropic: bool = True) -> Callable[[int], Tensor]:
    def run(n: int) -> Tensor:
        return rof(f, t, dims=f.ndim, isotropic=isotropic, tol=1e-15, max_iterations=n).x

    return run


def anisotropic(f: Tensor, t: float) -> Callable[[int], Tensor]:
    prox_tv = module("prox_tv", "prox-tv")
    y = f.numpy()
    return lambda n: torch.from_numpy(prox_tv.tv1_2d(y, t, n_threads=1, max_iters=n, method="dr"))


def exact_table(sizes: list[int]) -> list[str]:
    names = list(line_peers(signal(8)))
    rows = [
        f"| n | whole flow | and its state at {TIMES} times | {' | '.join(names)} | {names[1]} at {TIMES} times |",
        "|" + " --- |" * (len(names) + 4),
    ]
    for n in sizes:
        f = signal(n)
        flow = tv_flow(f)
        times = torch.logspace(-2, math.log10(0.9 * flow.extinction_time), TIMES, dtype=torch.float64)
        parts = times.split(TIMES if n <= 100_000 else 1)  # (times, n) may be too large to keep
        states = lambda: [flow.at(part) for part in parts]  # noqa: E731,B023
        peers = line_peers(f)
        many = lambda: [peers[names[1]](float(t)) for t in times]  # noqa: E731,B023
        work: dict[str, Callable[[], Any]] = {"flow": lambda: tv_flow(f), "states": states}  # noqa: B023
        work |= {name: lambda run=run: run(T) for name, run in peers.items()}
        found = medians(work | {"many": many})
        cells = [each if isinstance(each, str) else f"{each:.3g}" for each in found.values()]
        rows.append(f"| {n:,} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return rows


def iterative_table(sizes: list[int], goals: list[float], limit: float) -> list[str]:
    rows = [
        "| n | asked | program | ms | iterations | reached | times `tv_prox` | times the whole flow |",
        "|" + " --- |" * 8,
    ]
    for n in sizes:
        f = signal(n)
        best = objective(tv_prox(f, T), f, T)
        scale = float((f - f.mean()).square().sum() / 2)
        excess = lambda u: (objective(u, f, T) - best) / scale  # noqa: E731,B023
        own = medians({"prox": lambda: tv_prox(f, T), "flow": lambda: tv_flow(f)}, 3)  # noqa: B023
        prox, flow = float(own["prox"]), float(own["flow"])
        for name, make in (
            ("assay `rof`", dual),
            ("scikit-image `denoise_tv_chambolle`", chambolle),
            ("pyproximal `TV`", fista),
        ):
            try:
                work = make(f, T)
            except Missing as missing:
                rows.append(f"| {n:,} | | {name} | ({missing}) | | | | |")
                continue
            for goal in goals:
                spent, count, reached = iterated(work, excess, goal, limit)
                far = "" if reached <= goal else " (not reached)"
                rows.append(
                    f"| {n:,} | {goal:.0e} | {name} | {spent:.3g} | {count} | {reached:.1e}{far} | {spent / prox:,.0f} "
                    f"| {spent / flow:,.1f} |"
                )
                print(rows[-1], flush=True)
    return rows


def picture_table(n: int, goals: list[float], limit: float) -> list[str]:
    f, t = picture(n), 0.1
    scale = float((f - f.mean()).square().sum() / 2)
    rows = ["| total variation | asked | program | ms | iterations | reached | of ours |", "|" + " --- |" * 7]
    for isotropic in (True, False):
        truth = rof(f, t, isotropic=isotropic, tol=1e-8, max_iterations=20_000)
        best = objective(truth.x, f, t, isotropic)
        excess = lambda u: (objective(u, f, t, isotropic) - best) / scale  # noqa: E731,B023
        single = f.float()
        peers: list[tuple[str, Callable[[], Callable[[int], Tensor]]]] = [
            ("assay `rof`", lambda: dual(f, t, isotropic)),  # noqa: B023
            ("assay `rof`, float32", lambda: lambda k: dual(single, t, isotropic)(k).double()),  # noqa: B023
        ]
        if isotropic:
            peers += [
                ("scikit-image `denoise_tv_chambolle`", lambda: chambolle(f, t)),
                ("pyproximal `TV`", lambda: fista(f, t)),
            ]
        else:
            peers.append(("prox-tv `tv1_2d`", lambda: anisotropic(f, t)))
        for goal in goals:
            first = None
            for name, make in peers:
                try:
                    work = make()
                except Missing as missing:
                    rows.append(f"| | | {name} | ({missing}) | | | |")
                    continue
                spent, count, reached = iterated(work, excess, goal, limit)
                first = spent if first is None else first
                far = "" if reached <= goal else " (not reached)"
                rows.append(
                    f"| {'isotropic' if isotropic else 'anisotropic'} | {goal:.0e} | {name} | {spent:.3g} | {count} | "
                    f"{reached:.1e}{far} | {spent / first:.2f} |"
                )
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the tables here instead of printing them")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--side", type=int, default=512, help="of the picture")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one cell")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tame_allocator()
    numba = "with" if compiled("merge") is not None else "without"
    exact = exact_table(options.sizes)
    iterative = iterative_table(options.sizes, [1e-4, 1e-6], options.limit)
    pictures = picture_table(options.side, [1e-3, 1e-4, 1e-5], options.limit)
    text = f"""# What total variation costs

Written by `python bench/tv_peers.py --out docs/bench/tv.md`; {platform.machine()}, {options.threads} thread(s),
torch {torch.__version__}, {numba} numba, {", ".join(versions())}. CPU milliseconds;
compare within a table only.

### Signals: exact programs

One time is t = {T:g}; the {TIMES} times run to nine tenths of the extinction of the signal.

{chr(10).join(exact)}

### Signals: iteration to equal accuracy

At t = {T:g}. Accuracy is the objective above the least one, over |f - mean|^2 / 2; `tv_prox` and the flow are exact.

{chr(10).join(iterative)}

### Pictures, {options.side} x {options.side}

At t = 0.1.

{chr(10).join(pictures)}
"""
    if options.out:
        options.out.write_text(text)
    else:
        print(text)


def versions() -> list[str]:
    found = []
    for name in ("numba", "scikit-image", "prox_tv", "pyproximal", "TVDCondat2013"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return found


if __name__ == "__main__":
    main()
