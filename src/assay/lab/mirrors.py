"""Mirrors of a run: TensorBoard, MLflow, Weights & Biases. What counts is the ledger; a mirror may fail, and says so.

Every mirror writes the floats of a trial by arm and measure with the seed as the step, its 1-D arrays as curves with
the index as the step, and the verdicts at the end. Trials that tune, arrays of more dimensions, and trials that were in
the ledger before the run are not mirrored.
"""

from __future__ import annotations

import importlib
import os
import re
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from assay.lab.claim import ClaimError
from assay.lab.record import Record, Verdict
from assay.lab.runner import Events
from assay.lab.spelling import nearest
from assay.lab.study import Study
from assay.lab.trial import Trial
from assay.lab.verdict import summary

FOLDER = "assay-mirror"

Point = tuple[int, float]
Step = Literal["seed", "index"]


class MirrorWarning(UserWarning):
    """A mirror has failed and follows the run no further."""


def mirror(kind: str, path: str = "") -> Events:
    """A mirror by its kind.

    Args:
        kind: `"tensorboard"`, `"mlflow"` or `"wandb"`.
        path: where to: a folder (tensorboard), a folder or the URL of a server (mlflow), `project` or `entity/project`
            (wandb). Empty takes `assay-mirror`, or what the variable MLFLOW_TRACKING_URI says.

    Raises:
        ClaimError: there is no such kind, or its package is not installed.
    """
    kinds: dict[str, Callable[[str], Mirror]] = {
        "tensorboard": TensorBoardMirror,
        "mlflow": MLflowMirror,
        "wandb": WandbMirror,
    }
    if kind not in kinds:
        raise ClaimError(f"no mirror {kind!r}{nearest(kind, kinds)}")
    return kinds[kind](path)


