"""Gradient-Normalized Smoothness for Optimization with Approximate Hessians (Semenov, Jaggi, Doikov, 2025)."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch

from assay import data
from assay.lab import all_of, at_least, at_most, claim, lower, ratio
from assay.optim import GradientNormalizedNewton, hessian_approximations

MUS = (1.0, 0.3, 0.1)


@claim(
    "gradient-normalized-smoothness",
    says="On log-sum-exp the adaptive method with the weighted Gauss-Newton matrix reaches a 1e-8 gap in far fewer "
    "iterations than the line-searched gradient method, and within five times those of the exact Hessian.",
    arms=("gns_gauss_newton", "gns_exact", "gradient_method", "lbfgs", "newton_unregularised"),
    holds=all_of(
        ratio("iterations", "gns_gauss_newton", to="gradient_method", at_most=0.2),
        ratio("iterations", "gns_gauss_newton", to="gns_exact", at_most=5),
    ),
    together=True,
    smoke=dict(n=10, m=20, budget=50),
    paper=dict(n=1000, m=1000),
    reported={"log-sum-exp, n = m = 1000, mu = 1": "curves of exact and inexact matrix together (a figure)"},
    left_out=("n = m = 1000; here 100 and 200", "nonlinear equations, Rosenbrock and Chebyshev problems of the figure"),
)
def approximate_hessian_converges(arms, seed, *, n=100, m=200, budget=2000, gap=1e-8):
    """The geometric mean over mu = 1, 0.3, 0.1; each curve counts iterations as its method does, a solve or more each.

    All start at (1, ..., 1) and stop at the same gap; all but L-BFGS and Newton's plain method measure in the metric
    $A^\\top A$. A run that does not get there counts as the whole budget.

    Fails by the factor that was asked for, not by its direction: with the Gauss-Newton matrix the method takes 62
    iterations where the gradient method takes 254, a quarter and not a fifth, and the exact Hessian 23, well within
    five times. The gradient method is a strong one here, as it works in the metric of the problem and searches along
    every step; L-BFGS without that metric takes 212. Newton's plain method never gets there, so that the damping is
    needed.
    """
    results = {arm: {"by_mu": np.zeros(len(MUS)), "seconds": 0.0} for arm in arms}
    for i, mu in enumerate(MUS):
        problem = log_sum_exp(n, m, mu, np.random.default_rng([seed, i]))
        start = torch.ones(n, dtype=torch.float64)
        run = {
            "gns_gauss_newton": lambda p, s: gns(p, s, budget, gap).iterations,
            "gns_exact": lambda p, s: gns(p, s, budget, gap, exact=True).iterations,
            "gradient_method": lambda p, s: len(gradient_method(p, s, budget, gap)) - 1,
            "lbfgs": lambda p, s: lbfgs(p, s, budget, gap),
            "newton_unregularised": lambda p, s: newton(p, s, budget, gap, 0.0, exact=True),
        }
        for arm in arms:
            began = time.perf_counter()
            results[arm]["by_mu"][i] = run[arm](problem, start)
            results[arm]["seconds"] += time.perf_counter() - began
    return {arm: found | {"iterations": geometric_mean(found["by_mu"])} for arm, found in results.items()}


@claim(
    "gradient-normalized-smoothness",
    says="On quasi-self-concordant problems the accepted gamma does not shrink with the gradient (so the rate stays "
    "linear or better), while the equivalent quantity of the gradient method goes to zero with it.",
    arms=("gns_gauss_newton", "gradient_method"),
    holds=all_of(
        at_least("gamma_ratio", 0.25, arm="gns_gauss_newton"),
        at_most("gamma_ratio", 0.05, arm="gradient_method"),
    ),
    together=True,
    smoke=dict(train=200, n=10, m=20, budget=60),
    paper=dict(n=1000, m=1000, train=1437),
    reported={"gamma by iteration": "flat or growing for both matrices, falling for the gradient method (a figure)"},
    left_out=("the logistic problems of LIBSVM; here digits, even against odd, a tenth of the labels flipped",),
)
def gamma_stays_bounded(arms, seed, *, train=1437, flipped=0.1, n=100, m=200, budget=2000, tol=1e-8):
    """The least accepted radius of the last half of a run over that of iteration 5; the worse of the two problems.

    That is the smaller ratio for the method, the larger one for the gradient method, whose radius is the norm of the
    gradient over its line search's L. Runs end when that norm is below `tol`, or after `budget` iterations.

    Holds: the radius grows by a factor of 2.4 from the fifth iteration to the last half; the gradient method's falls
    to 2 % of it on the logistic problem, which it does not solve in two thousand iterations, and to nothing on
    log-sum-exp.
    """
    rng = np.random.default_rng(seed)
    problems = {"logistic": logistic(train, flipped, seed, rng), "log_sum_exp": log_sum_exp(n, m, 1.0, rng)}
    results = {arm: {} for arm in arms}
    for name, problem in problems.items():
        start = torch.ones(problem.size, dtype=torch.float64) * (name == "log_sum_exp")
        found = gns(problem, start, budget, tol, by_gap=False)
        radii = {"gns_gauss_newton": found.history["gamma"].numpy()[1:] / 2}
        radii["gradient_method"] = gradient_method(problem, start, budget, tol, by_gap=False)[1:]
        for arm in arms:
            gamma = radii[arm]
            results[arm][f"gamma_{name}"] = gamma[: min(len(gamma), 100)]
            results[arm][f"iterations_{name}"] = len(gamma)
            results[arm][f"gamma_ratio_{name}"] = gamma[len(gamma) // 2 :].min() / gamma[min(4, len(gamma) - 1)]
    for arm, worst in (("gns_gauss_newton", min), ("gradient_method", max)):
        results[arm]["gamma_ratio"] = worst(results[arm][f"gamma_ratio_{name}"] for name in problems)
    return {arm: {k: v for k, v in found.items() if np.ndim(v) == 0} for arm, found in results.items()}


@claim(
    "gradient-normalized-smoothness",
    says="One setting (gamma0 = 1) converges on convex and non-convex test problems where fixed-regularisation "
    "Gauss-Newton needs a different constant for each.",
    arms=("gns", "fixed_lm_best_single"),
    holds=lower("iterations", "gns", than="fixed_lm_best_single"),
    together=True,
    smoke=dict(n=6, m=12, train=100, budget=40, powers=(-2, 0)),
    paper=dict(n=1000, m=1000, train=1437),
    reported={"all problems": "converges from gamma = 1 without tuning (figures)"},
    left_out=(
        "n = m = 1000 and Chebyshev in 1000 variables; here 50 and 100, and 4 variables",
        "budget 1000, not 2000",
    ),
)
def universal_without_tuning(
    arms, seed, *, n=50, m=100, train=300, budget=1000, tol=1e-6, powers=(-6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4)
):
    """The geometric mean of iterations over six problems; both arms have the same matrices, metrics and starts.

    The opponent adds c B to the matrix, with the one power of ten that is best on this very seed's six problems; what
    it would take with the best constant of each problem is reported beside it.

    Fails, by the count of iterations: 33 against 23 for the one constant that is best in hindsight on these very
    problems (about 10^-4.4), and against 22 for the best of each problem: the problems, small as they are, do not
    need different constants. The method did converge on all six without being told any.
    """
    rng = np.random.default_rng(seed)
    problems = [
        log_sum_exp(n, m, 0.3, rng),
        logistic(train, 0.1, seed, rng),
        quartic(n, m, rng),
        rosenbrock(p=2),
        rosenbrock(p=5),
        chebyshev(4, p=4),
    ]
    starts = [torch.from_numpy(rng.uniform(-2, 2, problem.size)) for problem in problems]
    pairs = list(zip(problems, starts, strict=True))
    ours = np.array([counted(gns(p, s, budget, tol, by_gap=False), budget) for p, s in pairs], float)
    grid = np.array([[newton(p, s, budget, tol, 10.0**c, by_gap=False) for p, s in pairs] for c in powers], float)
    means = [geometric_mean(row) for row in grid]
    best = int(np.argmin(means))
    results = {
        "gns": {"iterations": geometric_mean(ours), "by_problem": ours},
        "fixed_lm_best_single": {
            "iterations": means[best],
            "by_problem": grid[best],
            "log10_constant": float(powers[best]),
            "iterations_best_each": geometric_mean(grid.min(0)),
        },
    }
    return {arm: results[arm] for arm in arms}


@dataclass(frozen=True)
class Problem:
    """A function of `size` numbers with what the methods ask of it."""

    size: int
    f: Any
    grad: Any
    approximate: Any
    exact: Any
    metric: torch.Tensor | None = None
    f_star: float | None = None


def log_sum_exp(n, m, mu, rng):
    """Rows shifted so that the minimum is at 0, as in the paper's experiments."""
    A, b = (torch.from_numpy(rng.uniform(-1, 1, shape)) for shape in ((m, n), (m,)))
    A = A - torch.softmax(-b / mu, 0) @ A
    approximate = hessian_approximations.weighted_gauss_newton(A, b, mu)

    def f(x):
        return mu * torch.logsumexp((A @ x - b) / mu, 0)

    def grad(x):
        return torch.softmax((A @ x - b) / mu, 0) @ A

    def exact(x):
        g = grad(x)
        return approximate(x) - torch.outer(g, g) / mu

    return Problem(n, f, grad, approximate, exact, A.T @ A, f(torch.zeros(n, dtype=A.dtype)).item())


