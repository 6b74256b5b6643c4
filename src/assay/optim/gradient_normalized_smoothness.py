"""Gradient-normalized smoothness and the Newton method that follows it (Semenov, Jaggi, Doikov, 2025)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from assay.optim.hessian_approximations import RankOne

Value = Callable[[Tensor], float | Tensor]
Map = Callable[[Tensor], Tensor]
Curvature = Callable[[Tensor], Tensor | RankOne]


@dataclass(frozen=True)
class NewtonResult:
    """Where a minimization ended, and its way there.

    Args:
        x: the last point (n,).
        f: the value there.
        iterations: steps taken.
        solves: linear systems solved, rejected trials counted.
        status: `"converged"`, `"budget"` (all iterations used) or `"stalled"` (no step was acceptable: `x` is
            stationary as far as floating point can tell, or the Hessian approximation does not fit the function).
        history: `"f"`, `"gradient_norm"`, `"gamma"` and `"solves"` at each iterate, the first and the last included;
            each (iterations + 1,) float64.
    """

    x: Tensor
    f: float
    iterations: int
    solves: int
    status: str
    history: dict[str, Tensor]


class GradientNormalizedNewton:
    r"""Newton's method regularized by the norm of the gradient over a trust radius that it finds itself.

    $$x^+ = x - (H(x) + \lambda B)^{-1} \nabla f(x), \qquad \lambda = \|\nabla f(x)\|_* / \gamma$$

    A step is accepted when $f(x) - f(x^+) \ge \|\nabla f(x^+)\|_*^2 / (8 \lambda)$, and then $\gamma$ is doubled for
    the next one; otherwise $\gamma$ is halved and the step is tried again. Norms are $\|h\|^2 = h^\top B h$ and
    $\|g\|_*^2 = g^\top B^{-1} g$. Where $H \succeq 0$ no step is longer than $\gamma$.

    Args:
        gamma0: $\gamma_0$, the first radius, above 0.
        gamma_min: what an accepted radius is raised to at least, 0 or more.
        metric: $B$ (n, n), symmetric positive definite; None for the identity.
        adaptive: False keeps $\gamma = \gamma_0$ and takes every step.
        max_search: halvings in one iteration, at least 1.

    The method is Algorithm 1 of arXiv:2506.13710, with the search of github.com/epfml/grad-norm-smooth.

    Differs from the paper: $\lambda$ is not damped by the $10^{-8}$ which the authors' code adds to $\gamma$. Where
    $H + \lambda B$ is not positive definite $\gamma$ is halved (the code ends its search there); where no halving helps
    the run ends as `"stalled"` (the code takes the last step it tried). The acceptance test forgives a few roundings of
    $f$, without which no step near the minimum would pass.

    Raises:
        ValueError: for a `gamma0` that is not above 0, a negative `gamma_min`, a `max_search` below 1, a metric that is
            not symmetric positive definite.

    Example:
        The exact Newton step on a quadratic, shortened to about the radius 1 at first, then not:

        >>> curvature = torch.tensor([1.0, 100.0], dtype=torch.float64)
        >>> found = GradientNormalizedNewton().minimize(
        ...     lambda x: 0.5 * (curvature * x * x).sum(),
        ...     lambda x: curvature * x,
        ...     lambda x: curvature.diag(),
        ...     torch.tensor([3.0, 0.0], dtype=torch.float64),
        ... )
        >>> found.status, found.iterations, found.solves
        ('converged', 6, 6)
        >>> found.history["gamma"][:4].tolist()
        [1.0, 2.0, 4.0, 8.0]
    """

    def __init__(
        self,
        *,
        gamma0: float = 1.0,
        gamma_min: float = 1e-9,
        metric: Float[Tensor, "n n"] | None = None,
        adaptive: bool = True,
        max_search: int = 40,
    ) -> None:
        if not 0 < gamma0 < math.inf:
            raise ValueError(f"gamma0 must be above 0 and finite: got {gamma0}")
        if not gamma_min >= 0:
            raise ValueError(f"gamma_min must not be negative: got {gamma_min}")
        if max_search < 1:
            raise ValueError(f"max_search must be at least 1: got {max_search}")
        self.gamma0, self.gamma_min, self.adaptive, self.max_search = gamma0, gamma_min, adaptive, max_search
        self.metric = _Metric(metric)

    def minimize(
        self,
        f: Value,
        grad: Map,
        hess: Curvature,
        x0: Float[Tensor, " n"],
        *,
        max_iter: int = 1000,
        tol: float = 1e-8,
        f_star: float | None = None,
    ) -> NewtonResult:
        r"""Minimize a function of n variables.

        Args:
            f: x (n,) -> the value.
            grad: x (n,) -> the gradient (n,); `torch.func.grad(f)` will do.
            hess: x (n,) -> the Hessian or what stands for it: a symmetric matrix (n, n), or a `RankOne`, for which
                the system is solved by Sherman and Morrison's formula. See `hessian_approximations`.
            x0: where to start. Its precision is that of the run; float64 is meant.
            max_iter: steps, at least 0.
            tol: stop when $f - f^\star$ is below it or, without `f_star`, when $\|\nabla f\|_*$ is.
            f_star: the least value, where it is known.

        Raises:
            ValueError: for an `x0` at which the value or the gradient is not finite, shapes that do not fit, a negative
                `max_iter` or `tol`.
            TypeError: for an `x0` that is not of real numbers.

        Example:
            >>> import torch.func
            >>> f = lambda x: x.pow(4).sum()
            >>> found = GradientNormalizedNewton().minimize(
            ...     f, torch.func.grad(f), torch.func.hessian(f), torch.ones(2, dtype=torch.float64), f_star=0.0
            ... )
            >>> found.status, found.f < 1e-8
            ('converged', True)
        """
        _check_start(x0, max_iter, tol)
        if self.metric.size not in (None, len(x0)):
            raise ValueError(f"x0 must have as many entries as metric has rows, {self.metric.size}: got {len(x0)}")
        x, value, gradient = x0.detach().clone(), float(f(x0)), grad(x0)
        if gradient.shape != x.shape:
            raise ValueError(f"grad must return {tuple(x.shape)}, the shape of x0: got {tuple(gradient.shape)}")
        if not (math.isfinite(value) and gradient.isfinite().all()):
            raise ValueError("x0 must be a point at which f and its gradient are finite: got one at which they are not")
        size, gamma, solves, status = self.metric.dual_norm(gradient), self.gamma0, 0, "budget"
        rows: list[tuple[float, ...]] = []
        for k in range(max_iter + 1):
            rows.append((value, size, gamma, solves))
            if (size if f_star is None else value - f_star) < tol or size == 0:
                status = "converged"
                break
            if k == max_iter:
                break
            curvature = hess(x)
            _check_curvature(curvature, len(x))
            for _ in range(self.max_search + 1):
                lam = size / gamma
                solves += 1
                move = self.metric.solve(curvature, lam, gradient)
                if move is not None:
                    new = x - move
                    new_value, new_gradient = float(f(new)), grad(new)
                    new_size = self.metric.dual_norm(new_gradient)
                    slack = 8 * torch.finfo(x.dtype).eps * abs(value)
                    fine = math.isfinite(new_value) and math.isfinite(new_size)
                    if fine and (not self.adaptive or value - new_value + slack >= new_size**2 / (8 * lam)):
                        break
                if not self.adaptive:
                    status = "stalled"
                    break
                gamma /= 2
            else:
                status = "stalled"
            if status == "stalled":
                break
            x, value, gradient, size = new, new_value, new_gradient, new_size
            if self.adaptive:
                gamma = max(2 * gamma, self.gamma_min)
        columns = torch.tensor(rows, dtype=torch.float64).T
        names = ("f", "gradient_norm", "gamma", "solves")
        return NewtonResult(x, value, len(rows) - 1, solves, status, dict(zip(names, columns, strict=True)))


def gradient_normalized_smoothness(
    grad: Map,
    hess: Curvature,
    x: Float[Tensor, " n"],
    *,
    directions: int = 64,
    radii: int = 8,
    largest: float = 1e8,
    metric: Float[Tensor, "n n"] | None = None,
    generator: torch.Generator | None = None,
) -> float:
    r"""The largest radius on which the linearized gradient is good, relative to the gradient itself.

    $$\gamma(x) = \max\Bigl\{\gamma : \|\nabla f(x + h) - \nabla f(x) - H(x) h\|_* \le
    \tfrac{\|\nabla f(x)\|_*}{\gamma} \|h\| \text{ for all } \|h\| \le \gamma \Bigr\}$$

    Directions are drawn, so this is an upper estimate: the inequality is tried along both signs of the gradient and of
    every direction, at `radii` even distances up to $\gamma$; bisection finds $\gamma$ to six digits.

    Args:
        grad: x (n,) -> the gradient (n,).
        hess: x (n,) -> a symmetric matrix (n, n) or a `RankOne`.
        x: the point.
        directions: random directions, uniform on the metric's sphere, 0 or more.
        radii: distances at which each is tried, at least 1.
        largest: a $\gamma$ beyond it is returned as infinity.
        metric: $B$ (n, n), symmetric positive definite; None for the identity.
        generator: where directions come from; None is torch's global generator.

    The definition is that of arXiv:2506.13710, section 2. With $H$ the Hessian and $M$ its Lipschitz constant
    $\gamma \ge (2 \|\nabla f\|_* / M)^{1/2}$; with $H = 0$ and $L$ that of the gradient,
    $\gamma \ge \|\nabla f\|_* / L$.

    Raises:
        ValueError: for negative `directions`, `radii` below 1, a `largest` that is not above 0, a metric that is not
            symmetric positive definite, a gradient that is not finite.

    Returns:
        gamma; 0 where the gradient is 0.

    Example:
        f = x^4 at 1: the inequality reads $\gamma^2 (3 + \gamma) \le 1$.

        >>> one = torch.ones(1, dtype=torch.float64)
        >>> gamma = gradient_normalized_smoothness(lambda x: 4 * x**3, lambda x: (12 * x**2).diag(), one)
        >>> round(gamma, 5), round(gamma**2 * (3 + gamma), 5)
        (0.53209, 1.0)
    """
    for name, count, least in (("directions", directions, 0), ("radii", radii, 1)):
        if count < least:
            raise ValueError(f"{name} must be at least {least}: got {count}")
    if not largest > 0:
        raise ValueError(f"largest must be above 0: got {largest}")
    sphere, gradient, curvature = _Metric(metric), grad(x), hess(x)
    size = sphere.dual_norm(gradient)
    if not math.isfinite(size):
        raise ValueError("grad must be finite at x: got NaN or infinity")
    if size == 0:
        return 0.0
    _check_curvature(curvature, len(x))
    drawn = torch.randn(directions, len(x), generator=generator, dtype=x.dtype, device=x.device)
    steepest = sphere.precondition(gradient) / size
    rays = [steepest, *(sphere.on_sphere(row) for row in drawn)]

    def good(gamma: float, ray: Tensor) -> bool:
        bent = _times(curvature, ray)
        for j in range(radii, 0, -1):
            distance = gamma * j / radii
            error = sphere.dual_norm(grad(x + distance * ray) - gradient - distance * bent)
            if not error * gamma <= size * distance:
                return False
        return True

    gamma = largest
    for ray in (sign * ray for ray in rays for sign in (1, -1)):
        if good(gamma, ray):
            continue
        low, high = gamma, gamma
        while not good(low, ray):
            low, high = low / 2, low
            if low < torch.finfo(x.dtype).tiny:
                return 0.0
        while high > low * (1 + 1e-7):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if good(middle, ray) else (low, middle)
        gamma = low
    return math.inf if gamma == largest else gamma


class _Metric:
    """Norms and systems in the metric B = L L^T; None is the identity."""

    def __init__(self, matrix: Tensor | None) -> None:
        self.matrix, self.size = matrix, None if matrix is None else len(matrix)
        if matrix is not None:
            self.factor, info = torch.linalg.cholesky_ex(matrix)
            if info or not matrix.isfinite().all() or not torch.allclose(matrix, matrix.T):
                raise ValueError("metric must be symmetric positive definite: got a matrix that is not")

    def precondition(self, g: Tensor) -> Tensor:
        return g if self.matrix is None else torch.cholesky_solve(g[:, None], self.factor)[:, 0]

    def dual_norm(self, g: Tensor) -> float:
        if self.matrix is not None:
            g = torch.linalg.solve_triangular(self.factor, g[:, None], upper=False)[:, 0]
        return g.norm().item()

    def on_sphere(self, normal: Tensor) -> Tensor:
        unit = normal / normal.norm()
        return (
            unit
            if self.matrix is None
            else torch.linalg.solve_triangular(self.factor.T, unit[:, None], upper=True)[:, 0]
        )

    def solve(self, curvature: Tensor | RankOne, lam: float, g: Tensor) -> Tensor | None:
        """(H + lam B)^-1 g; None where the matrix is not positive definite."""
        if isinstance(curvature, RankOne):
            first, second = self.precondition(g) / lam, self.precondition(curvature.vector) / lam
            bottom = 1 + curvature.scale * curvature.vector.dot(second)
            return first - curvature.scale * curvature.vector.dot(first) / bottom * second if bottom > 0 else None
        shifted = curvature + lam * (
            torch.eye(len(g), dtype=g.dtype, device=g.device) if self.matrix is None else self.matrix
        )
        factor, info = torch.linalg.cholesky_ex(shifted)
        return None if info else torch.cholesky_solve(g[:, None], factor)[:, 0]


def _times(curvature: Tensor | RankOne, v: Tensor) -> Tensor:
    if isinstance(curvature, RankOne):
        return curvature.scale * curvature.vector.dot(v) * curvature.vector
    return curvature @ v


def _check_start(x0: Tensor, max_iter: int, tol: float) -> None:
    if not x0.is_floating_point():
        raise TypeError(f"x0 must be of real numbers: got {str(x0.dtype).removeprefix('torch.')}")
    if x0.ndim != 1:
        raise ValueError(f"x0 must be a vector (n,): got shape {tuple(x0.shape)}")
    if max_iter < 0:
        raise ValueError(f"max_iter must not be negative: got {max_iter}")
    if not tol >= 0:
        raise ValueError(f"tol must not be negative: got {tol}")


def _check_curvature(curvature: Tensor | RankOne, n: int) -> None:
    shape = tuple(curvature.vector.shape) * 2 if isinstance(curvature, RankOne) else tuple(curvature.shape)
    if shape != (n, n):
        raise ValueError(f"hess must return a matrix {(n, n)} or a RankOne of that size: got {shape}")
