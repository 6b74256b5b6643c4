"""Where benchmark runners lose or falsify results. Each of these has happened to one that is widely used."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assay.lab import Events, InlineExecutor, Ledger, run
from assay.lab.pool import LocalPool


class Count(Events):
    def __init__(self):
        self.labels = []

    def on_trial(self, trial, record):
        self.labels.append((trial.claim, trial.arms, trial.seed, record.status))


def rerun(claims, store, *targets, **settings):
    count = Count()
    targets = targets or (str(claims / "own.py"),)
    for name in [name for name in sys.modules if name.startswith("assay_claims_") or name == "neighbour"]:
        del sys.modules[name]
    report = run(*targets, store=store, executor=InlineExecutor(), events=[count], **settings)
    return report, count.labels


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_comment_edit_recomputes_nothing(claims, tmp_path):
    _, first = rerun(claims, tmp_path / "ledger")
    assert len(first) == 5 * 2 + 5
    edit(claims / "own.py", "# the same for both arms: the laboratory seeds numpy", "# another comment")
    edit(claims / "own.py", "Compared on nothing in particular.", "Another docstring.")
    edit(claims / "neighbour.py", '"""The score of an arm."""', '"""Reworded."""\n    # and a comment')
    report, second = rerun(claims, tmp_path / "ledger")
    assert second == []
    assert report.reused == 15


def test_an_edit_of_shared_code_recomputes_exactly_what_uses_it(claims, tmp_path):
    edit(claims / "own.py", "neighbour.score(arm, 1.0) + seed", "float(arm == OURS) + seed")
    edit(claims / "own.py", "3.0 - neighbour.score(arm, 1.0)", "3.0 - (arm == OURS)")
    (claims / "second.py").write_text(
        '"""No neighbour."""\nfrom assay.lab import at_least, claim\n\n\n'
        '@claim("second", says="It is one.", arms=("one",), holds=at_least("value", 0.5, arm="one"))\n'
        'def is_one(arm, seed, *, size=1):\n    return {"value": 1.0}\n'
    )
    both = (str(claims / "own.py"), str(claims / "second.py"))
    _, first = rerun(claims, tmp_path / "ledger", *both)
    assert len(first) == 20
    edit(claims / "neighbour.py", "else 0.0", "else 0.25")
    report, second = rerun(claims, tmp_path / "ledger", *both)
    assert {claim for claim, *_ in second} == {"scores"}  # the others do not use the neighbour, one in the same file
    assert report.reused == 10


def test_numbers_after_an_edit_are_new_numbers(claims, tmp_path):
    before, _ = rerun(claims, tmp_path / "ledger", f"{claims / 'own.py'}/scores")
    edit(claims / "neighbour.py", "else 0.0", "else 0.25")
    after, _ = rerun(claims, tmp_path / "ledger", f"{claims / 'own.py'}/scores")
    assert before.verdicts["own-paper/scores"].parts[0].mean == pytest.approx(1.0)
    assert after.verdicts["own-paper/scores"].parts[0].mean == pytest.approx(0.75)


def test_an_edit_of_another_claim_of_the_file_recomputes_nothing(claims, tmp_path):
    rerun(claims, tmp_path / "ledger")
    edit(
        claims / "own.py", '"score": neighbour.score(arm, 1.0) + seed', '"score": neighbour.score(arm, 1.0) + 2 * seed'
    )
    _, second = rerun(claims, tmp_path / "ledger")
    assert {claim for claim, *_ in second} == {"both"}


def test_a_worker_that_dies_is_one_crashed_trial(claims, tmp_path):
    edit(
        claims / "own.py",
        "    noise =",
        "    if arm == 'theirs' and seed == 1:\n        import os\n        os._exit(7)\n    noise =",
    )
    pool = LocalPool(2)
    try:
        report = run(f"{claims / 'own.py'}/scores", store=tmp_path / "ledger", executor=pool, seeds=4)
    finally:
        pool.cancel()
    assert [(record.arms, record.seed, record.status) for record in report.failed] == [(("theirs",), 1, "crashed")]
    assert "exit code 7" in report.failed[0].error
    assert report.ran == 8  # all the others have their results
    verdict = report.verdicts["own-paper/scores"]
    assert verdict.outcome == "undecided"
    assert "1 of 8 trials missing: crashed" in verdict.reason


def test_an_arm_that_raises_is_named_and_the_exit_code_is_not_zero(claims, tmp_path, assay):
    edit(
        claims / "own.py",
        "    noise =",
        "    if arm == 'theirs':\n        raise ValueError('no such thing')\n    noise =",
    )
    done = assay("run", claims / "own.py", "--seeds", 2, "--on", "here", code=3)
    assert "no such thing" in done.stderr
    assert "2 of 4 trials missing: error" in done.stdout
    assert done.stdout.count("own-paper/both") > 0  # the other claim has its verdict
    ledger = Ledger(tmp_path / "assay-ledger")
    errors = [record for record in ledger.records("own-paper", "scores") if record.status == "error"]
    assert len(errors) == 2
    assert "ValueError: no such thing" in errors[0].error
    edit(claims / "own.py", "        raise ValueError('no such thing')\n", "        pass\n")
    assay("run", claims / "own.py", "--seeds", 2, "--on", "here")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_goes_on_with_what_is_missing(claims, tmp_path, how):
    edit(claims / "own.py", "    noise =", "    time.sleep(0.3)\n    noise =")
    store = tmp_path / "ledger"
    command = [
        sys.executable,
        "-m",
        "assay",
        "run",
        str(claims / "own.py") + "/scores",
        "--store",
        str(store),
        "--seeds",
        "12",
    ]
    command += ["--slots", "2"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    trials = store / "trials" / "own-paper" / "scores"
    deadline = time.monotonic() + 120
    while len(list(trials.glob("*.json"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(how)
    output = driver.communicate(timeout=60)[0]
    kept = len(list(trials.glob("*.json")))
    assert 5 <= kept < 24
    if how != signal.SIGKILL:
        assert driver.returncode == 3
        assert "To go on: assay run" in output
    workers = subprocess.run(["pgrep", "-f", f"assay.lab.worker .* {driver.pid}$"], capture_output=True, text=True)
    for _ in range(100):
        if not workers.stdout.strip():
            break
        time.sleep(0.1)
        workers = subprocess.run(["pgrep", "-f", f"assay.lab.worker .* {driver.pid}$"], capture_output=True, text=True)
    assert not workers.stdout.strip(), "a worker outlived its driver"
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"24 trials, {kept} of them in the ledger already" in done.stdout
    assert f"{24 - kept} trials run" in done.stdout


def test_every_result_is_on_disk_as_soon_as_it_is_there(claims, tmp_path):
    seen = []

    class Look(Events):
        def on_trial(self, trial, record):
            seen.append(len(list((tmp_path / "ledger").glob("trials/*/*/*.json"))))

    run(str(claims / "own.py"), store=tmp_path / "ledger", executor=InlineExecutor(), events=[Look()], seeds=2)
    assert seen == list(range(1, 7))


def test_two_drivers_on_one_store_share_the_work(claims, tmp_path):
    edit(claims / "own.py", "    noise =", "    time.sleep(0.2)\n    noise =")
    command = [sys.executable, "-m", "assay", "run", str(claims / "own.py") + "/scores", "--seeds", "8", "--slots", "1"]
    environment = os.environ | {"ASSAY_STORE": str(tmp_path / "shared")}
    drivers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        for _ in range(2)
    ]
    outputs = [driver.communicate(timeout=240)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    files = list((tmp_path / "shared").glob("trials/*/*/*.json"))
    assert len(files) == 16
    assert all(json.loads(file.read_text())["status"] == "ok" for file in files)
    assert not list((tmp_path / "shared").rglob("*.part"))
    assert not (tmp_path / "shared" / "set-aside").exists()


def test_a_store_that_cannot_be_written_is_refused_before_anything_runs(claims, tmp_path, assay):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "README.txt").mkdir()  # even root cannot put a file there
    done = assay("run", claims / "own.py", "--store", blocked, code=3)
    assert "cannot write the ledger at" in done.stderr
    assert "ok" not in done.stdout
    file = tmp_path / "file"
    file.write_text("not a folder")
    assert "is a file" in assay("run", claims / "own.py", "--store", file, code=3).stderr


def test_a_full_disk_stops_the_run_with_one_line_and_keeps_what_is_there(claims, tmp_path):
    """A limit on the size of files stands for the full disk: the third trial's arrays do not fit."""
    edit(claims / "own.py", "noise.cumsum()", "noise if seed == 0 else np.random.normal(size=200_000)")
    run_it = f"{sys.executable} -m assay run {claims / 'own.py'}/scores --on here --store {tmp_path / 'l'}"
    command = f"ulimit -f 512; exec {run_it}"
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=240, **ignore)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot write the ledger at" in done.stderr
    assert "MiB free" in done.stderr
    kept = list(Ledger(tmp_path / "l").records())
    assert [record.seed for record in kept] == [0, 0]
    assert not list((tmp_path / "l").rglob("*.part"))
