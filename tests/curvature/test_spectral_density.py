"""Spectra that are known: quadrature against eigenvalues, moments, error bars that cover, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.curvature import Hessian, hessian_matrix, hutchinson_trace, spectral_density


def symmetric(size, seed=0, dtype=torch.float64):
    """Eigenvalues by a law of its own: most near 0, a few large."""
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    values = torch.linspace(-0.5, 1.0, size, dtype=torch.float64) ** 3
    values[-2:] = torch.tensor([4.0, 7.0])
    return ((turn * values) @ turn.T).to(dtype), values


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_all_steps_give_the_quadrature_by_hand():
    """With as many steps as rows, a probe z weighs eigenvalue i by (u_i . z)^2 / |z|^2."""
    matrix, values = symmetric(12)
    found = spectral_density(
        matrix.mv, 12, steps=50, num_probes=3, width=0.3, generator=generator(), dtype=matrix.dtype
    )
    exact, vectors = np.linalg.eigh(matrix.numpy())
    signs = [torch.randint(2, (12,), generator=g, dtype=torch.int8) * 2.0 - 1 for g in [generator()] for _ in range(3)]
    weights = np.stack([(vectors.T @ z.double().numpy()) ** 2 / 12 for z in signs])
    grid = found.grid.numpy()
    bells = np.exp(-((grid[:, None] - exact) ** 2) / (2 * 0.3**2)) / (0.3 * math.sqrt(2 * math.pi))
    each = bells @ weights.T
    np.testing.assert_allclose(found.density.numpy(), each.mean(1), atol=1e-10)
    np.testing.assert_allclose(found.error.numpy(), each.std(1, ddof=1) / math.sqrt(3), atol=1e-10)
    assert found.products == 36
    assert values.max().item() == pytest.approx(found.nodes.max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_integrates_to_one_and_has_hutchinsons_moments(dtype):
    """m steps are exact for powers up to 2 m - 1: z^T A^k z / P of the same signs, k = 1 to 5 with three steps."""
    matrix, _ = symmetric(40, dtype=dtype)
    settings = dict(steps=3, num_probes=5, dtype=dtype)
    found = spectral_density(matrix.mv, 40, generator=generator(1), **settings)
    step = (found.grid[1] - found.grid[0]).item()
    assert found.density.sum().item() * step == pytest.approx(1.0, abs=1e-6)
    assert (found.grid * found.density).sum().item() * step == pytest.approx(
        (found.nodes * found.weights).sum(1).mean().item(), abs=1e-5
    )
    for power in range(1, 6):
        raised = torch.linalg.matrix_power(matrix.double(), power)
        trace = hutchinson_trace(raised.mv, 40, num_probes=5, generator=generator(1), dtype=torch.float64)
        moment = (found.nodes**power * found.weights).sum(1).mean().item()
        assert moment == pytest.approx(trace.value / 40, rel=1e-4 if dtype == torch.float32 else 1e-10)
    raised = torch.linalg.matrix_power(matrix.double(), 6)
    trace = hutchinson_trace(raised.mv, 40, num_probes=5, generator=generator(1), dtype=torch.float64)
    assert abs((found.nodes**6 * found.weights).sum(1).mean().item() - trace.value / 40) > 1e-3 * trace.value / 40


def test_the_error_bar_covers():
    """The share of eigenvalues above 3 is 2 in 60: within two standard errors for most of forty repetitions."""
    matrix, _ = symmetric(60, seed=3)
    inside = 0
    for seed in range(40):
        found = spectral_density(matrix.mv, 60, steps=30, num_probes=12, generator=generator(seed), dtype=matrix.dtype)
        share, error = found.share(3.0)
        inside += abs(share - 2 / 60) <= 2.2 * error  # 95 % of Student's with 11 degrees of freedom
    assert inside >= 33  # 95 % of 40 is 38; below 33 has a chance of 1 in 300


def test_a_spectrum_that_ends_early_and_a_constant_one():
    found = spectral_density(lambda v: 3 * v, 10, steps=8, num_probes=2, generator=generator())
    assert found.products == 2
    assert found.weights.sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert found.share(2.99, 3.01) == pytest.approx((1.0, 0.0), abs=1e-6)
    assert found.width == pytest.approx(0.03)
    nothing = spectral_density(lambda v: 0 * v, 5, num_probes=2, generator=generator())
    assert nothing.density.isfinite().all()


def test_the_same_generator_gives_the_same_density():
    matrix, _ = symmetric(20, dtype=torch.float32)
    one = spectral_density(matrix.mv, 20, steps=6, generator=generator(4))
    other = spectral_density(matrix.mv, 20, steps=6, generator=generator(4))
    assert torch.equal(one.density, other.density)
    assert not torch.equal(one.density, spectral_density(matrix.mv, 20, steps=6, generator=generator(5)).density)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(size=0), "size"),
        (dict(steps=0), "steps"),
        (dict(num_probes=1), "num_probes"),
        (dict(width=0.0), "width"),
        (dict(width=math.inf), "width"),
        (dict(points=1), "points"),
        (dict(width=1e-3, points=100), "points must be at least"),
    ],
)
def test_refused(settings, name):
    matrix, _ = symmetric(6, dtype=torch.float32)
    with pytest.raises(ValueError, match=name):
        spectral_density(matrix.mv, **{"size": 6} | settings)


def test_refused_products_and_intervals():
    with pytest.raises(ValueError, match="finite"):
        spectral_density(lambda v: v * math.nan, 4)
    found = spectral_density(lambda v: 2 * v, 4)
    with pytest.raises(ValueError, match="low"):
        found.share(2.0, 1.0)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 3)).to(dtype)


def examples(dtype=torch.float64):
    x = torch.randn(7, 3, generator=generator(1), dtype=torch.float64).to(dtype)
    return x, torch.arange(7) % 3


def test_the_matrix_is_autograds():
    model, (x, y) = network(), examples()
    params = dict(model.named_parameters())
    model.eval()

    def value(flat):
        parts = flat.split([p.numel() for p in params.values()])
        named = {name: part.view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, named, (x,)), y)

    flat = torch.cat([p.detach().flatten() for p in params.values()])
    expected = torch.autograd.functional.hessian(value, flat)
    model.train()
    found = hessian_matrix(model, F.cross_entropy, x, y, chunk=5)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        hessian_matrix(model, F.cross_entropy, x, y, batch_size=3), expected, rtol=1e-9, atol=1e-12
    )
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    single = hessian_matrix(network(torch.float32), F.cross_entropy, *examples(torch.float32))
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=1e-5)


def test_logistic_regression_and_a_line():
    """X^T diag(p (1 - p)) X / n, which is all Gauss-Newton; 2 X^T X / n."""
    x = torch.randn(9, 4, generator=generator(2), dtype=torch.float64)
    y = torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 1, 1]).double()[:, None]
    line = nn.Linear(4, 1, bias=False).double()
    p = torch.sigmoid(line(x)).detach()
    expected = (x * p * (1 - p)).T @ x / 9
    for kind in ("hessian", "gauss_newton"):
        found = hessian_matrix(line, F.binary_cross_entropy_with_logits, x, y, kind=kind)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(hessian_matrix(line, F.mse_loss, x, y, kind="gauss_newton"), 2 * x.T @ x / 9)


def test_gauss_newton_is_no_hessian_where_the_network_bends():
    model, (x, y) = network(), examples()
    gauss = hessian_matrix(model, F.cross_entropy, x, y, kind="gauss_newton")
    assert torch.linalg.eigvalsh(gauss).min() > -1e-12
    assert torch.linalg.eigvalsh(hessian_matrix(model, F.cross_entropy, x, y)).min() < -1e-4
    operator = Hessian(model, F.cross_entropy, x, y, kind="gauss_newton")
    v = torch.linspace(-1, 1, operator.size, dtype=torch.float64)
    torch.testing.assert_close(gauss @ v, operator.matvec(v))


def test_density_of_a_network_against_its_matrix():
    model, (x, y) = network(), examples()
    operator = Hessian(model, F.cross_entropy, x, y)
    found = spectral_density(operator.matvec, operator.size, num_probes=200, generator=generator(), dtype=torch.float64)
    exact = torch.linalg.eigvalsh(hessian_matrix(model, F.cross_entropy, x, y))
    bells = torch.exp(-0.5 * ((found.grid[:, None] - exact) / found.width) ** 2).sum(1)
    bells /= len(exact) * found.width * math.sqrt(2 * math.pi)
    assert ((found.density - bells).abs() <= 4.5 * found.error + 1e-6).all()


def test_refused_matrices():
    model, (x, y) = network(), examples()
    with pytest.raises(ValueError, match="chunk"):
        hessian_matrix(model, F.cross_entropy, x, y, chunk=0)
    with pytest.raises(ValueError, match="at most 20,000 weights"):
        hessian_matrix(nn.Linear(200, 101), F.cross_entropy, torch.zeros(1, 200), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="finite second derivatives"):
        hessian_matrix(nn.Linear(1, 1), lambda a, b: (a - a.detach()).abs().pow(1.5).mean(), torch.ones(1, 1), y[:1])
    with pytest.raises(ValueError, match="kind"):
        hessian_matrix(model, F.cross_entropy, x, y, kind="fisher")
