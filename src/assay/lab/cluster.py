"""Trials on a Ray cluster: one actor a slot, and in each actor the very slot that runs trials on this machine.

An actor hosts a `LocalPool` of one slot on its node. A trial there is seeded, pinned, limited and stopped by the same
code as here, so a cluster changes where a trial runs and nothing else. The actor itself does not import torch and never
runs a claim: a claim that takes its process down leaves the actor able to say how it ended.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from assay.lab.catalogue import ModuleRef
from assay.lab.claim import ClaimError
from assay.lab.folder import StoreError
from assay.lab.node import Host, sources
from assay.lab.record import Measures, Status
from assay.lab.trial import LAST_LINES, Finished, Trial

GRACE_SECONDS = 60.0
"""An actor that has not stopped a trial so long after its time limit is itself stopped."""
POLL_SECONDS = 1.0
CLIENT_PORT = 10001


class ClusterError(ClaimError):
    """The cluster cannot be used as asked. The message is one line, fit for a terminal."""


class ClusterLost(StoreError):
    """The cluster went away in the middle of a run. Finished trials are in the ledger."""


class RayExecutor:
    """Runs trials in actors of a Ray cluster, each of which runs many trials.

    There are as many slots as the cluster has processors for: floor(CPUs / threads), counted once. Actors start when
    there are trials for them and take the next trial as soon as they are up, so a node that is busy with something else
    holds nothing up. An actor that is lost with its node is one crashed trial and a fresh actor. Nothing is kept here
    that matters: when the driver dies its actors end with it, and the next run starts what the ledger does not have.

    Every node needs `assay` and the packages that provide claims, in the driver's version: a node whose code for a
    trial differs from the driver's refuses it (status `error`), because its result would be kept under the wrong name.
    A claim file outside any package is sent along with the neighbours that it imports, and is used from a temporary
    folder unless the very same files lie at the same path on the node (a shared file system). Data files beside it are
    not sent.

    Args:
        address: `"ray://host:10001"`, or what else `ray.init` takes. None takes the connection that this process has
            already, else the cluster that the variable RAY_ADDRESS names (as in a job submitted to one), else starts
            Ray on this machine. A cluster that asks for a token gets that of the variable RAY_AUTH_TOKEN.
        timeout: seconds after which a trial is stopped (status `timeout`), counted from when its actor got it.
        memory: bytes of resident memory, children included, above which a trial is stopped (`out-of-memory`).
        threads: processors reserved for each slot; no trial may ask for more threads.

    Raises:
        ClusterError: Ray is not installed or not to be reached, or has fewer processors than one slot needs.
        ValueError: an argument is not positive.
    """

    def __init__(
        self, address: str | None = None, *, timeout: float = 600.0, memory: int | None = None, threads: int = 1
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads={threads} must be at least 1")
        if not timeout > 0:
            raise ValueError(f"timeout={timeout} must be a positive number of seconds")
        if memory is not None and memory <= 0:
            raise ValueError(f"memory={memory} must be a positive number of bytes")
        self.timeout = timeout
        self.memory = memory
        self.threads = threads
        self._waiting: deque[Trial] = deque()
        self._done: deque[tuple[Trial, Finished]] = deque()
        self._actors: list[_Actor] = []
        self._sources: dict[str, dict[str, bytes]] = {}
        self._in_flight = 0
        self._ray = _import_ray()
        self._connected_here = _connect(self._ray, address)
        processors = float(self._ray.cluster_resources().get("CPU", 0.0))
        self.slots = int(processors // threads)
        if self.slots < 1:
            self.cancel()
            raise ClusterError(f"the Ray cluster has {processors:g} CPUs, too few for a slot of threads={threads}")
        make = self._ray.remote(num_cpus=threads, max_restarts=0, max_task_retries=0, max_concurrency=2)
        self._host: Any = make(Host)

    def submit(self, trial: Trial) -> None:
        if trial.threads > self.threads:
            raise ValueError(f"{trial.label} has threads={trial.threads}, but the slots have threads={self.threads}")
        self._in_flight += 1
        self._waiting.append(trial)
        with self._connection():
            self._assign()

    def next(self, timeout: float | None = None) -> tuple[Trial, Finished] | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._in_flight:
            if self._done:
                self._in_flight -= 1
                return self._done.popleft()
            left = POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return None
            with self._connection():
                self._assign()
                self._await(min(left, POLL_SECONDS))
                self._stop_overdue()
        return None

    def cancel(self) -> None:
        self._waiting.clear()
        self._done.clear()
        self._in_flight = 0
        actors, self._actors = self._actors, []
        with contextlib.suppress(Exception):  # a client that has lost its cluster raises just that
            if actors:
                stops = [actor.handle.stop.remote() for actor in actors]
                self._ray.wait(stops, num_returns=len(stops), timeout=5.0)
            for actor in actors:
                self._ray.kill(actor.handle)
        if self._connected_here:
            self._connected_here = False
            self._ray.shutdown()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[None]:
        """Words a connection that breaks as what it means for a run."""
        try:
            yield
        except Exception as error:
            if isinstance(error, ConnectionError) or not self._ray.is_initialized():
                reason = _last_line(error)
                raise ClusterLost(f"the connection to Ray was lost ({reason}); to go on, run the same again") from None
            raise

    def _assign(self) -> None:
        """Give waiting trials to actors that are idle, and start actors for the others."""
        for actor in self._actors:
            if self._waiting and actor.reply is None:
                actor.trial, actor.since = self._waiting.popleft(), time.time()
                actor.reply = actor.handle.run.remote(actor.trial, self._files(actor.trial.module))
        starting = sum(actor.trial is None for actor in self._actors)
        for _ in range(min(len(self._waiting) - starting, self.slots - len(self._actors))):
            handle = self._host.remote(self.timeout, self.memory)
            self._actors.append(_Actor(handle, handle.ready.remote()))

    def _files(self, module: ModuleRef) -> dict[str, bytes]:
        """What has to be sent with the trials of a claim file, read once a run."""
        if module.path not in self._sources:
            self._sources[module.path] = sources(module)
        return self._sources[module.path]

    def _await(self, seconds: float) -> None:
        """Take in the replies that come within so many seconds of the first."""
        pending = {actor.reply: actor for actor in self._actors if actor.reply is not None}
        replies, _ = self._ray.wait(list(pending), num_returns=1, timeout=seconds)
        for reply in replies:
            actor = pending[reply]
            try:
                value = self._ray.get(reply)
            except self._ray.exceptions.RayError as error:
                self._lost(actor, error)
                continue
            if actor.trial is not None:
                self._done.append((actor.trial, _owned(value)))
            actor.trial, actor.reply = None, None

    def _lost(self, actor: _Actor, error: Exception) -> None:
        """An actor is gone, and with it its trial; one that never came up takes one waiting trial with it."""
        if getattr(error, "actor_init_failed", False):
            raise ClusterError(f"Ray could not start an actor: {_last_line(error)}; every node needs assay and torch")
        starved = isinstance(error, self._ray.exceptions.OutOfMemoryError)
        if actor.trial is None and self._waiting:
            actor.trial, actor.since = self._waiting.popleft(), time.time()
        lines = str(error).splitlines(keepends=True)[-LAST_LINES:]
        self._abandon(actor, "out-of-memory" if starved else "crashed", f"the Ray actor was lost\n{''.join(lines)}")

    def _stop_overdue(self) -> None:
        """Stop actors that do not answer though their trial's time is long up."""
        for actor in list(self._actors):
            if actor.trial is not None and time.time() - actor.since > self.timeout + GRACE_SECONDS:
                self._abandon(actor, "timeout", f"the Ray actor did not stop the trial after {self.timeout:g} s")

    def _abandon(self, actor: _Actor, status: Status, error: str) -> None:
        self._actors.remove(actor)
        self._ray.kill(actor.handle)
        if actor.trial is not None:
            spent = time.time() - actor.since
            self._done.append((actor.trial, Finished(status, error=error, wall_seconds=spent, started=actor.since)))


