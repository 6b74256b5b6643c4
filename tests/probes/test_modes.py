"""What a decomposition says, and that it comes back from its file as it was."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from assay.probes import CMD, Modes, Trajectory
from assay.probes.layout import Layout


@pytest.fixture
def trajectory(wavy):
    return Trajectory.from_weights(torch.from_numpy(wavy), {"a": slice(0, 13), "b": slice(13, 60)})


@pytest.fixture
def modes(trajectory):
    return CMD(3, 60).fit(trajectory)


@pytest.mark.parametrize("t", [0, 7, -1, -25])
def test_reconstruct_is_the_line_in_the_reference(modes, wavy, t):
    expected = [
        float(modes.scale[i]) * wavy[t, int(modes.reference_index[int(modes.mode[i])])] + float(modes.offset[i])
        for i in range(60)
    ]
    np.testing.assert_allclose(modes.reconstruct(t), expected, atol=1e-14)


def test_write_puts_a_snapshot_into_a_model():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(2, 3))
            self.b = nn.Parameter(torch.zeros(1))

    model = Two()
    weights = torch.sin(torch.outer(torch.arange(1.0, 7), torch.arange(1.0, 8)))
    modes = CMD(2).fit(Trajectory.from_weights(weights, {"a": slice(0, 6), "b": slice(6, 7)}))
    modes.write(model, 3)
    assert torch.equal(torch.cat([model.a.data.flatten(), model.b.data]), modes.reconstruct(3))


def test_shares_are_counted_over_all_weights(modes):
    mode = modes.mode.tolist()
    for m in range(modes.num_modes):
        assert float(modes.mode_shares[m]) == pytest.approx(mode.count(m) / 60)
        assert float(modes.layer_shares[m, 0]) == pytest.approx(mode[:13].count(m) / 13)
        assert float(modes.layer_shares[m, 1]) == pytest.approx(mode[13:].count(m) / 47)


def test_largest_cluster_comes_first(planted):
    weights, labels, _, _ = planted(size=300)
    keep = torch.cat([(labels == m).nonzero()[: 5 * 2**m, 0] for m in range(4)])
    modes = CMD(4).fit(Trajectory.from_weights(weights[:, keep]))
    assert labels[keep][modes.reference_index].tolist() == [3, 2, 1, 0]
    assert modes.mode_shares.tolist() == pytest.approx([40 / 75, 20 / 75, 10 / 75, 5 / 75])


def test_error_of_a_longer_trajectory_is_measured_along_its_own_references(modes, wavy):
    t = np.arange(40)[:, None]
    longer = np.concatenate([wavy, wavy[-1] + 0.1 * np.sin(0.3 * t[25:] * np.arange(60) ** 0.5)])
    scale, offset, mode = modes.scale.numpy(), modes.offset.numpy(), modes.mode.numpy()
    model = scale * longer[:, modes.reference_index.numpy()[mode]] + offset
    expected = ((longer - model) ** 2).sum() / ((longer - longer.mean(0)) ** 2).sum()
    assert modes.relative_error(Trajectory.from_weights(torch.from_numpy(longer))) == pytest.approx(expected, abs=1e-12)


def test_a_layer_that_never_moves_has_no_error(wavy):
    wavy[:, :13] = 0.125
    modes = CMD(2, 60).fit(
        Trajectory.from_weights(torch.from_numpy(wavy), {"still": slice(0, 13), "rest": slice(13, 60)})
    )
    assert modes.errors_by_layer()["still"] == 0


def test_file_holds_all_of_it_with_the_layer_names(modes, trajectory, tmp_path):
    path = tmp_path / "modes.safetensors"
    modes.save(path)
    again = Modes.load(path)
    for name in ("scale", "offset", "mode", "reference_index", "reference", "correlation", "moved", "missed"):
        assert torch.equal(getattr(again, name), getattr(modes, name))
        assert getattr(again, name).dtype == getattr(modes, name).dtype
    assert again.layers == trajectory.layers
    assert again.relative_error() == modes.relative_error()
    with safe_open(path, "pt") as file:
        assert '"a"' in file.metadata()["layout"]


def test_labels_take_one_byte_and_two_beyond_256_modes(tmp_path):
    weights = torch.randn(40, 300, generator=torch.Generator().manual_seed(0))
    one = CMD(5, 300).fit(Trajectory.from_weights(weights))
    two = CMD(300, 300).fit(Trajectory.from_weights(weights))
    assert (one.mode.dtype, one.bytes_per_weight) == (torch.uint8, 9)
    assert (two.mode.dtype, two.bytes_per_weight) == (torch.uint16, 10)
    assert sorted(two.reference_index[two.mode.long()].tolist()) == list(range(300))
    assert torch.equal(two.reconstruct(3), weights[3])
    two.save(tmp_path / "m.safetensors")
    assert torch.equal(Modes.load(tmp_path / "m.safetensors").mode, two.mode)


class TestRefusals:
    def test_snapshots_that_are_not_there(self, modes):
        for t in (25, -26):
            with pytest.raises(ValueError, match=rf"t must be in \[-25, 25\), got {t}"):
                modes.reconstruct(t)

    def test_a_trajectory_of_another_network(self, modes):
        with pytest.raises(ValueError, match="trajectory must have 60 weights, got 4"):
            modes.relative_error(Trajectory.from_weights(torch.zeros(5, 4)))

    def test_a_model_of_another_shape(self, modes):
        with pytest.raises(ValueError, match="model has 'weight'"):
            modes.write(nn.Linear(2, 2))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"scale": None}, "'scale' is missing"),
            ({"scale": torch.zeros(59)}, r"scale must have shape \(60,\), got \(59,\)"),
            ({"scale": torch.zeros(60, dtype=torch.int32)}, "scale has dtype torch.int32"),
            ({"offset": torch.full((60,), float("nan"))}, "offset must be finite"),
            ({"mode": torch.full((60,), 3, dtype=torch.uint8)}, r"mode must be in \[0, 3\)"),
            ({"reference_index": torch.tensor([0, 1, 60])}, r"reference_index must be in \[0, 60\)"),
            ({"reference": torch.zeros(2, 25)}, r"reference must have shape \(3, 25\)"),
        ],
    )
    def test_a_file_that_does_not_hang_together(self, modes, tmp_path, change, message):
        path = tmp_path / "m.safetensors"
        modes.save(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = {n: t for n, t in (load_file(path) | change).items() if t is not None}
        save_file(tensors, path, metadata)
        with pytest.raises(ValueError, match=f"m.safetensors: {message}"):
            Modes.load(path)

    def test_a_file_of_something_else(self, tmp_path):
        save_file({"scale": torch.zeros(2)}, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=r"not an assay\.modes file"):
            Modes.load(tmp_path / "other.safetensors")
        (tmp_path / "junk.safetensors").write_bytes(b"junk")
        with pytest.raises(ValueError, match=r"junk\.safetensors"):
            Modes.load(tmp_path / "junk.safetensors")
        with pytest.raises(ValueError, match="nothing"):
            Modes.load(tmp_path / "nothing.safetensors")
        metadata = {"format": "assay.modes", "version": "1", "layout": "{"}
        save_file({"scale": torch.zeros(2)}, tmp_path / "hostile.safetensors", metadata)
        with pytest.raises(ValueError, match="hostile"):
            Modes.load(tmp_path / "hostile.safetensors")


def test_layout_of_the_file_is_the_models():
    layout = Layout(("x.weight",), ((2, 3),), buffers=True)
    assert Layout.from_json(layout.to_json()) == layout
