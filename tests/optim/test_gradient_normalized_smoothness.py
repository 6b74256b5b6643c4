"""The regularized Newton method against the authors' own iterates, closed forms, and a dense scan of the definition."""

import inspect
import math

import pytest
import torch

from assay.optim import (
    GradientNormalizedNewton,
    gradient_normalized_smoothness,
    hessian_approximations,
)
from assay.optim.hessian_approximations import RankOne

F64 = torch.float64
A = torch.tensor([[0.5, -0.3], [-0.7, 0.2], [0.1, 0.9], [0.4, -0.8]], dtype=F64)
b = torch.tensor([0.1, -0.2, 0.3, 0.05], dtype=F64)


def vector(*values):
    return torch.tensor(values, dtype=F64)


def log_sum_exp(mu):
    return lambda x: mu * torch.logsumexp((A @ x - b) / mu, 0)


def power(u, p):
    return lambda x: u(x).square().sum() ** (p / 2) / p


def linear(x):
    return A @ x - b


def rosenbrock(x):
    return torch.stack([1 - x[0], 10 * (x[1] - x[0] ** 2)])


def chebyshev(x):
    return torch.cat([(1 - x[:1]) / 2, x[1:] - (2 * x[:-1] ** 2 - 1)])


# Iterates of github.com/epfml/grad-norm-smooth (commit 9f4ca00), src/methods.py, with numpy 2 and scipy 1.17:
#   grad_norm_smooth(oracle, x_0, n_iters=k, is_approx=True, approx_oracle=oracle, approx_hess_fn=h, B=B, eps=1e-300)
# with NonlinearEquationsRosenbrockOracle(5), ChebyshevOracle(4, 4), create_log_sum_exp_oracle(A, b, 0.5) and
# NonlinearEquationsOracle(4, A=A, b=b), the last by grad_norm_smooth_for_rank_one(..., invert_backend="wsm").
OFFICIAL = {
    "rosenbrock": (
        power(rosenbrock, 5),
        hessian_approximations.inexact_hessian(rosenbrock, torch.func.jacrev(rosenbrock), 5),
        vector(-2, 2),
        None,
        (-1.3505475554817097, 1.8291179026326172),
        (1, 2, 4, 4, 4, 4, 2, 2, 2, 2, 4, 2, 0.5),
        25,
    ),
    "chebyshev": (
        power(chebyshev, 4),
        hessian_approximations.inexact_hessian(chebyshev, torch.func.jacrev(chebyshev), 4),
        vector(0.3, -0.2, 0.9, 0.5),
        None,
        (0.3577081250929656, -0.8589736717953217, 0.5073228346040077, -0.48113178305459925),
        (1, 2, 4, 8, 4, 4, 4, 4, 0.5, 0.5, 0.5, 0.5, 0.5),
        25,
    ),
    "weighted Gauss-Newton": (
        log_sum_exp(0.5),
        hessian_approximations.weighted_gauss_newton(A, b, 0.5),
        vector(3, -2),
        A.T @ A,
        (0.9817407931798605, -0.5724387816570176),
        (1, 2, 4, 8, 8, 8),
        7,
    ),
    "exact": (
        log_sum_exp(0.5),
        torch.func.hessian(log_sum_exp(0.5)),
        vector(3, -2),
        A.T @ A,
        (0.1840700819111429, 0.1565074223240023),
        (1, 2, 4, 8, 16, 32),
        5,
    ),
    "Fisher term": (
        power(linear, 4),
        hessian_approximations.fisher_term(linear, lambda x: A, 4),
        vector(3, -2),
        A.T @ A,
        (0.5352840584596543, 0.11233567040624437),
        (1, 2, 4, 8, 16, 32, 64),
        6,
    ),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_iterates_are_those_of_the_authors_code(name):
    f, hess, start, metric, x, gammas, solves = OFFICIAL[name]
    method = GradientNormalizedNewton(metric=metric)
    found = method.minimize(f, torch.func.grad(f), hess, start, max_iter=len(gammas) - 1, tol=0.0)
    assert found.history["gamma"].tolist() == list(gammas)
    assert found.solves == solves == found.history["solves"][-1]
    # Two dozen steps of condition number 1e3 at most amplify roundings to no more than this.
    torch.testing.assert_close(found.x, vector(*x), rtol=1e-11, atol=0)
    assert found.status == "budget"
    assert found.iterations == len(gammas) - 1
    assert found.f == pytest.approx(f(found.x).item(), rel=1e-15)


@pytest.mark.parametrize("metric", [None, torch.tensor([[2.0, 0.3], [0.3, 0.5]], dtype=F64)])
def test_without_curvature_it_is_the_gradient_method(metric):
    """x - B^-1 g gamma / ||g||_*, accepted and searched by hand; with curvature the path is another."""
    f = log_sum_exp(0.5)
    grad = torch.func.grad(f)
    B = torch.eye(2, dtype=F64) if metric is None else metric
    x, gamma, path = vector(3, -2), 1.0, []
    for _ in range(6):
        g = grad(x)
        size = (g @ torch.linalg.inv(B) @ g).sqrt()
        while True:
            new = x - torch.linalg.inv(B) @ g * gamma / size
            h = grad(new)
            if f(x) - f(new) >= h @ torch.linalg.inv(B) @ h * gamma / (8 * size):
                break
            gamma /= 2
        x, gamma = new, 2 * gamma
        path.append(gamma)
    start = vector(3, -2)
    method = GradientNormalizedNewton(metric=metric)
    found = method.minimize(f, grad, hessian_approximations.zero(), start, max_iter=6, tol=0.0)
    torch.testing.assert_close(found.x, x, rtol=1e-12, atol=1e-14)
    assert found.history["gamma"][1:].tolist() == pytest.approx(path)
    curved = method.minimize(f, grad, torch.func.hessian(f), start, max_iter=6, tol=0.0)
    assert (curved.x - x).norm() > 1e-2


def test_newton_is_its_limit():
    """gamma to infinity: one step on a quadratic, whose gradient then vanishes; a fixed small gamma bounds the step."""
    H = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=F64)
    c = vector(1, -4)
    arguments = (lambda x: 0.5 * x @ H @ x - c @ x, lambda x: H @ x - c, lambda x: H, vector(5, 5))
    far = GradientNormalizedNewton(gamma0=1e14).minimize(*arguments, tol=1e-9)
    assert (far.iterations, far.status) == (1, "converged")
    torch.testing.assert_close(far.x, torch.linalg.solve(H, c), rtol=1e-12, atol=0)
    near = GradientNormalizedNewton(gamma0=0.25, adaptive=False).minimize(*arguments, max_iter=3)
    assert near.history["gamma"].tolist() == [0.25] * 4
    lam = (H @ vector(5, 5) - c).norm() / 0.25
    first = GradientNormalizedNewton(gamma0=0.25, adaptive=False).minimize(*arguments, max_iter=1)
    expected = vector(5, 5) - torch.linalg.solve(H + lam * torch.eye(2, dtype=F64), H @ vector(5, 5) - c)
    torch.testing.assert_close(first.x, expected, rtol=1e-13, atol=0)
    assert 0.2 < (first.x - vector(5, 5)).norm() <= 0.25


