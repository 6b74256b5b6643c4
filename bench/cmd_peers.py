"""What decomposing a training run costs: CMD, snapshot PCA and DMD beside PyDMD, a plain SVD and reading the file.

    python bench/cmd_peers.py [--full] [--out docs/bench/cmd.md] [--scratch FOLDER]

All contenders see the same planted trajectory file (random-walk profiles, random lines, noise of 0.3 of each weight's
deviation) in one run, one after the other, three times over; a cell is the median. Peak memory is that of a fresh
process beyond what it had before it opened the file. A peer that is not installed, or would not fit into memory, is a
named empty cell. The default takes under three minutes; ``--full`` adds 11 million weights x 100 epochs (4.5 GB of
scratch space) and the largest sizes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import psutil
import torch

from assay.probes import CMD, DMD, SnapshotPCA, Trajectory
from assay.probes.chunks import read_chunks
from assay.probes.layout import Layout

RESNET18 = 11_173_962  # a CIFAR ResNet-18
RANK = 10


def plant(path: Path, size: int, epochs: int, seed: int = 0) -> Trajectory:
    """Write a trajectory of `RANK` planted modes, row by row."""
    generator = torch.Generator().manual_seed(seed)
    profiles = torch.randn(epochs, RANK, generator=generator).cumsum(0)
    profiles = (profiles - profiles.mean(0)) / profiles.std(0)
    labels = torch.randint(RANK, (size,), generator=generator, dtype=torch.int32)
    a, b = torch.randn(2, size, generator=generator)
    third = size // 3
    trajectory = Trajectory.create(path, Layout(("first", "second"), ((third,), (size - third,))))
    for profile in profiles:
        noise = torch.randn(size, generator=generator).mul_(0.3)
        trajectory.append_vector(profile.index_select(0, labels).add_(noise).mul_(a).add_(b))
    return trajectory


def read_plainly(path: Path) -> None:
    """Read the file end to end into one buffer."""
    buffer = bytearray(2**24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def forget(path: Path) -> bool:
    """Drop the file from the page cache, where the system allows it."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def matrix(path: Path) -> np.ndarray:
    trajectory = Trajectory.open(path)
    return np.fromfile(path, "<f4").reshape(trajectory.epochs, trajectory.size)


def svd_pca(path: Path) -> None:
    weights = matrix(path)
    weights -= weights.mean(0)
    np.linalg.svd(weights, full_matrices=False)


def dmd_of_pydmd(path: Path) -> None:
    import pydmd as theirs

    theirs.DMD(svd_rank=RANK).fit(matrix(path).T)


def read_in_chunks(path: Path) -> None:
    trajectory = Trajectory.open(path)
    for _ in read_chunks(trajectory, range(trajectory.epochs)):
        pass


METHODS: dict[str, Callable[[Path], object]] = {
    "plain read": read_plainly,
    "chunked read": read_in_chunks,
    "CMD": lambda path: CMD(RANK, 1000, generator=torch.Generator().manual_seed(0)).fit(Trajectory.open(path)),
    "SnapshotPCA": lambda path: SnapshotPCA(RANK).fit(Trajectory.open(path)),
    "DMD": lambda path: DMD(RANK).fit(Trajectory.open(path)),
    "PyDMD": dmd_of_pydmd,
    "SVD (numpy)": svd_pca,
}
OURS = ("plain read", "chunked read", "CMD", "SnapshotPCA", "DMD")
COPIES = {"PyDMD": 11, "SVD (numpy)": 6}  # of the file, that a peer needs in memory


def missing(method: str, path: Path) -> str | None:
    """Why a peer has no number."""
    if method == "PyDMD" and importlib.util.find_spec("pydmd") is None:
        return "not installed"
    if COPIES.get(method, 0) * path.stat().st_size > psutil.virtual_memory().available:
        return "does not fit"
    return None


def seconds(method: str, path: Path, *, cold: bool = False) -> float:
    if cold:
        forget(path)
    begin = time.perf_counter()
    METHODS[method](path)
    return time.perf_counter() - begin


def interleaved(path: Path, methods: Iterable[str], rounds: int = 3) -> dict[str, float | str]:
    """Median seconds of each method with the file in the page cache, a round after the other."""
    absent = {method: why for method in methods if (why := missing(method, path))}
    present = [method for method in methods if method not in absent]
    read_plainly(path)
    times: dict[str, list[float]] = {method: [] for method in present}
    for round_ in range(rounds):
        for method in present:
            if method in OURS or round_ == 0:  # peers take long enough for once to be exact
                times[method].append(seconds(method, path))
                print(f"{path.name}: {method} {times[method][-1]:.2f} s", file=sys.stderr, flush=True)
    return {**{method: statistics.median(values) for method, values in times.items()}, **absent}


def peak(method: str, path: Path) -> float | str:
    """Bytes of memory beyond those before the file is opened, in a process of its own."""
    if why := missing(method, path):
        return why
    command = [sys.executable, __file__, "--threads", str(torch.get_num_threads()), "--peak", method, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(answer.stdout.strip().splitlines()[-1]))


