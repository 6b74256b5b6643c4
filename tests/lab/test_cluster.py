"""Trials on a real Ray of two processors: what is lost, what is stopped, what survives the driver."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from assay.lab import ClaimError, Ledger, Study, cluster, find, run
from assay.lab.cluster import ClusterError, RayExecutor
from assay.lab.node import Host, sources
from assay.lab.pool import LocalPool
from assay.lab.trial import Finished, Trial

CLAIMS = '''
"""A made-up paper."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from beside import scaled

from assay.lab import claim, higher

@claim("made-up", says="A scores more.", arms=("a", "b"), holds=higher("score", "a", than="b"))
def draws(arm, seed, *, size=5):
    weights = scaled(torch.randn(size, size))
    return {
        "score": float((weights @ weights).sum()) + 1e3 * (arm == "a"),
        "numpy": np.random.rand(3),
        "curve": weights[0],
        "threads": float(torch.get_num_threads()),
        "environment": float(os.environ["OMP_NUM_THREADS"]),
    }


@claim("made-up", says="A scores more.", arms=("a", "b"), holds=higher("score", "a", than="b"))
def kills(arm, seed, *, once="", victim="worker"):
    marker = Path(once)
    if (arm, seed) == ("a", 1) and not marker.exists():
        marker.touch()
        os.kill(os.getpid() if victim == "worker" else os.getppid(), signal.SIGKILL)
        time.sleep(600)
    return {"score": float(arm == "a")}


@claim("made-up", says="Eats.", arms=("sleeps", "eats", "raises"), holds=higher("score", "eats", than="raises"))
def misbehaves(arm, seed, *, pid=""):
    Path(pid).write_text(f"{os.getpid()} {os.getppid()}") if pid else None
    if arm == "raises":
        raise KeyError("no such colour")
    eaten = []
    for _ in range(6000):
        if arm == "eats" and len(eaten) < 40:
            eaten.append(np.ones(8 * 2**20))
        time.sleep(0.1)
    return {"score": 0.0}


@claim("made-up", says="A scores more.", arms=("a", "b"), holds=higher("score", "a", than="b"))
def waits(arm, seed, *, log="", gate=""):
    with open(log, "a") as lines:
        lines.write(f"{arm} {seed} {os.getpid()} {os.getppid()}\\n")
    while seed >= 1 and not Path(gate).exists():
        time.sleep(0.05)
    return {"score": float(arm == "a")}
