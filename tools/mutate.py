"""Change the code of the methods, one place at a time, and see whether their tests notice.

    python tools/mutate.py --budget 60m                       what `make nightly` runs
    python tools/mutate.py --file src/assay/lab/criterion.py  one file

A mutant is one small change: an operator, a number, a condition, a call left out. It is made in a copy of the package,
and the test file with the same stem (`src/assay/lab/criterion.py` -> `tests/lab/test_criterion.py`; where there is
none, the tests of the folder) is run against it until something fails. A mutant that nothing notices survives: either
the change makes no difference, or a test is missing. Which mutants are tried is a matter of `--seed` alone, how many
of the budget.

mutmut fails under jaxtyping's import hook; cosmic-ray changes files in the working tree and starts an interpreter (and
imports torch) for each mutant. Here a server that has imported torch once forks for each.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

PRELOAD = "torch,numpy,scipy.stats,beartype,pytest"
NO_METHODS = {"cli", "report", "claims", "lab"}
LAB = {"statistics.py", "criterion.py", "declaration.py", "verdict.py"}

OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
PAIRS = (
    "min max|add sub|add_ sub_|mul div|mul_ div_|argmin argmax|all any|sin cos|floor ceil|amin amax|minimum maximum|"
    "sqrt square|sqrt_ square_|exp log|clamp_min clamp_max|addcmul_ addcdiv_|zeros ones|zeros_like ones_like|rand randn"
)
CALLS = {one: other for pair in PAIRS.split("|") for one, other in (pair.split(), pair.split()[::-1])}
METHODS = CALLS | {"mean": "sum", "sum": "mean"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file: bytes `start` to `stop` become `after`."""

    file: Path
    line: int
    start: int
    stop: int
    before: str
    after: str
    head: str = ""
    tail: str = ""

    def apply(self, data: bytes) -> bytes:
        return data[: self.start] + self.after.encode() + data[self.stop :]

    @property
    def words(self) -> tuple[str, str]:
        """What was there and what came there, for people: with the line around it where it says little by itself."""
        head, tail = (self.head, self.tail) if len(self.before) < 12 else ("", "")
        return _short(f"{head}{self.before}{tail}"), _short(f"{head}{self.after}{tail}")

    def __str__(self) -> str:
        return f"{self.file}:{self.line}  {'  ->  '.join(self.words)}"


def mutants(file: Path, data: bytes) -> list[Mutant]:
    """Every change that is tried in a file."""
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, after in _changes(ast.parse(data)):
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        head = data[starts[node.lineno - 1] : start].decode()
        tail = data[stop:].split(b"\n", 1)[0].decode()
        found.append(Mutant(file, node.lineno, start, stop, data[start:stop].decode(), after, head, tail))
    return found


