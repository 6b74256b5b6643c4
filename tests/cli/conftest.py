"""The command line, in a folder of its own."""

import sys

import pytest

CLAIM = '''"""Coins."""
import numpy as np
from assay.lab import claim, higher

@claim("coins", says="Heads beats tails.", arms=("heads", "tails"), holds=higher("score", "heads", than="tails"),
       reported={"heads": "61 % (Table 2)"}, smoke=dict(tosses=1))
def heads_win(arm, seed, *, tosses=10, bias=1.0):
    """A biased coin."""
    return {"score": bias * (arm == "heads") + 0.01 * seed + np.random.rand(), "path": np.arange(3.0)}
'''


class Done:
    """What a call printed, and its exit code."""

    def __init__(self, returncode, stdout, stderr):
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr


@pytest.fixture
def assay(tmp_path, monkeypatch, capsys):
    """The command line, called in this process and in the test's folder, through the entry point that people use."""
    from assay.cli import main

    def call(*words, code=0):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("CI", "true")
        for name in [name for name in sys.modules if name.startswith("assay_claims_")]:
            del sys.modules[name]
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        done = Done(ended.value.code, *capsys.readouterr())
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return call


@pytest.fixture
def coins(tmp_path):
    (tmp_path / "coins.py").write_text(CLAIM)
    return tmp_path / "coins.py"
