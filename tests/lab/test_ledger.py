"""The ledger: what is written is there whole, what cannot be read is set aside, and two of them merge by copying."""

import dataclasses
import json
import shutil
import warnings

import numpy as np
import pytest

from assay.lab import Ledger, StoreError
from assay.lab.identity import Code
from assay.lab.ledger import LedgerWarning, identity_of
from assay.lab.record import Record, Registration


def record(seed=0, status="ok", results=None, **changes):
    settings = {"lr": 0.1, "widths": [1, 2], "name": "ü"}
    fields = dict(
        digest=identity_of("paper", "claim", ("a",), seed, settings, "c0de", "seed"),
        paper="paper",
        claim="claim",
        arms=("a",),
        seed=seed,
        settings=settings,
        size="laptop",
        purpose="seed",
        status=status,
        results={"a": {"x": 0.1 + seed, "curve": np.arange(3.0), "bad": float("nan"), "far": float("-inf")}},
        error="",
        registration=Registration("It is.", ("a",), "x: a >= 1"),
        code="c0de",
        provenance="pr0v",
        started=f"2026-01-01T00:00:0{seed}.000+00:00",
        wall_seconds=1.5,
        cpu_seconds=1.25,
        peak_bytes=100,
    )
    return Record(**fields | ({"results": results} if results is not None else {}) | changes)


@pytest.fixture(params=["folder", "memory"])
def ledger(request, tmp_path):
    return Ledger(tmp_path / "ledger" if request.param == "folder" else f"memory://{tmp_path.name}")


def same(first, second):
    assert dataclasses.replace(first, results={}) == dataclasses.replace(second, results={})
    assert set(first.results) == set(second.results)
    for arm in first.results:
        for measure, value in first.results[arm].items():
            np.testing.assert_array_equal(second.results[arm][measure], value)


def test_a_trial_comes_back_as_it_was(ledger):
    for seed in range(3):
        ledger.write(record(seed))
    back = list(ledger.records("paper", "claim", arrays=True))
    assert sorted(each.seed for each in back) == [0, 1, 2]
    for each in back:
        same(record(each.seed), each)
    assert list(ledger.records("paper", "another")) == []
    without = ledger.read("paper", "claim", record(1).digest)
    assert set(without.results["a"]) == {"x", "bad", "far"}


def test_code_provenance_and_plans_come_back(ledger):
    code = Code({"assay.b": "2", "assay.a": "1"})
    assert ledger.code(ledger.write_code(code)).files == code.files
    facts = {"cores": 2, "versions": {"torch": "2"}}
    assert ledger.provenance(ledger.write_provenance(facts)) == facts
    assert ledger.provenance("unknown") == {}
    plan = {"settings": {"widths": (1, 2)}, "seeds": 5, "looks": None}
    ledger.write_plan("paper", "claim", plan)
    assert ledger.plan("paper", "claim", {"widths": [1, 2]})["seeds"] == 5
    assert ledger.plan("paper", "claim", {"widths": [1, 3]}) == {}
    assert len(ledger.plans("paper", "claim")) == 1


def test_two_ledgers_merge_by_copying(tmp_path):
    for name, seeds in (("one", (0, 1)), ("two", (1, 2))):
        for seed in seeds:
            Ledger(tmp_path / name).write(record(seed))
    shutil.copytree(tmp_path / "two", tmp_path / "one", dirs_exist_ok=True)
    assert sorted(each.seed for each in Ledger(tmp_path / "one").records()) == [0, 1, 2]


def test_a_retried_failure_is_replaced_by_its_result(ledger):
    ledger.write(record(0, status="crashed", results={}))
    ledger.write(record(0))
    (back,) = ledger.records()
    assert back.status == "ok"


def torn(path):
    path.write_bytes(path.read_bytes()[:100])


def empty(path):
    path.write_bytes(b"")


def binary(path):
    path.write_bytes(b"\x80\x04\x95\x00" * 10)


def nested(path):
    path.write_text("[" * 100_000)


def swapped(path):
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"seed": 7}))


def renamed_status(path):
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"status": "brilliant"}))


def wrong_type(path):
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"wall_seconds": "long"}))


def extra_field(path):
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"__class__": "os.system"}))


def lost_array(path):
    path.with_suffix(".npz").unlink()


def pickled_array(path):
    with path.with_suffix(".npz").open("wb") as file:
        np.savez(file, **{"0000": np.array([print], dtype=object)})


@pytest.mark.parametrize(
    "spoil",
    [torn, empty, binary, nested, swapped, renamed_status, wrong_type, extra_field, lost_array, pickled_array],
    ids=lambda each: each.__name__,
)
def test_a_file_that_cannot_be_trusted_is_set_aside_with_a_warning(tmp_path, spoil):
    ledger = Ledger(tmp_path)
    for seed in range(3):
        ledger.write(record(seed))
    path = tmp_path / "trials" / "paper" / "claim" / f"{record(1).digest}.json"
    spoil(path)
    with pytest.warns(LedgerWarning, match=f"{path.name} is not a readable trial .* set aside"):
        back = list(ledger.records(arrays=True))
    assert sorted(each.seed for each in back) == [0, 2]
    assert not path.exists()
    assert [each.name.startswith(path.name) for each in (tmp_path / "set-aside").iterdir()] == [True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(ledger.records())) == 2  # warned once


def test_half_written_files_are_not_trials(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write(record(0))
    folder = tmp_path / "trials" / "paper" / "claim"
    (folder / f"{record(1).digest}.json.1234.part").write_text("{")
    (folder / f"{record(2).digest}.npz").write_bytes(b"arrays without their trial")
    assert [each.seed for each in ledger.records(arrays=True)] == [0]


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=r"cannot write the ledger at .*: No space left on device .*MiB free"):
        ledger.write(record(0))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_cannot_be_a_ledger_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"is a file; it must be a folder, a \.zip pack or a URL"):
        Ledger(tmp_path / "file")
    with pytest.raises(StoreError, match="cannot open the ledger at nonsense://x"):
        Ledger("nonsense://x")
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(StoreError, match="cannot read the packed results"):
        list(Ledger(tmp_path / "torn.zip").records())


def test_arrays_are_read_without_pickle_and_strictly(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write(record(0, results={"a": {"p": np.zeros((2, 3), np.float32), "i": np.arange(4)}}))
    (back,) = ledger.records(arrays=True)
    assert back.results["a"]["p"].dtype == np.float32
    text = next((tmp_path / "trials").rglob("*.json")).read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))