def peak_here(method: str, path: Path) -> float:
    """The same in this process, from the high-water mark that Linux keeps."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if method == "PyDMD":
        import pydmd as _  # noqa: F401
    if not status.exists():
        before = psutil.Process().memory_info().rss
        METHODS[method](path)
        return float(psutil.Process().memory_info().rss - before)
    reset.write_text("5")
    before = psutil.Process().memory_info().rss
    METHODS[method](path)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return float(int(line.split()[1]) * 1024 - before)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value: float | str, unit: str = "s") -> str:
    if isinstance(value, str):
        return f"({value})"
    return f"{value / 2**20:.0f} MiB" if unit == "B" else f"{value:.2f}"


def side_by_side(path: Path, methods: Iterable[str]) -> str:
    trajectory = Trajectory.open(path)
    warm = interleaved(path, methods)
    base = warm["plain read"]
    rows = []
    for method in methods:
        value = warm[method]
        of_read = f"{value / base:.1f}" if isinstance(value, float) and isinstance(base, float) else ""
        of_cmd = f"{value / warm['CMD']:.2f}" if isinstance(value, float) and isinstance(warm["CMD"], float) else ""
        rows.append([method, shown(value), of_read, of_cmd, shown(peak(method, path), "B")])
    title = f"### {trajectory.size:,} weights x {trajectory.epochs} epochs ({path.stat().st_size / 1e9:.2f} GB)\n\n"
    body = table(["method", "seconds", "of plain read", "of CMD", "peak memory beyond the file"], rows)
    if forget(path):
        cold = {method: seconds(method, path, cold=True) for method in ("plain read", "CMD", "SnapshotPCA")}
        ratios = ", ".join(f"{m} {cold[m]:.2f} s = {cold[m] / cold['plain read']:.2f} reads" for m in cold)
        body += f"\n\nFrom disk, the file dropped from the page cache before each: {ratios}."
    return title + body


def scaling(scratch: Path, sizes: list[tuple[int, int]]) -> str:
    methods = ("plain read", "CMD", "SnapshotPCA", "DMD")
    rows = []
    for size, epochs in sizes:
        path = scratch / f"scale-{size}-{epochs}"
        plant(path, size, epochs)
        times = interleaved(path, methods)
        per = [shown(times[method]) for method in methods]
        each = float(times["CMD"]) / size / epochs * 1e9
        rows.append([f"{size:,}", str(epochs), *per, f"{each:.2f}", shown(peak("CMD", path), "B")])
        path.unlink()
    head = ["weights", "epochs", *(f"{m} (s)" for m in methods), "CMD, ns per number", "CMD peak memory"]
    return "### How cost grows\n\n" + table(head, rows)


def keep(parts: list[str], out: Path | None) -> None:
    """Write what has been measured so far, so that a long run that is stopped leaves its first tables."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="add 11 million weights x 100 epochs and 1e7 weights")
    parser.add_argument("--out", type=Path, help="write the table here instead of printing it")
    parser.add_argument("--scratch", type=Path, help="where the trajectory files go (default: a temporary folder)")
    parser.add_argument("--peak", nargs=2, metavar=("METHOD", "PATH"), help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads that torch uses")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(json.dumps(peak_here(arguments.peak[0], Path(arguments.peak[1]))))
        return
    peers = [name for name in ("pydmd", "numpy", "torch") if importlib.util.find_spec(name)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in peers)
    parts = [
        "# What CMD costs\n\n"
        "Written by `python bench/cmd_peers.py" + (" --full" if arguments.full else "") + " --out docs/bench/cmd.md`; "
        f"{platform.machine()}, {torch.get_num_threads()} threads, {versions}. Seconds are medians of three "
        "interleaved rounds (peers: one) with the file in the page cache; compare them within one table only. Rank 10, "
        "10 modes, 1,000 samples. PCA and DMD here are this package's, through the Gram matrix; PyDMD and numpy's SVD "
        "take the matrix whole."
    ]
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        path = Path(scratch) / "peers"
        plant(path, 500_000 if arguments.full else 200_000, 100)
        parts.append(side_by_side(path, list(METHODS)))
        keep(parts, arguments.out)
        path.unlink()
        if arguments.full:
            path = Path(scratch) / "resnet18"
            plant(path, RESNET18, 100)
            parts.append(side_by_side(path, list(METHODS)))
            keep(parts, arguments.out)
            path.unlink()
        sizes = [(100_000, 40), (1_000_000, 40), (1_000_000, 20), (1_000_000, 50), (1_000_000, 100)]
        parts.append(scaling(Path(scratch), [*sizes, (10_000_000, 40)] if arguments.full else sizes))
        keep(parts, arguments.out)
    if arguments.out is None:
        print("\n\n".join(parts))


if __name__ == "__main__":
    main()
