"""Energy profiles: the authors' numbers, gradient descent step by step, limits; what is refused."""

import numpy as np
import pytest
import torch

from assay.probes import PatchBasis, energy_profile, filter_whiteness, fit_time, linear_cnn_profile, patch_basis


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(int(np.prod(shape))).double()).view(shape)


# calc_energy_profile and fit_formula_to_model of github.com/RheaChowers/CNNs-First-Layer: basis the q of
# torch.linalg.qr(waves((8, 8), .3)**3 + eye(8)), weights waves((5, 2, 2, 2), .1), initial .3 waves((5, 2, 2, 2), 2);
# without initial weights and normalization; the fit to the first at standard deviations LAMBDAS of 1000 images,
# every 2500th number of steps from 10,000 to 5,000,000.
OFFICIAL = [1.0, 0.8900271474501507, 0.6808511370300544, 0.4019742809582352]
OFFICIAL += [0.32381837839396543, 0.18467884922900746, 0.1947477783276145, 0.053570258872166536]
OFFICIAL_PLAIN = [0.5441996069256491, 0.5051026017312789, 0.3857966602782647, 0.22491280110771272]
OFFICIAL_PLAIN += [0.1771372716147572, 0.10382370216351462, 0.11060270692975596, 0.03026312537951031]
LAMBDAS = [900.0, 400.0, 150.0, 90.0, 40.0, 25.0, 12.0, 7.0]
OFFICIAL_FIT = [0.9756446240593365, 1.0, 0.4709605250832446, 0.289722456427779]
OFFICIAL_FIT += [0.13023439428714628, 0.08153540561713776, 0.03916994444565398, 0.022852932667002605]
OFFICIAL_CORRELATION = 0.9715801979403065


def filters():
    basis = torch.linalg.qr(waves((8, 8), 0.3) ** 3 + torch.eye(8).double()).Q
    return waves((5, 2, 2, 2), 0.1), 0.3 * waves((5, 2, 2, 2), 2.0), basis


def images(n=60, c=2, side=6, seed=0):
    return torch.randn(n, c, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_profiles_are_the_authors():
    weight, initial, basis = filters()
    assert energy_profile(weight, basis, initial=initial).tolist() == pytest.approx(OFFICIAL, rel=1e-9)
    plain = energy_profile(weight, basis, normalize=False)
    assert plain.tolist() == pytest.approx(OFFICIAL_PLAIN, rel=1e-9)
    single = energy_profile(weight.float(), basis, initial=initial.float())
    assert single.tolist() == pytest.approx(OFFICIAL, rel=1e-5)


def test_the_fit_is_the_authors():
    """On their grid the same profile, up to half their rate, 1e-7 / 2000 * 900^2, in the exponent; on ours no worse."""
    rate, measured, sigma = 1e-7 / 2000 * 900**2, torch.tensor(OFFICIAL), torch.tensor(LAMBDAS)
    tried = [linear_cnn_profile(sigma, rate * steps) for steps in range(10_000, 5_000_000, 2_500)]
    best = max(tried, key=lambda profile: np.corrcoef(profile, measured)[0, 1])
    assert best.tolist() == pytest.approx(OFFICIAL_FIT, abs=2e-4)
    found = fit_time(measured, sigma, grid=4000)
    assert OFFICIAL_CORRELATION - 1e-6 <= found.correlation <= OFFICIAL_CORRELATION + 1e-4


def test_the_formula_is_gradient_descent_on_a_linear_network():
    """Full batch, labels with |q_i| = sigma_i, at every number of steps; in the limit of small steps."""
    sigma = torch.tensor([1.0, 0.7, 0.31, 0.12, 0.05], dtype=torch.float64)
    turn = torch.linalg.qr(waves((5, 5), 0.4) ** 3 + torch.eye(5).double()).Q
    covariance, labels = turn @ torch.diag(sigma**2) @ turn.T, turn @ (sigma * torch.tensor([1, -1, 1, 1, -1.0]))
    eta, v, seen = 1e-3, torch.zeros(5, dtype=torch.float64), {}
    for step in range(1, 20_001):
        v = v + eta * (labels - covariance @ v)
        if step in (1, 300, 4_000, 20_000):
            seen[step] = v
    for step, v in seen.items():
        found = energy_profile(v[None], turn)
        expected = linear_cnn_profile(sigma, eta * step)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)  # eta / 2 of the exponent, at most
    assert seen[300].abs().max() < seen[20_000].abs().max()


