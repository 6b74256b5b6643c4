"""Fréchet cumulative covariance against triple loops, closed forms and what it must not depend on."""

import math

import numpy as np
import pytest
import torch

from assay.losses import FCCovLoss, ball_order, frechet_cumulative_covariance, metric_distances

EPS = np.finfo(float).eps
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(n=12, d=2, q=2, seed=0):
    """Features and distances between responses of the plane."""
    generator = seeded(seed)
    u = torch.randn(n, d, generator=generator, dtype=torch.float64) + 1
    return u, metric_distances(torch.randn(n, q, generator=generator, dtype=torch.float64))


def by_loops(u, distances):
    n, u, distances = len(u), u.tolist(), distances.tolist()
    mean = [sum(row[c] for row in u) / n for c in range(len(u[0]))]
    total = 0.0
    for j in range(n):
        for k in range(n):
            ball = [i for i in range(n) if distances[i][j] <= distances[k][j]]
            total += sum((sum(u[i][c] - m for i in ball) / n) ** 2 for c, m in enumerate(mean))
    return total / n**2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ties", [False, True])
def test_it_is_the_triple_sum(ties, device):
    """float64; about n^2 additions of numbers below 1 each."""
    u, distances = sample()
    if ties:
        distances = (2 * distances).round()
        assert len(distances.unique()) < 12
    found = frechet_cumulative_covariance(u.to(device), distances.to(device)).item()
    assert found == pytest.approx(by_loops(u, distances), rel=100 * EPS)
    assert frechet_cumulative_covariance(u, ball_order(distances)).item() == pytest.approx(found, rel=100 * EPS)


def test_two_groups_have_their_closed_form():
    """A ball holds one group or everything: (p^2 + q^2) p^2 q^2 times the squared difference of the means."""
    group = torch.tensor([0, 1, 1, 0, 1, 1, 1])
    u, _ = sample(7, 3)
    gap = (u[group == 1].mean(0) - u[group == 0].mean(0)).square().sum().item()
    p, q = 5 / 7, 2 / 7
    found = frechet_cumulative_covariance(u, metric_distances(group.double())).item()
    assert found == pytest.approx((p**2 + q**2) * p**2 * q**2 * gap, rel=100 * EPS)


def test_on_a_line_the_balls_are_intervals_and_not_half_lines():
    """The cumulative covariance that it comes from has one half-line {Y <= y} for each response."""
    u, _ = sample(11, 1)
    y = torch.randn(11, generator=seeded(3), dtype=torch.float64)
    centred = (u - u.mean(0))[:, 0]
    intervals, half_lines = 0.0, 0.0
    for centre in y:
        half_lines += (centred * (y <= centre)).mean().item() ** 2 / 11
        for end in y:
            inside = (y - centre).abs() <= (end - centre).abs()
            intervals += (centred * inside).mean().item() ** 2 / 121
    found = frechet_cumulative_covariance(u, metric_distances(y)).item()
    assert found == pytest.approx(intervals, rel=100 * EPS)
    assert abs(half_lines / found - 1) > 0.2


def test_only_the_order_of_distances_counts():
    u, distances = sample()
    value = frechet_cumulative_covariance(u, distances)
    for increasing in (lambda d: d**3, lambda d: torch.log1p(100 * d), lambda d: torch.where(d > 2, 1e6 * d, d)):
        assert torch.equal(frechet_cumulative_covariance(u, increasing(distances)), value)


def test_turning_scaling_moving_and_relabelling():
    u, distances = sample(12, 3)
    value = frechet_cumulative_covariance(u, distances).item()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=seeded(1), dtype=torch.float64)).Q
    assert frechet_cumulative_covariance(u @ turn + 7, distances).item() == pytest.approx(value, rel=1e3 * EPS)
    assert frechet_cumulative_covariance(-3 * u, distances).item() == pytest.approx(9 * value, rel=100 * EPS)
    order = torch.randperm(12, generator=seeded(2))
    moved = frechet_cumulative_covariance(u[order], distances[order][:, order]).item()
    assert moved == pytest.approx(value, rel=100 * EPS)
    columns = sum(frechet_cumulative_covariance(u[:, [c]], distances).item() for c in range(3))
    assert columns == pytest.approx(value, rel=100 * EPS)


