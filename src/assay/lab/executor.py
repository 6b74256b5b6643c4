"""The protocol behind which trials run: on this machine's slots or on a cluster."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from assay.lab.trial import Finished, Trial


@runtime_checkable
class Executor(Protocol):
    """Takes trials and gives back what became of each, in the order in which they end.

    An executor keeps no state that matters: a trial whose result never comes is simply run again, because all that is
    known of finished trials is in the ledger.
    """

    slots: int

    def submit(self, trial: Trial) -> None:
        """Queue a trial; it starts as soon as a slot is free."""

    def next(self, timeout: float | None = None) -> tuple[Trial, Finished] | None:
        """The next finished trial; None when `timeout` seconds went by or nothing is in flight."""

    def cancel(self) -> None:
        """Drop what is queued, stop what is running, and give everything back. May be called more than once."""
