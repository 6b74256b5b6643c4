"""`assay probe hessian`, on networks whose Hessian is known."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

MODULE = """from torch import nn


def line():
    return nn.Linear(3, 1, bias=False)


def wide():
    return nn.Linear(5, 1)


def words():
    return "a network"
"""


@pytest.fixture
def files(tmp_path):
    """Squared error of a line: H = 2 / n X^T X."""
    (tmp_path / "own_networks.py").write_text(MODULE)
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1.0, 0.3])
    save_file({"inputs": x, "targets": torch.zeros(30, 1)}, str(tmp_path / "data.safetensors"))
    np.savez(tmp_path / "data.npz", inputs=x.numpy(), targets=np.zeros((30, 1), np.float32))
    save_file({"weight": torch.ones(1, 3)}, str(tmp_path / "weights.safetensors"))
    return (2 / 30 * x.T @ x).double()


CALL = ("probe", "hessian", "--model", "own_networks:line", "--loss", "mse_loss")


@pytest.mark.parametrize("data", ["data.safetensors", "data.npz"])
def test_a_known_hessian(assay, files, tmp_path, data):
    words = (*CALL, "--weights", "weights.safetensors", "--data", data, "--top", 2, "--trace-probes", 200, "--json")
    found = json.loads(assay(*words).stdout)
    exact = torch.linalg.eigvalsh(files).flip(0)
    assert found["top_eigenvalues"] == pytest.approx(exact[:2].tolist(), rel=1e-3)
    _, low, high = found["trace"]
    assert low < files.trace().item() < high
    assert (found["weights"], found["examples"]) == (3, 30)
    assert found["smallest_node"] == pytest.approx(exact[-1].item(), rel=1e-3)
    page = (tmp_path / "hessian-report" / "report.html").read_text()
    assert "Spectral density" in page
    assert "<script" not in page


def test_what_a_person_reads(assay, files):
    said = assay(*CALL, "--data", "data.npz", "--double", "--out", "here").stdout
    assert "largest eigenvalues: " in said
    assert "trace: " in said
    assert f"report: {'here'}/report.html" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "own_networks", "--data", "data.npz"), "--model takes MODULE:FUNCTION, not 'own_networks'"),
        (("--model", "no_such:line", "--data", "data.npz"), "--model: No module named 'no_such'"),
        (("--model", "own_networks:curve", "--data", "data.npz"), "own_networks has no function 'curve'"),
        (("--model", "own_networks:words", "--data", "data.npz"), "must make a torch.nn.Module, not str"),
        (("--model", "own_networks:line", "--data", "none.npz"), "--data: there is no file none.npz"),
        (("--model", "own_networks:line", "--data", "weights.safetensors"), "must hold inputs and targets, has weight"),
        (("--model", "own_networks:line", "--data", "own_networks.py"), "own_networks.py: not a readable checkpoint"),
        (("--model", "own_networks:line", "--data", "data.npz", "--weights", "data.safetensors"), "does not fit"),
        (("--model", "own_networks:line", "--data", "data.npz", "--loss", "hinge"), "hinge"),
        (("--model", "own_networks:wide", "--data", "data.npz"), "the loss has no Hessian on these data"),
    ],
)
def test_refused_in_one_line(assay, files, words, message):
    done = assay("probe", "hessian", *words, code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
