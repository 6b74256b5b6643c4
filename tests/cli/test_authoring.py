"""`assay new`, `assay doctor`, `assay completion`, as a user types them."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import assay.cli.diagnosis
from assay.cli import COMMANDS, main
from assay.cli.completing import complete_subject, complete_target
from assay.cli.diagnosis import diagnose
from assay.lab import catalogue

ROOT = Path(__file__).parents[2]
TITLE = 'Symbolic "Discovery" of \\Optimization'


@pytest.fixture
def call(capsys):
    """call("new", ...) -> (exit code, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A source tree with one subject and one paper in it; we stand in its root."""
    for package in ("", "claims", "claims/probes", "probes"):
        folder = tmp_path / "src" / "assay" / package
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text('"""Here already."""\n')
    (tmp_path / "src/assay/claims/probes/papers.toml").write_text('[cmd]\ntitle = "Correlated dynamics"')
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def new(call, key="weight-echo", subject="probes", *more, title=TITLE):
    return call("new", key, "--subject", subject, "--title", title, *more)


def test_new_lays_out_three_files_and_an_entry(tree, call):
    before = files(tree)
    code, out, err = new(
        call,
        "weight-echo",
        "probes",
        "--year",
        "2023",
        "--source",
        "arXiv:1",
        "--summary",
        "S.",
        "--part",
        "WeightEcho",
    )
    assert (code, err) == (0, "")
    laid = {
        "src/assay/probes/weight_echo.py",
        "tests/probes/test_weight_echo.py",
        "src/assay/claims/probes/weight_echo.py",
    }
    assert files(tree) - before == laid
    for path in laid:
        assert path in out
    entries = tomllib.loads((tree / "src/assay/claims/probes/papers.toml").read_text())
    assert entries == {
        "cmd": {"title": "Correlated dynamics"},
        "weight-echo": {
            "title": TITLE,
            "year": 2023,
            "source": "arXiv:1",
            "summary": "S.",
            "parts": ["assay.probes.WeightEcho"],
        },
    }
    assert (tree / "src/assay/probes/__init__.py").read_text() == '"""Here already."""\n'


def test_new_leaves_out_what_it_was_not_told(tree, call):
    new(call)
    entries = tomllib.loads((tree / "src/assay/claims/probes/papers.toml").read_text())
    assert entries["weight-echo"] == {"title": TITLE, "parts": []}


def test_new_makes_a_subject_that_is_not_there(tree, call):
    code, _, _ = new(call, "lion", "optim")
    assert code == 0
    assert ast.literal_eval(ast.parse((tree / "src/assay/optim/__init__.py").read_text()).body[1].value) == []
    assert (tree / "src/assay/claims/optim/__init__.py").is_file()
    assert tomllib.loads((tree / "src/assay/claims/optim/papers.toml").read_text())["lion"]["title"] == TITLE


def test_what_new_lays_out_is_clean_and_red(tree, call):
    """It passes ruff, the catalogue reads it, and its tests fail one by one until they are written."""
    long = (
        "On the remarkably long titles that papers of this field have come to have, and on what becomes of them here"
        * 2
    )
    new(call, "weight-echo", "optim", "--summary", long, title=long)
    fresh = ["src/assay/optim", "src/assay/claims/optim", "tests"]
    for command in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, "--no-cache", *fresh], check=True, capture_output=True)
    (paper,) = catalogue._read_folder("assay.claims.optim", tree / "src/assay/claims/optim")
    assert (paper.key, paper.claims) == ("weight-echo", ())
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tree), "tests"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "5 failed" in ran.stdout
    assert "passed" not in ran.stdout
    assert "write the reference test of weight-echo" in ran.stdout


def test_new_from_a_folder_inside_the_tree(tree, call, monkeypatch):
    (tree / "tests").mkdir()
    monkeypatch.chdir(tree / "tests")
    code, out, _ = new(call)
    assert code == 0
    assert "wrote ../src/assay/probes/weight_echo.py" in out
    assert (tree / "src/assay/probes/weight_echo.py").is_file()


@pytest.mark.parametrize(
    "path", ["src/assay/probes/echo.py", "tests/probes/test_echo.py", "src/assay/claims/probes/echo.py"]
)
def test_new_refuses_files_that_are_there(tree, call, path):
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_text("mine\n")
    before = files(tree)
    code, _, err = new(call, "echo")
    assert code == 2
    assert path in err
    assert files(tree) == before
    assert (tree / path).read_text() == "mine\n"


def test_new_refuses_a_key_that_is_taken_in_another_subject(tree, call):
    before = files(tree)
    code, _, err = new(call, "cmd", "optim")
    assert code == 2
    assert "'cmd'" in err
    assert files(tree) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["Lion", "--subject", "optim", "--title", "T"], "KEY"),
        (["weight_decay", "--subject", "optim", "--title", "T"], "KEY"),
        (["-lion", "--subject", "optim", "--title", "T"], "-l"),
        (["lion-", "--subject", "optim", "--title", "T"], "KEY"),
        (["../lion", "--subject", "optim", "--title", "T"], "KEY"),
        (["3d-net", "--subject", "optim", "--title", "T"], "KEY"),
        (["lambda", "--subject", "optim", "--title", "T"], "KEY"),
        (["utils", "--subject", "optim", "--title", "T"], "KEY"),
        (["lion", "--subject", "lab", "--title", "T"], "--subject"),
        (["lion", "--subject", "../optim", "--title", "T"], "--subject"),
        (["lion", "--subject", "helpers", "--title", "T"], "--subject"),
        (["lion", "--subject", "optim", "--title", " "], "--title"),
        (["lion", "--subject", "optim", "--title", "two\nlines"], "--title"),
        (["lion", "--subject", "optim", "--title", "T", "--summary", "\x1b[31m"], "--summary"),
        (["lion", "--subject", "optim", "--title", "T", "--part", "a.b"], "--part"),
        (["lion", "--subject", "optim", "--title", "T", "--year", "20"], "--year"),
        (["lion", "--title", "T"], "--subject"),
    ],
)
def test_new_refuses(tree, call, arguments, named):
    before = files(tree)
    code, out, err = call("new", *arguments)
    assert code == 2
    assert named in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert files(tree) == before


def test_new_refuses_a_place_that_is_no_source_tree(tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = new(call)
    assert code == 2
    assert "--folder" in err
    assert files(tmp_path) == set()


def test_new_refuses_a_broken_catalogue(tree, call):
    table = tree / "src/assay/claims/probes/papers.toml"
    table.write_text("[cmd\n")
    code, _, err = new(call)
    assert code == 2
    assert str(table) in err
    assert table.read_text() == "[cmd\n"


def test_new_leaves_nothing_behind_when_it_cannot_write(tree, call):
    (tree / "tests").write_text("a file where a folder should be")
    before = files(tree)
    code, _, err = new(call)
    assert code == 2
    assert "cannot write" in err
    assert files(tree) == before


def test_new_in_a_package_of_ones_own(tmp_path, call, monkeypatch):
    package = tmp_path / "src" / "echoes" / "inner"
    package.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("")
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    code, out, _ = new(call, "echo-two", "own", "--folder", "src/echoes/inner", "--part", "Echo")
    assert code == 0
    assert (package / "own/echo_two.py").is_file()
    assert (tmp_path / "tests/own/test_echo_two.py").is_file()
    entry = tomllib.loads((package / "claims/own/papers.toml").read_text())["echo-two"]
    assert entry["parts"] == ["echoes.inner.own.Echo"]
    lines = out[out.index("[project.entry-points") :]
    assert tomllib.loads(lines)["project"]["entry-points"]["assay.papers"] == {"echoes": "echoes.inner.claims"}
    (paper,) = catalogue._read_folder("echoes.inner.claims", package / "claims")
    assert (paper.subject, paper.module.name) == ("own", "echoes.inner.claims.own.echo_two")


def test_new_in_a_package_of_ones_own_refuses_a_key_of_the_catalogue(tmp_path, call):
    (tmp_path / "__init__.py").write_text("")
    code, _, err = new(call, "cmd", "own", "--folder", str(tmp_path))
    assert code == 2
    assert "'cmd'" in err


def test_doctor_finds_this_installation_sound(tmp_path, call, monkeypatch):
    monkeypatch.setattr(
        assay.cli.diagnosis, "_machine", lambda: iter(())
    )  # a busy machine is none of this test's business
    code, out, _ = call("doctor", "--store", str(tmp_path / "ledger"), "--json")
    found = {finding["name"]: finding for finding in json.loads(out)}
    assert code == 0
    for name in ("python", "torch", "threads", "ledger", "shipped data", "papers"):
        assert found[name]["state"] == "ok", found[name]
    assert not (tmp_path / "ledger").exists()
    assert list(tmp_path.iterdir()) == []


def test_doctor_for_people(tmp_path, call):
    _, out, _ = call("doctor", "--store", str(tmp_path))
    assert "torch" in out
    assert out.splitlines()[-1].startswith(("no problems", "1 problem"))


def states(name, **options):
    return [
        (each.state, each.text, each.remedy) for each in diagnose(options.get("store", "ledger")) if each.name == name
    ]


def test_doctor_sees_a_ledger_that_cannot_be_written(tmp_path, call):
    (tmp_path / "file").write_text("")
    for store in ("file", "file/ledger", "results.zip", "nowhere://x"):
        code, out, _ = call("doctor", "--json", "--store", store if "://" in store else str(tmp_path / store))
        (finding,) = [each for each in json.loads(out) if each["name"] == "ledger"]
        assert code == 3
        assert finding["state"] == "problem", store
        assert "--store" in finding["remedy"]


def test_doctor_sees_a_full_disk(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    ((state, text, remedy),) = states("ledger", store=str(tmp_path))
    assert (state, "0.0 GiB" in text, "room" in remedy) == ("problem", True, True)


def test_doctor_sees_damaged_data(monkeypatch):
    from assay.data import embedded

    def torn(name):
        raise ValueError("torn")

    monkeypatch.setattr(embedded, "arrays", torn)
    ((state, text, remedy),) = states("shipped data")
    assert (state, "digits-train: torn" in text, remedy) == ("problem", True, "install assay again")


def test_doctor_tells_full_data_sets_from_absent_ones(tmp_path, monkeypatch):
    from assay.data import remote, sources

    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    monkeypatch.setattr(sources, "FASHION_DEBIAN", tmp_path / "none")
    ((state, text, _),) = states("full data sets")
    assert (state, text) == ("note", "here: none; not here: fashion, mnist, cifar10, cifar100, svhn")
    for each in (remote.MNIST, remote.SVHN):
        for file in each.checksums:
            path = tmp_path / each.name / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"")
    ((_, text, _),) = states("full data sets")
    assert text == "here: mnist, svhn; not here: fashion, cifar10, cifar100"


def test_doctor_sees_an_old_torch(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "__version__", "2.5.1")
    assert states("torch") == [("problem", "2.5.1", "install torch 2.6 or newer")]
    monkeypatch.setattr(torch, "__version__", "10.0.0+cpu")
    assert states("torch") == [("ok", "10.0.0+cpu", "")]


def test_doctor_sees_too_many_threads(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1 + (os.cpu_count() or 1))
    ((state, _, remedy),) = states("threads")
    assert (state, "OMP_NUM_THREADS" in remedy) == ("note", True)


def test_doctor_sees_absent_extras(monkeypatch):
    monkeypatch.setattr(assay.cli.diagnosis, "find_spec", lambda name: None)
    assert states("extra ray") == [
        ("note", "not installed; for clusters, `assay run --on`", 'pip install "assay[ray]"')
    ]


def test_doctor_sees_an_absent_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    ((state, _, _),) = states("compiler")
    assert state == "note"


def test_doctor_names_the_paper_that_is_broken(tmp_path, monkeypatch):
    (tmp_path / "papers.toml").write_text('[torn]\ntitle = "T"\n[lost]\ntitle = "L"\nparts = ["assay.metrics.Lost"]\n')
    (tmp_path / "torn.py").write_text("raise RuntimeError('on import')\n")
    monkeypatch.syspath_prepend(tmp_path.parent)
    known = {paper.key: paper for paper in catalogue._read_folder(tmp_path.name, tmp_path)}
    monkeypatch.setattr(assay.cli.diagnosis, "papers", lambda: known)
    found = states("papers")
    assert [state for state, _, _ in found] == ["problem", "problem"]
    assert found[0][1:] == ("torn: RuntimeError: on import", f"see {tmp_path / 'torn.py'}")
    assert found[1][1].startswith("lost: AttributeError")


def test_doctor_survives_a_check_that_fails(monkeypatch):
    def _data():
        raise KeyError("what")

    monkeypatch.setattr(assay.cli.diagnosis, "_data", _data)
    assert states("data") == [("problem", "KeyError: 'what'", "this should not happen: please report it")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_back(call, shell):
    code, out, _ = call("completion", shell)
    assert code == 0
    assert f"_ASSAY_COMPLETE={shell}_complete" in out


def test_bash_takes_the_script(call, tmp_path):
    _, out, _ = call("completion", "bash")
    (tmp_path / "script").write_text(out)
    subprocess.run(["bash", "-n", str(tmp_path / "script")], check=True)


def test_completion_refuses_another_shell(call):
    code, _, err = call("completion", "fsh")
    assert code == 2
    assert "'fish'" in err or "'zsh'" in err


def asked(words):
    """What the shell is given for `assay WORDS<TAB>`."""
    environment = os.environ | {
        "_ASSAY_COMPLETE": "bash_complete",
        "COMP_WORDS": f"assay {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    ran = subprocess.run([sys.executable, "-m", "assay"], env=environment, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in ran.stdout.splitlines()]


def test_the_shell_completes_commands_and_options():
    assert {"plan", "pack", "probe"} <= set(COMMANDS)
    assert asked("comp") == ["completion"]
    assert "--store" in asked("doctor --")


def test_targets_are_keys_and_then_claims():
    values = [item.value for item in complete_target(None, None, "")]
    assert values == list(catalogue.papers())
    claims = [f"controls/{outline.id}" for outline in catalogue.papers()["controls"].claims]
    assert [item.value for item in complete_target(None, None, "contr")] == ["controls", *claims]
    assert [item.value for item in complete_target(None, None, "controls/same")] == ["controls/same_method_twice"]
    assert complete_target(None, None, "contr/") == []
    assert [(item.value, item.type) for item in complete_target(None, None, "./my")] == [("./my", "file")]


def test_subjects():
    assert [item.value for item in complete_subject(None, None, "contr")] == ["control"]


def test_completing_never_raises(monkeypatch):
    def broken():
        raise catalogue.ClaimError("broken")

    monkeypatch.setattr(catalogue, "papers", broken)
    assert complete_target(None, None, "c") == []
    assert complete_subject(None, None, "c") == []


def test_completing_imports_no_torch():
    code = (
        "import sys; from assay.cli.completing import complete_target; assert complete_target(None, None, 'c'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
