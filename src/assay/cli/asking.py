"""`assay plan`, `assay why`, `assay calibrate`: questions about verdicts that no trial has to be run for."""

from __future__ import annotations

import dataclasses
import os
from statistics import fmean
from typing import Any

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.completing import complete_target
from assay.cli.options import chosen, json_option, store_option
from assay.lab.ledger import Ledger
from assay.lab.pack import best, shipped
from assay.lab.study import changed_files


@click.command("plan")
@click.argument("targets", nargs=-1, required=True, metavar="KEY | KEY/CLAIM...", shell_complete=complete_target)
@store_option
@click.option(
    "--power", type=click.FloatRange(0.5, 0.999), default=0.8, show_default=True, help="Wanted chance of a verdict."
)
@click.option("--slots", type=click.IntRange(min=1), help="Trials at a time.  [default: one per core]")
@json_option
def plan_command(targets: tuple[str, ...], store: str, power: float, slots: int | None, as_json: bool) -> None:
    """How many seeds a verdict needs, and how long they take, from the margins of the trials there are.

    The pilot is what the ledger has, or what ships with the package.
    """
    from assay.lab.planning import plan

    rows: list[dict[str, Any]] = []
    for paper, outline in chosen(targets):
        _, found = best(paper, outline, [Ledger(store), *shipped(paper)])
        margins = {part.text: list(part.margins.values()) for part in found.verdict.parts}
        if len(found.verdict.seeds) < 2 or found.verdict.missing or not margins:
            rows.append({"claim": outline.key, "text": f"no pilot yet: assay run {outline.key} --seeds 3"})
            continue
        seconds = fmean(record.wall_seconds for record in found.records)
        made = plan(
            margins,
            seconds,
            arms=1 if outline.together else len(outline.arms),
            slots=1 if outline.exclusive else slots or os.cpu_count() or 1,
            power=power,
        )
        rows.append({"claim": outline.key, **dataclasses.asdict(made), "text": made.text})
    if as_json:
        from assay.lab.jsonable import plain

        echo_json(plain(rows))
        return
    for row in rows:
        click.echo(f"{click.style(row['claim'], bold=True)}\n  {row['text']}")


@click.command("why")
@click.argument("targets", nargs=-1, required=True, metavar="KEY | KEY/CLAIM...", shell_complete=complete_target)
@store_option
@json_option
def why_command(targets: tuple[str, ...], store: str, as_json: bool) -> None:
    """Why trials would run again: which file's change made those in the ledger stale."""
    from assay.lab.study import Study

    rows = []
    for paper, outline in chosen(targets):
        study = Study.of(paper, outline)
        for place in (Ledger(store), *shipped(paper)):
            records = [each for each in place.records(paper.key, outline.id) if each.purpose == "seed"]
            stale = [each for each in records if each.code != study.code.digest]
            reason = ""
            if stale:
                latest = max(stale, key=lambda record: record.started)
                reason = changed_files(place.code(latest.code), study.code) or "which files it ran with is not recorded"
            if records:
                counts = {"current": len(records) - len(stale), "stale": len(stale)}
                rows.append({"claim": outline.key, "ledger": str(place), **counts, "why": reason})
        if not any(row["claim"] == outline.key for row in rows):
            rows.append(
                {"claim": outline.key, "ledger": store, "current": 0, "stale": 0, "why": "no trial has been run"}
            )
    if as_json:
        echo_json(rows)
        return
    for row in rows:
        name = click.style(str(row["claim"]), bold=True)
        click.echo(f"{name}  {row['current']} current, {row['stale']} stale  ({row['ledger']})")
        if row["why"]:
            click.echo(f"  {row['why']}")


@click.command("calibrate")
@click.option("--claims", type=click.IntRange(min=100), default=2000, show_default=True, help="Null claims to judge.")
@click.option(
    "--seeds", "counts", type=click.IntRange(min=2), multiple=True, help="Seeds a claim.  [default: 3, 5, 10, 20]"
)
@click.option(
    "--noise", type=click.Choice(["gaussian", "lognormal", "t3", "uniform"]), default="gaussian", show_default=True
)
@click.option(
    "--collapse-rate", type=click.FloatRange(0, 0.5), default=0.0, show_default=True, help="Share of runs that diverge."
)
@click.option("--until-decided", is_flag=True, help="Three looks at 5, 10 and 20 seeds instead.")
@json_option
def calibrate_command(
    claims: int, counts: tuple[int, ...], noise: Any, collapse_rate: float, until_decided: bool, as_json: bool
) -> None:
    """How often a claim that is not true is said to hold.

    Null claims, in which no arm is better, go through the very code that judges real ones.
    """
    from assay.lab.calibration import calibrate, table
    from assay.lab.statistics import POCOCK_LOOKS

    if until_decided and counts:
        raise UsageProblem("--until-decided looks at 5, 10 and 20 seeds; it does not go with --seeds")
    settings: dict[str, Any] = {"claims": claims, "collapse_rate": collapse_rate}
    if until_decided:
        rows = [calibrate(seeds=POCOCK_LOOKS[-1], looks=POCOCK_LOOKS, noise=noise, **settings)]
    else:
        rows = table(seeds=counts or (3, 5, 10, 20), noises=(noise,), **settings)
    if as_json:
        echo_json([dataclasses.asdict(row) for row in rows])
        return
    click.echo(f"{claims} null claims each, {noise} noise; nominal: 2.5 % hold, 2.5 % fail\n")
    click.echo("seeds     said to hold   said to fail   undecided")
    for row in rows:
        label = "5/10/20" if until_decided else str(row.seeds)
        click.echo(f"{label:8}  {row.false_holds:10.1%}   {row.false_fails:12.1%}   {row.undecided:9.1%}")