def test_limits_and_the_hump():
    sigma = torch.logspace(0, -2, 30, dtype=torch.float64)
    early, late = linear_cnn_profile(sigma, 1e-7), linear_cnn_profile(sigma, 1e9)
    torch.testing.assert_close(early, sigma)
    torch.testing.assert_close(late, sigma.min() / sigma)
    middle = linear_cnn_profile(sigma, 100.0)
    peak = int(middle.argmax())
    assert 0 < peak < 29
    assert 100 * sigma[peak].item() ** 2 == pytest.approx(1.256, rel=0.4)  # x = t sigma^2 with e^x = 1 + 2 x; grid 37 %
    torch.testing.assert_close(linear_cnn_profile(5 * sigma, 3.0), linear_cnn_profile(sigma, 3.0))
    assert linear_cnn_profile(torch.tensor([1.0, 0.0]), 2.0).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("stride", [1, 2])
def test_the_basis_by_numpy(stride):
    x = images() * torch.linspace(0.5, 2, 6) + 3
    patches = np.array(
        [
            x[n, :, i : i + 3, j : j + 3].numpy().ravel()
            for n in range(60)
            for i in range(0, 4, stride)
            for j in range(0, 4, stride)
        ]
    )
    found = patch_basis(x, 3, stride=stride)
    values, vectors = np.linalg.eigh(np.cov(patches.T, bias=True))
    np.testing.assert_allclose(found.singular, np.sqrt(values[::-1]), rtol=1e-10)
    np.testing.assert_allclose(abs(vectors[:, ::-1].T @ found.basis.numpy()), np.eye(18), atol=1e-6)
    raw = patch_basis(x, 3, stride=stride, center=False)
    np.testing.assert_allclose(raw.singular[0] ** 2, np.linalg.eigvalsh(patches.T @ patches / len(patches))[-1])
    assert patch_basis(x.float(), 3, stride=stride).singular.dtype == torch.float64


def test_mean_patches_are_what_a_linear_network_sees():
    """w . (mean patch) is the mean of the convolution."""
    x = images(300)
    found = patch_basis(x, 2, mean_patches=True)
    weight = waves((1, 2, 2, 2), 0.2)
    out = torch.nn.functional.conv2d(x, weight).mean((1, 2, 3))
    variance = (weight.flatten(1) @ found.basis * found.singular).square().sum().item()
    assert variance == pytest.approx(out.var(correction=0).item(), rel=1e-9)


def test_components_without_variance_are_left_out():
    x = images()
    x[:, 1] = 2 * x[:, 0]
    found = patch_basis(x, 2)
    assert found.basis.shape == (8, 4)
    assert energy_profile(waves((3, 2, 2, 2), 0.1), found.basis).shape == (4,)


def test_white_noise_is_flat_and_mixing_changes_nothing():
    flat = patch_basis(images(4000, 1, 4), 2).singular
    assert (flat.max() / flat.min()).item() < 1.1
    weight, _, basis = filters()
    mix = torch.linalg.qr(waves((5, 5), 0.9) ** 3 + torch.eye(5).double()).Q
    mixed = (mix @ weight.flatten(1)).view_as(weight)
    torch.testing.assert_close(energy_profile(mixed, basis), energy_profile(weight, basis))
    torch.testing.assert_close(
        energy_profile(weight[torch.tensor([3, 1, 0, 4, 2])], basis), energy_profile(weight, basis)
    )
    patches = PatchBasis(basis, torch.tensor(LAMBDAS).double())
    assert filter_whiteness(mixed, patches) == pytest.approx(filter_whiteness(weight, patches), rel=1e-9)


