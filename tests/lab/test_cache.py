"""Values remembered while their files stay as they are."""

import json
import os
import subprocess
import sys

import pytest

from assay.lab.cache import FileCache


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "claims.py"
    path.write_text("one")
    return path


def counted(values):
    calls = []

    def compute():
        calls.append(1)
        return values[len(calls) - 1]

    return compute, calls


def test_a_value_is_computed_once_until_its_file_changes(tmp_path, file):
    compute, calls = counted([["a"], ["b"], ["c"]])
    cache = FileCache(tmp_path / "cache" / "c.json")
    assert cache.get(file, "kind", compute) == ["a"]
    assert cache.get(file, "kind", compute) == ["a"]
    cache.save()
    assert FileCache(tmp_path / "cache" / "c.json").get(file, "kind", compute) == ["a"]
    assert len(calls) == 1
    assert cache.get(file, "another kind", compute) == ["b"]
    os.utime(file, ns=(1, 1))  # same content, another time: cannot be told, so it is read again
    assert cache.get(file, "kind", compute) == ["c"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 0, "entries": {}}', '{"format": 1, "entries": [1]}'])
def test_a_cache_that_cannot_be_read_is_empty(tmp_path, file, content):
    (tmp_path / "c.json").write_text(content)
    assert FileCache(tmp_path / "c.json").get(file, "kind", lambda: 1) == 1


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, file):
    (tmp_path / "in the way").write_text("")
    cache = FileCache(tmp_path / "in the way" / "c.json")
    assert cache.get(file, "kind", lambda: 1) == 1
    cache.save()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_listing_332_papers_parses_them_once(tmp_path):
    """The second call takes no longer than a listing of few papers does, within the noise of this machine."""
    package = tmp_path / "site" / "many"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    table = []
    for number in range(332):
        table.append(f'[many-{number}]\ntitle = "Paper {number} on networks"\nyear = 2020\nsummary = "s"\nparts = []\n')
        body = "\n".join(
            f'@claim("many-{number}", says="It is {i}.", arms=("a", "b"), holds=higher("x", "a", than="b"))\n'
            f"def claim_{i}(arm, seed, *, epochs={i}):\n"
            + "    x = [epochs * j for j in range(10)]\n" * 20
            + "    return {'x': 1.0}\n"
            for i in range(5)
        )
        (package / f"many_{number}.py").write_text(f"from assay.lab import claim, higher\n\n{body}")
    (package / "papers.toml").write_text("\n".join(table))
    metadata = tmp_path / "site" / "many-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: many\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[assay.papers]\nmany = many\n")

    def listed(site):
        environment = os.environ | {"ASSAY_CACHE": str(tmp_path / "cache"), "PYTHONPATH": site}
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-m", "assay", "list", "--json"],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        after = os.times()
        seconds = after.children_user - before.children_user + after.children_system - before.children_system
        return json.loads(done.stdout), seconds

    few = min(listed("")[1] for _ in range(3))
    rows, first = listed(str(tmp_path / "site"))
    assert sum(row["subject"] == "many" for row in rows) == 332
    assert sum(len(row["claims"]) for row in rows) >= 332 * 5
    again = min(listed(str(tmp_path / "site"))[1] for _ in range(3))
    assert again < first / 2
    assert again < 2 * few
