"""Cue tests: oracles that read one cue or two, what the parts hold; retention: a share in closed form; refusals."""

import math

import pytest
import torch
from torch import nn

from assay.probes import CueTest, basin_retention


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Color(nn.Module):
    def forward(self, x):
        assert not self.training
        return x.sum(dim=(2, 3))


class Either(nn.Module):
    """Follows colour where the shape lies left, size where it lies right."""

    def forward(self, x):
        grey = x.sum(dim=1)
        size = grey.sum(dim=(1, 2))
        column = (grey.sum(1) * torch.arange(32.0)).sum(1) / size
        tall = (grey.amax(2) > 0.3).sum(1)
        by_size = torch.stack([-(tall - each).abs().float() for each in (9, 14, 19)], 1)
        return torch.where((column < 16)[:, None], x.sum(dim=(2, 3)), by_size)


def test_an_oracle_scores_one_for_its_cue_and_a_third_for_the_others():
    scores = CueTest().score(Color(), 1500, generator=seeded())
    assert scores["color"] == 1.0
    for name in ("shape", "scale", "orientation"):
        assert abs(scores[name] - 1 / 3) < 4 * math.sqrt(2 / 9 / 1500)


def test_a_mixture_shares_what_one_cue_has():
    scores = CueTest().score(Either(), 1500, generator=seeded())
    assert 0.55 < scores["color"] < 0.8
    assert scores["scale"] > 0.45
    assert scores["color"] + scores["scale"] < 1.5


def test_all_cues_say_the_label_on_the_diagonal_and_one_off_it():
    test = CueTest()
    images, labels = test.diagonal(90, seeded())
    assert torch.equal(Color().eval()(images).argmax(1), labels)
    area = images.clamp_min(0.1).sub(0.1).sum(dim=(1, 2, 3))
    means = torch.stack([area[labels == each].mean() for each in range(3)])
    assert bool((means.diff() > 0).all())  # the scale follows
    images, labels = test.biased(90, "color", seeded())
    assert torch.equal(Color().eval()(images).argmax(1), labels)
    images, labels = test.biased(300, "shape", seeded())
    agree = (Color().eval()(images).argmax(1) == labels).double().mean().item()
    assert abs(agree - 1 / 3) < 4 * math.sqrt(2 / 9 / 300)
    assert tuple(test.off_diagonal(7).targets.shape) == (7, 4)


def test_names_and_modes():
    model = Color()
    scores = CueTest(cue_names=("a", "b", "c", "d")).score(model, 30, generator=seeded())
    assert list(scores) == ["a", "b", "c", "d"]
    assert model.training
    again = CueTest().score(model, 30, generator=seeded(), batch_size=7)
    assert list(again.values()) == list(scores.values())


def test_what_cue_tests_refuse():
    with pytest.raises(ValueError, match=r"num_classes must be 3.* got 4"):
        CueTest(4)
    with pytest.raises(ValueError, match="four different names"):
        CueTest(cue_names=("a", "a", "b", "c"))
    with pytest.raises(ValueError, match="cue must be one of color, shape, scale, orientation: got 'size'"):
        CueTest().biased(3, "size")
    with pytest.raises(ValueError, match="n must be at least 1"):
        CueTest().diagonal(0)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        CueTest().score(Color(), 3, batch_size=0)
    with pytest.raises(ValueError, match=r"logits \(n, 3\): got \(3, 3, 32, 32\)"):
        CueTest().score(nn.Identity(), 3)


def plane():
    """One filter of two numbers; it is of the kind whose coordinate is larger."""
    line = nn.Linear(2, 1, bias=True)
    with torch.no_grad():
        line.weight.copy_(torch.tensor([[3.0, 0.0]]))
    return line


def kinds(net):
    return {"right": net.weight[0, 0].item(), "left": -net.weight[0, 0].item()}


@pytest.mark.parametrize("radius", [0.5, 2.0])
def test_share_of_a_circle(radius):
    """3 (1 + r cos t) stays above 0 unless cos t < -1 / r: kept with probability 1 - acos(1 / r) / pi."""
    draws = 600
    generator = torch.Generator().manual_seed(0)
    kept = basin_retention(plane(), lambda net: None, kinds, radius=radius, draws=draws, generator=generator)
    share = 1.0 if radius < 1 else 1 - math.acos(1 / radius) / math.pi
    assert abs(kept - share) <= 4 * math.sqrt(share * (1 - share) / draws)


def test_what_counts_is_what_retraining_makes_of_it():
    def back(net):
        with torch.no_grad():
            net.weight.copy_(torch.tensor([[1.0, 0.0]]))

    def away(net):
        with torch.no_grad():
            net.weight.copy_(torch.tensor([[-1.0, 0.0]]))

    model = plane()
    bias = model.bias.item()
    assert basin_retention(model, back, kinds, radius=5.0) == 1
    assert basin_retention(model, away, kinds, radius=0.0) == 0
    assert torch.equal(model.weight, torch.tensor([[3.0, 0.0]]))
    assert model.bias.item() == bias


def test_what_retention_refuses():
    with pytest.raises(ValueError, match="radius must be 0 or more"):
        basin_retention(plane(), lambda net: None, kinds, radius=-1.0)
    with pytest.raises(ValueError, match="draws must be at least 1: got 0"):
        basin_retention(plane(), lambda net: None, kinds, radius=1.0, draws=0)
    with pytest.raises(ValueError, match="score must return a number for each kind"):
        basin_retention(plane(), lambda net: None, lambda net: {}, radius=1.0)
