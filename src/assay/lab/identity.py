"""The code a trial depends on, and a digest of it that comments, docstrings and the laboratory itself do not change.

A claim depends on its own function, on what this uses of its module, and on every module of its own package that these
import, transitively. A package's `__init__` that only passes a name on is looked through, so that
`from assay import nn; nn.convnet(...)` depends on the file that defines `convnet` and not on its neighbours.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from assay.lab.catalogue import ModuleRef

NOT_CODE = ("assay.lab", "assay.report", "assay.cli")


@dataclass(frozen=True)
class Code:
    """Digest of everything a claim's results depend on, and of each file by itself."""

    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        return digest(dict(sorted(self.files.items())))


def digest(value: object) -> str:
    """A short SHA-256 of a JSON-able value that does not depend on the order of keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def fingerprint(module: ModuleRef, claim: str) -> Code:
    """The code that one claim of a module depends on.

    Args:
        module: the claim file.
        claim: the claim's id; what other claims of the file use and it does not is left out.
    """
    tree = _used_by(claim, ast.parse(Path(module.path).read_text()))
    label = Path(module.path).name if module.standalone else module.name
    files = {label: _hash(tree)}
    finder = _Finder(module)
    package = module.name.rpartition(".")[0]
    pending = list(finder.imports(tree, package))
    while pending:
        name = pending.pop()
        if name in files or name.startswith(NOT_CODE):
            continue
        path = finder.path(name)
        if path is None:
            continue
        parsed = _parse(str(path), path.stat().st_mtime_ns)
        files[name] = _hash(parsed)
        pending.extend(finder.imports(parsed, name if path.name == "__init__.py" else name.rpartition(".")[0]))
    return Code(files)


class _Finder:
    """Finds which modules of the claim's own packages a syntax tree uses."""

    def __init__(self, module: ModuleRef) -> None:
        self.folder = Path(module.path).parent if module.standalone else None
        self.roots = {"assay"} if module.standalone else {"assay", module.name.partition(".")[0]}

    def path(self, name: str) -> Path | None:
        """The file of a module, or None if it belongs to another package."""
        if self.folder is not None and "." not in name and (self.folder / f"{name}.py").is_file():
            return self.folder / f"{name}.py"
        if name.partition(".")[0] not in self.roots:
            return None
        return _locate(name)

    def imports(self, tree: ast.Module, package: str) -> Iterator[str]:
        modules: dict[str, str] = {}  # local name -> module it is bound to
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if self.path(alias.name) is None:
                        continue
                    if alias.asname:
                        modules[alias.asname] = alias.name
                    else:
                        yield alias.name
            elif isinstance(node, ast.ImportFrom):
                source = _absolute(node, package)
                if self.path(source) is None:
                    continue
                for alias in node.names:
                    if alias.name == "*":
                        yield source
                    elif self.path(f"{source}.{alias.name}") is not None:
                        modules[alias.asname or alias.name] = f"{source}.{alias.name}"
                    else:
                        yield self.defining(source, alias.name)
        yield from self._used(tree, modules)

    def _used(self, tree: ast.Module, modules: Mapping[str, str]) -> Iterator[str]:
        """What a tree takes from the modules it has bound to names: attributes, or the whole when used bare."""
        attributes: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                attributes.add(id(node.value))
                source = modules[node.value.id]
                inner = f"{source}.{node.attr}"
                yield inner if self.path(inner) is not None else self.defining(source, node.attr)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id in modules and id(node) not in attributes:
                yield modules[node.id]

    def defining(self, module: str, name: str) -> str:
        """The module in which `module.name` is really defined, looking through packages that only pass it on."""
        path = self.path(module)
        if path is None or path.name != "__init__.py":
            return module
        for node in _parse(str(path), path.stat().st_mtime_ns).body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        source = _absolute(node, module)
                        inner = f"{source}.{alias.name}"
                        return inner if self.path(inner) is not None else self.defining(source, alias.name)
        return module


@cache
def _locate(name: str) -> Path | None:
    """The file of a module, found without importing anything."""
    root, *parts = name.split(".")
    spec = importlib.util.find_spec(root)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    for index, part in enumerate(parts):
        names = _names(folder)
        if part in names:
            folder = folder / part
        elif f"{part}.py" in names and index == len(parts) - 1:
            return folder / f"{part}.py"
        else:
            return None
    return folder / "__init__.py" if "__init__.py" in _names(folder) else None


@cache
def _names(folder: Path) -> frozenset[str]:
    """The names in a folder, spelt as they are on disk (some file systems ignore case when asked for one)."""
    return frozenset(each.name for each in folder.iterdir()) if folder.is_dir() else frozenset()


@cache
def _parse(path: str, modified: int) -> ast.Module:
    return ast.parse(Path(path).read_text())


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = ".".join(parts[: len(parts) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base


def _used_by(claim: str, tree: ast.Module) -> ast.Module:
    """What a claim's function uses of its module, and what that uses; statements that bind no name are kept."""
    kept: list[ast.stmt] = []
    names: set[str] = {claim}
    waiting = list(tree.body)
    while True:
        chosen = [node for node in waiting if not (bound := _bound(node)) or bound & names]
        if not chosen:
            break
        waiting = [node for node in waiting if node not in chosen]
        for node in chosen:
            if isinstance(node, ast.Import | ast.ImportFrom):
                continue  # narrowed below, when all names are known
            kept.append(node)
            names |= {each.id for each in ast.walk(_undeclared(node)) if isinstance(each, ast.Name)}
    narrowed: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [alias for alias in node.names if alias.name == "*" or _local(alias, node) in names]
            narrowed += [node] if node.names else []
        elif node in kept:
            narrowed.append(node)
    return ast.Module(narrowed, [])


def _bound(node: ast.stmt) -> set[str]:
    """The module-level names that a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {_local(alias, node) for alias in node.names} - {"*"}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
    return set()


def _local(alias: ast.alias, node: ast.Import | ast.ImportFrom) -> str:
    return alias.asname or (alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name)


def _is_claim(node: ast.expr) -> bool:
    call = node.func if isinstance(node, ast.Call) else node
    return (call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")) == "claim"


def _hash(tree: ast.Module) -> str:
    """Digest of a tree without docstrings and without the declarations of claims, whose words change no result."""
    clean = _Stripped().visit(ast.parse(ast.unparse(tree)))
    return hashlib.sha256(ast.unparse(clean).encode()).hexdigest()[:32]


def _undeclared(node: ast.AST) -> ast.AST:
    """A claim's function without its declaration and defaults, which the identity of a trial holds by value."""
    if not isinstance(node, ast.FunctionDef) or not any(_is_claim(each) for each in node.decorator_list):
        return node
    bare = copy.copy(node)
    bare.decorator_list = [each for each in node.decorator_list if not _is_claim(each)]
    bare.args = copy.copy(node.args)
    bare.args.kw_defaults = [None] * len(node.args.kw_defaults)
    return bare


class _Stripped(ast.NodeTransformer):
    def _strip(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        body = getattr(node, "body", [])
        if (
            body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._strip(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._strip(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._strip(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._strip(_undeclared(node))


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(
        f"settings must be numbers, texts, booleans or tuples and dicts of them, not {type(value).__name__}"
    )
