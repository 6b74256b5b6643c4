"""The feed of verdicts, new and changed, and the memory of what the wall said last time."""

from __future__ import annotations

import datetime
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment

from assay.report.view import ORDER, ClaimView, PaperView
from assay.report.wording import WORDS, slug

STATE = "state.json"


@dataclass(frozen=True)
class Change:
    """A verdict that became another one."""

    before: str
    after: str
    updated: str


@dataclass(frozen=True)
class Remembered:
    """What the wall last said of a claim, and every change it has shown."""

    outcome: str
    updated: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class State:
    """What a wall remembers in `state.json`: its verdicts by claim, and the pages that it wrote."""

    verdicts: Mapping[str, Remembered] = field(default_factory=dict)
    pages: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> State:
        """The state of the wall in a folder; empty, with a warning, where the file cannot be read."""
        file = folder / STATE
        try:
            body = json.loads(file.read_text(encoding="utf-8"))
            verdicts = {str(key): _remembered(value) for key, value in body["verdicts"].items()}
            return cls(verdicts, tuple(str(page) for page in body["pages"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            kept = file.with_suffix(".broken")
            file.replace(kept)
            warnings.warn(f"{file} cannot be read ({error}); kept as {kept.name}, the feed starts anew", stacklevel=2)
            return cls()

    def text(self) -> str:
        """As it is kept."""
        return json.dumps({"format": 1, **asdict(self)}, indent=1, sort_keys=True) + "\n"


def _remembered(value: Mapping[str, Any]) -> Remembered:
    changes = tuple(
        Change(_outcome(each["before"]), _outcome(each["after"]), str(each["updated"])) for each in value["changes"]
    )
    return Remembered(_outcome(value["outcome"]), str(value["updated"]), changes)


def _outcome(value: object) -> str:
    if value not in ORDER:
        raise ValueError(f"unknown outcome {value!r}")
    return str(value)


def remember(before: State, claims: Iterable[ClaimView], generated: str) -> dict[str, Remembered]:
    """The verdicts of now, with a change noted wherever one differs from the one before.

    A claim that had no verdict before is new, not changed. One whose verdict went away keeps its history.
    """
    found = dict(before.verdicts)
    for claim in claims:
        old = before.verdicts.get(claim.key)
        updated = _instant(claim.updated, generated)
        if claim.outcome == "none":
            continue
        changes = old.changes if old is not None else ()
        if old is not None and old.outcome != claim.outcome:
            changes = (*changes, Change(old.outcome, claim.outcome, max(updated, old.updated)))
        found[claim.key] = Remembered(claim.outcome, updated, changes)
    return found


@dataclass(frozen=True)
class Entry:
    """One entry of the feed."""

    id: str
    title: str
    updated: str
    link: str
    summary: str
    category: str


def entries(papers: Sequence[PaperView], verdicts: Mapping[str, Remembered], generated: str) -> list[Entry]:
    """An entry a verdict, and one a change of a verdict; newest first. No identifier depends on where the wall lies."""
    found = []
    for paper in papers:
        for claim in paper.claims:
            known = verdicts.get(claim.key)
            if known is None:
                continue
            urn = f"urn:assay:{slug(paper.key)}:{slug(claim.id)}"
            link = f"{paper.page}#{claim.anchor}"
            told = f"{claim.says} ({paper.title}, {paper.year})"
            if claim.outcome != "none":
                summary = f"{told} {claim.word}: {claim.reason or claim.criterion}. {claim.effect}".strip()
                title = f"{WORDS[claim.outcome]}: {claim.key}"
                found.append(Entry(urn, title, _instant(claim.updated, generated), link, summary, claim.outcome))
            for count, change in enumerate(known.changes, start=1):
                title = f"{change.before} → {change.after}: {claim.key}"
                found.append(Entry(f"{urn}:change-{count}", title, change.updated, link, told, change.after))
    return sorted(found, key=lambda entry: (entry.updated, entry.id), reverse=True)


def atom(environment: Environment, title: str, found: Sequence[Entry], generated: str) -> str:
    """The feed as Atom."""
    updated = max((entry.updated for entry in found), default=_instant(generated, generated))
    return environment.get_template("feed.xml.j2").render(title=title, entries=found, updated=updated)


def _instant(text: str, otherwise: str) -> str:
    """An ISO time as Atom wants it: in UTC, to the second, with its zone. Times without a zone are taken as UTC."""
    for candidate in (text, otherwise):
        try:
            time = datetime.datetime.fromisoformat(candidate)
        except ValueError:
            continue
        if time.tzinfo is None:
            time = time.replace(tzinfo=datetime.UTC)
        return time.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return "1970-01-01T00:00:00Z"
