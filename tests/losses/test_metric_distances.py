"""Each metric against its definition, by other means."""

import math

import pytest
import torch
from scipy.linalg import logm
from scipy.optimize import linear_sum_assignment

from assay.losses import metric_distances


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrices(n=4, k=3):
    factor = drawn(n, k, k)
    return factor @ factor.mT + 0.1 * torch.eye(k)


def table(n, distance):
    return torch.tensor([[distance(i, j) for j in range(n)] for i in range(n)], dtype=torch.float64)


def test_euclidean():
    y = drawn(5, 3)
    expected = table(5, lambda i, j: math.dist(y[i].tolist(), y[j].tolist()))
    torch.testing.assert_close(metric_distances(y), expected, rtol=1e-14, atol=0)
    expected = table(5, lambda i, j: abs(y[i, 0].item() - y[j, 0].item()))
    torch.testing.assert_close(metric_distances(y[:, 0]), expected, rtol=1e-14, atol=0)


def test_wasserstein_is_the_cheapest_way_to_move_the_draws():
    y = drawn(4, 7)

    def cheapest(i, j):
        cost = (y[i][:, None] - y[j]).square().numpy()
        return math.sqrt(cost[linear_sum_assignment(cost)].mean())

    torch.testing.assert_close(metric_distances(y, "wasserstein1d"), table(4, cheapest), rtol=1e-13, atol=0)
    # Two normal distributions by their quantiles: the root of (difference of means)^2 + (of standard deviations)^2.
    level = (torch.arange(4_000, dtype=torch.float64) + 0.5) / 4_000
    quantiles = torch.special.ndtri(level)
    found = metric_distances(torch.stack([quantiles, 3 + 2 * quantiles]), "wasserstein1d")[0, 1].item()
    assert found == pytest.approx(math.sqrt(10), rel=1e-3)


def test_matrices():
    y = matrices()
    expected = table(4, lambda i, j: torch.linalg.matrix_norm(y[i] - y[j]).item())
    torch.testing.assert_close(metric_distances(y, "spd_frobenius"), expected, rtol=1e-14, atol=0)
    logs = [torch.from_numpy(logm(each.numpy())) for each in y]
    expected = table(4, lambda i, j: torch.linalg.matrix_norm(logs[i] - logs[j]).item())
    torch.testing.assert_close(metric_distances(y, "spd_log_euclidean"), expected, rtol=1e-11, atol=0)


def test_directions():
    y = drawn(5, 3)
    y[4] = -y[0]
    y = y / y.norm(dim=1, keepdim=True)
    expected = table(5, lambda i, j: math.acos(max(-1, min(1, (y[i] @ y[j]).item()))))
    torch.testing.assert_close(metric_distances(y, "sphere"), expected, rtol=0, atol=1e-7)  # acos near 1
    near = torch.tensor([[1.0, 0.0], [math.cos(1e-5), math.sin(1e-5)]], dtype=torch.float64)
    assert metric_distances(near, "sphere")[0, 1].item() == pytest.approx(1e-5, rel=1e-10)


@pytest.mark.parametrize(
    ("kind", "y"),
    [
        ("euclidean", drawn(6, 2)),
        ("wasserstein1d", drawn(6, 5)),
        ("spd_frobenius", matrices(6)),
        ("spd_log_euclidean", matrices(6)),
        ("sphere", torch.nn.functional.normalize(drawn(6, 3))),
    ],
)
def test_they_are_metrics(kind, y):
    d = metric_distances(y, kind)
    assert torch.equal(d, d.T)
    assert not d.diagonal().any()
    assert (d[:, :, None] + d[None] >= d[:, None] - 1e-12).all()
    assert metric_distances(y.float(), kind).dtype == torch.float32


def test_what_is_refused():
    with pytest.raises(ValueError, match="kind must be one of"):
        metric_distances(drawn(3, 2), "manhattan")
    for kind, y in (
        ("euclidean", drawn(3, 2, 2)),
        ("wasserstein1d", drawn(3)),
        ("spd_frobenius", drawn(3, 2)),
        ("spd_log_euclidean", drawn(3, 2, 4)),
        ("sphere", drawn(3)),
        ("euclidean", drawn(0, 2)),
    ):
        with pytest.raises(ValueError, match="y must be"):
            metric_distances(y, kind)
    with pytest.raises(ValueError, match="y must be finite"):
        metric_distances(drawn(3, 2) / 0)
    skewed = matrices()
    skewed[1, 0, 1] += 1
    for kind in ("spd_frobenius", "spd_log_euclidean"):
        for wrong in (-matrices(), skewed):
            with pytest.raises(ValueError, match="symmetric and positive definite"):
                metric_distances(wrong, kind)
    with pytest.raises(ValueError, match="rows of length 1"):
        metric_distances(drawn(3, 2), "sphere")
