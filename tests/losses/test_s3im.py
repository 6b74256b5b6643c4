"""S3IM against the authors' code, its definition window by window, and what its neighbours would give."""

import math

import pytest
import torch
from torch.nn import functional as F

from assay.losses import S3IM


def numbers(*shape, phase):
    """Generic values without a random generator: the recipe of the authors' numbers below."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (torch.sin(1.7 * i + phase) + 0.3 * torch.cos(0.37 * i * i + phase)).reshape(shape)


# model_components/s3im.py of github.com/Madaoer/S3IM-Neural-Fields after torch.manual_seed(0), in float32: value and
# norm of the gradient, for pixels numbers(n, 3, phase=0.2) / 3 + 1/2 against numbers(n, 3, phase=0.5) / 3 + 1/2.
OFFICIAL = {
    (8, 8, 4, 4, 3): (0.03723335266113281, 0.07592178136110306),
    (8, 12, 4, 2, 2): (0.03526318073272705, 0.057686179876327515),
    (6, 6, 3, 3, 1): (0.032530248165130615, 0.11262264847755432),
}


@pytest.mark.parametrize("case", OFFICIAL)
def test_the_released_window_is_the_authors(case):
    """Orders are drawn in the same sequence from the same generator."""
    height, width, kernel, stride, repeats = case
    x, y = ((numbers(height * width, 3, phase=phase) / 3 + 0.5).float() for phase in (0.2, 0.5))
    x.requires_grad_()
    loss = S3IM(kernel_size=kernel, stride=stride, repeats=repeats, patch=(height, width), window="released")
    torch.manual_seed(0)
    value = loss(x, y)
    value.backward()
    expected, norm = OFFICIAL[case]
    assert value.item() == pytest.approx(expected, abs=5e-7)  # of 1, in single precision
    assert x.grad.norm().item() == pytest.approx(norm, rel=1e-4)


def by_hand(x, y, order, height, width, k, stride):
    """Means, variances and covariance of each window's pixels, with equal weights."""
    total, count = 0.0, 0
    for channel in range(x.shape[1]):
        a, b = (pixels[order, channel].view(height, width) for pixels in (x, y))
        for top in range(0, height - k + 1, stride):
            for left in range(0, width - k + 1, stride):
                p, q = (image[top : top + k, left : left + k].flatten() for image in (a, b))
                mp, mq = p.mean(), q.mean()
                cov = ((p - mp) * (q - mq)).mean()
                vp, vq = ((p - mp) ** 2).mean(), ((q - mq) ** 2).mean()
                luminance = (2 * mp * mq + 1e-4) / (mp**2 + mq**2 + 1e-4)
                total += (luminance * (2 * cov + 9e-4) / (vp + vq + 9e-4)).item()
                count += 1
    return 1 - total / count


@pytest.mark.parametrize(("k", "stride", "patch"), [(4, 4, (8, 12)), (3, 2, (8, 12)), (1, 1, (4, 24))])
def test_uniform_windows_by_hand(k, stride, patch):
    x, y = (numbers(96, 3, phase=phase) / 3 + 0.5 for phase in (0.2, 0.5))
    loss = S3IM(kernel_size=k, stride=stride, repeats=3, patch=patch, generator=torch.Generator().manual_seed(1))
    found = loss(x, y).item()
    generator = torch.Generator().manual_seed(1)
    orders = [torch.arange(96), *(torch.randperm(96, generator=generator) for _ in range(2))]
    expected = sum(by_hand(x, y, order, *patch, k, stride) for order in orders) / 3
    assert found == pytest.approx(expected, rel=1e-9)


def test_equal_pixels_cost_nothing_and_a_shift_only_its_luminance():
    x = numbers(64, 3, phase=0.2) / 3 + 0.5
    assert abs(S3IM()(x, x).item()) < 1e-12
    flat, other = torch.full((64, 1), 0.4, dtype=torch.float64), torch.full((64, 1), 0.6, dtype=torch.float64)
    expected = 1 - (2 * 0.4 * 0.6 + 1e-4) / (0.4**2 + 0.6**2 + 1e-4)
    assert S3IM()(flat, other).item() == pytest.approx(expected, rel=1e-9)


def test_prediction_and_target_go_into_one_order():
    """Were they shuffled apart, equal pixels would differ; and other orders give other values of unequal ones."""
    x, y = (numbers(64, 3, phase=phase) / 3 + 0.5 for phase in (0.2, 0.5))
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(5))
    apart = S3IM(repeats=1)(x, x[shuffled]).item()
    assert apart > 0.3
    values = [S3IM(repeats=2, generator=torch.Generator().manual_seed(s))(x, y).item() for s in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_it_sees_more_than_one_pixel():
    """The ancestor is a mean of pixels: two predictions of equal squared error differ here by their structure."""
    y = numbers(64, 1, phase=0.5) / 3 + 0.5
    shifted = y + 0.1
    flickering = y + 0.1 * torch.tensor([1.0, -1.0]).double().repeat(32)[:, None]
    assert F.mse_loss(shifted, y).item() == pytest.approx(F.mse_loss(flickering, y).item())
    assert S3IM()(flickering, y) > 1.5 * S3IM()(shifted, y)


def test_gradient():
    x, y = (numbers(16, 2, phase=phase) / 3 + 0.5 for phase in (0.2, 0.5))
    loss = S3IM(repeats=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, y), x.requires_grad_())


def test_the_patch_it_takes_by_itself():
    assert S3IM()._sides(4096) == (64, 64)
    assert S3IM()._sides(96) == (8, 12)
    assert S3IM(kernel_size=3)._sides(27 * 3) == (9, 9)


def test_what_is_refused():
    x = torch.rand(64, 3)
    for name, value in (("kernel_size", 0), ("stride", 0), ("repeats", 0), ("patch", (2, 32)), ("window", "round")):
        with pytest.raises(ValueError, match=name):
            S3IM(**{name: value})
    with pytest.raises(ValueError, match=r"\(n, channels\), the same: got \(64, 3\) and \(63, 3\)"):
        S3IM()(x, x[1:])
    with pytest.raises(ValueError, match="prediction must be finite"):
        S3IM()(x * math.nan, x)
    with pytest.raises(ValueError, match=r"the patch \(8, 8\): got 32"):
        S3IM(patch=(8, 8))(x[:32], x[:32])
    with pytest.raises(ValueError, match="sides 4 divides: got 36 pixels"):
        S3IM()(x[:36], x[:36])
