"""Slots: time limits, memory caps, crashes, what a trial may and may not do to the next."""

import dataclasses

import numpy as np
import pytest

from assay.lab import InlineExecutor, find
from assay.lab.executor import Executor
from assay.lab.pool import LocalPool
from assay.lab.study import Study

CLAIM = '''"""Trials that misbehave."""
import os, random, signal, sys, time
import numpy as np, torch
from assay.lab import Diverged, at_least, claim

@claim("bad", says="It runs.", arms=("a", "b"), holds=at_least("x", 0.0, arm="a"))
def trial(arm, seed, *, do="draw"):
    """Does what it is told."""
    if do == "draw":
        return {"x": torch.rand(()).item(), "n": np.random.rand(), "r": random.random(), "t": torch.get_num_threads()}
    if do == "sleep":
        time.sleep(600)
    if do == "hog":
        kept = [np.ones(2**20) for _ in range(10_000)]
    if do == "segfault":
        print("last words", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGSEGV)
    if do == "exit":
        sys.exit("no reason")
    if do == "starve":
        raise MemoryError("nothing left")
    if do == "diverge":
        raise Diverged("loss is nan at step 3")
    if do == "noise":
        print("x" * 100_000)
        os.write(1, b"raw bytes on standard output")
        return {"x": 1.0}
    if do == "text":
        return {"x": "one"}
    if do == "none":
        return None
    if do == "tensors":
        return {"x": torch.tensor(2.0), "curve": torch.arange(3.0, requires_grad=True), "flag": np.bool_(True)}
'''


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    file = tmp_path_factory.mktemp("claims") / "bad.py"
    file.write_text(CLAIM)
    (pair,) = find(str(file))
    return Study.of(*pair)


@pytest.fixture(scope="module")
def pool():
    pool = LocalPool(1, timeout=120)
    yield pool
    pool.cancel()


def trials(study, do, seeds=(0,), **changes):
    made = dataclasses.replace(study, settings={"do": do}).trials(seeds)
    return [dataclasses.replace(trial, **changes) for trial in made]


def outcome(executor, trial):
    executor.submit(trial)
    while (ended := executor.next(timeout=60)) is None:
        pass
    return ended[1]


@pytest.mark.parametrize("make", [InlineExecutor, None])
def test_a_trial_is_seeded_in_every_library_and_the_arms_alike(study, pool, make):
    executor = make() if make else pool
    assert isinstance(executor, Executor)
    first = {(t.arms[0], t.seed): outcome(executor, t).results[t.arms[0]] for t in trials(study, "draw", (0, 1))}
    assert first["a", 0] == first["b", 0]
    assert first["a", 0] != first["a", 1]
    again = outcome(executor, trials(study, "draw")[0]).results["a"]
    assert again == first["a", 0]
    assert again["t"] == 1.0
    expected = np.random.RandomState(0).rand()
    assert again["n"] == expected


def test_threads_are_pinned(study, pool):
    assert outcome(pool, trials(study, "draw", threads=2)[0]).results["a"]["t"] == 2.0


@pytest.mark.parametrize(
    ("do", "status", "words"),
    [
        ("segfault", "crashed", "SIGSEGV"),
        ("exit", "error", "no reason"),
        ("starve", "out-of-memory", "nothing left"),
        ("diverge", "diverged", "loss is nan at step 3"),
        ("text", "error", "measure 'x' of arm 'a' is 'one'; it must be a float or an array"),
        ("none", "error", "a claim returns {measure: float or array}, not None"),
    ],
)
def test_how_a_trial_ends_is_told(study, pool, do, status, words):
    finished = outcome(pool, trials(study, do)[0])
    assert finished.status == status
    assert words in finished.error
    if do == "segfault":
        assert "last words" in finished.error
    assert outcome(pool, trials(study, "draw")[0]).status == "ok"  # the slot goes on


def test_output_of_a_trial_does_not_disturb_its_result(study, pool):
    assert outcome(pool, trials(study, "noise")[0]).results == {"a": {"x": 1.0}}


def test_tensors_become_arrays_and_floats(study, pool):
    results = outcome(pool, trials(study, "tensors")[0]).results["a"]
    assert results["x"] == 2.0
    assert results["flag"] == 1.0
    np.testing.assert_array_equal(results["curve"], [0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("do", "limits", "status", "words"),
    [
        ("sleep", dict(timeout=5), "timeout", "stopped after 5 s"),
        ("hog", dict(timeout=200, memory=3 * 2**29), "out-of-memory", "cap 1536 MiB"),
    ],
)
def test_a_trial_that_takes_too_long_or_too_much_is_stopped(study, do, limits, status, words):
    pool = LocalPool(1, **limits)
    try:
        finished = outcome(pool, trials(study, do)[0])
    finally:
        pool.cancel()
    assert finished.status == status
    assert words in finished.error


def test_cancelling_stops_what_runs_and_can_be_repeated(study):
    pool = LocalPool(1, timeout=600)
    for trial in trials(study, "sleep", (0, 1, 2)):
        pool.submit(trial)
    assert pool.next(timeout=1.0) is None
    pool.cancel()
    pool.cancel()
    assert not any(thread.is_alive() for thread in pool._threads)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(slots=0), "slots=0"),
        (dict(timeout=0.0), "timeout=0.0"),
        (dict(timeout=float("nan")), "timeout=nan"),
        (dict(memory=0), "memory=0"),
    ],
)
def test_limits_must_be_positive(settings, message):
    with pytest.raises(ValueError, match=message):
        LocalPool(**settings)


def test_nothing_in_flight_is_told_at_once():
    pool = LocalPool(1)
    assert pool.next() is None
    pool.cancel()
