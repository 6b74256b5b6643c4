"""The catalogue: papers from `papers.toml`, claims from the source text of their files. Nothing here imports torch."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import math
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from assay.lab.cache import shared
from assay.lab.claim import Claim, ClaimError, ClaimOutline
from assay.lab.declaration import declarations, outlines, parsed
from assay.lab.spelling import nearest

ENTRY_POINTS = "assay.papers"
BUILT_IN = "assay.claims"


@dataclass(frozen=True)
class ModuleRef:
    """Where a claim file is: a dotted name that can be imported, or the path of a file outside any package."""

    name: str
    path: str
    standalone: bool = False

    def load(self) -> ModuleType:
        """Import it."""
        if not self.standalone:
            return importlib.import_module(self.name)
        _make_neighbours_importable(Path(self.path).parent)
        spec = importlib.util.spec_from_file_location(self.name, self.path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.name] = module
        spec.loader.exec_module(module)
        return module


@dataclass(frozen=True)
class Paper:
    """One row of the catalogue."""

    key: str
    subject: str
    title: str
    year: int
    source: str
    summary: str
    parts: tuple[str, ...]
    folder: Path
    module: ModuleRef

    @cached_property
    def claims(self) -> tuple[ClaimOutline, ...]:
        """The outlines of its claims, in the order of the file, read without importing it."""
        path = Path(self.module.path)
        return tuple(outlines(path.read_text(), str(path), paper=self.key)) if path.exists() else ()

    @property
    def sentences(self) -> list[tuple[str, str]]:
        """Id and sentence of each claim; remembered between calls, so that listing many papers parses none."""
        path = Path(self.module.path)
        if not path.exists():
            return []
        found = shared().get(path, f"sentences of {self.key}", lambda: [[each.id, each.says] for each in self.claims])
        return [(str(identifier), str(says)) for identifier, says in found]

    @property
    def pack(self) -> Path:
        """The file with the results that ship beside the claim file."""
        return Path(self.module.path).with_suffix(".zip")

    def claim(self, identifier: str) -> ClaimOutline:
        """One claim by its id."""
        for outline in self.claims:
            if outline.id == identifier:
                return outline
        known = [outline.id for outline in self.claims]
        raise ClaimError(f"paper {self.key} has no claim {identifier!r}{nearest(identifier, known)}")

    def load(self, identifier: str) -> Claim:
        """One claim with its function; imports the claim file, and torch with it."""
        outline = self.claim(identifier)
        function = getattr(self.module.load(), identifier, None)
        loaded = getattr(function, "claim", None)
        if not isinstance(loaded, Claim):
            raise ClaimError(f"{self.module.path} defines no claim {identifier!r} when imported")
        return Claim(outline, loaded.function)


_CLAIM_FOLDERS: set[Path] = set()


def _make_neighbours_importable(folder: Path) -> None:
    """Let a claim file use the modules beside it, and not those of the same names beside another claim file."""
    _CLAIM_FOLDERS.add(folder)
    for file in folder.glob("*.py"):
        loaded = getattr(sys.modules.get(file.stem), "__file__", None)
        if loaded and Path(loaded).parent != folder and Path(loaded).parent in _CLAIM_FOLDERS:
            del sys.modules[file.stem]
    sys.path[:] = [str(folder), *(each for each in sys.path if each != str(folder))]


def papers() -> dict[str, Paper]:
    """Every paper of this package and of the packages that registered theirs, by key.

    >>> papers()["cmd"].year
    2022
    """
    found: dict[str, Paper] = {}
    for package, folder in _folders():
        for paper in _read_folder(package, folder):
            if paper.key in found:
                raise ClaimError(f"paper {paper.key!r} is defined in {found[paper.key].folder} and in {folder}")
            found[paper.key] = paper
    return found


def find(target: str, known: Mapping[str, Paper] | None = None) -> list[tuple[Paper, ClaimOutline]]:
    """The claims that a target names: `KEY`, `KEY/CLAIM`, a path of a claim file, or `path.py/CLAIM`.

    Raises:
        ClaimError: nothing has that name; the message gives the nearest one.
    """
    if ".py" in target:
        path, _, identifier = target.partition(".py")
        paper = from_file(Path(path + ".py"))
        identifier = identifier.lstrip("/:")
    else:
        key, _, identifier = target.partition("/")
        known = papers() if known is None else known
        if key not in known:
            raise ClaimError(f"no paper {key!r}{nearest(key, known)}")
        paper = known[key]
    chosen = (paper.claim(identifier),) if identifier else paper.claims
    if not chosen:
        raise ClaimError(f"paper {paper.key} has no claims yet")
    return [(paper, outline) for outline in chosen]


def from_file(path: Path) -> Paper:
    """The paper that a claim file outside any package belongs to."""
    path = path.resolve()
    if not path.is_file():
        raise ClaimError(f"no claim file {path}")
    text = path.read_text()
    tree = parsed(text, str(path))
    keys = {key for _, key in declarations(tree)}
    if len(keys) != 1:
        raise ClaimError(
            f"{path} must declare claims of exactly one paper with @claim; it declares {sorted(keys) or 'none'}"
        )
    key = keys.pop()
    table = path.with_name("papers.toml")
    entry = tomllib.loads(table.read_text()).get(key, {}) if table.is_file() else {}
    doc = (ast.get_docstring(tree) or key).splitlines()[0]
    stamp = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    reference = ModuleRef(f"assay_claims_{path.stem}_{stamp}", str(path), standalone=True)
    return _paper(
        key, {"title": doc, **entry}, subject=entry.get("subject", "own"), folder=path.parent, module=reference
    )


def search(words: str, known: Mapping[str, Paper] | None = None) -> list[tuple[float, Paper]]:
    """Papers ranked by how well the words match key, title, summary and claims, best first.

    Rare words count more than common ones (inverse document frequency); a match in key or title counts three times, and
    a word matches longer words that begin with it.
    """
    known = papers() if known is None else known
    documents = {}
    for key, paper in known.items():
        body = " ".join([paper.summary, paper.source, paper.subject, *(says for _, says in paper.sentences)])
        documents[key] = (_words(f"{key} {paper.title}"), _words(body))
    wanted = list(dict.fromkeys(_words(words)))
    scores: dict[str, float] = dict.fromkeys(known, 0.0)
    for word in wanted:
        hits = {
            key: 3 * sum(each.startswith(word) for each in head) + sum(each.startswith(word) for each in body)
            for key, (head, body) in documents.items()
        }
        matching = sum(count > 0 for count in hits.values())
        rarity = math.log(1 + len(known) / matching) if matching else 0.0
        for key, count in hits.items():
            scores[key] += rarity * count / (count + 1.5)
    ranked = sorted(
        ((score, known[key]) for key, score in scores.items() if score > 0), key=lambda pair: (-pair[0], pair[1].key)
    )
    return ranked


def _folders() -> Iterator[tuple[str, Path]]:
    yield BUILT_IN, Path(__file__).parent.parent / "claims"
    for point in entry_points(group=ENTRY_POINTS):
        spec = importlib.util.find_spec(point.module)
        if spec is None or not spec.submodule_search_locations:
            raise ClaimError(f"entry point {point.name!r} of group {ENTRY_POINTS}: {point.module} is no package")
        yield point.module, Path(next(iter(spec.submodule_search_locations)))


def _read_folder(package: str, folder: Path) -> Iterator[Paper]:
    for table in sorted([*folder.glob("papers.toml"), *folder.glob("*/papers.toml")]):
        inner = table.parent
        subject = inner.name if inner != folder else package.rpartition(".")[2]
        dotted = package if inner == folder else f"{package}.{inner.name}"
        try:
            entries = tomllib.loads(table.read_text())
        except tomllib.TOMLDecodeError as error:
            raise ClaimError(f"{table}: {error}") from None
        for key, entry in entries.items():
            stem = key.replace("-", "_")
            module = ModuleRef(f"{dotted}.{stem}", str(inner / f"{stem}.py"))
            yield _paper(key, entry, subject=subject, folder=inner, module=module)


def _paper(key: str, entry: Mapping[str, Any], *, subject: str, folder: Path, module: ModuleRef) -> Paper:
    try:
        return Paper(
            key=key,
            subject=subject,
            title=str(entry["title"]),
            year=int(entry.get("year", 0)),
            source=str(entry.get("source", "")),
            summary=str(entry.get("summary", "")),
            parts=tuple(entry.get("parts", ())),
            folder=folder,
            module=module,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClaimError(f"{folder / 'papers.toml'}: entry [{key}] is not well formed: {error}") from None


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())
