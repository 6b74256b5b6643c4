"""`assay report`, `assay diff`, `assay export`, `assay pack`: results for other eyes, machines and programs."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.completing import complete_target
from assay.cli.options import chosen, json_option, store_option
from assay.lab.catalogue import Paper, papers
from assay.lab.claim import ClaimOutline
from assay.lab.ledger import Ledger
from assay.lab.pack import best, pack, shipped
from assay.lab.record import Record, Verdict


@click.command("report")
@click.argument("files", nargs=-1, metavar="[FILE.py]...")
@store_option
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="wall", show_default=True)
@click.option("--title", default="assay", show_default=True)
def report_command(files: tuple[str, ...], store: str, out: Path, title: str) -> None:
    """Write the wall: a folder of static pages with all verdicts, which opens from a disk.

    A claim's results come from the ledger where it has any, else from those that ship with the package. Claim files of
    your own are added by their paths.
    """
    from assay.report.wall import write_wall

    ledger = Ledger(store)
    known = papers()
    for file in files:
        paper = chosen((file,))[0][0]
        known[paper.key] = paper
    sources: dict[str, dict[str, Any]] = {}

    def results(paper: Paper, outline: ClaimOutline) -> tuple[Verdict, list[Record]]:
        places = [ledger, *shipped(paper)]
        _, found = best(paper, outline, places, arrays=True)
        for record in found.records:
            for place in places:
                if record.provenance not in sources and (facts := place.provenance(record.provenance)):
                    sources[record.provenance] = facts
        return found.verdict, list(found.records)

    now = datetime.now(UTC).isoformat(timespec="seconds")
    page = write_wall(
        out, list(known.values()), results, title=title, generated=now, provenance=lambda key: sources.get(key, {})
    )
    click.echo(f"the wall is at {page.resolve()}")


@click.command("diff")
@click.argument("before")
@click.argument("after")
@click.argument("targets", nargs=-1, metavar="[KEY | KEY/CLAIM]...", shell_complete=complete_target)
@click.option("--subject", metavar="NAME", help="Only this subject.")
@json_option
def diff_command(before: str, after: str, targets: tuple[str, ...], subject: str | None, as_json: bool) -> None:
    """Compare two ledgers (folders, URLs or packs; 'shipped' is what came with the package).

    Tells which verdicts flip, and which numbers moved beyond noise.
    """
    from assay.lab.diff import Flip, Moved, diff

    flips: list[Flip] = []
    moved: list[Moved] = []
    if "shipped" in (before, after):
        for paper in {paper.key: paper for paper, _ in chosen(targets, subject)}.values():
            first, second = _ledger(before, paper), _ledger(after, paper)
            if first is not None and second is not None:
                found = diff([(paper, outline) for outline in paper.claims], first, second)
                flips += found[0]
                moved += found[1]
    else:
        for place in (before, after):
            if "://" not in place and not Path(place).exists():
                raise UsageProblem(f"no ledger at {place}")
        flips, moved = diff(chosen(targets, subject), Ledger(before), Ledger(after))
    beyond = [each for each in moved if each.beyond_noise]
    if as_json:
        from assay.lab.jsonable import plain

        echo_json(
            {
                "flips": [dataclasses.asdict(each) for each in flips],
                "moved": plain([dataclasses.asdict(each) for each in beyond]),
                "compared": len(moved),
            }
        )
        return
    for flip in flips:
        click.echo(f"{click.style(flip.claim, bold=True)}  {flip.before} -> {flip.after}")
    for each in beyond:
        click.echo(
            f"{each.claim}  {each.arm}  {each.measure}: {each.before:.4g} -> {each.after:.4g}"
            f"  (p = {each.p_value:.2g}, {each.seeds} seeds)"
        )
    click.echo(f"{len(flips)} verdicts differ; {len(beyond)} of {len(moved)} numbers moved beyond noise")


@click.command("export")
@click.argument("targets", nargs=-1, metavar="[KEY | KEY/CLAIM]...", shell_complete=complete_target)
@store_option
@click.option(
    "--format", "form", type=click.Choice(["csv", "json", "markdown", "latex"]), default="csv", show_default=True
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of standard output.")
def export_command(targets: tuple[str, ...], store: str, form: str, out: Path | None) -> None:
    """Results as a table: a row for every measure of every arm."""
    from assay.report.export import rows, write

    ledger = Ledger(store)
    found = [(paper, best(paper, outline, [ledger, *shipped(paper)])[1]) for paper, outline in chosen(targets)]
    text = write(rows((paper, results) for paper, results in found if results.records), form)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text)
        click.echo(f"wrote {out}")


@click.command("pack")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...", shell_complete=complete_target)
@store_option
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to.  [default: beside the claim file]"
)
def pack_command(keys: tuple[str, ...], store: str, out: Path | None) -> None:
    """Gather the trials behind a paper's verdicts into one file, which ships beside its claims."""
    if out is not None and len(keys) > 1:
        raise UsageProblem("--out takes one paper at a time")
    for key in keys:
        paper = chosen((key,))[0][0]
        path, summary = pack(paper, Ledger(store), out)
        click.echo(f"{path}: {path.stat().st_size / 1024:.0f} kB")
        for entry in summary:
            click.echo(f"  {entry['id']}: {entry['text']}")


def _ledger(name: str, paper: Paper) -> Ledger | None:
    if name == "shipped":
        return next(iter(shipped(paper)), None)
    return Ledger(name)