def test_every_accepted_step_makes_the_promised_decrease():
    f = power(chebyshev, 2)
    hess = hessian_approximations.inexact_hessian(chebyshev, torch.func.jacrev(chebyshev))
    found = GradientNormalizedNewton().minimize(f, torch.func.grad(f), hess, vector(0.3, -0.2, 0.9, 0.5), tol=1e-6)
    assert found.status == "converged"
    assert found.solves > found.iterations
    value, size, gamma = (found.history[name] for name in ("f", "gradient_norm", "gamma"))
    lam = size[:-1] / (gamma[1:] / 2)
    assert (value[:-1] - value[1:] >= size[1:] ** 2 / (8 * lam) - 1e-15 * value[:-1]).all()


def test_near_the_minimum_roundings_do_not_stall_it():
    """f stands still in floating point while the gradient still falls: accepted, not halved forty times."""
    mu = 0.7
    f = lambda x: 1e4 + log_sum_exp(mu)(x)  # noqa: E731
    found = GradientNormalizedNewton().minimize(
        f, torch.func.grad(f), torch.func.hessian(f), vector(1, 1), tol=1e-13, max_iter=60
    )
    assert found.status == "converged"
    assert found.solves < 2 * found.iterations


def test_an_indefinite_matrix_shortens_the_step():
    """-4 + sqrt(2) / gamma is below 0 for gamma = 1 and 1/2, which are halved before f is asked; 1/4 is taken."""
    asked = []

    def f(x):
        asked.append(x.clone())
        return x.sum()

    start = vector(0.0, 0.0)
    H = torch.diag(vector(-4.0, -4.0))
    found = GradientNormalizedNewton().minimize(f, torch.ones_like, lambda x: H, start, max_iter=1)
    assert found.solves == 3
    assert len(asked) == 2
    assert found.history["gamma"].tolist() == [1.0, 0.5]


