"""Peak memory of a piece of work, for claims about memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


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
