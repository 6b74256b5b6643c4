"""Starlight: its gradient by hand, the anchors it draws, alignment, limits in which it is ordinary training."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.data import Labelled
from assay.nn import mlp, smallcnn
from assay.probes import PermutationSpec, Starlight, barrier, interpolate, star_barriers, star_samples
from assay.train import fit

SHAPE = (1, 6, 6)


def networks(count, make=lambda: mlp(SHAPE, 3, widths=(8,)), dtype=torch.float64):
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        found.append(make().to(dtype))
    x = torch.rand(12, *SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(9))
    return found, x, torch.arange(12) % 3, PermutationSpec.of(found[0], x)


def drawn(sampling, anchors, generator):
    """The same draws, typed out: which anchor, then t."""
    number = int(torch.randint(anchors, (), generator=generator))
    if sampling == "middle":
        return number, 0.5
    if sampling == "uniform":
        return number, torch.rand((), generator=generator).item()
    return number, sorted(torch.rand(3, generator=generator).tolist())[1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("sampling", ["uniform", "beta", "middle"])
def test_the_gradient_is_that_of_the_network_between(sampling, dtype, tolerance):
    (star, *anchors), x, y, spec = networks(4, dtype=dtype)
    starlight = Starlight(
        star, anchors, spec, sampling=sampling, align=False, generator=torch.Generator().manual_seed(1)
    )
    again = torch.Generator().manual_seed(1)
    for _ in range(4):
        star.zero_grad()
        value = starlight(star, x, y, F.cross_entropy)
        number, t = drawn(sampling, 3, again)
        between = interpolate(star, anchors[number], t)
        expected = F.cross_entropy(between(x), y)
        expected.backward()
        assert value.item() == pytest.approx(expected.item(), rel=tolerance)
        for p, q in zip(star.parameters(), between.parameters(), strict=True):
            torch.testing.assert_close(p.grad, (1 - t) * q.grad, rtol=tolerance, atol=tolerance * 1e-2)
    assert all(p.grad is None for model in (*anchors, *starlight.anchors) for p in model.parameters())


def test_the_stars_own_loss():
    (star, anchor), x, y, spec = networks(2)
    starlight = Starlight(star, [anchor], spec, sampling="middle", star_weight=0.5, align=False)
    value = starlight.loss(x, y, F.cross_entropy).item()
    middle, own = (F.cross_entropy(m(x), y).item() for m in (interpolate(star, anchor, 0.5), star))
    assert value == pytest.approx((middle + 0.5 * own) / 1.5, rel=1e-12)


def test_beta_is_in_the_middle_more_often():
    (star, anchor), *_, spec = networks(2)
    spread = {}
    for sampling in ("uniform", "beta"):
        starlight = Starlight(star, [anchor], spec, sampling=sampling, generator=torch.Generator().manual_seed(0))
        t = torch.tensor([starlight._t() for _ in range(4000)])
        assert t.mean().item() == pytest.approx(0.5, abs=0.02)
        spread[sampling] = t.var().item()
    assert spread["uniform"] == pytest.approx(1 / 12, rel=0.05)
    assert spread["beta"] == pytest.approx(1 / 20, rel=0.05)


def test_anchors_are_aligned_and_stay_the_same_functions():
    (star, *anchors), x, _, spec = networks(4)
    starlight = Starlight(star, anchors, spec)
    turned = [spec.apply(spec.random(star, torch.Generator().manual_seed(i)), a) for i, a in enumerate(anchors)]
    other = Starlight(star, turned, spec)
    for a, b, c in zip(anchors, starlight.anchors, other.anchors, strict=True):
        torch.testing.assert_close(b(x), a(x), rtol=1e-10, atol=1e-10)
        assert not torch.equal(a[1].weight, b[1].weight)
        for p, q in zip(b.parameters(), c.parameters(), strict=True):
            torch.testing.assert_close(p, q)  # one hidden layer: the assignment has one best answer
    star.load_state_dict(spec.apply(spec.random(star, torch.Generator().manual_seed(8)), anchors[0]).state_dict())
    starlight.align(star)
    for p, q in zip(star.parameters(), starlight.anchors[0].parameters(), strict=True):
        torch.testing.assert_close(p, q)
    kept = Starlight(star, turned, spec, align=False)
    assert all(torch.equal(a[1].weight, b[1].weight) for a, b in zip(turned, kept.anchors, strict=True))


def test_an_anchor_that_is_the_star_makes_it_ordinary_training_at_a_smaller_step():
    """On the line from s to s there is only s: its gradient, times 1 - t."""
    (star,), x, y, spec = networks(1)
    starlight = Starlight(star, [star], spec, sampling="middle")
    value = starlight(star, x, y, F.cross_entropy)
    grads = torch.autograd.grad(F.cross_entropy(star(x), y), list(star.parameters()))
    assert value.item() == pytest.approx(F.cross_entropy(star(x), y).item(), rel=1e-12)
    for p, g in zip(star.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, g / 2)


def test_it_is_a_rule_and_a_callback_and_lowers_the_barrier():
    (star, *others), x, y, spec = networks(4, lambda: mlp(SHAPE, 3, widths=(4,)), torch.float32)
    data = Labelled(x, y)
    for network in others:
        fit(network, data, torch.optim.Adam(network.parameters(), lr=0.02), epochs=40)
    ordinary = copy.deepcopy(star)
    fit(ordinary, data, torch.optim.Adam(ordinary.parameters(), lr=0.02), epochs=40)
    starlight = Starlight(star, others, spec, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(star.parameters(), lr=0.02)
    fit(star, data, optimizer, epochs=120, rule=starlight, on_epoch=starlight.align)

    def loss(model):
        return F.cross_entropy(model(x), y).item()

    assert star_barriers(star, others, loss, spec).mean() < star_barriers(ordinary, others, loss, spec).mean()


def test_running_statistics_of_the_star_are_not_touched():
    (star, anchor), x, y, spec = networks(2, lambda: smallcnn(SHAPE, 3, widths=(4,)))
    before = [b.clone() for b in star.buffers()]
    starlight = Starlight(star, [anchor], spec, sampling="middle", align=False)
    value = starlight.loss(x, y, F.cross_entropy).item()
    assert all(torch.equal(a, b) for a, b in zip(star.buffers(), before, strict=True))
    between = interpolate(star, anchor, 0.5).train()
    assert value == pytest.approx(F.cross_entropy(between(x), y).item(), rel=1e-12)  # statistics of the batch


def test_barriers_align_first():
    (star, noise), x, _, spec = networks(2)
    other, target = interpolate(star, noise, 0.1), star(x).detach()
    turned = spec.apply(spec.random(star, torch.Generator().manual_seed(4)), other)

    def loss(model):
        return F.mse_loss(model(x), target).item()

    one, two = star_barriers(star, [other, turned], loss, spec, points=5).tolist()
    assert one == pytest.approx(two, abs=1e-12)
    assert barrier(star, turned, loss, points=5).height > two + 1e-3  # as it comes


def test_samples_lie_on_the_lines():
    (star, *others), *_, _ = networks(4)
    generator, again = (torch.Generator().manual_seed(2) for _ in range(2))
    count = 0
    for model in star_samples(star, others, 5, generator=generator):
        number, t = drawn("uniform", 3, again)
        for p, q in zip(model.parameters(), interpolate(star, others[number], t).parameters(), strict=True):
            torch.testing.assert_close(p, q)
        count += 1
    assert count == 5


def test_what_is_refused():
    (star, anchor), x, y, spec = networks(2)
    with pytest.raises(ValueError, match="anchors must be one network or more"):
        Starlight(star, [], spec)
    with pytest.raises(ValueError, match="anchor 1 has others"):
        Starlight(star, [anchor, mlp(SHAPE, 3, widths=(5,)).double()], spec)
    with pytest.raises(ValueError, match="spec"):
        Starlight(nn.Linear(2, 2), [nn.Linear(2, 2)], spec)
    with pytest.raises(ValueError, match="sampling must be one of uniform, beta, middle: got 'normal'"):
        Starlight(star, [anchor], spec, sampling="normal")
    with pytest.raises(ValueError, match="star_weight"):
        Starlight(star, [anchor], spec, star_weight=-1.0)
    with pytest.raises(ValueError, match="model must be the star"):
        Starlight(star, [anchor], spec)(anchor, x, y, F.cross_entropy)
    with pytest.raises(ValueError, match="models must be"):
        list(star_samples(star, [], 1))
    with pytest.raises(ValueError, match="num must not be negative"):
        list(star_samples(star, [anchor], -1))
    with pytest.raises(ValueError, match="held_out"):
        star_barriers(star, [], lambda model: 0.0, spec)
