"""`assay new`, `assay doctor`, `assay completion`: for those who add papers, and for their shells."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.options import json_option, store_option

MARKS = {"ok": ("✓", "green"), "note": ("·", "yellow"), "problem": ("✗", "red")}


@click.command("new")
@click.argument("key")
@click.option("--subject", required=True, metavar="NAME", help="Folder of its subject, e.g. optim.")
@click.option("--title", required=True, metavar="TEXT", help="The paper's title.")
@click.option("--year", type=click.IntRange(1900, 2100), help="When it appeared.")
@click.option("--source", default="", metavar="TEXT", help="Where, e.g. arXiv:2006.00719.")
@click.option("--summary", default="", metavar="TEXT", help="What it does, in one sentence.")
@click.option("--part", "parts", multiple=True, metavar="NAME", help="A public class or function of it (repeatable).")
@click.option(
    "--folder", default=".", metavar="PATH", help="In a source tree, or a package of your own.", show_default=True
)
def new_command(
    key: str,
    subject: str,
    title: str,
    year: int | None,
    source: str,
    summary: str,
    parts: tuple[str, ...],
    folder: str,
) -> None:
    """Lay out the files of a paper: its part, its test, its claims and its catalogue entry.

    \b
    assay new lion --subject optim --title "Symbolic Discovery of Optimization Algorithms" --year 2023
    assay new my-paper --subject own --title "..." --folder src/mypackage

    KEY is lower-case words with hyphens. The tests fail until they are written. For a package of your own, the lines
    that its pyproject.toml needs are printed.
    """
    from assay.cli.layout import NewPaper, home, write

    paper = NewPaper(key, subject, title, year, source, summary, parts)
    place = home(Path(folder))

    def near(path: Path) -> str:
        return os.path.relpath(path) if Path.cwd().is_relative_to(place.project) else str(path)

    for path in write(paper, place):
        click.echo(f"wrote {near(path)}")
    command = shlex.join(["python", "-m", "pytest", near(place.test(paper))])
    steps = [
        f"write the promises of the paper in {near(place.claims(paper))}, before any other code",
        f"write the tests in {near(place.test(paper))}, then the method in {near(place.part(paper))}",
        f"name its public parts in {near(place.part(paper).with_name('__init__.py'))} and {near(place.table(paper))}",
        f"run `{command}`, then `assay run {key}`",
    ]
    click.echo("\nNow:")
    for number, step in enumerate(steps, 1):
        click.echo(f"  {number}. {step}")
    if place.needs_entry_point:
        package = place.dotted
        click.echo("\nFor `assay` to find it, pyproject.toml needs (once, then install the package again):\n")
        click.echo(f'[project.entry-points."assay.papers"]\n{package.partition(".")[0]} = "{package}.claims"')


@click.command("doctor")
@store_option
@json_option
def doctor_command(store: str, as_json: bool) -> int:
    """Check this installation: what is ready, what is worth knowing, what must be mended.

    Exits with 3 when there is a problem.
    """
    from assay.cli.diagnosis import diagnose

    findings = diagnose(store)
    problems = sum(finding.state == "problem" for finding in findings)
    if as_json:
        echo_json([finding.__dict__ for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            mark, colour = MARKS[finding.state]
            label = click.style(f"{mark} {finding.state.ljust(7)}", fg=colour)
            click.echo(f"{label}  {click.style(finding.name.ljust(width), bold=True)}  {finding.text}")
            if finding.remedy:
                click.echo(f"{' ' * (width + 13)}{finding.remedy}")
        number = "no problems" if not problems else "1 problem" if problems == 1 else f"{problems} problems"
        click.echo(f"\n{number}")
    return 3 if problems else 0


@click.command("completion")
@click.argument("shell", metavar="bash|zsh|fish")
def completion_command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash  assay completion bash > ~/.local/share/bash-completion/completions/assay
    zsh   assay completion zsh > ~/.zfunc/_assay        (a folder in $fpath)
    fish  assay completion fish > ~/.config/fish/completions/assay.fish
    """
    from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

    from assay.cli import cli
    from assay.lab.spelling import nearest

    shells: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    if shell not in shells:
        raise UsageProblem(f"no completion for {shell!r}{nearest(shell, shells)}")
    complete = shells[shell](cli, {}, "assay", "_ASSAY_COMPLETE")
    click.echo(complete.source_template % complete.source_vars())
