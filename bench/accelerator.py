"""What optimizer steps, inverse-Fisher products and losses cost on an accelerator.

    python bench/accelerator.py [--out docs/bench/accelerator.md] [--mfac FOLDER]

Needs a CUDA device. Times are medians over rounds in which all contenders of a table take turns, the device waited for
before and after; memory is the peak that torch allocated beyond what was there before. With `--mfac`, a checkout of the
authors' M-FAC code, its products are timed beside ours (without its own CUDA extension).
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam

from assay import losses, optim

Work = Callable[[], object]


def race(contenders: dict[str, Work], rounds: int = 20, warm: int = 3) -> dict[str, float]:
    """Median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + warm):
        for name, work in contenders.items():
            torch.cuda.synchronize()
            begin = time.perf_counter()
            work()
            torch.cuda.synchronize()
            if turn >= warm:
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(each) for name, each in times.items()}


def peak(work: Work) -> float:
    """MiB allocated at most while it works, beyond what was there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def network() -> nn.Sequential:
    """25 million weights in 60 tensors."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 256, 3, stride=2, padding=1)]
    for _ in range(9):
        layers += [nn.Conv2d(256, 256, 3, padding=1), nn.GroupNorm(8, 256), nn.GELU()]
    layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(4096, 4096), nn.GELU(), nn.Linear(4096, 512)]
    return nn.Sequential(*layers, nn.GELU(), nn.Linear(512, 10)).cuda()


def adam(p: object) -> Adam:
    return Adam(p, lr=1e-3, foreach=True)  # type: ignore[arg-type]


def steps() -> str:
    made = {
        "torch Adam(foreach=True)": adam,
        "torch Adam(fused=True)": lambda p: Adam(p, lr=1e-3, fused=True),
        "DiffGrad": lambda p: optim.DiffGrad(p, lr=1e-3),
        "CoordinateClipped(Adam)": lambda p: optim.CoordinateClipped(adam(p)),
        "GradientNoise(Adam)": lambda p: optim.GradientNoise(adam(p)),
        "OrthoGrad(Adam)": lambda p: optim.OrthoGrad(adam(p)),
        "MFAC, window 32": lambda p: optim.MFAC(p, window=32),
    }
    work: dict[str, Work] = {}
    size = 0
    for name, make in made.items():
        parameters = [nn.Parameter(p.detach().clone()) for p in network().parameters()]
        size = sum(p.numel() for p in parameters)
        gradients = [torch.randn_like(p) * 1e-3 for p in parameters]
        optimizer = make(parameters)

        def step(optimizer=optimizer, parameters=parameters, gradients=gradients) -> None:
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g
            optimizer.step()

        work[name] = step
    found = race(work)
    base = found["torch Adam(foreach=True)"]
    rows = [f"| {name} | {ms:.2f} | {ms / base:.2f} |" for name, ms in found.items()]
    return f"### A step of {size:,} weights\n\n| method | ms | of Adam |\n| --- | --- | --- |\n" + "\n".join(rows)


def iterations() -> str:
    x, y = torch.rand(32, 3, 32, 32, device="cuda"), torch.randint(10, (32,), device="cuda")
    made = {
        "torch Adam(foreach=True)": adam,
        "AdaHessian": lambda p: optim.AdaHessian(p, lr=0.01),
        "AdaHessian, every tenth step": lambda p: optim.AdaHessian(p, lr=0.01, update_every=10),
        "SAM(Adam)": lambda p: optim.SAM(adam(p)),
    }
    work: dict[str, Work] = {}
    for name, make in made.items():
        model = network()
        optimizer = make(model.parameters())

        def iterate(model=model, optimizer=optimizer) -> None:
            def closure() -> torch.Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward(create_graph=getattr(optimizer, "diagonal_due", False))
                return loss

            optimizer.step(closure)

        work[name] = iterate
    found = race(work)
    base = found["torch Adam(foreach=True)"]
    rows = [f"| {name} | {ms:.2f} | {ms / base:.2f} |" for name, ms in found.items()]
    return "### A whole iteration on 32 images\n\n| method | ms | of Adam |\n| --- | --- | --- |\n" + "\n".join(rows)


