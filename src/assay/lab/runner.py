"""Runs claims: makes trials, drops those the ledger has, feeds an executor, keeps every result at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from assay.lab.catalogue import find, papers
from assay.lab.claim import ClaimOutline
from assay.lab.executor import Executor
from assay.lab.ledger import Ledger
from assay.lab.pool import LocalPool
from assay.lab.provenance import provenance
from assay.lab.record import FINISHED, Record, Verdict
from assay.lab.statistics import POCOCK_LOOKS as LOOKS
from assay.lab.study import Study, results
from assay.lab.trial import Finished, Trial

STORE = "assay-ledger"


class Events:
    """What a face or a mirror may want to hear of a run. Every method does nothing unless overridden.

    These hooks are how progress, TensorBoard, MLflow and W&B follow a run; none of them can change what is kept.
    """

    def on_start(self, studies: Sequence[Study], trials: int, done: int) -> None:
        """A run begins with so many trials planned, of which some are in the ledger already."""

    def on_launch(self, trial: Trial) -> None:
        """A trial has been handed to the executor."""

    def on_trial(self, trial: Trial, record: Record) -> None:
        """A trial has ended and its record is in the ledger."""

    def on_verdict(self, study: Study, verdict: Verdict) -> None:
        """All trials of a study that were asked for have ended (or the run was stopped)."""

    def on_end(self, report: RunReport) -> None:
        """The run is over."""


@dataclass
class RunReport:
    """What a run came to."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    ran: int = 0
    reused: int = 0
    failed: list[Record] = field(default_factory=list)
    stopped: str = ""
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every trial that was asked for has a result."""
        return not self.stopped and not self.failed


def run(
    *targets: str,
    seeds: int | None = None,
    size: str = "laptop",
    settings: Mapping[str, Any] | None = None,
    store: str | Path | Ledger = STORE,
    slots: int = 1,
    threads: int = 1,
    timeout: float = 600.0,
    memory: int | None = None,
    executor: Executor | None = None,
    until_decided: bool = False,
    budget: float | None = None,
    events: Sequence[Events] = (),
) -> RunReport:
    """Run claims and judge them. What the ledger has already is not run again.

    Args:
        targets: papers (`"cmd"`), claims (`"cmd/few_modes_model_the_run"`) or paths of claim files.
        seeds: how many seeds, 0 to n - 1; each claim's own number (5 unless it says otherwise) by default.
        size: `"smoke"`, `"laptop"` or `"paper"`.
        settings: overrides of the claims' settings, checked against each claim.
        store: the ledger: a folder, a URL, or a `Ledger`.
        slots: trials at a time on this machine.
        threads: threads per trial.
        timeout: seconds after which a trial is stopped.
        memory: bytes above which a trial is stopped.
        executor: where trials run instead of this machine's slots.
        until_decided: look at 5, 10 and 20 seeds and stop when the verdict is decided, at the level that keeps the
            false positives of three looks at 5 % together.
        budget: seconds after which no further trial is started.
        events: hooks that are told what happens.

    Returns:
        The verdicts by `paper/claim`, and which trials failed.

    Raises:
        ClaimError: a target or a setting is wrong; nothing has been run.
        StoreError: the ledger cannot be written to; what was finished before is in it.
    """
    known = papers()
    chosen = [
        Study(paper, outline, outline.settings(size, settings), threads=threads)
        for target in targets
        for paper, outline in find(target, known)
    ]
    return run_studies(
        chosen,
        ledger=store if isinstance(store, Ledger) else Ledger(store),
        executor=executor,
        slots=slots,
        timeout=timeout,
        memory=memory,
        seeds=seeds,
        until_decided=until_decided,
        budget=budget,
        events=events,
    )


def run_studies(
    chosen: Sequence[Study],
    *,
    ledger: Ledger,
    executor: Executor | None = None,
    slots: int = 1,
    timeout: float = 600.0,
    memory: int | None = None,
    seeds: int | None = None,
    until_decided: bool = False,
    budget: float | None = None,
    events: Sequence[Events] = (),
) -> RunReport:
    """As `run`, for studies that have been made already."""
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds={seeds} must be at least 1")
    ledger.check()
    own = executor is None
    runner = _Runner(ledger, executor or LocalPool(slots, timeout=timeout, memory=memory), events, budget)
    try:
        return runner.run(chosen, seeds, until_decided)
    finally:
        if own:
            runner.executor.cancel()


class _Runner:
    def __init__(self, ledger: Ledger, executor: Executor, events: Sequence[Events], budget: float | None) -> None:
        self.ledger = ledger
        self.executor = executor
        self.events = events
        self.deadline = time.monotonic() + budget if budget is not None else None
        self.report = RunReport()
        self.durations: dict[str, list[float]] = {}
        self.in_flight: dict[str, _Progress] = {}

    def run(self, chosen: Sequence[Study], seeds: int | None, until_decided: bool) -> RunReport:
        began = time.monotonic()
        queue = [_Progress(study, self._batches(study, seeds, until_decided)) for study in _headlines_first(chosen)]
        wanted = _unique(trial for each in queue for trial in self._expected(each.study, seeds, until_decided))
        self.report.reused = sum(self.has(trial) for trial in wanted)
        self._tell("on_start", [progress.study for progress in queue], len(wanted), self.report.reused)
        try:
            self._work(queue)
        except KeyboardInterrupt:
            self.report.stopped = "interrupted"
            self.executor.cancel()
        except BaseException:
            self.executor.cancel()
            raise
        for progress in queue:
            self._judge(progress)
        self.report.seconds = time.monotonic() - began
        self._tell("on_end", self.report)
        return self.report

    def _work(self, queue: list[_Progress]) -> None:
        """Keep the slots busy until no study has work left."""
        active = list(queue)
        while True:
            self._launch(active)
            for progress in [each for each in active if each.finished]:
                active.remove(progress)
                self._judge(progress)
            if self.in_flight:
                ended = self.executor.next(timeout=1.0)
                if ended is not None:
                    self._keep(*ended)
            elif not active:
                return
            elif self._out_of_time():
                self.report.stopped = "the budget is used up"
                return

    def _launch(self, active: list[_Progress]) -> None:
        """Submit what fits into the free slots. Exclusive trials run alone."""
        for progress in active:
            while len(self.in_flight) < self.executor.slots:
                trial = progress.next(self)
                if trial is None:
                    break
                alone = trial.exclusive or any(each.study.outline.exclusive for each in self.in_flight.values())
                if (alone and self.in_flight) or self._out_of_time(trial):
                    progress.put_back(trial)
                    break
                self._tell("on_launch", trial)
                self.in_flight[trial.digest] = progress
                self.executor.submit(trial)

    def _out_of_time(self, trial: Trial | None = None) -> bool:
        """Whether the budget is spent, or would be by a trial that takes as long as its like have taken."""
        if self.deadline is None:
            return False
        if not self.in_flight and trial is not None and time.monotonic() < self.deadline and not self.durations:
            return False
        every = [seconds for each in self.durations.values() for seconds in each]
        durations = self.durations.get(f"{trial.paper}/{trial.claim}", every) if trial is not None else every
        return time.monotonic() + (fmean(durations) if durations else 0.0) >= self.deadline

    def _batches(self, study: Study, seeds: int | None, until_decided: bool) -> Iterator[list[Trial]]:
        """The trials of a study in the order in which later ones depend on earlier ones."""
        tuning = [trial for _, _, trial in study.tuning_trials()]
        if tuning:
            yield tuning
        chosen = study.chosen(self.ledger)
        if chosen is None:
            return  # some tuning trials failed; without them no arm can be given its settings
        for count in LOOKS if until_decided else (seeds or study.outline.seeds,):
            self._plan(study, count, until_decided)
            trials = study.trials(range(count), chosen)
            yield trials
            if not until_decided or not all(self.has(trial) for trial in trials):
                return
            if results(study, self.ledger).verdict.outcome in ("holds", "fails"):
                return

    def _expected(self, study: Study, seeds: int | None, until_decided: bool) -> list[Trial]:
        """The trials a study takes as far as can be told now: with looks, those of the first."""
        chosen = study.chosen(self.ledger)
        count = LOOKS[0] if until_decided else seeds or study.outline.seeds
        return [trial for _, _, trial in study.tuning_trials()] + study.trials(range(count), chosen or {})

    def _plan(self, study: Study, count: int, until_decided: bool) -> None:
        before = self.ledger.plan(study.paper.key, study.outline.id, study.settings)
        plan = {
            "settings": dict(study.settings),
            "seeds": max(count, int(before.get("seeds", 0))),
            "looks": list(LOOKS) if until_decided else before.get("looks"),
        }
        self.ledger.write_plan(study.paper.key, study.outline.id, plan)

    def has(self, trial: Trial) -> bool:
        """Whether the ledger has a result of a trial; failures do not count and are tried again."""
        record = self.ledger.read(trial.paper, trial.claim, trial.digest)
        return record is not None and record.status in FINISHED

    def _keep(self, trial: Trial, finished: Finished) -> None:
        progress = self.in_flight[trial.digest]
        study = progress.study
        record = Record(
            digest=trial.digest,
            paper=trial.paper,
            claim=trial.claim,
            arms=trial.arms,
            seed=trial.seed,
            settings=dict(trial.settings),
            size=study.size,
            purpose="tune" if trial.purpose == "tune" else "seed",
            status=finished.status,
            results=finished.results,
            error=finished.error,
            registration=study.outline.registration,
            code=self.ledger.write_code(study.code),
            provenance=self.ledger.write_provenance(
                finished.provenance or provenance(study.paper.folder, trial.threads)
            ),
            started=datetime.fromtimestamp(finished.started or time.time(), UTC).isoformat(timespec="milliseconds"),
            wall_seconds=finished.wall_seconds,
            cpu_seconds=finished.cpu_seconds,
            peak_bytes=finished.peak_bytes,
        )
        self.ledger.write(record)
        del self.in_flight[trial.digest]
        progress.outstanding -= 1
        self.report.ran += 1
        if record.status not in FINISHED:
            self.report.failed.append(record)
        self.durations.setdefault(f"{trial.paper}/{trial.claim}", []).append(finished.wall_seconds)
        self._tell("on_trial", trial, record)

    def _judge(self, progress: _Progress) -> None:
        study = progress.study
        if study.outline.key not in self.report.verdicts:
            verdict = results(study, self.ledger).verdict
            self.report.verdicts[study.outline.key] = verdict
            self._tell("on_verdict", study, verdict)

    def _tell(self, event: str, *values: Any) -> None:
        for each in self.events:
            getattr(each, event)(*values)


class _Progress:
    """How far a study has come: what it has still to run of its present batch, and the batches after it."""

    def __init__(self, study: Study, batches: Iterator[list[Trial]]) -> None:
        self.study = study
        self.batches = batches
        self.pending: deque[Trial] = deque()
        self.outstanding = 0
        self.finished = False

    def next(self, runner: _Runner) -> Trial | None:
        """The next trial that can be started now and is not in the ledger (another driver may have put it there)."""
        while True:
            while self.pending:
                trial = self.pending.popleft()
                if not runner.has(trial):
                    self.outstanding += 1
                    return trial
            if self.outstanding:
                return None
            batch = next(self.batches, None)
            if batch is None:
                self.finished = True
                return None
            self.pending.extend(_unique(batch))

    def put_back(self, trial: Trial) -> None:
        self.outstanding -= 1
        self.pending.appendleft(trial)


def _headlines_first(chosen: Sequence[Study]) -> list[Study]:
    """Each study once: every paper's first claim, then the others; claims about time or memory last."""
    once = {(study.outline.key, study.size, repr(sorted(study.settings.items()))): study for study in chosen}
    first: dict[str, ClaimOutline] = {}
    for study in once.values():
        first.setdefault(study.paper.key, study.paper.claims[0])

    def rank(study: Study) -> tuple[bool, bool]:
        return study.outline.exclusive, study.outline.id != first[study.paper.key].id

    return sorted(once.values(), key=rank)


def _unique(trials: Iterable[Trial]) -> list[Trial]:
    """Each trial once: an arm's grid may name one setting twice, where another arm has more to try."""
    return list({trial.digest: trial for trial in trials}.values())
