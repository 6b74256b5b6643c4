"""The documentation: builds without a warning, asks nothing of the network, and what it shows works."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

from assay.cli import COMMANDS, cli
from assay.lab.calibration import calibrate

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in ROOT.glob("docs/**/*.md") if "bench" not in path.parts)  # tables that a page takes in
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
SUBJECTS = [
    path.parent.name
    for path in ROOT.glob("src/assay/*/__init__.py")
    if path.parent.name not in ("lab", "report", "cli", "claims")
]


def blocks(text, language):
    return [
        block for name, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if name == language
    ]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Loads(HTMLParser):
    """What a browser fetches by itself when it shows a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(attributes.get("src"))
        elif tag == "link" and attributes.get("rel") in ("stylesheet", "preload", "preconnect", "icon"):
            self.found.append(attributes.get("href"))


def test_the_site_asks_nothing_of_the_network(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert any(loads.found)
        assert not [each for each in loads.found if each and "//" in each], page


def test_the_reference_shows_every_public_part(site):
    for package in [*SUBJECTS, "lab"]:
        page = (site / "reference" / f"{package}.html").read_text()
        module = importlib.import_module(f"assay.{package}")
        for name in module.__all__:
            part = getattr(module, name)
            home = part.__name__ if isinstance(part, types.ModuleType) else f"{part.__module__}.{name}"
            assert f'id="{home}"' in page, home
    commands = (site / "reference" / "commands.html").read_text()
    for name in COMMANDS:
        assert f"Usage: assay {name} " in commands


def test_examples_of_docstrings_are_shown_as_code(site):
    page = (site / "reference" / "lab.html").read_text()
    assert "&gt;&gt;&gt;" in page
    assert not re.search(r"<blockquote>\s*<blockquote>", page), "an example was read as a quotation"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.nightly, pytest.mark.timeout(900)] if path.name == "gallery.md" else ())
        for path in TEXTS
        if blocks(path.read_text(), "python")
    ],
    ids=lambda path: path.name,
)
def test_python_in_the_texts_runs(path, tmp_path):
    """All blocks of a page, one after the other, in one program."""
    text = path.read_text()
    for number, block in enumerate(blocks(text, "python")):
        (tmp_path / f"block_{number}.py").write_text(block)
    program = "\n".join(
        f"exec(compile(open('block_{number}.py').read(), 'block_{number}.py', 'exec'), globals())"
        for number in range(len(blocks(text, "python")))
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_gallery_is_whole():
    """Code before every picture, a function that draws it, the picture itself; all of them small."""
    text = (ROOT / "docs/gallery.md").read_text()
    tree = ast.parse((ROOT / "tools/gallery.py").read_text())
    drawn = {
        node.name.replace("_", "-")
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(each) == "drawn" for each in node.decorator_list)
    }
    shown = re.findall(r"\(gallery/([\w-]+)\.png\)", text)
    pictures = {path.stem: path.stat().st_size for path in (ROOT / "docs/gallery").glob("*.png")}
    assert len(shown) == len(set(shown))
    assert set(shown) == drawn == set(pictures)
    assert sum(pictures.values()) < 1.5e6
    for section in re.split(r"^(?=##)", text, flags=re.MULTILINE):
        if "(gallery/" in section:
            assert blocks(section, "python"), section
    for block in blocks(text, "python"):
        compile(block, "gallery.md", "exec")


def test_the_gallery_shows_every_paper_on_probes():
    papers = tomllib.loads((ROOT / "src/assay/claims/probes/papers.toml").read_text())
    shown = re.findall(r"\(gallery/([\w-]+)\.png\)", (ROOT / "docs/gallery.md").read_text())
    assert set(papers) <= set(shown)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_texts_exist(path):
    """Every `$ assay ...` line is taken apart as the command line would take it, without being run."""
    for line in re.findall(r"^\$ (assay .*)$", path.read_text(), re.MULTILINE):
        words = shlex.split(line.partition(" > ")[0])[1:]
        assert words[0] in COMMANDS, line
        with click.Context(cli, info_name="assay") as context:
            command = cli.get_command(context, words[0])
            made = command.make_context(words[0], words[1:], parent=context)
        if isinstance(command, click.Group):
            command.get_command(made, words[1]).make_context(words[1], words[2:], parent=made)


def test_make_targets_in_the_texts_exist():
    makefile = (ROOT / "Makefile").read_text()
    for path in TEXTS:
        for target in re.findall(r"(?:^\$ |`)make (\w+)", path.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: make {target}"


def test_entry_point_in_the_texts_is_what_the_laboratory_reads():
    from assay.lab.catalogue import ENTRY_POINTS

    (block,) = blocks((ROOT / "docs/adding.md").read_text(), "toml")
    assert list(tomllib.loads(block)["project"]["entry-points"]) == [ENTRY_POINTS]


NOISES = {"Gaussian": "gaussian", "log-normal": "lognormal", "Student's t, 3 degrees": "t3", "uniform": "uniform"}
CALIBRATION = re.findall(
    r"^\| ([^|]+?) \| `(\w+)`[^|]* \| (\d+) \| ([\d.]+) % \| ([\d.]+) % \| [\d.]+ % \|$",
    (ROOT / "docs/verdicts.md").read_text(),
    re.MULTILINE,
)


def test_the_calibration_table_is_whole():
    assert len(CALIBRATION) == 16


@pytest.mark.parametrize(
    "row", [row for row in CALIBRATION if row[0] in NOISES and row[2] in ("5", "10")], ids=" ".join
)
def test_the_calibration_shown_is_the_calibration(row):
    """Made anew with other random numbers, within four standard errors (of both, 4,000 claims there and 500 here)."""
    import numpy as np

    noise, criterion, seeds, holds, fails = row
    again = calibrate(
        claims=500, seeds=int(seeds), noise=NOISES[noise], criterion=criterion, generator=np.random.default_rng(7)
    )
    for shown, found in ((float(holds) / 100, again.false_holds), (float(fails) / 100, again.false_fails)):
        share = max(shown, 0.002)
        assert abs(shown - found) < 4 * (share * (1 - share) * (1 / 500 + 1 / 4000)) ** 0.5


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "tools/docs_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_of_benchmarks_are_put_in(hooks, tmp_path):
    assert hooks.benchmarks(tmp_path) == hooks.NONE_YET
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/b.md").write_text("# Second\n\n| a |\n")
    (tmp_path / "bench/a.md").write_text("# First\n\n## Inner\n")
    assert hooks.benchmarks(tmp_path / "bench") == "## First\n\n### Inner\n\n## Second\n\n| a |"
    page = hooks.on_page_markdown(f"before\n\n{hooks.BENCH}\n", config={"docs_dir": str(tmp_path)})
    assert page.startswith("before\n\n## First")


def test_the_changelog_has_this_version():
    from assay import __version__

    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_contributing_is_one_page():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 60
