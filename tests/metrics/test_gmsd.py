"""Gradient magnitude similarity deviation, against piq and the definition by scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from assay.data import photos
from assay.metrics import gmsd


def test_it_is_that_of_piq():
    """piq.gmsd(x, y, data_range=1.0, reduction="none"), version 0.8, float64."""
    x = torch.stack(list(photos(["coffee", "astronaut"]).values())).double()
    y = (0.8 * x.roll((2, 1), (2, 3)) + 0.15 * x.flip(3)).clamp(0, 1)
    expected = torch.tensor([0.190760883179, 0.209877333196], dtype=torch.float64)
    torch.testing.assert_close(gmsd(x, y), expected, rtol=0, atol=1e-11)


def definition(a, b):
    prewitt = np.array([[1, 0, -1]] * 3) / 3

    def magnitude(image):
        halved = image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2]
        halved = (halved[::2, ::2] + halved[1::2, ::2] + halved[::2, 1::2] + halved[1::2, 1::2]) / 4
        across, down = (ndimage.convolve(halved, kernel, mode="constant") for kernel in (prewitt, prewitt.T))
        return np.hypot(across, down)

    a, b, c = magnitude(a), magnitude(b), 170 / 255**2
    return np.std((2 * a * b + c) / (a**2 + b**2 + c))


@pytest.mark.parametrize("name", ["brick", "camera", "cell", "clock", "grass"])
def test_it_is_the_definition(name):
    image = photos(name, color=False)[name].double()[:, :101, :90]
    other = 0.6 * image + 0.4 * image.flip(1)
    torch.testing.assert_close(
        gmsd(image[None], other[None]).item(), definition(image[0].numpy(), other[0].numpy()), rtol=1e-10, atol=0
    )


def test_grey_is_a_weighted_mean_and_the_unit_does_not_matter():
    x, y = torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    grey = gmsd((x * weights).sum(1, keepdim=True), (y * weights).sum(1, keepdim=True))
    torch.testing.assert_close(gmsd(x, y), grey)
    torch.testing.assert_close(gmsd(255 * x, 255 * y, data_range=255.0), grey)
    torch.testing.assert_close(gmsd(y, x), grey)
    assert (grey > 0.05).all()


def test_equal_and_evenly_dimmed_edges_are_at_zero():
    """A deviation, not a mean: similarities that are low but the same everywhere score 0."""
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = gmsd(x, x.detach())
    value.sum().backward()
    assert value.item() < 1e-6
    assert x.grad.isfinite().all()
    flat = torch.full((1, 1, 16, 16), 0.5, requires_grad=True)
    gmsd(flat, torch.rand(1, 1, 16, 16)).sum().backward()
    assert flat.grad.isfinite().all()


def test_gradient():
    x, y = torch.rand(2, 1, 3, 10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(gmsd, (x.requires_grad_(), y.requires_grad_()))


def test_what_cannot_be_compared_is_refused():
    x = torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        gmsd(x.expand(1, 2, 8, 8), x.expand(1, 2, 8, 8))
    with pytest.raises(ValueError, match="4 x 4"):
        gmsd(x[..., :3, :], x[..., :3, :])
    with pytest.raises(ValueError, match="c must be positive"):
        gmsd(x, x, c=0.0)
    with pytest.raises(ValueError, match="data_range"):
        gmsd(x, x, data_range=-1.0)
    with pytest.raises(ValueError, match="x must be finite"):
        gmsd(x * math.inf, x)
    with pytest.warns(UserWarning, match="data_range"):
        gmsd(x, x + 3)