@dataclass(eq=False)
class _Actor:
    """An actor as the driver sees it: starting (a reply is due, no trial), busy (both) or idle (neither)."""

    handle: Any
    reply: Any
    trial: Trial | None = None
    since: float = 0.0


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ClusterError("running on a cluster needs Ray: pip install 'assay[ray]'") from None


def _connect(ray: Any, address: str | None) -> bool:
    """Connect to a cluster unless this process is connected; whether it had to be done."""
    if ray.is_initialized():
        if address is not None:
            raise ClusterError(f"this process is connected to Ray already and cannot connect to {address}")
        return False
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address == "local":
        options["include_dashboard"] = False
    hint = ""
    try:
        if address.startswith("ray://"):  # where nobody listens, Ray itself tries for half a minute
            where = urlsplit(address)
            socket.create_connection((where.hostname or "", where.port or CLIENT_PORT), timeout=10.0).close()
            hint = "; the port is open, so is it Ray's client port, and does it ask for a token (RAY_AUTH_TOKEN)?"
        with warnings.catch_warnings(action="ignore"):
            ray.init(address, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"no Ray cluster at {address}: {' '.join(str(error).split())}{hint}") from None
    return True


def _owned(finished: Finished) -> Finished:
    """With arrays of its own: those that come from Ray are read-only views that keep its object store filled."""
    import numpy as np

    def own(measures: Measures) -> Measures:
        return {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in measures.items()}

    return replace(finished, results={arm: own(measures) for arm, measures in finished.results.items()})


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
