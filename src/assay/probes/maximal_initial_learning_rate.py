"""The largest learning rate at which a freshly initialised network begins to learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MaximalLearningRate(NamedTuple):
    """What `maximal_learning_rate` found.

    Args:
        lr: the largest rate known to succeed.
        fails: the smallest rate above it known to fail; infinite where none did.
        tried: every rate tried, with the number of its runs that succeeded, in the order of the search.
        bounded: False where `high` itself succeeded, so that `lr` is a mere lower bound.
    """

    lr: float
    fails: float
    tried: tuple[tuple[float, int], ...]
    bounded: bool


def maximal_learning_rate(
    make_model: Callable[[int], nn.Module],
    train: Callable[[nn.Module, float], float],
    *,
    threshold: float,
    low: float = 1e-4,
    high: float = 1e6,
    tolerance: float = 0.05,
    trials: int = 1,
) -> MaximalLearningRate:
    r"""$\eta^* = \sup\{\eta : \text{training at the rate } \eta \text{ reaches the threshold}\}$, by bisection.

    The rate is doubled from `low` until it fails, then the bracket is halved in the logarithm until its ends are within
    `tolerance` of each other. A rate succeeds when more than half of its runs do. That rates below a good one are good
    is taken for granted; the runs are noisy, and near the end of the bracket it need not be so.

    Args:
        make_model: number of the run, from 0 -> a new network. Let the number seed the initialisation, so that all
            rates start from the same networks and the bracket is about the rate.
        train: (network, rate) -> the best accuracy reached at that constant rate within the budget, in [0, 1]; NaN, for
            a run that diverged, counts as a failure. It should see the same data in the same order each time, and may
            stop once it is there.
        threshold: accuracy that counts as having begun to learn, in (0, 1), well above chance.
        low: where the search starts, positive; must succeed.
        high: where doubling ends, above `low`.
        tolerance: relative, positive.
        trials: runs of each rate, at least 1.

    Iyer, Hanin and Rolnick, 2022 (arXiv:2212.07295), section 3.

    Raises:
        ValueError: for arguments out of range, a `low` that fails already.

    Example:
        >>> bowl = lambda run: nn.Linear(1, 1)
        >>> found = maximal_learning_rate(bowl, lambda model, lr: float(lr <= 0.37), threshold=0.5)
        >>> 0.37 / 1.05 <= found.lr <= 0.37 < found.fails, len(found.tried)
        (True, 17)
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie in (0, 1): got {threshold}")
    if not 0 < low < math.inf:
        raise ValueError(f"low must be positive and finite: got {low}")
    if not low < high < math.inf:
        raise ValueError(f"high must be finite and above low = {low}: got {high}")
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be positive and finite: got {tolerance}")
    if trials < 1:
        raise ValueError(f"trials must be at least 1: got {trials}")
    tried: list[tuple[float, int]] = []

    def succeeds(rate: float) -> bool:
        wins = sum(bool(train(make_model(run), rate) >= threshold) for run in range(trials))  # NaN is not
        tried.append((rate, wins))
        return 2 * wins > trials

    if not succeeds(low):
        raise ValueError(f"low must be a rate that succeeds: {low} does not reach the threshold {threshold}")
    good, bad = low, math.inf
    while math.isinf(bad):
        if good >= high:
            return MaximalLearningRate(good, math.inf, tuple(tried), False)
        rate = min(2 * good, high)
        if succeeds(rate):
            good = rate
        else:
            bad = rate
    while bad > good * (1 + tolerance):
        rate = math.sqrt(good * bad)
        if succeeds(rate):
            good = rate
        else:
            bad = rate
    return MaximalLearningRate(good, bad, tuple(tried), True)


def slow_input_layer(model: nn.Module, lr: float, *, ratio: float = 0.1) -> list[dict[str, Any]]:
    """Parameter groups in which the first layer learns at a fraction of the rate: what any optimizer takes.

    Args:
        model: whose first module with weights of its own is the input layer.
        lr: of the other layers.
        ratio: of the input layer's rate to it, positive.

    Iyer, Hanin and Rolnick, 2022: condition (ii) of the abstract.

    Raises:
        ValueError: for a ratio or rate that is not positive, a model with fewer than two layers.

    Example:
        >>> groups = slow_input_layer(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), 0.5)
        >>> [(len(group["params"]), group["lr"]) for group in groups]
        [(2, 0.05), (2, 0.5)]
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive: got {lr}")
    if not ratio > 0:
        raise ValueError(f"ratio must be positive: got {ratio}")
    layers = [own for m in model.modules() if (own := list(m.parameters(recurse=False)))]
    if len(layers) < 2:
        raise ValueError(f"model must have at least two layers with weights: got {len(layers)}")
    return [
        {"params": layers[0], "lr": ratio * lr},
        {"params": [p for layer in layers[1:] for p in layer], "lr": lr},
    ]


class PowerLaw(NamedTuple):
    r"""A fit $y = e^c \prod_k x_k^{p_k}$.

    Args:
        exponents: p, by predictor.
        intercept: c.
        r2: share of the variance of $\log y$ that is explained.
        loo_rmse: root mean square error of $\log y$ at each point, by the fit to all others.
    """

    exponents: dict[str, float]
    intercept: float
    r2: float
    loo_rmse: float


def power_law_fit(y: Float[Tensor, " n"], predictors: dict[str, Tensor]) -> PowerLaw:
    r"""Least squares of $\log y$ on the logarithms of the predictors.

    The error of leaving one out is $e_i / (1 - h_i)$, with the residual e and the leverage h of the fit to all.

    Args:
        y: positive, more of them than there are predictors and one.
        predictors: name -> positive numbers.

    Raises:
        ValueError: for no predictors, numbers that are not positive and finite, too few points, predictors of which one
            is a power of others.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 4.0, 8.0])
        >>> found = power_law_fit(3 * x**-0.5, {"x": x})
        >>> round(found.exponents["x"], 6), round(found.r2, 6)
        (-0.5, 1.0)
    """
    if not predictors:
        raise ValueError("predictors must name at least one: got none")
    for name, values in {"y": y, **predictors}.items():
        if len(values) != len(y) or not (values.isfinite() & (values > 0)).all():
            raise ValueError(f"{name} must be {len(y)} positive and finite numbers")
    if len(y) < len(predictors) + 2:
        raise ValueError(f"y must have at least {len(predictors) + 2} points: got {len(y)}")
    logs = y.double().log()
    design = torch.stack([torch.ones_like(logs), *(x.double().log() for x in predictors.values())], dim=1)
    if int(torch.linalg.matrix_rank(design, rtol=1e-9)) < design.shape[1]:
        raise ValueError("predictors must vary, and none be a power of others")
    inverse = torch.linalg.pinv(design)
    found = inverse @ logs
    errors = logs - design @ found
    left_out = errors / (1 - (design @ inverse).diagonal()).clamp(min=1e-12)
    total = (logs - logs.mean()).square().sum()
    return PowerLaw(
        dict(zip(predictors, found[1:].tolist(), strict=True)),
        found[0].item(),
        1 - (errors.square().sum() / total).item() if total > 0 else 1.0,
        left_out.square().mean().sqrt().item(),
    )
