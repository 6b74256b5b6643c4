r"""Matrices that stand in for a Hessian in a `GradientNormalizedNewton` step.

Each function returns `hess`, a function of a point x (n,) that gives a symmetric matrix (n, n), or a `RankOne` where
the matrix is an outer product and need not be formed.

- `weighted_gauss_newton`: of a log-sum-exp, without the outer product of its gradient.
- `inexact_hessian`, `fisher_term`: of $\tfrac1p \|u(x)\|^p$, without the second derivatives of $u$; without more.
- `zero`: no curvature at all; a Newton step becomes a gradient step.

They are those of section 4 and of the experiments of Semenov, Jaggi, Doikov (2025, arXiv:2506.13710).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Map = Callable[[Tensor], Tensor]


class RankOne(NamedTuple):
    """The matrix `scale` $v v^\\top$.

    Args:
        scale: 0 or more.
        vector: $v$ (n,).
    """

    scale: float | Tensor
    vector: Tensor

    def dense(self) -> Tensor:
        """The matrix itself, (n, n)."""
        return self.scale * torch.outer(self.vector, self.vector)


def weighted_gauss_newton(A: Float[Tensor, "m n"], b: Float[Tensor, " m"], mu: float = 1.0) -> Map:
    r"""$H(x) = \tfrac1\mu A^\top \mathrm{diag}(\pi) A$ with $\pi = \mathrm{softmax}((A x - b) / \mu)$.

    The Hessian of $f = \mu \log \sum_i \exp((a_i^\top x - b_i) / \mu)$ is $H - \tfrac1\mu \nabla f \nabla f^\top$:
    what is left out vanishes with the square of the gradient.

    Args:
        A: rows $a_i$.
        b: offsets.
        mu: smoothing, above 0.

    Raises:
        ValueError: for a `mu` that is not above 0.

    Example:
        >>> A = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> weighted_gauss_newton(A, torch.zeros(2), mu=0.5)(torch.zeros(2))
        tensor([[1., 0.],
                [0., 4.]])
    """
    if not mu > 0:
        raise ValueError(f"mu must be above 0: got {mu}")

    def hess(x: Tensor) -> Tensor:
        weights = torch.softmax((A @ x - b) / mu, dim=0)
        return A.T @ (weights[:, None] * A) / mu

    return hess


def inexact_hessian(u: Map, jacobian: Map, p: float = 2.0) -> Map:
    r"""$H(x) = \|u\|^{p-2} J^\top J + (p - 2) \|u\|^{p-4} (J^\top u)(J^\top u)^\top$, for $f = \tfrac1p \|u(x)\|^p$.

    With p = 2 it is the Gauss-Newton matrix. Where u = 0, the second term is 0.

    Args:
        u: x (n,) -> (m,).
        jacobian: x (n,) -> (m, n), the derivatives of `u`.
        p: 2 or more.

    Raises:
        ValueError: for p below 2.

    Example:
        >>> hess = inexact_hessian(lambda x: 3 * x, lambda x: 3 * torch.eye(1), p=4.0)   # f = 81 x^4 / 4
        >>> hess(torch.tensor([2.0]))                                                    # its Hessian, 3 * 81 * 2^2
        tensor([[972.]])
    """
    fisher = fisher_term(u, jacobian, p)

    def hess(x: Tensor) -> Tensor:
        jac = jacobian(x)
        return u(x).norm() ** (p - 2) * jac.T @ jac + fisher(x).dense()

    return hess


def fisher_term(u: Map, jacobian: Map, p: float) -> Callable[[Tensor], RankOne]:
    r"""$H(x) = (p - 2) \|u\|^{p-4} (J^\top u)(J^\top u)^\top$, for $f = \tfrac1p \|u(x)\|^p$.

    It is a multiple of the outer product of the gradient with itself; where u = 0, it is 0.

    Args:
        u: x (n,) -> (m,).
        jacobian: x (n,) -> (m, n), the derivatives of `u`.
        p: 2 or more; at 2 the term is 0.

    Raises:
        ValueError: for p below 2.

    Example:
        >>> hess = fisher_term(lambda x: 3 * x, lambda x: 3 * torch.eye(2), p=4.0)
        >>> hess(torch.tensor([1.0, 2.0])).dense()
        tensor([[162., 324.],
                [324., 648.]])
    """
    if not p >= 2:
        raise ValueError(f"p must be at least 2: got {p}")

    def hess(x: Tensor) -> RankOne:
        value = u(x)
        size = value.norm()
        scale = torch.where(size > 0, (p - 2) * size.clamp(min=torch.finfo(size.dtype).tiny) ** (p - 4), 0.0)
        return RankOne(scale, jacobian(x).T @ value)

    return hess


def zero() -> Callable[[Tensor], RankOne]:
    """$H(x) = 0$.

    Example:
        >>> zero()(torch.ones(2)).dense()
        tensor([[0., 0.],
                [0., 0.]])
    """
    return lambda x: RankOne(0.0, torch.zeros_like(x))
