"""What the wall shows, as plain values: the templates read these and decide nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup

from assay.lab.record import PartVerdict, Record, Verdict
from assay.report.drawing import glance
from assay.report.protocols import OutlineLike, PaperLike
from assay.report.wording import WORDS, interval, signed, slug

ORDER = ("holds", "fails", "undecided", "none")


@dataclass(frozen=True)
class ClaimView:
    """One claim in one line."""

    paper: str
    id: str
    says: str
    outcome: str
    reason: str
    glance: Markup
    effect: str
    criterion: str
    more: int
    tags: tuple[str, ...]
    control: bool
    level: float
    p_value: float
    updated: str
    survives: bool = False

    @property
    def key(self) -> str:
        return f"{self.paper}/{self.id}"

    @property
    def anchor(self) -> str:
        return f"claim-{slug(self.id)}"

    @property
    def page(self) -> str:
        return f"papers/{slug(self.paper)}.html"

    @property
    def word(self) -> str:
        return WORDS[self.outcome]

    @property
    def behaved(self) -> bool | None:
        """Of a control claim, which must not hold; None where it has no verdict."""
        return None if self.outcome == "none" else self.outcome != "holds"


@dataclass(frozen=True)
class PaperView:
    """One paper of the list."""

    key: str
    subject: str
    title: str
    year: int
    source: str
    summary: str
    parts: tuple[str, ...]
    claims: tuple[ClaimView, ...]

    @property
    def page(self) -> str:
        return f"papers/{slug(self.key)}.html"

    @property
    def link(self) -> str:
        """Where the paper can be read, made from an arXiv number or a DOI; empty without either."""
        arxiv = re.search(r"arXiv:\s*(\d{4}\.\d{4,5})", self.source)
        doi = re.search(r"\b(10\.\d{4,9}/[A-Za-z0-9._()/-]+[A-Za-z0-9])", self.source)
        if arxiv:
            return f"https://arxiv.org/abs/{arxiv[1]}"
        return f"https://doi.org/{doi[1]}" if doi else ""

    def count(self, outcome: str) -> int:
        """How many of its claims, controls aside, came out this way."""
        return sum(claim.outcome == outcome for claim in self.claims if not claim.control)


@dataclass(frozen=True)
class Tally:
    """Outcomes counted."""

    counts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(ORDER, 0))

    @classmethod
    def of(cls, claims: Iterable[ClaimView]) -> Tally:
        counts = dict.fromkeys(ORDER, 0)
        for claim in claims:
            counts[claim.outcome] += 1
        return cls(counts)

    @property
    def verdicts(self) -> int:
        return sum(self.counts[outcome] for outcome in ORDER[:3])

    @property
    def shares(self) -> list[tuple[str, float]]:
        """Percent of the verdicts that each outcome has; those without any are left out."""
        found = [(o, 100 * self.counts[o] / self.verdicts) for o in ORDER[:3] if self.counts[o]]
        return found if self.verdicts else []


def deciding(verdict: Verdict) -> PartVerdict | None:
    """The part that made the verdict what it is: the one furthest from holding, in units of its own interval."""
    same = [part for part in verdict.parts if part.outcome == verdict.outcome] or list(verdict.parts)
    return min(same, key=_room) if same else None


def _room(part: PartVerdict) -> float:
    half = (part.high - part.low) / 2
    return part.mean / half if half > 0 else math.copysign(math.inf, part.mean)


def p_value(verdict: Verdict) -> float:
    """One p-value for a claim of several parts.

    All parts must hold for the claim to hold (the largest p counts); one that fails is enough for it to fail (the
    smallest p, times the number of parts that had the chance). NaN without a verdict.
    """
    if verdict.outcome is None or not verdict.parts:
        return math.nan
    values = [part.p_value for part in verdict.parts]
    if verdict.outcome == "fails":
        failing = [part.p_value for part in verdict.parts if part.outcome == "fails"] or values
        return min(1.0, min(failing) * len(values))
    return max(values)


def claim_view(paper: PaperLike, claim: OutlineLike, verdict: Verdict, records: Sequence[Record]) -> ClaimView:
    """A claim in one line."""
    part = deciding(verdict)
    outcome = verdict.outcome or "none"
    drawn = part is not None and verdict.outcome is not None
    tags = list(verdict.tags)
    tags += ["amended"] if verdict.amended and "amended" not in tags else []
    tags += ["stale"] if verdict.stale and "stale" not in tags else []
    return ClaimView(
        paper=paper.key,
        id=claim.id,
        says=claim.says,
        outcome=outcome,
        reason=verdict.reason,
        glance=glance(part.mean, part.low, part.high, outcome) if drawn and part else Markup(""),
        effect=f"{signed(part.mean)} {interval(part.low, part.high)} {part.unit}".strip() if drawn and part else "",
        criterion=part.text if part else str(getattr(claim.holds, "text", claim.holds)),
        more=max(0, len(verdict.parts) - 1),
        tags=tuple(tags),
        control=bool(claim.control),
        level=verdict.level,
        p_value=p_value(verdict),
        updated=max((record.started for record in records), default=""),
    )


def paper_view(paper: PaperLike, claims: Sequence[ClaimView]) -> PaperView:
    """A paper of the list."""
    return PaperView(
        paper.key,
        paper.subject,
        paper.title,
        paper.year,
        paper.source,
        paper.summary,
        tuple(paper.parts),
        tuple(claims),
    )


def marked(papers: Sequence[PaperView], survives: Mapping[str, bool]) -> list[PaperView]:
    """The papers with the Benjamini-Hochberg mark set on the claims whose key says so."""
    return [replace(p, claims=tuple(replace(c, survives=survives.get(c.key, False)) for c in p.claims)) for p in papers]
