"""Passing once over a long trajectory, a chunk of columns at a time: the one reader of CMD, DMD and snapshot PCA."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from jaxtyping import Float
from torch import Tensor

from assay.probes.trajectory import FEWEST, Trajectory

CHUNK = 2**18  # columns read at a time: 1 MiB of each row, where reading a file row by row is as fast as end to end
TILE = 2**13  # columns worked on at a time: T x TILE floats stay in the processor's caches


def check_trajectory(trajectory: Trajectory, *, start: int = 0, stride: int = 1, needed: int = FEWEST) -> range:
    """The snapshots start, start + stride, ... of a trajectory, refused when they are too few."""
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if start < 0:
        raise ValueError(f"start must be at least 0, got {start}")
    rows = range(start, trajectory.epochs, stride)
    if len(rows) < needed:
        raise ValueError(f"trajectory must have at least {needed} snapshots, got {len(rows)}")
    return rows


def check_chunk(chunk: int) -> int:
    """A number of columns to read at a time."""
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 column, got {chunk}")
    return chunk


def read_chunks(trajectory: Trajectory, rows: range, chunk: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
    """Yield (first column, (T, n) block) over all columns; a block is valid until the next one is asked for.

    A file is read into two buffers in turn, the next block while the present one is worked on.
    """
    starts = range(0, trajectory.size, check_chunk(chunk))
    ends = [min(start + chunk, trajectory.size) for start in starts]
    if trajectory.path is None:
        for start, end in zip(starts, ends, strict=True):
            yield start, trajectory.columns(start, end, rows=rows)
        return
    buffers = [torch.empty(len(rows), min(chunk, trajectory.size), dtype=trajectory.dtype) for _ in range(2)]
    with ThreadPoolExecutor(1, thread_name_prefix="trajectory") as reader:

        def ahead(i: int) -> Future[Tensor]:
            return reader.submit(trajectory.columns, starts[i], ends[i], rows=rows, out=buffers[i % 2])

        coming = ahead(0)
        for i, start in enumerate(starts):
            block = coming.result()
            if i + 1 < len(starts):
                coming = ahead(i + 1)
            yield start, block


def read_moves(
    trajectory: Trajectory, rows: range, chunk: int = CHUNK
) -> Iterator[tuple[slice, Float[Tensor, " n"], Float[Tensor, "T n"]]]:
    """Yield (columns, first snapshot, movement since the first snapshot) over all columns, tile by tile.

    The movement X - X[0] is what float32 can hold of a weight that moves by 1e-3 around 0.3: its error is relative to
    the movement, not to the weight. It is float64 for a float64 trajectory and float32 for all others, and a buffer
    that the next tile overwrites.

    Raises:
        ValueError: a weight is not finite; its layer and epoch are named.
    """
    dtype = torch.promote_types(trajectory.dtype, torch.float32)
    buffer = torch.empty(len(rows), min(TILE, chunk, trajectory.size), dtype=dtype)
    for begin, block in read_chunks(trajectory, rows, chunk):
        for i in range(0, block.shape[1], TILE):
            part = block[:, i : i + TILE]
            moves = buffer[:, : part.shape[1]]
            torch.sub(part.to(dtype), part[0].to(dtype), out=moves)
            if not torch.isfinite(moves.sum()):
                for t, row in zip(rows, part, strict=True):
                    trajectory.refuse_non_finite(row, begin + i, t)
            yield slice(begin + i, begin + i + part.shape[1]), part[0].to(dtype), moves


def combine(
    trajectory: Trajectory, coefficients: Float[Tensor, "k T"], rows: range, chunk: int = CHUNK
) -> Float[Tensor, "k N"]:
    """Linear combinations of the snapshots, coefficients @ W, in one pass and in float64 up to the last rounding."""
    dtype = torch.promote_types(trajectory.dtype, torch.float32)
    out = torch.empty(len(coefficients), trajectory.size, dtype=dtype)
    total = coefficients.sum(1, keepdim=True)
    for columns, first, moves in read_moves(trajectory, rows, chunk):
        out[:, columns] = torch.addmm(total * first.double(), coefficients, moves.double())
    return out


def combination_error(
    trajectory: Trajectory, coefficients: Float[Tensor, "T T"], rows: range, chunk: int = CHUNK
) -> float:
    """||W - C W||_F^2 / ||W - time mean||_F^2 for a model that writes each snapshot as a combination C of them."""
    residual = torch.eye(len(rows), dtype=torch.float64) - coefficients
    total = residual.sum(1, keepdim=True)
    missed = moved = 0.0
    for _, first, moves in read_moves(trajectory, rows, chunk):
        wide = moves.double()
        missed += float(torch.addmm(total * first.double(), residual, wide).square_().sum())
        moved += float((wide - wide.mean(0)).square_().sum())
    return error_ratio(missed, moved)


def error_ratio(missed: float, moved: float) -> float:
    """Squared error over squared movement; a trajectory that does not move is matched (0) or not (infinite)."""
    if missed != missed:  # inf - inf in a roll-out that diverged
        return float("inf")
    if moved > 0:
        return max(0.0, missed) / moved
    return 0.0 if missed <= 0 else float("inf")