'''
DRIVER = """
import sys
from assay.lab import run
from assay.lab.cluster import RayExecutor

target, store, log, gate = sys.argv[1:]
run(target, seeds=3, store=store, settings={"log": log, "gate": gate}, executor=RayExecutor(None, threads=2))
"""


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of this machine with two processors, started once; only who has its token can use it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        yield from _ray()


def _ray() -> Iterator[Any]:
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def executors(ray: Any) -> Iterator[list[RayExecutor]]:
    """The one executor in use, if any: two would wait for each other's processors."""
    made: list[RayExecutor] = []
    yield made
    for each in made:
        each.cancel()


@pytest.fixture
def executor(executors: list[RayExecutor]) -> Callable[..., RayExecutor]:
    """Makes an executor, or gives the last one, with its actors and all, where that has the same limits."""

    def make(**limits: Any) -> RayExecutor:
        wanted = {"timeout": 600.0, "memory": None, "threads": 1} | limits
        if executors and any(getattr(executors[0], name) != value for name, value in wanted.items()):
            executors.pop().cancel()
        if not executors:
            executors.append(RayExecutor(None, **limits))
        return executors[0]

    return make


@pytest.fixture
def free(executors: list[RayExecutor]) -> None:
    """All processors of the cluster are free for a driver of its own."""
    while executors:
        executors.pop().cancel()


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    """A claim file outside any package, with a neighbour that it imports."""
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / "beside.py").write_text("def scaled(weights):\n    return 3.0 * weights\n")
    (folder / "made_up.py").write_text(CLAIMS)
    return folder / "made_up.py"


def trials(claims: Path, claim: str, seeds: int = 1, **settings: Any) -> list[Trial]:
    [(paper, outline)] = find(f"{claims}/{claim}")
    return Study(paper, outline, outline.settings("laptop", settings)).trials(range(seeds))


def finish(pool: RayExecutor | LocalPool, given: list[Trial]) -> dict[str, Finished]:
    """Submit all and wait for all."""
    for trial in given:
        pool.submit(trial)
    ended = {}
    for _ in given:
        back = pool.next()
        assert back is not None
        ended[back[0].label] = back[1]
    assert pool.next() is None
    return ended


def until(true: Callable[[], object], *, steps: int = 4000) -> None:
    """Wait for something to become true, for some minutes at the most."""
    for _ in range(steps):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it never came true")


def assert_same(ours: dict[str, Finished], theirs: dict[str, Finished]) -> None:
    assert ours.keys() == theirs.keys()
    for label, finished in ours.items():
        assert finished.status == theirs[label].status == "ok", finished.error + theirs[label].error
        for arm, measures in finished.results.items():
            assert measures.keys() == theirs[label].results[arm].keys()
            for name, value in measures.items():
                other = theirs[label].results[arm][name]
                assert type(value) is type(other)
                np.testing.assert_array_equal(value, other)


def test_results_are_those_of_the_local_pool(claims: Path, executor: Callable[..., RayExecutor]) -> None:
    given = trials(claims, "draws", seeds=2)
    local = LocalPool(1)
    try:
        theirs = finish(local, given)
    finally:
        local.cancel()
    pool = executor()
    assert pool.slots == 2
    ours = finish(pool, given)
    assert_same(ours, theirs)
    curve = ours["made-up/draws a seed 0"].results["a"]["curve"]
    assert isinstance(curve, np.ndarray)
    curve += 1.0  # an array of its own, not a view into Ray's store
    assert all(finished.peak_bytes > 0 and finished.wall_seconds > 0 for finished in ours.values())


def test_a_claim_file_goes_where_its_folder_is_not(claims: Path, executor: Callable[..., RayExecutor]) -> None:
    given = trials(claims, "draws")
    pool = executor()
    here = finish(pool, given)
    claims.parent.rename(claims.parent.with_name("gone"))
    assert_same(finish(pool, given), here)


@pytest.mark.parametrize("victim", ["worker", "actor"])
def test_a_killed_process_is_one_crashed_trial(
    victim: str, claims: Path, tmp_path: Path, executor: Callable[..., RayExecutor]
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    settings = {"once": str(tmp_path / "once"), "victim": victim}
    target = f"{claims}/kills"
    first = run(target, seeds=3, store=ledger, settings=settings, executor=executor())
    assert [(record.arms, record.seed, record.status) for record in first.failed] == [(("a",), 1, "crashed")]
    assert ("SIGKILL" if victim == "worker" else "actor was lost") in first.failed[0].error
    assert first.ran == 6
    assert first.verdicts["made-up/kills"].missing == {"crashed": 1}
    second = run(target, seeds=3, store=ledger, settings=settings, executor=executor())
    assert (second.ran, second.reused, second.complete) == (1, 5, True)
    assert second.verdicts["made-up/kills"].outcome == "holds"


def test_what_a_trial_raises_is_kept(claims: Path, executor: Callable[..., RayExecutor]) -> None:
    raising = trials(claims, "misbehaves")[2]
    [finished] = finish(executor(), [raising]).values()
    assert finished.status == "error"
    assert "KeyError: 'no such colour'" in finished.error


@pytest.mark.parametrize(
    ("arm", "limits", "status"),
    [(0, {"timeout": 2.0}, "timeout"), (1, {"memory": 2**30}, "out-of-memory")],
    ids=["timeout", "memory"],
)
def test_a_trial_over_its_limit_is_stopped(
    arm: int, limits: dict[str, Any], status: str, claims: Path, executor: Callable[..., RayExecutor]
) -> None:
    [finished] = finish(executor(**limits), [trials(claims, "misbehaves")[arm]]).values()
    assert finished.status == status, finished.error
    assert finished.error.startswith("stopped ")


def test_trials_get_the_threads_that_are_reserved_for_them(claims: Path, executor: Callable[..., RayExecutor]) -> None:
    pool = executor(threads=2)
    assert pool.slots == 1
    trial = dataclasses.replace(trials(claims, "draws")[0], threads=2)
    [finished] = finish(pool, [trial]).values()
    assert (finished.results["a"]["threads"], finished.results["a"]["environment"]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="threads=3, but the slots have threads=2"):
        pool.submit(dataclasses.replace(trial, threads=3))


def test_an_actor_that_does_not_answer_is_stopped(
    claims: Path, tmp_path: Path, executor: Callable[..., RayExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = executor(threads=2)
    pid = tmp_path / "pid"
    pool.submit(trials(claims, "misbehaves", pid=str(pid))[0])
    until(lambda: pool.next(timeout=0.05) is None and pid.exists() and pid.read_text())
    os.kill(int(pid.read_text().split()[1]), signal.SIGSTOP)
    monkeypatch.setattr(cluster, "GRACE_SECONDS", -600.0)
    back = pool.next()
    assert back is not None
    assert back[1].status == "timeout"
    assert "did not stop" in back[1].error


def test_cancel_stops_what_is_running(
    claims: Path, tmp_path: Path, ray: Any, executor: Callable[..., RayExecutor]
) -> None:
    pool = executor(threads=2)
    pid = tmp_path / "pid"
    for trial in trials(claims, "misbehaves", 2, pid=str(pid))[::3]:  # one more than there are slots
        pool.submit(trial)
    until(lambda: pool.next(timeout=0.05) is None and pid.exists() and pid.read_text())
    pool.cancel()
    pool.cancel()
    assert pool.next() is None
    for process in pid.read_text().split():
        until(lambda process=process: not psutil.pid_exists(int(process)))
    assert ray.is_initialized()  # the connection was not the executor's own


def test_the_driver_can_die(
    claims: Path, tmp_path: Path, ray: Any, free: None, executor: Callable[..., RayExecutor]
) -> None:
    target, store, log, gate = f"{claims}/waits", *(str(tmp_path / name) for name in ("ledger", "log", "gate"))
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, target, store, log, gate], env=environment)
    try:
        until(lambda: len(_lines(log)) == 3 and len(list(Ledger(store).records())) == 2)  # seed 0 done, seed 1 waiting
    finally:
        driver.kill()
        driver.wait()
    until(lambda: not any(psutil.pid_exists(int(line.split()[2])) for line in _lines(log)))
    Path(gate).touch()
    again = run(target, seeds=3, store=store, settings={"log": log, "gate": gate}, executor=executor(threads=2))
    assert (again.ran, again.reused, again.complete) == (4, 2, True)
    starts = [tuple(line.split()[:2]) for line in _lines(log)]
    assert {each: starts.count(each) for each in starts} == {
        ("a", "0"): 1, ("b", "0"): 1, ("a", "1"): 2, ("b", "1"): 1, ("a", "2"): 1, ("b", "2"): 1,
    }  # fmt: skip


def test_a_cluster_that_cannot_be_used_is_refused_in_one_line(
    ray: Any, free: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClusterError, match=r"^the Ray cluster has 2 CPUs, too few for a slot of threads=3$"):
        RayExecutor(None, threads=3)
    with pytest.raises(ClusterError, match="connected to Ray already and cannot connect to ray://here:1"):
        RayExecutor("ray://here:1")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ClusterError, match=r"^no Ray cluster at ray://127.0.0.1:\d+: .*refused$"):
        RayExecutor(f"ray://127.0.0.1:{_free_port()}")


def test_without_a_cluster_ray_is_started_here_or_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorded:
        def is_initialized(self) -> bool:
            return False

        def init(self, address: str, **options: Any) -> None:
            asked.append((address, options.get("include_dashboard")))

        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 7.5}

        def remote(self, **options: Any) -> Callable[[type], type]:
            asked.append(options["num_cpus"])
            return lambda host: host

        def shutdown(self) -> None:
            asked.append("shutdown")

    asked: list[Any] = []
    monkeypatch.setitem(sys.modules, "ray", Recorded())
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    pool = RayExecutor(None, threads=2)
    assert pool.slots == 3
    pool.cancel()
    pool.cancel()
    assert asked == [("local", False), 2, "shutdown"]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    RayExecutor(None)
    assert asked[3] == ("10.0.0.1:6379", None)


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClaimError, match=r"^running on a cluster needs Ray: pip install 'assay\[ray\]'$"):
        RayExecutor(None)


@pytest.mark.parametrize("limits", [{"threads": 0}, {"timeout": 0.0}, {"timeout": float("nan")}, {"memory": 0}])
def test_limits_must_be_positive(limits: dict[str, Any]) -> None:
    [(name, value)] = limits.items()
    with pytest.raises(ValueError, match=f"^{name}={value} must be"):
        RayExecutor(None, **limits)


def test_nodes_without_assay_end_the_run(
    claims: Path, free: None, executor: Callable[..., RayExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere:
        def __init__(self, timeout: float, memory: int | None) -> None:
            raise ModuleNotFoundError("No module named 'assay'")

        def ready(self) -> None:
            raise AssertionError("it cannot be made")

    monkeypatch.setattr(cluster, "Host", Elsewhere)
    pool = executor()
    pool.submit(trials(claims, "draws")[0])
    with pytest.raises(ClusterError, match=r"^Ray could not start an actor: .*No module named .*; every node needs"):
        pool.next()
    pool.cancel()


def test_other_code_on_a_node_is_refused(claims: Path) -> None:
    """No Ray is needed here: a host is an ordinary object."""
    [trial, _] = trials(claims, "draws")
    sent = sources(trial.module)
    assert set(sent) == {"made_up.py", "beside.py"}
    host = Host(60.0, None)
    try:
        older = host.run(trial, {**sent, "beside.py": sent["beside.py"].replace(b"3.0", b"2.0")})
        assert older.status == "error"
        assert "made-up/draws has other code than the driver's" in older.error
        missing = dataclasses.replace(trial, module=dataclasses.replace(trial.module, name="nowhere", standalone=False))
        assert "no module nowhere" in host.run(missing, {}).error
        assert host.folder is not None
        assert host.folder.exists()
    finally:
        host.stop()
    assert not host.folder.exists()


def test_a_client_runs_trials_and_says_when_it_has_lost_the_cluster(
    claims: Path, tmp_path: Path, ray: Any, free: None
) -> None:
    """Comes last: a client server shuts down the Ray it serves when its last client has left."""
    from ray.util.client.server.server import serve

    port = _free_port()
    server = serve("127.0.0.1", port)
    store, log, gate = (str(tmp_path / name) for name in ("ledger", "log", "gate"))
    command = [sys.executable, "-c", "from assay.cli import main; main()", "run", f"{claims}/waits", "--threads", "2"]
    command += ["--store", store, "--set", f"log={log}", "--set", f"gate={gate}", "--on", f"ray://127.0.0.1:{port}"]
    environment = os.environ | {"RAY_CLIENT_RECONNECT_GRACE_PERIOD": "1"}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(_lines(log)) == 3 and len(list(Ledger(store).records())) == 2)  # seed 0 done, seed 1 waiting
        server.stop(0)
        _, said = driver.communicate(timeout=120)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 3, said
    assert "assay: the connection to Ray was lost" in said
    assert "Traceback" not in said


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
