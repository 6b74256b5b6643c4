"""Gram matrices and the median rule against loops."""

import math
import statistics

import pytest
import torch

from assay.losses import gaussian_gram, median_bandwidth
from assay.losses.kernels import squared_distances


def points(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 3


@pytest.mark.parametrize("d", [1, 32, 33])  # one by one up to 32 coordinates, by a matrix product above
def test_distances_are_those_of_the_loop(d):
    x, y = points(5, d), points(4, d, seed=1)
    found = squared_distances(x, y)
    for i, a in enumerate(x.tolist()):
        for j, b in enumerate(y.tolist()):
            expected = sum((u - v) ** 2 for u, v in zip(a, b, strict=True))
            assert found[i, j].item() == pytest.approx(expected, rel=1e-13)
    gram = gaussian_gram(x, y, sigma=1.7)
    torch.testing.assert_close(gram, torch.exp(-found / (2 * 1.7**2)), rtol=1e-13, atol=0)


@pytest.mark.parametrize("d", [3, 40])
def test_far_from_the_origin_no_digits_are_lost(d):
    """Spread 1 about 1e4 in float32: x * x alone would know its distances to 1e8 * 6e-8 = 6."""
    x = points(6, d).float()
    torch.testing.assert_close(squared_distances(x + 1e4, x + 1e4), squared_distances(x, x), rtol=0.01, atol=0.05)


@pytest.mark.parametrize("d", [3, 40])
def test_autocast_does_not_touch_the_distances(d):
    x = points(6, d).float()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = gaussian_gram(x)
    assert torch.equal(mixed, gaussian_gram(x))
    assert gaussian_gram(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("n", [4, 5, 6])  # an odd number of pairs has one in the middle
def test_the_median_is_that_of_the_pairs(n):
    x = points(n, 3)
    distances = [(x[i] - x[j]).norm().item() for i in range(n) for j in range(i)]
    assert median_bandwidth(x).item() == pytest.approx(statistics.median_low(distances), rel=1e-14)
    assert gaussian_gram(x)[0, 1].item() == pytest.approx(
        math.exp(-((x[0] - x[1]).norm().item() ** 2) / (2 * statistics.median_low(distances) ** 2)), rel=1e-13
    )
    pooled = torch.cat([x, x + 1])
    assert torch.equal(gaussian_gram(x, x + 1), gaussian_gram(x, x + 1, sigma=median_bandwidth(pooled)))


def test_points_that_coincide_have_a_width_above_zero():
    x = torch.zeros(5, 2)
    assert median_bandwidth(x).item() == 1.0
    x[0] = torch.tensor([3.0, 4.0])
    assert median_bandwidth(x).item() == pytest.approx(5 * 4 / 10)  # four of ten pairs are 5 apart


def test_no_gradient_flows_through_the_median():
    x = points(5, 2).requires_grad_()
    assert not median_bandwidth(x).requires_grad
    fixed = median_bandwidth(x)
    (own,) = torch.autograd.grad(gaussian_gram(x).sum(), x)
    (given,) = torch.autograd.grad(gaussian_gram(x, sigma=fixed).sum(), x)
    assert torch.equal(own, given)


def test_what_is_refused():
    x = points(4, 2)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="sigma must be positive and finite"):
            gaussian_gram(x, sigma=bad)
    with pytest.raises(Exception, match="sigma"):
        gaussian_gram(x, sigma="mean")
    with pytest.raises(ValueError, match="x must be finite"):
        gaussian_gram(x / 0)
    with pytest.raises(ValueError, match="y must be finite"):
        gaussian_gram(x, x / 0)
    with pytest.raises(ValueError, match="at least 2 rows"):
        median_bandwidth(x[:1])
    with pytest.raises(Exception, match=r"x and y must be|y"):
        gaussian_gram(x, points(4, 3))
    with pytest.raises(ValueError, match="not empty"):
        gaussian_gram(x[:0])
