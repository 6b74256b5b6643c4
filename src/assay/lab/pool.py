"""Our own pool: single-worker slots on this machine, each with a time limit and a memory cap.

A library pool loses every pending result when one worker dies. Here a slot that dies is one crashed trial and a fresh
slot.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from typing import IO, Any

import psutil

from assay.lab.record import Status
from assay.lab.trial import LAST_LINES, Finished, Trial

POLL_SECONDS = 0.2


class LocalPool:
    """Runs trials in `slots` processes of this machine.

    Args:
        slots: how many trials run at a time.
        timeout: seconds after which a trial is stopped (status `timeout`).
        memory: bytes of resident memory, children included, above which a trial is stopped (`out-of-memory`).

    Raises:
        ValueError: an argument is not positive.
    """

    def __init__(self, slots: int = 1, *, timeout: float = 600.0, memory: int | None = None) -> None:
        if slots < 1:
            raise ValueError(f"slots={slots} must be at least 1")
        if not timeout > 0:
            raise ValueError(f"timeout={timeout} must be a positive number of seconds")
        if memory is not None and memory <= 0:
            raise ValueError(f"memory={memory} must be a positive number of bytes")
        self.slots = slots
        self.timeout = timeout
        self.memory = memory
        self._waiting: queue.SimpleQueue[Trial | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Trial, Finished]] = queue.SimpleQueue()
        self._in_flight = 0
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run_slot, daemon=True) for _ in range(slots)]
        for thread in self._threads:
            thread.start()

    def submit(self, trial: Trial) -> None:
        self._in_flight += 1
        self._waiting.put(trial)

    def next(self, timeout: float | None = None) -> tuple[Trial, Finished] | None:
        if self._in_flight == 0:
            return None
        try:
            finished = self._done.get(timeout=timeout)
        except queue.Empty:
            return None
        self._in_flight -= 1
        return finished

    def cancel(self) -> None:
        self._stopping.set()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(timeout=10)

    def _run_slot(self) -> None:
        slot: _Slot | None = None
        try:
            while not self._stopping.is_set():
                trial = self._waiting.get()
                if trial is None:
                    return
                try:
                    if slot is not None and not slot.alive():
                        slot.close()
                        slot = None
                    slot = slot or _Slot(trial.threads)
                    finished = slot.run(trial, self.timeout, self.memory, self._stopping)
                except OSError as error:  # no more processes or descriptors
                    finished = Finished("crashed", error=f"no worker could be started: {error}", started=time.time())
                if finished is not None:
                    self._done.put((trial, finished))
        finally:
            if slot is not None:
                slot.close()


class _Slot:
    """One worker process, its two pipes and what it writes to standard error."""

    def __init__(self, threads: int) -> None:
        request_end, self_requests = os.pipe()
        self_replies, reply_end = os.pipe()
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the slot)
        limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = os.environ | dict.fromkeys(limits, str(threads))
        command = [sys.executable, "-m", "assay.lab.worker", str(request_end), str(reply_end), str(os.getpid())]
        self.process = subprocess.Popen(
            command,
            pass_fds=(request_end, reply_end),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=environment,
        )
        os.close(request_end)
        os.close(reply_end)
        self.requests: Connection[Any, Any] = Connection(self_requests, readable=False)
        self.replies: Connection[Any, Any] = Connection(self_replies, writable=False)

    def alive(self) -> bool:
        return self.process.poll() is None

    def run(self, trial: Trial, timeout: float, memory: int | None, stopping: threading.Event) -> Finished | None:
        """Run a trial to its end, whatever that is; None when the pool was stopped meanwhile."""
        started = time.time()
        peak = 0
        status: Status = "crashed"
        reason = ""
        try:
            self.requests.send(trial)
            while not self.replies.poll(POLL_SECONDS):
                if stopping.is_set():
                    self.kill()
                    return None
                used = self._memory(children=memory is not None)
                peak = max(peak, used)
                if time.time() - started > timeout:
                    status, reason = "timeout", f"stopped after {timeout:g} s"
                    raise EOFError
                if memory is not None and used > memory:
                    status, reason = "out-of-memory", f"stopped at {used / 2**20:.0f} MiB, cap {memory / 2**20:.0f} MiB"
                    raise EOFError
            finished: Finished = self.replies.recv()
            return finished
        except (EOFError, OSError):
            self.kill()
            if not reason:
                reason = _ending(self.process.returncode)
                status = "out-of-memory" if self.process.returncode == -9 and _kernel_was_short() else "crashed"
            tail = self._last_lines()
            return Finished(
                status,
                error=f"{reason}\n{tail}".strip(),
                wall_seconds=time.time() - started,
                peak_bytes=peak,
                started=started,
            )

    def kill(self) -> None:
        """Stop the worker and whatever it started."""
        if self.alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
            self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Stop the worker and give its pipes and log back."""
        self.kill()
        for end in (self.requests, self.replies, self.log):
            with contextlib.suppress(OSError):
                end.close()

    def _memory(self, *, children: bool) -> int:
        """Resident bytes now; looking for children takes a walk over all processes of the machine."""
        total = 0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            for each in (process, *(process.children(recursive=True) if children else ())):
                with contextlib.suppress(psutil.Error):
                    total += int(each.memory_info().rss)
        return total

    def _last_lines(self) -> str:
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, self.log.tell() - 8192))
        text = self.log.read().decode(errors="replace")
        return "".join(text.splitlines(keepends=True)[-LAST_LINES:])


def _ending(code: int) -> str:
    if code < 0:
        import signal

        with contextlib.suppress(ValueError):
            return f"the worker was ended by {signal.Signals(-code).name}"
    return f"the worker ended with exit code {code}"


def _kernel_was_short() -> bool:
    """Whether a SIGKILL from outside is likely to have come from the kernel for want of memory."""
    return bool(psutil.virtual_memory().available < 512 * 2**20)
