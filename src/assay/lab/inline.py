"""Trials in this very process: for debuggers and notebooks."""

from __future__ import annotations

from collections import deque

from assay.lab.trial import Finished, Trial, execute


class InlineExecutor:
    """Runs one trial at a time, where it is called; a breakpoint in a claim works.

    There is no time limit and no memory cap, a crash takes the process with it, and the global seeds are set by each
    trial.
    """

    slots = 1

    def __init__(self) -> None:
        self._waiting: deque[Trial] = deque()

    def submit(self, trial: Trial) -> None:
        self._waiting.append(trial)

    def next(self, timeout: float | None = None) -> tuple[Trial, Finished] | None:
        if not self._waiting:
            return None
        trial = self._waiting.popleft()
        return trial, execute(trial)

    def cancel(self) -> None:
        self._waiting.clear()
