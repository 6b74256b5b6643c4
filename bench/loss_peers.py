"""What losses cost beside the packages that have them: MS-SSIM, focal loss, and memory by chunks.

    python bench/loss_peers.py [--out docs/bench/losses.md] [--rounds 9] [--threads 1]

All contenders of a table get the same tensors and take turns; a cell is a median. Memory is the peak of the process
beyond what it had. A peer that is not installed is a named empty cell.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from assay import losses
from assay.lab.trial import tame_allocator
from assay.metrics.memory import peak_memory

Work = Callable[[], object]


def race(contenders: dict[str, Callable[[], Work]], rounds: int) -> dict[str, float | str]:
    """Median milliseconds of each, or why there are none."""
    found: dict[str, float | str] = {}
    running: dict[str, Work] = {}
    for name, make in contenders.items():
        try:
            running[name] = make()
        except ImportError:
            found[name] = "not installed"
    times: dict[str, list[float]] = {name: [] for name in running}
    for turn in range(rounds + 1):
        for name, work in running.items():
            begin = time.perf_counter()
            work()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: found.get(name) or statistics.median(times[name]) for name in contenders}


def table(title: str, columns: dict[str, dict[str, float | str]], ours: str) -> str:
    rows = [f"### {title}", "", "| | " + " | ".join(f"{c} (ms) | of ours" for c in columns) + " |"]
    rows.append("| --- |" + " --- | --- |" * len(columns))
    for name in next(iter(columns.values())):
        cells = []
        for found in columns.values():
            value, base = found[name], found[ours]
            assert isinstance(base, float)
            cells.append(f"({value}) | " if isinstance(value, str) else f"{value:.2f} | {value / base:.2f}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def backward(loss: Callable[[Tensor], Tensor], x: Tensor) -> Work:
    def work() -> None:
        leaf = x.detach().requires_grad_()
        loss(leaf).sum().backward()

    return work


def structural_similarity(rounds: int) -> str:
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(8, 3, 256, 256, generator=generator)
    x = (0.8 * y + 0.2 * torch.rand(8, 3, 256, 256, generator=generator)).clamp(0, 1)
    loss = losses.MSSSIMLoss()

    def peer(module: str, call: Callable[[object, Tensor], Tensor]) -> Callable[[], Callable[[Tensor], Tensor]]:
        def make() -> Callable[[Tensor], Tensor]:
            imported = importlib.import_module(module)
            return lambda x: call(imported, x)

        return make

    made: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        "assay `MSSSIMLoss`": lambda: lambda x: loss(x, y),
        "pytorch-msssim": peer("pytorch_msssim", lambda m, x: m.ms_ssim(x, y, data_range=1.0)),
        "piq": peer("piq", lambda m, x: m.multi_scale_ssim(x, y, data_range=1.0)),
        "torchmetrics": peer(
            "torchmetrics.functional.image",
            lambda m, x: m.multiscale_structural_similarity_index_measure(x, y, data_range=1.0),
        ),
    }

    def forward(make: Callable[[], Callable[[Tensor], Tensor]]) -> Callable[[], Work]:
        def ready() -> Work:
            value = make()

            def work() -> None:
                with torch.no_grad():
                    value(x)

            return work

        return ready

    columns = {
        "forward": race({name: forward(make) for name, make in made.items()}, rounds),
        "with backward": race({name: (lambda make=make: backward(make(), x)) for name, make in made.items()}, rounds),
    }
    return table("MS-SSIM of 8 x 3 x 256 x 256, five scales", columns, "assay `MSSSIMLoss`")


def torchvisions(x: Tensor, t: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The formula that torchvision.ops.sigmoid_focal_loss computes, operation by operation."""
    p = torch.sigmoid(x)
    entropy = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    right = p * t + (1 - p) * (1 - t)
    return (alpha * t + (1 - alpha) * (1 - t)) * entropy * (1 - right) ** gamma


def focal(rounds: int) -> str:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(8, 256, 256, generator=generator)
    t = (torch.rand(8, 256, 256, generator=generator) < 0.02).float()

    def kornias() -> Callable[[Tensor], Tensor]:
        module = importlib.import_module("kornia.losses")
        return lambda x: module.binary_focal_loss_with_logits(x[:, None], t[:, None], alpha=0.25, gamma=2.0)

    made: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        "assay `sigmoid_focal_loss`": lambda: lambda x: losses.sigmoid_focal_loss(x, t),
        "torchvision's formula": lambda: lambda x: torchvisions(x, t),
        "kornia": kornias,
        "cross-entropy alone": lambda: lambda x: F.binary_cross_entropy_with_logits(x, t, reduction="none"),
    }

    def forward(make: Callable[[], Callable[[Tensor], Tensor]]) -> Callable[[], Work]:
        def ready() -> Work:
            value = make()

            def work() -> None:
                with torch.no_grad():
                    value(x)

            return work

        return ready

    columns = {
        "forward": race({name: forward(make) for name, make in made.items()}, 3 * rounds),
        "with backward": race(
            {name: (lambda make=make: backward(make(), x)) for name, make in made.items()}, 3 * rounds
        ),
    }
    return table("Focal loss of 8 x 256 x 256 questions", columns, "assay `sigmoid_focal_loss`")


def memory() -> str:
    rows = [
        "### Memory by chunks, forward and backward",
        "",
        "The peak of the process, which keeps more than torch asks for; an accelerator counts in a table of its own.",
        "",
        "| loss | points | one table of distances (MiB) | chunk | peak (MiB) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for n in (2_000, 4_000, 8_000):
        x, y = torch.randn(2, 1, n, 16, generator=torch.Generator().manual_seed(0)).unbind()
        for chunk in (200, n):
            for name, call in (
                ("contextual", lambda x, chunk, y=y: losses.contextual_similarity(x, y, chunk=chunk)),
                ("sigmoid", lambda x, chunk, y=y: losses.SigmoidContrastiveLoss(chunk=chunk)(x[0], y[0])),
            ):
                work = backward(lambda x, call=call, chunk=chunk: call(x, chunk), x)
                work()
                with peak_memory() as used:
                    work()
                rows.append(f"| {name} | {n:,} | {4 * n * n / 2**20:.0f} | {chunk:,} | {used.extra / 2**20:.0f} |")
    return "\n".join(rows)


def versions() -> str:
    found = [f"torch {torch.__version__}"]
    for name in ("pytorch-msssim", "piq", "torchmetrics", "kornia"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the tables here instead of printing them")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    used = memory()  # before the allocator is told to keep what it has
    tame_allocator()
    text = f"""# What losses cost

Written by `python bench/loss_peers.py --out docs/bench/losses.md`; {platform.machine()}, {options.threads} thread(s),
{versions()}.
Medians of interleaved rounds; compare within one table only.

{structural_similarity(options.rounds)}

{focal(options.rounds)}

{used}
"""
    if options.out:
        options.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
