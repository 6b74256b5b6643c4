"""Readers of the binary formats in which the standard image sets are published. Nothing here unpickles."""

from __future__ import annotations

import gzip
import math
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .embedded import Array

IDX_UINT8 = 8
"""Type code of unsigned bytes in the third byte of an IDX file."""


def read_idx(path: Path) -> Array:
    """An IDX file of unsigned bytes (MNIST, Fashion-MNIST), gzipped or not.

    The format: two zero bytes, a type code, the number of dimensions, each dimension as a big-endian 32-bit integer,
    then the values in row-major order.

    Raises:
        ValueError: when the file is not IDX, holds another type, or is cut short or too long.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "a")
        ...     _ = path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]))
        ...     read_idx(path)
        array([[1, 2, 3],
               [4, 5, 6]], dtype=uint8)
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, ValueError) as error:
            raise ValueError(f"{path} is a damaged gzip file: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != IDX_UINT8:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes: it starts with {content[:4].hex(' ')}")
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{path} should hold {start + math.prod(shape):,} bytes for shape {shape}: it holds {len(content):,}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_cifar(archive: Path, members: Sequence[str], *, label_bytes: int) -> tuple[Array, Array]:
    """The binary version of CIFAR: records of `label_bytes` labels and 3 x 32 x 32 pixels, red plane first.

    Args:
        archive: `cifar-10-binary.tar.gz` or `cifar-100-binary.tar.gz`; members are read in memory, none is extracted.
        members: base names of the members to read, in order (`data_batch_1.bin`, ...).
        label_bytes: 1 for CIFAR-10; 2 for CIFAR-100, whose first label is the coarse one. The last label is returned.

    Returns:
        Images (n, 3, 32, 32) and labels (n,).

    Raises:
        ValueError: when the archive is damaged, a member is missing, or its length is no multiple of a record.
    """
    record = label_bytes + 3 * 32 * 32
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:
                name = Path(entry.name).name
                if entry.isreg() and name in members and (stream := tar.extractfile(entry)) is not None:
                    found[name] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{archive} is a damaged archive: {error}") from error
    for name in members:
        if name not in found:
            raise ValueError(f"{archive} lacks {name}")
        if not found[name] or len(found[name]) % record:
            raise ValueError(f"{name} in {archive} is no multiple of {record} bytes: it has {len(found[name]):,}")
    rows = np.frombuffer(b"".join(found[name] for name in members), np.uint8).reshape(-1, record)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), rows[:, label_bytes - 1]


def read_svhn(path: Path) -> tuple[Array, Array]:
    """A cropped SVHN file: MATLAB arrays `X` (32, 32, 3, n) and `y` (n, 1), where label 10 means the digit 0.

    Returns:
        Images (n, 3, 32, 32) and labels (n,) from 0 to 9.

    Raises:
        ValueError: when it is no such file.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=["X", "y"])
        images, labels = content["X"], content["y"].reshape(-1)
    except (MatReadError, KeyError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a cropped SVHN file: {error}") from error
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
        raise ValueError(
            f"{path} should hold uint8 images (32, 32, 3, {len(labels)}): got {images.dtype} {images.shape}"
        )
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), (labels % 10).astype(np.uint8)
