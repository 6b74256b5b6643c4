"""The extreme eigenvalues of a symmetric matrix from as few products with it as they can be had for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from assay.curvature.lanczos import Matvec, exhausted, expand, start_vector

ORDERS = {"largest": lambda v: -v, "smallest": lambda v: v, "magnitude": lambda v: -v.abs()}


class Eigen(NamedTuple):
    """Eigenvalues and what they cost.

    Args:
        values: in the order asked for, in float64.
        vectors: unit eigenvectors in rows.
        residuals: ||A u - value u|| of each pair.
        errors: an estimate of each value's error: the residual squared over the distance to the next Ritz value, or the
            residual itself if that is smaller.
        products: products with the matrix.
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "k size"]
    residuals: Float[Tensor, " k"]
    errors: Float[Tensor, " k"]
    products: int


def top_eigenvalues(
    matvec: Matvec,
    size: int,
    count: int = 1,
    *,
    which: str = "largest",
    tol: float = 1e-3,
    max_products: int = 500,
    max_basis: int | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Eigen:
    r"""Extreme eigenvalues by thick-restart Lanczos with full reorthogonalisation.

    A Ritz value $\theta$ with residual $r$ lies within $r$ of an eigenvalue, and within $r^2/\delta$ if the rest of the
    spectrum keeps a distance $\delta$ (Kato and Temple). The search ends when that second, much smaller error, with
    $\delta$ taken to the next Ritz value, is below `tol` times each value asked for: eigenvalues to three digits need
    residuals of two at most. There is no restart unless `max_basis` forces one: no subspace of so many products holds
    better values.

    Args:
        matvec: v (size) -> A v, symmetric: `Hessian(...).matvec`, `matrix.mv`.
        size: rows of A.
        count: eigenvalues asked for, from 1 to `size`.
        which: "largest" or "smallest" (signed), or "magnitude".
        tol: error allowed, relative to each value; rounding of `dtype` sets a floor.
        max_products: products at most.
        max_basis: vectors kept at most (memory: `max_basis * size`), at least `count + 2`; None keeps all.
        generator: where the start vector comes from.
        dtype: of the vectors.
        device: of the vectors.

    An eigenvalue that occurs more than once is found once, as by every method that starts from one vector.

    Raises:
        ValueError: for arguments out of range, products that are not finite.
        RuntimeError: when `max_products` were not enough; the message says how far it came.

    Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems" (2000).

    Example:
        >>> matrix = torch.diag(torch.arange(100.0, dtype=torch.float64) ** 3)
        >>> found = top_eigenvalues(matrix.mv, 100, 2, tol=1e-9, dtype=torch.float64)
        >>> [round(value) for value in found.values.tolist()], found.products < 60
        ([970299, 941192], True)
    """
    _check(size, count, which, tol, max_products, max_basis)
    most = min(size, max_products if max_basis is None else max_basis)
    basis = torch.empty(most + 1, size, dtype=dtype, device=device)
    matrix = torch.zeros(most, most, dtype=torch.float64)  # A as the basis sees it
    _fresh(basis, 0, generator)
    filled, products, norm = 0, 0, 0.0
    while True:
        rest, coefficients, norm = expand(matvec, basis[: filled + 1])
        products += 1
        matrix[filled, : filled + 1] = matrix[: filled + 1, filled] = coefficients
        filled += 1
        values, vectors = torch.linalg.eigh(matrix[:filled, :filled])
        order = ORDERS[which](values).argsort(stable=True)
        values, vectors = values[order], vectors[:, order]
        if norm <= exhausted(dtype) * float(values.abs().max()):
            norm = 0.0  # an invariant subspace; what it does not hold is looked for from a new start
        residuals = norm * vectors[-1].abs()
        errors = _errors(values, residuals)
        enough = filled >= min(count + 1, size)
        allowed = torch.maximum(tol * values.abs(), 4 * torch.finfo(dtype).eps * values.abs().max())
        if enough and bool((errors <= allowed)[:count].all()) and (norm > 0 or filled >= min(size, count + 1)):
            found = vectors[:, :count].to(basis).T @ basis[:filled]
            return Eigen(values[:count], found, residuals[:count], errors[:count], products)
        if products >= max_products:
            raise RuntimeError(
                f"max_products={max_products} were not enough for tol={tol}: relative errors are still "
                f"{[float(f'{e:.1e}') for e in (errors / values.abs())[:count]]}"
            )
        if filled == most:
            kept = min(count + (most - count) // 2, most - 1)
            basis[:kept] = vectors[:, :kept].to(basis).T @ basis[:filled]
            matrix.zero_()
            matrix.diagonal()[:kept] = values[:kept]
            filled = kept
        if norm > 0:
            basis[filled] = rest / norm
        else:
            _fresh(basis, filled, generator)


def _errors(values: Tensor, residuals: Tensor) -> Tensor:
    """min(r, r^2 / distance to the nearest other Ritz value)."""
    if len(values) == 1:
        return residuals
    apart = (values[:, None] - values[None, :]).abs()
    apart.fill_diagonal_(float("inf"))
    distance = (apart.min(dim=1).values - residuals).clamp(min=0)
    return torch.where(distance > 0, residuals.square() / distance, residuals).minimum(residuals)


def _fresh(basis: Tensor, row: int, generator: torch.Generator | None) -> None:
    """Put a random unit vector, orthogonal to the rows before it, into a row of the basis."""
    vector = start_vector(basis.shape[1], generator, basis.dtype, basis.device)
    for _ in range(2):
        vector -= (basis[:row] @ vector) @ basis[:row]
    basis[row] = vector / torch.linalg.vector_norm(vector)


def _check(size: int, count: int, which: str, tol: float, max_products: int, max_basis: int | None) -> None:
    if not 1 <= count <= size:
        raise ValueError(f"count must lie in 1..{size}: got {count}")
    if which not in ORDERS:
        raise ValueError(f"which must be one of {', '.join(map(repr, ORDERS))}: got {which!r}")
    if not tol > 0:
        raise ValueError(f"tol must be positive: got {tol}")
    if max_products < 1:
        raise ValueError(f"max_products must be at least 1: got {max_products}")
    if max_basis is not None and max_basis < min(count + 2, size):
        raise ValueError(f"max_basis must be at least count + 2 = {count + 2}: got {max_basis}")