def test_whiteness():
    _, _, basis = filters()
    patches = PatchBasis(basis, torch.tensor(LAMBDAS).double())
    white = (basis / patches.singular).T
    assert filter_whiteness(white, patches) == pytest.approx(1, abs=1e-12)
    assert filter_whiteness(basis[:, :1].T, patches) == pytest.approx(1 / 8, abs=1e-12)
    bank = waves((5, 8), 0.1)
    root = basis @ torch.diag(patches.singular) @ basis.T
    values = torch.linalg.eigvalsh(root @ bank.T @ bank @ root).clamp_min(1e-30)
    share = values / values.sum()
    expected = (-(share * share.log()).sum()).exp().item() / 8
    assert filter_whiteness(bank, patches) == pytest.approx(expected, rel=1e-9)


def test_the_time_is_found_again():
    sigma = torch.logspace(0, -2, 25, dtype=torch.float64)
    for t in (0.5, 20.0, 3000.0):
        found = fit_time(linear_cnn_profile(sigma, t) * 3 + 1, sigma)
        assert found.t == pytest.approx(t, rel=0.03)  # half a step of the grid
        assert found.correlation > 0.999
        best = max(
            np.corrcoef(linear_cnn_profile(sigma, s), linear_cnn_profile(sigma, t))[0, 1]
            for s in np.logspace(-2, 8, 400)
        )
        assert found.correlation == pytest.approx(best, abs=1e-12)


def test_what_is_refused():
    x, (weight, _, basis) = images(), filters()
    sigma = torch.tensor(LAMBDAS)
    with pytest.raises(ValueError, match=r"images must be \(n, c, h, w\)"):
        patch_basis(x[0], 2)
    for kernel in (0, 7):
        with pytest.raises(ValueError, match=r"kernel must lie in 1..6"):
            patch_basis(x, kernel)
    with pytest.raises(ValueError, match="stride must be at least 1: got 0"):
        patch_basis(x, 2, stride=0)
    with pytest.raises(ValueError, match="images must be finite"):
        patch_basis(x / 0, 2)
    with pytest.raises(ValueError, match=r"at least 18 patches.*got 4"):
        patch_basis(x[:4], 3, mean_patches=True)
    with pytest.raises(ValueError, match="images must vary"):
        patch_basis(torch.ones(30, 1, 3, 3), 2)
    with pytest.raises(ValueError, match="weight must have filters of 8 numbers"):
        energy_profile(weight[:, :1], basis)
    with pytest.raises(ValueError, match="initial must be shaped as weight"):
        energy_profile(weight, basis, initial=weight[:1])
    with pytest.raises(ValueError, match="weight must be finite"):
        energy_profile(weight / 0, basis)
    with pytest.raises(ValueError, match="weight must differ from initial"):
        energy_profile(weight, basis, initial=weight)
    for t in (0.0, float("inf")):
        with pytest.raises(ValueError, match="t must be above 0"):
            linear_cnn_profile(sigma, t)
    for wrong in (-sigma, 0 * sigma):
        with pytest.raises(ValueError, match="singular must be a vector"):
            linear_cnn_profile(wrong, 1.0)
    with pytest.raises(ValueError, match="vectors of one length"):
        fit_time(sigma[:2], sigma[:2])
    with pytest.raises(ValueError, match="grid must be at least 2: got 1"):
        fit_time(sigma, sigma, grid=1)
    with pytest.raises(ValueError, match="profile must vary"):
        fit_time(torch.ones(8), sigma)
    patches = PatchBasis(basis, sigma.double())
    with pytest.raises(ValueError, match="as patches"):
        filter_whiteness(weight[:, :1], patches)
    with pytest.raises(ValueError, match="must be finite"):
        filter_whiteness(weight / 0, patches)
    with pytest.raises(ValueError, match="must not be 0 throughout"):
        filter_whiteness(0 * weight, patches)
