"""`assay probe path`, on a network and its own permuted copy: all of the barrier goes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.nn import smallcnn
from assay.probes import PermutationSpec

MODULE = """from assay.nn import smallcnn


def build():
    return smallcnn((1, 8, 8), 3, widths=(6, 5))


def words():
    return "a network"
"""
CALL = (
    "probe",
    "path",
    "a.safetensors",
    "b.safetensors",
    "--model",
    "two_networks:build",
    "--data",
    "data.safetensors",
)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "two_networks.py").write_text(MODULE)
    torch.manual_seed(0)
    model = smallcnn((1, 8, 8), 3, widths=(6, 5))
    for p in model.parameters():
        p.data.add_(torch.rand_like(p))
    x = torch.rand(40, 1, 8, 8)
    with torch.no_grad():
        model(x)
        save_file({"inputs": x, "targets": model.eval()(x).argmax(1)}, tmp_path / "data.safetensors")
    spec = PermutationSpec.of(model, x)
    turned = spec.apply(spec.random(model, torch.Generator().manual_seed(1)), model)
    for name, network in (("a", model), ("b", turned)):
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")


def test_a_permuted_copy(assay, files, tmp_path):
    found = json.loads(assay(*CALL, "--points", 5, "--matched", "m.safetensors", "--json").stdout)
    assert found["barrier"] > 0.01
    assert abs(found["barrier_matched"]) < 1e-5
    assert found["permutations"] == {"0": 6, "3": 5}
    assert len(found["losses"]) == 5
    first, matched = (load_file(tmp_path / f"{name}.safetensors") for name in "am")
    assert all(torch.equal(first[name], matched[name]) for name in first)
    page = (tmp_path / "path-report" / "report.html").read_text()
    assert "units matched" in page
    assert "<script" not in page


def test_what_a_person_reads(assay, files):
    said = assay(*CALL, "--out", "here").stdout
    assert "barrier as they are: " in said
    assert "with units matched: " in said
    assert "report: here/report.html" in said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({2: "c.safetensors"}, "FIRST: there is no file c.safetensors"),
        ({2: "data.safetensors"}, "does not fit two_networks:build"),
        ({5: "two_networks"}, "--model takes MODULE:FUNCTION"),
        ({5: "no_such_module:build"}, "No module named 'no_such_module'"),
        ({5: "two_networks:words"}, "must make a torch.nn.Module"),
        ({7: "a.safetensors"}, "must hold inputs and targets"),
        ({7: "none.npz"}, "there is no file none.npz"),
    ],
)
def test_what_is_refused(assay, files, changed, message):
    words = [changed.get(number, word) for number, word in enumerate(CALL)]
    assert message in assay(*words, code=2).stderr
