"""Basin retention: a share in closed form, what is passed on, what is left alone and refused."""

import math

import pytest
import torch
from torch import nn

from assay.probes import basin_retention


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


def test_what_is_refused():
    with pytest.raises(ValueError, match="radius must be 0 or more"):
        basin_retention(plane(), lambda net: None, kinds, radius=-1.0)
    with pytest.raises(ValueError, match="draws must be at least 1: got 0"):
        basin_retention(plane(), lambda net: None, kinds, radius=1.0, draws=0)
    with pytest.raises(ValueError, match="score must return a number for each kind"):
        basin_retention(plane(), lambda net: None, lambda net: {}, radius=1.0)