def _changes(node: ast.AST) -> Iterator[tuple[Any, str]]:
    """A node and the text that takes its place; docstrings, annotations, decorators and messages are left alone."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.pattern):
        return
    yield from _change(node)
    left_out: set[int] = {id(each) for each in getattr(node, "decorator_list", ())}
    left_out |= {id(getattr(node, name, None)) for name in ("annotation", "returns")}
    for child in ast.iter_child_nodes(node):
        if id(child) not in left_out:
            yield from _changes(child)


def _change(node: ast.AST) -> Iterator[tuple[Any, str]]:
    match node:
        case ast.Compare(ops=ops):
            for index, sign in enumerate(ops):
                other = copy.deepcopy(node)
                other.ops[index] = OPERATORS[type(sign)]()
                yield node, f"({ast.unparse(other)})"
        case ast.BinOp(op=sign) | ast.BoolOp(op=sign) if type(sign) in OPERATORS:
            yield node, f"({_with_sign(node, sign)})"
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            yield node, f"({ast.unparse(operand)})"
        case ast.Constant(value=bool() as value):
            yield node, str(not value)
        case ast.Constant(value=int() as number):
            yield node, str(number + 1)
        case ast.Constant(value=float() as number):
            yield node, repr(2 * number or 1.0)
        case ast.If(test=test) if not isinstance(test, ast.Name) or test.id != "TYPE_CHECKING":
            yield test, "False"
        case ast.AugAssign(op=sign) if type(sign) in OPERATORS:
            yield node, _with_sign(node, sign)
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield node, "pass"
        case ast.Call(func=ast.Name(id="abs"), args=[argument]):
            yield node, f"({ast.unparse(argument)})"
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            yield node.func, CALLS[name]
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in METHODS:
            yield node.func, f"{ast.unparse(value)}.{METHODS[name]}"
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield value, "None"


def _with_sign(node: ast.AST, sign: ast.AST) -> str:
    other: Any = copy.deepcopy(node)
    other.op = OPERATORS[type(sign)]()
    return ast.unparse(other)


def method_files(root: Path) -> list[Path]:
    """The files that are changed unless others are named."""
    found = []
    for path in sorted(root.glob("src/*/**/*.py")):
        folders = path.relative_to(root).parts[2:-1]
        chosen = not set(folders) & NO_METHODS or (folders == ("lab",) and path.name in LAB)
        if chosen and not path.name.startswith("__"):
            found.append(path.relative_to(root))
    return found


def matching_tests(root: Path, file: Path) -> Path | None:
    """The test file with the stem of a source file, or the folder where it would be."""
    folder = root / "tests" / Path(*file.parts[2:-1])
    own = folder / f"test_{file.stem}.py"
    if own.is_file():
        return own
    return folder if folder != root / "tests" and any(folder.glob("test_*.py")) else None


class Bench:
    """A copy of the package that one mutant after the other is put into, and the tests run against it."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root, self.scratch = root, scratch
        shutil.copytree(root / "src", scratch / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        self.server = multiprocessing.get_context("forkserver")

    def noticed(self, mutant: Mutant, tests: Path, limit: float) -> str:
        """`killed`, `timeout` or `survived`."""
        place = self.scratch / mutant.file
        original = place.read_bytes()
        place.write_bytes(mutant.apply(original))
        try:
            code = self.run(tests, limit)
        finally:
            place.write_bytes(original)
        return "survived" if code == 0 else "timeout" if code is None else "killed"

    def run(self, tests: Path, limit: float) -> int | None:
        """Exit code of pytest, None when it took too long."""
        child = self.server.Process(target=_pytest, args=(str(self.root), str(self.scratch), str(tests)))
        child.start()
        child.join(limit)
        late = child.is_alive()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid or 0, signal.SIGKILL)  # it leads a group of its own, with whatever its tests started
        if late:
            child.kill()
        child.join()
        return None if late else child.exitcode