class Mirror(Events, ABC):
    """Follows a run claim by claim. Whatever a mirror raises ends the mirror with one warning, never the run."""

    def __init__(self) -> None:
        self._studies: dict[str, Study] = {}
        self._pages: dict[str, Any] = {}
        self._failed = False

    @abstractmethod
    def open(self, study: Study) -> Any:
        """Start a page about a claim."""

    @abstractmethod
    def write(self, page: Any, arm: str, name: str, points: Sequence[Point], step: Step) -> None:
        """Add points (step, value) of a measure to a page; the steps are seeds, or indices along a curve."""

    @abstractmethod
    def close(self, page: Any, study: Study, verdict: Verdict) -> None:
        """Write the verdict and end the page."""

    def on_start(self, studies: Sequence[Study], trials: int, done: int) -> None:
        self._studies = {study.outline.key: study for study in studies}

    def on_trial(self, trial: Trial, record: Record) -> None:
        if record.purpose == "seed":
            self._attempt(lambda: self._write_record(record))

    def on_verdict(self, study: Study, verdict: Verdict) -> None:
        self._attempt(lambda: self.close(self._page(study), study, verdict))
        self._pages.pop(study.outline.key, None)

    def _attempt(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:
            self._failed = True
            what = f"{type(self).__name__} follows the run no further: {type(error).__name__}: {error}"
            warnings.warn(" ".join(what.split()), MirrorWarning, stacklevel=2)

    def _page(self, study: Study) -> Any:
        key = study.outline.key
        if key not in self._pages:
            self._pages[key] = self.open(study)
        return self._pages[key]

    def _write_record(self, record: Record) -> None:
        page = self._page(self._studies[f"{record.paper}/{record.claim}"])
        for arm, measures in record.results.items():
            for name, value in measures.items():
                if isinstance(value, int | float):
                    self.write(page, arm, name, [(record.seed, float(value))], "seed")
                elif value.ndim == 1:
                    points = [(index, float(each)) for index, each in enumerate(value)]
                    self.write(page, arm, f"{name}/seed_{record.seed}", points, "index")


class TensorBoardMirror(Mirror):
    """A TensorBoard log: a run an arm, in `path/<paper>/<claim>/<size>/<arm>`, so that arms meet in one chart."""

    def __init__(self, path: str = "") -> None:
        super().__init__()
        _import("tensorboard")
        self.path = Path(path or FOLDER)

    def open(self, study: Study) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        folder = self.path / study.paper.key / study.outline.id / study.size
        return {arm: SummaryWriter(str(folder / arm), flush_secs=10) for arm in study.outline.arms} | {
            "": SummaryWriter(str(folder), flush_secs=10)
        }

    def write(self, page: Any, arm: str, name: str, points: Sequence[Point], step: Step) -> None:
        for index, value in points:
            page[arm].add_scalar(name, value, index)

    def close(self, page: Any, study: Study, verdict: Verdict) -> None:
        page[""].add_text("verdict", "\n\n".join(_words(study, verdict)))
        for writer in page.values():
            writer.close()


class MLflowMirror(Mirror):
    """An MLflow experiment a claim, in it one run each time the claim is run, with its settings as parameters.

    `mlflow-skinny` alone keeps runs in a folder (which MLflow maintains no longer, but reads) or on a server.
    """

    def __init__(self, path: str = "") -> None:
        super().__init__()
        self._mlflow = _import("mlflow")
        where = path or os.environ.get("MLFLOW_TRACKING_URI") or FOLDER
        if "://" not in where:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            where = Path(where).resolve().as_uri()
        self._client = self._mlflow.MlflowClient(tracking_uri=where)

    def open(self, study: Study) -> Any:
        known = self._client.get_experiment_by_name(study.outline.key)
        experiment = known.experiment_id if known else self._client.create_experiment(study.outline.key)
        tags = {"says": study.outline.says, "size": study.size}
        run = self._client.create_run(experiment, tags=tags, run_name=study.size).info.run_id
        for name, value in study.settings.items():
            self._client.log_param(run, name, value)
        return run

    def write(self, page: Any, arm: str, name: str, points: Sequence[Point], step: Step) -> None:
        key = re.sub(r"[^\w\-./: ]", "_", f"{arm}/{name}")  # the characters MLflow allows
        now = int(time.time() * 1000)
        metrics = [self._mlflow.entities.Metric(key, value, now, index) for index, value in points]
        for start in range(0, len(metrics), 1000):  # MLflow takes so many at once
            self._client.log_batch(page, metrics=metrics[start : start + 1000])

    def close(self, page: Any, study: Study, verdict: Verdict) -> None:
        self._client.set_tag(page, "verdict", verdict.outcome or "none")
        self._client.set_tag(page, "mlflow.note.content", "\n\n".join(_words(study, verdict)))
        self._client.set_terminated(page)


class WandbMirror(Mirror):
    """A Weights & Biases run a claim, in a group a paper; offline where WANDB_MODE says so."""

    def __init__(self, path: str = "") -> None:
        super().__init__()
        self._wandb = _import("wandb")
        entity, _, project = path.rpartition("/")
        self.entity, self.project = entity or None, project or FOLDER

    def open(self, study: Study) -> Any:
        run = self._wandb.init(
            entity=self.entity,
            project=self.project,
            group=study.paper.key,
            name=study.outline.key,
            notes=study.outline.says,
            tags=[study.size],
            config=dict(study.settings),
            reinit="create_new",
            settings={"silent": True},
        )
        run.define_metric("*", step_metric="seed")
        run.define_metric("curves/*", step_metric="index")
        return run

    def write(self, page: Any, arm: str, name: str, points: Sequence[Point], step: Step) -> None:
        key = f"curves/{arm}/{name}" if step == "index" else f"{arm}/{name}"
        for index, value in points:
            page.log({key: value, step: index})

    def close(self, page: Any, study: Study, verdict: Verdict) -> None:
        page.summary["verdict"] = verdict.outcome or "none"
        page.summary["summary"] = "\n".join(_words(study, verdict))
        page.tags = (*(page.tags or ()), verdict.outcome or "none")
        page.finish()


def _words(study: Study, verdict: Verdict) -> list[str]:
    return [study.outline.says, summary(verdict), *(f"{part.outcome}: {part.text}" for part in verdict.parts)]


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ClaimError(f"mirroring to {name} needs its package: pip install 'assay[{name}]'") from None
