"""A folder of somebody's checkpoints: every format, natural order, and what is refused by name."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from assay.probes import CMD, Trajectory, checkpoints


def states(count=4):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for _ in range(count):
        model(torch.randn(8, 3))
        for p in model.parameters():
            p.data.add_(torch.randn_like(p))
        yield {name: tensor.clone() for name, tensor in model.state_dict().items()}


def keep(path, state, kind):
    match kind:
        case "safetensors":
            save_file(state, path.with_suffix(".safetensors"))
        case "npz":
            np.savez(path.with_suffix(".npz"), **{name: tensor.numpy() for name, tensor in state.items()})
        case "pt" | "pth":
            torch.save(state, path.with_suffix(f".{kind}"))
        case nest:
            torch.save({"epoch": 3, nest: state, "optimizer": {"lr": 0.1}}, path.with_suffix(".pt"))


KINDS = ["safetensors", "npz", "pt", "pth", "state_dict", "model", "model_state_dict"]


@pytest.mark.parametrize("kept", ["memory", "file"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_in_natural_order(tmp_path, kind, kept):
    folder = tmp_path / "run"
    folder.mkdir()
    expected = {}
    for epoch, state in zip((1, 2, 10, 9), states(), strict=True):
        keep(folder / f"ckpt-{epoch}", state, kind)
        floats = [t for n, t in state.items() if n != "1.num_batches_tracked"]
        expected[epoch] = torch.cat([t.flatten() for t in floats])
    (folder / "notes.txt").write_text("not a checkpoint")
    trajectory = checkpoints.read(folder, path=tmp_path / "w" if kept == "file" else None)
    assert list(trajectory.layers)[:2] == ["0.weight", "0.bias"] or kind == "safetensors"
    assert "1.num_batches_tracked" not in trajectory.layers
    order = [trajectory.layers[name] for name in ("0.weight", "0.bias", "1.weight", "1.bias")]
    order += [trajectory.layers[name] for name in ("1.running_mean", "1.running_var")]
    for row, epoch in zip(trajectory.weights, (1, 2, 9, 10), strict=True):
        assert torch.equal(torch.cat([row[part] for part in order]), expected[epoch])
    if kept == "file":
        assert torch.equal(Trajectory.open(tmp_path / "w").weights, trajectory.weights)
    assert CMD(2).fit(trajectory).num_modes >= 1


def test_half_and_double_precision_are_read_as_float32(tmp_path):
    for k, dtype in enumerate((torch.bfloat16, torch.float16, torch.float64)):
        save_file({"w": torch.tensor([0.5 + k, 2.0], dtype=dtype)}, tmp_path / f"{k}.safetensors")
    trajectory = checkpoints.read(tmp_path)
    assert trajectory.dtype == torch.float32
    assert trajectory.weights.tolist() == [[0.5, 2.0], [1.5, 2.0], [2.5, 2.0]]


def test_a_pattern_chooses_among_files(tmp_path):
    for k, state in enumerate(states(6)):
        keep(tmp_path / (f"ema-{k}" if k % 2 else f"raw-{k}"), state, "pt")
    assert len(checkpoints.read(tmp_path, pattern="ema-*")) == 3


def test_natural_order_of_names():
    names = ["e10.pt", "e9.pt", "e1.pt", "e02.pt", "best.pt", "e100.pt"]
    assert sorted(names, key=checkpoints.natural) == ["best.pt", "e1.pt", "e02.pt", "e9.pt", "e10.pt", "e100.pt"]


def test_the_smoothed_network_is_saved_with_the_counters_of_a_like_one(tmp_path):
    for k, state in enumerate(states()):
        keep(tmp_path / f"c{k}", state, "safetensors")
    modes = CMD(2).fit(checkpoints.read(tmp_path))
    checkpoints.write(tmp_path / "plain.safetensors", modes)
    checkpoints.write(tmp_path / "full.safetensors", modes, like=tmp_path / "c3.safetensors")
    full, plain = load_file(tmp_path / "full.safetensors"), load_file(tmp_path / "plain.safetensors")
    assert int(full["1.num_batches_tracked"]) == 4
    assert "1.num_batches_tracked" not in plain
    part = modes.layers["0.weight"]
    assert torch.equal(full["0.weight"].flatten(), modes.reconstruct()[part])
    nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).load_state_dict(full)
    save_file({"0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: has no tensor"):
        checkpoints.write(tmp_path / "x.safetensors", modes, like=tmp_path / "other.safetensors")


class Bomb:
    def __reduce__(self):
        return (print, ("unpickled",))


class TestRefusals:
    def test_folders(self, tmp_path):
        with pytest.raises(ValueError, match="is not a folder"):
            checkpoints.read(tmp_path / "nowhere")
        with pytest.raises(ValueError, match=r"must hold checkpoints .* got none"):
            checkpoints.read(tmp_path)
        for k, state in enumerate(states(2)):
            keep(tmp_path / f"c{k}", state, "pt")
        with pytest.raises(ValueError, match="at least 3 checkpoints, got 2"):
            checkpoints.read(tmp_path)

    def spoil(self, tmp_path, change):
        for k, state in enumerate(states()):
            if k == 2:
                change(state)
            keep(tmp_path / f"c{k}", state, "pt")
        kept = tmp_path / "kept" / "w"
        kept.parent.mkdir()
        with pytest.raises(ValueError, match=r"c2\.pt: ") as caught:
            checkpoints.read(tmp_path, kept)
        assert not list(kept.parent.iterdir())
        return str(caught.value)

    def test_a_shape_that_differs(self, tmp_path):
        message = self.spoil(tmp_path, lambda state: state.update({"0.bias": torch.zeros(7)}))
        assert "tensor '0.bias' has shape (7,), in c0.pt it is (4,)" in message

    def test_a_tensor_that_is_missing_or_new(self, tmp_path):
        assert "has no tensor '1.bias', which c0.pt has" in self.spoil(tmp_path, lambda state: state.pop("1.bias"))

    def test_a_tensor_that_is_new(self, tmp_path):
        message = self.spoil(tmp_path, lambda state: state.update({"head": torch.zeros(7)}))
        assert "has tensor 'head', which c0.pt has not" in message

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(self, tmp_path, value):
        message = self.spoil(tmp_path, lambda state: state["1.running_var"][1:2].fill_(value))
        assert "tensor '1.running_var' has weights that are not finite" in message

    @pytest.mark.parametrize("name", ["c2.pt", "c2.pth", "c2.safetensors", "c2.npz"])
    @pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 64, b"PK\x03\x04broken", b"\x80\x04."])
    def test_a_file_that_cannot_be_read(self, tmp_path, name, content):
        for k, state in enumerate(states()):
            keep(tmp_path / f"c{k + 3}", state, "pt")
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: not a readable checkpoint"):
            checkpoints.read(tmp_path)

    @pytest.mark.parametrize("name", ["c2.pt", "c2.npz"])
    def test_a_hostile_file_is_not_unpickled(self, tmp_path, name, capsys):
        for k, state in enumerate(states()):
            keep(tmp_path / f"c{k + 3}", state, "pt")
        if name.endswith("pt"):
            torch.save({"w": Bomb()}, tmp_path / name)
        else:
            np.savez(tmp_path / name, w=np.array([Bomb()], dtype=object))
        with pytest.raises(ValueError, match=f"{name}: not a readable checkpoint"):
            checkpoints.read(tmp_path)
        (tmp_path / "c2.pth").write_bytes(pickle.dumps({"w": Bomb()}))
        (tmp_path / name).unlink()
        with pytest.raises(ValueError, match=r"c2\.pth: not a readable checkpoint"):
            checkpoints.read(tmp_path)
        assert "unpickled" not in capsys.readouterr().out

    def test_an_array_that_claims_to_be_larger_than_memory(self, tmp_path):
        for k, state in enumerate(states()):
            keep(tmp_path / f"c{k + 3}", state, "pt")
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**7)})
        with zipfile.ZipFile(tmp_path / "c2.npz", "w") as file:
            file.writestr("w.npy", header.getvalue())
        with pytest.raises(ValueError, match=r"c2\.npz: not a readable checkpoint"):
            checkpoints.read(tmp_path)

    @pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"steps": torch.tensor(3)}}])
    def test_a_file_without_float_tensors(self, tmp_path, content):
        for k, state in enumerate(states()):
            keep(tmp_path / f"c{k + 3}", state, "pt")
        torch.save(content, tmp_path / "c2.pt")
        with pytest.raises(ValueError, match=r"c2\.pt: (must hold a state dict|holds no)"):
            checkpoints.read(tmp_path)
