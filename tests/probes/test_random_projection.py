"""Random projections against their matrices, typed out; adjoints, lengths, the statistics of each kind."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard as sylvester

from assay.probes import RandomProjection
from assay.probes.random_projection import hadamard

KINDS = ("dense", "sparse", "fastfood")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def made(size, dim, kind, seed=0, dtype=torch.float64):
    return RandomProjection(size, dim, kind=kind, generator=generator(seed), dtype=dtype)


@pytest.mark.parametrize("size", [1, 2, 64, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_the_adjoint_and_linearity(kind, size):
    dim = min(size, 7)
    P = made(size, dim, kind)
    z = torch.linspace(-1, 2, dim, dtype=torch.float64)
    v = torch.linspace(3, -1, size, dtype=torch.float64).sin()
    torch.testing.assert_close(P(z) @ v, z @ P.T(v))
    torch.testing.assert_close(P(z), P.matrix @ z)
    torch.testing.assert_close(P.T(v), P.matrix.T @ v)


def test_fastfood_by_its_factors():
    """S H G Pi H B Z as matrices, for D = 50 of L = 64: the authors' divisor sqrt(L sum G^2) sqrt(D / L)."""
    P = made(50, 5, "fastfood")
    H = sylvester(64).astype(float)
    signs, order, scales = (P.tensors[name].numpy() for name in ("signs", "order", "scales"))
    assert set(signs) == {-1.0, 1.0}
    assert sorted(order) == list(range(64))
    gauss = torch.tensor(scales) / scales[0]  # up to a factor, G itself
    divisor = np.sqrt(64 * float((gauss**2).sum())) * np.sqrt(50 / 64)
    permuted = np.eye(64)[order]
    full = H @ np.diag(gauss.numpy()) @ permuted @ H @ np.diag(signs) / divisor
    np.testing.assert_allclose(P.matrix.numpy(), math.copysign(1, scales[0]) * full[:50, :5], atol=1e-12)


# np_fast_walsh_hadamard(np.array([3.0, -1, 4, 1, -5, 9, 2, 6]), 0, False), uber-research/intrinsic-dimension
WALSH = [19.0, -11.0, -7.0, -9.0, -5.0, 25.0, 1.0, 11.0]


def test_hadamard_is_the_authors():
    assert hadamard(torch.tensor([3.0, -1, 4, 1, -5, 9, 2, 6])).tolist() == WALSH
    with pytest.raises(ValueError, match="power of two"):
        hadamard(torch.zeros(6))


@pytest.mark.parametrize("kind", KINDS)
def test_columns_have_unit_length_and_are_nearly_orthogonal(kind):
    """Off-diagonal entries of P^T P scatter by 1/sqrt(D): below 5 of it for 190 pairs; D a power of two."""
    P = made(4096, 20, kind).matrix
    gram = P.T @ P
    torch.testing.assert_close(gram.diagonal(), torch.ones(20, dtype=torch.float64), rtol=0, atol=2e-6)
    off = gram - torch.diag(gram.diagonal())
    assert off.abs().max() < 5 / math.sqrt(4096)
    assert off.abs().max() > 1 / math.sqrt(4096)  # random, not orthogonalised


def test_fastfood_lengths_scatter_where_it_is_cut():
    lengths = made(3000, 200, "fastfood").matrix.norm(dim=0).square()
    assert (lengths - 1).abs().max() < 5 * math.sqrt(2 / 3000)
    assert lengths.mean().item() == pytest.approx(1.0, abs=4 * math.sqrt(2 / 3000 / 200))


def test_sparse_entries():
    """One in sqrt(D) entries, +-1 alike, over all rows and columns; equal sizes within a column."""
    P = made(10_000, 50, "sparse").matrix
    there = (P != 0).sum(0).double()
    assert there.mean().item() == pytest.approx(100, abs=4 * math.sqrt(100 / 50))
    assert there.var().item() == pytest.approx(99, rel=4 * math.sqrt(2 / 49))  # binomial: no fixed number a column
    column = P[:, 0]
    assert (column[column != 0].abs() - 1 / math.sqrt(there[0])).abs().max() < 1e-7
    assert ((P > 0).sum() - (P < 0).sum()).abs() < 5 * math.sqrt(5000)
    rows = (P != 0).sum(1)
    assert (rows[:5000].sum() - rows[5000:].sum()).abs() < 5 * math.sqrt(5000)
    assert P[-1000:].any()
    assert P[:, -1].any()
    tiny = made(2, 2, "sparse", seed=3).matrix
    assert (tiny.norm(dim=0) - 1).abs().max() < 1e-7  # never a column of zeros


def test_dense_entries_are_gaussian():
    P = made(2000, 30, "dense").matrix * math.sqrt(2000)
    assert (P**4).mean().item() == pytest.approx(3.0, abs=5 * math.sqrt(96 / 60_000))
    assert P.mean().abs() < 5 / math.sqrt(60_000)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_seeds_and_types(kind):
    P = made(24, 4, kind)
    z = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(P, z)
    assert torch.autograd.gradcheck(P.T, torch.randn(24, dtype=torch.float64, requires_grad=True))
    assert torch.equal(P.matrix, made(24, 4, kind).matrix)
    assert not torch.equal(P.matrix, made(24, 4, kind, seed=1).matrix)
    single = made(24, 4, kind, dtype=torch.float32)
    assert single.matrix.dtype == torch.float32
    torch.testing.assert_close(single.matrix.double(), P.matrix, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "dim", "kind", "name"),
    [(0, 1, "dense", "size"), (4, 0, "dense", "dim"), (4, 5, "sparse", "dim"), (4, 2, "orthogonal", "kind")],
)
def test_refused(size, dim, kind, name):
    with pytest.raises(ValueError, match=name):
        RandomProjection(size, dim, kind=kind)


def test_refused_vectors():
    P = made(8, 2, "dense")
    with pytest.raises(ValueError, match=r"coordinates must be \(2,\)"):
        P(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"vector must be \(8,\)"):
        P.T(torch.zeros(3, dtype=torch.float64))
