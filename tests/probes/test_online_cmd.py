"""Recursive least squares against offline least squares on everything seen so far."""

import numpy as np
import pytest
import torch

from assay.probes import CMD, OnlineCMD, Trajectory
from assay.probes.cmd import assign


def run(scripted, wavy, dtype=torch.float64, **options):
    model = scripted(60, dtype)
    online = OnlineCMD(model, **options)
    for row in torch.from_numpy(wavy):
        online.on_epoch(model.put(row))
    return model, online


@pytest.mark.parametrize("warmup", [3, 10, 24, 25])
def test_equals_offline_least_squares_on_all_snapshots(scripted, wavy, warmup):
    _, online = run(scripted, wavy, num_modes=3, num_samples=60, warmup=warmup)
    modes = online.modes
    for i in range(60):
        reference = wavy[:, int(modes.reference_index[int(modes.mode[i])])]
        a, b = np.polyfit(reference, wavy[:, i], 1)
        assert float(modes.scale[i]) == pytest.approx(a, abs=1e-10)
        assert float(modes.offset[i]) == pytest.approx(b, abs=1e-10)
    np.testing.assert_array_equal(modes.reference.numpy(), wavy[:, modes.reference_index].T)


def test_modes_are_those_of_the_warm_up_and_stay(scripted, wavy):
    _, online = run(scripted, wavy, num_modes=3, num_samples=60, warmup=10)
    warm = CMD(3, 60).fit(Trajectory.from_weights(torch.from_numpy(wavy[:10])))
    assert torch.equal(online.modes.mode, warm.mode)
    assert torch.equal(online.modes.reference_index, warm.reference_index)
    full = assign(
        Trajectory.from_weights(torch.from_numpy(wavy)), warm.reference_index, online.modes.reference, range(25)
    )
    assert not torch.equal(full.mode, warm.mode)  # the snapshots after it would have changed some labels


def test_against_the_official_code(scripted, wavy):
    """basic_cmd(wavy.T, list(range(60)), 0, 10, 2), then update_AB_vec epoch by epoch (rbetser/CMD, 3a0f2a0)."""
    _, online = run(scripted, wavy, num_modes=2, num_samples=60, warmup=10)
    modes = online.modes
    assert modes.reference_index.tolist() == [8, 40]
    assert (modes.mode == 1).nonzero()[:, 0].tolist() == [23, 40]
    a = [0.08393, 0.16866, 1.30475, -0.06638, 0.14094, -1.47649, 0.01192, -0.28716, 1.0, 0.05771]
    b = [0.18777, 0.36857, 0.08271, -0.13077, 0.40199, -0.66135, 0.01702, -0.04605, 0.0, 0.06905]
    np.testing.assert_allclose(modes.scale[:10], a, atol=6e-6)
    np.testing.assert_allclose(modes.offset[:10], b, atol=6e-6)
    assert float(modes.scale.abs().sum()) == pytest.approx(25.259087, abs=2e-6)
    assert float(modes.offset.abs().sum()) == pytest.approx(13.823154, abs=2e-6)


def test_a_float32_model_is_followed_as_exactly_as_its_weights_are_kept(scripted, wavy):
    weights = (0.3 + 1e-3 * wavy).astype(np.float32)
    _, online = run(scripted, weights, torch.float32, num_modes=3, num_samples=60, warmup=10)
    modes, wide = online.modes, weights.astype(np.float64)
    expected = [np.polyfit(wide[:, int(modes.reference_index[int(modes.mode[i])])], wide[:, i], 1) for i in range(60)]
    np.testing.assert_allclose(modes.scale, np.array(expected)[:, 0], rtol=1e-6, atol=1e-6)
    assert modes.scale.dtype == torch.float32


def test_no_history_of_the_weights_is_kept_after_the_warm_up(scripted, wavy):
    _, online = run(scripted, wavy, num_modes=3, num_samples=60, warmup=10)
    held = [v for v in vars(online).values() if isinstance(v, torch.Tensor)]
    assert sum(v.numel() for v in held if v.numel() >= 60) == 3 * 60  # mean, moment, label
    assert len(online._warmup) == 0


