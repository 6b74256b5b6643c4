"""PSNR against its formula and known values."""

import math

import numpy as np
import pytest
import torch

from assay.metrics import psnr


@pytest.mark.parametrize("data_range", [1.0, 255.0, 2.0])
def test_against_the_formula_in_numpy(data_range):
    rng = np.random.default_rng(0)
    estimate, target = rng.random((2, 3, 5, 7)) * data_range, rng.random((2, 3, 5, 7)) * data_range
    mse = sum((float(a) - float(b)) ** 2 for a, b in zip(estimate.flat, target.flat, strict=True)) / estimate.size
    expected = 20 * math.log10(data_range) - 10 * math.log10(mse)
    assert psnr(torch.from_numpy(estimate), torch.from_numpy(target), data_range) == pytest.approx(expected, abs=1e-10)


def test_one_grey_level_of_255_is_48_decibels():
    target = torch.full((1, 8, 8), 0.3, dtype=torch.float64)
    assert psnr(target + 1 / 255, target) == pytest.approx(20 * math.log10(255), abs=1e-9)


def test_ten_times_the_error_is_twenty_decibels_less():
    target, error = torch.rand(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    assert psnr(target + 0.01 * error, target) - psnr(target + 0.1 * error, target) == pytest.approx(20, abs=1e-9)


def test_float32_is_summed_in_float64():
    # A quarter of a million squares of 1e-4: summed in float32 one after another they would be off by far more.
    target = torch.zeros(512, 512)
    expected = -20 * math.log10(float(torch.tensor(1e-4)))
    assert psnr(target + 1e-4, target) == pytest.approx(expected, abs=1e-9)


def test_equal_images_are_infinitely_good():
    assert psnr(torch.full((3,), 0.2), torch.full((3,), 0.2)) == math.inf


def test_refused_inputs():
    image = torch.rand(4)
    with pytest.raises(ValueError, match="estimate must have entries"):
        psnr(torch.zeros(0), torch.zeros(0))
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="data_range must be positive and finite"):
            psnr(image, image, bad)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="must be finite"):
            psnr(torch.full((4,), bad), image)
    with pytest.raises(Exception, match=r"estimate|shape"):
        psnr(torch.rand(4), torch.rand(5))
