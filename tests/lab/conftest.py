"""Claim files to run, written where a test can edit them."""

import subprocess
import sys
from pathlib import Path

import pytest

CLAIM = '''"""A paper of our own."""

import time

import numpy as np

import neighbour
from assay.lab import Diverged, all_of, claim, higher, lower

OURS = "ours"


@claim(
    "own-paper",
    says="Ours scores higher.",
    arms=(OURS, "theirs"),
    holds=higher("score", OURS, than="theirs"),
    smoke=dict(size=1),
    reported={"score": "12 (Table 1)"},
)
def scores(arm, seed, *, size=4, bonus=1.0, quick=True):
    """Compared on nothing in particular."""
    noise = np.random.normal(size=size)  # the same for both arms: the laboratory seeds numpy
    return {"score": neighbour.score(arm, bonus) + noise.mean() / (1 + seed), "curve": noise.cumsum()}


@claim(
    "own-paper",
    says="Both at once.",
    arms=(OURS, "theirs"),
    holds=all_of(higher("score", OURS, than="theirs"), lower("loss", OURS, than="theirs")),
    together=True,
)
def both(arms, seed, *, size=4):
    return {arm: {"score": neighbour.score(arm, 1.0) + seed, "loss": 3.0 - neighbour.score(arm, 1.0)} for arm in arms}
'''

NEIGHBOUR = '''"""What the claims share."""


def score(arm, bonus):
    """The score of an arm."""
    return bonus if arm == "ours" else 0.0
'''


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    """A folder with a claim file and a module it uses."""
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / "own.py").write_text(CLAIM)
    (folder / "neighbour.py").write_text(NEIGHBOUR)
    return folder


@pytest.fixture(autouse=True)
def _forget_own_modules():
    """Claim files in folders of their own are imported anew by every test."""
    yield
    for name in [name for name in sys.modules if name.startswith("assay_claims_") or name == "neighbour"]:
        del sys.modules[name]
    sys.path[:] = [each for each in sys.path if "pytest-" not in each]


@pytest.fixture
def assay(tmp_path: Path):
    """Run the command line in a process of its own, in the test's folder."""

    def call(*words: object, code: int | None = 0, **settings: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "assay", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240, **settings)
        if code is not None:
            assert done.returncode == code, done.stdout + done.stderr
        return done

    return call
