"""Dynamic mode decomposition against linear systems of known eigenvalues and a transcription by SVD."""

import numpy as np
import pytest
import torch

from assay.probes import DMD, Trajectory, chunks
from assay.probes.layout import Layout


def naive_dmd(weights, rank):
    """The definition, through the full singular value decomposition: (roll-out, eigenvalues)."""
    x0, x1 = weights[:-1].T, weights[1:].T
    u, s, vt = np.linalg.svd(x0, full_matrices=False)
    u, s, v = u[:, :rank], s[:rank], vt[:rank].T
    a = u.T @ x1 @ v @ np.diag(1 / s)
    z = u.T @ weights[0]
    out = []
    for _ in range(len(weights)):
        out.append(u @ z)
        z = a @ z
    return np.array(out), np.linalg.eigvals(a)


def linear_system(epochs=30, size=50):
    """w(t+1) = K w(t), with eigenvalues 0.95 exp(+-0.4i), 1 and 0.7 in a subspace of four dimensions."""
    t = np.arange(epochs)[:, None]
    modes = np.sin(np.outer([1.3, 2.9, 4.1, 0.7], np.arange(1, size + 1)))
    paths = np.concatenate([0.95**t * np.cos(0.4 * t), 0.95**t * np.sin(0.4 * t), 1.0**t, 0.7**t], axis=1)
    return paths @ modes


def test_known_eigenvalues_are_recovered():
    weights = linear_system()
    dmd = DMD(4).fit(Trajectory.from_weights(torch.from_numpy(weights)))
    known = np.array([1.0, 0.95 * np.exp(0.4j), 0.95 * np.exp(-0.4j), 0.7])
    ours = dmd.eigenvalues.numpy()
    assert max(min(abs(ours - value)) for value in known) < 1e-8
    assert dmd.relative_error() < 1e-12
    np.testing.assert_allclose(dmd.forecast(5), linear_system(35)[-1], atol=1e-8)


@pytest.mark.parametrize("rank", [1, 2, 3, 6])
def test_against_a_naive_transcription(wavy, rank):
    trajectory = Trajectory.from_weights(torch.from_numpy(wavy))
    dmd = DMD(rank).fit(trajectory)
    model, eigenvalues = naive_dmd(wavy, rank)
    for t in (0, 9, -1):
        np.testing.assert_allclose(dmd.reconstruct(t), model[t], atol=1e-9)
    np.testing.assert_allclose(np.sort_complex(dmd.eigenvalues.numpy()), np.sort_complex(eigenvalues), atol=1e-9)
    error = ((wavy - model) ** 2).sum() / ((wavy - wavy.mean(0)) ** 2).sum()
    assert dmd.relative_error() == pytest.approx(error, rel=1e-9)
    assert dmd.relative_error(trajectory) == pytest.approx(error, rel=1e-9)


def test_it_rolls_out_from_the_first_snapshot_and_does_not_look_at_the_others(wavy):
    """A projection of each snapshot on the same subspace would be closer; a roll-out has to live with its drift."""
    u = np.linalg.svd(wavy[:-1].T, full_matrices=False)[0][:, :3]
    projected = ((wavy - wavy @ u @ u.T) ** 2).sum() / ((wavy - wavy.mean(0)) ** 2).sum()
    assert DMD(3).fit(Trajectory.from_weights(torch.from_numpy(wavy))).relative_error() > 1.05 * projected


def test_forecast_starts_from_the_last_snapshot(wavy):
    x0, x1 = wavy[:-1].T, wavy[1:].T
    u, s, vt = np.linalg.svd(x0, full_matrices=False)
    u, s, v = u[:, :4], s[:4], vt[:4].T
    a = u.T @ x1 @ v / s
    dmd = DMD(4).fit(Trajectory.from_weights(torch.from_numpy(wavy)))
    np.testing.assert_allclose(dmd.forecast(3), u @ np.linalg.matrix_power(a, 3) @ u.T @ wavy[-1], atol=1e-9)


