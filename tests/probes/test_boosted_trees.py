"""Boosted trees: splits by brute force, what boosting promises, the smoother against refits, what is refused."""

import itertools

import numpy as np
import pytest
import torch

from assay.probes import BoostedTrees


def points(n=40, d=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=g, dtype=torch.float64)
    return x, (6 * x[:, 0]).sin() + x[:, 1] * x[:, 2] + 0.1 * torch.randn(n, generator=g, dtype=torch.float64)


def stump(x, rest):
    """The best split by trying all, and what it predicts at the training points."""
    best = (np.inf, None)
    for feature, place in itertools.product(range(x.shape[1]), range(1, len(x))):
        values = np.sort(x[:, feature])
        side = x[:, feature] > (values[place - 1] + values[place]) / 2
        out = np.where(side, rest[side].mean(), rest[~side].mean())
        best = min(best, (((rest - out) ** 2).sum(), tuple(out)))
    return np.array(best[1])


def test_stumps_are_the_best_of_all_splits():
    x, y = points()
    out = np.full(40, y.mean().item())
    trees = BoostedTrees(3, depth=1, lr=0.3).fit(x, y)
    for _ in range(3):
        out = out + 0.3 * stump(x.numpy(), y.numpy() - out)
    np.testing.assert_allclose(trees.predict(x).numpy(), out, rtol=1e-12)


def test_a_deep_tree_is_stumps_in_stumps():
    x, y = points()
    found = BoostedTrees(1, depth=2, lr=1.0).fit(x, y).predict(x).numpy()
    rest = y.numpy() - y.mean().item()
    first = stump(x.numpy(), rest)
    expected = np.empty(40)
    for value in np.unique(first):
        side = first == value
        expected[side] = stump(x.numpy()[side], rest[side])
    np.testing.assert_allclose(found, expected + y.mean().item(), rtol=1e-10)


def test_training_error_falls_and_a_full_tree_copies():
    x, y = points()
    trees = BoostedTrees(50, depth=3, lr=0.2).fit(x, y)
    errors = [(trees.predict(x, trees=t) - y).square().mean().item() for t in range(51)]
    assert errors[0] == pytest.approx(y.var(correction=0).item())
    assert all(b < a for a, b in itertools.pairwise(errors))
    assert errors[-1] < 0.01 * errors[0]
    torch.testing.assert_close(BoostedTrees(1, depth=7, lr=1.0).fit(x[:8], y[:8]).predict(x[:8]), y[:8])
    large = BoostedTrees(1, depth=3, min_leaf=9, lr=1.0).fit(x, y).predict(x)
    assert large.unique(return_counts=True)[1].min() >= 9


def test_the_smoother_rebuilds_predictions_and_is_their_derivative():
    x, y = points()
    other, _ = points(25, seed=1)
    trees = BoostedTrees(20, depth=3, lr=0.3).fit(x, y)
    for count in (0, 7, 20):
        weights = trees.smoother(other, trees=count)
        torch.testing.assert_close(weights @ y, trees.predict(other, trees=count))
        torch.testing.assert_close(weights.sum(1), torch.ones(25).double())
    v = torch.randn(40, generator=torch.Generator().manual_seed(2)).double()
    trees = BoostedTrees(5, depth=2, lr=0.3, min_leaf=7).fit(x, y)
    moved = BoostedTrees(5, depth=2, lr=0.3, min_leaf=7).fit(x, y + 1e-7 * v)  # too little to move a split
    change = (moved.predict(other) - trees.predict(other)) / 1e-7
    torch.testing.assert_close(change, trees.smoother(other) @ v, rtol=1e-5, atol=1e-5)


def test_ties_are_not_split():
    x, y = torch.zeros(6, 2), torch.arange(6.0)
    assert BoostedTrees(2, depth=2, lr=1.0).fit(x, y).predict(x).tolist() == [2.5] * 6


def test_what_is_refused():
    x, y = points()
    for arguments in (dict(num_trees=0), dict(depth=0), dict(min_leaf=0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            BoostedTrees(**arguments)
    with pytest.raises(ValueError, match=r"lr must lie in \(0, 1\]: got 1.5"):
        BoostedTrees(lr=1.5)
    trees = BoostedTrees(2)
    with pytest.raises(ValueError, match="fit must come before"):
        trees.predict(x)
    with pytest.raises(ValueError, match=r"got \(40, 3\) and \(39,\)"):
        trees.fit(x, y[:-1])
    with pytest.raises(ValueError, match="finite"):
        trees.fit(x, y / 0)
    trees.fit(x, y)
    with pytest.raises(ValueError, match=r"x must be \(m, 3\): got \(40, 2\)"):
        trees.predict(x[:, :2])
    with pytest.raises(ValueError, match=r"trees must lie in 0\.\.2: got 3"):
        trees.predict(x, trees=3)
