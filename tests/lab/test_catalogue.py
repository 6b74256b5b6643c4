"""The catalogue: papers, outlines read from source text, search, and papers of other packages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from assay.lab import ClaimError, catalogue, find, papers, search
from assay.lab.catalogue import Paper, from_file, outlines


def test_the_outline_read_from_text_is_the_one_that_importing_makes():
    """For every claim that ships: what is listed is what runs."""
    for paper in papers().values():
        for outline in paper.claims:
            imported = getattr(paper.module.load(), outline.id).claim.outline
            for name in outline.__dataclass_fields__:
                if name not in ("source", "holds"):
                    assert getattr(imported, name) == getattr(outline, name), (outline.key, name)
            assert imported.holds.text == outline.holds.text
            assert imported.holds == outline.holds


def test_outlines_understand_constants_and_joined_settings():
    text = """
from assay.lab import claim, higher

ARMS = ("a", "b")
BASE = dict(epochs=1)


@claim(
    "p",
    says="One " "sentence.",
    arms=(*ARMS, "c"),
    holds=higher("x", "a", than="b", by=-0.5), smoke=BASE | dict(lr=2.0)
)
def runs(arm, seed, *, epochs=3, lr=-1.0):
    \"\"\"Doc.\"\"\"
"""
    (outline,) = outlines(text, "p.py")
    assert outline.says == "One sentence."
    assert outline.arms == ("a", "b", "c")
    assert outline.sizes == {"smoke": {"epochs": 1, "lr": 2.0}, "laptop": {"epochs": 3, "lr": -1.0}}
    assert outline.holds.margin({"a": {"x": 1.0}, "b": {"x": 0.25}}) == 1.25
    assert outline.doc == "Doc."
    assert outline.source.startswith("def runs")


def test_what_cannot_be_read_without_running_it_is_named_with_its_line():
    text = 'from assay.lab import *\n\n@claim("p", says=make(), arms=("a",), holds=0)\ndef f(arm, seed): ...\n'
    with pytest.raises(ClaimError, match=r"p\.py:3: says= of claim f: must be a literal .* not 'make\(\)'"):
        list(outlines(text, "p.py"))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cdm", "no paper 'cdm'; did you mean 'cmd'?"),
        ("cmd/few_mode_models_the_run", "did you mean 'few_modes_model_the_run'?"),
        ("nowhere/file.py", "no claim file"),
    ],
)
def test_misspelt_targets_get_the_nearest(target, message):
    with pytest.raises(ClaimError) as caught:
        find(target)
    assert message in str(caught.value)


def test_a_file_must_declare_one_paper(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("print('hello')\n")
    with pytest.raises(ClaimError, match="exactly one paper with @claim; it declares none"):
        from_file(file)


def test_a_file_of_ones_own_takes_its_title_from_its_first_line(claims):
    (pair, _) = find(str(claims / "own.py"))
    assert pair[0].title == '"""A paper of our own."""'.strip('"')
    assert [outline.id for _, outline in find(str(claims / "own.py"))] == ["scores", "both"]
    assert [outline.id for _, outline in find(f"{claims / 'own.py'}/both")] == ["both"]


def test_search_ranks_rare_words_in_titles_first():
    def paper(key, title, summary=""):
        module = catalogue.ModuleRef("x", "/nonexistent.py")
        return Paper(key, "s", title, 2020, "", summary, (), Path(), module)

    known = {
        each.key: each
        for each in (
            paper("one", "Networks that learn", "hessian spectra of networks"),
            paper("two", "Hessian spectra", "what a network does"),
            paper("three", "Networks", "networks networks networks networks"),
        )
    }
    assert [paper.key for _, paper in search("hessian", known)] == ["two", "one"]
    assert search("hessian networks", known)[0][1].key == "one"  # the only one with both
    assert [paper.key for _, paper in search("HESS", known)] == ["two", "one"]  # beginnings of words, any case
    assert search("zebra", known) == []


def test_papers_of_another_package_are_listed_and_run(tmp_path):
    """A small outside package, installed as pip would: an entry point in its metadata."""
    package = tmp_path / "site" / "outside"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "shared.py").write_text("def value():\n    return 2.0\n")
    (package / "papers.toml").write_text(
        '[far-paper]\ntitle = "Far"\nyear = 2001\nsummary = "s"\nparts = ["outside.shared"]\n'
    )
    (package / "far_paper.py").write_text(
        '"""Far."""\nfrom assay.lab import at_least, claim\nfrom outside import shared\n\n'
        '@claim("far-paper", says="It is one.", arms=("one",), holds=at_least("x", 1.0, arm="one"))\n'
        "def is_one(arm, seed, *, add=0.5):\n    return {'x': shared.value() + add}\n"
    )
    metadata = tmp_path / "site" / "outside-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[assay.papers]\noutside = outside\n")
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}

    def assay(*words):
        command = [sys.executable, "-m", "assay", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=240)

    listed = {row["key"]: row for row in json.loads(assay("list", "--json").stdout)}
    assert listed["far-paper"]["subject"] == "outside"
    assert listed["far-paper"]["claims"][0]["says"] == "It is one."
    done = assay("run", "far-paper", "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert "holds" in done.stdout
    assert "2 trials run" in done.stdout
    (package / "shared.py").write_text("def value():\n    return 3.0\n")
    assert "outside.shared changed" in assay("why", "far-paper").stdout
    assert "2 trials run" in assay("run", "far-paper", "--seeds", "2").stdout


def test_claim_files_of_two_folders_each_use_their_own_neighbour(tmp_path):
    text = (
        "from assay.lab import at_least, claim\nimport sibling\n\n"
        '@claim("{0}", says="It is.", arms=("a",), holds=at_least("x", 0, arm="a"))\n'
        'def f(arm, seed):\n    return {{"x": sibling.VALUE}}\n'
    )
    values = []
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "claims.py").write_text(text.format(name))
        (tmp_path / name / "sibling.py").write_text(f"VALUE = {number}.0\n")
        ((paper, outline),) = find(str(tmp_path / name / "claims.py"))
        values.append(paper.load(outline.id).function("a", 0)["x"])
    assert values == [0.0, 1.0]
