"""The files of a new paper: where they go, and what stands in them until they are written."""

from __future__ import annotations

import json
import keyword
import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from assay.cli import UsageProblem
from assay.lab.catalogue import papers
from assay.lab.claim import ClaimError

KEY = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
SUBJECT = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
BANNED = {"utils", "misc", "helpers", "common", "contrib", "experimental"}
NOT_SUBJECTS = {"lab", "report", "cli", "claims", "train"}
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class NewPaper:
    """What is known of a paper before its files are there; refuses what cannot be one."""

    key: str
    subject: str
    title: str
    year: int | None = None
    source: str = ""
    summary: str = ""
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not KEY.fullmatch(self.key):
            raise UsageProblem(f"KEY must be lower-case words with hyphens, such as weight-decay, not {self.key!r}")
        if not SUBJECT.fullmatch(self.subject) or self.subject in NOT_SUBJECTS:
            raise UsageProblem(f"--subject must name a folder of methods, such as optim, not {self.subject!r}")
        for name, word in (("KEY", self.stem), ("--subject", self.subject)):
            if keyword.iskeyword(word) or word in BANNED:
                raise UsageProblem(f"{name} cannot be {word!r}: no module may have that name")
        for name, text in (("--title", self.title), ("--source", self.source), ("--summary", self.summary)):
            if not text.isprintable():
                raise UsageProblem(f"{name} must be one line of plain text, not {text!r}")
        if not self.title.strip():
            raise UsageProblem("--title must not be empty")
        for part in self.parts:
            if not part.isidentifier() or keyword.iskeyword(part):
                raise UsageProblem(f"--part must be the name of a class or function, not {part!r}")

    @property
    def stem(self) -> str:
        return self.key.replace("-", "_")

    @property
    def origin(self) -> str:
        """`2023, arXiv:2302.06675`, as far as it is known."""
        return ", ".join(str(each) for each in (self.year, self.source) if each)

    def entry(self, package: str) -> str:
        """Its entry in `papers.toml`."""
        values = {
            "title": self.title,
            "year": self.year,
            "source": self.source or None,
            "summary": self.summary or None,
            "parts": [f"{package}.{self.subject}.{part}" for part in self.parts],
        }
        lines = [
            f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value is not None
        ]
        return "\n".join([f"[{self.key}]", *lines]) + "\n"


@dataclass(frozen=True)
class Home:
    """A package that holds papers: this one's source tree, or somebody's own."""

    package: Path
    dotted: str
    project: Path
    needs_entry_point: bool = field(default=False)

    def part(self, paper: NewPaper) -> Path:
        return self.package / paper.subject / f"{paper.stem}.py"

    def claims(self, paper: NewPaper) -> Path:
        return self.package / "claims" / paper.subject / f"{paper.stem}.py"

    def table(self, paper: NewPaper) -> Path:
        return self.claims(paper).with_name("papers.toml")

    def test(self, paper: NewPaper) -> Path:
        return self.project / "tests" / paper.subject / f"test_{paper.stem}.py"


def home(folder: Path) -> Home:
    """The source tree that a folder lies in, or the package that it is.

    Raises:
        UsageProblem: it is neither.
    """
    folder = folder.resolve()
    for root in (folder, *folder.parents):
        package = root / "src" / "assay"
        if (package / "claims" / "__init__.py").is_file():
            return Home(package, "assay", root)
    if (folder / "__init__.py").is_file():
        names = [folder.name]
        above = folder.parent
        while (above / "__init__.py").is_file():
            names.insert(0, above.name)
            above = above.parent
        project = next((each for each in folder.parents if (each / "pyproject.toml").is_file()), above)
        return Home(folder, ".".join(names), project, needs_entry_point=True)
    raise UsageProblem(
        f"{folder} is in no source tree of assay and is no package; give --folder a clone of assay, or a package of "
        "your own (the folder with its __init__.py)"
    )


def write(paper: NewPaper, place: Home) -> list[Path]:
    """Write the files of a paper; all or none. Returns the paths, those of new `__init__` files included.

    Raises:
        UsageProblem: a file or the key is there already, or the folder cannot be written to.
    """
    texts = dict(_texts(paper, place))
    there = [path for path in texts if path.exists()]
    if there:
        raise UsageProblem(f"{there[0]} exists already; nothing was written")
    _refuse_known(paper, place)
    for path, line in _packages(paper, place):
        if not path.exists():
            texts[path] = line
    table = place.table(paper)
    before = table.read_text() if table.exists() else ""
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    written: list[Path] = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(path)
            path.write_text(text)
        table.write_text(f"{before}{gap}{paper.entry(place.dotted)}")
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise UsageProblem(f"cannot write {error.filename}: {error.strerror}; no file was left behind") from None
    return [*texts, table]


def _texts(paper: NewPaper, place: Home) -> Iterator[tuple[Path, str]]:
    origin = f" ({paper.origin})" if paper.origin else ""
    values = {
        "key": paper.key,
        "stem": paper.stem,
        "subject": paper.subject,
        "package": place.dotted,
        "heading": textwrap.fill(_docstring_line(f"{paper.title}{origin}."), 112),
        "summary": textwrap.fill(_docstring_line(paper.summary or paper.title), 112),
    }
    for kind, path in (("part", place.part(paper)), ("claims", place.claims(paper)), ("test", place.test(paper))):
        yield path, Template((TEMPLATES / f"{kind}.py.txt").read_text()).substitute(values)


def _packages(paper: NewPaper, place: Home) -> Iterator[tuple[Path, str]]:
    """The `__init__` files that have to be there, with what a new one says."""
    parts = f'"""Methods of the subject {paper.subject}: name each public part here, and in `__all__`."""\n'
    yield place.package / paper.subject / "__init__.py", f"{parts}\n__all__: list[str] = []\n"
    yield place.package / "claims" / "__init__.py", '"""One file a paper: its claims, and nothing else."""\n'
    yield place.claims(paper).with_name("__init__.py"), f'"""Claims of the papers on {paper.subject}."""\n'


def _refuse_known(paper: NewPaper, place: Home) -> None:
    tables = sorted((place.package / "claims").glob("*/papers.toml"))
    for table in tables:
        try:
            entries = tomllib.loads(table.read_text())
        except tomllib.TOMLDecodeError as error:
            raise UsageProblem(f"{table} is not well formed: {error}; mend it first") from None
        if paper.key in entries:
            raise UsageProblem(f"paper {paper.key!r} is in {table} already")
    try:
        known = papers()
    except ClaimError:
        return  # the catalogue that is installed is broken; the one that is written to has been looked through
    if place.needs_entry_point and paper.key in known:
        raise UsageProblem(f"there is a paper {paper.key!r} already, in {known[paper.key].folder}; choose another key")


def _docstring_line(text: str) -> str:
    r"""Text that may stand in a docstring: no backslash, no closing quotes.

    >>> _docstring_line('a "b" \\c')
    "a 'b' /c"
    """
    return " ".join(text.replace("\\", "/").replace('"', "'").split())
