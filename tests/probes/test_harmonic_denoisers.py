"""Denoisers: Jacobians against linear ones, Stein's identity, disagreement in closed form, sampling, refusals."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from assay.nn import BiasFreeUNet, UNet
from assay.probes import (
    JacobianBasis,
    blind_denoiser_loss,
    denoiser_samples,
    model_disagreement,
    psnr_curve,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def wiener(size=5, sigma=0.5):
    """(the covariance's eigenvectors and eigenvalues, the filter) of images of size x size."""
    basis = torch.linalg.qr(torch.randn(size**2, size**2, generator=seeded(), dtype=torch.float64))[0]
    spread = torch.linspace(2.0, 0.01, size**2, dtype=torch.float64) ** 2
    matrix = basis @ torch.diag(spread / (spread + sigma**2)) @ basis.T
    return basis, spread, lambda y: (y.flatten(1) @ matrix.T).view_as(y)


def test_a_linear_denoiser_is_its_own_jacobian():
    """Reference: the Wiener filter, whose eigenvalues are c / (c + sigma^2) in the basis of the covariance."""
    basis, spread, filtered = wiener()
    y = torch.randn(1, 1, 5, 5, generator=seeded(1), dtype=torch.float64)
    found = JacobianBasis(filtered, y, chunk=7)
    torch.testing.assert_close(found.eigenvalues, spread / (spread + 0.25))
    along = found.eigenvectors.flatten(1) @ basis
    torch.testing.assert_close(along.abs(), torch.eye(25, dtype=torch.float64), atol=1e-6, rtol=0)
    assert found.asymmetry < 1e-12
    assert found.effective_dimension == pytest.approx((spread / (spread + 0.25)).sum().item())
    torch.testing.assert_close(found.shrink(y), filtered(y))


def test_what_is_not_symmetric_is_told():
    """A rotation by 90 degrees has no symmetric part; half of it has as much as the identity that it is added to."""
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    y = torch.ones(1, 1, 1, 2)
    assert JacobianBasis(lambda v: v + (v.flatten(1) @ turn.T).view_as(v), y).asymmetry == pytest.approx(1.0)
    assert JacobianBasis(lambda v: (v.flatten(1) @ turn.T).view_as(v), y).asymmetry == math.inf


def test_a_network_without_constants_is_its_shrinkage_up_to_the_odd_part():
    """Ancestor: a U-Net with constants is not J y."""
    torch.manual_seed(0)
    y = torch.rand(1, 1, 8, 8)
    for net, equal in ((BiasFreeUNet(width=4, levels=1), True), (UNet(1, 1, width=4, levels=1), False)):
        for _ in range(3):
            net(torch.rand(4, 1, 8, 8))
        net.eval()
        found = JacobianBasis(net, y)
        odd = found.asymmetry * found.eigenvalues.norm() * y.norm()
        gap = (net(y) - found.shrink(y)).norm()
        assert bool(gap <= odd * (1 + 1e-4)) is equal


def test_steins_identity():
    """E|f - x|^2 = E|f - y|^2 + 2 sigma^2 E tr J - d sigma^2: the effective dimension is the trace."""
    _, spread, filtered = wiener()
    basis = wiener()[0]
    sigma, n = 0.5, 40_000
    x = torch.randn(n, 25, generator=seeded(2), dtype=torch.float64) * spread.sqrt() @ basis.T
    x = x.view(n, 1, 5, 5)
    y = x + sigma * torch.randn(x.shape, generator=seeded(3), dtype=torch.float64)
    out = filtered(y)
    trace = JacobianBasis(filtered, y[:1]).effective_dimension
    left = (out - x).square().flatten(1).sum(1)
    right = (out - y).square().flatten(1).sum(1) + 2 * sigma**2 * trace - 25 * sigma**2
    error = (left - right).std().item() / n**0.5
    assert (left - right).mean().item() == pytest.approx(0, abs=4 * error)


def test_disagreement_in_closed_form():
    """Two constants a and b on images of zeros: |a - b|^2 / 2 over (a^2 + b^2) / 2; of one sign and none centered."""
    clean = torch.zeros(3, 1, 2, 2)
    found = model_disagreement(lambda y: torch.full_like(y, 3.0), lambda y: torch.full_like(y, 1.0), clean, 1.0)
    assert found.variance_share == pytest.approx(4 / 10)
    assert (found.mse_a, found.mse_b) == (9.0, 1.0)
    ramp = torch.arange(4.0).view(1, 1, 2, 2)
    apart = model_disagreement(lambda y: ramp + 7, lambda y: 2 * ramp, clean[:1], 1.0)
    assert apart.cosine == pytest.approx(1)
    assert model_disagreement(lambda y: ramp, lambda y: -ramp, clean[:1], 1.0).cosine == pytest.approx(-1)
    same = model_disagreement(nn.Tanh(), nn.Tanh(), torch.rand(2, 1, 4, 4), 0.3, generator=seeded())
    assert same.variance_share == 0
    assert same.cosine == pytest.approx(1)


def test_the_loss_is_least_for_the_noise_and_its_levels_are_uniform():
    """A model that says 0 pays E sigma^2 = (b^3 - a^3) / (3 (b - a))."""
    clean = torch.rand(4000, 1, 4, 4, generator=seeded(1))

    class Nothing(nn.Module):
        def forward(self, y):
            return torch.zeros_like(y)

    class Knows(nn.Module):
        def forward(self, y):
            return y - clean

    paid = blind_denoiser_loss(Nothing(), clean, sigma_range=(0.5, 1.5), generator=seeded(2)).item()
    assert paid == pytest.approx((1.5**3 - 0.5**3) / 3, rel=0.03)
    assert blind_denoiser_loss(Knows(), clean, generator=seeded(2)).item() < 1e-12


def test_curve_of_the_identity_falls_with_the_noise():
    clean = torch.rand(50, 1, 16, 16, generator=seeded())
    found = psnr_curve(lambda y: y, clean, [0.01, 0.1, 1.0], generator=seeded(1))
    torch.testing.assert_close(found, torch.tensor([40.0, 20.0, 0.0], dtype=torch.float64), atol=0.15, rtol=0)


def test_sampling_follows_the_score_to_its_distribution():
    """The best residual of a Gaussian at 0.5 of variance c: samples have its mean and, nearly, its spread."""
    c = 0.04

    class Best(nn.Module):
        """sigma is read off the image, as a blind denoiser does: E y^2 = c + sigma^2."""

        def forward(self, y):
            centered = y - 0.5
            total = centered.square().mean((1, 2, 3), keepdim=True)
            noise = (total - c).clamp_min(0)
            return centered * noise / total

    found = denoiser_samples(Best(), (64, 1, 16, 16), step=0.05, beta=0.5, sigma_end=0.02, generator=seeded())
    assert found.mean().item() == pytest.approx(0.5, abs=0.01)
    assert (found - 0.5).square().mean().item() == pytest.approx(c, rel=0.25)


def test_without_added_noise_it_is_a_descent():
    """beta = 1: the residual shrinks by 1 - h a step until it is below the end."""
    calls = []

    class All(nn.Module):
        def forward(self, y):
            calls.append(y.square().mean().sqrt().item())
            return y

    denoiser_samples(All(), (1, 1, 8, 8), step=0.5, beta=1.0, mean=0.0, sigma_end=0.05, generator=seeded())
    for before, after in pairwise(calls):
        assert after == pytest.approx(before / 2, rel=1e-5)
    assert calls[-1] <= 0.05 < calls[-2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: JacobianBasis(nn.Identity(), torch.ones(2, 1, 2, 2)), r"noisy must be \(1, 1, h, w\): got"),
        (lambda: JacobianBasis(nn.Identity(), torch.ones(1, 1, 65, 64)), "at most 4096 pixels"),
        (
            lambda: JacobianBasis(lambda y: y[..., :1], torch.ones(1, 1, 2, 2)),
            "must keep the number of pixels, 4: got 2",
        ),
        (lambda: JacobianBasis(nn.Identity(), torch.full((1, 1, 2, 2), math.nan)), "finite"),
        (
            lambda: model_disagreement(nn.Identity(), nn.Identity(), torch.ones(1, 1, 2, 2), 0.0),
            "sigma must be above 0",
        ),
        (lambda: model_disagreement(nn.Identity(), nn.Identity(), torch.ones(0, 1, 2, 2), 1.0), "at least one image"),
        (
            lambda: model_disagreement(nn.Identity(), nn.Flatten(), torch.ones(1, 1, 2, 2), 1.0),
            r"must keep the shape \(1, 1, 2, 2\): got \(1, 4\)",
        ),
        (lambda: blind_denoiser_loss(nn.Identity(), torch.ones(1, 1, 2, 2), sigma_range=(1.0, 0.0)), "sigma_range"),
        (lambda: psnr_curve(nn.Identity(), torch.ones(1, 1, 2, 2), [0.1, -1.0]), "sigma must be above 0"),
        (lambda: denoiser_samples(nn.Identity(), (1, 1, 2, 2), sigma_end=2.0), "sigma_end must lie between"),
        (lambda: denoiser_samples(nn.Identity(), (1, 1, 2, 2), step=0.0), r"step must lie in \(0, 1\]"),
        (lambda: denoiser_samples(nn.Identity(), (1, 1, 2, 2), beta=1.5), r"beta in \[0, 1\]"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