def test_float32_weights_keep_their_small_modes():
    """Products in float32 would drown singular values below 3e-4 of the largest."""
    t = np.arange(12)[:, None]
    modes = np.sin(np.outer([1.3, 2.9], np.arange(1, 400)))
    weights = torch.from_numpy(1.0**t * modes[0] + 1e-4 * 0.6**t * modes[1]).float()
    ours = DMD(2).fit(Trajectory.from_weights(weights)).eigenvalues
    assert float(ours.abs()[1]) == pytest.approx(0.6, abs=5e-3)
    assert float(ours.abs()[0]) == pytest.approx(1, abs=1e-6)


def test_a_diverging_roll_out_counts_and_is_never_nan():
    t = torch.arange(400, dtype=torch.float64)
    growing = torch.stack([1.5**t, 0.5 + 1.5 ** (t / 2), t], dim=1)[:40]
    dmd = DMD(1).fit(Trajectory.from_weights(growing.flip(0)))
    assert dmd.relative_error() > 0
    spike = torch.full((400, 2), 1e-3, dtype=torch.float64)
    spike[:, 0] = torch.linspace(1, 2, 400)
    blown = DMD(2).fit(Trajectory.from_weights(spike))
    blown._operator = torch.eye(2, dtype=torch.float64) * 1e300
    assert blown.relative_error() == float("inf")
    assert blown.relative_error(Trajectory.from_weights(spike)) == float("inf")
    with pytest.raises(ValueError, match="the roll-out diverged"):
        blown.reconstruct(-1)


def test_worse_than_constants_is_above_one():
    weights = torch.from_numpy(np.array([[1.0, 0.0], [3.0, 1.0], [-2.0, 4.0], [5.0, -3.0], [0.5, 2.0]]))
    assert DMD(1).fit(Trajectory.from_weights(weights)).relative_error() > 1


def test_directions_that_are_not_there_are_left_out():
    weights = linear_system()
    dmd = DMD(9).fit(Trajectory.from_weights(torch.from_numpy(weights)))
    assert 4 <= len(dmd.eigenvalues) <= 6
    assert dmd.relative_error() < 1e-8


@pytest.mark.parametrize("chunk", [1, 7, 60, 1000])
def test_chunk_size_never_changes_the_result(wavy, tmp_path, monkeypatch, chunk):
    whole = DMD(4).fit(Trajectory.from_weights(torch.from_numpy(wavy)))
    trajectory = Trajectory.create(tmp_path / "w", Layout(("a",), ((60,),)), dtype=torch.float64)
    for row in torch.from_numpy(wavy):
        trajectory.append_vector(row)
    monkeypatch.setattr(chunks, "TILE", 11)
    parts = DMD(4, chunk=chunk).fit(trajectory)
    torch.testing.assert_close(parts.eigenvalues, whole.eigenvalues, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(parts.reconstruct(8), whole.reconstruct(8), rtol=1e-9, atol=1e-10)
    assert parts.relative_error(trajectory) == pytest.approx(whole.relative_error(), rel=1e-10)


def test_refused_inputs(wavy):
    trajectory = Trajectory.from_weights(torch.from_numpy(wavy))
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        DMD(0)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        DMD(1, chunk=0)
    with pytest.raises(ValueError, match="rank must be below the 25 snapshots, got 25"):
        DMD(25).fit(trajectory)
    with pytest.raises(ValueError, match="at least 3 snapshots, got 2"):
        DMD(1).fit(Trajectory.from_weights(torch.from_numpy(wavy[:2])))
    dmd = DMD(1).fit(trajectory)
    with pytest.raises(ValueError, match=r"t must be in \[-25, 25\), got -26"):
        dmd.reconstruct(-26)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        dmd.forecast(0)
    with pytest.raises(ValueError, match="trajectory must be 25 x 60, got 24 x 60"):
        dmd.relative_error(Trajectory.from_weights(torch.from_numpy(wavy[:24])))
    wavy[3, 8] = np.nan
    with pytest.raises(ValueError, match="finite, got nan in 'weights' at epoch 3"):
        DMD(1).fit(trajectory)
    with pytest.raises(ValueError, match="small enough"):
        DMD(1).fit(Trajectory.from_weights(torch.tensor([[1e200], [1.0], [2.0]], dtype=torch.float64)))
