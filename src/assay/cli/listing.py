"""`assay list`, `assay search`, `assay show`: the catalogue, without torch."""

from __future__ import annotations

from typing import Any

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.completing import complete_subject, complete_target
from assay.lab.cache import shared
from assay.lab.catalogue import Paper, find, papers, search
from assay.lab.claim import ClaimOutline
from assay.lab.pack import summaries
from assay.lab.spelling import nearest

MARKS = {"holds": ("✓", "green"), "fails": ("✗", "red"), "undecided": ("?", "yellow"), None: ("·", "bright_black")}

store_option = click.option("--store", metavar="PATH", help="Verdicts from this ledger instead of the shipped results.")
json_option = click.option("--json", "as_json", is_flag=True, help="For a program to read.")


@click.command("list")
@click.option("--subject", metavar="NAME", help="Only this subject.", shell_complete=complete_subject)
@click.option(
    "--verdict", type=click.Choice(["holds", "fails", "undecided", "none"]), help="Only papers with such a claim."
)
@store_option
@json_option
def list_command(subject: str | None, verdict: str | None, store: str | None, as_json: bool) -> None:
    """Papers, their claims and verdicts.

    Verdicts come from the results that ship with the package, or from the ledger given by --store.
    """
    known = papers()
    if subject is not None:
        subjects = sorted({paper.subject for paper in known.values()})
        if subject not in subjects:
            raise UsageProblem(f"--subject: no subject {subject!r}{nearest(subject, subjects)}")
        known = {key: paper for key, paper in known.items() if paper.subject == subject}
    rows = [describe(paper, store) for paper in known.values()]
    shared().save()
    if verdict is not None:
        wanted = None if verdict == "none" else verdict
        rows = [row for row in rows if any(each["verdict"] == wanted for each in row["claims"])]
    if as_json:
        echo_json(rows)
        return
    width = max((len(row["key"]) for row in rows), default=0)
    for row in rows:
        marks = " ".join(click.style(MARKS[each["verdict"]][0], fg=MARKS[each["verdict"]][1]) for each in row["claims"])
        click.echo(
            f"{click.style(row['key'].ljust(width), bold=True)}  {row['year'] or '    '}  {row['title']}  {marks}"
        )
    if rows:
        legend = "  ".join(f"{mark} {name or 'not run'}" for name, (mark, _) in MARKS.items())
        click.echo(f"\n{len(rows)} {'paper' if len(rows) == 1 else 'papers'}, a mark a claim: {legend}")


@click.command("search")
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", default=10, show_default=True, help="How many papers at most.")
@json_option
def search_command(words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Find papers by words in their keys, titles, summaries and claims, the best first."""
    ranked = search(" ".join(words))[:limit]
    shared().save()
    if as_json:
        echo_json([{"score": round(score, 4), **describe(paper, None)} for score, paper in ranked])
        return
    for _, paper in ranked:
        click.echo(f"{click.style(paper.key, bold=True)}  {paper.title} ({paper.year})\n    {paper.summary}")
    if not ranked:
        click.echo(f"no paper matches {' '.join(words)!r}; `assay list` shows all")


@click.command("show")
@click.argument("target", shell_complete=complete_target)
@store_option
@json_option
def show_command(target: str, store: str | None, as_json: bool) -> None:
    """One paper (KEY) or one claim (KEY/CLAIM) in full: what it promises, arms, criterion, sizes, verdict."""
    chosen = find(target)
    paper = chosen[0][0]
    row = describe(paper, store)
    row["claims"] = [detail(outline) | _state(row, outline) for _, outline in chosen]
    if as_json:
        echo_json(row)
        return
    click.secho(f"{paper.title} ({paper.year})", bold=True)
    click.echo(f"{paper.key} · {paper.subject} · {paper.source}\n{paper.summary}")
    if paper.parts:
        click.echo(f"parts: {', '.join(paper.parts)}")
    for claim in row["claims"]:
        mark, colour = MARKS[claim["verdict"]]
        click.echo(f"\n{click.style(mark, fg=colour)} {click.style(claim['id'], bold=True)}\n  {claim['says']}")
        lines = {
            "verdict": claim["text"] or "not run yet",
            "holds if": claim["holds"],
            "arms": ", ".join(claim["arms"]),
            "settings": ", ".join(f"{name}={value}" for name, value in claim["sizes"]["laptop"].items()),
            "reported": "; ".join(f"{name}: {value}" for name, value in claim["reported"].items()),
            "left out": "; ".join(claim["left_out"]),
            "run it": f"assay run {paper.key}/{claim['id']}",
        }
        for name, text in lines.items():
            if text:
                click.echo(f"  {click.style(name.ljust(9), fg='bright_black')} {text}")
    click.echo(f"\nclaims: {paper.module.path}")


def describe(paper: Paper, store: str | None) -> dict[str, Any]:
    """A paper as `assay list --json` prints it."""
    from assay.lab.ledger import Ledger

    known = summaries(paper, Ledger(store) if store else None)
    return {
        "key": paper.key,
        "subject": paper.subject,
        "title": paper.title,
        "year": paper.year,
        "source": paper.source,
        "summary": paper.summary,
        "parts": list(paper.parts),
        "claims": [
            {
                "id": identifier,
                "says": says,
                "size": known.get(identifier, {}).get("size"),
                "seeds": known.get(identifier, {}).get("seeds", 0),
                "verdict": known.get(identifier, {}).get("verdict"),
                "text": known.get(identifier, {}).get("text", ""),
            }
            for identifier, says in paper.sentences
        ],
    }


def detail(outline: ClaimOutline) -> dict[str, Any]:
    """What a claim declares."""
    return {
        "id": outline.id,
        "says": outline.says,
        "arms": list(outline.arms),
        "holds": outline.holds.text,
        "sizes": {name: dict(settings) for name, settings in outline.sizes.items()},
        "default_seeds": outline.seeds,
        "together": outline.together,
        "exclusive": outline.exclusive,
        "reported": dict(outline.reported),
        "left_out": list(outline.left_out),
    }


def _state(row: dict[str, Any], outline: ClaimOutline) -> dict[str, Any]:
    return next(each for each in row["claims"] if each["id"] == outline.id)