def test_a_function_that_does_not_fit_its_gradient_stalls():
    found = GradientNormalizedNewton(max_search=5).minimize(
        lambda x: -x.sum(), torch.ones_like, hessian_approximations.zero(), vector(1.0, 2.0)
    )
    assert (found.status, found.iterations, found.solves) == ("stalled", 0, 6)
    assert found.x.tolist() == [1.0, 2.0]


def test_a_gradient_of_zero_is_the_end():
    found = GradientNormalizedNewton().minimize(
        lambda x: x.square().sum(), lambda x: 2 * x, hessian_approximations.zero(), vector(0.0), tol=0.0
    )
    assert (found.status, found.iterations) == ("converged", 0)


def test_gap_or_gradient_ends_it():
    f = lambda x: x.pow(4).sum()  # noqa: E731
    ends = [
        GradientNormalizedNewton().minimize(
            f, torch.func.grad(f), torch.func.hessian(f), vector(1.0), tol=1e-4, f_star=star
        )
        for star in (0.0, None)
    ]
    assert f(ends[0].x) < 1e-4 <= ends[0].history["f"][-2]
    assert 4 * ends[1].x.abs() ** 3 < 1e-4 <= ends[1].history["gradient_norm"][-2]
    assert ends[0].iterations != ends[1].iterations


# Matrices.


def test_hessian_approximations_against_autograd():
    """Exact where the map is linear; for log-sum-exp off by the outer product of the gradient."""
    x = vector(0.7, -1.3)
    mu = 0.3
    g = torch.func.grad(log_sum_exp(mu))(x)
    found = hessian_approximations.weighted_gauss_newton(A, b, mu)(x) - torch.outer(g, g) / mu
    torch.testing.assert_close(found, torch.func.hessian(log_sum_exp(mu))(x), rtol=1e-12, atol=1e-13)
    for p in (2.0, 3.5, 5.0):
        exact = torch.func.hessian(power(linear, p))(x)
        jacobian = lambda x: A  # noqa: E731
        found = hessian_approximations.inexact_hessian(linear, jacobian, p)(x)
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-13)
        rest = linear(x).norm() ** (p - 2) * A.T @ A
        fisher = hessian_approximations.fisher_term(linear, jacobian, p)(x).dense()
        torch.testing.assert_close(fisher, exact - rest, rtol=1e-11, atol=1e-12)


def test_at_a_root_the_matrices_are_finite():
    u = lambda x: 3 * x  # noqa: E731
    for p in (2.0, 3.0, 4.0):
        found = hessian_approximations.inexact_hessian(u, lambda x: 3 * torch.eye(2, dtype=F64), p)(vector(0, 0))
        assert torch.equal(found, 9 * torch.eye(2, dtype=F64) * (p == 2))


