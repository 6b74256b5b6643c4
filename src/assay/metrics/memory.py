"""Peak memory of a piece of work, of the process and of tensors alone, for claims about memory."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class PeakMemory:
    """What a `with peak_memory()` block needed, in bytes beyond what was resident before it."""

    extra: int = 0


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Measure how far resident memory rises above its level at the start of the block.

    Memory that earlier work has freed but not returned is given back to the system first, so that the block cannot hide
    in it. Linux alone can reset its high-water mark; elsewhere the mark of the whole process is used, and a block that
    stays below it counts as needing nothing.

    >>> import torch
    >>> with peak_memory() as memory:
    ...     block = torch.ones(2**24)  # 64 MiB
    >>> memory.extra >= 2**26
    True
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    forget_peak()
    before = resident() or peak()
    found = PeakMemory()
    try:
        yield found
    finally:
        found.extra = max(0, peak() - before)


@contextmanager
def peak_tensors() -> Iterator[PeakMemory]:
    """Measure the most bytes of tensors that are alive at once, beyond those that were there before.

    Counted by storage, on whatever device, when operations return; what an operation needs in between is not seen. The
    number is the same in every run, where resident memory hangs on the allocator: with glibc's, training a chain block
    by block leaves holes that grow with its depth.

    >>> import torch
    >>> with peak_tensors() as memory:
    ...     for _ in range(3):
    ...         block = None
    ...         block = torch.ones(2**18).view(2, -1)  # 1 MiB
    >>> memory.extra == 2**20
    True
    """
    found = PeakMemory()
    with _Alive(found):
        yield found


class _Alive(TorchDispatchMode):
    def __init__(self, found: PeakMemory) -> None:
        super().__init__()
        self.found, self.now = found, 0
        self.known: dict[int, int] = {}  # bytes by storage; 0 for those from before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._meet((args, kwargs), new=False)
        out = func(*args, **(kwargs or {}))
        self._meet(out, new=True)
        return out

    def _meet(self, values: Any, *, new: bool) -> None:
        for tensor in tree_leaves(values):
            if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in self.known:
                continue
            self.known[storage._cdata] = size = storage.nbytes() if new else 0
            weakref.finalize(storage, self._gone, storage._cdata).atexit = False
            self.now += size
            self.found.extra = max(self.found.extra, self.now)

    def _gone(self, key: int) -> None:
        self.now -= self.known.pop(key, 0)


def forget_peak() -> None:
    """Start counting peak memory anew, where the kernel can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Peak resident memory in bytes since `forget_peak`, or of the whole process where it cannot be reset."""
    found = _status("VmHWM")
    if found or sys.platform == "win32":
        return found
    import resource

    used = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return used if sys.platform == "darwin" else used * 1024


def resident() -> int:
    """Resident memory in bytes now; 0 where the system does not tell."""
    return _status("VmRSS")


def _status(field: str) -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0
