"""`assay probe saliency` on a network and a picture of one's own."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from assay.probes import full_grad, pixel_perturbation

NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))

def smooth():
    return nn.Sequential(build(), nn.Softmax(1))

def nothing():
    return 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_network.py").write_text(NETWORK)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((1, 8, 8), dtype=np.float32))
    return tmp_path


def network():
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_a_page_of_maps(assay, own):
    net = network()
    with torch.no_grad():
        net[3].bias += torch.tensor([0.0, 0.0, 5.0])
    save_file(net.state_dict(), str(own / "w.safetensors"))
    options = ("--weights", "w.safetensors", "--mean", "0.5", "--std", "0.25")
    done = assay("probe", "saliency", "x.npy", "--model", "own_network:build", *options, "--json")
    found = json.loads(done.stdout)
    assert found["class"] == 2  # the weights were read
    x = (torch.from_numpy(np.load(own / "x.npy"))[None] - 0.5) / 0.25
    assert found["probability"] == pytest.approx(net(x).softmax(1)[0, 2].item(), rel=1e-5)
    by_hand = pixel_perturbation(net, x, full_grad(net, x), (0.05, 0.1, 0.2), fill=x.mean().item())
    assert found["changes"]["FullGrad"] == pytest.approx(by_hand.tolist(), rel=1e-4)
    assert {"gradient", "integrated gradients", "SmoothGrad", "Grad-CAM at 1", "NormGrad at 1"} < set(found["changes"])
    page = (own / "saliency.html").read_text()
    assert page.count("data:image/png") == 7
    assert "<script" not in page


def test_pictures_targets_and_what_cannot_be_drawn(assay, own):
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(own / "x.png")
    options = ("--size", 8, "--gray", "--target", 1, "--layer", "0.0", "--out", "page/map.html")
    done = assay("probe", "saliency", "x.png", "--model", "own_network:smooth", *options)
    assert "class 1, probability" in done.stdout
    assert "no FullGrad: model must be a network whose biases are known" in done.stdout
    assert "Grad-CAM at 0.0" in (own / "page" / "map.html").read_text()


def test_refusals(assay, own):
    save_file({"0.weight": torch.zeros(2)}, str(own / "w.safetensors"))
    np.save(own / "flat.npy", np.zeros((8, 8), np.float32))
    (own / "text.png").write_text("no picture")
    for words, message in (
        (("y.npy", "--model", "own_network:build"), "IMAGE: y.npy is no file"),
        (("flat.npy", "--model", "own_network:build"), "must hold numbers (c, h, w) in [0, 1]: got (8, 8)"),
        (("text.png", "--model", "own_network:build"), "is no picture"),
        (("x.npy", "--model", "own_network"), "--model takes MODULE:FUNCTION"),
        (("x.npy", "--model", "own_network:missing"), "own_network has no function 'missing'"),
        (("x.npy", "--model", "nowhere_at_all:build"), "nowhere_at_all"),
        (("x.npy", "--model", "own_network:nothing"), "must make a torch.nn.Module, not int"),
        (("x.npy", "--model", "own_network:build", "--weights", "w.safetensors"), "--weights: w.safetensors"),
        (("x.npy", "--model", "own_network:build", "--target", 3), "targets must lie in 0..2"),
        (("x.npy", "--model", "own_network:build", "--layer", "9"), "layer must be a module of the model: got '9'"),
        (("x.npy", "--model", "own_network:build", "--mean", "a"), "--mean takes numbers"),
        (("x.npy", "--model", "own_network:build", "--mean", "1,2"), "--mean takes one number or 1"),
        (("x.npy", "--model", "own_network:build", "--std", "0"), "--std must be positive"),
        (("x.npy", "--model", "own_network:build", "--size", 5), "own_network:build: mat1 and mat2"),
    ):
        assert message in assay("probe", "saliency", *words, code=2).stderr
