"""The house: floors, names, the three files of a paper, docstrings with examples, and faces that answer at once."""

import ast
import importlib
import inspect
import os
import resource
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from assay.lab.catalogue import papers

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "assay"
NO_SUBJECTS = {"lab", "report", "cli", "claims"}
BANNED = {"utils", "misc", "helpers", "common", "contrib", "experimental"}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
CONTROLS = "control"

folders = sorted(path.parent for path in SOURCE.glob("*/__init__.py"))
subjects = [folder.name for folder in folders if folder.name not in NO_SUBJECTS]


def lint(config):
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_floors():
    ran = lint(ROOT / ".importlinter")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 kept, 0 broken" in ran.stdout


def test_every_folder_has_its_floor(tmp_path):
    """The contract names all that is there, and a folder it does not name breaks it."""
    text = (ROOT / ".importlinter").read_text()
    assert "exhaustive = true" in text
    config = tmp_path / "contract"
    config.write_text(text.replace("nn | (losses)", "(losses)").replace("nn : ", ""))
    ran = lint(config)
    assert ran.returncode == 1
    assert "assay.nn" in ran.stdout


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("assay.metrics", "assay.lab"),
        ("assay.lab", "assay.nn"),
        ("assay.data", "assay.train"),
        ("assay.nn", "assay.cli"),
    ],
)
def test_the_contract_notices(tmp_path, module, imported):
    """An import against the floors, put into a copy of the skeleton of the house, is found."""
    for folder in folders:
        package = tmp_path / "assay" / folder.name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
    for name in ("__init__", "__main__", "train"):
        (tmp_path / "assay" / f"{name}.py").write_text("")
    config = tmp_path / "contract"
    config.write_text((ROOT / ".importlinter").read_text())
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo", str(config)]

    def check():
        environment = ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}
        ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        return ran.returncode, ran.stdout

    (tmp_path.joinpath(*module.split(".")) / "__init__.py").write_text(f"import {imported}\n")
    code, out = check()
    assert code == 1
    assert f"{module} -> {imported}" in out or f"{module} is not allowed to import {imported}" in out


@pytest.mark.parametrize("paper", list(papers().values()), ids=lambda paper: paper.key)
def test_a_paper_has_its_three_files(paper):
    """A part file per paper, a test file of the same stem beside it, a claim file of the same stem."""
    stem = paper.key.replace("-", "_")
    assert (SOURCE / "claims" / paper.subject / f"{stem}.py").is_file()
    assert paper.claims, f"{paper.key} declares no claims"
    if paper.subject == CONTROLS:
        assert all(outline.control for outline in paper.claims)
        assert (ROOT / "tests" / "claims" / paper.subject / f"test_{stem}.py").is_file()
        return
    assert not any(outline.control for outline in paper.claims)
    assert (SOURCE / paper.subject / f"{stem}.py").is_file()
    assert (ROOT / "tests" / paper.subject / f"test_{stem}.py").is_file()


def test_claim_files_are_in_the_catalogue():
    known = {Path(paper.module.path) for paper in papers().values()}
    there = {path for path in SOURCE.glob("claims/*/*.py") if path.name != "__init__.py"}
    assert there <= known


@pytest.mark.parametrize("paper", list(papers().values()), ids=lambda paper: paper.key)
def test_parts_can_be_imported(paper):
    """From a subject's own table of contents; what a paper shares with others may live in another folder."""
    assert paper.parts or paper.subject == CONTROLS, f"{paper.key} names no parts"
    homes = set()
    for part in paper.parts:
        module, _, name = part.rpartition(".")
        homes.add(module)
        assert module.removeprefix("assay.") in subjects, f"{part} is not imported from its subject"
        assert name in importlib.import_module(module).__all__
    assert f"assay.{paper.subject}" in homes or paper.subject == CONTROLS


@pytest.mark.parametrize("module", [*subjects, "train"])
def test_public_parts_have_an_example(module):
    """Functions and classes show one; plain records and exceptions are shown by what makes them."""
    imported = importlib.import_module(f"assay.{module}")
    names = ("fit", "accuracy", "evaluate") if module == "train" else imported.__all__
    bare, without = [], []
    for name in names:
        part = getattr(imported, name)
        doc = inspect.getdoc(part) or ""
        record = is_dataclass(part) or (inspect.isclass(part) and issubclass(part, tuple | BaseException))
        if not doc.strip():
            bare.append(name)
        elif ">>>" not in doc and (inspect.isfunction(part) or (inspect.isclass(part) and not record)):
            without.append(name)
    assert (bare, without) == ([], [])


def test_no_file_is_called_anything():
    named = [*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    assert len(named) > 50
    for path in named:
        words = {*path.relative_to(ROOT).parts[:-1], path.stem.removeprefix("test_")}
        assert not words & BANNED, path


def test_files_are_as_long_as_an_idea():
    """200 lines of code each, docs not counted, is where to ask what two things a method file is.

    A subject's table of contents is as long as the subject.
    """
    long = {}
    for subject in subjects:
        for path in (SOURCE / subject).rglob("*.py"):
            count = code_lines(path)
            if count > 200 and path.name != "__init__.py":
                long[str(path.relative_to(SOURCE))] = count
    assert long == {}


def code_lines(path):
    tree = ast.parse(path.read_text())
    docs = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docs.update(range(node.lineno, node.end_lineno + 1))
    lines = path.read_text().splitlines()
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in docs
        for number, line in enumerate(lines, 1)
    )


def test_nothing_is_left_open():
    """No reminders, no stubs, no skipped tests."""
    words = ("TO" + "DO", "FIX" + "ME", "raise NotImplemented" + "Error", "pytest.mark." + "skip", "pytest." + "skip(")
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        text = path.read_text()
        assert not [word for word in words if word in text], path


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, assay; assert not {'torch', 'numpy', 'scipy', 'rich', 'click'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


FACES = {
    "--help": ["--help"],
    "list": ["list"],
    "list --json": ["list", "--json"],
    "show": ["show", "controls"],
    "search": ["search", "correlated", "dynamics"],
    **{f"{command} --help": [command, "--help"] for command in ("list", "show", "new", "doctor")},
}


@pytest.mark.parametrize("arguments", FACES.values(), ids=FACES)
def test_faces_import_no_torch_nor_numpy(arguments):
    code = f"""
import sys
from assay.cli import main
try:
    main({arguments!r})
except SystemExit as ended:
    assert not ended.code, ended.code
assert not {{"torch", "numpy", "scipy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_faces_answer_at_once():
    """In at most six times the processor time of an interpreter that imports click and little else."""
    bare = processor_seconds([sys.executable, "-c", "import click, tomllib, json"])
    for name in ("--help", "list", "show", "search"):
        face = processor_seconds([sys.executable, "-m", "assay", *FACES[name]])
        assert face < 6 * bare, f"assay {name}: {face:.3f} s against {bare:.3f} s"


def processor_seconds(command):
    """The least of five: user and system time, which other programs disturb less than the wall's."""
    least = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least
