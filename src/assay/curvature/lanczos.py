"""Lanczos: a symmetric matrix, seen from a start vector, as a small tridiagonal one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Matvec = Callable[[Tensor], Tensor]


class Tridiagonal(NamedTuple):
    """What k Lanczos steps found: T = V A V^T with orthonormal rows of V.

    Args:
        diagonal: of T, in float64.
        off_diagonal: of T, in float64.
        basis: V.
        residual: norm of what the last step could not express, 0 when the rows span an invariant subspace.
    """

    diagonal: Float[Tensor, " k"]
    off_diagonal: Float[Tensor, " j"]
    basis: Float[Tensor, "k size"]
    residual: float

    def ritz(self) -> tuple[Float[Tensor, " k"], Float[Tensor, "k k"]]:
        """Eigenvalues of T, ascending, and its eigenvectors in columns; `basis.T @ vectors` are those of A."""
        matrix = torch.diag(self.diagonal)
        if len(self.off_diagonal):
            matrix += torch.diag(self.off_diagonal, 1) + torch.diag(self.off_diagonal, -1)
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors


def lanczos(
    matvec: Matvec,
    size: int,
    steps: int,
    *,
    generator: torch.Generator | None = None,
    start: Float[Tensor, " size"] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tridiagonal:
    r"""Lanczos' recurrence with full reorthogonalisation.

    $\beta_{j+1} v_{j+1} = A v_j - \alpha_j v_j - \beta_j v_{j-1}$, every new vector made orthogonal, twice, to all
    before it: without that, rounding brings converged eigenvalues back as copies (Paige, 1972).

    Args:
        matvec: v (size) -> A v, symmetric.
        size: rows of A.
        steps: products, at least 1; fewer are made when the vectors already span all that the start vector reaches.
        generator: where the start vector (Gaussian) comes from; drawn on its own device.
        start: a start vector instead; of any length but zero.
        dtype: of the vectors, when there is no `start`.
        device: of the vectors, when there is no `start`.

    Raises:
        ValueError: for counts below 1, a start of the wrong size or of length zero, products that are not finite.

    Example:
        >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64))
        >>> found = lanczos(matrix.mv, 3, steps=3, start=torch.ones(3, dtype=torch.float64))
        >>> [round(value, 9) for value in found.ritz()[0].tolist()]
        [1.0, 2.0, 9.0]
    """
    if size < 1 or steps < 1:
        raise ValueError(f"size and steps must be at least 1: got {size} and {steps}")
    vector = start_vector(size, generator, dtype, device) if start is None else start
    if vector.shape != (size,):
        raise ValueError(f"start must be ({size},): got {tuple(vector.shape)}")
    length = torch.linalg.vector_norm(vector)
    if not (length.isfinite() and length > 0):
        raise ValueError("start must be finite and not zero")
    steps = min(steps, size)
    basis = torch.empty(steps, size, dtype=vector.dtype, device=vector.device)
    basis[0] = vector / length
    diagonal = torch.empty(steps, dtype=torch.float64)
    off_diagonal = torch.empty(steps, dtype=torch.float64)
    for j in range(steps):
        rest, coefficients, norm = expand(matvec, basis[: j + 1])
        diagonal[j], off_diagonal[j] = coefficients[j], norm
        scale = diagonal[: j + 1].abs().max() + off_diagonal[: j + 1].max()
        if norm <= exhausted(basis.dtype) * float(scale):
            return Tridiagonal(diagonal[: j + 1], off_diagonal[:j], basis[: j + 1], 0.0)
        if j + 1 < steps:
            basis[j + 1] = rest / norm
    return Tridiagonal(diagonal, off_diagonal[:-1], basis, float(off_diagonal[-1]))


def expand(matvec: Matvec, basis: Float[Tensor, "k size"]) -> tuple[Tensor, Tensor, float]:
    """One product with the last row of an orthonormal basis: (what lies outside, coefficients inside, norm outside)."""
    product = matvec(basis[-1])
    if product.shape != basis[-1].shape:
        raise ValueError(f"matvec must give ({basis.shape[1]},): got {tuple(product.shape)}")
    inside = basis @ product
    rest = product - inside @ basis
    again = basis @ rest
    rest -= again @ basis
    norm = float(torch.linalg.vector_norm(rest))
    coefficients = (inside + again).double().cpu()
    if not (norm < float("inf") and coefficients.isfinite().all()):  # also false for NaN
        raise ValueError("matvec must give finite products: got NaN or infinity")
    return rest, coefficients, norm


def start_vector(
    size: int, generator: torch.Generator | None, dtype: torch.dtype, device: torch.device | str
) -> Float[Tensor, " size"]:
    """A Gaussian vector, drawn where the generator lives."""
    where = device if generator is None else generator.device
    return torch.randn(size, generator=generator, dtype=dtype, device=where).to(device)


def exhausted(dtype: torch.dtype) -> float:
    """Below this times the matrix' size in norm, what is left over after a product is rounding."""
    return 10 * torch.finfo(dtype).eps