def test_training_goes_on_undisturbed(scripted, wavy):
    model = scripted(60, torch.float64)
    online = OnlineCMD(model, num_modes=3, num_samples=60, warmup=5)
    for row in torch.from_numpy(wavy):
        online.on_epoch(model.put(row))
        assert torch.equal(model.vector(), row)


def test_averaged_puts_the_smoothed_weights_in_and_the_trained_ones_back(scripted, wavy):
    model, online = run(scripted, wavy, num_modes=3, num_samples=60, warmup=10)
    with online.averaged() as inside:
        assert inside is model
        assert torch.equal(model.vector(), online.modes.reconstruct())
        assert not torch.equal(model.vector(), torch.from_numpy(wavy[-1]))
    assert torch.equal(model.vector(), torch.from_numpy(wavy[-1]))


def test_averaged_restores_after_an_exception(scripted, wavy):
    model, online = run(scripted, wavy, num_modes=3, num_samples=60, warmup=10)

    def spoil():
        with online.averaged():
            model.first.data.fill_(9)
            raise KeyError

    with pytest.raises(KeyError):
        spoil()
    assert torch.equal(model.vector(), torch.from_numpy(wavy[-1]))


def test_error_needs_a_trajectory_after_online_updates(scripted, wavy):
    _, online = run(scripted, wavy, num_modes=3, num_samples=60, warmup=10)
    modes = online.modes
    assert modes.correlation is None
    with pytest.raises(ValueError, match="trajectory must be given after online updates"):
        modes.relative_error()
    model = modes.scale.numpy() * wavy[:, modes.reference_index.numpy()[modes.mode.numpy()]] + modes.offset.numpy()
    expected = ((wavy - model) ** 2).sum() / ((wavy - wavy.mean(0)) ** 2).sum()
    assert modes.relative_error(Trajectory.from_weights(torch.from_numpy(wavy))) == pytest.approx(expected, abs=1e-12)


def test_buffers_are_smoothed_on_request():
    model = torch.nn.BatchNorm1d(4)
    online = OnlineCMD(model, num_modes=1, warmup=3, buffers=True)
    for t in range(5):
        model.weight.data.copy_(torch.arange(4.0) * t)
        model.running_mean.copy_(7 - 2 * torch.arange(4.0) * t)
        online.on_epoch(model)
    assert online.modes.layers["running_mean"] == slice(8, 12)
    torch.testing.assert_close(online.modes.reconstruct()[8:12], 7 - 8 * torch.arange(4.0))


class TestRefusals:
    def test_arguments(self, scripted):
        with pytest.raises(ValueError, match="warmup must be at least 3, got 2"):
            OnlineCMD(scripted(60), warmup=2)
        with pytest.raises(ValueError, match="num_modes must be at least 1, got 0"):
            OnlineCMD(scripted(60), 0)

    def test_no_modes_before_the_end_of_the_warm_up(self, scripted, wavy):
        model = scripted(60)
        online = OnlineCMD(model, warmup=10)
        online.on_epoch(model.put(torch.from_numpy(wavy[0])))
        with pytest.raises(RuntimeError, match="no modes before 10 epochs of warm-up, got 1"):
            _ = online.modes
        with pytest.raises(RuntimeError, match="no modes before"), online.averaged():
            pass

    def test_non_finite_weights_during_and_after_the_warm_up(self, scripted, wavy):
        for epoch in (2, 14):
            wavy_now = wavy.copy()
            wavy_now[epoch, 31] = np.inf
            with pytest.raises(ValueError, match=f"in 'second' at epoch {epoch}"):
                run(scripted, wavy_now, num_modes=3, num_samples=60, warmup=10)

    def test_a_warm_up_in_which_nothing_moved(self, scripted, wavy):
        with pytest.raises(ValueError, match="at most the 0 sampled weights that move, got 3"):
            run(scripted, np.ones_like(wavy), num_modes=3, num_samples=60, warmup=10)
