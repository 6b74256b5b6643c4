"""A2TV: other solvers, closed forms, total variation as its ancestor, symmetries, derivatives, what is refused."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from assay.imaging import (
    A2TV,
    AdaptiveTensor,
    MatrixField,
    NonlinearSpectrum,
    Regularizer,
    structure_tensor,
    tv_flow,
    tv_prox,
)
from assay.imaging.adaptive_tensor import flux_constant
from assay.imaging.cell_gradient import CellGradient


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def field(*shape, seed=5):
    """Positive definite, generic, no two cells alike."""
    small, angle = image(2, *shape, seed=seed)
    small, c, s = 0.2 + 0.6 * small.sigmoid(), angle.cos(), angle.sin()
    return MatrixField(small * c**2 + s**2, (small - 1) * c * s, small * s**2 + c**2)


def disc(size, radius, fine=8):
    at = (torch.arange(size * fine, dtype=torch.float64) + 0.5) / fine - size / 2
    filled = (at[:, None].hypot(at) < radius).double()
    return torch.nn.functional.avg_pool2d(filled[None], fine)[0]


def square(size, side):
    f = torch.zeros(size, size, dtype=torch.float64)
    begin = (size - side) // 2
    f[begin : begin + side, begin : begin + side] = 1
    return f


def by_loops(u, a, cross):
    """K u, cell by cell."""
    small = a.eigenvalues[0]
    k = torch.zeros(3, *a.shape, dtype=torch.float64)
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            u00, u01, u10, u11 = u[i, j], u[i, j + 1], u[i + 1, j], u[i + 1, j + 1]
            g = torch.stack([(u01 - u00 + u11 - u10) / 2, (u10 - u00 + u11 - u01) / 2])
            matrix = torch.tensor([[a.a11[i, j], a.a12[i, j]], [a.a12[i, j], a.a22[i, j]]], dtype=torch.float64)
            k[:2, i, j] = matrix @ g
            k[2, i, j] = cross * small[i, j] * (u00 - u01 - u10 + u11)
    return k


def test_gradient_by_loops_and_its_adjoint():
    a, u, z = field(4, 3), image(5, 4), image(3, 4, 3, seed=1)
    J = A2TV(a, cross=0.3)
    k = by_loops(u, a, 0.3)
    torch.testing.assert_close(J.gradient(u), k)
    assert J.value(u).item() == pytest.approx(k.norm(dim=0).sum().item(), rel=1e-12)
    assert (J.gradient(u) * z).sum().item() == pytest.approx((u * J.adjoint(z)).sum().item(), abs=1e-12)
    eigen = torch.linalg.eigvalsh(torch.stack([a.a11, a.a12, a.a12, a.a22], -1).reshape(4, 3, 2, 2))
    torch.testing.assert_close(torch.stack(a.eigenvalues, -1), eigen)
    turned = torch.stack([a.angle.cos(), a.angle.sin()])
    torch.testing.assert_close(a.a11 * turned[0] + a.a12 * turned[1], a.eigenvalues[0] * turned[0])


@pytest.mark.parametrize(("cross", "scale"), [(0.5, 1.0), (0.5, 3.0), (1.4, 1.0), (0.0, 0.7)])
def test_the_bound_of_the_norm_holds(cross, scale):
    a = field(4, 5)
    a = MatrixField(scale * a.a11, scale * a.a12, scale * a.a22)
    operator = CellGradient(a, image(5, 6), cross=cross)
    matrix = torch.stack([operator.gradient(e.reshape(5, 6)).flatten() for e in torch.eye(30, dtype=torch.float64)])
    largest = torch.linalg.matrix_norm(matrix, 2).item() ** 2
    assert 0.3 * operator.bound < largest <= operator.bound


def test_prox_is_the_optimum_of_another_solver():
    """L-BFGS on the objective with sqrt(|.|^2 + 1e-10), off by at most t * 1e-5 in each of 25 cells."""
    f, a, t = image(6, 6), field(5, 5), 0.4
    J = A2TV(a)

    def objective(flat):
        u = torch.tensor(flat).view(6, 6).requires_grad_()
        value = t * (J.gradient(u).square().sum(0) + 1e-10).sqrt().sum() + (u - f).square().sum() / 2
        value.backward()
        return value.item(), u.grad.flatten().numpy()

    other = minimize(
        objective, f.flatten().numpy(), jac=True, method="L-BFGS-B", options=dict(maxiter=50_000, ftol=1e-15, gtol=1e-9)
    )
    found = J.prox(f, t, tol=1e-10, max_iterations=200_000)
    assert found.gap <= 1e-10
    u, z = found.x, found.dual
    assert (z.norm(dim=0) <= 1 + 1e-12).all()
    torch.testing.assert_close(u, f - t * J.adjoint(z))
    primal = (t * J.value(u) + (u - f).square().sum() / 2).item()
    dual = (f.square().sum() - u.square().sum()).item() / 2
    assert -1e-12 <= primal - dual <= 1e-10 * (f - f.mean()).square().sum() / 2 + 1e-12
    assert primal <= other.fun + 1e-12
    # strongly convex: half the squared distance is below the difference of the objectives
    assert (u.flatten() - torch.tensor(other.x)).square().sum() / 2 < 25 * t * 1e-5


def test_a_small_image_is_solved_to_a_gap_of_a_millionth():
    f = image(24, 24).cumsum(0)
    found = A2TV(AdaptiveTensor(0.3, 1.0)(f)).prox(f, 0.7, tol=1e-6, max_iterations=50_000)
    assert 0 <= found.gap <= 1e-6


def test_the_gap_is_primal_minus_dual():
    """Of two images, far from solved, each with a t of its own: the larger one counts."""
    f, J, t = image(2, 9, 7), A2TV(field(8, 6)), torch.tensor([0.3, 0.9], dtype=torch.float64)
    found = J.prox(f, t, max_iterations=7)
    primal = t * J.value(found.x) + (found.x - f).square().sum((-2, -1)) / 2
    dual = (f.square() - found.x.square()).sum((-2, -1)) / 2
    centred = f - f.mean((-2, -1), keepdim=True)
    gap = ((primal - dual) / (centred.square().sum((-2, -1)) / 2)).max().item()
    assert gap > 1e-3
    assert found.gap == pytest.approx(gap, rel=1e-9)
    alone = J.prox(f[0], 0.3, max_iterations=7).gap  # and it is what a step of the flow is measured by
    assert J.flow(f[0], torch.tensor([0.3]).double(), tol=1.01 * alone, max_iterations=7).shape == (1, 9, 7)
    with pytest.raises(ValueError, match="leaves a gap"):
        J.flow(f[0], torch.tensor([0.3]).double(), tol=0.99 * alone, max_iterations=7)


def test_coupled_channels_share_a_length():
    f, t = image(2, 3, 5, 5), 0.3
    J = A2TV(field(4, 4), coupled=True)
    k = J.gradient(f)
    torch.testing.assert_close(J.value(f), k.square().sum((-3, -4)).sqrt().sum((-2, -1)))
    found = J.prox(f, t, tol=1e-10, max_iterations=100_000)
    assert (found.dual.square().sum((1, 2)) <= 1 + 1e-12).all()
    gap = t * J.value(found.x) - t * (J.gradient(found.x) * found.dual).flatten(1).sum(1)
    assert (gap.abs() <= 1e-9).all()
    # the optimum of three channels that are the same is that of one, whose length is then sqrt(3) times as large
    same = f[0, 0].expand(3, 5, 5)
    alone = A2TV(field(4, 4)).prox(f[0, 0], t / math.sqrt(3), tol=1e-11, max_iterations=100_000).x
    torch.testing.assert_close(J.prox(same, t, tol=1e-11, max_iterations=100_000).x[1], alone, rtol=0, atol=1e-4)


def test_two_rows_alike_are_one_signal():
    """Each cell serves both rows, so that a row has half of t; A = diag(a, 1) multiplies it by a."""
    g = image(30).cumsum(0)
    a = torch.full((1, 29), 0.35, dtype=torch.float64)
    J = A2TV(MatrixField(a, 0 * a, torch.ones_like(a)))
    found = J.prox(g.expand(2, 30), 4.0, tol=1e-12, max_iterations=200_000).x
    torch.testing.assert_close(found[0], tv_prox(g, 0.35 * 4.0 / 2), rtol=0, atol=1e-5)
    times = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    states = J.flow(g.expand(2, 30), times, tol=1e-11, max_iterations=200_000)
    torch.testing.assert_close(states[:, 1], tv_flow(g).at(0.35 * times / 2), rtol=0, atol=1e-4)


def test_a_of_one_is_total_variation():
    """The ancestor: no direction and no guide are left; and with a below 1 both are there."""
    f = image(12, 11)
    plain = AdaptiveTensor.isotropic(12, 11, dtype=torch.float64)
    for made in (AdaptiveTensor(1.0)(f), AdaptiveTensor.scalar(1.0)(f)):
        for part in ("a11", "a12", "a22"):
            torch.testing.assert_close(getattr(made, part), getattr(plain, part), rtol=0, atol=1e-15)
    u = A2TV(plain).prox(f, 0.3, tol=1e-9, max_iterations=50_000).x
    torch.testing.assert_close(A2TV(AdaptiveTensor(1.0)(f)).prox(f, 0.3, tol=1e-9, max_iterations=50_000).x, u)
    assert (A2TV(AdaptiveTensor(0.3)(f)).prox(f, 0.3).x - u).abs().max() > 0.05


def test_total_variation_of_discs_and_squares():
    """The middle of a disc falls by 2 t / r, that of a square by t (2 + sqrt(pi)) / side, its Cheeger constant.

    Pixels are seen as cells of width 1: the perimeter of a drawn shape is known to a pixel, about 1 in 20.
    """
    f, t = disc(64, 16.0), 3.0
    J = A2TV(AdaptiveTensor.isotropic(64, 64, dtype=torch.float64))
    fallen = f[32, 32] - J.prox(f, t, tol=1e-6, max_iterations=20_000).x[32, 32]
    assert fallen.item() == pytest.approx(2 * t / 16, rel=0.05)
    f = square(64, 24)
    fallen = f[32, 32] - J.prox(f, t, tol=1e-6, max_iterations=20_000).x[32, 32]
    assert fallen.item() == pytest.approx(t * (2 + math.sqrt(math.pi)) / 24, rel=0.05)
    assert fallen.item() < 0.97 * t * 4 / 24  # what it would be, were the square an eigenfunction: perimeter / area
    # without the fourth difference, which counts oblique edges 7 % too long, the value is the perimeter
    f, round_ = disc(64, 16.0), A2TV(AdaptiveTensor.isotropic(64, 64, dtype=torch.float64), cross=0.0)
    assert round_.value(f).item() == pytest.approx(2 * math.pi * 16, rel=0.02)
    assert round_.rayleigh(f).item() == pytest.approx(round_.value(f).item() / (f - f.mean()).square().sum().item())
    assert round_.eigen_angle(f).item() < 2
    assert J.eigen_angle(square(64, 24)).item() > 5


def test_a_stripe_is_an_eigenfunction():
    f = torch.zeros(2, 40, dtype=torch.float64)
    f[:, 12:20] = 1.0
    J = A2TV(AdaptiveTensor.isotropic(2, 40, dtype=torch.float64))
    assert J.rayleigh(f).item() == pytest.approx(2 / (16 * (1 - 8 / 40)))
    # inner stripes fall 1 / 8 in a row of half of t, their two surroundings of 12 and 20 rise apart: no eigenfunction
    assert J.eigen_angle(f, tol=1e-8).item() > 5
    f[:], f[:, 20:] = 0.0, 1.0
    assert J.eigen_angle(f, tol=1e-9).item() < 0.01
    shrunk = J.prox(f, 0.5 / J.rayleigh(f).item(), tol=1e-10, max_iterations=20_000).x
    torch.testing.assert_close(shrunk - 0.5, (f - 0.5) / 2, rtol=0, atol=1e-4)


def test_the_tensor_by_hand():
    """On an oblique ramp mu_1 is the squared slope, and A is the small weight across and 1 along it."""
    slope, direction = 0.05, 0.7
    x = torch.arange(20, dtype=torch.float64)
    ramp = slope * (math.cos(direction) * x + math.sin(direction) * x[:, None])
    a = AdaptiveTensor(0.2, contrast=0.04)(ramp)
    c = 1 - math.exp(-3.31488 / (slope / 0.04) ** 8)
    middle = [part[9, 9].item() for part in (*a.eigenvalues, a.angle)]
    assert middle == pytest.approx([0.2 + 0.8 * c, 1.0, direction], rel=1e-5)
    weighted = AdaptiveTensor.scalar(0.2, contrast=0.04)(ramp)
    assert [part[9, 9].item() for part in (weighted.a11, weighted.a12, weighted.a22)] == pytest.approx(
        [0.2 + 0.8 * c, 0.0, 0.2 + 0.8 * c], rel=1e-5
    )
    flat = AdaptiveTensor(0.2)(torch.full((5, 5), 0.3))
    assert torch.equal(flat.a11, torch.ones(4, 4))
    # Weickert's constant for m = 8, and the largest flux s c(s) at s = 1
    assert flux_constant(8) == pytest.approx(3.31488, abs=5e-6)
    s = np.linspace(0.5, 2, 150_001)
    for m in (2, 8):
        assert s[np.argmax(-s * np.expm1(-flux_constant(m) / s**m))] == pytest.approx(1, abs=1e-3)


def test_structure_tensor_by_loops():
    """Gaussian weights written out over a mirrored image, for one pixel, of two channels."""
    g, sigma, rho, (i, j) = image(2, 9, 8), 0.8, 1.1, (1, 6)

    def mirrored(k, n):
        k %= 2 * n
        return k if k < n else 2 * n - 1 - k

    def blurred(x, s, i, j):
        reach, total, weight = math.ceil(4 * s), 0.0, 0.0
        for p in range(-reach, reach + 1):
            for q in range(-reach, reach + 1):
                w = math.exp(-(p * p + q * q) / (2 * s * s))
                total, weight = total + w * x(mirrored(i + p, 9), mirrored(j + q, 8)), weight + w
        return total / weight

    smooth = [
        [[blurred(lambda a, b, c=c: g[c, a, b].item(), sigma, a, b) for b in range(8)] for a in range(9)]
        for c in (0, 1)
    ]

    def product(kind):
        def at(a, b):
            total = 0.0
            for c in (0, 1):
                x = (smooth[c][a][min(b + 1, 7)] - smooth[c][a][max(b - 1, 0)]) / 2
                y = (smooth[c][min(a + 1, 8)][b] - smooth[c][max(a - 1, 0)][b]) / 2
                total += {"xx": x * x, "xy": x * y, "yy": y * y}[kind]
            return total

        return at

    found = structure_tensor(g, sigma=sigma, rho=rho)[:, i, j]
    wanted = [blurred(product(kind), rho, i, j) for kind in ("xx", "xy", "yy")]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)
    torch.testing.assert_close(structure_tensor(torch.stack([g, 2 * g]))[:, 1], 4 * structure_tensor(g))


def test_symmetries():
    f = image(13, 11).cumsum(1)
    make = AdaptiveTensor(0.3, 1.0)
    options = dict(tol=1e-10, max_iterations=100_000)
    u = A2TV(make(f)).prox(f, 0.5, **options).x
    close = dict(rtol=0, atol=1e-4)
    torch.testing.assert_close(A2TV(make(f.rot90())).prox(f.rot90(), 0.5, **options).x, u.rot90(), **close)
    torch.testing.assert_close(A2TV(make(f.flip(0))).prox(f.flip(0), 0.5, **options).x, u.flip(0), **close)
    J = A2TV(make(f))
    torch.testing.assert_close(J.prox(f + 7, 0.5, **options).x, u + 7, **close)
    torch.testing.assert_close(J.prox(3 * f, 1.5, **options).x, 3 * u, **close)
    assert u.mean().item() == pytest.approx(f.mean().item(), abs=1e-12)
    torch.testing.assert_close(J.value(-3 * f), 3 * J.value(f))
    assert J.value(torch.full((13, 11), 2.0)) == 0
    g = image(13, 11, seed=9)
    assert J.value((f + g) / 2) < (J.value(f) + J.value(g)) / 2
    # cross = 0 does not see a chessboard
    board = (torch.arange(13)[:, None] + torch.arange(11)).double() % 2
    assert A2TV(make(f), cross=0.0).value(board).item() == pytest.approx(0, abs=1e-12)
    assert J.value(board).item() > 10


def test_flow_loses_energy_and_ends_at_the_mean():
    f = image(10, 12)
    J = A2TV(field(9, 11))
    states = J.flow(
        f, torch.tensor([0.0, 0.1, 0.3, 0.6, 1.2, 50.0], dtype=torch.float64), tol=1e-7, max_iterations=50_000
    )
    assert torch.equal(states[0], f)
    values, energy = J.value(states), states.var((-2, -1))
    assert (values.diff() < 0).all()
    assert (energy.diff() < 0).all()
    assert (states[-1] - f.mean()).abs().max() < 1e-2
    # a field made anew before each step, of the state
    seen = []

    def refresh(u):
        seen.append(u)
        return AdaptiveTensor(0.3, 0.5)(u)

    moved = J.flow(
        f, torch.tensor([0.0, 0.2, 0.4], dtype=torch.float64), refresh=refresh, tol=1e-6, max_iterations=50_000
    )
    assert [torch.equal(a, b) for a, b in zip(seen, moved, strict=False)] == [True, True]
    again = A2TV(AdaptiveTensor(0.3, 0.5)(moved[1])).prox(moved[1], 0.2, tol=1e-8, max_iterations=50_000).x
    torch.testing.assert_close(moved[2], again, rtol=0, atol=0.05)


def test_spectrum_of_a_disc_is_one_peak():
    f = disc(48, 12.0)
    J = A2TV(AdaptiveTensor.isotropic(48, 48, dtype=torch.float64))
    lam = J.rayleigh(f).item()
    times = torch.linspace(0, 1.5, 31, dtype=torch.float64) / lam
    spectrum = NonlinearSpectrum.from_snapshots(J.flow(f, times, tol=1e-6, max_iterations=20_000), times)
    peak = spectrum.times[spectrum.power().argmax()] * lam
    assert peak.item() == pytest.approx(1, abs=0.11)
    torch.testing.assert_close(spectrum.phi.sum(0) + spectrum.residual, f, rtol=0, atol=1e-12)
    band = spectrum.band(0.8 * peak.item() / lam, 1.2 * peak.item() / lam).flatten()
    assert torch.corrcoef(torch.stack([band, f.flatten()]))[0, 1] > 0.99


def test_power_method_finds_an_eigenfunction_that_is_not_convex():
    """A cross of four lobes: what is left is a cross, an eigenfunction to half a degree, and not of total variation."""
    at = (torch.arange(256, dtype=torch.float64) + 0.5) / 8 - 16
    r, theta = at[:, None].hypot(at), torch.atan2(at[:, None], at.expand(256, 256))
    f = torch.nn.functional.avg_pool2d((r < 9 + 5 * torch.cos(4 * theta)).double()[None], 8)[0]
    J = A2TV(AdaptiveTensor(0.15)(f))
    assert J.eigen_angle(f).item() > 5
    u = J.eigenfunction(f, within=0.5, tol=1e-6)
    assert J.eigen_angle(u, tol=1e-6).item() < 0.6
    assert J.rayleigh(u) < J.rayleigh(f)
    assert u.norm().item() == pytest.approx((f - f.mean()).norm().item())
    level = (u.max() + u.min()) / 2
    assert u[5, 16] > level  # two points of a set, and the one between them outside of it
    assert u[15, 26] > level
    assert u[10, 21] < level
    plain = A2TV(AdaptiveTensor.isotropic(32, 32, dtype=torch.float64))
    assert plain.eigen_angle(u).item() > 10


def test_eigen_angle_by_its_definition():
    f = image(3, 9, 8)
    J = A2TV(field(8, 7))
    lam = J.value(f[1]) / (f[1] - f[1].mean()).square().sum()
    torch.testing.assert_close(J.rayleigh(f)[1], lam)
    for decay in (0.3, 0.5):
        u = J.prox(f[1], decay * (1 / lam), tol=1e-9, max_iterations=100_000).x
        cosine = torch.corrcoef(torch.stack([u.flatten(), f[1].flatten()]))[0, 1]
        found = J.eigen_angle(f, decay=decay, tol=1e-9, max_iterations=100_000)[1].item()
        assert found == pytest.approx(math.degrees(math.acos(cosine)), abs=0.02)
        assert found > 5


def test_a_guide_keeps_its_edges_in_another_image():
    """A noisy step, with a guide that has the step and one that does not."""
    truth = torch.zeros(24, 24, dtype=torch.float64)
    truth[:, 12:], noise = 1.0, 0.3 * image(24, 24)
    guides = {"same": truth, "turned": truth.T, "none": 0 * truth}
    errors = {
        name: (A2TV(AdaptiveTensor(0.2)(guide)).prox(truth + noise, 0.6).x - truth).square().mean().item()
        for name, guide in guides.items()
    }
    assert errors["same"] < 0.8 * errors["none"]
    assert errors["none"] < errors["turned"]


def test_derivative_by_finite_differences():
    """Exact where no cell is at a kink; delta and the gap are small here."""
    a, weights = field(6, 5), image(7, 6, seed=3)
    J = A2TV(a)
    options = dict(tol=1e-14, max_iterations=400_000, smoothing=1e-7)
    f, t = image(7, 6).requires_grad_(), torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    (J.prox(f, t, **options).x * weights).sum().backward()

    def loss(f, t):
        return (J.prox(f.detach(), t.item(), **options).x * weights).sum().item()

    for seed in range(3):
        direction, step = image(7, 6, seed=20 + seed), 1e-4
        slope = (loss(f + step * direction, t) - loss(f - step * direction, t)) / (2 * step)
        assert (f.grad * direction).sum().item() == pytest.approx(slope, rel=2e-3, abs=2e-3)
    slope = (loss(f, t + 1e-4) - loss(f, t - 1e-4)) / 2e-4
    assert t.grad.item() == pytest.approx(slope, rel=2e-3, abs=2e-3)


def test_derivative_at_the_ends():
    """t = 0 leaves f alone; of a constant image all pixels move together; and it comes in the dtype of f."""
    J, f = A2TV(field(4, 4)), image(5, 5).float().requires_grad_()
    weights = image(5, 5, seed=4)
    (J.prox(f, 0.0).x * weights).sum().backward()
    torch.testing.assert_close(f.grad, weights.float())
    constant = torch.full((5, 5), 2.0).double().requires_grad_()
    (J.prox(constant, 0.5).x * weights).sum().backward()
    torch.testing.assert_close(constant.grad, weights.mean().expand(5, 5), rtol=0, atol=0.02)
    with torch.no_grad():
        assert not J.prox(f, 0.1).x.requires_grad


def test_batches_are_solved_apart():
    guides, f = image(2, 3, 9, 8), image(2, 4, 9, 8, seed=2)
    make, options = AdaptiveTensor(0.3, 0.5), dict(tol=1e-9, max_iterations=100_000)
    a = make(guides)
    assert a.shape == (2, 8, 7)
    t = torch.linspace(0, 0.6, 8, dtype=torch.float64).reshape(2, 4)
    together = A2TV(a).prox(f, t, **options)
    assert together.x.shape == f.shape
    assert torch.equal(together.x[0, 0], f[0, 0])
    alone = A2TV(make(guides[1])).prox(f[1, 2], t[1, 2].item(), **options)
    torch.testing.assert_close(together.x[1, 2], alone.x, rtol=0, atol=1e-4)
    torch.testing.assert_close(A2TV(a).value(f)[1, 2], A2TV(make(guides[1])).value(f[1, 2]))
    f.requires_grad_()
    A2TV(a).prox(f, t, **options).x.square().sum().backward()
    single = f.detach()[1, 2].requires_grad_()
    A2TV(make(guides[1])).prox(single, t[1, 2].item(), **options).x.square().sum().backward()
    torch.testing.assert_close(f.grad[1, 2], single.grad, rtol=0, atol=1e-2)
    f = image(2, 3, 5, 5).requires_grad_()
    A2TV(field(4, 4), coupled=True).prox(f, torch.full((2,), 0.2).double(), **options).x.square().sum().backward()
    assert torch.isfinite(f.grad).all()


def test_warm_starts_precisions_and_the_protocol():
    f = image(16, 16)
    J = A2TV(AdaptiveTensor(0.3, 0.5)(f))
    first = J.prox(f, 0.4, tol=1e-6, max_iterations=20_000)
    assert J.prox(f, 0.4, tol=1e-6, z0=first.dual).iterations <= 10 < first.iterations
    assert J.prox(f, 0.4, max_iterations=3).iterations == 3
    assert J.prox(f, 0.4, max_iterations=3).gap > 1e-3
    assert torch.equal(J.prox(f, 0.0).x, f)
    assert torch.equal(J.prox(torch.ones(16, 16), 1.0).x, torch.ones(16, 16))
    single = J.prox(f.float(), 0.4, tol=1e-5, max_iterations=20_000)
    assert (single.x.dtype, single.gap <= 1e-5) == (torch.float32, True)
    torch.testing.assert_close(single.x.double(), first.x, rtol=0, atol=0.1)
    assert isinstance(J.regularizer(), Regularizer)
    assert torch.equal(J.regularizer(tol=1e-6, max_iterations=20_000).prox(f, 0.4), first.x)
    assert torch.equal(J.regularizer().value(f), J.value(f))
    guide = image(3, 8, 8).requires_grad_()
    A2TV(AdaptiveTensor(0.3, 1.0)(guide)).value(image(8, 8)).backward()  # the value differentiates in the guide
    assert torch.isfinite(guide.grad).all()
    assert guide.grad.abs().max() > 0


def test_refused():
    f, nan = image(4, 5), torch.full((4, 5), torch.nan)
    J = A2TV(field(3, 4))
    one = torch.ones(2, 2)
    for bad, match in (
        (lambda: AdaptiveTensor(0.0), "a must lie in"),
        (lambda: AdaptiveTensor(1.1), "a must lie in"),
        (lambda: AdaptiveTensor(0.3, 0.0), "contrast must be"),
        (lambda: AdaptiveTensor(0.3, sigma=-1.0), "sigma must be"),
        (lambda: AdaptiveTensor.scalar(0.3, rho=-1.0), "rho must be"),
        (lambda: AdaptiveTensor(exponent=1), "exponent must be"),
        (lambda: AdaptiveTensor.isotropic(1, 5), "h and w must be"),
        (lambda: AdaptiveTensor()(nan), "guide must be finite"),
        (lambda: AdaptiveTensor()(f[:1]), "guide must be at least 2 x 2"),
        (lambda: structure_tensor(f, sigma=-0.1), "sigma must be"),
        (lambda: structure_tensor(f, rho=math.inf), "rho must be"),
        (lambda: MatrixField(one, one[:1], one), "must have one shape"),
        (lambda: MatrixField(one, one * torch.nan, one), "must be finite"),
        (lambda: MatrixField(one, one, one), "must be positive definite"),
        (lambda: A2TV(field(3, 4), cross=-0.5), "cross must be"),
        (lambda: CellGradient(field(3, 4), f, cross=math.nan), "cross must be"),
        (lambda: J.value(f.T), "must have shape"),
        (lambda: J.value(nan), "u must be finite"),
        (lambda: J.adjoint(f), "z must have shape"),
        (lambda: A2TV(field(3, 4), coupled=True).value(f), "must have shape"),
        (lambda: A2TV(field(2, 3, 4)).value(f), "a field of shape"),
        (lambda: A2TV(field(2, 3, 4)).value(f.expand(3, 1, 4, 5)), "a field of shape"),
        (lambda: J.prox(f, -1.0), "t must be"),
        (lambda: J.prox(f, torch.ones(2)), "t must be"),
        (lambda: J.prox(f, 1.0, tol=0.0), "tol and smoothing"),
        (lambda: J.prox(f, 1.0, smoothing=0.0), "tol and smoothing"),
        (lambda: J.prox(f, 1.0, max_iterations=0), "max_iterations must be"),
        (lambda: J.prox(f, 1.0, z0=f), "z0 must have shape"),
        (lambda: J.prox(nan, 1.0), "f must be finite"),
        (lambda: J.flow(f, torch.tensor([1.0, 0.5])), "times must be"),
        (lambda: J.flow(f, torch.tensor([1.0]), tol=1e-12, max_iterations=3), "leaves a gap"),
        (lambda: J.flow(f, torch.tensor([1.0]), refresh=lambda u: field(2, 2)), "for images of|must have shape"),
        (lambda: J.eigen_angle(f, decay=1.0), "decay must lie"),
        (lambda: J.eigen_angle(torch.ones(4, 5)), "f must not be constant"),
        (lambda: J.eigen_angle(f, tol=1e-12, max_iterations=3), "leaves a gap"),
        (lambda: J.eigenfunction(f, decay=0.0), "decay must lie"),
        (lambda: J.eigenfunction(f, tol=1e-12, max_iterations=3), "leaves a gap"),
    ):
        with pytest.raises(ValueError, match=match):
            bad()
    with pytest.raises(ArithmeticError, match="rounds = 1"):
        J.eigenfunction(f, rounds=1)
    with pytest.raises(TypeError, match="f must be floating"):
        J.prox(f.int(), 1.0)
    with pytest.raises(TypeError, match="guide must be floating"):
        structure_tensor(f.int())
