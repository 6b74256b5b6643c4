"""Classical invariants: formulas by hand, what they do not change with, what is refused."""

import pytest
import torch

from assay.imaging import census, gradient_orientation, local_contrast_normalize, log_chromaticity, self_quotient


def picture(c=3, h=9, w=11):
    return 0.1 + 0.8 * torch.rand(c, h, w, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def smooth(x, sigma):
    """A Gaussian of 3 sigmas to each side, place by place, borders repeated."""
    reach = round(3 * sigma)
    out = torch.zeros_like(x)
    total = 0.0
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            weight = torch.tensor(-(dy * dy + dx * dx) / (2 * sigma**2)).exp().item()
            rows = (torch.arange(x.shape[1]) + dy).clamp(0, x.shape[1] - 1)
            cols = (torch.arange(x.shape[2]) + dx).clamp(0, x.shape[2] - 1)
            out += weight * x[:, rows][:, :, cols]
            total += weight
    return out / total


def test_log_chromaticity():
    x = picture()
    expected = (x[1] + 1e-3).log() - 0.4 * (x[2] + 1e-3).log() - 0.6 * (x[0] + 1e-3).log()
    torch.testing.assert_close(log_chromaticity(x, 0.4)[0], expected)
    # The 0.001 under the logarithms leaves at most 0.001 / 0.1 of a change, times 2.
    torch.testing.assert_close(log_chromaticity(x), log_chromaticity(3 * x), rtol=0, atol=0.02)
    assert not torch.allclose(log_chromaticity(x), log_chromaticity(x * torch.tensor([1, 2, 1]).view(3, 1, 1)))


def test_census():
    x = picture(1)
    found = census(x, radius=1)
    offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    for channel, (dy, dx) in zip(found, offsets, strict=True):
        assert torch.equal(channel[1:-1, 1:-1], (x[0, 1 + dy : 8 + dy, 1 + dx : 10 + dx] > x[0, 1:-1, 1:-1]).double())
    assert torch.equal(census(x), census(3 * x**0.5 - 1))
    assert len(census(x)) == 24


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_local_normalizations(sigma):
    x = picture()
    mean = smooth(x, sigma)
    expected = (x - mean) / (smooth((x - mean) ** 2, sigma).sqrt() + 1e-3)
    torch.testing.assert_close(local_contrast_normalize(x, sigma), expected)
    torch.testing.assert_close(self_quotient(x, sigma), (x + 1e-3) / (mean + 1e-3))
    torch.testing.assert_close(self_quotient(x, sigma), self_quotient(4 * x, sigma), rtol=0.02, atol=0)
    # The 0.001 is at most a hundredth of a deviation that is above 0.1.
    torch.testing.assert_close(
        local_contrast_normalize(x, sigma), local_contrast_normalize(2 * x + 1, sigma), rtol=0.02, atol=1e-9
    )


def test_gradient_orientation():
    x = picture()
    grey = x.mean(0)
    down, across = (grey[2:, 1:-1] - grey[:-2, 1:-1]) / 2, (grey[1:-1, 2:] - grey[1:-1, :-2]) / 2
    found = gradient_orientation(x)[:, 1:-1, 1:-1]
    torch.testing.assert_close(found, torch.stack([down, across]) / ((down**2 + across**2).sqrt() + 1e-3))
    assert gradient_orientation(torch.full((1, 4, 4), 0.5)).abs().max() == 0


def test_what_is_refused():
    with pytest.raises(ValueError, match="channels"):
        log_chromaticity(picture(2))
    with pytest.raises(ValueError, match="alpha"):
        log_chromaticity(picture(), 1.5)
    with pytest.raises(ValueError, match="radius"):
        census(picture(), radius=0)
    for method in (local_contrast_normalize, self_quotient):
        with pytest.raises(ValueError, match="sigma"):
            method(picture(), 0.0)
