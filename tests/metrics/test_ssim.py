"""Structural similarity, against scikit-image, pytorch-msssim and the formula written out window by window."""

import math

import pytest
import torch

from assay.data import photos
from assay.metrics import ms_ssim, ssim
from assay.metrics.ssim import WEIGHTS, check_images

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
C1, C2 = 0.01**2, 0.03**2


def pair(n=2, c=2, h=14, w=16, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.rand(2, n, c, h, w, generator=generator, dtype=torch.float64)
    return x.to(dtype), (0.7 * x + 0.3 * noise).to(dtype)


def photographs():
    found = photos(["coffee", "astronaut"])
    x = torch.stack(list(found.values())).double()
    return x, (0.8 * x.roll((2, 1), (2, 3)) + 0.15 * x.flip(3)).clamp(0, 1)


def one_window(a, b, weights):
    """The two factors in one window, means and moments about the means written out."""
    ma, mb = (weights * a).sum(), (weights * b).sum()
    va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
    cov = (weights * (a - ma) * (b - mb)).sum()
    return (2 * ma * mb + C1) / (ma**2 + mb**2 + C1), (2 * cov + C2) / (va + vb + C2)


def gaussian(size, sigma):
    row = torch.tensor(
        [math.exp(-((i - (size - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(size)], dtype=torch.float64
    )
    square = row[:, None] * row[None]
    return square / square.sum()


def naive(x, y, weights, stride=1):
    """(n, c, places) of the two factors."""
    size = len(weights)
    rows, columns = range(0, x.shape[2] - size + 1, stride), range(0, x.shape[3] - size + 1, stride)
    out = torch.empty(2, *x.shape[:2], len(rows) * len(columns), dtype=torch.float64)
    for i in range(len(x)):
        for j in range(x.shape[1]):
            cuts = [(slice(r, r + size), slice(s, s + size)) for r in rows for s in columns]
            found = [one_window(x[i, j][cut], y[i, j][cut], weights) for cut in cuts]
            out[:, i, j] = torch.tensor(found, dtype=torch.float64).T
    return out


@pytest.mark.parametrize(("window", "sigma", "stride"), [(5, 1.5, 1), (5, 0.8, 3), (4, None, 2), (1, 1.5, 1)])
def test_ssim_is_the_formula_in_every_window(window, sigma, stride):
    x, y = pair()
    weights = torch.full((window, window), window**-2.0).double() if sigma is None else gaussian(window, sigma)
    luminance, structure = naive(x, y, weights, stride)
    found = ssim(x, y, window=window, sigma=sigma, stride=stride)
    torch.testing.assert_close(found, (luminance * structure).mean((1, 2)), rtol=1e-10, atol=0)


def test_ssim_is_that_of_scikit_image():
    """structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0,
    channel_axis=0, full=True)[1][:, 5:-5, 5:-5].mean(), scikit-image 0.25, float64."""
    expected = torch.tensor([0.6272076425574636, 0.4673526648681486], dtype=torch.float64)
    torch.testing.assert_close(ssim(*photographs()), expected, rtol=1e-11, atol=0)


def test_ms_ssim_is_that_of_pytorch_msssim():
    """pytorch_msssim.ms_ssim(x, y, data_range=1.0, size_average=False), version 1.0, whose window is float32."""
    expected = torch.tensor([0.834405883123, 0.789957351392], dtype=torch.float64)
    torch.testing.assert_close(ms_ssim(*photographs()), expected, rtol=1e-5, atol=0)


def test_ms_ssim_is_the_formula_over_scales():
    """Contrast and structure at each scale, luminance at the coarsest only, means before powers, channels apart."""
    x, y = pair(h=24, w=26)
    weights = (0.3, 0.5, 0.2)
    product = torch.ones(2, 2).double()
    a, b = x, y
    for scale, weight in enumerate(weights):
        luminance, structure = naive(a, b, gaussian(5, 1.5))
        factor = luminance * structure if scale == 2 else structure
        product = product * factor.mean(-1) ** weight
        a, b = (torch.nn.functional.avg_pool2d(each, 2) for each in (a, b))
    found = ms_ssim(x, y, weights=weights, window=5)
    torch.testing.assert_close(found, product.mean(1), rtol=1e-10, atol=0)


def test_one_scale_is_ssim_also_where_it_is_negative():
    x, y = pair()
    for other in (y, 1 - x):
        torch.testing.assert_close(ms_ssim(x, other, weights=(1.0,)), ssim(x, other), rtol=1e-12, atol=0)
    assert (ssim(x, 1 - x) < -0.9).all()


def test_ancestor_luminance_at_every_scale_is_something_else():
    x, y = pair(h=48, w=48)
    brighter = y + 0.3
    maps = []
    a, b = x, brighter
    for weight in (0.5, 0.5):
        maps.append(ssim(a, b, window=11, data_range=2.0) ** weight)
        a, b = (torch.nn.functional.avg_pool2d(each, 2) for each in (a, b))
    everywhere = maps[0] * maps[1]
    found = ms_ssim(x, brighter, weights=(0.5, 0.5), data_range=2.0)
    assert ((found - everywhere) > 0.005).all()


def relu_ancestor(x, y, weights=WEIGHTS):
    """MS-SSIM with negative means clamped at zero, as other libraries have it."""
    factors = []
    for scale, weight in enumerate(weights):
        value = ms_ssim(x, y, weights=(1.0,)) if scale == len(weights) - 1 else structure(x, y)
        factors.append(value.relu() ** weight)
        x, y = (torch.nn.functional.avg_pool2d(each, 2) for each in (x, y))
    return torch.stack(factors).prod(0)


def structure(x, y):
    from assay.metrics.ssim import gaussian, ssim_maps

    return ssim_maps(x, y, gaussian(11, 1.5, dtype=x.dtype))[1].flatten(1).mean(1)


def test_anticorrelated_images_have_a_gradient_that_leads_out():
    """Clamping at zero leaves no gradient there (pytorch-msssim 1.0 gives value 0 and gradient 0 on this pair); here a
    few steps along the gradient make the images alike again, past the place where the two branches meet."""
    target = torch.rand(1, 1, 176, 176, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = (1 - target).requires_grad_()
    (dead,) = torch.autograd.grad(relu_ancestor(x, target).sum(), x)
    assert dead.abs().max() == 0
    value = ms_ssim(x, target)
    assert -1.0001 <= value.item() < -0.5
    (gradient,) = torch.autograd.grad(value.sum(), x)
    direction = target - x.detach()
    assert (gradient * direction).sum() > 0.1
    small = 1e-4
    rise = ms_ssim(x.detach() + small * gradient / gradient.norm(), target) - value
    torch.testing.assert_close(rise.squeeze(), small * gradient.norm(), rtol=1e-2, atol=0)


def test_both_branches_meet_at_zero():
    """Blends of an image and its negative: no jump where the first mean changes its sign."""
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    blends = torch.linspace(0.49, 0.51, 401, dtype=torch.float64)
    values = torch.stack([ms_ssim(b * x + (1 - b) * (1 - x), x) for b in blends]).squeeze()
    assert values[0] < 0 < values[-1]
    assert (values.diff() > 0).all()
    crossing = int((values < 0).sum())
    assert values[crossing - 1 : crossing + 1].abs().max() < 0.05


def test_equal_images_are_at_one_and_arguments_may_change_places():
    x, y = pair(h=32, w=32)
    torch.testing.assert_close(ssim(x, x), torch.ones(2).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(ms_ssim(x, x), torch.ones(2).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(ssim(x, y), ssim(y, x), rtol=1e-12, atol=0)


def test_a_constant_lowers_the_luminance_only():
    x, _ = pair(h=11, w=11)
    mean = (x * gaussian(11, 1.5)).sum((2, 3))
    expected = ((2 * mean * (mean + 0.05) + C1) / (mean**2 + (mean + 0.05) ** 2 + C1)).mean(1)
    torch.testing.assert_close(ssim(x, x + 0.05), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("scale", [0.5, 255.0])
def test_the_unit_of_the_range_does_not_matter(scale):
    x, y = pair(h=32, w=32)
    for measure in (ssim, ms_ssim):
        torch.testing.assert_close(measure(scale * x, scale * y, data_range=scale), measure(x, y), rtol=1e-9, atol=0)


def test_same_padding_mirrors_at_the_edges():
    x, y = pair(h=8, w=9)
    a, b = (torch.nn.functional.pad(each, (2, 2, 2, 2), mode="reflect") for each in (x, y))
    found = ssim(x, y, window=5, padding="same")
    torch.testing.assert_close(found, naive(a, b, gaussian(5, 1.5)).prod(0).mean((1, 2)), rtol=1e-10, atol=0)


def test_small_images_get_fewer_scales_and_a_smaller_window():
    x, y = pair(h=44, w=50)
    cut = WEIGHTS[:3]
    assert torch.equal(ms_ssim(x, y), ms_ssim(x, y, weights=[w / math.fsum(cut) for w in cut]))
    x, y = pair(h=9, w=9)
    torch.testing.assert_close(ms_ssim(x, y), ssim(x, y, window=7), rtol=1e-12, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients(device):
    x, y = (each.to(device) for each in pair(n=1, c=1, h=12, w=12))
    x.requires_grad_()
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ssim(a, b, window=5), (x, y))
    assert torch.autograd.gradcheck(lambda a, b: ms_ssim(a, b, window=5, weights=(0.4, 0.6)), (x, y))
    assert torch.autograd.gradcheck(lambda a: ms_ssim(a, 1 - y.detach(), window=5, weights=(0.4, 0.6)), (x,))
    assert torch.autograd.gradgradcheck(lambda a: ssim(a, y.detach(), window=11), (x,))


def test_flat_bright_images_do_not_lose_their_digits():
    """In float32, variances of 0 from moments of 1: the error stays near the rounding of 1 over C2."""
    x = torch.ones(1, 1, 32, 32)
    y = x - 1e-3 * torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    exact = ssim(x.double(), y.double())
    assert abs(ssim(x, y).double() - exact).item() < 4 * torch.finfo(torch.float32).eps / C2


def test_half_precision_images_are_compared_in_single():
    x, y = pair(h=32, w=32, dtype=torch.float32)
    half = ssim(x.bfloat16(), y.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), ssim(x.bfloat16().float(), y.bfloat16().float()), rtol=0.01, atol=0)


@pytest.mark.parametrize("measure", [ssim, ms_ssim])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        (dict(window=0), "window"),
        (dict(sigma=0.0), "sigma"),
        (dict(k=(0.01, 0.0)), "k must"),
        (dict(data_range=0.0), "data_range"),
        (dict(data_range=math.nan), "data_range"),
    ],
)
def test_arguments_out_of_range_are_refused(measure, change, name):
    with pytest.raises(ValueError, match=name):
        measure(*pair(), **change)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (dict(stride=0), "stride"),
        (dict(padding="zero"), "padding"),
        (dict(window=4, padding="same"), "odd"),
        (dict(window=15), "window must fit"),
        (dict(window=29, padding="same"), "window must fit"),
    ],
)
def test_arguments_of_ssim_out_of_range_are_refused(change, name):
    with pytest.raises(ValueError, match=name):
        ssim(*pair(), **change)


def test_arguments_of_ms_ssim_out_of_range_are_refused():
    for weights in ((), (0.5, 0.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="weights"):
            ms_ssim(*pair(), weights=weights)
    with pytest.raises(ValueError, match="5 scales"):
        ms_ssim(*pair(h=100, w=200), shrink=False)
    with pytest.raises(ValueError, match="room"):
        ms_ssim(*pair(h=6, w=20))


@pytest.mark.parametrize("measure", [ssim, ms_ssim])
def test_images_that_cannot_be_compared_are_refused(measure):
    x, y = pair()
    with pytest.raises(ValueError, match="entries"):
        measure(x[:0], y[:0])
    spoiled = y.clone()
    spoiled[0, 0, 3, 3] = math.nan
    with pytest.raises(ValueError, match="y must be finite"):
        measure(x, spoiled)
    with pytest.warns(UserWarning, match="data_range"):
        measure(x, y + 0.5)
    # Behind the check of annotations, which the tests switch on and a user has not:
    with pytest.raises(TypeError, match="x must be real"):
        check_images((255 * x).long(), y, 1.0)
    with pytest.raises(ValueError, match="the same"):
        check_images(x, y[:1], 1.0)
    with pytest.raises(ValueError, match=r"\(n, c, h, w\)"):
        check_images(x[0], y[0], 1.0)
