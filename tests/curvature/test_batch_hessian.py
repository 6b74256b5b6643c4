"""Random matrices whose outliers are where the theory says, and spectra of batches against full Hessians."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.curvature import Hessian, batch_hessian_spectrum, effective_batch, spiked_eigenvalue


def wigner(size, edge, seed):
    """A symmetric matrix of independent entries whose spectrum ends at +- 2 edge."""
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (a + a.T) * edge / math.sqrt(2 * size)


@pytest.mark.parametrize("spike", [5.0, 2.0, 0.5, -3.0])
def test_an_outlier_in_noise(spike):
    """P = 600, edge e = 1: one outlier fluctuates by about (2 / P)^(1/2) = 0.06, the mean of ten by 0.02."""
    seen = []
    for seed in range(10):
        matrix = wigner(600, 1.0, seed)
        matrix[0, 0] += spike
        values = torch.linalg.eigvalsh(matrix)
        seen.append((values[-1] if spike > 0 else values[0]).item())
    mean = sum(seen) / 10
    assert mean == pytest.approx(spiked_eigenvalue(spike, 1.0), abs=0.06)
    assert abs(mean - spike) > 2 * abs(mean - spiked_eigenvalue(spike, 1.0))  # the ancestor: no noise


@pytest.mark.parametrize("spike", [12.0, 6.0, 1.5])
def test_an_outlying_variance(spike):
    """P = 400 dimensions, b = 800 samples, bulk 1: q = 1/2."""
    x = torch.randn(800, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 0] *= math.sqrt(spike)
    top = torch.linalg.eigvalsh(x.T @ x / 800)[-1].item()
    assert top == pytest.approx(spiked_eigenvalue(spike, 0.5, kind="covariance"), rel=0.12)
    scaled = spiked_eigenvalue(3 * spike, 0.5, kind="covariance", bulk=3.0)
    assert scaled == pytest.approx(3 * spiked_eigenvalue(spike, 0.5, kind="covariance"))


def test_both_are_continuous_at_their_edges():
    assert spiked_eigenvalue(1 + 1e-9, 1.0) == pytest.approx(spiked_eigenvalue(1 - 1e-9, 1.0))
    edge = 1 + math.sqrt(0.3)
    below, above = (spiked_eigenvalue(edge + d, 0.3, kind="covariance") for d in (-1e-9, 1e-9))
    assert below == pytest.approx(above)
    assert spiked_eigenvalue(2.0, 0.0) == 2.0


def test_without_replacement():
    """The variance of a mean of B of N is sigma^2 (1/B)(1 - B/N) N/(N-1); b is its inverse up to the last factor."""
    values = torch.arange(10, dtype=torch.float64)
    draws = torch.stack(
        [values[torch.randperm(10, generator=torch.Generator().manual_seed(s))[:4]] for s in range(4000)]
    )
    expected = values.var(correction=0) / effective_batch(4, 10) * 10 / 9
    assert draws.mean(1).var().item() == pytest.approx(expected.item(), rel=5 * math.sqrt(2 / 4000))


def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, torch.randn(40, 4, dtype=torch.float64), torch.randint(3, (40,))


def dense(model, x, y):
    operator = Hessian(model, F.cross_entropy, x, y)
    return torch.linalg.eigvalsh(torch.stack([operator.matvec(e) for e in torch.eye(operator.size).double()]))


def test_the_whole_data_as_a_batch_is_the_full_hessian():
    model, x, y = problem()
    values = dense(model, x, y)
    found = batch_hessian_spectrum(model, F.cross_entropy, x, y, batch=40, num_batches=2, lanczos_steps=40)
    torch.testing.assert_close(found.largest, values[-1].expand(2), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.smallest, values[0].expand(2), rtol=1e-6, atol=1e-9)


def test_batches_are_random_and_their_ends_wider():
    model, x, y = problem()
    generator = torch.Generator().manual_seed(0)
    found = batch_hessian_spectrum(
        model, F.cross_entropy, x, y, batch=5, num_batches=12, lanczos_steps=30, generator=generator
    )
    values = dense(model, x, y)
    assert len(set(found.largest.tolist())) == 12
    assert found.largest.mean() > values[-1]  # the largest eigenvalue is convex: its mean is above that of the mean
    assert found.smallest.mean() < values[0]
    order = torch.Generator().manual_seed(0)
    chosen = torch.randperm(40, generator=order)[:5]
    assert found.largest[0].item() == pytest.approx(dense(model, x[chosen], y[chosen])[-1].item(), rel=1e-5)


def test_what_is_refused():
    model, x, y = problem()
    for batch, dataset in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match=r"batch must lie in 1\.\.5"):
            effective_batch(batch, dataset)
    with pytest.raises(ValueError, match="'additive', 'covariance': got 'free'"):
        spiked_eigenvalue(1.0, 1.0, kind="free")
    with pytest.raises(ValueError, match="spike"):
        spiked_eigenvalue(math.nan, 1.0)
    with pytest.raises(ValueError, match="noise"):
        spiked_eigenvalue(1.0, -1.0)
    with pytest.raises(ValueError, match="bulk"):
        spiked_eigenvalue(1.0, 1.0, kind="covariance", bulk=0.0)
    with pytest.raises(ValueError, match=r"batch must lie in 1\.\.40"):
        batch_hessian_spectrum(model, F.cross_entropy, x, y, batch=41)
    with pytest.raises(ValueError, match="num_batches"):
        batch_hessian_spectrum(model, F.cross_entropy, x, y, batch=4, num_batches=0)
