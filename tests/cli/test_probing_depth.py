"""`assay probe depth-sampling` on a picture and its depth."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from assay.cli.picture_files import Picture, open_picture, write_picture
from assay.imaging import (
    ImportanceNet,
    complete_depth,
    depth_errors,
    gaussian_sampling,
    grid_pattern,
    importance_map,
    random_pattern,
    superpixel_pattern,
)

HEIGHT, WIDTH = 30, 40


@pytest.fixture
def scene(tmp_path):
    """A slope with a near box on it, in millimeters, and unknown in a corner."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    depth = 3000 + 50 * (HEIGHT - y)
    box = (y > 8) & (y < 20) & (x > 10) & (x < 25)
    depth = torch.where(box, 1500, depth)
    depth[:4, :5] = 0
    rgb = torch.stack([box.float(), depth / 5000, y / HEIGHT])
    write_picture(tmp_path / "x.png", Picture(rgb))
    write_picture(tmp_path / "d.png", Picture(depth[None] / 65535, bits=16))
    meters = depth.float() * 0.001
    meters[:4, :5] = np.inf
    np.save(tmp_path / "d.npy", meters.numpy())
    return open_picture(tmp_path / "x.png", "PHOTO").read().pixels, torch.where(depth > 0, depth / 1000, 0.0)


def test_samples_and_errors_are_those_of_the_library(assay, tmp_path, scene):
    rgb, truth = scene
    valid = truth > 0
    options = ("--budget", "5%", "--draws", 7, "--seed", 3)
    told = json.loads(assay("probe", "depth-sampling", "x.png", "d.png", *options, "--json").stdout)
    generator = torch.Generator().manual_seed(3)

    def complete(mask, values, _=None):
        return complete_depth(mask, values)

    q = importance_map(truth, complete, 60, draws=7, valid=valid, generator=generator)
    mask = gaussian_sampling(q, 60, generator=generator)
    others = {
        "superpixels": [superpixel_pattern(rgb, 60, generator=generator)],
        "grid": [grid_pattern(HEIGHT, WIDTH, 60, generator=generator)],
        "random": [random_pattern(HEIGHT, WIDTH, 60, generator=generator) for _ in range(10)],
    }
    assert (told["samples"], told["pixels"]) == (60, HEIGHT * WIDTH)
    for name, masks in {"by importance": [mask], **others}.items():
        found = [depth_errors(complete(each & valid, truth), truth, valid=valid) for each in masks]
        for measure in ("rmse", "mae", "rel"):
            assert told["errors"][name][measure] == pytest.approx(np.mean([each[measure] for each in found]), rel=1e-6)
    assert told["errors"]["by importance"]["rmse"] < told["errors"]["random"]["rmse"]
    rows = np.loadtxt(tmp_path / "depth-report" / "samples.csv", delimiter=",", skiprows=1, dtype=int)
    assert rows.tolist() == mask.nonzero().tolist()
    shown = open_picture(tmp_path / "depth-report" / "samples.png", "PHOTO").read().pixels
    assert torch.equal(shown[0], mask.float())
    shown = open_picture(tmp_path / "depth-report" / "importance.png", "PHOTO").read().pixels
    assert torch.allclose(shown[0], (q / q.max()).sqrt(), atol=1e-4)
    page = (tmp_path / "depth-report" / "report.html").read_text()
    assert page.count("data:image/png") == 4
    assert "superpixels" in page
    assert "<script" not in page


def test_depth_in_meters_and_words(assay, tmp_path, scene):
    """A .npy says the same as a picture; what is infinite is unknown."""
    options = ("--budget", 50, "--draws", 3, "--method", "nearest", "--error", "rel", "--json")
    one = json.loads(assay("probe", "depth-sampling", "x.png", "d.png", *options, "--out", "one").stdout)
    two = json.loads(assay("probe", "depth-sampling", "x.png", "d.npy", *options, "--out", "two").stdout)
    half = json.loads(
        assay("probe", "depth-sampling", "x.png", "d.png", *options, "--out", "half", "--unit", 5e-4).stdout
    )
    for name, found in one["errors"].items():
        assert two["errors"][name] == pytest.approx(found, rel=1e-5)
        assert half["errors"][name]["rmse"] == pytest.approx(found["rmse"] / 2, rel=1e-5)
    said = assay("probe", "depth-sampling", "x.png", "d.npy", "--budget", 50, "--draws", 3).stdout
    assert said.startswith("50 samples of 1200 pixels; error of the depth completed from them:\n  by importance")


def test_a_trained_network_says_where(assay, tmp_path, scene):
    rgb, truth = scene
    torch.manual_seed(0)
    network = ImportanceNet(width=4, levels=2)
    network.fit([(rgb, rgb[0])], steps=5)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assay("probe", "depth-sampling", "x.png", "d.png", "--weights", "w.safetensors", "--budget", 50)
    q = torch.where(truth > 0, network.predict(rgb), 0.0)
    mask = gaussian_sampling(q, 50, generator=torch.Generator().manual_seed(0))
    rows = np.loadtxt(tmp_path / "depth-report" / "samples.csv", delimiter=",", skiprows=1, dtype=int)
    assert rows.tolist() == mask.nonzero().tolist()
    assert "where w.safetensors say" in (tmp_path / "depth-report" / "report.html").read_text()


def test_refusals(assay, tmp_path, scene):
    np.save(tmp_path / "cube.npy", np.zeros((2, 3, 4)))
    np.save(tmp_path / "small.npy", np.ones((3, 4)))
    np.save(tmp_path / "unknown.npy", np.zeros((HEIGHT, WIDTH)))
    (tmp_path / "text.npy").write_text("no numbers")
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    save_file(ImportanceNet(1, width=2, levels=2).state_dict(), tmp_path / "grey.safetensors")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "samples.csv").write_text("mine")
    for words, message in (
        (("y.png", "d.png"), "PHOTO: y.png is no file"),
        (("x.png", "e.png"), "DEPTH: e.png is no file"),
        (("x.png", "e.npy"), "DEPTH: e.npy is no file"),
        (("x.png", "x.png"), "DEPTH: x.png must be grey, or a .npy: it is in colour"),
        (("x.png", "cube.npy"), "cube.npy must hold numbers (h, w): got float64 (2, 3, 4)"),
        (("x.png", "text.npy"), "text.npy holds no array"),
        (("x.png", "small.npy"), "small.npy must have the size of PHOTO, 40 x 30 pixels: got 4 x 3"),
        (("x.png", "unknown.npy"), "unknown.npy is known at 0 pixels, fewer than the budget of 12"),
        (("x.png", "d.png", "--budget", "some"), "--budget takes a number of samples or a share such as 1%"),
        (
            ("x.png", "d.png", "--budget", "200%"),
            "must lie in 1 to 1200, the pixels there are: got 200% = 2400",
        ),
        (("x.png", "d.png", "--budget", "0"), "--budget must lie in 1 to 1200"),
        (
            ("x.png", "d.png", "--weights", "other.safetensors"),
            "holds no assay.imaging.ImportanceNet",
        ),
        (("x.png", "d.png", "--weights", "grey.safetensors"), "sides of at least 4 pixels and 1 channels"),
        (("x.png", "d.png", "--out", "there"), "--out: there/samples.csv exists already; --force overwrites it"),
        (("x.png", "d.png", "--out", "x.png"), "--out: x.png exists already and is no folder"),
        (("x.png", "d.png", "--memory", "1K"), "this method must see the whole picture"),
    ):
        assert message in assay("probe", "depth-sampling", *words, code=2).stderr, message
    assert (tmp_path / "there" / "samples.csv").read_text() == "mine"
