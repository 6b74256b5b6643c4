"""Mirrors: what they write, read back; and that none of them can stop a run."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.lab import ClaimError, Ledger, run
from assay.lab.executor import Executor
from assay.lab.mirrors import MirrorWarning, TensorBoardMirror, mirror
from assay.lab.trial import Finished, Trial

CLAIMS = '''
"""A made-up paper."""

from assay.lab import claim, higher


@claim("made-up", says="A scores more.", arms=("a", "b"), holds=higher("score", "a", than="b"), tune={"lr": [0.1, 0.2]})
def wins(arm, seed, *, lr=0.1, validate=False):
    return {}
'''


class Here(Executor):
    """Ends every trial at once, with numbers that follow from it."""

    slots = 1

    def __init__(self) -> None:
        self.trials: list[Trial] = []

    def submit(self, trial: Trial) -> None:
        self.trials.append(trial)

    def next(self, timeout: float | None = None) -> tuple[Trial, Finished] | None:
        trial = self.trials.pop()
        [arm] = trial.arms
        if trial.seed == 3:
            return trial, Finished("error", error="no number here")
        measures: dict[str, Any] = {"score": 10.0 * (arm == "a") + trial.seed + 0.25}
        measures |= {"loss": np.array([4.5, 2.5]) - trial.seed, "picture": np.zeros((2, 2))}
        return trial, Finished("ok", {arm: measures})

    def cancel(self) -> None:
        self.trials.clear()


@pytest.fixture
def target(tmp_path: Path) -> str:
    (tmp_path / "made_up.py").write_text(CLAIMS)
    return str(tmp_path / "made_up.py")


def follow(target: str, *events: Any, seeds: int = 2) -> Any:
    return run(target, seeds=seeds, store=Ledger(Path(target).with_name("ledger")), events=events, executor=Here())


def test_tensorboard_reads_back_what_was_logged(target: str, tmp_path: Path) -> None:
    assert follow(target, mirror("tensorboard", str(tmp_path / "log"))).complete
    runs = {str(each.parent.relative_to(tmp_path / "log")) for each in (tmp_path / "log").rglob("events.*")}
    assert runs == {"made-up/wins/laptop", "made-up/wins/laptop/a", "made-up/wins/laptop/b"}
    scalars = _scalars(tmp_path / "log/made-up/wins/laptop/a")
    assert scalars == {
        "score": [(0, 10.25), (1, 11.25)],
        "loss/seed_0": [(0, 4.5), (1, 2.5)],
        "loss/seed_1": [(0, 3.5), (1, 1.5)],
    }
    assert _scalars(tmp_path / "log/made-up/wins/laptop/b")["score"] == [(0, 0.25), (1, 1.25)]
    [text] = _texts(tmp_path / "log/made-up/wins/laptop")
    assert "A scores more." in text
    assert "holds  +10 [10, 10] at 95 %, 2 seeds (thin)" in text


def test_mlflow_is_told_the_same(target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = _stand_in_for_mlflow(monkeypatch)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "as set")
    assert follow(target, mirror("mlflow", str(tmp_path / "store"))).complete
    assert told[:4] == [
        ("client", (tmp_path / "store").as_uri()),
        ("experiment", "made-up/wins"),
        ("run", "7", {"says": "A scores more.", "size": "laptop"}, "laptop"),
        ("param", "r", "lr", 0.1),
    ]
    metrics = {each[1:] for each in told if each[0] == "metric"}
    assert metrics == {
        ("a/score", 10.25, 0), ("a/score", 11.25, 1), ("b/score", 0.25, 0), ("b/score", 1.25, 1),
        ("a/loss/seed_0", 4.5, 0), ("a/loss/seed_0", 2.5, 1), ("a/loss/seed_1", 3.5, 0), ("a/loss/seed_1", 1.5, 1),
        ("b/loss/seed_0", 4.5, 0), ("b/loss/seed_0", 2.5, 1), ("b/loss/seed_1", 3.5, 0), ("b/loss/seed_1", 1.5, 1),
    }  # fmt: skip
    assert told[-3] == ("tag", "r", "verdict", "holds")
    assert told[-2][2] == "mlflow.note.content"
    assert told[-1] == ("terminated", "r")


def test_wandb_is_told_the_same(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told, runs = _stand_in_for_wandb(monkeypatch)
    assert follow(target, mirror("wandb", "us/ours")).complete
    [(start, ours)] = runs
    assert (start["entity"], start["project"], start["name"]) == ("us", "ours", "made-up/wins")
    assert start["config"] == {"lr": 0.1, "validate": False}
    assert ("define", "*", "seed") in told
    assert ("define", "curves/*", "index") in told
    assert ("log", {"a/score": 11.25, "seed": 1}) in told
    assert ("log", {"curves/b/loss/seed_1": 1.5, "index": 1}) in told
    assert sum(each[0] == "log" for each in told) == 4 + 8
    assert ours.summary["verdict"] == "holds"
    assert ours.tags == ("laptop", "holds")
    assert told[-1] == ("finish",)


def test_a_failed_trial_has_no_numbers_and_the_verdict_says_so(target: str, tmp_path: Path) -> None:
    assert not follow(target, mirror("tensorboard", str(tmp_path / "log")), seeds=4).complete
    scalars = _scalars(tmp_path / "log/made-up/wins/laptop/a")
    assert [step for step, _ in scalars["score"]] == [0, 1, 2]
    [text] = _texts(tmp_path / "log/made-up/wins/laptop")
    assert "undecided  2 of 8 trials missing: error" in text


@pytest.mark.parametrize("hook", ["open", "write", "close"])
def test_a_mirror_that_raises_warns_once_and_the_run_goes_on(
    hook: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(*arguments: Any) -> None:
        calls.append(arguments)
        raise ConnectionError("the server\nis away")

    monkeypatch.setattr(TensorBoardMirror, hook, broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = follow(target, mirror("tensorboard", str(tmp_path / "log")))
    assert [str(each.message) for each in caught if each.category is MirrorWarning] == [
        "TensorBoardMirror follows the run no further: ConnectionError: the server is away"
    ]
    assert report.complete
    assert report.verdicts["made-up/wins"].outcome == "holds"
    assert len(calls) == 1


def test_ctrl_c_is_not_swallowed(target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*arguments: Any) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(TensorBoardMirror, "write", interrupted)
    assert follow(target, mirror("tensorboard", str(tmp_path / "log"))).stopped == "interrupted"


def test_an_unknown_kind_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ClaimError, match=r"^no mirror 'tensorbord'; did you mean 'tensorboard'\?$"):
        mirror("tensorbord", "")


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(ClaimError, match=rf"^mirroring to {kind} needs its package: pip install 'assay\[{kind}\]'$"):
        mirror(kind, "")


def _events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = _events(folder)
    return {tag: sorted((each.step, each.value) for each in found.Scalars(tag)) for tag in found.Tags()["scalars"]}


def _texts(folder: Path) -> Iterator[str]:
    found = _events(folder)
    for tag in found.Tags()["tensors"]:
        for each in found.Tensors(tag):
            yield each.tensor_proto.string_val[0].decode()


def _stand_in_for_mlflow(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of MLflow 3.17's client that are used, with its parameters; returns what was told to it."""
    told: list[Any] = []

    class Metric:
        def __init__(self, key: str, value: float, timestamp: int, step: int) -> None:
            self.said = (key, value, step)

    class MlflowClient:
        def __init__(self, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
            told.append(("client", tracking_uri))

        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
            told.append(("experiment", name))
            return "7"

        def create_run(
            self, experiment_id: str, start_time: int | None = None, tags: Any = None, run_name: str | None = None
        ) -> Any:
            told.append(("run", experiment_id, tags, run_name))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r"))

        def log_param(self, run_id: str, key: str, value: Any, synchronous: bool | None = None) -> None:
            told.append(("param", run_id, key, value))

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
            told.extend(("metric", *each.said) for each in metrics)

        def set_tag(self, run_id: str, key: str, value: Any, synchronous: bool | None = None) -> None:
            told.append(("tag", run_id, key, value))

        def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
            told.append(("terminated", run_id))

    stand_in = types.SimpleNamespace(MlflowClient=MlflowClient, entities=types.SimpleNamespace(Metric=Metric))
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    return told


def _stand_in_for_wandb(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Any]]:
    """The calls of W&B 0.31 that are used, with its parameters; returns what was told and the runs that were begun."""
    told: list[Any] = []
    runs: list[Any] = []

    class Run:
        def __init__(self, tags: Any) -> None:
            self.summary: dict[str, Any] = {}
            self.tags = tuple(tags)

        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            told.append(("define", name, step_metric))

        def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
            told.append(("log", data))

        def finish(self, exit_code: int | None = None) -> None:
            told.append(("finish",))

    def init(*, entity: Any, project: Any, group: Any, name: Any, notes: Any, tags: Any, **more: Any) -> Run:
        assert set(more) == {"config", "reinit", "settings"}
        runs.append(({"entity": entity, "project": project, "name": name, "config": more["config"]}, Run(tags)))
        return runs[-1][1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return told, runs
