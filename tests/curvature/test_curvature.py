"""Products, diagonal, trace and eigenvalues against Hessians formed in full."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from assay.curvature import (
    Hessian,
    hutchinson_diagonal,
    hutchinson_trace,
    hvp,
    lanczos,
    per_sample_gradients,
    rademacher,
    top_eigenvalues,
)

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture
def network():
    """A small classifier with a convolution, trained a little so that its Hessian is generic; float64."""
    torch.manual_seed(4)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(18, 4), torch.nn.Dropout(0.5)
    ).double()
    x = torch.randn(14, 1, 5, 5, dtype=torch.float64)
    y = torch.randint(4, (14,))
    return model, x, y


def full_hessian(model, x, y, kind="hessian"):
    """Formed by torch.func, with the definitions written out."""
    model.eval()
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def outputs(vector):
        parts = vector.split([math.prod(s) for s in shapes])
        named = {n: part.view(s) for n, part, s in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(model, named, (x,))

    if kind == "hessian":
        return torch.func.hessian(lambda v: F.cross_entropy(outputs(v), y))(theta)
    jacobian = torch.func.jacrev(outputs)(theta)
    p = outputs(theta).detach().softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nap,nab,nbq->pq", jacobian, inner, jacobian) / len(x)


def symmetric(size, seed=0):
    """A dense symmetric matrix with a wide spectrum of both signs."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(size, size)))[0]
    values = np.concatenate([[90.3, 71.1, 40.7, -55.9], rng.normal(size=size - 4)])
    return torch.from_numpy(q * values @ q.T), np.sort(values)


def test_hvp_against_a_full_hessian(network):
    model, x, y = network
    model.eval()
    params = list(model.parameters())
    grads = torch.autograd.grad(F.cross_entropy(model(x), y), params, create_graph=True)
    vectors = [torch.randn_like(p) for p in params]
    flat = torch.cat([h.reshape(-1) for h in hvp(grads, params, vectors)])
    expected = full_hessian(model, x, y) @ torch.cat([v.reshape(-1) for v in vectors])
    torch.testing.assert_close(flat, expected, rtol=1e-10, atol=1e-12)


def test_hvp_counts_gradients_without_a_graph_as_constant():
    a, b = (torch.tensor([1.5, -0.5], requires_grad=True) for _ in range(2))
    loss = (a**3).sum() + (2 * b).sum()
    grads = torch.autograd.grad(loss, [a, b], create_graph=True)
    found = hvp(grads, [a, b], [torch.tensor([1.0, 2.0]), torch.ones(2)])
    torch.testing.assert_close(found, [torch.tensor([9.0, -6.0]), torch.zeros(2)])
    torch.testing.assert_close(hvp([grads[0], None], [a, b], [torch.ones(2), torch.ones(2)])[1], torch.zeros(2))


