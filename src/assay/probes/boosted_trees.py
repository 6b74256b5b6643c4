"""Gradient-boosted regression trees for squared loss, whose predictions are weights on the training targets."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


class _Tree(NamedTuple):
    """A full binary tree in level order: node j has the children 2j + 1 and 2j + 2; the last level are leaves."""

    features: NDArray[np.int64]
    thresholds: NDArray[np.float64]
    leaf: NDArray[np.int64]  # of each training point
    averages: NDArray[np.float64]  # of each leaf


class BoostedTrees:
    r"""$f_t = f_{t-1} + \eta\, T_t$, where the tree $T_t$ averages the residuals $y - f_{t-1}$ in each of its leaves.

    Trees are grown greedily: each node is split where the squared error falls the most.

    Args:
        num_trees: at most so many, at least 1.
        depth: splits from root to leaf, at least 1.
        lr: $\eta$, in (0, 1].
        min_leaf: training points a leaf, at least 1.

    Friedman, 2001, "Greedy function approximation", algorithm LS_Boost, with shrinkage.

    Raises:
        ValueError: for arguments out of range; points and targets that do not fit or are not finite; a prediction
            before the fit, or from more trees than there are.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([1.0, 1.0, 5.0, 9.0])
        >>> trees = BoostedTrees(num_trees=1, depth=1, lr=0.5).fit(x, y)  # mean 4; leaves {1, 1}, {5, 9}: -3 and 3
        >>> trees.predict(torch.tensor([[0.5], [100.0]]))
        tensor([2.5000, 5.5000], dtype=torch.float64)
        >>> trees.smoother(torch.tensor([[100.0]]))  # 1/4 each for the mean, and half of what that leaves to the leaf
        tensor([[0.1250, 0.1250, 0.3750, 0.3750]], dtype=torch.float64)
    """

    def __init__(self, num_trees: int = 300, *, depth: int = 3, lr: float = 0.1, min_leaf: int = 1) -> None:
        if num_trees < 1 or depth < 1 or min_leaf < 1:
            raise ValueError(f"num_trees, depth, min_leaf must be at least 1: got {num_trees}, {depth}, {min_leaf}")
        if not 0 < lr <= 1:
            raise ValueError(f"lr must lie in (0, 1]: got {lr}")
        self.num_trees, self.depth, self.lr, self.min_leaf = num_trees, depth, lr, min_leaf
        self._trees: list[_Tree] = []
        self._mean, self._count, self._width = math.nan, 0, 0

    def fit(self, x: Tensor, y: Tensor) -> BoostedTrees:
        """Grow all trees on points (n, d) and targets (n,); what was there before is dropped."""
        if x.ndim != 2 or len(x) < 2 or y.shape != x.shape[:1]:
            raise ValueError(f"x must be (n, d), n at least 2, and y (n,): got {tuple(x.shape)} and {tuple(y.shape)}")
        if not (x.isfinite().all() and y.isfinite().all()):
            raise ValueError("x and y must be finite: got NaN or infinity")
        points, rest = x.double().numpy(), y.double().numpy()
        self._trees, self._mean, (self._count, self._width) = [], float(rest.mean()), points.shape
        rest = rest - self._mean
        order = np.argsort(points, axis=0, kind="stable")
        for _ in range(self.num_trees):
            tree = self._grow(points, order, rest)
            self._trees.append(tree)
            rest = rest - self.lr * tree.averages[tree.leaf]
        return self

    def predict(self, x: Tensor, *, trees: int | None = None) -> Float[Tensor, " m"]:
        """The first `trees` trees' prediction, or all's."""
        points = self._points(x)
        out = np.full(len(points), self._mean)
        for tree in self._first(trees):
            out += self.lr * tree.averages[self._leaves(tree, points)]
        return torch.from_numpy(out)

    def smoother(self, x: Tensor, *, trees: int | None = None) -> Float[Tensor, "m n"]:
        r"""Weights S(x) with prediction = S(x) y; each row sums to 1.

        $S_t = S_{t-1} + \eta\, K_t\, (I - S_{t-1}(\mathrm{train}))$, $K_t(x, i) = 1 / |\mathrm{leaf}|$ where x and the
        training point i share the leaf: the splits are taken as given.

        Jeffares et al., 2024 (arXiv:2411.00247), section 4.1.
        """
        points, n = self._points(x), self._count
        own, other = np.full((n, n), 1 / n), np.full((len(points), n), 1 / n)
        rows = np.arange(n)
        for tree in self._first(trees):
            member = np.zeros((2**self.depth, n))
            member[tree.leaf, rows] = 1
            step = self.lr * (member / np.maximum(member.sum(1, keepdims=True), 1)) @ (np.eye(n) - own)
            other += step[self._leaves(tree, points)]
            own += step[tree.leaf]
        return torch.from_numpy(other)

    def _grow(self, points: NDArray[np.float64], order: NDArray[np.int64], rest: NDArray[np.float64]) -> _Tree:
        inner = 2**self.depth - 1
        features, thresholds = np.zeros(inner, np.int64), np.full(inner, np.inf)
        node = np.zeros(len(points), np.int64)
        for j in range(inner):
            split = self._split(points, order, rest, node == j)
            if split is not None:
                features[j], thresholds[j] = split
            here = node == j
            node[here] = 2 * j + 1 + (points[here, features[j]] > thresholds[j])
        leaf = node - inner
        counts = np.bincount(leaf, minlength=inner + 1)
        averages = np.bincount(leaf, rest, minlength=inner + 1) / np.maximum(counts, 1)
        return _Tree(features, thresholds, leaf, averages)

    def _split(
        self, points: NDArray[np.float64], order: NDArray[np.int64], rest: NDArray[np.float64], here: NDArray[np.bool_]
    ) -> tuple[int, float] | None:
        """The feature and threshold of the largest fall in squared error; None where no split is allowed."""
        n, width = int(here.sum()), points.shape[1]
        if n < 2 * self.min_leaf:
            return None
        ranked = order.T[here[order.T]].reshape(width, n)
        values, sums = np.take_along_axis(points.T, ranked, 1), np.cumsum(rest[ranked], axis=1)
        left = np.arange(1, n)
        gain = sums[:, :-1] ** 2 / left + (sums[:, -1:] - sums[:, :-1]) ** 2 / (n - left)
        gain = gain - sums[:, -1:] ** 2 / n
        allowed = (left >= self.min_leaf) & (n - left >= self.min_leaf) & (values[:, 1:] > values[:, :-1])
        gain[~allowed] = -np.inf
        best = int(gain.argmax())
        feature, place = divmod(best, n - 1)
        if gain[feature, place] <= 0:
            return None
        return feature, float((values[feature, place] + values[feature, place + 1]) / 2)

    def _leaves(self, tree: _Tree, points: NDArray[np.float64]) -> NDArray[np.int64]:
        node, rows = np.zeros(len(points), np.int64), np.arange(len(points))
        for _ in range(self.depth):
            node = 2 * node + 1 + (points[rows, tree.features[node]] > tree.thresholds[node])
        return node - len(tree.features)

    def _first(self, trees: int | None) -> list[_Tree]:
        if trees is not None and not 0 <= trees <= len(self._trees):
            raise ValueError(f"trees must lie in 0..{len(self._trees)}: got {trees}")
        return self._trees[:trees]

    def _points(self, x: Tensor) -> NDArray[np.float64]:
        if not self._trees:
            raise ValueError("fit must come before predictions: got no trees")
        if x.ndim != 2 or x.shape[1] != self._width:
            raise ValueError(f"x must be (m, {self._width}): got {tuple(x.shape)}")
        return x.double().numpy()