def logistic(train, flipped, seed, rng):
    """Unregularized logistic regression: digits, even against odd; the Fisher matrix is the Hessian."""
    split = data.load("digits", train=train, seed=seed)
    X = split.train.inputs.double().flatten(1)
    X = X[:, X.std(0) > 0]
    sign = (1.0 - 2.0 * (split.train.targets % 2)) * torch.from_numpy(np.where(rng.random(train) < flipped, -1.0, 1.0))
    X = sign[:, None] * X

    def f(x):
        return torch.nn.functional.softplus(-(X @ x)).mean()

    def grad(x):
        return torch.sigmoid(-(X @ x)) @ X / -train

    def fisher(x):
        chance = torch.sigmoid(X @ x)
        return X.T @ ((chance * (1 - chance))[:, None] * X) / train

    return Problem(X.shape[1], f, grad, fisher, fisher, X.T @ X + 1e-6 * torch.eye(X.shape[1], dtype=X.dtype))


def equations(u, jacobian, n, *, p, metric=None):
    """$\\tfrac1p \\|u(x)\\|^p$ with the matrix that leaves out the second derivatives of u."""

    def f(x):
        return u(x).square().sum() ** (p / 2) / p

    def grad(x):
        value = u(x)
        return value.norm() ** (p - 2) * (value @ jacobian(x))

    approximate = hessian_approximations.inexact_hessian(u, jacobian, p)
    return Problem(n, f, grad, approximate, torch.func.hessian(f), metric)


