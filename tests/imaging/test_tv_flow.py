"""The exact flow: against a quadratic program, a naive sweep, conservation laws, its spectrum, what is refused."""

import importlib.util

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from assay.imaging import NonlinearSpectrum, linear_decay_modes, plateaus, tv_flow, tv_flow_2d, tv_prox

EPS = torch.finfo(torch.float64).eps


def walk(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=n).cumsum())


def integers(n, seed=0):
    """Values that repeat and plateaus that meet at the same time."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 4, n).astype(float))


def masses(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.5, 2, n))


def quadratic_program(f, t, m):
    """The dual, min |M^-1/2 D^T z - M^1/2 f|^2 with |z| <= t, solved by active sets."""
    root = np.sqrt(m.numpy())
    matrix = np.diff(np.eye(len(f)), axis=0) / root
    found = lsq_linear(matrix.T, f.numpy() * root, bounds=(-t, t), method="bvls", tol=1e-15)
    return torch.from_numpy(f.numpy() - (matrix.T @ found.x) / root)


def sweep(f):
    """The paper's algorithm as it stands: all speeds anew at each event. Returns times and speeds."""
    u, t, times, speeds = f.numpy().copy(), 0.0, [], []
    runs = [[i] for i in range(len(u))]
    while len(runs) > 1:
        c = np.array([u[r[0]] for r in runs])
        merged = [runs[0]]
        for r, x, y in zip(runs[1:], c[1:], c[:-1], strict=True):
            if abs(x - y) < 1e-11:
                merged[-1] = merged[-1] + r
            else:
                merged.append(r)
        if len(merged) < len(runs):
            runs = merged
            continue
        s = np.concatenate([[0], np.sign(np.diff(c)), [0]])
        v = np.diff(s) / [len(r) for r in runs]
        closing = -np.diff(v) * np.sign(np.diff(c))
        step = np.min(np.abs(np.diff(c))[closing > 0] / closing[closing > 0])
        field = np.repeat(v, [len(r) for r in runs])
        u, t = u + step * field, t + step
        times.append(t)
        speeds.append(field)
    return np.array(times), np.array(speeds)


