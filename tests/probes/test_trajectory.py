"""Recording weights: order, files that grow and survive, refusals by name."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from assay.probes import Trajectory, record
from assay.probes.layout import Layout


def small() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))


def naive(model: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for _, p in model.named_parameters()])


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_rows_are_the_parameters_in_named_parameters_order(tmp_path, kept):
    model = small()
    trajectory = record(model, path=tmp_path / "run.f32" if kept == "file" else None)
    expected = []
    for _ in range(4):
        for p in model.parameters():
            p.data.add_(torch.randn_like(p))
        trajectory.on_epoch(model)
        expected.append(naive(model))
    assert np.array_equal(trajectory.weights.numpy(), np.stack(expected))
    assert np.array_equal(trajectory.row(-1).numpy(), expected[-1])
    assert np.array_equal(trajectory.columns(5, 17).numpy(), np.stack(expected)[:, 5:17])
    assert np.array_equal(trajectory.columns(5, 17, rows=range(1, 4, 2)).numpy(), np.stack(expected)[1::2, 5:17])
    assert np.array_equal(trajectory.take(torch.tensor([40, 2])).numpy(), np.stack(expected)[:, [40, 2]])
    assert trajectory.layers["3.bias"] == slice(60, 62)
    assert len(trajectory) == trajectory.epochs == 4


def test_file_is_raw_little_endian_float32_with_a_header_beside_it(tmp_path):
    model = small()
    trajectory = record(model, path=tmp_path / "run.f32")
    trajectory.append(model)
    assert np.array_equal(np.fromfile(tmp_path / "run.f32", "<f4"), naive(model))
    header = json.loads((tmp_path / "run.f32.json").read_text())
    assert header["dtype"] == "float32"
    assert header["layers"][0] == ["0.weight", [3, 1, 3, 3]]


def test_a_file_survives_reopening_grows_on_and_forgets_half_a_row(tmp_path):
    model = small()
    path = tmp_path / "run.f32"
    record(model, path=path).append(model)
    with path.open("ab") as file:
        file.write(b"half a row")
    trajectory = Trajectory.open(path)
    assert len(trajectory) == 1
    trajectory.append(model)
    trajectory.append(model)
    again = Trajectory.open(path)
    assert len(again) == 3
    assert torch.equal(again.weights, torch.from_numpy(naive(model)).expand(3, -1))
    assert path.stat().st_size == 3 * 62 * 4


def test_writing_to_the_mapping_leaves_the_file_alone(tmp_path):
    model = small()
    trajectory = record(model, path=tmp_path / "run.f32")
    trajectory.append(model)
    trajectory.weights.zero_()
    assert np.array_equal(trajectory.weights[0].numpy(), naive(model))


def test_rows_are_copies_and_write_puts_them_back():
    model = small()
    trajectory = record(model)
    trajectory.append(model)
    before = naive(model)
    for p in model.parameters():
        p.data.mul_(-3).add_(1)
    trajectory.write(model, trajectory.row(0))
    assert np.array_equal(naive(model), before)


def test_buffers_are_recorded_on_request_but_never_counters():
    model = small()
    model(torch.randn(5, 1, 4, 4))
    trajectory = record(model, buffers=True)
    trajectory.append(model)
    assert list(trajectory.layers)[-2:] == ["1.running_mean", "1.running_var"]
    assert np.array_equal(trajectory.row(0)[-6:-3].numpy(), model[1].running_mean.numpy())
    changed = trajectory.row(0) + 1
    trajectory.write(model, changed)
    assert np.array_equal(model[1].running_var.numpy(), changed[-3:].numpy())
    assert "1.running_mean" not in record(model).layers


def test_frozen_parameters_are_not_recorded():
    model = small()
    model[0].weight.requires_grad_(False)
    assert next(iter(record(model).layers)) == "0.bias"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kept", ["memory", "file"])
def test_other_precisions_are_stored_as_asked(tmp_path, dtype, kept):
    model = small()
    trajectory = record(model, path=tmp_path / "w" if kept == "file" else None, dtype=dtype)
    trajectory.append(model)
    expected = torch.from_numpy(naive(model)).to(dtype)
    assert trajectory.weights.dtype == dtype
    assert torch.equal(trajectory.weights[0], expected)
    assert torch.equal(trajectory.take(torch.tensor([1, 50]))[0], expected[[1, 50]].double())
    if kept == "file":
        assert torch.equal(Trajectory.open(tmp_path / "w").columns(0, 62)[0], expected)


def test_from_weights_takes_named_slices():
    weights = torch.randn(4, 6)
    trajectory = Trajectory.from_weights(weights, {"a": slice(0, 2), "b": slice(2, 6)})
    assert trajectory.layers == {"a": slice(0, 2), "b": slice(2, 6)}
    assert trajectory.weights.data_ptr() == weights.data_ptr()
    trajectory.append_vector(torch.arange(6.0))
    assert torch.equal(trajectory.weights, torch.cat([weights, torch.arange(6.0)[None]]))
    vector = torch.ones(6)
    trajectory.append_vector(vector)
    vector.zero_()
    assert trajectory.row(-1).tolist() == [1.0] * 6
    for wrong in ({"a": slice(0, 2), "b": slice(3, 6)}, {"a": slice(0, 5)}, {"a": slice(1, 6)}):
        with pytest.raises(ValueError, match="layers must be slices that cover 0 to 6"):
            Trajectory.from_weights(weights, wrong)


def test_flat_layers_of_a_bare_matrix_can_be_written_into_a_model_of_the_same_names():
    model = nn.Linear(2, 2)
    trajectory = Trajectory.from_weights(torch.arange(18.0).view(3, 6), {"weight": slice(0, 4), "bias": slice(4, 6)})
    trajectory.write(model, trajectory.row(1))
    assert model.weight.tolist() == [[6.0, 7.0], [8.0, 9.0]]


class TestRefusals:
    def test_a_changed_shape_is_named(self):
        model = small()
        trajectory = record(model)
        model[3] = nn.Linear(12, 5)
        with pytest.raises(ValueError, match=r"shape of '3.weight' changed: recorded \(2, 12\), now \(5, 12\)"):
            trajectory.append(model)

    def test_a_lost_or_new_parameter_is_named(self):
        model = small()
        trajectory = record(model)
        model[0].bias.requires_grad_(False)
        with pytest.raises(ValueError, match=r"no trainable float tensor '0\.bias'"):
            trajectory.append(model)
        model = small()
        model.register_parameter("extra", nn.Parameter(torch.ones(1)))
        with pytest.raises(ValueError, match="model has 'extra'"):
            trajectory.append(model)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_non_finite_weights_are_named_by_layer_and_epoch(self, value):
        model = small()
        trajectory = record(model)
        trajectory.append(model)
        model[3].weight.data[1, 2] = value
        with pytest.raises(ValueError, match=r"finite, got .* in '3\.weight' at epoch 1"):
            trajectory.append(model)
        assert len(trajectory) == 1

    def test_large_finite_weights_are_welcome(self):
        trajectory = Trajectory.from_weights(torch.zeros(1, 3))
        trajectory.append_vector(torch.full((3,), 3e38))
        assert len(trajectory) == 2

    def test_arguments(self, tmp_path):
        model = small()
        with pytest.raises(ValueError, match="dtype must be one of"):
            record(model, dtype=torch.int32)
        with pytest.raises(ValueError, match="model must have a trainable float parameter, got Flatten"):
            record(nn.Flatten())
        (tmp_path / "there").touch()
        with pytest.raises(ValueError, match="already exists"):
            record(model, path=tmp_path / "there")
        trajectory = record(model)
        with pytest.raises(ValueError, match=r"t must be in \[0, 0\), got 0"):
            trajectory.row(0)
        with pytest.raises(ValueError, match="0 <= start <= stop <= 62, got 4 to 63"):
            trajectory.columns(4, 63)
        with pytest.raises(ValueError, match="vector must have 62 entries, got 3"):
            trajectory.append_vector(torch.zeros(3))
        with pytest.raises(ValueError, match="vector must have 62 entries, got 3"):
            trajectory.write(model, torch.zeros(3))

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ("nonsense", "Expecting value"),
            ("[]", "not an assay.trajectory header"),
            ('{"format": "assay.trajectory", "version": 1, "dtype": "object"}', "dtype must be one of"),
            ('{"format": "assay.trajectory", "version": 1, "dtype": "float32"}', "layers must be a list"),
            ('{"format": "assay.trajectory", "version": 1, "dtype": "float32", "layers": [["a", [-1]]]}', "layers"),
            ('{"format": "assay.trajectory", "version": 1, "dtype": "float32", "layers": [["a", [0]]]}', "shapes"),
        ],
    )
    def test_a_file_that_is_not_one_of_ours(self, tmp_path, header, message):
        path = tmp_path / "w"
        with pytest.raises(ValueError, match="is not a trajectory"):
            Trajectory.open(path)
        path.write_bytes(b"0" * 64)
        (tmp_path / "w.json").write_text(header)
        with pytest.raises(ValueError, match=f"w.json: .*{message}"):
            Trajectory.open(path)


def test_layout_refuses_names_that_do_not_pair_up():
    with pytest.raises(ValueError, match="names and shapes must pair up"):
        Layout(("a", "a"), ((1,), (2,)))
    with pytest.raises(ValueError, match="names and shapes must pair up"):
        Layout(("a",), ((1,), (2,)))