def test_it_vanishes_as_1_over_n_under_independence_and_not_otherwise():
    """E n FCCov is below var(u) = 1 under independence: each covariance has a variance of at most 1 / 4n."""
    for n in (100, 400):
        independent, dependent = [], []
        for seed in range(5):
            y = torch.randn(n, generator=seeded(seed), dtype=torch.float64)
            order = ball_order(metric_distances(y))
            noise = torch.randn(n, 1, generator=seeded(100 + seed), dtype=torch.float64)
            independent.append(n * frechet_cumulative_covariance(noise, order).item())
            dependent.append(frechet_cumulative_covariance(y[:, None], order).item())
        assert np.mean(independent) < 1 / 4
        assert min(dependent) > 0.01


def test_the_loss_is_the_penalty_less_the_dependence():
    u, distances = sample(12, 3)
    centred = (u - u.mean(0)).numpy()
    penalty = sum(
        (sum(centred[i, a] * centred[i, b] for i in range(12)) / 12 - (a == b)) ** 2 for a in range(3) for b in range(3)
    )
    expected = 0.3 * penalty - by_loops(u, distances)
    assert FCCovLoss(weight=0.3)(u, distances).item() == pytest.approx(expected, rel=1e3 * EPS)
    assert FCCovLoss(weight=0.3)(u, ball_order(distances)).item() == pytest.approx(expected, rel=1e3 * EPS)
    assert FCCovLoss()(u, distances).item() == pytest.approx(penalty - by_loops(u, distances), rel=1e3 * EPS)
    assert FCCovLoss(weight=0.0)(u, distances).item() == pytest.approx(-by_loops(u, distances), rel=1e3 * EPS)


def test_gradients():
    u, distances = sample(8, 2)
    distances = (2 * distances).round()
    u.requires_grad_()
    assert torch.autograd.gradcheck(lambda u: FCCovLoss(weight=0.3)(u, distances), (u,))
    assert torch.autograd.gradgradcheck(lambda u: FCCovLoss(weight=0.3)(u, distances), (u,))
    assert not frechet_cumulative_covariance(u.detach(), distances.requires_grad_()).requires_grad


def test_sorting_counts_ties_at_their_end():
    distances = metric_distances(torch.tensor([0.0, 1.0, 1.0, 5.0, 0.0]))
    order, weight = ball_order(distances)
    for j in range(5):
        ranked = distances[order[j], j]
        assert (ranked.diff() >= 0).all()
        expected = [(ranked == r).sum().item() if (ranked[i + 1 :] != r).all() else 0 for i, r in enumerate(ranked)]
        assert weight[j].tolist() == expected
    assert (weight.sum(1) == 5).all()


def test_what_is_refused():
    u, distances = sample()
    loss = FCCovLoss()
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="weight must be finite and not negative"):
            FCCovLoss(weight=bad)
    with pytest.raises(ValueError, match="n at least 4"):
        loss(u[:3, :1], distances[:3, :3])
    with pytest.raises(Exception, match="distances"):
        ball_order(distances[:5])
    for change, message in (
        (lambda d: d.fill_(math.nan), "distances must be finite"),
        (lambda d: d[2].sub_(9), "distances must be 0 or more"),
        (lambda d: d[2, 2].add_(0.1), "distances must be 0 on the diagonal"),
        (lambda d: d[2, 3].add_(0.1), "distances must be symmetric"),
    ):
        wrong = distances.clone()
        change(wrong)
        with pytest.raises(ValueError, match=message):
            loss(u, wrong)
    with pytest.raises(ValueError, match="features must be finite"):
        loss(u / 0, distances)
    with pytest.raises(ValueError, match="at most n / 2 = 6 columns: got 7"):
        loss(torch.ones(12, 7), ball_order(distances))
    loss(u.repeat(1, 3), distances)
    with pytest.raises(ValueError, match=r"features must be \(12, d\)"):
        loss(u[:11], ball_order(distances))
