"""Distance correlation against its definition, by loops, and what is known of it."""

import math

import pytest
import torch

from assay.losses import distance_correlation


def sample(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(a, b):
    n = len(a)

    def centred(x):
        d = [[math.dist(p, q) for q in x.tolist()] for p in x.tolist()]
        rows, total = [sum(row) / n for row in d], sum(map(sum, d)) / n**2
        return [[d[i][j] - rows[i] - rows[j] + total for j in range(n)] for i in range(n)]

    def mean(u, v):
        return sum(u[i][j] * v[i][j] for i in range(n) for j in range(n)) / n**2

    u, v = centred(a), centred(b)
    return math.sqrt(mean(u, v) / math.sqrt(mean(u, u) * mean(v, v)))


def test_it_is_the_definition():
    a, b = sample(9, 3, 0), sample(9, 2, 1)
    assert distance_correlation(a, b) == pytest.approx(by_loops(a, b), rel=1e-12)
    assert distance_correlation(a, a[:, :1].square()) == pytest.approx(by_loops(a, a[:, :1].square()), rel=1e-12)


def test_binary_samples_by_hand():
    """Of numbers 0 and 1 the centred distances are -2 (a_i - a) (a_j - a), so that it is the absolute correlation."""
    a = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    b = torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    assert distance_correlation(a, b) == pytest.approx(1 / 8 / math.sqrt(1 / 4 * 3 / 16), rel=1e-12)


def test_moving_turning_and_scaling_change_nothing():
    a, b = sample(30, 2, 0), sample(30, 2, 1)
    turn = torch.linalg.qr(sample(2, 2, 2)).Q
    assert distance_correlation(a, b) == pytest.approx(distance_correlation(5 * a @ turn - 3, b), rel=1e-12)
    assert distance_correlation(a, a @ turn * 4 + 1) == pytest.approx(1, abs=1e-12)
    assert distance_correlation(a, torch.ones(30, 1)) == 0.0


def test_it_sees_what_correlation_does_not():
    """Independent samples are near 0 as n grows: about 1 / sqrt(n) squared."""
    x = sample(2_000, 1, 3)
    assert distance_correlation(x, x.square()) > 0.4
    assert distance_correlation(x, sample(2_000, 1, 4)) < 0.08


def test_what_is_refused():
    a = sample(4, 2, 0)
    with pytest.raises(ValueError, match="n at least 2"):
        distance_correlation(a[:1], a[:1])
    with pytest.raises(Exception, match="b"):
        distance_correlation(a, a[:3])
    with pytest.raises(ValueError, match="a must be finite"):
        distance_correlation(a / 0, a)
    with pytest.raises(ValueError, match="b must be finite"):
        distance_correlation(a, a / 0)