def test_hvp_refuses():
    a = torch.tensor([1.0], requires_grad=True)
    (plain,) = torch.autograd.grad((a**2).sum(), [a])
    with pytest.raises(ValueError, match="create_graph=True"):
        hvp([plain], [a], [torch.ones(1)])
    with pytest.raises(ValueError, match="as many"):
        hvp([plain], [a], [])
    with pytest.raises(ValueError, match="shaped like params"):
        hvp([plain], [a], [torch.ones(2)])


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("batch_size", [None, 5, 14, 100])
def test_operator_against_a_full_matrix(network, kind, batch_size):
    model, x, y = network
    expected = full_hessian(model, x, y, kind)
    model.train()
    operator = Hessian(model, F.cross_entropy, x, y, kind=kind, batch_size=batch_size)
    found = torch.stack([operator @ e for e in torch.eye(operator.size, dtype=torch.float64)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert operator.products == operator.size
    model.eval()
    (flat,) = torch.autograd.grad(F.cross_entropy(model(x), y), [model[0].weight])
    torch.testing.assert_close(operator.gradient[: flat.numel()], flat.reshape(-1))


def test_gauss_newton_is_not_the_hessian(network):
    """It leaves out the curvature of the network itself: semidefinite, where the Hessian is not."""
    model, x, y = network
    assert torch.linalg.eigvalsh(full_hessian(model, x, y))[0] < -1e-3
    assert torch.linalg.eigvalsh(full_hessian(model, x, y, "gauss_newton"))[0] > -1e-12


def test_operator_leaves_the_model_as_it_was(network):
    model, x, y = network
    model.train()
    model[1].eval()
    operator = Hessian(model, F.cross_entropy, x, y)
    operator @ torch.ones(operator.size, dtype=torch.float64)
    assert [m.training for m in model] == [True, False, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    model[0].weight.requires_grad_(False)
    assert Hessian(model, F.cross_entropy, x, y).size == operator.size - 18


def test_operator_refuses(network):
    model, x, y = network
    with pytest.raises(ValueError, match="kind must be one of 'hessian'"):
        Hessian(model, F.cross_entropy, x, y, kind="fisher")
    with pytest.raises(ValueError, match="as many"):
        Hessian(model, F.cross_entropy, x, y[1:])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        Hessian(model, F.cross_entropy, x, y, batch_size=0)
    with pytest.raises(ValueError, match="vector must be"):
        Hessian(model, F.cross_entropy, x, y) @ torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="want a gradient"):
        Hessian(model.requires_grad_(False), F.cross_entropy, x, y)


@pytest.mark.parametrize("chunk", [None, 4])
def test_per_sample_gradients_one_by_one(network, chunk):
    model, x, y = network
    model.train()
    rows = per_sample_gradients(model, F.cross_entropy, x, y, chunk=chunk)
    assert model[4].training
    model.eval()
    for i in (0, 7, 13):
        grads = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        torch.testing.assert_close(rows[i], torch.cat([g.reshape(-1) for g in grads]))
    torch.testing.assert_close(rows.mean(0), Hessian(model, F.cross_entropy, x, y).gradient)


def test_per_sample_gradients_refuse(network):
    model, x, y = network
    with pytest.raises(ValueError, match="as many"):
        per_sample_gradients(model, F.cross_entropy, x[:0], y[:0])
    with pytest.raises(ValueError, match="chunk"):
        per_sample_gradients(model, F.cross_entropy, x, y, chunk=0)
    with pytest.raises(ValueError, match="want a gradient"):
        per_sample_gradients(model.requires_grad_(False), F.cross_entropy, x, y)


def test_signs_are_fair_and_independent():
    """Both signs, in equal shares, uncorrelated: a draw that is always -1 makes row sums of a diagonal."""
    first, second = rademacher([torch.empty(200, 100), torch.empty(20000)], torch.Generator().manual_seed(1))
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    bound = 5 / math.sqrt(20000)
    assert abs(first.mean().item()) < bound
    assert abs((first.reshape(-1) * second).mean().item()) < bound
    assert abs((second[1:] * second[:-1]).mean().item()) < bound
    assert rademacher([]) == []


def quadratic(seed=3, size=6):
    matrix = torch.from_numpy(np.random.default_rng(seed).normal(size=(size, size)))
    matrix = matrix + matrix.T
    x = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(0.5 * x @ matrix @ x, [x], create_graph=True)
    return matrix, x, grad


def test_diagonal_is_unbiased_with_the_known_variance():
    matrix, x, grad = quadratic()
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([hutchinson_diagonal([grad], [x], generator=generator)[0] for _ in range(4000)])
    variance = matrix.square().sum(1) - matrix.diagonal().square()
    assert ((draws.mean(0) - matrix.diagonal()).abs() < 5 * (variance / 4000).sqrt()).all()
    # The estimate's fourth moment bounds the spread of a sample variance: 5 sigma of it is under 20 % here.
    torch.testing.assert_close(draws.var(0), variance, rtol=0.2, atol=0)
    assert (matrix.sum(1) - matrix.diagonal()).abs().max() > 1  # signs that are always equal would be seen


def test_several_probes_are_averaged():
    _, x, grad = quadratic()
    several = hutchinson_diagonal([grad], [x], 3, torch.Generator().manual_seed(5))[0]
    generator = torch.Generator().manual_seed(5)
    single = [hutchinson_diagonal([grad], [x], 1, generator)[0] for _ in range(3)]
    torch.testing.assert_close(several, sum(single) / 3)
    with pytest.raises(ValueError, match="num_probes"):
        hutchinson_diagonal([grad], [x], 0)


def test_trace_covers_as_often_as_it_says():
    matrix, _ = symmetric(40)
    truth = float(matrix.trace())
    generator = torch.Generator().manual_seed(2)
    covered = 0
    for _ in range(300):
        trace = hutchinson_trace(matrix.mv, 40, num_probes=12, generator=generator, dtype=torch.float64)
        covered += trace.low <= truth <= trace.high
    assert trace.products == 12
    assert abs(covered / 300 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 300)
    with pytest.raises(ValueError, match="num_probes"):
        hutchinson_trace(matrix.mv, 40, num_probes=1)
    with pytest.raises(ValueError, match="confidence"):
        hutchinson_trace(matrix.mv, 40, confidence=95)
    with pytest.raises(ValueError, match="finite"):
        hutchinson_trace(lambda v: v * math.nan, 40)


def test_trace_interval_is_students():
    """Two probes, by hand: mean +- t(1 degree of freedom) * deviation / sqrt(2)."""
    products = iter([torch.tensor([3.0, 4.0]), torch.tensor([1.0, -2.0])])
    signs, found = [], []

    def matvec(z):
        signs.append(z)
        found.append(float(z @ (product := next(products))))
        return product

    trace = hutchinson_trace(matvec, 2, num_probes=2, confidence=0.9)
    half = 6.313751514675043 * np.std(found, ddof=1) / math.sqrt(2)
    np.testing.assert_allclose(trace[:3], [np.mean(found), np.mean(found) - half, np.mean(found) + half], rtol=1e-6)


def test_lanczos_rebuilds_the_matrix_on_its_subspace():
    matrix, _ = symmetric(30)
    found = lanczos(matrix.mv, 30, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    identity = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(found.basis @ found.basis.T, identity, atol=1e-13, rtol=0)
    small = torch.diag(found.diagonal) + torch.diag(found.off_diagonal, 1) + torch.diag(found.off_diagonal, -1)
    torch.testing.assert_close(found.basis @ matrix @ found.basis.T, small, atol=1e-11, rtol=0)
    rest = matrix @ found.basis.T - found.basis.T @ small
    assert torch.linalg.vector_norm(rest).item() == pytest.approx(found.residual, rel=1e-9)


def test_no_copies_of_converged_eigenvalues():
    """In float32, after many more steps than the large ones need, each is there once."""
    matrix, values = symmetric(120)
    found = lanczos(matrix.float().mv, 120, 100, generator=torch.Generator().manual_seed(1))
    ritz = found.ritz()[0].numpy()
    for value in values[-3:]:
        assert (abs(ritz - value) < 0.5).sum() == 1
        assert abs(ritz - value).min() < 1e-4 * 90


def test_lanczos_stops_where_nothing_is_left():
    start = torch.tensor([1.0, 2.0, 0.0, 0.0], dtype=torch.float64)
    matrix = torch.diag(torch.tensor([3.0, 5.0, 7.0, 9.0], dtype=torch.float64))
    found = lanczos(matrix.mv, 4, 4, start=start)
    assert found.residual == 0.0
    torch.testing.assert_close(found.ritz()[0], torch.tensor([3.0, 5.0], dtype=torch.float64))


def test_one_step_is_a_rayleigh_quotient():
    matrix, _ = symmetric(6)
    start = torch.arange(1.0, 7.0, dtype=torch.float64)
    found = lanczos(matrix.mv, 6, 1, start=start)
    assert found.diagonal.item() == pytest.approx(float(start @ matrix @ start / (start @ start)), rel=1e-12)
    assert found.off_diagonal.shape == (0,)
    assert found.ritz()[0].item() == found.diagonal.item()


def test_a_matrix_whose_steps_shrink_is_not_given_up():
    """Off-diagonals far below the diagonal, but far above rounding, are steps like others."""
    matrix = torch.diag(torch.tensor([1.0, 1.0 + 1e-7, 1.0 + 3e-7], dtype=torch.float64))
    found = lanczos(matrix.mv, 3, 3, start=torch.ones(3, dtype=torch.float64))
    np.testing.assert_allclose(found.ritz()[0] - 1, [0, 1e-7, 3e-7], atol=1e-14)


def test_lanczos_refuses():
    with pytest.raises(ValueError, match="size and steps"):
        lanczos(torch.eye(3).mv, 3, 0)
    with pytest.raises(ValueError, match="start must be"):
        lanczos(torch.eye(3).mv, 3, 2, start=torch.ones(4))
    with pytest.raises(ValueError, match="not zero"):
        lanczos(torch.eye(3).mv, 3, 2, start=torch.zeros(3))
    with pytest.raises(ValueError, match="matvec must give \\(3,\\)"):
        lanczos(lambda v: v[:2], 3, 2)
    with pytest.raises(ValueError, match="finite"):
        lanczos(lambda v: v * math.inf, 3, 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("max_basis", [None, 12])
@pytest.mark.parametrize(
    ("which", "expected"),
    [("largest", [90.3, 71.1, 40.7]), ("magnitude", [90.3, 71.1, -55.9]), ("smallest", [-55.9])],
)
def test_extreme_eigenvalues(which, expected, max_basis, device):
    matrix, _ = symmetric(80)
    matrix = matrix.to(device)
    found = top_eigenvalues(
        matrix.mv,
        80,
        len(expected),
        which=which,
        tol=1e-6,
        max_basis=max_basis,
        generator=torch.Generator().manual_seed(7),
        dtype=torch.float64,
        device=device,
    )
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    left = matrix @ found.vectors.T - found.vectors.T * found.values.to(device)
    torch.testing.assert_close(torch.linalg.vector_norm(left, dim=0).cpu(), found.residuals, rtol=1e-3, atol=1e-9)
    assert ((found.values.numpy() - np.array(expected)) <= found.errors.numpy() + 1e-9).all()
    if max_basis is None:
        assert found.products < 30


def test_all_eigenvalues_also_of_the_smallest_matrices():
    for size in (1, 2, 5):
        matrix = torch.diag(torch.arange(1.0, size + 1, dtype=torch.float64))
        found = top_eigenvalues(matrix.mv, size, size, dtype=torch.float64)
        np.testing.assert_allclose(found.values, range(size, 0, -1), rtol=1e-9)
    identity = top_eigenvalues(torch.eye(4, dtype=torch.float64).mv, 4, 2, dtype=torch.float64)
    np.testing.assert_allclose(identity.values, [1.0, 1.0])


def test_eigenvalues_of_a_network(network):
    model, x, y = network
    full = torch.linalg.eigvalsh(full_hessian(model, x, y)).flip(0)
    operator = Hessian(model, F.cross_entropy, x, y)
    found = top_eigenvalues(operator.matvec, operator.size, 5, tol=1e-5, dtype=torch.float64)
    torch.testing.assert_close(found.values, full[:5], rtol=1e-5, atol=0)
    assert found.products == operator.products <= 40


def test_eigenvalues_refuse():
    matrix = symmetric(20)[0]
    with pytest.raises(ValueError, match=r"count must lie in 1\.\.20"):
        top_eigenvalues(matrix.mv, 20, 21)
    with pytest.raises(ValueError, match="which"):
        top_eigenvalues(matrix.mv, 20, which="top")
    with pytest.raises(ValueError, match="tol"):
        top_eigenvalues(matrix.mv, 20, tol=0)
    with pytest.raises(ValueError, match="max_products"):
        top_eigenvalues(matrix.mv, 20, max_products=0)
    with pytest.raises(ValueError, match="max_basis"):
        top_eigenvalues(matrix.mv, 20, 3, max_basis=4)
    with pytest.raises(RuntimeError, match="max_products=4 were not enough"):
        top_eigenvalues(matrix.mv, 20, 3, max_products=4, dtype=torch.float64)
