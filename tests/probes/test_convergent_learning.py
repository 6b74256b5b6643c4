"""Prediction of units from units: optimality conditions, least squares, selection one by one; what is refused."""

import pytest
import torch

from assay.probes import (
    assign_units,
    rotated_units,
    sparse_prediction,
    unit_correlation,
    units_needed,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tables(s=300, q=7, p=4):
    """Correlated sources far from 0, targets made of some of them and noise."""
    source = noise(s, q) @ (torch.eye(q, dtype=torch.float64) + 0.4 * noise(q, q, seed=1)) * 3 + 5
    return source, source @ noise(q, p, seed=2) + 2 * noise(s, p, seed=3) - 1


def standard(x):
    return (x - x.mean(0)) / x.std(0, correction=0)


def test_without_penalty_it_is_least_squares():
    source, target = tables()
    found = sparse_prediction(source, target, l1=0.0)
    z, y = standard(source), standard(target)
    weights = torch.linalg.lstsq(z, y).solution
    torch.testing.assert_close(found.weights, weights.T)
    torch.testing.assert_close(found.r2, 1 - (y - z @ weights).square().mean(0))
    single = sparse_prediction(source.float(), target.float(), l1=0.0)
    torch.testing.assert_close(single.weights, found.weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("l1", "ridge"), [(0.02, 0.0), (0.2, 0.0), (0.1, 0.3)])
def test_the_lasso_meets_its_optimality_conditions(l1, ridge):
    """z_j (y - Z w) / s = l1 sign(w_j) + ridge w_j where w_j is not 0, and no larger than l1 where it is."""
    source, target = tables()
    weights = sparse_prediction(source, target, l1=l1, ridge=ridge).weights.T
    z, y = standard(source), standard(target)
    pull = z.T @ (y - z @ weights) / len(z) - ridge * weights
    inside = weights == 0
    assert (inside.any() and not inside.all()) or l1 < 0.1
    torch.testing.assert_close(pull[~inside], l1 * weights[~inside].sign(), atol=1e-7, rtol=0)
    assert pull[inside].abs().max() <= l1 + 1e-7 if inside.any() else True


def test_ridge_by_its_normal_equations():
    source, target = tables()
    z, y = standard(source), standard(target)
    expected = torch.linalg.solve(z.T @ z / 300 + 0.2 * torch.eye(7).double(), z.T @ y / 300)
    torch.testing.assert_close(sparse_prediction(source, target, l1=0.0, ridge=0.2).weights, expected.T)


def test_more_penalty_fewer_units_and_none_at_last():
    source, target = tables()
    used = [sparse_prediction(source, target, l1=l1).used.sum().item() for l1 in (0.01, 0.1, 0.3, 0.6)]
    assert used == sorted(used, reverse=True)
    assert used[0] > used[-1]
    top = unit_correlation(source, target).abs().max().item()
    nothing = sparse_prediction(source, target, l1=top * 1.0001)
    assert nothing.used.sum() == 0
    assert nothing.r2.abs().max() < 1e-12
    assert sparse_prediction(source, target, l1=top * 0.99).used.sum() == 1


def test_held_out_r2_uses_the_scale_of_the_first_samples():
    source, target = tables()
    new, truth = source[:100] * 1.3 + 0.4, target[:100] * 0.9
    found = sparse_prediction(source, target, l1=0.0, held_out=(new, truth))
    x = torch.cat([torch.ones(300, 1).double(), source], 1)
    fit = torch.linalg.lstsq(x, target).solution
    left = truth - torch.cat([torch.ones(100, 1).double(), new], 1) @ fit
    torch.testing.assert_close(found.r2, 1 - left.square().sum(0) / (truth - truth.mean(0)).square().sum(0))


def test_units_that_do_not_vary():
    source, target = tables()
    source[:, 2], target[:, 1] = 4.0, -2.0
    for l1 in (0.0, 0.05):
        found = sparse_prediction(source, target, l1=l1)
        assert found.weights[:, 2].abs().max() == 0
        assert found.r2[1] == 0
        assert found.used[1] == 0
    assert units_needed(source, target).full[1] == 0


def test_greedy_selection_one_by_one():
    """Every set tried by least squares at every step."""
    source, target = tables()
    z, y = standard(source), standard(target)
    found = units_needed(source, target, most=5, share=0.8)

    def r2(columns, unit):
        weights = torch.linalg.lstsq(z[:, columns], y[:, unit : unit + 1]).solution
        return 1 - (y[:, unit : unit + 1] - z[:, columns] @ weights).square().mean().item()

    for unit in range(4):
        chosen, curve = [], []
        for _ in range(5):
            best = max((j for j in range(7) if j not in chosen), key=lambda j: r2([*chosen, j], unit))
            chosen.append(best)
            curve.append(r2(chosen, unit))
        assert found.curve[unit].tolist() == pytest.approx(curve, abs=1e-9)
        full = r2(list(range(7)), unit)
        assert found.full[unit].item() == pytest.approx(full, abs=1e-9)
        enough = [k + 1 for k, value in enumerate(curve) if value >= 0.8 * full]
        assert found.used[unit].item() == (enough[0] if enough else 6)


def test_more_than_most_is_told():
    source = noise(400, 12)
    found = units_needed(source, source.sum(1, keepdim=True), share=0.9, most=3)
    assert found.used.tolist() == [4]
    assert units_needed(source, source.sum(1, keepdim=True), most=40).curve.shape == (1, 12)
    assert units_needed(source, source[:, :1]).used.tolist() == [1]


def test_a_rotation_keeps_the_span_and_loses_the_basis():
    """From all units nothing is lost; one to one nearly everything is."""
    source, _ = tables(q=12)
    turned = rotated_units(source, generator=torch.Generator().manual_seed(0))
    assert sparse_prediction(turned, source, l1=0.0).r2.min().item() == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(turned @ turned.T, standard(source) @ standard(source).T)
    assert assign_units(unit_correlation(source, turned)).score.mean() < 0.9
    assert units_needed(turned, source).used.double().mean() > 2
    again = rotated_units(source, generator=torch.Generator().manual_seed(0))
    assert torch.equal(turned, again)


def test_what_is_refused():
    source, target = tables()
    with pytest.raises(ValueError, match="same s"):
        sparse_prediction(source, target[1:], l1=0.1)
    with pytest.raises(ValueError, match="at least 7 samples: got 6"):
        sparse_prediction(source[:6], target[:6], l1=0.1)
    with pytest.raises(ValueError, match="finite: got NaN"):
        units_needed(source, target / 0)
    with pytest.raises(ValueError, match="l1 must be at least 0"):
        sparse_prediction(source, target, l1=-0.1)
    with pytest.raises(ValueError, match="ridge must be at least 0"):
        sparse_prediction(source, target, l1=0.1, ridge=-1.0)
    with pytest.raises(ValueError, match="max_iter must be at least 1: got 0"):
        sparse_prediction(source, target, l1=0.1, max_iter=0)
    with pytest.raises(ValueError, match="held_out must have the units"):
        sparse_prediction(source, target, l1=0.1, held_out=(source[:, 1:], target))
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="share must lie"):
            units_needed(source, target, share=share)
    with pytest.raises(ValueError, match="most must be at least 1: got 0"):
        units_needed(source, target, most=0)
    with pytest.raises(ValueError, match="at least 2 samples"):
        rotated_units(source[:1])
