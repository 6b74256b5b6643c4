"""What the documentation is given when it is built: public parts, the help of every command, tables of benchmarks."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import click

BENCH = "<!-- benchmarks -->"
COMMANDS = "<!-- commands -->"
PARTS = re.compile(r"^<!-- parts ([\w.]+) -->$", re.MULTILINE)
SOURCE = Path(__file__).parents[1] / "src"
NONE_YET = "No table has been made yet. `make bench` makes one; it takes some minutes on an idle machine."


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Put the tables and the help where a page asks for them."""
    if BENCH in markdown:
        markdown = markdown.replace(BENCH, benchmarks(Path(config["docs_dir"]) / "bench"))
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, commands())
    return PARTS.sub(lambda found: parts(found[1]), markdown)


def parts(package: str) -> str:
    """A package's docstring, and each name of its `__all__` from the module that defines it."""
    tree = ast.parse(SOURCE.joinpath(*package.split("."), "__init__.py").read_text())
    homes: dict[str, str] = {}
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            home = f"{package}.{node.module or ''}".strip(".") if node.level else node.module or ""
            homes |= {alias.asname or alias.name: f"{home}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
    head = f"::: {package}\n    options:\n      show_root_heading: false\n      members: false"
    return "\n\n".join([head, *(f"::: {homes[name]}" for name in names)])


def benchmarks(folder: Path) -> str:
    """Every table in a folder, its headings one level lower."""
    texts = [path.read_text().strip() for path in sorted(folder.glob("*.md"))]
    return "\n\n".join(re.sub(r"^#", "##", text, flags=re.MULTILINE) for text in texts) or NONE_YET


def commands() -> str:
    """The help of every command, as a terminal of 80 columns shows it."""
    import assay.cli

    cli = assay.cli.cli
    sections = []
    context = click.Context(cli, info_name="assay", max_content_width=80, terminal_width=80)
    for name in assay.cli.COMMANDS:
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
