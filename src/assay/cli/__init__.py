"""The terminal's face. `list`, `show`, `search` and `--help` never import torch.

Exit codes: 0 all as asked; 1 with `--check`, a claim does not hold; 2 bad usage; 3 trials missing or crashed.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from assay import __version__

COMMANDS = {
    "list": ("listing", "Papers, their claims and verdicts."),
    "search": ("listing", "Find papers by words."),
    "show": ("listing", "One paper or claim in full."),
    "run": ("running", "Run claims and judge them."),
    "plan": ("asking", "How many seeds a verdict needs, and how long they take."),
    "why": ("asking", "Why trials would run again: which code changed."),
    "calibrate": ("asking", "How often a claim that is not true is said to hold."),
    "report": ("sharing", "Write the wall of verdicts."),
    "diff": ("sharing", "Compare two ledgers."),
    "export": ("sharing", "Results as CSV, JSON, Markdown or LaTeX."),
    "pack": ("sharing", "Gather a paper's results into one file."),
    "probe": ("probing", "Look into your own checkpoints."),
    "image": ("picturing", "Methods on your own pictures."),
    "new": ("authoring", "Lay out the files of a paper."),
    "doctor": ("authoring", "Check this installation."),
    "completion": ("authoring", "Print the completion script of a shell."),
}
"""Command -> module that defines it and one line of help, so that nothing is imported before it is needed."""


class UsageProblem(click.ClickException):
    """Bad usage: one line on standard error and exit code 2."""

    exit_code = 2


class Commands(click.Group):
    """The commands, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"assay.cli.{COMMANDS[name][0]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from assay.lab.spelling import nearest

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UsageProblem(f"no command {args[0]!r}{nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        return names or super().shell_complete(ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="assay")
def cli() -> None:
    """Published deep-learning and imaging methods, and a laboratory that puts every paper's claim to the test.

    \b
    assay list                     what is here
    assay run cmd                  put a paper to the test
    assay report                   see all verdicts
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every mistake of the user's is one line and exit code 2."""
    try:
        code = cli.main(arguments, prog_name="assay", standalone_mode=False)
    except click.exceptions.Abort:
        code = _complain("stopped", 3)
    except click.ClickException as error:
        code = _complain(" ".join(error.format_message().split()), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has had enough
        code = 0
    except Exception as error:
        code = _complain(*_known(error))
    sys.exit(code if isinstance(code, int) else 0)


def _known(error: Exception) -> tuple[str, int]:
    """Message and exit code of the errors that the laboratory words for people; anything else is ours and is raised."""
    from assay.lab.claim import ClaimError
    from assay.lab.folder import StoreError

    if isinstance(error, ClaimError):
        return str(error), 2
    if isinstance(error, StoreError):
        return str(error), 3
    raise error


def _complain(message: str, code: int) -> int:
    click.echo(f"assay: {message}", err=True)
    return code


def echo_json(value: Any) -> None:
    """Print a value for a program to read."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
