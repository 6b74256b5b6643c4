"""A user's own checkpoints, read from a folder as the trajectory of a run."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from assay.probes.layout import Layout
from assay.probes.modes import Modes
from assay.probes.trajectory import FEWEST, Trajectory

SUFFIXES = (".safetensors", ".pt", ".pth", ".npz")
NESTS = ("state_dict", "model_state_dict", "model")


def read(folder: str | Path, path: str | Path | None = None, *, pattern: str = "*") -> Trajectory:
    """Read a folder of checkpoints, one snapshot a file, in the natural order of their names.

    Args:
        folder: holds ``.safetensors``, ``.pt`` or ``.pth`` (read with ``weights_only=True``: nothing is unpickled that
            could run code; a state dict at the top or under ``state_dict``, ``model_state_dict`` or ``model``) or
            ``.npz`` files. ``ckpt-2`` comes before ``ckpt-10``.
        path: where to keep the trajectory, so that one checkpoint at a time is in memory; memory when None.
        pattern: only files whose names match, such as ``epoch-*.pt``.

    Returns:
        All float tensors of each checkpoint as one row in float32, in the order of the first file. Whole-number
        tensors (counters) are left out.

    Raises:
        ValueError: no such folder, no checkpoint in it, fewer than 3, a file that cannot be read, tensors that are
            missing, new, of another shape or not finite: file and tensor are named.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> for epoch in (10, 2, 1):
        ...     save_file({"w": torch.tensor([float(epoch)])}, f"{folder.name}/ckpt-{epoch}.safetensors")
        >>> read(folder.name).weights[:, 0].tolist()
        [1.0, 2.0, 10.0]
        >>> folder.cleanup()
    """
    files = find(folder, pattern)
    trajectory: Trajectory | None = None
    created: list[Path] = []
    try:
        for file in files:
            tensors = _floats(file)
            if trajectory is None:
                shapes = tuple(tuple(tensor.shape) for tensor in tensors.values())
                layout = Layout(tuple(tensors), shapes)
                trajectory = Trajectory(layout) if path is None else Trajectory.create(path, layout)
                created = [] if path is None else [Path(path), Path(f"{path}.json")]
            trajectory.append_vector(_vector(file, tensors, trajectory.layout, files[0]))
    except BaseException:
        for part in created:  # no half-read trajectory is left behind
            part.unlink(missing_ok=True)
        raise
    assert trajectory is not None
    return trajectory


def find(folder: str | Path, pattern: str = "*") -> list[Path]:
    """The checkpoints of a folder in natural order, at least 3."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder {str(folder)!r} is not a folder")
    files = [file for file in folder.glob(pattern) if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not files:
        raise ValueError(f"folder {str(folder)!r} must hold checkpoints ({', '.join(SUFFIXES)}), got none")
    if len(files) < FEWEST:
        raise ValueError(f"folder {str(folder)!r} must hold at least {FEWEST} checkpoints, got {len(files)}")
    return sorted(files, key=lambda file: natural(file.name))


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sorting key by which numbers within names count as numbers.

    Example:
        >>> sorted(["e10", "e9", "e1b"], key=natural)
        ['e1b', 'e9', 'e10']
    """
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), part) if part.isdigit() else (0, 0, part.lower()) for part in parts if part]


def write(path: str | Path, modes: Modes, t: int = -1, *, like: str | Path | None = None) -> None:
    """Save the modelled (smoothed) network of snapshot ``t`` as a ``.safetensors`` checkpoint.

    Args:
        path: the file to write.
        modes: a decomposition of checkpoints or of a model.
        t: which snapshot, negative counts from the end.
        like: a checkpoint of the same network, whose other tensors (counters) and number types are taken over.

    Raises:
        ValueError: ``like`` cannot be read or lacks one of the tensors.
    """
    tensors = {name: tensor.clone() for name, tensor in modes.layout.split(modes.reconstruct(t)).items()}
    if like is not None:
        given = load(like)
        for name, tensor in tensors.items():
            if name not in given or given[name].shape != tensor.shape:
                raise ValueError(f"{like}: has no tensor {name!r} of shape {tuple(tensor.shape)}")
        tensors = {n: tensors[n].to(old.dtype) if n in tensors else old.clone() for n, old in given.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(path))


def load(file: str | Path) -> dict[str, Tensor]:
    """All tensors of one checkpoint by name.

    Raises:
        ValueError: the file cannot be read as what its name says, or holds no tensor.
    """
    file = Path(file)
    try:
        content = _load(file)
    except Exception as error:  # a hostile file can make a reader raise anything
        raise ValueError(f"{file}: not a readable checkpoint ({_first_line(error)})") from error
    for nest in NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    if not isinstance(content, Mapping):
        raise ValueError(f"{file}: must hold a state dict, got {type(content).__name__}")
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{file}: holds no tensors")
    return tensors


def _load(file: Path) -> Any:
    suffix = file.suffix.lower()
    if suffix == ".safetensors":
        return load_file(str(file))
    if suffix == ".npz":
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            arrays = {name[:-4]: _array(archive, name) for name in names}
        return {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind in "fiub"}
    if suffix in SUFFIXES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    raise ValueError(f"name must end in {', '.join(SUFFIXES)}")


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _floats(file: Path) -> dict[str, Tensor]:
    tensors = {name: tensor for name, tensor in load(file).items() if tensor.is_floating_point() and tensor.numel()}
    if not tensors:
        raise ValueError(f"{file}: holds no float tensors")
    return tensors


def _vector(file: Path, tensors: dict[str, Tensor], layout: Layout, first: Path) -> Tensor:
    if extra := [name for name in tensors if name not in layout.names]:
        raise ValueError(f"{file}: has tensor {extra[0]!r}, which {first.name} has not")
    vector = torch.empty(layout.size)
    for (name, part), shape in zip(layout.layers.items(), layout.shapes, strict=True):
        if name not in tensors:
            raise ValueError(f"{file}: has no tensor {name!r}, which {first.name} has")
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{file}: tensor {name!r} has shape {tuple(tensor.shape)}, in {first.name} it is {shape}")
        vector[part] = tensor.to_dense().reshape(-1) if tensor.layout != torch.strided else tensor.reshape(-1)
        if not torch.isfinite(vector[part].sum(dtype=torch.float64)):
            raise ValueError(f"{file}: tensor {name!r} has weights that are not finite")
    return vector


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
