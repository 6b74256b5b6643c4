"""Which code a claim depends on."""

import textwrap

import pytest

from assay.lab import papers
from assay.lab.catalogue import ModuleRef
from assay.lab.identity import digest, fingerprint


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in which `__init__` passes names on, as our subjects do."""
    root = tmp_path / "pack"
    files = {
        "__init__.py": "",
        "nn/__init__.py": "from pack.nn.one import one\nfrom pack.nn.two import two\n",
        "nn/one.py": "from pack.ground import base\n\ndef one():\n    return base()\n",
        "nn/two.py": "def two():\n    return 2\n",
        "ground.py": "def base():\n    return 1\n",
        "claims/__init__.py": "",
        "claims/attribute.py": "from pack import nn\n\ndef f():\n    return nn.one()\n",
        "claims/name.py": "from pack.nn import two as deux\n\ndef f():\n    return deux()\n",
        "claims/relative.py": (
            "from ..nn.two import two\nfrom .. import ground\n\ndef f():\n    return ground.base() + two()\n"
        ),
        "claims/whole.py": "from pack import nn\n\ndef f():\n    return getattr(nn, 'one')\n",
        "claims/dotted.py": "import pack.nn.two\n\ndef f():\n    return pack.nn.two.two()\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return root


def depends(root, name):
    code = fingerprint(ModuleRef(f"pack.claims.{name}", str(root / "claims" / f"{name}.py")), "f")
    return {each.removeprefix("pack.") for each in code.files}


def test_dependencies_go_through_init_to_the_defining_file(package):
    assert depends(package, "attribute") == {"claims.attribute", "nn.one", "ground"}
    assert depends(package, "name") == {"claims.name", "nn.two"}
    assert depends(package, "relative") == {"claims.relative", "nn.two", "ground"}
    assert depends(package, "dotted") == {"claims.dotted", "nn.two"}


def test_a_package_that_is_used_whole_counts_whole(package):
    assert depends(package, "whole") == {"claims.whole", "nn", "nn.one", "nn.two", "ground"}


def digest_of(tmp_path, text, claim="f"):
    file = tmp_path / "one.py"
    file.write_text(textwrap.dedent(text))
    return fingerprint(ModuleRef("one", str(file), standalone=True), claim).digest


def test_words_do_not_count_and_code_does(tmp_path):
    base = digest_of(tmp_path, "def f(arm, seed, *, n=1):\n    return n + 1\n")
    assert (
        digest_of(tmp_path, '"""Doc."""\n# note\ndef f(arm,  seed, *, n=1):\n    "Doc."\n    return (n + 1)\n') == base
    )
    assert digest_of(tmp_path, "def f(arm, seed, *, n=1):\n    return n + 2\n") != base


def test_declarations_are_no_code(tmp_path):
    """What a claim says, and its defaults, are kept with each trial by value."""
    text = "@claim('p', says='{says}', arms=('a',), holds=x)\ndef f(arm, seed, *, n={n}):\n    return n\n"
    base = digest_of(tmp_path, text.format(says="One.", n=1))
    assert digest_of(tmp_path, text.format(says="Two.", n=2)) == base


def test_only_what_a_claim_uses_of_its_file_counts(tmp_path):
    text = """
    LIMIT = {limit}
    UNUSED = {unused}

    @claim('p')
    def f(arm, seed):
        return helper()

    @claim('p')
    def g(arm, seed):
        return {other_claim}

    def helper():
        return deeper() + LIMIT

    def deeper():
        return {deeper}

    def not_used():
        return {unused}
    """
    base = dict(limit=1, unused=1, other_claim=1, deeper=1)
    first = digest_of(tmp_path, text.format(**base))
    for name in ("unused", "other_claim"):
        assert digest_of(tmp_path, text.format(**base | {name: 2})) == first, name
    for name in ("limit", "deeper"):
        assert digest_of(tmp_path, text.format(**base | {name: 2})) != first, name


def test_a_module_that_only_another_claim_uses_does_not_count(package):
    text = """from pack.nn import one, two

@claim('p')
def f(arm, seed):
    return one()

@claim('p')
def g(arm, seed):
    return two()
"""
    (package / "claims" / "both.py").write_text(text)
    assert depends(package, "both") == {"claims.both", "nn.one", "ground"}


def test_the_laboratory_itself_is_left_out():
    paper = papers()["cmd"]
    files = fingerprint(paper.module, "few_modes_model_the_run").files
    assert not [name for name in files if name.startswith(("assay.lab", "assay.report", "assay.cli"))]
    assert {"assay.claims.probes.cmd", "assay.train", "assay.probes.cmd", "assay.probes.dmd"} <= set(files)
    assert "assay.nn.tinyvit" not in files
    assert "assay.probes.subspace" not in files  # another claim of the same file uses it


def test_digest_is_of_the_value_and_not_of_its_order():
    assert digest({"a": (1, 2), "b": None}) == digest({"b": None, "a": [1, 2]})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": 1}) != digest({"a": 1.0})
    with pytest.raises(TypeError, match="not set"):
        digest({"a": {1}})
