"""Packs: one file a paper with the trials behind its verdicts. This is how reference results ship."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assay.lab.cache import shared
from assay.lab.catalogue import Paper
from assay.lab.claim import ClaimOutline
from assay.lab.folder import PackedFolder, write_pack
from assay.lab.identity import digest
from assay.lab.ledger import Ledger
from assay.lab.record import Record
from assay.lab.study import Results, Study, results, studies

SUMMARY = "summary.json"


def pack(paper: Paper, ledger: Ledger, path: Path | None = None) -> tuple[Path, list[dict[str, Any]]]:
    """Gather the trials of a paper's verdicts into one file, beside its claim file unless told otherwise.

    Trials of `smoke` size and those whose code has changed since are left behind. Claims of which the ledger has
    nothing keep what an earlier pack at the same place had.

    Returns:
        The path, and the summary of each claim (what `assay list` shows).
    """
    path = path or paper.pack
    earlier = PackedFolder(path) if path.exists() else None
    files: dict[str, bytes] = {}
    summary: list[dict[str, Any]] = []
    for outline in paper.claims:
        fresh = [found for found in _verdicts(paper, outline, ledger) if not found[1].verdict.stale]
        if fresh:
            for study, found in fresh:
                files |= _files(ledger, paper, outline, study, found)
            summary.append(_summary(outline, *fresh[0]))
        elif earlier is not None:
            files |= _kept(earlier, paper, outline)
            summary += [entry for entry in _read_summary(path) if entry["id"] == outline.id]
    files[SUMMARY] = (json.dumps(summary, indent=1, sort_keys=True) + "\n").encode()
    write_pack(path, files)
    return path, summary


def summaries(paper: Paper, store: Ledger | None = None) -> dict[str, dict[str, Any]]:
    """What is known of each claim of a paper, by claim id: size, seeds, verdict, a line of text.

    Args:
        paper: the paper.
        store: a ledger to judge from; the results that ship with the package where None, which takes no judging.
    """
    if store is None:
        if not paper.pack.exists():
            return {}
        return {entry["id"]: entry for entry in shared().get(paper.pack, SUMMARY, lambda: _read_summary(paper.pack))}
    found = {}
    for outline in paper.claims:
        judged = next(_verdicts(paper, outline, store), None)
        if judged is not None:
            found[outline.id] = _summary(outline, *judged)
    return found


def best(paper: Paper, outline: ClaimOutline, stores: list[Ledger], *, arrays: bool = False) -> tuple[Study, Results]:
    """The results of a claim in the first ledger that has any; an empty verdict at laptop size where none has."""
    for store in stores:
        judged = next(_verdicts(paper, outline, store, arrays=arrays), None)
        if judged is not None:
            return judged
    study = Study.of(paper, outline)
    return study, results(study, stores[0]) if stores else results(study, Ledger(paper.pack))


def shipped(paper: Paper) -> list[Ledger]:
    """The pack that ships with a paper, as a list of at most one ledger."""
    return [Ledger(paper.pack)] if paper.pack.exists() else []


def _verdicts(
    paper: Paper, outline: ClaimOutline, ledger: Ledger, *, arrays: bool = False
) -> Iterator[tuple[Study, Results]]:
    for study in studies(paper, outline, ledger):
        found = results(study, ledger, arrays=arrays)
        if found.records:
            yield study, found


def _summary(outline: ClaimOutline, study: Study, found: Results) -> dict[str, Any]:
    from assay.lab.verdict import summary

    verdict = found.verdict
    return {
        "id": outline.id,
        "size": verdict.size,
        "seeds": len(verdict.seeds),
        "verdict": verdict.outcome,
        "tags": list(verdict.tags),
        "text": summary(verdict),
    }


def _files(ledger: Ledger, paper: Paper, outline: ClaimOutline, study: Study, found: Results) -> dict[str, bytes]:
    """The files of a study in a ledger, the tuning behind it and the oldest promise on record included."""
    if study.size == "smoke":
        return {}
    wanted = list(found.records)
    wanted += [
        record
        for _, _, trial in study.tuning_trials()
        if (record := ledger.read(paper.key, outline.id, trial.digest)) is not None
    ]
    every = list(ledger.records(paper.key, outline.id))
    oldest = min(every, key=lambda record: record.started)
    if oldest.registration != outline.registration:
        wanted.append(oldest)
    names = {f"plans/{paper.key}/{outline.id}/{digest(dict(study.settings))}.json"}
    for record in wanted:
        names |= _names(record)
    return {name: data for name in names if (data := _read(ledger, name)) is not None}


def _names(record: Record) -> set[str]:
    stem = f"trials/{record.paper}/{record.claim}/{record.digest}"
    return {f"{stem}.json", f"{stem}.npz", f"code/{record.code}.json", f"provenance/{record.provenance}.json"}


def _kept(earlier: PackedFolder, paper: Paper, outline: ClaimOutline) -> dict[str, bytes]:
    names = [f"{kind}/{paper.key}/{outline.id}" for kind in ("trials", "plans")] + ["code", "provenance"]
    return {name: earlier.read(name) for prefix in names for name in earlier.names(prefix)}


def _read(ledger: Ledger, name: str) -> bytes | None:
    try:
        return ledger.folder.read(name)
    except (FileNotFoundError, KeyError):
        return None


def _read_summary(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(PackedFolder(path).read(SUMMARY)))
    except (KeyError, ValueError):
        return []