def quartic(n, m, rng):
    A, b = (torch.from_numpy(rng.uniform(-1, 1, shape)) for shape in ((m, n), (m,)))
    return equations(lambda x: A @ x - b, lambda x: A, n, p=4, metric=A.T @ A)


def rosenbrock(p):
    def u(x):
        return torch.stack([1 - x[0], 10 * (x[1] - x[0] ** 2)])

    def jacobian(x):
        return torch.tensor([[-1.0, 0.0], [-20 * x[0].item(), 10.0]], dtype=x.dtype)

    return equations(u, jacobian, 2, p=p)


def chebyshev(n, p):
    def u(x):
        return torch.cat([(1 - x[:1]) / 2, x[1:] - (2 * x[:-1] ** 2 - 1)])

    def jacobian(x):
        return torch.diag(torch.tensor([-0.5] + [1.0] * (n - 1), dtype=x.dtype)) - 4 * x[:-1].diag(-1)

    return equations(u, jacobian, n, p=p)


def gns(problem, start, budget, tol, *, exact=False, by_gap=True):
    return GradientNormalizedNewton(metric=problem.metric).minimize(
        problem.f,
        problem.grad,
        problem.exact if exact else problem.approximate,
        start,
        max_iter=budget,
        tol=tol,
        f_star=problem.f_star if by_gap else None,
    )


def counted(found, budget):
    """Iterations, or the budget where the run did not converge."""
    return max(found.iterations, 1) if found.status == "converged" else budget


def metric_norms(problem):
    """(B^-1 g, ||g||_* of it) in the problem's metric."""
    factor = None if problem.metric is None else torch.linalg.cholesky(problem.metric)

    def precondition(g):
        return g if factor is None else torch.cholesky_solve(g[:, None], factor)[:, 0]

    return precondition, lambda g: precondition(g).dot(g).sqrt().item()


def gradient_method(problem, x, budget, tol, *, by_gap=True):
    """||g||_* / L of each step x - B^-1 g / L; L is doubled until the quadratic bound holds, and halved afterwards."""
    precondition, norm = metric_norms(problem)
    value, g, L, radii = problem.f(x), problem.grad(x), 1.0, [0.0]
    for _ in range(budget):
        if (value.item() - problem.f_star if by_gap else norm(g)) < tol:
            break
        step = precondition(g)
        decrease = g.dot(step)
        for _ in range(30):
            new = x - step / L
            new_value = problem.f(new)
            if new_value <= value - decrease / (2 * L) + 4e-16 * value.abs():
                break
            L *= 2
        radii.append(norm(g) / L)
        x, value, g, L = new, new_value, problem.grad(new), max(L / 2, 1e-5)
    return np.array(radii)


def lbfgs(problem, x, budget, gap):
    """Iterations of scipy's L-BFGS-B until the gap is reached."""
    steps = 0

    def seen(intermediate_result):
        nonlocal steps
        steps += 1
        if intermediate_result.fun - problem.f_star < gap:
            raise StopIteration

    def both(at):
        at = torch.from_numpy(at)
        return problem.f(at).item(), problem.grad(at).numpy()

    options = {"maxiter": budget, "maxfun": 20 * budget, "ftol": 0.0, "gtol": 0.0}
    end = scipy.optimize.minimize(both, x.numpy(), jac=True, method="L-BFGS-B", callback=seen, options=options)
    return steps if end.fun - problem.f_star < gap else budget


def newton(problem, x, budget, tol, constant, *, exact=False, by_gap=True):
    """Iterations of x - (H + c B)^-1 g; the budget where it does not get there, or where the system has no solution."""
    metric = torch.eye(problem.size, dtype=x.dtype) if problem.metric is None else problem.metric
    _, norm = metric_norms(problem)
    hess = problem.exact if exact else problem.approximate
    for k in range(budget):
        g = problem.grad(x)
        reached = problem.f(x).item() - problem.f_star if by_gap else norm(g)
        if reached < tol:
            return max(k, 1)
        step, info = torch.linalg.solve_ex(hess(x) + constant * metric, g)
        if info or not math.isfinite(reached) or not step.isfinite().all():
            break
        x = x - step
    return budget


def geometric_mean(values):
    return float(np.exp(np.mean(np.log(np.maximum(values, 1)))))
