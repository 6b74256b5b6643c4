"""The process in a slot: gets trials through a pipe, runs one after the other, and sends back what became of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from assay.lab.trial import LAST_LINES, Finished, execute, tame_allocator


def serve(requests: int, replies: int, parent: int) -> None:
    """Answer trials from one file descriptor on another until the first is closed.

    Args:
        requests: descriptor to read trials from.
        replies: descriptor to write results to.
        parent: process id of the driver; when it is gone, so is the worker, in mid-trial if need be.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    _die_with(parent)
    tame_allocator()
    incoming: Connection[Any, Any] = Connection(requests, writable=False)
    outgoing: Connection[Any, Any] = Connection(replies, readable=False)
    import torch

    with contextlib.suppress(RuntimeError):
        torch.set_num_interop_threads(1)
    while True:
        try:
            trial = incoming.recv()
        except EOFError:
            return
        try:
            finished = execute(trial)
        except BaseException:  # a claim file that cannot be imported, or one that calls sys.exit
            last = traceback.format_exc().splitlines(keepends=True)[-LAST_LINES:]
            finished = Finished("error", error="".join(last), started=time.time())
        sys.stdout.flush()
        outgoing.send(finished)


def _die_with(parent: int) -> None:
    """End this process when the driver ends, even by `kill -9`."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
