"""Fréchet cumulative covariance, and the loss that learns features by it (Yuan, Wang, Yu, 2025)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .checks import check_finite, readable


class BallOrder(NamedTuple):
    """All that `frechet_cumulative_covariance` needs to know of the distances; made by `ball_order`, once.

    Args:
        order: (n, n); in row j the points from the nearest to j to the farthest.
        weight: (n, n); how many radii $d_{kj}$ end just behind that place: ties count at the last of them.
    """

    order: Int[Tensor, "n n"]
    weight: Float[Tensor, "n n"]


def ball_order(distances: Float[Tensor, "n n"]) -> BallOrder:
    """Sort the points about every centre, for many evaluations with the same distances.

    Args:
        distances: $d_{ij}$, symmetric with a zero diagonal; n at least 4.

    Raises:
        ValueError: for fewer than 4 points; distances that are not square, symmetric, finite and 0 or more, with zeros
            on the diagonal (on a CPU; elsewhere values are not looked at).

    Example:
        >>> y = torch.tensor([0.0, 1.0, 1.0, 5.0])
        >>> nearest = ball_order((y[:, None] - y).abs())
        >>> nearest.order[3].tolist(), nearest.weight[3].tolist()  # about 5: itself, two at 4, one at 5
        ([3, 1, 2, 0], [1.0, 0.0, 2.0, 1.0])
    """
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or len(distances) < 4:
        raise ValueError(f"distances must be (n, n), n at least 4: got {tuple(distances.shape)}")
    check_finite(distances=distances)
    if readable(distances):
        _check_metric(distances)
    ranked, order = distances.detach().contiguous().sort(dim=1, stable=True)  # rows are columns: it is symmetric
    place = torch.arange(len(ranked), device=ranked.device, dtype=torch.int32).expand_as(ranked)
    last = torch.ones_like(ranked, dtype=torch.bool)
    last[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    end = torch.where(last, place, -1).cummax(1).values
    before = torch.full_like(end, -1)
    before[:, 1:] = end[:, :-1]
    return BallOrder(order, torch.where(last, place - before, 0).to(ranked.dtype))


def frechet_cumulative_covariance(
    features: Float[Tensor, "n d"], distances: Float[Tensor, "n n"] | BallOrder
) -> Float[Tensor, ""]:
    r"""$n^{-2} \sum_{jk} \| n^{-1} \sum_i (u_i - \bar u) 1\{d_{ij} \le d_{kj}\} \|^2$, in time $n^2 (\log n + d)$.

    The squared covariance of the features with lying in a ball, over the balls about every response that reach as far
    as every other. In expectation it is 0 only if E[U | Y] is constant. It depends on the distances through their order
    about each centre alone, so that no response, however far away, counts more than another. Turning the features
    leaves it as it is, scaling them by c multiplies it by $c^2$; no gradient flows to the distances.

    Args:
        features: $u_i$, one row a sample, at most n / 2 of them.
        distances: $d_{ij}$ between responses, as `metric_distances` gives them; or their `ball_order`, which saves the
            sorting.

    Paper: definition of FCCov in arXiv:2502.15374; this is its V-statistic. The estimator and its cost were
    reconstructed from the definition and the stated $O(n^2 \log n)$; no code of the authors was found.

    Raises:
        ValueError: for more features than n / 2, features that are not finite, and whatever `ball_order` refuses.

    Example:
        >>> y = torch.tensor([0.0, 0.0, 1.0, 1.0])
        >>> u = torch.tensor([[1.0], [2.0], [4.0], [9.0]])
        >>> value = frechet_cumulative_covariance(u, (y[:, None] - y).abs())
        >>> value.item(), (1 / 4 + 1 / 4) * 1 / 4 * 1 / 4 * (6.5 - 1.5) ** 2  # two groups: shares and means
        (0.78125, 0.78125)
    """
    order, weight = distances if isinstance(distances, BallOrder) else ball_order(distances)
    n = len(order)
    if features.ndim != 2 or len(features) != n:
        raise ValueError(f"features must be ({n}, d), a row for each response: got {tuple(features.shape)}")
    if 2 * features.shape[1] > n:
        raise ValueError(f"features must have at most n / 2 = {n // 2} columns: got {features.shape[1]}")
    check_finite(features=features)
    kind = torch.promote_types(features.dtype, torch.float32)
    centred = features.to(kind) - features.to(kind).mean(0)
    within = torch.stack([column[order].cumsum(1) for column in centred.unbind(1)])
    return (within.square().sum(0) * weight.to(kind)).sum() / n**4


class FCCovLoss(nn.Module):
    r"""$-\mathrm{FCCov}_n(U | Y) + \lambda \| \mathrm{Cov}_n(U) - I \|_F^2$: features that tell all of a response.

    Minimised over a network's features $U = f(X)$, of whole data sets or batches of some hundred. Without the penalty
    nothing bounds the features. What is learned is f up to an invertible map.

    Args:
        weight: $\lambda$, 0 or more.

    Paper: objective of FCCov-Net, arXiv:2502.15374. $\mathrm{Cov}_n$ divides by n here.

    Raises:
        ValueError: for a negative weight, and whatever `frechet_cumulative_covariance` refuses.

    Example:
        >>> y = torch.tensor([0.0, 0.0, 1.0, 1.0])
        >>> u = torch.tensor([[-1.0], [-1.0], [1.0], [1.0]])
        >>> loss = FCCovLoss(weight=3.0)
        >>> loss(u, (y[:, None] - y).abs()).item(), loss(2 * u, (y[:, None] - y).abs()).item()
        (-0.125, 26.5)
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight must be finite and not negative: got {weight}")
        self.weight = weight

    def forward(self, features: Float[Tensor, "n d"], distances: Float[Tensor, "n n"] | BallOrder) -> Float[Tensor, ""]:
        """The loss; `ball_order(distances)` in place of distances that stay the same saves their sorting."""
        dependence = frechet_cumulative_covariance(features, distances)
        with torch.autocast(features.device.type, enabled=False):
            u = features.to(dependence.dtype)
            centred = u - u.mean(0)
            covariance = centred.T @ centred / len(u)
            identity = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
            return self.weight * (covariance - identity).square().sum() - dependence

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


def _check_metric(distances: Tensor) -> None:
    if (distances < 0).any():
        raise ValueError(f"distances must be 0 or more: got {distances.min().item()}")
    if distances.diagonal().any():
        raise ValueError(f"distances must be 0 on the diagonal: got {distances.diagonal().abs().max().item()}")
    gap, largest = (distances - distances.T).abs().max().item(), distances.max().item()
    if gap > 1e-5 * largest:
        raise ValueError(f"distances must be symmetric: got two that differ by {gap}")