def authors(folder: Path) -> Callable[..., Any]:
    """The authors' sliding inverse, on one device, with what newer versions of torch call differently."""
    torch.lu = lambda matrix, pivot: (torch.linalg.lu_factor_ex(matrix, pivot=pivot)[0],)
    nn.parallel.parallel_apply = lambda calls, inputs: [call(i) for call, i in zip(calls, inputs, strict=True)]
    sys.path.insert(0, str(folder))
    module = importlib.import_module("optim")
    device = torch.device("cuda")
    return lambda size, window: module.HInvFastUpMulti(torch.zeros(window, size), device, [device])


def products(folder: Path | None, window: int = 32) -> str:
    rows = []
    theirs = None if folder is None else authors(folder)
    for size in (10**5, 10**6, 10**7, 10**8):
        inverse = optim.DynamicInverseFisher(size, window, device="cuda")
        g = torch.randn(size, device="cuda")
        for each in range(window):
            inverse.update(g.roll(each))
        c = torch.randn(window, device="cuda")
        stored, turns = inverse.grads, itertools.count(window)
        work: dict[str, Work] = {
            # A new gradient each time: of equal ones the authors' factor has a pivot of 0 in single precision.
            "ours": lambda f=inverse, g=g, turn=turns: f.update_mul(g.roll(next(turn))),
            "passes": lambda stored=stored, g=g, c=c: (stored @ g, c @ stored),
        }
        if theirs is not None:
            other = theirs(size, window)
            for each in range(window):
                other.update(g.roll(each))
            work["authors"] = lambda f=other, g=g, turn=turns: f.update_mul(g.roll(next(turn)))
        found = race(work, rounds=10)
        code = f"{found['authors']:.2f}" if theirs is not None else "(not given)"
        rows.append(
            f"| {size:,} | {found['ours']:.2f} | {found['passes']:.2f} | {found['ours'] / found['passes']:.2f} | "
            f"{code} |"
        )
        if theirs is not None:
            del other
        del inverse, stored, work
        torch.cuda.empty_cache()
    head = "| weights | update and product (ms) | two passes over the window (ms) | ratio | authors' code (ms) |\n"
    head += "| --- | --- | --- | --- | --- |\n"
    return f"### M-FAC by dimension, window of {window}\n\n" + head + "\n".join(rows)


def memory() -> str:
    rows = []

    def both(loss: nn.Module, *tensors: torch.Tensor) -> Work:
        def work() -> None:
            loss(*(t.detach().requires_grad_() for t in tensors)).backward()

        return work

    a, b = torch.randn(2, 16_384, 256, device="cuda").unbind()
    maps = torch.randn(2, 1, 64, 96, 96, device="cuda").unbind()
    images = torch.rand(2, 8, 3, 256, 256, device="cuda").unbind()
    cases: dict[str, Work] = {
        "SigmoidContrastiveLoss, 16,384 pairs, whole": both(losses.SigmoidContrastiveLoss().cuda(), a, b),
        "the same, chunks of 1,024": both(losses.SigmoidContrastiveLoss(chunk=1_024).cuda(), a, b),
        "SoftmaxContrastiveLoss, 16,384 pairs, whole": both(losses.SoftmaxContrastiveLoss().cuda(), a, b),
        "the same, in chunks of 1,024": both(losses.SoftmaxContrastiveLoss(chunk=1_024).cuda(), a, b),
        "ContextualLoss, 9,216 points, whole": both(losses.ContextualLoss(max_points=10**6, chunk=10**6), *maps),
        "the same, chunks of 512 points": both(losses.ContextualLoss(max_points=10**6, chunk=512), *maps),
        "MSSSIMLoss, 8 x 3 x 256 x 256": both(losses.MSSSIMLoss(), *images),
    }
    found = race(cases, rounds=7)
    for name, work in cases.items():
        rows.append(f"| {name} | {found[name]:.2f} | {peak(work):,.0f} |")
    head = "| loss, forward and backward | ms | peak (MiB) |\n| --- | --- | --- |\n"
    return "### Losses\n\n" + head + "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the tables here instead of printing them")
    parser.add_argument("--mfac", type=Path, help="a checkout of the authors' M-FAC code")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device is here: this measures one")
    parts = [
        "# What it costs on an accelerator\n\n"
        "Written by `python bench/accelerator.py --out docs/bench/accelerator.md`; "
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, single precision without TF32. Compare within one "
        "table only."
    ]
    for table in (steps, iterations, lambda: products(options.mfac), memory):
        parts.append(table())
        if options.out:
            options.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    if not options.out:
        print("\n\n".join(parts))


if __name__ == "__main__":
    main()
