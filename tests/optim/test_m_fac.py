"""M-FAC's products against dense inverses, its steps against the authors' code, and pruning by hand."""

import math

import numpy as np
import pytest
import torch

from assay.optim import MFAC, DynamicInverseFisher, StaticInverseFisher, obs_prune


def numbers(*shape, phase):
    """Generic values without a random generator: the recipe of the authors' numbers below."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (torch.sin(1.7 * i + phase) + 0.3 * torch.cos(0.37 * i * i + phase)).reshape(shape)


# github.com/IST-DASLab/M-FAC, optim.py, in float64 on a CPU (with an LU without pivots written for it): the last of six
# HInvFastUpMulti(4 x 6, damp=1e-2).update_mul(numbers(6, phase=1 + t)), then .mul(numbers(6, phase=0.5)); and six steps
# of MFAC(lr=0.01, momentum=0.9, weight_decay=0.003, ngrads=4, damp=1e-2) from numbers(6, phase=0.2), same gradients.
OFFICIAL_UPDATE = [
    *(-0.02440575784286647, 0.5208142485356575, 0.08893859241070956),
    *(-0.5287614814147048, 0.1609863118535415, 0.2842295012811036),
]
OFFICIAL_PRODUCT = [
    *(0.4201220033303059, 0.391202326214497, -0.47635693384623323),
    *(-0.3115028768661432, 0.5861813354756293, -0.0191308092709761),
]
OFFICIAL_WEIGHTS = [
    *(0.48897159730553336, 1.2052649158269593, -0.4698901601091325),
    *(-1.1170814207316808, 0.9513506064424057, 0.3683678855509595),
]


def dense(grads, damp, block=None):
    m, d = grads.shape
    fisher = damp * np.eye(d) + grads.T @ grads / m
    if block:
        same = np.arange(d)[:, None] // block == np.arange(d) // block
        fisher = fisher * same
    return np.linalg.inv(fisher)


@pytest.mark.parametrize(("m", "block"), [(12, None), (50, None), (12, 7), (12, 15), (3, 1), (12, 40), (12, 999)])
def test_static_is_the_dense_inverse(m, block):
    """Fewer gradients than coordinates and more; blocks smaller and larger than m, the last one short."""
    d, damp = 40, 1e-3
    grads = torch.from_numpy(np.random.default_rng(0).normal(size=(m, d)))
    exact = dense(grads.numpy(), damp, block)
    inverse = StaticInverseFisher(grads, damp=damp, block_size=block)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, d)))
    size = np.abs(exact).max()
    np.testing.assert_allclose(inverse.mul(x), x.numpy() @ exact, atol=1e-10 * size)
    np.testing.assert_allclose(inverse.mul(x[0]), exact @ x[0].numpy(), atol=1e-10 * size)
    np.testing.assert_allclose(inverse.diag(), np.diag(exact), atol=1e-10 * size)
    for a, b in ((3, 3), (2, 5), (0, 39), (39, 38)):
        assert inverse.element(a, b) == pytest.approx(exact[a, b], abs=1e-10 * size)


def test_the_divisor_is_m_not_the_running_count():
    """One line of the recursion: dividing by i would be another matrix."""
    grads = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 8)))
    running = 0.1 * np.eye(8) + sum(np.outer(g, g) / (i + 1) for i, g in enumerate(grads.numpy()))
    found = StaticInverseFisher(grads, damp=0.1).mul(torch.eye(8, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, dense(grads.numpy(), 0.1), atol=1e-12)
    assert np.abs(found - np.linalg.inv(running)).max() > 0.1


def test_single_precision_keeps_its_digits_at_the_authors_damp():
    """1 / damp is 1e5: what remains of the cancellation is measured against the dense inverse in double."""
    grads = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 300)) * 0.1).float()
    exact = dense(grads.double().numpy(), 1e-5)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=300)).float()
    expected = exact @ x.double().numpy()
    found = StaticInverseFisher(grads, damp=1e-5).mul(x).double().numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    sliding = DynamicInverseFisher(300, 64, damp=1e-5)
    for g in grads:
        sliding.update(g)
    assert np.abs(sliding.mul(x).double().numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_dynamic_is_static_on_the_last_gradients():
    m, d = 6, 20
    grads = torch.from_numpy(np.random.default_rng(0).normal(size=(3 * m + 1, d)))
    sliding = DynamicInverseFisher(d, m, damp=0.01, dtype=torch.float64)
    x = grads[0] + 1
    for i, g in enumerate(grads):
        found = sliding.update_mul(g)
        last = torch.zeros(m, d, dtype=torch.float64)
        last[: min(i + 1, m)] = grads[max(0, i + 1 - m) : i + 1]  # not yet there is 0; the order does not matter
        exact = torch.from_numpy(dense(last.numpy(), 0.01))
        torch.testing.assert_close(found, exact @ g, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(sliding.mul(x), exact @ x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_long_gradients_keep_their_digits(scale):
    """In g - G^T K^-1 G g all is cancelled where |g|^2 is far above damp; the row of the window is not."""
    m, d = 8, 1000
    grads = torch.from_numpy(np.random.default_rng(0).normal(size=(m, d)) * scale).float()
    sliding = DynamicInverseFisher(d, m, damp=1e-5)
    for g in grads:
        found = sliding.update_mul(g)
    double = grads.double()
    kernel = m * 1e-5 * torch.eye(m, dtype=torch.float64) + double @ double.T
    exact = m * torch.linalg.solve(kernel, double)[-1]
    # Single precision in the inner products (a sum of a thousand) and in the last product; K is well conditioned.
    assert (found - exact).norm() < 1e-5 * exact.norm()
    assert (sliding.mul(grads[-1]) - exact).norm() > 1e-3 * exact.norm()


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_long_parallel_gradients_are_no_accident(scale):
    """K is not positive definite after rounding; t of m gradients that are one give F = damp + t/m g g^T."""
    generator = torch.Generator().manual_seed(0)
    g = scale * torch.randn(2000, generator=generator)
    sliding = DynamicInverseFisher(2000, 16, damp=1e-5)
    for t in range(1, 17):
        found = sliding.update_mul(g + 1e-6 * scale * torch.randn(2000, generator=generator))
        # Within what the rounding on the diagonal allows (0.64 to 1.29 of it over many); without, off by thousands.
        assert 0.5 < (found @ g).item() * t / 16 < 1.5
    damped = sliding.gram + 16e-5 * torch.eye(16, dtype=torch.float64)
    assert torch.linalg.cholesky_ex(damped).info > 0


def test_products_are_the_authors():
    sliding = DynamicInverseFisher(6, 4, damp=1e-2, dtype=torch.float64)
    for t in range(6):
        found = sliding.update_mul(numbers(6, phase=1.0 + t))
    np.testing.assert_allclose(found, OFFICIAL_UPDATE, rtol=1e-9)
    np.testing.assert_allclose(sliding.mul(numbers(6, phase=0.5)), OFFICIAL_PRODUCT, rtol=1e-9)


def test_steps_are_the_authors():
    """In two tensors and two groups, which share one matrix."""
    start = numbers(6, phase=0.2)
    parts = [torch.nn.Parameter(start[:4].view(2, 2).clone()), torch.nn.Parameter(start[4:].clone())]
    settings = dict(lr=0.01, momentum=0.9, weight_decay=0.003, window=4, damp=1e-2)
    optimizer = MFAC([{"params": parts[:1]}, {"params": parts[1:]}], **settings)
    for t in range(6):
        g = numbers(6, phase=1.0 + t)
        parts[0].grad, parts[1].grad = g[:4].view(2, 2).clone(), g[4:].clone()
        optimizer.step()
    found = torch.cat([p.detach().flatten() for p in parts])
    np.testing.assert_allclose(found, OFFICIAL_WEIGHTS, rtol=1e-9)


def moved(make, steps=5):
    weight = torch.nn.Parameter(numbers(6, phase=0.2))
    optimizer = make([weight])
    for t in range(steps):
        weight.grad = numbers(6, phase=1.0 + t)
        optimizer.step()
    return weight.detach()


def test_a_large_damp_is_gradient_descent_and_the_authors_is_not():
    plain = moved(lambda p: torch.optim.SGD(p, lr=0.1))
    torch.testing.assert_close(moved(lambda p: MFAC(p, lr=0.1 * 1e9, damp=1e9)), plain, rtol=1e-7, atol=1e-8)
    assert (moved(lambda p: MFAC(p, lr=0.1 * 1e-2, damp=1e-2)) - plain).abs().max() > 1e-2


def test_maximizing_is_minimizing_the_negative():
    up = moved(lambda p: MFAC(p, lr=0.01, damp=0.1, maximize=True))
    weight = torch.nn.Parameter(numbers(6, phase=0.2))
    optimizer = MFAC([weight], lr=0.01, damp=0.1)
    for t in range(5):
        weight.grad = -numbers(6, phase=1.0 + t)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), up)


def test_a_group_may_come_later():
    """Its old gradients count as 0; the window of the others stays."""
    first, second = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
    optimizer = MFAC([first], lr=1.0, window=3, damp=0.1)
    first.grad = torch.tensor([1.0, 2.0])
    optimizer.step()
    optimizer.add_param_group({"params": [second]})
    before = first.detach().clone()
    first.grad, second.grad = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.0, 2.0])
    optimizer.step()
    window = np.array([[1.0, 2, 0, 0, 0], [0.5, -1, 1, 0, 2], [0, 0, 0, 0, 0]])
    expected = dense(window, 0.1) @ window[1]
    found = torch.cat([before - first.detach(), -second.detach()])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_bad_gradient_is_not_taken_in():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = MFAC([weight], damp=0.1)
    weight.grad = torch.tensor([1.0, math.nan])
    with pytest.raises(ValueError, match="g must be finite"):
        optimizer.step()
    assert torch.equal(weight.detach(), torch.zeros(2))
    weight.grad = torch.tensor([1.0, 2.0])
    optimizer.step()
    assert weight.isfinite().all()


def test_pruning_by_hand():
    """Costs, the choice and the compensation, weight by weight, with the dense inverse."""
    rng = np.random.default_rng(2)
    grads, w = torch.from_numpy(rng.normal(size=(9, 14))), torch.from_numpy(rng.normal(size=14))
    exact = dense(grads.numpy(), 0.05)
    inverse = StaticInverseFisher(grads, damp=0.05)
    pruned, kept = obs_prune(w, inverse, 6 / 14)
    cost = w.numpy() ** 2 / (2 * np.diag(exact))
    gone = np.argsort(cost)[:6]
    expected = w.numpy() - sum(w[p].item() / exact[p, p] * exact[:, p] for p in gone)
    expected[gone] = 0
    np.testing.assert_allclose(pruned, expected, atol=1e-9)
    assert sorted(np.flatnonzero(~kept.numpy())) == sorted(gone)
    assert set(gone) != set(np.argsort(np.abs(w.numpy()))[:6])  # the ancestor: magnitude would choose others
    further, fewer = obs_prune(pruned, inverse, 10 / 14, kept)
    assert int((~fewer).sum()) == 10
    assert not (fewer & ~kept).any()
    assert (further[~fewer] == 0).all()


def test_removing_one_weight_is_the_constrained_optimum():
    """Of all changes that bring w_p to 0, the one with the least (dw)^T F dw, which is 2 rho_p."""
    rng = np.random.default_rng(3)
    grads, w = torch.from_numpy(rng.normal(size=(9, 6))), torch.from_numpy(rng.normal(size=6))
    fisher = 0.05 * np.eye(6) + grads.numpy().T @ grads.numpy() / 9
    pruned, kept = obs_prune(w, StaticInverseFisher(grads, damp=0.05), 1 / 6)
    p = int((~kept).nonzero())
    change = (pruned - w).numpy()
    exact = np.linalg.inv(fisher)
    assert change @ fisher @ change == pytest.approx(w[p].item() ** 2 / exact[p, p], rel=1e-8)
    others = np.delete(np.arange(6), p)
    np.testing.assert_allclose((fisher @ change)[others], 0, atol=1e-10)  # no force on the free coordinates


def test_what_is_refused():
    good = torch.ones(2, 3)
    for damp in (0.0, -1.0, math.nan):
        for make in (
            lambda damp: StaticInverseFisher(good, damp=damp),
            lambda damp: DynamicInverseFisher(3, 2, damp=damp),
            lambda damp: MFAC([torch.nn.Parameter(good)], damp=damp),
        ):
            with pytest.raises(ValueError, match="damp"):
                make(damp)
    with pytest.raises(ValueError, match=r"grads must be \(m, d\)"):
        StaticInverseFisher(torch.ones(0, 3))
    with pytest.raises(ValueError, match="block_size"):
        StaticInverseFisher(good, block_size=0)
    with pytest.raises(ValueError, match="grads must be finite"):
        StaticInverseFisher(good * math.nan)
    inverse, sliding = StaticInverseFisher(good), DynamicInverseFisher(3, 2)
    with pytest.raises(ValueError, match="x must have 3 entries"):
        inverse.mul(torch.ones(4))
    with pytest.raises(ValueError, match=r"b must lie in 0\.\.2: got 3"):
        inverse.element(0, 3)
    with pytest.raises(ValueError, match=r"g must be \(3,\): got \(4,\)"):
        sliding.update(torch.ones(4))
    with pytest.raises(ValueError, match=r"x must be \(3,\)"):
        sliding.mul(torch.ones(4))
    with pytest.raises(ValueError, match=r"window \(2, 3\): got \(3, 3\)"):
        sliding.load_state_dict(DynamicInverseFisher(3, 3).state_dict())
    for name in ("dim", "window"):
        with pytest.raises(ValueError, match=name):
            DynamicInverseFisher(**{"dim": 3, "window": 2, name: 0})
    weight = torch.nn.Parameter(torch.ones(3))
    for name, value in (("lr", -1.0), ("weight_decay", math.inf), ("momentum", 1.0), ("window", 0)):
        with pytest.raises(ValueError, match=name):
            MFAC([weight], **{name: value})
    for sparsity in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="sparsity"):
            obs_prune(torch.ones(3), inverse, sparsity)
    with pytest.raises(ValueError, match="weights must be"):
        obs_prune(torch.ones(4), inverse, 0.5)
    with pytest.raises(ValueError, match="weights must be finite"):
        obs_prune(torch.full((3,), math.inf), inverse, 0.5)
    with pytest.raises(ValueError, match="mask"):
        obs_prune(torch.ones(3), inverse, 0.5, torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"below the 0\.6667 that is gone"):
        obs_prune(torch.ones(3), inverse, 0.1, torch.tensor([True, False, False]))


def test_without_gradients_nothing_moves_and_nothing_is_kept():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = MFAC([weight], window=1)
    assert optimizer.step(lambda: 3.0) == 3.0
    assert torch.equal(weight.detach(), torch.ones(2))
    assert "fisher" not in optimizer.state_dict()
    weight.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state_dict()["fisher"]["grads"].shape == (1, 2)


def test_pruning_nothing_more_changes_nothing():
    inverse = StaticInverseFisher(torch.from_numpy(np.random.default_rng(0).normal(size=(4, 5))), damp=0.1)
    w = torch.linspace(1, 2, 5, dtype=torch.float64)
    pruned, kept = obs_prune(w, inverse, 0.0)
    assert torch.equal(pruned, w)
    assert kept.all()
    mask = torch.tensor([True, False, True, True, True])
    pruned, kept = obs_prune(w * mask, inverse, 0.2, mask)
    assert torch.equal(pruned, w * mask)
    assert torch.equal(kept, mask)
