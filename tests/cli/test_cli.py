"""What a person types, and what a program reads."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file


def test_list_is_the_promised_json(assay):
    rows = json.loads(assay("list", "--json").stdout)
    row = next(each for each in rows if each["key"] == "cmd")
    assert {"key", "subject", "title", "year", "source", "summary", "parts", "claims"} <= set(row)
    assert row["subject"] == "probes"
    assert row["year"] == 2022
    assert "assay.probes.CMD" in row["parts"]
    assert len(row["claims"]) == 8
    for claim in row["claims"]:
        assert {"id", "says", "size", "seeds", "verdict"} <= set(claim)


def test_list_takes_verdicts_from_a_store(assay, coins, tmp_path):
    assay("run", coins, "--seeds", 3, "--on", "here", "--store", "one")
    before = json.loads(assay("list", "--json", "--store", "one").stdout)
    assert all(claim["verdict"] is None for row in before for claim in row["claims"])  # no trial of these papers there


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "no command 'rnu'; did you mean 'run'?"),
        (["run"], "run needs a paper"),
        (["run", "cdm"], "no paper 'cdm'; did you mean 'cmd'?"),
        (["run", "cmd/few_modes"], "has no claim 'few_modes'; did you mean 'few_modes_model_the_run'?"),
        (["run", "cmd", "--set", "epoch=3"], "has no setting 'epoch'; did you mean 'epochs'?"),
        (["run", "cmd/few_modes_model_the_run", "--set", "epochs=three"], "epochs takes a whole number, not 'three'"),
        (["run", "cmd", "--set", "epochs"], "--set takes NAME=VALUE, not 'epochs'"),
        (["run", "cmd", "--seds", "3"], "'--seds'"),
        (["run", "cmd", "--seeds", "0"], "0 is not in the range"),
        (["run", "cmd", "--seeds", "3", "--until-decided"], "does not go with --seeds"),
        (["run", "cmd", "--timeout", "soon"], "--timeout takes a time such as 90s, 60m or 1h30m, not 'soon'"),
        (["run", "cmd", "--memory", "lots"], "--memory takes a size such as 500M or 4G, not 'lots'"),
        (["run", "cmd", "--on", "moon"], "--on takes here, ray or ray://HOST:PORT, not 'moon'"),
        (["list", "--subject", "probs"], "no subject 'probs'; did you mean 'probes'?"),
        (["show", "nothing.py"], "no claim file"),
        (["diff", "here", "there"], "no ledger at here"),
        (["probe", "cmd", "nowhere"], "FOLDER: nowhere is no folder"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(assay, words, message, tmp_path):
    done = assay(*words, code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_check_tells_by_exit_code_whether_claims_hold(assay, coins):
    run = ["run", coins, "--seeds", 3, "--on", "here", "--check"]
    assert "holds" in assay(*run).stdout
    assert "fails" in assay(*run, "--set", "bias=-1", code=1).stdout
    assert assay(*run, "--set", "bias=0", code=1).returncode == 1
    assert assay(*run[:-1], "--set", "bias=-1").returncode == 0  # a failing claim is an honest result


def test_run_shows_interval_and_the_papers_own_numbers(assay, coins):
    text = assay("run", coins, "--seeds", 3, "--on", "here").stdout
    assert "Heads beats tails." in text
    assert "score: heads > tails" in text
    assert "the paper: heads: 61 % (Table 2)" in text
    assert re.search(r"holds\s+\+1 \[1, 1\] at 95 %, 3 seeds \(thin\)", text)
    again = assay("run", coins, "--seeds", 3, "--on", "here").stdout
    assert "0 trials run, 6 from the ledger" in again


def test_run_as_json(assay, coins):
    verdicts = json.loads(assay("run", coins, "--seeds", 3, "--on", "here", "--json").stdout)
    verdict = verdicts["coins/heads_win"]
    assert verdict["outcome"] == "holds"
    assert verdict["parts"][0]["mean"] == pytest.approx(1.0)
    assert verdict["seeds"] == [0, 1, 2]


def test_a_live_table_on_a_terminal_and_plain_lines_in_a_pipe(assay, coins, tmp_path):
    plain = assay("run", coins, "--seeds", 2, "--slots", 1, "--store", "plain").stdout
    assert "[1/4] coins/heads_win heads seed 0  ok" in plain
    assert "\x1b[" not in plain
    leader, follower = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"TERM": "xterm-256color"}
    command = [sys.executable, "-m", "assay", "run", str(coins), "--seeds", "2", "--slots", "1", "--store", "live"]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, cwd=tmp_path, env=environment, close_fds=True)
    os.close(follower)
    seen = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(leader)
    assert process.wait(timeout=60) == 0
    text = seen.decode()
    assert "\x1b[" in text
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "time left" in text
    assert re.search(r"coins/heads_win\s+\d/4", text)
    assert "holds" in text


def test_missing_fills_only_the_gaps(assay, coins):
    assay("run", coins, "--seeds", 2, "--on", "here")
    assert "0 claims, 0 trials" in assay("run", coins, "--missing", "--on", "here").stdout


def test_export_is_the_numbers(assay, coins, tmp_path):
    assay("run", coins, "--seeds", 3, "--on", "here")
    rows = list(csv.DictReader(io.StringIO(assay("export", coins).stdout)))
    assert [(row["arm"], row["measure"], row["seeds"]) for row in rows] == [
        ("heads", "score", "3"),
        ("tails", "score", "3"),
    ]
    expected = np.mean([np.random.RandomState(seed).rand() + 0.01 * seed for seed in range(3)])
    assert float(rows[1]["mean"]) == pytest.approx(expected, abs=1e-9)
    assert float(rows[0]["mean"]) == pytest.approx(expected + 1, abs=1e-9)
    as_json = json.loads(assay("export", coins, "--format", "json").stdout)
    assert as_json[0]["mean"] == pytest.approx(float(rows[0]["mean"]))
    assert assay("export", coins, "--format", "markdown").stdout.splitlines()[1].count("---") == 9
    latex = assay("export", coins, "--format", "latex").stdout
    assert r"heads\_win" in latex
    assay("export", coins, "--out", "table.csv")
    assert (tmp_path / "table.csv").read_text() == assay("export", coins).stdout


def test_pack_is_a_ledger_that_ships(assay, coins, tmp_path):
    assay("run", coins, "--seeds", 3, "--on", "here")
    assert "holds" in assay("pack", coins).stdout
    first = (tmp_path / "coins.zip").read_bytes()
    assay("pack", coins)
    assert (tmp_path / "coins.zip").read_bytes() == first  # packing twice changes nothing
    shown = json.loads(assay("show", coins, "--json").stdout)
    assert shown["claims"][0]["verdict"] == "holds"
    assert shown["claims"][0]["seeds"] == 3
    assert "3 current" not in assay("why", coins, "--store", "nowhere").stdout
    assert "6 current, 0 stale" in assay("why", coins, "--store", "nowhere").stdout
    assert "0 verdicts differ; 0 of 2 numbers moved" in assay("diff", "coins.zip", "assay-ledger", coins).stdout


def test_diff_finds_what_flips_and_what_moves(assay, coins):
    assay("run", coins, "--seeds", 5, "--on", "here", "--store", "one")
    text = coins.read_text()
    coins.write_text(text.replace('bias * (arm == "heads")', '-bias * (arm == "heads")'))
    assay("run", coins, "--seeds", 5, "--on", "here", "--store", "two")
    found = json.loads(assay("diff", "one", "two", coins, "--json").stdout)
    assert found["flips"] == [{"claim": "coins/heads_win", "before": "holds", "after": "fails"}]
    assert [(each["arm"], each["measure"]) for each in found["moved"]] == [("heads", "score")]
    assert found["moved"][0]["after"] - found["moved"][0]["before"] == pytest.approx(-2.0)


def test_plan_says_how_many_seeds_and_how_long(assay, coins):
    assert "no pilot yet" in assay("plan", coins).stdout
    assay("run", coins, "--seeds", 3, "--on", "here")
    assert re.search(r"\d+ seeds, .* on this machine", assay("plan", coins).stdout)


def test_calibrate_shows_how_often_chance_wins(assay):
    rows = json.loads(assay("calibrate", "--claims", 400, "--seeds", 5, "--json").stdout)
    assert len(rows) == 1
    assert 0.0 <= rows[0]["false_holds"] <= 0.07
    assert rows[0]["undecided"] > 0.85
    text = assay("calibrate", "--claims", 200, "--until-decided").stdout
    assert "5/10/20" in text


def test_report_writes_the_wall(assay, coins, tmp_path):
    assay("run", coins, "--seeds", 2, "--on", "here")
    assert "the wall is at" in assay("report", coins).stdout
    page = (tmp_path / "wall" / "papers" / "coins.html").read_text()
    assert "Heads beats tails." in page
    assert "61 % (Table 2)" in page
    assert "assay run coins/heads_win" in page
    assert (tmp_path / "wall" / "feed.xml").exists()


@pytest.fixture
def checkpoints(tmp_path):
    """Two modes, planted: three tensors that follow one of two paths."""
    folder = tmp_path / "run"
    folder.mkdir()
    time = torch.arange(12.0)
    paths = torch.stack([time.sqrt(), torch.sin(time)])
    generator = torch.Generator().manual_seed(0)
    scale, offset = torch.randn(2, 300, generator=generator)
    label = torch.randint(2, (300,), generator=generator)
    for t in range(12):
        weights = scale * paths[label, t] + offset
        tensors = {"a.weight": weights[:200].reshape(20, 10), "a.bias": weights[200:], "steps": torch.tensor(t)}
        save_file(tensors, str(folder / f"epoch-{t}.safetensors"))
    return folder


def test_probe_cmd_on_own_checkpoints(assay, checkpoints, tmp_path):
    done = assay("probe", "cmd", checkpoints, "--modes", 2, "--samples", 100, "--smoothed", "s.safetensors", "--json")
    found = json.loads(done.stdout)
    assert (found["modes"], found["weights"], found["snapshots"]) == (2, 300, 12)
    assert found["relative_error"] < 1e-6
    smoothed, last = load_file(tmp_path / "s.safetensors"), load_file(checkpoints / "epoch-11.safetensors")
    assert set(smoothed) == set(last)
    torch.testing.assert_close(smoothed["a.weight"], last["a.weight"], atol=1e-4, rtol=1e-4)
    assert smoothed["steps"] == 11
    page = (tmp_path / "cmd-report" / "report.html").read_text()
    assert "a.weight" in page
    assert "<script" not in page
    from assay.probes import Modes

    assert Modes.load(tmp_path / "cmd-report" / "modes.safetensors").num_modes == 2


def test_probe_cmd_refuses_by_name(assay, checkpoints):
    save_file({"a.weight": torch.zeros(3, 3), "a.bias": torch.zeros(100)}, str(checkpoints / "epoch-4.safetensors"))
    message = assay("probe", "cmd", checkpoints, code=2).stderr
    assert "epoch-4.safetensors" in message
    assert "a.weight" in message
    save_file(
        {"a.weight": torch.full((20, 10), float("nan")), "a.bias": torch.zeros(100)},
        str(checkpoints / "epoch-4.safetensors"),
    )
    message = assay("probe", "cmd", checkpoints, code=2).stderr
    assert "epoch-4.safetensors" in message
    assert "a.weight" in message
    for file in sorted(checkpoints.iterdir())[2:]:
        file.unlink()
    assert "3" in assay("probe", "cmd", checkpoints, code=2).stderr


def test_output_into_a_closed_pipe_is_no_error(coins, tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m assay list --json | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stdout == "[\n"
    assert done.stderr == ""
