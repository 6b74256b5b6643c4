"""Differences, total variation and its proximal map: adjointness, closed forms, other solvers, what is refused."""

import pytest
import torch
from scipy.optimize import minimize

from assay.imaging import (
    ForwardOperator,
    Regularizer,
    TotalVariation,
    check_adjoint,
    divergence,
    gradient,
    rof,
    total_variation,
    tv_prox,
)


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("dims", "shape"), [(1, (3, 7)), (2, (2, 3, 5, 4)), (2, (1, 6)), (1, (1,))])
def test_divergence_is_minus_the_adjoint(dims, shape):
    x, z = image(*shape), image(*shape[:-dims], dims, *shape[-dims:], seed=1)
    left, right = (gradient(x, dims=dims) * z).sum(), -(x * divergence(z, dims=dims)).sum()
    assert left.item() == pytest.approx(right.item(), abs=1e-12)


def test_total_variation_by_loops():
    x = image(2, 4, 3)
    iso = aniso = both = 0.0
    for i in range(4):
        for j in range(3):
            d = [[x[c, min(i + 1, 3), j] - x[c, i, j], x[c, i, min(j + 1, 2)] - x[c, i, j]] for c in range(2)]
            iso += torch.hypot(*d[0])
            aniso += abs(d[0][0]) + abs(d[0][1])
            both += sum(v**2 for pair in d for v in pair).sqrt()
    assert total_variation(x[0]).item() == pytest.approx(iso.item())
    assert total_variation(x[0], isotropic=False).item() == pytest.approx(aniso.item())
    assert total_variation(x, coupled=True).item() == pytest.approx(both.item())
    assert total_variation(x, dims=1, coupled=True).shape == (2,)


@pytest.mark.parametrize(("isotropic", "coupled"), [(True, False), (False, False), (True, True)])
def test_rof_is_the_optimum_of_another_solver(isotropic, coupled):
    """L-BFGS on the objective with sqrt(|.|^2 + 1e-8): off by at most t * 1e-4 * 24 differences in the objective."""
    f, t = image(2, 4, 3), 0.3

    def objective(flat):
        u = torch.tensor(flat).view(2, 4, 3).requires_grad_()
        d = gradient(u)
        axes = ([-3] if isotropic else []) + ([-4] if coupled else [])
        square = d.square().sum(axes) if axes else d.square()
        value = t * (square + 1e-8).sqrt().sum() + (u - f).square().sum() / 2
        value.backward()
        return value.item(), u.grad.flatten().numpy()

    other = minimize(
        objective, f.flatten().numpy(), jac=True, method="L-BFGS-B", options=dict(maxiter=20_000, ftol=1e-15)
    )
    found = rof(f, t, isotropic=isotropic, coupled=coupled, tol=1e-10, max_iterations=50_000)
    assert found.gap <= 1e-10
    # strongly convex: half the squared distance is below the difference of objectives, 0.3 * 24 * 1e-4
    assert (found.x.flatten() - torch.tensor(other.x)).square().sum() / 2 < 8e-4
    u, z = found.x, found.dual
    torch.testing.assert_close(u, f + t * divergence(z))
    primal = t * total_variation(u, isotropic=isotropic, coupled=coupled).sum() + (u - f).square().sum() / 2
    dual = (f.square().sum() - u.square().sum()) / 2
    assert 0 <= primal - dual <= 1e-10 * f.square().sum()
    assert primal <= other.fun + 1e-9


def test_one_dimension_is_the_taut_string():
    f = image(3, 40).cumsum(1)
    found = rof(f, 1.7, dims=1, tol=1e-11, max_iterations=200_000)
    # |u - u*|^2 <= 2 gap <= 1e-11 |f - mean|^2
    torch.testing.assert_close(found.x, tv_prox(f, 1.7), rtol=0, atol=1e-4)


def test_problems_of_a_batch_are_solved_apart_and_warm_starts_help():
    f = image(2, 8, 8)
    together = rof(f, 0.4, tol=1e-9, max_iterations=20_000)
    torch.testing.assert_close(together.x[1], rof(f[1], 0.4, tol=1e-9, max_iterations=20_000).x, rtol=0, atol=1e-3)
    again = rof(f, 0.4, tol=1e-9, start=together.dual)
    assert again.iterations <= 10 < together.iterations
    assert rof(f, 0.4, max_iterations=3).iterations == 3
    assert torch.equal(rof(f, 0.0).x, f)
    assert torch.equal(rof(torch.ones(4, 4), 1.0).x, torch.ones(4, 4))
    single = rof(f.float(), 0.4)
    assert (single.x.dtype, single.gap <= 1e-4) == (torch.float32, True)


def test_regularizer_and_operator_protocols():
    f = image(1, 6, 6)
    tv = TotalVariation(isotropic=False, tol=1e-8, max_iterations=20_000)
    assert isinstance(tv, Regularizer)
    assert not isinstance(tv, ForwardOperator)
    assert torch.equal(tv.value(f), total_variation(f, isotropic=False))
    assert torch.equal(tv.prox(f, 0.2), rof(f, 0.2, isotropic=False, tol=1e-8, max_iterations=20_000).x)

    class Wrong:
        shape_in, shape_out = (1, 4), (1, 3)

        def __call__(self, x):
            return x

        adjoint = __call__

    with pytest.raises(ValueError, match="shape_out"):
        check_adjoint(Wrong())


def test_refused():
    f = torch.rand(4, 4)
    for bad, match in (
        (lambda: rof(f, -1.0), "t must be"),
        (lambda: rof(f, 1.0, tol=0.0), "tol must be"),
        (lambda: rof(f, 1.0, max_iterations=0), "max_iterations must be"),
        (lambda: rof(f * torch.nan, 1.0), "f must be finite"),
        (lambda: rof(f, 1.0, dims=3), "dims must be 1 or 2"),
        (lambda: rof(f[0], 1.0), "dims must not exceed"),
        (lambda: rof(f, 1.0, coupled=True), "dims must not exceed"),
        (lambda: rof(f, 1.0, start=f), "start must have shape"),
        (lambda: divergence(f, dims=1), "z must have 1 component"),
    ):
        with pytest.raises(ValueError, match=match):
            bad()
    with pytest.raises(TypeError, match="f must be floating"):
        rof(f.int(), 1.0)
