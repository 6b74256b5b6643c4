"""Source text of parts, found without importing them, and highlighted."""

from __future__ import annotations

import ast
import html
import importlib.machinery
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup, escape
from pygments import highlight  # type: ignore[import-untyped, unused-ignore]
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped, unused-ignore]
from pygments.lexers import PythonLexer  # type: ignore[import-untyped, unused-ignore]

LEXER = PythonLexer(stripnl=False)
FORMATTER = HtmlFormatter(nowrap=True)


@dataclass(frozen=True)
class Source:
    """The file that holds a part: its dotted module name, its text, and the line on which the part begins."""

    module: str
    text: str
    line: int


def highlighted(text: str, anchor: str) -> Markup:
    """Python as HTML: one `<span id="anchor-N">` a line, and a class a token."""
    code = highlight(text.strip("\n") + "\n", LEXER, FORMATTER)  # escapes the text, and closes its tags at line ends
    lines = code.removesuffix("\n").split("\n")
    return Markup("".join(f'<span id="{escape(anchor)}-{n}">{line}\n</span>' for n, line in enumerate(lines, start=1)))


def plain(text: str) -> str:
    """The text that highlighted code shows."""
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def part_source(part: str) -> Source | None:
    """The source of `package.module.Name` or of a whole module; None where there is no readable source.

    Nothing below the top-level package is imported: a part that its package exports is looked up in the package's
    files by name.

    >>> part_source("assay.report.source.Source").module
    'assay.report.source'
    >>> part_source("assay.report.Source").module, part_source("assay.report.nowhere")
    ('assay.report.source', None)
    """
    *parents, name = part.split(".")
    if not all(each.isidentifier() for each in (*parents, name)):
        return None
    own = _module_file(part)
    if own is not None:
        return _read(part, own, None)
    package = ".".join(parents)
    file = _module_file(package) if parents else None
    if file is None:
        return None
    for module, path in [(package, file), *_siblings(package, file)]:
        found = _read(module, path, name)
        if found is not None:
            return found
    return None


def _siblings(package: str, file: Path) -> Iterator[tuple[str, Path]]:
    if file.name == "__init__.py":
        for path in sorted(file.parent.glob("*.py")):
            if path.name != "__init__.py":
                yield f"{package}.{path.stem}", path
        for path in sorted(file.parent.glob("*/__init__.py")):
            yield from _siblings(f"{package}.{path.parent.name}", path)


@cache
def _root(name: str) -> tuple[str, ...]:
    try:
        spec = importlib.machinery.PathFinder.find_spec(name) or importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ()
    return tuple(spec.submodule_search_locations or ()) if spec else ()


def _module_file(dotted: str) -> Path | None:
    first, *rest = dotted.split(".")
    for root in _root(first):
        base = Path(root, *rest)
        for candidate in (base / "__init__.py", base.with_suffix(".py") if rest else base / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@cache
def _parsed(path: Path) -> tuple[str, dict[str, int]]:
    try:
        text = path.read_text(encoding="utf-8")
        body = ast.parse(text).body
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
        return "", {}
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return text, {node.name: node.lineno for node in body if isinstance(node, kinds)}


def _read(module: str, path: Path, name: str | None) -> Source | None:
    text, names = _parsed(path)
    if not text or (name is not None and name not in names):
        return None
    return Source(module, text, names[name] if name is not None else 1)