@pytest.mark.parametrize("metric", [None, torch.tensor([[2.0, 0.3], [0.3, 0.5]], dtype=F64)])
def test_a_rank_one_matrix_is_solved_as_the_dense_one(metric):
    f = power(linear, 4)
    fisher = hessian_approximations.fisher_term(linear, lambda x: A, 4)
    ends = [
        GradientNormalizedNewton(metric=metric).minimize(f, torch.func.grad(f), hess, vector(3, -2), max_iter=5)
        for hess in (fisher, lambda x: fisher(x).dense())
    ]
    torch.testing.assert_close(ends[0].x, ends[1].x, rtol=1e-12, atol=0)


def test_a_rank_one_matrix_of_negative_scale_shortens_the_step_too():
    hess = lambda x: RankOne(-4.0, torch.tensor([1.0, 0.0], dtype=F64))  # noqa: E731
    start = vector(0.0, 0.0)
    found = GradientNormalizedNewton().minimize(lambda x: x.sum(), torch.ones_like, hess, start, max_iter=1)
    assert found.solves == 3


# gamma(x).


def scan(grad, hess, x, largest=20.0, count=200_001):
    """The definition in one dimension on a dense grid: the largest gamma before the first violation."""
    h = torch.linspace(largest / count, largest, count, dtype=F64)
    g = grad(x)
    error = torch.stack([(grad(x + sign * h) - g - sign * hess * h).abs() / h for sign in (1, -1)]).amax(0)
    worst = error.cummax(0).values * h
    return h[int((worst <= g.abs()).sum()) - 1].item(), largest / count


ONE_DIMENSIONAL = {
    "quartic": (lambda x: 4 * x**3, lambda x: 12 * x**2, 1.3),
    "cubic": (lambda x: x * x.abs(), lambda x: 2 * x.abs(), 0.8),
    "logistic": (lambda x: torch.sigmoid(x), lambda x: torch.sigmoid(x) * torch.sigmoid(-x), -0.6),
    "sine": (lambda x: torch.sin(x) + 0.2, lambda x: torch.cos(x), 0.4),
}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", ONE_DIMENSIONAL)
def test_gamma_against_a_scan_of_its_definition(name, exact):
    grad, second, at = ONE_DIMENSIONAL[name]
    x = vector(at)
    curvature = second(x).diag() if exact else torch.zeros(1, 1, dtype=F64)
    found = gradient_normalized_smoothness(grad, lambda _: curvature, x, directions=0, radii=16)
    expected, step = scan(grad, curvature[0, 0], x)
    assert found == pytest.approx(expected, abs=2 * step)


def test_gamma_of_the_known_classes():
    """gamma is ||g|| / L without curvature; with it, a cubic's is sqrt(2 ||g|| / M); a quadratic's has no end."""
    generator = torch.Generator().manual_seed(0)
    x = vector(1, -2, 0.5)
    zero = hessian_approximations.zero()
    flat = gradient_normalized_smoothness(lambda x: 3 * x, zero, x, generator=generator)
    assert flat == pytest.approx(x.norm().item(), rel=1e-6)  # L = 3, g = 3 x
    quadratic = gradient_normalized_smoothness(lambda x: 3 * x, lambda x: 3 * torch.eye(3, dtype=F64), x)
    assert quadratic == math.inf
    grad = lambda x: vector(0, 1, 1) + torch.stack([x[0] ** 2 / 2, 0 * x[1], 0 * x[2]])  # noqa: E731
    hess = lambda x: torch.diag(torch.stack([x[0], 0 * x[0], 0 * x[0]]))  # noqa: E731
    ends = [
        gradient_normalized_smoothness(
            grad, hess, vector(0, 0, 0), directions=n, generator=torch.Generator().manual_seed(1)
        )
        for n in (4, 64, 400)
    ]
    least = math.sqrt(2 * math.sqrt(2))  # M = 1 along the first axis, which no drawn direction hits quite
    assert ends[0] > ends[1] > ends[2] > least
    assert ends[2] < 1.1 * least


