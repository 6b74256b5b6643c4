"""What every test starts from."""

import os
import tempfile

import pytest

# Before anything is imported: no test reads or writes this user's own caches, also in the processes it starts.
_CACHE = tempfile.mkdtemp(prefix="assay-tests-")
os.environ["ASSAY_CACHE"] = _CACHE


@pytest.fixture(autouse=True)
def _own_threads():
    """One thread a process: tests run side by side, and two busy processes of two threads each are slower than one."""
    import torch

    torch.set_num_threads(1)
