"""Inversion through units: known optima, the objective by hand, what is left behind, what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.probes import Member, Unit, rosetta_inversion


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.Unflatten(1, (2, 4, 4)), nn.Tanh(), nn.Conv2d(2, 1, 3, padding=1))


EYE = Member(nn.Sequential(nn.Identity(), nn.AvgPool2d(2)), ["0", "1"])


def test_an_image_of_the_generator_is_found_again():
    """Its own output seen through one unit of the whole image: similarity 1, up to the image's scale and mean."""
    net = generator()
    own = Member(net, ["1", "3"])
    target = net(noise(3, 4, seed=1)).detach()
    found = rosetta_inversion(
        own, EYE, [(Unit("3", 0), Unit("0", 0))], target, noise(3, 3, 4, seed=2), noise(50, 4, seed=3), steps=300
    )
    assert found.similarity.min() > 0.98
    start = rosetta_inversion(
        own, EYE, [(Unit("3", 0), Unit("0", 0))], target, noise(1, 3, 4, seed=2), noise(50, 4, seed=3), steps=1, lr=1e-6
    )
    assert start.similarity.max() < found.similarity.min()
    assert torch.equal(found.images, net(found.codes))


def test_the_similarity_by_hand():
    net = generator()
    own, codes, samples = Member(net, ["1"]), noise(2, 4, seed=1), noise(9, 4, seed=3)
    target = noise(2, 1, 4, 4, seed=4)
    pairs = [(Unit("1", 1), Unit("1", 0)), (Unit("1", 0), Unit("0", 0))]
    found = rosetta_inversion(own, EYE, pairs, target, codes[None], samples, steps=1, lr=1e-9)
    with torch.no_grad():
        hidden = net[1](net[0](codes)).double()
        spread, shown = net[1](net[0](samples)).double(), net(samples).double()
        expected = torch.zeros(2, dtype=torch.float64)
        for channel, size in ((1, 2), (0, 4)):
            views = [x if size == 4 else F.avg_pool2d(x, 2) for x in (target.double(), shown)]
            a = (hidden[:, [channel]] - spread[:, channel].mean()) / spread[:, channel].std()
            b = F.interpolate((views[0] - views[1].mean()) / views[1].std(), size=(4, 4), mode="bilinear")
            expected += (a * b).flatten(1).sum(1) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)) / 2
    torch.testing.assert_close(found.similarity.double(), expected, atol=1e-5, rtol=0)


def test_the_best_start_counts_for_each_target():
    net = generator()
    own, samples, target = Member(net, ["1"]), noise(9, 4, seed=3), noise(4, 1, 4, 4, seed=4)
    starts, pairs = noise(3, 4, 4, seed=5), [(Unit("1", 0), Unit("0", 0))]
    each = [rosetta_inversion(own, EYE, pairs, target, s[None], samples, steps=3) for s in starts]
    found = rosetta_inversion(own, EYE, pairs, target, starts, samples, steps=3)
    similarity = torch.stack([one.similarity for one in each])
    torch.testing.assert_close(found.similarity, similarity.amax(0))
    torch.testing.assert_close(found.codes, torch.stack([one.codes for one in each])[similarity.argmax(0), range(4)])


def test_models_are_left_as_they_were():
    net = generator().train()
    before = [p.clone() for p in net.parameters()]
    starts = noise(1, 2, 4)
    rosetta_inversion(
        Member(net, ["1"]), EYE, [(Unit("1", 0), Unit("0", 0))], noise(2, 1, 4, 4), starts, noise(9, 4), steps=2
    )
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert not starts.requires_grad


def test_what_is_refused():
    own, pairs = Member(generator(), ["1"]), [(Unit("1", 0), Unit("0", 0))]
    target, start, samples = noise(2, 1, 4, 4), noise(1, 2, 4), noise(9, 4)
    with pytest.raises(ValueError, match="pairs must have at least one"):
        rosetta_inversion(own, EYE, [], target, start, samples)
    with pytest.raises(ValueError, match=r"starts must be \(restarts, 2, ...\)"):
        rosetta_inversion(own, EYE, pairs, target, start[:, :1], samples)
    with pytest.raises(ValueError, match="samples must be two codes or more: got 1"):
        rosetta_inversion(own, EYE, pairs, target, start, samples[:1])
    for settings in (dict(steps=0), dict(lr=0.0)):
        with pytest.raises(ValueError, match="steps must be at least 1 and lr above 0"):
            rosetta_inversion(own, EYE, pairs, target, start, samples, **settings)
