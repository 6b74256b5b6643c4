"""Branches: the score by hand and at its limits, the kernel form of the solution, clones, what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from assay.probes import Branched, branch_solution, branch_specialization, tangent


def outputs(n=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 4, generator=g, dtype=torch.float64) * (i + 1) + i for i in range(n)]


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_measures_by_hand(dtype, tol):
    rows = outputs()
    c = np.cov(np.stack([out.numpy().flatten() for out in rows]))
    found = branch_specialization([out.to(dtype) for out in rows])
    assert found.score == pytest.approx((5 - (c**2).sum() / (np.diag(c) ** 2).sum()) / 4, rel=tol)
    np.testing.assert_allclose(found.covariance.numpy(), c, rtol=1e2 * tol, atol=tol)
    np.testing.assert_allclose(found.importance.numpy(), np.diag(c) / np.sqrt((np.diag(c) ** 2).sum()), rtol=tol)
    np.testing.assert_allclose(found.local.numpy(), np.diag(c) / np.sqrt((c**2).sum(0)), rtol=tol)


def test_covariances_decide_not_correlations():
    """Two branches that agree and a strong one that does not: magnitudes matter."""
    a = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    b = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    weak, strong = branch_specialization([a, a, b]), branch_specialization([a, a, 10 * b])
    assert weak.score == pytest.approx((3 - 5 / 3) / 2)
    assert strong.score == pytest.approx((3 - (4 + 1e4) / (2 + 1e4)) / 2)
    assert (weak.active, strong.active) == (3, 1)


def test_limits_and_invariances():
    rows = outputs()
    assert branch_specialization([rows[0]] * 4).score == pytest.approx(0, abs=1e-12)
    alone = branch_specialization([rows[0], *(torch.full_like(rows[0], 3.0) for _ in range(3))])
    assert (alone.score, alone.active) == (pytest.approx(1), 1)
    found = branch_specialization(rows)
    assert 0 < found.score < 1
    assert branch_specialization(rows[::-1]).score == pytest.approx(found.score)
    assert branch_specialization([1e-3 * out for out in rows]).score == pytest.approx(found.score)
    assert branch_specialization(rows, threshold=1.0).active == 1


def test_the_solution_is_that_of_the_summed_kernel():
    g = torch.Generator().manual_seed(0)
    features = [torch.randn(12, k, generator=g, dtype=torch.float64) for k in (9, 4, 20)]
    y = torch.randn(12, 2, generator=g, dtype=torch.float64)
    found = branch_solution(features, y)
    inverse = torch.linalg.inv(sum(a @ a.T for a in features))
    for a, part in zip(features, found, strict=True):
        torch.testing.assert_close(part, a @ a.T @ inverse @ y)
    torch.testing.assert_close(sum(found), y)
    assert branch_solution(features, y[:, 0])[0].shape == (12,)


def test_products_of_gradients_specialize_more_than_gaussian_ones():
    """64 points, 200 weights, 8 branches: 0.42 and 0.96 were found before there was a program, each give or take."""
    scores = {"gaussian": [], "products": []}
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        y = torch.randn(64, generator=g, dtype=torch.float64)
        for name, each in scores.items():
            draw = torch.randn if name == "gaussian" else torch.rand
            features = [draw(64, 200, generator=g, dtype=torch.float64) for _ in range(8)]
            if name == "products":
                features = [a.cumprod(1) for a in features]
            each.append(branch_specialization(branch_solution(features, y)).score)
    assert np.mean(scores["gaussian"]) == pytest.approx(0.42, abs=0.08)
    assert np.mean(scores["products"]) == pytest.approx(0.96, abs=0.05)


def test_gradient_descent_ends_at_the_solution():
    """Branches that are linear in their weights, from weights that are not zero."""
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x, y = torch.randn(5, 4, generator=g).double(), torch.randn(5, 1, generator=g).double()
    net = Branched([nn.Linear(4, 1), nn.Sequential(nn.Linear(4, 6).requires_grad_(False), nn.Tanh(), nn.Linear(6, 1))])
    net.double()
    start = [out.detach() for out in net.outputs(x)]
    features = [tangent.jacobian(branch, x) for branch in net.branches]
    expected = branch_solution(features, y - sum(start))
    sgd = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(5_000):
        sgd.zero_grad()
        (net(x) - y).square().mean().backward()
        sgd.step()
    for out, before, change in zip(net.outputs(x), start, expected, strict=True):
        torch.testing.assert_close(out.detach() - before, change, rtol=1e-4, atol=1e-5)


def test_clones_stay_alike():
    torch.manual_seed(0)
    net = Branched.clone_of(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), 4)
    x = torch.randn(8, 4)
    assert net.branches[0][0].weight is not net.branches[1][0].weight
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(20):
        sgd.zero_grad()
        net(x).square().mean().backward()
        sgd.step()
    torch.testing.assert_close(net(x), sum(net.outputs(x)))
    assert branch_specialization(net.outputs(x)).score == pytest.approx(0, abs=1e-6)


def test_what_is_refused():
    rows = outputs(2)
    with pytest.raises(ValueError, match="branches must be 2 or more: got 1"):
        Branched([nn.Identity()])
    with pytest.raises(ValueError, match="2 branches or more: got 1"):
        branch_specialization(rows[:1])
    with pytest.raises(ValueError, match="one shape"):
        branch_specialization([rows[0], rows[1][:2]])
    with pytest.raises(ValueError, match="threshold must lie in"):
        branch_specialization(rows, threshold=0.0)
    with pytest.raises(ValueError, match="finite"):
        branch_specialization([rows[0], rows[1] / 0])
    with pytest.raises(ValueError, match="all branches are constant"):
        branch_specialization([torch.full((4,), 0.1)] * 2)
    with pytest.raises(ValueError, match="2 branches or more: got 1"):
        branch_solution([torch.ones(3, 2)], torch.ones(3))
    with pytest.raises(ValueError, match="m = 4"):
        branch_solution([torch.ones(3, 2)] * 2, torch.ones(4))
    with pytest.raises(ValueError, match="finite"):
        branch_solution([torch.full((3, 2), torch.nan)] * 2, torch.ones(3))
