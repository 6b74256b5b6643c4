"""Curves: arc length, tangents, closed forms."""

import math

import pytest
import torch

from assay.data import curves


def grid(curve, n=20_001):
    return torch.linspace(*curve.interval, n, dtype=torch.float64)


@pytest.mark.parametrize(
    "curve",
    [
        curves.circle(),
        curves.circle(2.5, (3.0, -1.0)),
        curves.tractrix(),
        curves.embedded(curves.tractrix(2.0), 6, generator=torch.Generator().manual_seed(0)),
        curves.sphere_path(4, generator=torch.Generator().manual_seed(0)),
    ],
)
def test_the_parameter_is_arc_length(curve):
    s = grid(curve)
    steps = curve(s).diff(dim=0).norm(dim=1)
    torch.testing.assert_close(steps, s.diff(), rtol=2e-3, atol=1e-9)  # a chord is shorter, most at the cusp
    assert steps.sum().item() == pytest.approx(curve.length, rel=1e-6)
    assert torch.allclose(curve(s)[0], curve(s)[-1], atol=1e-9) == curve.closed


def test_the_tractrix_is_the_tractrix():
    """Its tangent meets the first axis at distance 1; and it is the formula in t."""
    curve = curves.tractrix()
    s = torch.tensor([-3.0, -0.4, 0.2, 1.0, 2.5], dtype=torch.float64)
    t = curves.tractrix_parameter(s)
    torch.testing.assert_close(t.cosh().log(), s.abs())
    torch.testing.assert_close(curve(s), torch.stack([t - t.tanh(), 1 / t.cosh()], 1))
    tangent = (curve(s + 1e-6) - curve(s - 1e-6)) / 2e-6
    torch.testing.assert_close((curve(s)[:, 1] / tangent[:, 1]).abs(), torch.ones(5).double(), rtol=1e-7, atol=0)


def test_angles_from_the_origin():
    assert curves.circle().subtended_angle == pytest.approx(2 * math.pi, rel=1e-6)
    # seen from two radii away, a circle lies between two tangents at 30 degrees to the axis: forth and back
    assert curves.circle(1.0, (2.0, 0.0)).subtended_angle == pytest.approx(2 * math.pi / 3, rel=1e-4)


def test_a_line_of_codes():
    path = curves.latent_path(lambda z: z @ torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.zeros(2), torch.ones(2))
    assert path.length == pytest.approx(5, rel=1e-5)
    torch.testing.assert_close(path(torch.tensor([0.5])), torch.tensor([[1.5, 2.0]]))


def test_what_is_refused():
    for make, name in (
        (lambda: curves.circle(0.0), "radius"),
        (lambda: curves.tractrix(-1.0), "span"),
        (lambda: curves.sphere_path(1), "dim"),
        (lambda: curves.latent_path(lambda z: z, torch.zeros(1), torch.ones(1), samples=0), "samples"),
    ):
        with pytest.raises(ValueError, match=name):
            make()
