"""What the documentation is given when it is built: the tables of the benchmarks, the help of every command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

BENCH = "<!-- benchmarks -->"
COMMANDS = "<!-- commands -->"
NONE_YET = "No table has been made yet. `make bench` makes one; it takes some minutes on an idle machine."


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Put the tables and the help where a page asks for them."""
    if BENCH in markdown:
        markdown = markdown.replace(BENCH, benchmarks(Path(config["docs_dir"]) / "bench"))
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, commands())
    return markdown


def benchmarks(folder: Path) -> str:
    """Every table in a folder, its headings one level lower."""
    texts = [path.read_text().strip() for path in sorted(folder.glob("*.md"))]
    return "\n\n".join(re.sub(r"^#", "##", text, flags=re.MULTILINE) for text in texts) or NONE_YET


def commands() -> str:
    """The help of every command, as a terminal of 80 columns shows it."""
    from assay.cli import COMMANDS as names
    from assay.cli import cli

    sections = []
    context = click.Context(cli, info_name="assay", max_content_width=80, terminal_width=80)
    for name in names:
        command = cli.get_command(context, name)
        assert command is not None
        sections += _help(command, context, name)
    return "\n\n".join(sections)


def _help(command: click.Command, parent: click.Context, name: str) -> list[str]:
    context = click.Context(command, parent=parent, info_name=name, max_content_width=80, terminal_width=80)
    texts = [f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```"]
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            texts += _help(found, context, inner)
    return texts
