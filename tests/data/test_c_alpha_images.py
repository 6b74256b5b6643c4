"""Images of a known regularity: their spectrum, their contour, what is refused."""

import pytest
import torch

from assay.data import c_alpha_images


def drawn(count, size=32, alpha=4.0, seed=0, **kwargs):
    return c_alpha_images(count, size, alpha, generator=torch.Generator().manual_seed(seed), **kwargs)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_fields_fall_as_the_regularity_says(alpha):
    """Away from the contour a field's power falls as |f|^(-2 alpha): read from rows that it does not cross.

    Along a row, the power of frequency f is the sum over all frequencies of the other direction.
    """
    images = drawn(3000, 64, alpha)
    rows = images[:, 0, 0]  # the uppermost, which contours about the middle do not reach
    power = torch.fft.rfft(rows - rows.mean(1, keepdim=True), dim=1).abs().square().mean(0)
    f, other = torch.arange(33.0), torch.arange(-32.0, 32)
    wanted = torch.hypot(f[:, None], other).clamp_min(1).pow(-2 * alpha).sum(1)
    share = power[3:20] / wanted[3:20]
    torch.testing.assert_close(share / share.mean(), torch.ones(17), atol=0.12, rtol=0)


def test_even_levels_show_the_contour_alone():
    """Two levels and mixtures of them by quarters; the contour is smooth, and about the middle."""
    images = drawn(200, 32, constant_background=True)
    images = images[(images[:, 0, ::31] == images[:, 0, ::31, :1]).all((1, 2))]
    assert len(images) > 180  # the others' contours leave the picture: three of their standard deviations do
    for image in images[:, 0]:
        top, bottom = image[0], image[-1]
        share = (image - top[0]) / (bottom[0] - top[0])
        torch.testing.assert_close(4 * share, (4 * share).round(), atol=1e-3, rtol=0)
    heights = (images[:, 0] == images[:, 0, :1]).sum(1).double()
    assert heights.mean() == pytest.approx(16, abs=1)
    assert 1 < heights.mean(1).std() < 6  # sqrt((1/3)(1/32)) of the size, from the zero frequency
    assert (heights.diff(dim=1).abs() <= 4).all()


def test_the_brighter_side_is_a_coins_choice_and_all_is_in_range():
    images = drawn(400, 16)
    assert images.min() >= 0
    assert images.max() <= 1
    upper = (images[:, 0, 0].mean(1) > images[:, 0, -1].mean(1)).double().mean()
    assert 0.4 < upper < 0.6
    assert torch.equal(images, drawn(400, 16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(count=0), "count must be at least 1: got 0"),
        (dict(count=1, size=3), "size must be at least 4: got 3"),
        (dict(count=1, alpha=0.0), "alpha must be above 0 and finite: got 0.0"),
        (dict(count=1, alpha=float("inf")), "alpha must be above 0 and finite: got inf"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        c_alpha_images(**arguments)
