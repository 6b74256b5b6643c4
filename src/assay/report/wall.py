"""The wall: a folder of static pages with every verdict, which opens from a disk as well as from a server."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from assay.lab.statistics import benjamini_hochberg, expected_false
from assay.report import wording
from assay.report.detail import ClaimDetail, claim_detail
from assay.report.feed import STATE, State, atom, entries, remember
from assay.report.protocols import PaperLike, Results
from assay.report.source import Source, highlighted, part_source
from assay.report.view import ORDER, PaperView, Tally, claim_view, marked, paper_view

STATIC = ("wall.css", "wall.js")
DISCOVERIES = 0.05
"""False discovery rate of the Benjamini-Hochberg marks."""
OWN_PAGE = re.compile(r"(papers|code)/[A-Za-z0-9_~.-]+\.html")


def write_wall(
    folder: Path,
    papers: Sequence[PaperLike],
    results: Results,
    *,
    title: str = "assay",
    generated: str,
    command: str = "assay run",
    provenance: Callable[[str], Mapping[str, Any]] | None = None,
) -> Path:
    """Write the wall into a folder and return its `index.html`.

    A page a paper, a page a source file of a part, the list of all verdicts, a feed. What an earlier wall in the same
    folder said is read from its `state.json`, so that changed verdicts appear in the feed; pages of that wall which
    have no paper any more are removed, other files are left alone.

    Args:
        folder: made where it is missing.
        papers: in the order in which the catalogue has them.
        results: `(paper, claim)` -> the verdict and its records, with their arrays; asked once a claim.
        title: the wall's name.
        generated: when, as an ISO time.
        command: what re-runs a claim; its key and settings are put behind it.
        provenance: a record's `provenance` -> the facts about its machine.

    Raises:
        OSError: the folder cannot be written to.
    """
    environment = template_environment(title, generated)
    before = State.read(folder) if folder.is_dir() else State()
    pages: dict[str, None] = {}
    sources: dict[str, Source] = {}
    views: list[PaperView] = []
    folder.mkdir(parents=True, exist_ok=True)
    for place, paper in enumerate(papers):
        parts = {part: part_source(part) for part in paper.parts}
        sources |= {source.module: source for source in parts.values() if source is not None}
        view, details = _claims(paper, results, command, provenance or (lambda _: {}))
        views.append(view)
        around = (papers[place - 1] if place else None, papers[place + 1] if place + 1 < len(papers) else None)
        text = environment.get_template("paper.html.j2").render(
            up="../", paper=view, details=details, parts=parts, previous=around[0], following=around[1]
        )
        _put(folder, view.page, text, pages)
    for module, source in sources.items():
        code = highlighted(source.text, "L")
        text = environment.get_template("code.html.j2").render(up="../", module=module, code=code)
        _put(folder, f"code/{wording.slug(module)}.html", text, pages)
    for name in STATIC:
        _put(folder, f"static/{name}", static(name), {})
    views = marked(views, discoveries(views))
    verdicts = remember(before, (claim for view in views for claim in view.claims), generated)
    feed = atom(environment, title, entries(views, verdicts, generated), generated)
    _put(folder, "feed.xml", feed, {})
    _put(folder, "index.html", environment.get_template("index.html.j2").render(**_front(views)), {})
    for page in set(before.pages) - set(pages):
        if OWN_PAGE.fullmatch(page):
            (folder / page).unlink(missing_ok=True)
    _put(folder, STATE, State(verdicts, tuple(pages)).text(), {})
    return folder / "index.html"


def template_environment(title: str, generated: str) -> Environment:
    """The templates, with every text escaped unless it is markup already."""
    environment = Environment(
        loader=PackageLoader("assay.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"day": wording.day, "slug": wording.slug, "plural": wording.plural}
    environment.filters["number"] = wording.number
    environment.filters["xml"] = lambda text: re.sub(
        r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text
    )
    environment.globals |= {"wall": title, "generated": generated, "ORDER": ORDER, "WORDS": wording.WORDS}
    return environment


def static(name: str) -> str:
    """The text of a style sheet or script of ours."""
    return resources.files("assay.report").joinpath("static", name).read_text(encoding="utf-8")


def discoveries(papers: Sequence[PaperView], q: float = DISCOVERIES) -> dict[str, bool]:
    """Claim -> whether its verdict survives Benjamini and Hochberg's procedure; control claims are left out."""
    claims = [c for p in papers for c in p.claims if not c.control and c.outcome != "none" and math.isfinite(c.p_value)]
    survives = benjamini_hochberg([claim.p_value for claim in claims], q)
    return {c.key: bool(s) and c.outcome != "undecided" for c, s in zip(claims, survives, strict=True)}


def _claims(
    paper: PaperLike, results: Results, command: str, provenance: Callable[[str], Mapping[str, Any]]
) -> tuple[PaperView, list[ClaimDetail]]:
    details = []
    for claim in paper.claims:
        verdict, records = results(paper, claim)
        view = claim_view(paper, claim, verdict, records)
        details.append(claim_detail(view, claim, verdict, records, command=command, provenance=provenance))
    return paper_view(paper, [detail.view for detail in details]), details


def _front(papers: Sequence[PaperView]) -> dict[str, Any]:
    """What the first page needs."""
    tried = [paper for paper in papers if not paper.claims or any(not claim.control for claim in paper.claims)]
    claims = [claim for paper in tried for claim in paper.claims if not claim.control]
    judged = [claim for claim in claims if claim.outcome != "none"]
    subjects = {
        subject: [paper for paper in tried if paper.subject == subject]
        for subject in dict.fromkeys(paper.subject for paper in tried)
    }
    return {
        "up": "",
        "papers": tried,
        "claims": claims,
        "tally": Tally.of(claims),
        "chance": expected_false(len(judged)),
        "decided": sum(claim.outcome in ("holds", "fails") for claim in judged),
        "survivors": sum(claim.survives for claim in judged),
        "rate": DISCOVERIES,
        "subjects": subjects,
        "counts": {
            subject: Tally.of(c for p in of for c in p.claims if not c.control) for subject, of in subjects.items()
        },
        "years": sorted({paper.year for paper in tried}, reverse=True),
        "controls": [(paper, claim) for paper in papers for claim in paper.claims if claim.control],
    }


def _put(folder: Path, name: str, text: str, pages: dict[str, None]) -> None:
    """Write a file whole: a reader sees the old one or the new one."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(text.encode("utf-8", "replace"))
    os.replace(partial, path)
    pages[name] = None