def test_gamma_is_measured_in_the_metric():
    """In y = L^T x with B = L L^T the metric is the identity; also gamma scales as lengths do."""
    B = torch.tensor([[2.0, 0.3], [0.3, 0.5]], dtype=F64)
    L = torch.linalg.cholesky(B)
    f = log_sum_exp(0.5)
    x = vector(0.4, -1)
    turned = lambda y: f(torch.linalg.solve_triangular(L.T, y[:, None], upper=True)[:, 0])  # noqa: E731
    ours, theirs = (
        gradient_normalized_smoothness(
            torch.func.grad(g),
            torch.func.hessian(g),
            at,
            metric=metric,
            directions=32,
            generator=torch.Generator().manual_seed(3),
        )
        for g, at, metric in ((f, x, B), (turned, L.T @ x, None))
    )
    assert ours == pytest.approx(theirs, rel=1e-6)
    plain = gradient_normalized_smoothness(torch.func.grad(f), torch.func.hessian(f), x, directions=32)
    assert abs(plain - ours) > 0.05 * ours


def test_gamma_is_zero_where_the_gradient_is():
    assert gradient_normalized_smoothness(lambda x: x, hessian_approximations.zero(), vector(0, 0)) == 0.0


# Refusals.

LINE = (lambda x: x.sum(), torch.ones_like, hessian_approximations.zero())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"gamma0": 0.0}, "gamma0"),
        ({"gamma0": math.inf}, "gamma0"),
        ({"gamma_min": -1.0}, "gamma_min"),
        ({"max_search": 0}, "max_search"),
        ({"metric": torch.diag(vector(1, -1))}, "metric"),
        ({"metric": torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=F64)}, "metric"),
    ],
)
def test_methods_that_cannot_be_are_refused(options, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        GradientNormalizedNewton(**options)


@pytest.mark.parametrize(
    ("arguments", "options", "name"),
    [
        ((*LINE, vector(1.0)), {"max_iter": -1}, "max_iter"),
        ((*LINE, vector(1.0)), {"tol": -1.0}, "tol"),
        ((lambda x: x.sum() * math.nan, *LINE[1:], vector(1.0)), {}, "x0"),
        ((LINE[0], lambda x: x / 0, LINE[2], vector(1.0)), {}, "x0"),
        ((LINE[0], lambda x: torch.ones(3, dtype=F64), LINE[2], vector(1.0)), {}, "grad"),
        ((*LINE[:2], lambda x: torch.eye(3, dtype=F64), vector(1.0, 2.0)), {}, "hess"),
    ],
)
def test_problems_that_cannot_be_are_refused(arguments, options, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        GradientNormalizedNewton().minimize(*arguments, **options)


def test_a_start_that_is_no_vector_or_of_another_size_is_refused():
    unchecked = inspect.unwrap(GradientNormalizedNewton.minimize)  # without the shape checks of the test run
    with pytest.raises(TypeError, match="x0 must be of real numbers: got int64"):
        unchecked(GradientNormalizedNewton(), *LINE, torch.tensor([1]))
    with pytest.raises(ValueError, match="x0 must be a vector"):
        unchecked(GradientNormalizedNewton(), *LINE, torch.ones(2, 1))
    with pytest.raises(ValueError, match="x0 must have as many entries"):
        GradientNormalizedNewton(metric=torch.eye(3, dtype=F64)).minimize(*LINE, vector(1.0, 2.0))


@pytest.mark.parametrize(
    ("options", "name"), [({"directions": -1}, "directions"), ({"radii": 0}, "radii"), ({"largest": 0.0}, "largest")]
)
def test_scans_that_cannot_be_are_refused(options, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        gradient_normalized_smoothness(*LINE[1:], vector(1.0), **options)
    with pytest.raises(ValueError, match="grad must be finite"):
        gradient_normalized_smoothness(lambda x: x / 0, LINE[2], vector(1.0))


@pytest.mark.parametrize("make", [hessian_approximations.inexact_hessian, hessian_approximations.fisher_term])
def test_powers_below_two_are_refused(make):
    with pytest.raises(ValueError, match="p must be"):
        make(linear, lambda x: A, 1.5)
    with pytest.raises(ValueError, match="mu must be"):
        hessian_approximations.weighted_gauss_newton(A, b, 0.0)
