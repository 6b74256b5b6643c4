"""Linear decay and dynamic modes: planted truths, naive least squares, closed forms, what is refused."""

import numpy as np
import pytest
import torch

from assay.imaging import DMD, DecayModes, linear_decay_modes, rescale_time


def planted(times, ends, seed=0):
    modes = torch.randn(len(ends), 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    steady = torch.linspace(-1, 1, 7, dtype=torch.float64)
    return DecayModes(torch.tensor(ends, dtype=torch.float64), modes, steady), modes


@pytest.mark.parametrize("uneven", [False, True])
def test_planted_modes_are_found(uneven):
    t = torch.arange(30).double()
    t = t**1.3 if uneven else t
    truth, modes = planted(t, [3.4, 10.0, 21.7])
    found = linear_decay_modes(truth.reconstruct(t), t)
    torch.testing.assert_close(found.times, truth.times, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.modes, modes, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.reconstruct(t), truth.reconstruct(t), rtol=0, atol=1e-10)
    assert len(linear_decay_modes(truth.reconstruct(t), t, merge=False).times) == 29


def test_unmerged_atoms_go_through_any_snapshots():
    t = torch.tensor([0.0, 0.5, 0.7, 2.0, 2.1]).double()
    u = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = linear_decay_modes(u, t, merge=False)
    torch.testing.assert_close(found.reconstruct(t), u, rtol=0, atol=1e-12)


def test_largest():
    modes = DecayModes(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[3.0], [1.0], [2.0]]), torch.zeros(1))
    assert modes.largest(2).times.tolist() == [1.0, 3.0]
    with pytest.raises(ValueError, match="count must be"):
        modes.largest(0)


def test_dmd_is_least_squares_in_the_leading_directions():
    u = torch.randn(9, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x, y = u[:-1].T.numpy(), u[1:].T.numpy()
    left = np.linalg.svd(x, full_matrices=False)[0][:, :3]
    plain = (left.T @ y) @ np.linalg.pinv(left.T @ x)
    state, rows = left.T @ x[:, 0], []
    for _ in range(4):
        rows.append(left @ state)
        state = plain @ state
    found = DMD(3).fit(u)
    torch.testing.assert_close(found.reconstruct(4), torch.from_numpy(np.array(rows)), rtol=0, atol=1e-10)


def test_symmetric_dmd_is_the_best_symmetric_matrix():
    u = torch.randn(9, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x, y = u[:-1].T.numpy(), u[1:].T.numpy()
    left = np.linalg.svd(x, full_matrices=False)[0][:, :2]
    x, y = left.T @ x, left.T @ y
    basis = np.array([[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]], dtype=float)
    design = np.stack([(b @ x).ravel() for b in basis], axis=1)
    a = np.tensordot(np.linalg.lstsq(design, y.ravel(), rcond=None)[0], basis, axes=1)
    found = DMD(2, symmetric=True).fit(u)
    expected = np.linalg.eigvalsh(a)
    assert np.allclose(sorted(found.eigenvalues.real.tolist()), expected, rtol=0, atol=1e-12)
    assert not np.allclose(sorted(DMD(2).fit(u).eigenvalues.real.tolist()), expected, atol=1e-3)


def test_dmd_of_an_eigenfunction_in_closed_form():
    """f shrinks like (1 - t)^+; one mode fits mu = sum a_j a_{j+1} / sum a_j^2."""
    a = (1 - 0.15 * torch.arange(9).double()).clamp_min(0)
    found = DMD(1).fit(a[:, None] * torch.tensor([2.0, -1.0, -1.0]).double())
    assert found.eigenvalues.real.item() == pytest.approx((a[:-1] @ a[1:] / (a[:-1] @ a[:-1])).item(), rel=1e-12)


def test_linear_decay_is_exponential_in_the_new_time():
    u = (1 - torch.linspace(0, 0.9, 500).double())[:, None] * torch.tensor([1.0, -3.0, 2.0]).double()
    tau = rescale_time(u)
    torch.testing.assert_close(u[:, 0].log(), -tau, rtol=0, atol=0.02)  # first order in the step
    assert tau[0] == 0
    assert rescale_time(torch.ones(3, 2)).tolist() == [0.0, 0.0, 0.0]


def test_refused():
    u, t = torch.rand(4, 2), torch.arange(4.0)
    for bad, match in (
        (lambda: linear_decay_modes(u[:2], t[:2]), "snapshots must be at least 3"),
        (lambda: linear_decay_modes(u, t + 1), "times must start at 0"),
        (lambda: linear_decay_modes(u, t[:3]), "times must be one a snapshot"),
        (lambda: linear_decay_modes(u, t.flip(0)), "times must start at 0"),
        (lambda: linear_decay_modes(u * torch.nan, t), "snapshots must be finite"),
        (lambda: linear_decay_modes(u, t, floor=-1.0), "floor must be"),
        (lambda: DMD(0), "rank must be"),
        (lambda: DMD(1).fit(u[:2]), "snapshots must be at least 3"),
        (lambda: DMD(1).fit(u * torch.nan), "snapshots must be finite"),
        (lambda: DMD(1).fit(u).reconstruct(0), "m must be"),
        (lambda: rescale_time(u[:1]), "snapshots must be at least 2"),
    ):
        with pytest.raises(ValueError, match=match):
            bad()
