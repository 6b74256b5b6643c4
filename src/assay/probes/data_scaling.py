"""How a score grows with the number of training examples, and which law tells the next one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

KINDS = ("log", "linear", "power", "constant")
EXPONENTS = np.linspace(0.005, 2, 400)


class Scaling(NamedTuple):
    """Scores of one learner by the number of examples that it was trained on."""

    sizes: tuple[int, ...]
    scores: tuple[float, ...]


class Law(NamedTuple):
    """A fitted law, as `fit_scaling` finds it.

    Args:
        kind: "log", "linear", "power" or "constant".
        parameters: (a, b); (a, b); (c, k, g); (a,).
        r2: share of the scores' variance that it explains; 0 for scores that are all equal.
    """

    kind: str
    parameters: tuple[float, ...]
    r2: float

    def predict(self, sizes: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """The law's scores at `sizes`."""
        n = np.asarray(sizes, dtype=np.float64)
        if self.kind == "power":
            c, k, g = self.parameters
            return c - k * n**-g
        slope = self.parameters[1] if self.kind != "constant" else 0.0
        return self.parameters[0] + slope * (np.log10(n) if self.kind == "log" else n)


def data_scaling(
    pretrain: Callable[[int, torch.Generator], nn.Module],
    evaluate: Callable[[nn.Module], float],
    sizes: Sequence[int],
    *,
    generator: torch.Generator,
) -> Scaling:
    """Train on more and more, score each.

    Args:
        pretrain: number of examples and a generator -> a trained network. Each size is given the generator in one and
            the same state: what `pretrain` draws first (an order of the examples, wrong labels, initial weights) it
            draws alike for all, so that a prefix of its order holds the smaller sets.
        evaluate: network -> score.
        sizes: 4 or more, growing, at least 1.
        generator: where everything random comes from; left as after the last size.

    Sun et al., 2017 (arXiv:1707.02968), section 5.

    Raises:
        ValueError: for fewer than 4 sizes, or sizes that do not grow; a score that is not finite.

    Example:
        >>> def pretrain(n, generator):
        ...     net = nn.Linear(1, 1)
        ...     _ = nn.init.constant_(net.bias, float(torch.randperm(80, generator=generator)[:n].double().mean()))
        ...     return net
        >>> scaling = data_scaling(pretrain, lambda net: net.bias.item(), [1, 2, 4, 80],
        ...                        generator=torch.Generator().manual_seed(0))
        >>> order = torch.randperm(80, generator=torch.Generator().manual_seed(0)).tolist()
        >>> scaling.scores == (order[0], sum(order[:2]) / 2, sum(order[:4]) / 4, 39.5)
        True
    """
    _check_sizes(sizes)
    state, scores = generator.get_state(), []
    for size in sizes:
        generator.set_state(state)
        scores.append(float(evaluate(pretrain(int(size), generator))))
        if not math.isfinite(scores[-1]):
            raise ValueError(f"evaluate must give finite scores: got {scores[-1]} at {size} examples")
    return Scaling(tuple(int(size) for size in sizes), tuple(scores))


def fit_scaling(sizes: Sequence[float], scores: Sequence[float], kind: str = "log") -> Law:
    r"""The law of one kind that is nearest to the scores, by least squares.

    log: $a + b \log_{10} n$; linear: $a + b n$; power: $c - k n^{-g}$, g from a grid in (0, 2], then refined;
    constant: a.

    Args:
        sizes: n, growing, positive; as many as scores, and as the law has parameters.
        scores: s.
        kind: of law.

    The paper: its figures, in which a line over the logarithm of the size is what is claimed.

    Raises:
        ValueError: for an unknown kind, too few sizes, sizes that do not grow, scores that are not finite.

    Example:
        >>> law = fit_scaling([10, 100, 1000, 10_000], [0.3, 0.4, 0.5, 0.6])
        >>> [round(each, 6) for each in law.parameters], round(law.r2, 6), law.predict([10**6]).round(6).tolist()
        ([0.2, 0.1], 1.0, [0.8])
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}: got {kind!r}")
    _check_sizes(sizes, least=3 if kind == "power" else 2)
    n, s = np.asarray(sizes, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if n.shape != s.shape or not np.isfinite(s).all():
        raise ValueError(f"scores must be finite and as many as sizes, {len(n)}: got {list(scores)}")
    if kind == "power":
        exponents = EXPONENTS
        for _ in range(12):  # each pass narrows the grid round the best to a hundredth
            best = min(exponents, key=lambda g: _residual(_power(n, g), s))
            width = exponents[1] - exponents[0]
            exponents = np.linspace(max(best - width, EXPONENTS[0] / 10), min(best + width, 2.0), 21)
        law = _power(n, best)
        a, b = _solve(law, s)
        scale = (n[0] if best else 1.0) ** best
        parameters: tuple[float, ...] = (a, -b * scale, float(best))
    elif kind == "constant":
        parameters = (float(s.mean()),)
    else:
        parameters = _solve(np.log10(n) if kind == "log" else n / n[-1], s)
        if kind == "linear":
            parameters = (parameters[0], parameters[1] / n[-1])
    spread = ((s - s.mean()) ** 2).sum()
    left = ((s - Law(kind, parameters, 0.0).predict(n)) ** 2).sum()
    return Law(kind, parameters, float(1 - left / spread) if spread > 0 else 0.0)


def extrapolate(sizes: Sequence[float], scores: Sequence[float], kind: str = "log", *, holdout: int = 1) -> float:
    """The mean absolute error of a law at the `holdout` largest sizes, fitted to the others.

    Args:
        sizes: growing, positive.
        scores: one a size.
        kind: as in `fit_scaling`.
        holdout: sizes to be told, at least 1.

    Raises:
        ValueError: as `fit_scaling`; a holdout below 1.

    Example:
        >>> round(extrapolate([1, 2, 3, 4], [1.0, 2.0, 3.0, 10.0], "linear"), 9)
        6.0
    """
    if holdout < 1:
        raise ValueError(f"holdout must be at least 1: got {holdout}")
    law = fit_scaling(sizes[:-holdout], scores[:-holdout], kind)
    return float(np.abs(law.predict(sizes[-holdout:]) - np.asarray(scores[-holdout:], dtype=np.float64)).mean())


def _power(n: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    return (n / n[0]) ** -exponent


def _solve(column: NDArray[np.float64], s: NDArray[np.float64]) -> tuple[float, float]:
    """Intercept and slope of the least-squares line."""
    centred = column - column.mean()
    slope = float(centred @ s / (centred @ centred))
    return float(s.mean() - slope * column.mean()), slope


def _residual(column: NDArray[np.float64], s: NDArray[np.float64]) -> float:
    a, b = _solve(column, s)
    return float(((s - a - b * column) ** 2).sum())


def _check_sizes(sizes: Sequence[float], least: int = 4) -> None:
    if len(sizes) < least or sizes[0] <= 0 or any(b <= a for a, b in pairwise(sizes)):
        raise ValueError(f"sizes must be {least} or more, positive and growing: got {list(sizes)}")
