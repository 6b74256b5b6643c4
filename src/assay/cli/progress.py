"""How a run looks while it runs: a live table on a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean

import click
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from assay.lab.ledger import Ledger
from assay.lab.record import FINISHED, Record, Verdict
from assay.lab.runner import Events, RunReport
from assay.lab.study import Study, results
from assay.lab.trial import Trial
from assay.lab.verdict import summary

COLOURS = {"holds": "green", "fails": "red", "undecided": "yellow", None: "bright_black"}


class PlainProgress(Events):
    """One line a trial and one a verdict, for pipes and logs."""

    def on_start(self, studies: Sequence[Study], trials: int, done: int) -> None:
        self.left, self.count = trials - done, 0
        in_ledger = f", {done} of them in the ledger already" if done else ""
        click.echo(f"{_count(len(studies), 'claim')}, {_count(trials, 'trial')}{in_ledger}")

    def on_trial(self, trial: Trial, record: Record) -> None:
        self.count += 1
        last = f": {_last_line(record.error)}" if record.status not in FINISHED else ""
        click.echo(f"[{self.count}/{self.left}] {trial.label}  {record.status}  {record.wall_seconds:.1f} s{last}")


class LiveProgress(Events):
    """A table that is redrawn: claims, trials done, the verdict forming, time left."""

    def __init__(self, ledger: Ledger, slots: int, seeds: int | None = None, console: Console | None = None) -> None:
        self.ledger = ledger
        self.seeds = seeds
        self.slots = slots
        self.console = console or Console(stderr=True)
        self.studies: list[Study] = []
        self.done: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        self.running: dict[str, dict[str, float]] = {}
        self.durations: dict[str, list[float]] = {}
        self.forming: dict[str, Verdict] = {}
        self.wanted: dict[str, int] = {}
        self.live = Live(console=self.console, refresh_per_second=4, get_renderable=self._draw, transient=True)

    def on_start(self, studies: Sequence[Study], trials: int, done: int) -> None:
        self.studies = list(studies)
        for study in studies:
            found = results(study, self.ledger)
            self.done[study.outline.key] = len(found.records)
            self.forming[study.outline.key] = found.verdict
            arms = 1 if study.outline.together else len(study.outline.arms)
            self.wanted[study.outline.key] = max(len(found.verdict.seeds), self.seeds or study.outline.seeds) * arms
        self.live.start()

    def on_launch(self, trial: Trial) -> None:
        self.running.setdefault(_key(trial), {})[trial.digest] = time.monotonic()

    def on_trial(self, trial: Trial, record: Record) -> None:
        key = _key(trial)
        self.running.get(key, {}).pop(trial.digest, None)
        self.durations.setdefault(key, []).append(record.wall_seconds)
        if record.status in FINISHED:
            self.done[key] = self.done.get(key, 0) + (record.purpose == "seed")
        else:
            self.failed[key] = self.failed.get(key, 0) + 1
            self.live.console.print(Text(f"{trial.label}: {record.status}: {_last_line(record.error)}", style="red"))
        study = next(each for each in self.studies if each.outline.key == key)
        self.forming[key] = results(study, self.ledger).verdict

    def on_end(self, report: RunReport) -> None:
        self.live.stop()

    def _draw(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), expand=False)
        for column in ("claim", "trials", "", "time left", "so far"):
            table.add_column(column, style="bold" if column == "claim" else "", no_wrap=column != "so far")
        for study in self.studies:
            key = study.outline.key
            done, wanted = self.done.get(key, 0), max(self.wanted.get(key, 1), self.done.get(key, 0))
            verdict = self.forming.get(key)
            words = summary(verdict) if verdict is not None and done else "waiting"
            style = COLOURS[verdict.outcome if verdict is not None else None]
            bar = ProgressBar(total=wanted, completed=done, width=16)
            running = f"+{len(self.running[key])}" if self.running.get(key) else ""
            table.add_row(
                key, f"{done}/{wanted} {running}", bar, self._left(key, wanted - done), Text(words, style=style)
            )
        return table

    def _left(self, key: str, trials: int) -> str:
        every = [seconds for each in self.durations.values() for seconds in each]
        mine = self.durations.get(key) or every
        if trials <= 0:
            return "done"
        if not mine:
            return "?"
        spent = sum(time.monotonic() - began for began in self.running.get(key, {}).values())
        seconds = max(0.0, trials * fmean(mine) - spent) / self.slots
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def print_verdicts(studies: Sequence[Study], report: RunReport) -> None:
    """The verdict of each claim with its interval, and the paper's own numbers beside it."""
    for study in studies:
        verdict = report.verdicts.get(study.outline.key)
        if verdict is None:
            continue
        click.secho(f"\n{study.outline.key}", bold=True, nl=False)
        click.echo(f"  ({verdict.size} size)\n  {study.outline.says}")
        click.secho(f"  {summary(verdict)}", fg=COLOURS[verdict.outcome], bold=True)
        for part in verdict.parts:
            low, high = f"{part.low:.4g}", f"{part.high:.4g}"
            click.echo(f"    {part.outcome:9} {part.text}   margin {part.mean:+.4g} [{low}, {high}]")
        for name, value in study.outline.reported.items():
            click.secho(f"    the paper: {name}: {value}", fg="bright_black")
        if verdict.stale or verdict.amended:
            click.echo(f"    note: {verdict.stale or verdict.amended}")


def _key(trial: Trial) -> str:
    return f"{trial.paper}/{trial.claim}"


def _last_line(error: str) -> str:
    return (error.strip().splitlines() or ["no message"])[-1]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