@pytest.mark.parametrize("n", [2, 3, 5, 40])
@pytest.mark.parametrize("make", [walk, integers])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_state_solves_the_proximal_problem(n, make, weighted):
    f, m = make(n, n), masses(n) if weighted else torch.ones(n).double()
    flow = tv_flow(f, weights=m if weighted else None)
    for share in (0.05, 0.3, 0.9):
        t = share * flow.extinction_time
        if t > 0:
            expected = quadratic_program(f, t, m)
            torch.testing.assert_close(flow.at(t), expected, rtol=0, atol=1e-11)
            torch.testing.assert_close(tv_prox(f, t, weights=m), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("make", [walk, integers])
def test_events_are_those_of_the_sweep(make):
    f = make(50, 3)
    times, speeds = sweep(f)
    flow = tv_flow(f)
    torch.testing.assert_close(flow.event_times, torch.from_numpy(times), rtol=1e-9, atol=1e-9)
    between = torch.cat([torch.zeros(1).double(), flow.event_times])
    between = (between[1:] + between[:-1]) / 2
    torch.testing.assert_close(flow.subgradient(between), torch.from_numpy(-speeds), rtol=0, atol=1e-12)


def test_by_hand():
    """Runs of 2, 1, 1 samples at 1/2, -2, 1: the second meets the third at t = 1, at (3 - 2) = (0 + 1)."""
    flow = tv_flow(torch.tensor([0.0, 0.0, 3.0, 0.0]).double())
    assert flow.plateaus(0.5) == [(0, 2, 0.25), (2, 3, 2.0), (3, 4, 0.5)]
    assert flow.event_times.tolist() == [1.0, 1.5]
    assert flow.energy(torch.tensor([0.0, 1.0])).tolist() == [6.0, 0.5]


@pytest.mark.parametrize("weighted", [False, True])
def test_extinction_is_the_largest_partial_sum(weighted):
    f, m = walk(300), masses(300) if weighted else torch.ones(300).double()
    mean = (f * m).sum() / m.sum()
    flow = tv_flow(f, weights=m)
    assert flow.extinction_time == pytest.approx(((f - mean) * m).cumsum(0)[:-1].abs().max().item(), rel=1e-12)
    assert flow.mean == pytest.approx(mean.item(), rel=1e-12)


@pytest.mark.parametrize("n", [60, 3000])
def test_conservation_and_symmetries(n):
    f = walk(n, 2)
    flow = tv_flow(f)
    t = torch.linspace(0, 1.1, 23, dtype=torch.float64) * flow.extinction_time
    u, p = flow.at(t), flow.subgradient(t)
    scale = n * EPS * f.abs().max().item()
    torch.testing.assert_close(u[0], f)
    torch.testing.assert_close(u.mean(1), f.mean().expand(23), rtol=0, atol=scale)
    assert (u.amax(1).diff() <= scale).all()
    assert (u.amin(1).diff() >= -scale).all()
    torch.testing.assert_close((p * u).sum(1), flow.energy(t), rtol=0, atol=n * scale)  # -d/dt |u|^2/2 = J(u)
    torch.testing.assert_close((p * p).sum(1), p.diff(dim=1).abs().sum(1), rtol=1e-11, atol=0)  # an eigenfunction
    torch.testing.assert_close(tv_flow(u[4]).at(t[7] - t[4]), u[7], rtol=0, atol=10 * scale)
    torch.testing.assert_close(tv_flow(-2 * f.flip(0)).at(2 * t[5]), -2 * u[5].flip(0), rtol=0, atol=10 * scale)


@pytest.mark.parametrize("make", [walk, integers])
def test_spectrum(make):
    f = make(60, 5)
    flow = tv_flow(f)
    times, phi = flow.modes()
    unit = phi / phi.norm(dim=1, keepdim=True)
    assert (unit @ unit.T - torch.eye(len(times)).double()).abs().max() < 1e-11
    torch.testing.assert_close(phi.sum(0) + flow.mean, f, rtol=0, atol=1e-11)
    t = 0.37 * flow.extinction_time
    decayed = flow.mean + ((1 - t / times).clamp_min(0)[:, None] * phi).sum(0)
    torch.testing.assert_close(decayed, flow.at(t), rtol=0, atol=1e-11)
    spectrum = flow.spectrum()
    for norm in ("l1", "parseval"):
        torch.testing.assert_close(flow.power(norm), spectrum.power(norm), rtol=1e-9, atol=1e-11)
    assert (flow.power("parseval") ** 2).sum() == pytest.approx((f - f.mean()).square().sum().item(), rel=1e-11)
    gains = lambda t: torch.exp(-t)  # noqa: E731
    torch.testing.assert_close(flow.filter(gains), spectrum.filter(gains), rtol=0, atol=1e-11)
    few = flow.spectrum(largest=3)
    assert len(few.times) == 3
    assert few.phi.norm(dim=1).min() >= phi.norm(dim=1).sort().values[-3] - 1e-12
    torch.testing.assert_close(few.phi.sum(0) + few.residual, f, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="norm must be"):
        flow.power("l2")
    with pytest.raises(ValueError, match="largest must be"):
        flow.spectrum(largest=0)


def test_weighted_components_are_orthogonal_in_the_weights():
    f, m = walk(40), masses(40)
    _, phi = tv_flow(f, weights=m).modes()
    gram = (phi * m) @ phi.T
    size = gram.diag().sqrt()
    assert (gram / size / size[:, None] - torch.eye(len(phi)).double()).abs().max() < 1e-11
    plain = phi @ phi.T  # and not in any other
    assert (plain / plain.diag().sqrt() / plain.diag().sqrt()[:, None]).fill_diagonal_(0).abs().max() > 1e-2


def test_koopman_eigenfunctions_decay_on_their_phase():
    flow = tv_flow(walk(30))
    k = 12
    begin, end = flow.event_times[k - 1], flow.event_times[k]
    t = begin + (end - begin) * torch.tensor([0.1, 0.5, 0.9]).double()
    observed = flow.koopman_eigenfunction(k, 0.7)(flow.at(t))
    torch.testing.assert_close(observed.log().diff(), -0.7 * t.diff(), rtol=1e-6, atol=1e-12)
    with pytest.raises(ValueError, match="k must lie in"):
        flow.koopman_eigenfunction(len(flow.event_times))


def test_spectrum_of_snapshots_is_the_exact_one_where_events_fall_on_snapshots():
    f = torch.tensor([0.0, 0.0, 3.0, 0.0]).double()  # events at 1 and 1.5
    t = torch.arange(5).double() / 2
    found = NonlinearSpectrum.from_snapshots(tv_flow(f).at(t), t)
    torch.testing.assert_close(found.phi[[1, 2]], tv_flow(f).modes()[1])
    torch.testing.assert_close(found.residual, torch.full((4,), 0.75).double())
    torch.testing.assert_close(found.band(0.9, 1.1), found.phi[1])
    with pytest.raises(ValueError, match="norm must be"):
        found.power("l2")


def test_compiled_loops_give_the_same_bits(monkeypatch):
    f, m = walk(500).numpy(), masses(500).numpy()
    slow = plateaus.merge_tree(f, m, np.inf), plateaus.plateaus_at(f, m, 3.3)
    monkeypatch.setattr(plateaus, "COMPILE_FROM", 1)
    installed = importlib.util.find_spec("numba") is not None
    assert (plateaus.compiled("merge") is not None) == installed
    for plain, fast in zip(slow, (plateaus.merge_tree(f, m, np.inf), plateaus.plateaus_at(f, m, 3.3)), strict=True):
        for a, b in zip(plain, fast, strict=True):
            assert np.array_equal(a, b)


def test_prox_derivatives_and_batches():
    f = torch.stack([walk(9, 1), walk(9, 2)]).requires_grad_()
    t = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda f, t: tv_prox(f, t, weights=masses(9)), (f, t))
    torch.testing.assert_close(tv_prox(f, 0.8)[1], tv_flow(f[1].detach()).at(0.8))
    assert torch.equal(tv_prox(f, 0.0), f)
    assert tv_prox(f.float(), 0.8).dtype == torch.float32


