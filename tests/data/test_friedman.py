"""Friedman's function against its formula and its moments, the noise against its distribution."""

import math

import pytest
import torch
from scipy.integrate import nquad
from scipy.stats import kstest

from assay import data


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_targets_are_the_formula():
    points = data.friedman(50, features=7, noise=0.0, generator=seeded())
    assert points.inputs.shape == (50, 7)
    for row, target in zip(points.inputs.tolist(), points.targets.tolist(), strict=True):
        expected = 10 * math.sin(math.pi * row[0] * row[1]) + 20 * (row[2] - 0.5) ** 2 + 10 * row[3] + 5 * row[4]
        assert target == pytest.approx(expected, rel=1e-5)


def test_the_moments_it_names():
    sine = nquad(lambda a, b: 10 * math.sin(math.pi * a * b), [[0, 1], [0, 1]])[0]
    square = nquad(lambda a, b: 100 * math.sin(math.pi * a * b) ** 2, [[0, 1], [0, 1]])[0]
    variance = square - sine**2 + 400 * (1 / 80 - 1 / 144) + 100 / 12 + 25 / 12
    assert (sine + 20 / 12 + 5 + 2.5, math.sqrt(variance)) == pytest.approx((14.41, 4.88), abs=0.005)
    targets = data.friedman(40_000, noise=0.0, generator=seeded()).targets.double()
    assert targets.mean().item() == pytest.approx(14.41, abs=0.005 + 5 * 4.88 / 200)
    assert targets.std().item() == pytest.approx(4.88, abs=0.005 + 5 * 4.88 / 200)


@pytest.mark.parametrize(("degrees", "distribution", "arguments"), [(None, "norm", ()), (3, "t", (3,)), (1, "t", (1,))])
def test_the_noise_has_its_distribution(degrees, distribution, arguments):
    clean, noisy = (data.friedman(5_000, noise=noise, degrees=degrees, generator=seeded(1)) for noise in (0.0, 2.0))
    assert torch.equal(clean.inputs, noisy.inputs)
    error = ((noisy.targets - clean.targets).double() / 2).numpy()
    assert kstest(error, distribution, arguments).pvalue > 1e-3
    other = ("t", (3,)) if degrees is None else ("norm", ())
    assert kstest(error, *other).pvalue < 1e-3


def test_what_is_refused():
    for bad, name in (
        (dict(count=0), "count"),
        (dict(features=4), "features"),
        (dict(noise=-1.0), "noise"),
        (dict(noise=math.nan), "noise"),
        (dict(degrees=0), "degrees"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be"):
            data.friedman(**(dict(count=3) | bad))
