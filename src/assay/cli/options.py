"""Options that several commands take, and how their text is read."""

from __future__ import annotations

import re
from typing import Any

import click

from assay.cli import UsageProblem
from assay.lab.catalogue import Paper, find, papers
from assay.lab.claim import ClaimOutline

STORE = "assay-ledger"

store_option = click.option(
    "--store",
    metavar="PATH",
    default=STORE,
    envvar="ASSAY_STORE",
    show_default=True,
    help="The ledger: a folder or URL.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="For a program to read.")


class Duration(click.ParamType):  # type: ignore[type-arg]
    """`90`, `90s`, `60m`, `1h30m` -> seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", value)
        parts = [float(each or 0) for each in found.groups()] if found else []
        if not parts or sum(parts) <= 0:
            raise UsageProblem(f"{_name(param)} takes a time such as 90s, 60m or 1h30m, not {value!r}")
        return parts[0] * 3600 + parts[1] * 60 + parts[2]


class Bytes(click.ParamType):  # type: ignore[type-arg]
    """`500M`, `4G` -> bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([\d.]+)([KMGT])i?B?", value.strip(), re.IGNORECASE)
        if not found or float(found[1]) <= 0:
            raise UsageProblem(f"{_name(param)} takes a size such as 500M or 4G, not {value!r}")
        return int(float(found[1]) * 1024 ** ("KMGT".index(found[2].upper()) + 1))


def settings_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """`("epochs=10", ...)` as a dict; the texts are read by the type of each setting's default."""
    found = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise UsageProblem(f"--set takes NAME=VALUE, not {pair!r}")
        found[name] = value
    return found


def chosen(targets: tuple[str, ...], subject: str | None = None) -> list[tuple[Paper, ClaimOutline]]:
    """The claims that targets and a subject name; all there are when neither is given."""
    from assay.lab.spelling import nearest

    known = papers()
    if targets:
        pairs = [pair for target in targets for pair in find(target, known)]
    else:
        pairs = [(paper, outline) for paper in known.values() for outline in paper.claims]
    if subject is not None:
        subjects = {paper.subject for paper in known.values()}
        if subject not in subjects:
            raise UsageProblem(f"--subject: no subject {subject!r}{nearest(subject, sorted(subjects))}")
        pairs = [pair for pair in pairs if pair[0].subject == subject]
    return pairs


def _name(param: click.Parameter | None) -> str:
    return param.opts[0] if param is not None else "the value"
