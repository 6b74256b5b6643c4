"""What steps of training cost beside each other, for claims and benchmarks about time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from assay.metrics.memory import peak_tensors


def step_costs(steps: Mapping[str, Callable[[], Any]], *, repeats: int = 7) -> dict[str, dict[str, float]]:
    """Median seconds and peak MiB of tensors of each step; the steps take turns, so that a busy machine hits all alike.

    Each is run once before, and once to count its memory, which `peak_tensors` finds the same in every run.

    Args:
        steps: what to call, by name.
        repeats: timed turns, at least 1.

    Raises:
        ValueError: for repeats below 1.

    Example:
        >>> import torch
        >>> found = step_costs({"small": lambda: torch.ones(2**18), "large": lambda: torch.ones(2**20)}, repeats=3)
        >>> {name: each["peak_mib"] for name, each in found.items()}
        {'small': 1.0, 'large': 4.0}
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1: got {repeats}")
    peaks: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for name, step in steps.items():
        step()
        with peak_tensors() as memory:
            step()
        peaks[name] = memory.extra / 2**20
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: {"peak_mib": peaks[name], "seconds": statistics.median(seconds[name])} for name in steps}
