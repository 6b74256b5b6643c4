"""Results as tables for other programs: CSV, JSON, Markdown, LaTeX."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

from assay.lab.catalogue import Paper
from assay.lab.diff import numbers
from assay.lab.study import Results

FORMATS = ("csv", "json", "markdown", "latex")


@dataclass(frozen=True)
class Row:
    """One measure of one arm of one claim."""

    paper: str
    claim: str
    verdict: str
    size: str
    arm: str
    measure: str
    mean: float
    sd: float
    seeds: int


def rows(found: Iterable[tuple[Paper, Results]]) -> list[Row]:
    """A row for every number that the trials behind some verdicts returned."""
    table = []
    for paper, results in found:
        for arm in dict.fromkeys(arm for record in results.records for arm in record.arms):
            for measure, values in numbers(results.records, arm).items():
                spread = stdev(values.values()) if len(values) > 1 else math.nan
                verdict = results.verdict.outcome or "none"
                claim = results.records[0].claim
                mean = fmean(values.values())
                table.append(
                    Row(paper.key, claim, verdict, results.verdict.size, arm, measure, mean, spread, len(values))
                )
    return table


def write(table: Sequence[Row], form: str) -> str:
    """The table as text.

    Args:
        table: rows.
        form: one of `FORMATS`.

    Raises:
        ValueError: the format is unknown.
    """
    if form not in FORMATS:
        raise ValueError(f"form={form!r} must be one of {', '.join(FORMATS)}")
    records = [asdict(row) for row in table]
    names = list(Row.__dataclass_fields__)
    if form == "json":
        clean = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in records
        ]
        return json.dumps(clean, indent=2) + "\n"
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return out.getvalue()
    cells = [[_cell(record[name]) for name in names] for record in records]
    if form == "markdown":
        lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
        return (
            "\n".join(
                [*lines, *(f"| {' | '.join(each.replace('|', chr(92) + '|') for each in row)} |" for row in cells)]
            )
            + "\n"
        )
    body = "\n".join(" & ".join(_latex(each) for each in row) + r" \\" for row in cells)
    head = " & ".join(_latex(name) for name in names)
    columns = "llllllrrr"
    return f"\\begin{{tabular}}{{{columns}}}\n\\hline\n{head} \\\\\n\\hline\n{body}\n\\hline\n\\end{{tabular}}\n"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _latex(text: str) -> str:
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(marks.get(each, f"\\{each}" if each in "&%$#_{}" else each) for each in text)
