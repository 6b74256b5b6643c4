"""The report of a probe on a user's own files: one page that carries everything it needs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from assay.report.wall import static, template_environment


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns. The first column names its row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for line in self.rows:
            if len(line) != len(self.columns):
                raise ValueError(f"rows: {list(line)!r} has {len(line)} cells; {len(self.columns)} columns are named")


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs (blank lines part them), and what is shown below: a table, a drawing, or both.

    Drawings come from `assay.report.drawing`, `assay.report.curve` and `assay.report.picture`.
    """

    heading: str
    text: str = ""
    table: Table | None = None
    drawing: Markup | Sequence[Markup] | None = None

    @property
    def paragraphs(self) -> list[str]:
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]

    @property
    def drawings(self) -> list[Markup]:
        if self.drawing is None:
            return []
        return [self.drawing] if isinstance(self.drawing, Markup) else list(self.drawing)


def write_probe_report(path: Path, title: str, sections: Sequence[Section], *, generated: str = "") -> Path:
    """Write a report as one HTML file that asks for nothing else, and return its path.

    Args:
        path: the file; its folder is made where it is missing.
        title: heading of the page.
        sections: what it says.
        generated: when, as an ISO time; left out where empty.

    Raises:
        TypeError: a drawing is not markup made by this package.
    """
    for section in sections:
        for drawing in section.drawings:
            if not isinstance(drawing, Markup):
                raise TypeError(f"drawing: {type(drawing).__name__} in section {section.heading!r} must be Markup")
    style = "\n" + static("wall.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    text = (
        template_environment("assay", generated)
        .get_template("probe.html.j2")
        .render(title=title, sections=sections, style=Markup(style), digest=digest)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "replace"))
    return path
