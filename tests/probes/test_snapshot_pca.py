"""Snapshot PCA against the singular value decomposition of the centred matrix."""

import numpy as np
import pytest
import torch

from assay.probes import SnapshotPCA, Trajectory, chunks
from assay.probes.layout import Layout


def by_svd(weights, rank):
    mean = weights.mean(0)
    u, s, vt = np.linalg.svd(weights - mean, full_matrices=False)
    return mean + (u[:, :rank] * s[:rank]) @ vt[:rank], s**2 / (s**2).sum(), vt[:rank]


@pytest.mark.parametrize("rank", [1, 2, 6, 24])
def test_against_svd(wavy, rank):
    trajectory = Trajectory.from_weights(torch.from_numpy(wavy))
    pca = SnapshotPCA(rank).fit(trajectory)
    model, explained, directions = by_svd(wavy, rank)
    np.testing.assert_allclose(pca.explained, explained[:rank], atol=1e-12)
    for t in (0, 11, -1):
        np.testing.assert_allclose(pca.reconstruct(t), model[t], atol=1e-10)
    error = ((wavy - model) ** 2).sum() / ((wavy - wavy.mean(0)) ** 2).sum()
    assert pca.relative_error() == pytest.approx(error, abs=1e-12)
    assert pca.relative_error(trajectory) == pytest.approx(error, abs=1e-12)
    ours = pca.components().numpy()
    np.testing.assert_allclose(ours @ ours.T, np.eye(rank), atol=1e-9)
    np.testing.assert_allclose(ours.T @ ours, directions.T @ directions, atol=1e-9)
    np.testing.assert_allclose(pca.mean(), wavy.mean(0), atol=1e-14)


def test_no_other_subspace_of_the_same_rank_is_better(wavy):
    best = SnapshotPCA(3).fit(Trajectory.from_weights(torch.from_numpy(wavy))).relative_error()
    centred = wavy - wavy.mean(0)
    for k in range(5):
        basis = np.linalg.qr(np.sin(np.outer(np.arange(60) + k, [1.1, 2.3, 3.7])))[0]
        assert ((centred - centred @ basis @ basis.T) ** 2).sum() / (centred**2).sum() > best


def test_it_is_the_movement_that_is_decomposed_not_the_weights(wavy):
    """Without centring, a large constant would be the first component and explain all."""
    near = SnapshotPCA(1).fit(Trajectory.from_weights(torch.from_numpy(wavy)))
    far = SnapshotPCA(1).fit(Trajectory.from_weights(torch.from_numpy(wavy) + 100))
    assert float(far.explained[0]) == pytest.approx(float(near.explained[0]), abs=1e-10)
    assert float(far.explained[0]) < 0.9


def test_small_movements_around_a_large_value_survive_float32(wavy):
    weights = torch.from_numpy(0.3 + 1e-3 * wavy).float()
    narrow = SnapshotPCA(4).fit(Trajectory.from_weights(weights))
    _, explained, _ = by_svd(weights.double().numpy(), 4)
    np.testing.assert_allclose(narrow.explained, explained[:4], atol=1e-6)


def test_more_components_than_there_are(wavy):
    pca = SnapshotPCA(10).fit(Trajectory.from_weights(torch.from_numpy(wavy[:10])))
    assert len(pca.explained) == 9
    assert pca.relative_error() == pytest.approx(0, abs=1e-12)
    still = SnapshotPCA(2).fit(Trajectory.from_weights(torch.ones(5, 7)))
    assert (len(still.explained), still.relative_error()) == (0, 0)
    assert torch.equal(still.reconstruct(2), torch.ones(7))


@pytest.mark.parametrize("chunk", [1, 7, 60, 1000])
def test_chunk_size_never_changes_the_result(wavy, tmp_path, monkeypatch, chunk):
    whole = SnapshotPCA(4).fit(Trajectory.from_weights(torch.from_numpy(wavy)))
    trajectory = Trajectory.create(tmp_path / "w", Layout(("a",), ((60,),)), dtype=torch.float64)
    for row in torch.from_numpy(wavy):
        trajectory.append_vector(row)
    monkeypatch.setattr(chunks, "TILE", 11)
    parts = SnapshotPCA(4, chunk=chunk).fit(trajectory)
    torch.testing.assert_close(parts.explained, whole.explained, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(parts.reconstruct(3), whole.reconstruct(3), rtol=1e-10, atol=1e-12)
    assert parts.relative_error(trajectory) == pytest.approx(whole.relative_error(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(wavy, dtype):
    weights = torch.from_numpy(wavy).to(dtype)
    narrow = SnapshotPCA(3).fit(Trajectory.from_weights(weights))
    wide = SnapshotPCA(3).fit(Trajectory.from_weights(weights.float()))
    assert torch.equal(narrow.explained, wide.explained)


def test_refused_inputs(wavy):
    trajectory = Trajectory.from_weights(torch.from_numpy(wavy))
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        SnapshotPCA(0)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        SnapshotPCA(1, chunk=0)
    with pytest.raises(ValueError, match="rank must be at most the 25 snapshots, got 26"):
        SnapshotPCA(26).fit(trajectory)
    with pytest.raises(ValueError, match="at least 3 snapshots, got 2"):
        SnapshotPCA(1).fit(Trajectory.from_weights(torch.from_numpy(wavy[:2])))
    pca = SnapshotPCA(1).fit(trajectory)
    with pytest.raises(ValueError, match=r"t must be in \[-25, 25\), got 25"):
        pca.reconstruct(25)
    with pytest.raises(ValueError, match="trajectory must be 25 x 60, got 24 x 60"):
        pca.relative_error(Trajectory.from_weights(torch.from_numpy(wavy[:24])))
    wavy[3, 8] = np.inf
    with pytest.raises(ValueError, match="finite, got inf in 'weights' at epoch 3"):
        SnapshotPCA(1).fit(trajectory)
    with pytest.raises(ValueError, match="below about 1e18"):
        SnapshotPCA(1).fit(Trajectory.from_weights(torch.tensor([[0.0, 1e30], [1e30, 0.0], [1.0, 1.0]])))