def test_single_and_constant_signals_do_not_move():
    for f in (torch.tensor([2.5]), torch.full((7,), 1.25)):
        flow = tv_flow(f)
        assert flow.extinction_time == 0.0
        assert torch.equal(flow.at(3.0), f)
        assert torch.equal(tv_prox(f, 3.0), f)
        assert flow.modes()[1].shape == (0, len(f))


def test_two_dimensions_of_a_profile_are_one():
    profile = torch.tensor([0.0, 2.0, 1.0, 4.0, 4.0, -1.0, 0.5, 0.0]).double()
    times = torch.tensor([0.0, 0.3, 0.8, 1.5]).double()
    for isotropic in (True, False):
        found = tv_flow_2d(profile.expand(5, 8), times, isotropic=isotropic, tol=1e-10, max_iterations=20_000)
        # |u - u*|^2 <= 2 gap, a gap of 1e-10 |f|^2 / 2 a step
        torch.testing.assert_close(found[:, 2], tv_flow(profile).at(times), rtol=0, atol=3e-4)
    with pytest.raises(ValueError, match="times must be"):
        tv_flow_2d(profile.expand(5, 8), torch.tensor([1.0, 0.5]))
    with pytest.raises(ValueError, match="leaves a gap"):
        tv_flow_2d(profile.expand(5, 8), torch.tensor([1.0]), tol=1e-12, max_iterations=3)


def test_refused():
    f = walk(5)
    for bad in (torch.zeros(2, 2), torch.zeros(0)):
        with pytest.raises(ValueError, match="signal must have shape"):
            tv_flow(bad)
    with pytest.raises(ValueError, match="signal must be finite"):
        tv_flow(torch.tensor([0.0, torch.nan]))
    with pytest.raises(TypeError, match="signal must be floating"):
        tv_flow(torch.tensor([1, 2]))
    for weights in (torch.ones(4), torch.zeros(5)):
        with pytest.raises(ValueError, match="weights must be"):
            tv_flow(f, weights=weights)
    for t in (-1.0, float("inf")):
        with pytest.raises(ValueError, match="t must be"):
            tv_flow(f).at(t)
        with pytest.raises(ValueError, match="t must be"):
            tv_prox(f, t)


def test_modes_of_snapshots_are_the_components():
    f = torch.zeros(40).double()
    f[5:7], f[15:19], f[28:38] = 1.0, 1.2, 0.9
    flow = tv_flow(f)
    t = torch.linspace(0, 1.02 * flow.extinction_time, 300, dtype=torch.float64)
    found = linear_decay_modes(flow.at(t), t)
    times, phi = flow.modes()
    torch.testing.assert_close(found.times, times, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.modes, phi, rtol=0, atol=1e-9)
