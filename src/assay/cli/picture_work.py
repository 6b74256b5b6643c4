"""Work on pictures: whole where memory allows, else tile by tile, with a bar while it lasts."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from assay.cli import UsageProblem
from assay.cli.picture_files import BYTES_HELD, Opened

if TYPE_CHECKING:
    from torch import Tensor

    from assay.imaging import Solution

Watch = Callable[[float], None]
"""Is told which share of the work is done."""

SHARE = 0.75
"""Of the free memory is used, unless --memory says otherwise."""
SAMPLES = 100_000_000
"""Samples that a solver goes over between two looks at the bar."""
MOST = 50_000
"""Iterations of a solver."""


class Tile(NamedTuple):
    """What is computed of a picture at a time: rows and columns that are kept, and those that are seen."""

    rows: slice
    columns: slice
    seen_rows: slice
    seen_columns: slice

    def cut(self, picture: Tensor) -> Tensor:
        """What the tile sees of a picture (..., h, w)."""
        return picture[..., self.seen_rows, self.seen_columns]

    def keep(self, result: Tensor) -> Tensor:
        """What is kept of the result."""
        top, left = self.rows.start - self.seen_rows.start, self.columns.start - self.seen_columns.start
        height, width = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        return result[..., top : top + height, left : left + width]


def tiles(height: int, width: int, side: int, halo: int) -> list[Tile]:
    """Squares of `side` pixels, `halo` more of which are seen on every side that lies inside of the picture.

    >>> [(tile.columns, tile.seen_columns) for tile in tiles(5, 8, 5, 1)]
    [(slice(0, 5, None), slice(0, 6, None)), (slice(5, 8, None), slice(4, 8, None))]
    """

    def spans(size: int) -> Iterator[tuple[slice, slice]]:
        for start in range(0, size, side):
            stop = min(start + side, size)
            yield slice(start, stop), slice(max(0, start - halo), min(size, stop + halo))

    return [
        Tile(rows, columns, seen_rows, seen_columns)
        for rows, seen_rows in spans(height)
        for columns, seen_columns in spans(width)
    ]


def plan(
    opened: Opened, *, bytes_per_pixel: int, out_channels: int, memory: int | None, halo: int | None, wider: int = 1
) -> list[Tile]:
    """The tiles in which a picture is worked on: one, if memory allows.

    Args:
        opened: the picture.
        bytes_per_pixel: what the method needs for a pixel that it sees.
        out_channels: of the result.
        memory: bytes that may be used; None is three quarters of what is free.
        halo: pixels around a tile that must be seen; None for a method that must see the whole picture.
        wider: how many times the picture is kept and written, side by side.

    Raises:
        UsageProblem: it does not fit.
    """
    allowed = memory if memory is not None else int(SHARE * _free())
    height, width = opened.height, opened.width
    held = BYTES_HELD * wider * height * width * (opened.image.bands + out_channels) // 2
    need = held + bytes_per_pixel * height * width
    if need <= allowed:
        return tiles(height, width, max(height, width), 0)
    size = f"{opened.path}: {width} x {height} pixels need about {_gib(need)} of memory, {_gib(allowed)} are allowed"
    if halo is None:
        raise UsageProblem(f"{size}; this method must see the whole picture: shrink it, or allow more with --memory")
    side = math.isqrt(max(0, allowed - held) // bytes_per_pixel) - 2 * halo
    if side < max(halo, 16):
        least = held + bytes_per_pixel * (2 * halo + max(halo, 16)) ** 2
        raise UsageProblem(f"{size}; in tiles about {_gib(least)} would do: allow more with --memory, or shrink it")
    return tiles(height, width, side, halo)


def run_tiles(parts: list[Tile], shape: tuple[int, ...], work: Callable[[Tile, Watch], Tensor], label: str) -> Tensor:
    """The results of all tiles, put together; a bar shows how far it is."""
    import torch

    result = torch.empty(shape)
    with bar(label) as watch:
        for number, tile in enumerate(parts):

            def told(share: float, number: int = number) -> None:
                watch((number + share) / len(parts))

            found = work(tile, told)
            result[..., tile.rows, tile.columns] = tile.keep(found)
            told(1.0)
    return result


def certified(
    solve: Callable[[Tensor | None, int], Solution], start: Tensor | None, samples: int, tol: float, watch: Watch
) -> Solution:
    """A solver's result, its duality gap below `tol`; it is stopped now and then, told on, and started where it was.

    Args:
        solve: from a dual to start with and a number of iterations to a solution.
        start: the first dual, if there is one.
        samples: of what is solved for; fewer are solved for in one go.
        tol: of the gap.
        watch: told how much of the way, in decades of the gap, is done.

    Raises:
        UsageProblem: the gap stays above.
    """
    steps = max(50, SAMPLES // samples)
    found = solve(start, min(steps, MOST))
    done = found.iterations
    while found.gap > tol and done < MOST:
        watch(min(1.0, max(0.0, math.log(min(found.gap, 1.0)) / math.log(min(tol, 0.5)))))
        found = solve(found.dual, min(steps, MOST - done))
        done += found.iterations
    if found.gap > tol:
        raise UsageProblem(f"{MOST:,} iterations leave a gap of {found.gap:.1e}: give a larger --tol or a smaller --t")
    return found


@contextmanager
def bar(label: str) -> Iterator[Watch]:
    """A bar on a terminal, which goes when the work is done; nothing in a pipe."""
    if not sys.stderr.isatty() or os.environ.get("CI"):
        yield lambda share: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=1.0)
        yield lambda share: progress.update(task, completed=share)


def _free() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
