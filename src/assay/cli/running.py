"""`assay run`: put claims to the test."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import sys
from typing import Any

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.completing import complete_subject, complete_target
from assay.cli.options import Bytes, Duration, chosen, json_option, settings_of, store_option
from assay.lab.claim import SIZES
from assay.lab.executor import Executor
from assay.lab.ledger import Ledger
from assay.lab.pack import shipped
from assay.lab.runner import Events, RunReport, run_studies
from assay.lab.study import Study, results


@click.command("run")
@click.argument("targets", nargs=-1, metavar="[KEY | KEY/CLAIM | FILE.py]...", shell_complete=complete_target)
@click.option("--seeds", type=click.IntRange(min=1), help="Seeds 0 to N-1.  [default: the claim's own, usually 5]")
@click.option("--size", type=click.Choice(SIZES), default="laptop", show_default=True)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Override a setting of the claims.")
@store_option
@click.option("--slots", type=click.IntRange(min=1), help="Trials at a time.  [default: one per core]")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads per trial.")
@click.option("--timeout", type=Duration(), default="10m", show_default=True, help="Stop a trial after this time.")
@click.option("--memory", type=Bytes(), help="Stop a trial above this size, e.g. 4G.")
@click.option(
    "--on", "where", metavar="ray://HOST:PORT", help="A Ray cluster; 'ray' starts one, 'here' is this process."
)
@click.option("--until-decided", is_flag=True, help="Look at 5, 10 and 20 seeds, and stop when it is decided.")
@click.option("--missing", is_flag=True, help="Only claims that have no result yet, here or shipped.")
@click.option("--subject", metavar="NAME", help="All claims of a subject.", shell_complete=complete_subject)
@click.option("--budget", type=Duration(), help="Start no trial after this time, e.g. 60m.")
@click.option("--check", is_flag=True, help="Exit with 1 unless every claim holds.")
@click.option(
    "--mirror", "mirrors", multiple=True, metavar="KIND[:PATH]", help="Also log to tensorboard, mlflow or wandb."
)
@json_option
def run_command(
    targets: tuple[str, ...],
    seeds: int | None,
    size: str,
    pairs: tuple[str, ...],
    store: str,
    slots: int | None,
    threads: int,
    timeout: float,
    memory: int | None,
    where: str | None,
    until_decided: bool,
    missing: bool,
    subject: str | None,
    budget: float | None,
    check: bool,
    mirrors: tuple[str, ...],
    as_json: bool,
) -> int:
    """Run claims and judge them; what the ledger has already is not run again.

    \b
    assay run cmd                          all claims of a paper
    assay run cmd/few_modes_model_the_run  one claim
    assay run ./my_claim.py --seeds 10     a claim file of your own
    assay run --missing --budget 60m       fill the gaps, headline claims first
    """
    if not targets and not missing and subject is None:
        raise UsageProblem(
            "run needs a paper (assay run cmd), --subject or --missing; `assay list` shows what there is"
        )
    if until_decided and seeds is not None:
        raise UsageProblem("--until-decided looks at 5, 10 and 20 seeds; it does not go with --seeds")
    ledger = Ledger(store)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's stop is as clean as Ctrl-C
    studies = [
        dataclasses.replace(Study.of(paper, outline, size, **settings_of(pairs)), threads=threads)
        for paper, outline in chosen(targets, subject)
        if size in outline.sizes or targets
    ]
    if missing:
        studies = [study for study in studies if not _has_result(study, ledger)]
    slots = slots or max(1, (os.cpu_count() or 1) // threads)
    executor = _executor(where, timeout=timeout, memory=memory, threads=threads)
    report = run_studies(
        studies,
        ledger=ledger,
        executor=executor,
        slots=slots,
        timeout=timeout,
        memory=memory,
        seeds=seeds,
        until_decided=until_decided,
        budget=budget,
        events=[*_progress(ledger, slots, seeds, as_json), *_mirrors(mirrors)],
    )
    if executor is not None:
        executor.cancel()
    _tell(studies, report, store, as_json)
    if not report.complete:
        return 3
    return int(check and any(verdict.outcome != "holds" for verdict in report.verdicts.values()))


def _tell(studies: list[Study], report: RunReport, store: str, as_json: bool) -> None:
    if as_json:
        from assay.lab.jsonable import verdict_json

        echo_json({key: verdict_json(verdict) for key, verdict in report.verdicts.items()})
    else:
        from assay.cli.progress import print_verdicts

        print_verdicts(studies, report)
        trials = "1 trial" if report.ran == 1 else f"{report.ran} trials"
        click.echo(f"\n{trials} run, {report.reused} from the ledger {store}, {report.seconds:.0f} s")
    if report.failed:
        first = report.failed[0]
        click.echo(
            f"assay: {len(report.failed)} of the trials failed; the first, {first.paper}/{first.claim} "
            f"{'+'.join(first.arms)} seed {first.seed}: {first.status}\n{first.error}",
            err=True,
        )
    if report.stopped:
        command = shlex.join(["assay", *sys.argv[1:]])
        click.echo(f"assay: {report.stopped}; finished trials are in {store}. To go on: {command}", err=True)


def _has_result(study: Study, ledger: Ledger) -> bool:
    for place in (ledger, *shipped(study.paper)):
        found = results(study, place).verdict
        if found.seeds and not found.missing and not found.stale:
            return True
    return False


def _progress(ledger: Ledger, slots: int, seeds: int | None, as_json: bool) -> list[Events]:
    if as_json:
        return []
    from assay.cli.progress import LiveProgress, PlainProgress

    if sys.stderr.isatty() and sys.stdout.isatty() and not os.environ.get("CI"):
        return [LiveProgress(ledger, slots, seeds)]
    return [PlainProgress()]


def _executor(where: str | None, **limits: Any) -> Executor | None:
    if where is None:
        return None
    if where == "here":
        from assay.lab.inline import InlineExecutor

        return InlineExecutor()
    if where != "ray" and not where.startswith("ray://"):
        raise UsageProblem(f"--on takes here, ray or ray://HOST:PORT, not {where!r}")
    from assay.lab.cluster import RayExecutor

    return RayExecutor(None if where == "ray" else where, **limits)


def _mirrors(names: tuple[str, ...]) -> list[Events]:
    if not names:
        return []
    from assay.lab.mirrors import mirror

    return [mirror(*name.partition(":")[::2]) for name in names]
