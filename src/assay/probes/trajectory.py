"""The path of a model's weights through training: one row a snapshot, in memory or in a growing file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from assay.probes.layout import Layout

DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
UNSIGNED = {2: torch.uint16, 4: torch.uint32, 8: torch.uint64}  # by the bytes of one weight
FEWEST = 3  # two snapshots are always on a line


class Trajectory:
    """W, the (T, N) matrix whose row t is the weight vector of a model at snapshot t.

    Kept in memory, or in a raw little-endian row-major file with a small JSON header beside it (``path`` and
    ``path + ".json"``), which grows by one row a snapshot and survives reopening with `Trajectory.open`. A row that
    was only half written when a run was killed is ignored and overwritten. Recording takes no notice of the training
    loop: call `append` (or hand `on_epoch` to a loop as a callback) whenever a snapshot is wanted.

    Made by `record`, `Trajectory.from_weights`, `Trajectory.open` or `assay.probes.checkpoints.read`.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> trajectory = record(model)
        >>> for _ in range(3):
        ...     trajectory.append(model)
        >>> trajectory.weights.shape, trajectory.layers
        (torch.Size([3, 3]), {'weight': slice(0, 2, None), 'bias': slice(2, 3, None)})
    """

    def __init__(self, layout: Layout, *, path: Path | None = None, dtype: torch.dtype = torch.float32) -> None:
        if dtype not in DTYPES.values():
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype}")
        self.layout = layout
        self.layers = layout.layers
        self.path = path
        self.dtype = dtype
        self._rows: list[Tensor] = []
        self._matrix: Tensor | None = None  # the rows are views of it, where there is one
        self._epochs = 0

    # -- making one

    @classmethod
    def from_weights(cls, weights: Float[Tensor, "T N"], layers: Mapping[str, slice] | None = None) -> Trajectory:
        """A trajectory of weights that are already there; they are not copied."""
        if weights.dtype not in DTYPES.values():
            raise ValueError(f"weights must be of one of {', '.join(DTYPES)}, got {weights.dtype}")
        trajectory = cls(Layout.from_slices(layers, weights.shape[1]), dtype=weights.dtype)
        trajectory._matrix = weights.detach()
        trajectory._rows = list(trajectory._matrix.unbind())
        trajectory._epochs = len(trajectory._rows)
        return trajectory

    @classmethod
    def create(cls, path: str | Path, layout: Layout, *, dtype: torch.dtype = torch.float32) -> Trajectory:
        """An empty trajectory file with its header."""
        path = Path(path)
        if path.exists() or header_of(path).exists():
            raise ValueError(f"path {str(path)!r} already exists; Trajectory.open continues a recorded trajectory")
        trajectory = cls(layout, path=path, dtype=dtype)
        name = next(name for name, kind in DTYPES.items() if kind == dtype)
        header = {"format": "assay.trajectory", "version": 1, "dtype": name, **layout.to_json()}
        path.touch()
        header_of(path).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
        return trajectory

    @classmethod
    def open(cls, path: str | Path) -> Trajectory:
        """A trajectory recorded earlier, ready to be read and to grow further.

        Raises:
            ValueError: the file or its header is not there, or the header is not one of ours.
        """
        path = Path(path)
        if not path.is_file() or not header_of(path).is_file():
            raise ValueError(f"path {str(path)!r} is not a trajectory: needs the file and {header_of(path).name!r}")
        try:
            header = json.loads(header_of(path).read_text(encoding="utf-8"))
            if not isinstance(header, dict) or header.get("format") != "assay.trajectory" or header.get("version") != 1:
                raise ValueError("not an assay.trajectory header of version 1")
            if header.get("dtype") not in DTYPES:
                raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {header.get('dtype')!r}")
            trajectory = cls(Layout.from_json(header), path=path, dtype=DTYPES[header["dtype"]])
        except ValueError as error:
            raise ValueError(f"{header_of(path)}: {error}") from error
        trajectory._epochs = path.stat().st_size // trajectory._row_bytes
        return trajectory

    # -- growing

    def append(self, model: nn.Module) -> None:
        """Record the model's weights as the next row.

        Raises:
            ValueError: a parameter's shape changed, or a weight is not finite (the layer and the epoch are named).
        """
        self.append_vector(self.layout.flatten(model, dtype=self.dtype))

    on_epoch = append

    def append_vector(self, vector: Float[Tensor, " N"]) -> None:
        """Record a vector as the next row."""
        if vector.numel() != self.size:
            raise ValueError(f"vector must have {self.size} entries, got {vector.numel()}")
        vector = vector.detach().to(device="cpu", dtype=self.dtype)
        if not torch.isfinite(vector.sum(dtype=torch.float64)):  # a sum is much cheaper than looking at each
            self.refuse_non_finite(vector, 0, self._epochs)
        if self.path is None:
            self._rows.append(vector.clone())
            self._matrix = None
        else:
            with self.path.open("r+b", buffering=0) as file:
                file.seek(self._epochs * self._row_bytes)
                file.truncate()
                content = _little_endian(vector).data
                while content:
                    content = content[file.write(content) :]
        self._epochs += 1

    def refuse_non_finite(self, vector: Float[Tensor, " n"], start: int, epoch: int) -> None:
        """Raise for the first entry that is not finite, naming its layer; ``vector`` begins at column ``start``."""
        wrong = (~torch.isfinite(vector)).nonzero()
        if len(wrong):
            name = self.layout.layer_at(start + int(wrong[0]))
            raise ValueError(f"weights must be finite, got {float(vector[wrong[0]])} in {name!r} at epoch {epoch}")

    # -- reading

    def __len__(self) -> int:
        return self._epochs

    @property
    def epochs(self) -> int:
        """T, the number of snapshots."""
        return self._epochs

    @property
    def size(self) -> int:
        """N, the number of weights."""
        return self.layout.size

    @property
    def weights(self) -> Float[Tensor, "T N"]:
        """All of it; a copy-on-write mapping when it is kept in a file."""
        if self.path is not None:
            count = self._epochs * self.size
            flat = torch.from_file(str(self.path), shared=False, size=count, dtype=self.dtype) if count else None
            return torch.empty(0, self.size, dtype=self.dtype) if flat is None else flat.view(-1, self.size)
        if self._matrix is None:
            self._matrix = torch.stack(self._rows) if self._rows else torch.empty(0, self.size, dtype=self.dtype)
            self._rows = list(self._matrix.unbind())
        return self._matrix

    def row(self, t: int) -> Float[Tensor, " N"]:
        """The weight vector at snapshot ``t`` (negative counts from the end)."""
        if not -self._epochs <= t < self._epochs:
            raise ValueError(f"t must be in [{-self._epochs}, {self._epochs}), got {t}")
        return self.columns(0, self.size, rows=range(t % self._epochs, t % self._epochs + 1))[0]

    def columns(
        self, start: int, stop: int, *, rows: range | None = None, out: Tensor | None = None
    ) -> Float[Tensor, "T n"]:
        """The paths of weights ``start`` to ``stop``: (T, stop - start), of the trajectory's dtype.

        Args:
            start: first column, in [0, N].
            stop: column after the last one, in [start, N].
            rows: which snapshots; all when None.
            out: a buffer of at least that size to read a file into.
        """
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"columns must lie in 0 <= start <= stop <= {self.size}, got {start} to {stop}")
        rows = range(self._epochs) if rows is None else rows
        width = stop - start
        if self.path is None:
            if self._matrix is not None:
                return self._matrix[rows.start : rows.stop : rows.step, start:stop]
            kept = [self._rows[t][start:stop] for t in rows]
            return torch.stack(kept) if kept else torch.empty(0, width, dtype=self.dtype)
        block = torch.empty(len(rows), width, dtype=self.dtype) if out is None else out[: len(rows), :width]
        with self.path.open("rb", buffering=0) as file:
            for target, t in zip(block, rows, strict=True):
                file.seek(t * self._row_bytes + start * self.dtype.itemsize)
                _read_into(file, target)
        return block

    def take(self, indices: Int[Tensor, " k"], *, rows: range | None = None) -> Float[Tensor, "T k"]:
        """The paths of single weights, in float64: (T, len(indices))."""
        rows = range(self._epochs) if rows is None else rows
        indices = indices.long()
        if self.path is None:
            return torch.stack([self._rows[t][indices] for t in rows]).double()
        width, chosen = self.dtype.itemsize, indices.numpy()
        taken = torch.empty(len(rows), len(indices), dtype=self.dtype)
        for target, t in zip(taken, rows, strict=True):  # a row is mapped at a time, so that memory stays that of a row
            row = np.memmap(self.path, f"<u{width}", mode="r", offset=t * self._row_bytes, shape=(self.size,))
            target.view(UNSIGNED[width]).numpy()[:] = row[chosen]
        return taken.double()

    def write(self, model: nn.Module, vector: Float[Tensor, " N"]) -> None:
        """Put a weight vector into the model, in place."""
        self.layout.write(model, vector)

    @property
    def _row_bytes(self) -> int:
        return self.size * self.dtype.itemsize


def record(
    model: nn.Module,
    path: str | Path | None = None,
    buffers: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Trajectory:
    """An empty trajectory that fits the model; the weights as they are now are not yet in it.

    Args:
        model: the network to follow; its trainable float parameters are recorded.
        path: a file to keep the trajectory in; memory when None. It must not exist yet.
        buffers: also record float buffers, such as batch-norm running statistics.
        dtype: what the rows are stored in.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> trajectory = record(model, dtype=torch.float64)
        >>> trajectory.on_epoch(model)      # after each epoch of any loop
        >>> len(trajectory)
        1
    """
    layout = Layout.of(model, buffers=buffers)
    return Trajectory(layout, dtype=dtype) if path is None else Trajectory.create(path, layout, dtype=dtype)


def header_of(path: Path) -> Path:
    """Where the header of a trajectory file lies."""
    return path.with_name(path.name + ".json")


def _little_endian(vector: Tensor) -> np.ndarray:
    if not vector.numel():
        return np.empty(0, np.uint8)
    content = vector.contiguous().view(torch.uint8).numpy()
    return content if sys.byteorder == "little" else _swapped(content, vector.dtype.itemsize)


def _read_into(file: Any, target: Tensor) -> None:
    content = target.view(torch.uint8).numpy()
    view = content.data
    while view:
        if not (count := file.readinto(view)):
            raise ValueError(f"{os.fspath(file.name)}: ends too early")
        view = view[count:]
    if sys.byteorder != "little":
        content[:] = _swapped(content, target.dtype.itemsize)


def _swapped(content: np.ndarray, width: int) -> np.ndarray:
    return content.reshape(-1, width)[:, ::-1].reshape(-1)
