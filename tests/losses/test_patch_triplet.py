"""The patch triplet loss against loops over places and shifts, its halves, gradients, what is refused."""

import pytest
import torch

from assay.losses import PatchTripletLoss


def maps(n=2, c=2, h=14, w=12):
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)
    return a, 0.6 * a + 0.5 * torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


def by_loops(a, b, loss, hardest):
    """Every anchor, every drawn shift, one by one."""
    p, (h, w) = loss.patch, a.shape[2:]
    shifts = loss._shifts(min(min(h, w) - p, loss.max_shift), seeded())
    values = []
    for one, two in ((a, b), (b, a)):
        for i in range(len(a)):
            for y in range(0, h - p + 1, loss.stride):
                for x in range(0, w - p + 1, loss.stride):
                    anchor = one[i, :, y : y + p, x : x + p]
                    near = (anchor - two[i, :, y : y + p, x : x + p]).square().mean()
                    here = []
                    for number, (dy, dx) in enumerate(shifts):
                        yy, xx = y + dy, x + dx
                        if not (0 <= yy <= h - p and 0 <= xx <= w - p):
                            continue
                        far = ((two, one)[number % 2][i, :, yy : yy + p, xx : xx + p] - anchor).square().mean()
                        gap = {"triplet": near - far, "negative": -far}[loss.terms] + loss.margin
                        here.append(gap.clamp_min(0))
                    values += [max(here)] if hardest and here else here
    return torch.stack(values).mean()


@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("terms", ["triplet", "negative"])
def test_against_loops(hardest, terms):
    a, b = maps()
    loss = PatchTripletLoss(4, margin=1.3, negatives=5, min_shift=3, max_shift=6, stride=2, terms=terms)
    found = loss(a, b, seeded(), hardest=hardest)
    torch.testing.assert_close(found, by_loops(a, b, loss, hardest))
    assert not torch.allclose(found, by_loops(a, b, loss, not hardest))


def test_halves():
    a, b = maps()
    settings = dict(margin=1.3, negatives=5, min_shift=3, max_shift=6, stride=2)
    near = PatchTripletLoss(4, terms="positive", **settings)(a, b)
    torch.testing.assert_close(near, torch.nn.functional.avg_pool2d((a - b).square().mean(1), 4, 2).mean())
    # Identical maps: the positive is at 0, so the triplet is its negative half.
    whole, half = (PatchTripletLoss(4, terms=terms, **settings)(a, a, seeded()) for terms in ("triplet", "negative"))
    torch.testing.assert_close(whole, half)
    assert whole > 0
    assert PatchTripletLoss(4, terms="triplet", **settings | dict(margin=0.0))(a, a, seeded()) == 0


def test_shifts_lie_in_their_ring():
    loss = PatchTripletLoss(4, negatives=4000, min_shift=3, max_shift=6)
    largest = torch.tensor(loss._shifts(5, seeded())).abs().amax(1)
    assert set(largest.tolist()) == {3, 4, 5}


def test_gradients_reach_both_maps():
    a, b = maps(1, 1, 9, 9)
    loss = PatchTripletLoss(3, negatives=3, min_shift=2, max_shift=4, margin=5.0, stride=2)
    a.requires_grad_()
    b.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y, seeded()), (a, b))
    loss(a, b, seeded()).backward()
    assert a.grad.abs().sum() > 0
    assert b.grad.abs().sum() > 0


def test_single_precision():
    a, b = maps()
    loss = PatchTripletLoss(4, min_shift=3, max_shift=6)
    single = loss(a.float(), b.float(), seeded())
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(loss(a, b, seeded()).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(patch=0), "patch"),
        (dict(negatives=0), "negatives"),
        (dict(min_shift=0), "min_shift"),
        (dict(max_shift=2), "max_shift"),
        (dict(stride=0), "stride"),
        (dict(margin=-0.1), "margin"),
        (dict(terms="all"), "terms"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        PatchTripletLoss(**settings)


def test_refused_calls():
    a, b = maps()
    loss = PatchTripletLoss(4, min_shift=3, max_shift=6)
    with pytest.raises(ValueError, match="map_b"):
        loss(a, b[..., 1:])
    with pytest.raises(ValueError, match="sides"):
        loss(a[..., :6], b[..., :6])
