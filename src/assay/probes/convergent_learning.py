"""How one network's units are made up of another's: by all of them, by few, by as few as needed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

USED = 1e-3
DEAD = 1e-6


class SparsePrediction(NamedTuple):
    """What `sparse_prediction` finds for p targets from q sources.

    Args:
        weights: of the standardized source units.
        r2: the share of a target's variance that is explained; at most 1, and below 0 where its mean would do better.
        used: how many weights are above 1e-3 in size.
    """

    weights: Float[Tensor, "p q"]
    r2: Float[Tensor, " p"]
    used: Int[Tensor, " p"]


def sparse_prediction(
    source: Float[Tensor, "..."],
    target: Float[Tensor, "..."],
    *,
    l1: float,
    ridge: float = 0.0,
    held_out: tuple[Tensor, Tensor] | None = None,
    max_iter: int = 2000,
    tol: float = 1e-9,
) -> SparsePrediction:
    r"""Each unit of a network as a sum of few units of another.

    $\min_w \tfrac{1}{2s} \|y - Z w\|^2 + \lambda_1 \|w\|_1 + \tfrac{\rho}{2} \|w\|^2$ with both sides standardized, by
    coordinate descent for all targets at once; without $\lambda_1$ in one solve.

    Args:
        source: (s, q), samples of the units of one network; see `unit_samples`.
        target: (s, p), of the other, for the same images and positions.
        l1: $\lambda_1$, at least 0. The unit best correlated comes in below $\lambda_1 = |r|$.
        ridge: $\rho$, at least 0.
        held_out: source and target of other images, on which `r2` is measured; it flatters large layers on the same.
        max_iter: sweeps over all source units at most.
        tol: the largest change of a weight in a sweep at which it stops.

    Li et al., 2015 (arXiv:1511.07543), section 4.

    Differs from the paper: solved by coordinate descent, not by stochastic gradients on a mapping layer.

    Raises:
        ValueError: for tables that do not fit, fewer samples than source units, values that are not finite, negative
            penalties.

    Example:
        >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> y = z @ torch.tensor([[4.0], [3.0]])        # of standard deviation 5: weights 0.8 and 0.6, less 0.7
        >>> found = sparse_prediction(z, y, l1=0.7)
        >>> found.weights.round(decimals=4), found.used, found.r2.round(decimals=4)     # r2 = 1 - 0.7^2 - 0.6^2
        (tensor([[0.1000, 0.0000]], dtype=torch.float64), tensor([1]), tensor([0.1500], dtype=torch.float64))
    """
    _check_tables(source, target)
    for name, value in (("l1", l1), ("ridge", ridge)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite: got {value}")
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1: got {max_iter}")
    z, y = _standardized(source, source), _standardized(target, target)
    gram, cross = z.T @ z / len(z), z.T @ y / len(z)
    if l1 == 0:
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.pinv(gram + ridge * eye, hermitian=True, rtol=1e-12) @ cross
        weights = torch.where((gram.diagonal() > 0)[:, None], weights, 0.0)
    else:
        weights = _lasso(gram, cross, l1, ridge, max_iter, tol)
    if held_out is not None:
        other, truth = held_out
        _check_tables(other, truth, least=2)
        if (other.shape[1], truth.shape[1]) != (source.shape[1], target.shape[1]):
            raise ValueError(
                f"held_out must have the units of source and target: got {tuple(other.shape)}, {tuple(truth.shape)}"
            )
        z, y = _standardized(other, source), _standardized(truth, target)
    spread = (y - y.mean(0)).square().sum(0)
    r2 = 1 - (y - z @ weights).square().sum(0) / torch.where(spread > 0, spread, 1.0)
    r2 = torch.where(spread > 0, r2, 0.0)
    return SparsePrediction(weights.T, r2, (weights.abs() > USED).sum(0))


class UnitsNeeded(NamedTuple):
    """What `units_needed` finds for p targets.

    Args:
        used: how many source units reach the share; `most + 1` where `most` do not.
        curve: r2 with 1, ..., `most` units.
        full: r2 with all.
    """

    used: Int[Tensor, " p"]
    curve: Float[Tensor, "p most"]
    full: Float[Tensor, " p"]


def units_needed(
    source: Float[Tensor, "..."], target: Float[Tensor, "..."], *, share: float = 0.9, most: int = 16
) -> UnitsNeeded:
    r"""How many source units, taken greedily, explain a share of what all of them explain of a target.

    Forward selection: each step takes the unit that raises $R^2$ most with those before it. All targets at once, on
    the table of correlations, from which the part along the chosen unit is taken off:
    $G \leftarrow G - g_k g_k^\top / G_{kk}$, $c \leftarrow c - g_k c_k / G_{kk}$, gain $c_j^2 / G_{jj}$.

    Args:
        source: (s, q), samples of the units of one network.
        target: (s, p), of the other.
        share: in (0, 1].
        most: units at most; no more than q are taken.

    A measure of how local a code is, after section 4 of Li et al., 2015 (arXiv:1511.07543).

    Raises:
        ValueError: for tables that do not fit, fewer samples than source units, values that are not finite, a share
            or number out of range.

    Example:
        >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> units_needed(z, z @ torch.tensor([[4.0, 9.0], [3.0, 1.0]]))     # 16/25 with one; 81/82 with one
        UnitsNeeded(used=tensor([2, 1]), curve=tensor([[0.6400, 1.0000],
            [0.9878, 1.0000]], dtype=torch.float64), full=tensor([1., 1.], dtype=torch.float64))
    """
    _check_tables(source, target)
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1]: got {share}")
    if most < 1:
        raise ValueError(f"most must be at least 1: got {most}")
    z, y = _standardized(source, source), _standardized(target, target)
    full = sparse_prediction(source, target, l1=0.0).r2
    size, count = y.shape[1], min(most, z.shape[1])
    gram = (z.T @ z / len(z)).expand(size, -1, -1).clone()
    cross = (y.T @ z / len(z)).clone()
    rows = torch.arange(size, device=z.device)
    curve, r2 = [], torch.zeros(size, dtype=z.dtype, device=z.device)
    for _ in range(count):
        left = gram.diagonal(dim1=1, dim2=2)
        # What is left of a unit that others span already is rounding.
        gain = torch.where(left > 1e-9, cross.square() / left.clamp_min(1e-9), 0.0)
        best = gain.max(1)
        r2 = r2 + best.values
        curve.append(r2)
        column, pivot = gram[rows, :, best.indices], gram[rows, best.indices, best.indices].clamp_min(1e-9)
        cross = cross - column * (cross[rows, best.indices] / pivot)[:, None]
        gram = gram - column[:, :, None] * (column / pivot[:, None])[:, None]
    table = torch.stack(curve, 1)
    reached = table >= share * full[:, None] - 1e-9
    used = torch.where(reached.any(1), reached.to(torch.int8).argmax(1) + 1, most + 1)
    return UnitsNeeded(used, table, full)


def rotated_units(samples: Float[Tensor, "..."], *, generator: torch.Generator | None = None) -> Float[Tensor, "s p"]:
    """Standardized units turned by a random rotation: they span what they spanned, in another basis.

    What a linear prediction from all units explains stays as it is; what single units match falls if the network's own
    basis is a special one.

    Args:
        samples: (s, p); units that do not vary become 0 before they are mixed.
        generator: where the rotation comes from (uniform over all of them, reflections too).

    A control for section 3 of Li et al., 2015 (arXiv:1511.07543).

    Raises:
        ValueError: for what is no table (s, p) of two samples or more, or not finite.

    Example:
        >>> samples = torch.tensor([[1.0, 5.0], [-1.0, 5.0], [1.0, -5.0], [-1.0, -5.0]])
        >>> turned = rotated_units(samples, generator=torch.Generator().manual_seed(0))
        >>> bool(torch.allclose(turned.T @ turned / 4, torch.eye(2, dtype=torch.float64)))
        True
    """
    _check_tables(samples, samples, least=2)
    size = samples.shape[1]
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return _standardized(samples, samples) @ (q * r.diagonal().sign()).to(samples.device)


def _lasso(gram: Tensor, cross: Tensor, l1: float, ridge: float, max_iter: int, tol: float) -> Tensor:
    """Coordinate descent: one source unit after another, for all targets side by side."""
    weights = torch.zeros_like(cross)
    alive = (gram.diagonal() > 0).nonzero()[:, 0].tolist()
    scale = gram.diagonal() + ridge
    for _ in range(max_iter):
        change = torch.zeros((), dtype=gram.dtype, device=gram.device)
        for j in alive:
            pull = cross[j] - gram[j] @ weights + gram[j, j] * weights[j]
            new = pull.sign() * (pull.abs() - l1).clamp_min(0) / scale[j]
            change = torch.maximum(change, (new - weights[j]).abs().max())
            weights[j] = new
        if change <= tol:
            break
    return weights


def _standardized(values: Tensor, by: Tensor) -> Tensor:
    """In float64, with the means and standard deviations of `by`; 0 where those are too small."""
    by = by.double()
    mean, deviation = by.mean(0), by.std(0, correction=0)
    alive = deviation > torch.maximum(DEAD * deviation.max(), 1e-12 * mean.abs())
    return torch.where(alive, (values.double() - mean) / torch.where(alive, deviation, 1.0), 0.0)


def _check_tables(source: Tensor, target: Tensor, *, least: int | None = None) -> None:
    if source.ndim != 2 or target.ndim != 2 or len(source) != len(target) or 0 in (*source.shape, *target.shape):
        raise ValueError(
            f"source and target must be (s, units) with the same s: got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    needed = source.shape[1] if least is None else least
    if len(source) < needed:
        raise ValueError(f"source must have at least {needed} samples: got {len(source)}")
    if not (source.isfinite().all() and target.isfinite().all()):
        raise ValueError("source and target must be finite: got NaN or infinity")
