"""One trial, as an executor gets it, and what comes back."""

from __future__ import annotations

import ctypes
import random
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.lab.catalogue import ModuleRef
from assay.lab.provenance import provenance
from assay.lab.record import Measures, Status

LAST_LINES = 12


class Diverged(FloatingPointError):
    """Raised by a claim (or by training) when a run has collapsed; an outcome, not a mistake."""


@dataclass(frozen=True)
class Trial:
    """What to run: everything an executor needs, on this machine or another."""

    module: ModuleRef
    paper: str
    claim: str
    arms: tuple[str, ...]
    seed: int
    settings: Mapping[str, Any]
    together: bool
    exclusive: bool
    digest: str
    purpose: str = "seed"
    threads: int = 1

    @property
    def label(self) -> str:
        arms = "" if self.together else f" {self.arms[0]}"
        return f"{self.paper}/{self.claim}{arms} seed {self.seed}"


@dataclass(frozen=True)
class Finished:
    """What a trial returned, or how it ended."""

    status: Status
    results: Mapping[str, Measures] = field(default_factory=dict)
    error: str = ""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    started: float = 0.0
    provenance: Mapping[str, Any] | None = None


def execute(trial: Trial) -> Finished:
    """Run a trial in this process: seeded, with pinned threads, timed, and with whatever it raises caught."""
    import numpy as np
    import torch

    from assay.metrics.memory import forget_peak, peak

    torch.set_num_threads(trial.threads)
    module = trial.module.load() if trial.module.name not in sys.modules else sys.modules[trial.module.name]
    function = getattr(module, trial.claim).claim.function
    random.seed(trial.seed)
    np.random.seed(trial.seed)
    torch.manual_seed(trial.seed)
    forget_peak()
    started, wall, cpu = time.time(), time.perf_counter(), time.process_time()
    status: Status = "ok"
    results: dict[str, Measures] = {}
    error = ""
    try:
        if trial.together:
            returned = function(trial.arms, trial.seed, **trial.settings)
        else:
            returned = {trial.arms[0]: function(trial.arms[0], trial.seed, **trial.settings)}
        results = _checked(returned, trial.arms)
    except FloatingPointError as caught:
        status, error = "diverged", str(caught)
        results = {arm: {} for arm in trial.arms}
    except MemoryError as caught:
        status, error = "out-of-memory", str(caught) or "MemoryError"
    except Exception as caught:
        starved = isinstance(caught, RuntimeError) and "allocate memory" in str(caught)
        status = "out-of-memory" if starved else "error"
        error = "".join(traceback.format_exc().splitlines(keepends=True)[-LAST_LINES:])
    return Finished(
        status,
        results,
        error,
        wall_seconds=time.perf_counter() - wall,
        cpu_seconds=time.process_time() - cpu,
        peak_bytes=peak(),
        started=started,
        provenance=provenance(Path(trial.module.path).parent, trial.threads),
    )


def _checked(returned: Any, arms: tuple[str, ...]) -> dict[str, Measures]:
    """What a claim returned as plain floats and numpy arrays, or a TypeError that says what is wrong with it."""
    import numpy as np

    if not isinstance(returned, Mapping) or set(returned) != set(arms):
        raise TypeError(
            f"a together claim returns {{arm: {{measure: value}}}} for the arms {arms!r}, not {returned!r:.200}"
        )
    results: dict[str, Measures] = {}
    for arm in arms:
        measures = returned[arm]
        if not isinstance(measures, Mapping):
            raise TypeError(f"a claim returns {{measure: float or array}}, not {measures!r:.200}")
        results[arm] = {}
        for name, value in measures.items():
            if hasattr(value, "detach"):
                value = value.detach().cpu().numpy()
            array = np.asarray(value)
            if array.dtype == object or array.dtype.kind not in "fiub":
                raise TypeError(f"measure {name!r} of arm {arm!r} is {value!r:.100}; it must be a float or an array")
            results[arm][str(name)] = float(array) if array.ndim == 0 else array
    return results


def tame_allocator() -> None:
    """Keep glibc from giving large temporaries back to the system and faulting them in again at every step."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 * 2**20)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
        mallopt(option, value)
