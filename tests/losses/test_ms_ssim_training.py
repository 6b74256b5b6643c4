"""Losses of structural similarity: one minus the measure, with a gradient also where other libraries have none."""

import math

import pytest
import torch

from assay.losses import MSSSIMLoss, SSIMLoss
from assay.metrics import ms_ssim, ssim


def pair(n=3, c=2, h=30, w=34):
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.rand(2, n, c, h, w, generator=generator, dtype=torch.float64)
    return x, 0.7 * x + 0.3 * noise


@pytest.mark.parametrize(
    ("loss", "measure", "options"),
    [
        (SSIMLoss, ssim, {}),
        (SSIMLoss, ssim, dict(window=6, sigma=2.0, stride=3, data_range=2.0, k=(0.02, 0.05))),
        (SSIMLoss, ssim, dict(sigma=None)),
        (MSSSIMLoss, ms_ssim, {}),
        (MSSSIMLoss, ms_ssim, dict(weights=(0.2, 0.5), window=6, sigma=2.0, data_range=2.0, k=(0.02, 0.05))),
        (MSSSIMLoss, ms_ssim, dict(weights=(0.2, 0.5), sigma=None, shrink=False)),
    ],
)
def test_one_minus_the_measure(loss, measure, options):
    x, y = pair()
    values = 1 - measure(x, y, **options)
    torch.testing.assert_close(loss(**options, reduction="none")(x, y), values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss(**options)(x, y), values.mean(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss(**options, reduction="sum")(x, y), values.sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", [SSIMLoss(), MSSSIMLoss()])
def test_descent_from_the_negative_makes_the_images_alike(loss):
    """The start is where a clamp at zero has no gradient; value and gradient lead all the way."""
    target = pair(n=1, c=1, h=48, w=48)[0]
    logits = torch.special.logit(1 - target, eps=0.01).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    assert loss(logits.sigmoid(), target).item() > 1.5
    for _ in range(80):
        optimizer.zero_grad()
        loss(logits.sigmoid(), target).backward()
        optimizer.step()
    assert loss(logits.sigmoid(), target).item() < 0.5


def test_ancestor_squared_error_prefers_the_blur():
    """Of two distortions of equal squared error, a shift of brightness costs less structure than noise does."""
    x, _ = pair(n=1, c=1, h=48, w=48)
    x = 0.25 + 0.5 * x
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    noisy, brighter = x + 0.1 * noise / noise.square().mean().sqrt(), x + 0.1
    torch.testing.assert_close((noisy - x).square().mean(), (brighter - x).square().mean())
    for loss in (SSIMLoss(), MSSSIMLoss()):
        assert loss(noisy, x) > 2 * loss(brighter, x)


@pytest.mark.parametrize("loss", [SSIMLoss, MSSSIMLoss])
def test_what_it_cannot_work_with_is_refused(loss):
    x, y = pair()
    for options, name in (
        (dict(window=0), "window"),
        (dict(sigma=-1.0), "sigma"),
        (dict(data_range=0.0), "data_range"),
        (dict(k=(0.0, 0.03)), "k must"),
        (dict(reduction="median"), "reduction"),
    ):
        with pytest.raises(ValueError, match=name):
            loss(**options)
    with pytest.raises(Exception, match=r"output|target"):
        loss()(x, y[1:])
    with pytest.raises(ValueError, match=r"output must be at least|images must have room"):
        loss()(x[..., :6, :], y[..., :6, :]) if loss is SSIMLoss else loss(shrink=False)(x, y)
    with pytest.raises(ValueError, match="target must be finite"):
        loss()(x, y * math.nan)
    with pytest.warns(UserWarning, match="target"):
        loss()(x, 2 * y)
    loss()(2 * x, y)  # an output may leave the range while it learns


def test_options_of_one_loss_only_are_refused_too():
    with pytest.raises(ValueError, match="stride"):
        SSIMLoss(stride=0)
    with pytest.raises(ValueError, match="weights"):
        MSSSIMLoss(weights=(0.5, -0.5))