def _pytest(root: str, scratch: str, tests: str) -> None:
    """In the forked process: run the tests against the copy, stopping at the first failure."""
    os.setsid()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.chdir(scratch)
    sys.dont_write_bytecode = True
    sys.path.insert(0, f"{scratch}/src")
    os.environ |= {"PYTHONPATH": f"{scratch}/src", "PYTHONDONTWRITEBYTECODE": "1"}
    import pytest

    options = ["-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--import-mode=importlib"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what the server has imported before
    code = pytest.main([*options, "-c", f"{root}/pyproject.toml", "--rootdir", root, tests])
    os._exit(int(code))


@dataclass
class Outcome:
    """What became of the mutants that were tried."""

    killed: int = 0
    timeout: int = 0
    left: int = 0
    survivors: tuple[Mutant, ...] = ()

    @property
    def tried(self) -> int:
        return self.killed + self.timeout + len(self.survivors)

    @property
    def rate(self) -> float:
        return len(self.survivors) / max(1, self.tried)


def hunt(
    root: Path, files: list[Path], *, seed: int, budget: float, sample: int | None, slots: int, preload: str
) -> Outcome:
    """Try mutants of the files, in an order that the seed decides, until the time is up.

    Raises:
        SystemExit: a file has no tests, or its tests fail without any change.
    """
    tests: dict[Path, Path] = {}
    for file in files:
        found = matching_tests(root, file)
        if found is None:
            raise SystemExit(f"mutate: {file} has no tests: no tests/{'/'.join(file.parts[2:-1])}/test_{file.stem}.py")
        tests[file] = found
    wanted = drawn(root, files, seed, sample)
    began, outcome = time.monotonic(), Outcome()
    multiprocessing.get_context("forkserver").set_forkserver_preload(preload.split(","))
    with tempfile.TemporaryDirectory(prefix="mutate-") as scratch:
        free: SimpleQueue[Bench] = SimpleQueue()
        for slot in range(slots):
            free.put(Bench(root, Path(scratch, str(slot))))
        limits = _limits(free, {tests[mutant.file] for mutant in wanted})

        def attempt(mutant: Mutant) -> tuple[Mutant, str]:
            if time.monotonic() - began > budget:
                return mutant, "left"
            bench = free.get()
            try:
                return mutant, bench.noticed(mutant, tests[mutant.file], limits[tests[mutant.file]])
            finally:
                free.put(bench)

        with ThreadPoolExecutor(slots) as pool:
            for mutant, result in pool.map(attempt, wanted):
                if result == "survived":
                    outcome.survivors += (mutant,)
                    print(f"survived  {mutant}", flush=True)
                else:
                    setattr(outcome, result, getattr(outcome, result) + 1)
    return outcome


def drawn(root: Path, files: list[Path], seed: int, sample: int | None) -> list[Mutant]:
    """The mutants of the files in the order in which they are tried."""
    found = [mutant for file in files for mutant in mutants(file, (root / file).read_bytes())]
    random.Random(seed).shuffle(found)
    return found[:sample]


def _limits(free: SimpleQueue[Bench], tests: set[Path]) -> dict[Path, float]:
    """Seconds that each test file may take: three times what it takes unchanged, and five for a slow start."""
    bench, limits = free.get(), {}
    for each in sorted(tests):
        began = time.monotonic()
        code = bench.run(each, 600.0)
        if code != 0:
            raise SystemExit(
                f"mutate: {each} fails without any change (pytest: {'too slow' if code is None else code})"
            )
        limits[each] = 3 * (time.monotonic() - began) + 5
    free.put(bench)
    return limits


def seconds(text: str) -> float:
    """`90`, `90s`, `60m`, `1h30m` -> seconds."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    if not text or not found:
        raise argparse.ArgumentTypeError(f"a time such as 90s, 60m or 1h30m, not {text!r}")
    hours, minutes, rest = (int(each or 0) for each in found.groups())
    return hours * 3600 + minutes * 60 + rest


def report(outcome: Outcome, at_most: float) -> str:
    """The survivors by file, and the numbers."""
    lines = ["", "| place | was | became |", "| --- | --- | --- |"] if outcome.survivors else []
    for each in sorted(outcome.survivors, key=lambda mutant: (mutant.file, mutant.line)):
        cells = [
            f"{each.file}:{each.line}",
            *(f"`{text}`".replace("|", "\\|") for text in each.words),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        f"\n{outcome.tried} mutants tried, {outcome.killed} killed, {outcome.timeout} timed out, "
        f"{len(outcome.survivors)} survived ({outcome.rate:.0%}, allowed {at_most:.0%}), "
        f"{outcome.left} left for want of time"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the source tree (this one)")
    parser.add_argument(
        "--file", type=Path, action="append", help="a file to change, from the root; repeatable (all methods)"
    )
    parser.add_argument("--budget", type=seconds, default=3600.0, metavar="TIME", help="start no mutant after it (60m)")
    parser.add_argument("--sample", type=int, metavar="N", help="try so many mutants at most")
    parser.add_argument("--seed", type=int, default=0, help="decides which are tried first (0)")
    parser.add_argument("--at-most", type=float, default=0.15, metavar="SHARE", help="exit with 1 above it (0.15)")
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1, help="mutants at a time (one a core)")
    parser.add_argument("--preload", default=PRELOAD, metavar="NAMES", help="modules that tests need, imported once")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    root = given.root.resolve()
    files = [(root / file).resolve().relative_to(root) for file in given.file] if given.file else method_files(root)
    missing = [file for file in files if not (root / file).is_file()]
    if missing or not files:
        parser.error(f"--file: there is no {missing[0]} in {root}" if missing else f"no files to change in {root}")
    chosen = {name: getattr(given, name) for name in ("seed", "budget", "sample", "slots", "preload")}
    outcome = hunt(root, files, **chosen)
    print(report(outcome, given.at_most))
    return int(outcome.rate > given.at_most)


def _short(text: str, most: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


if __name__ == "__main__":
    sys.exit(main())
