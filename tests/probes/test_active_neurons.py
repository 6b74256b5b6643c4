"""Shares of active units, by layers that say what they should be."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.nn import tinyvit
from assay.probes import active_neurons


def test_half_of_symmetric_units_are_active():
    """Units w x and -w x: exactly one of each pair is above 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 6), nn.GELU())
    model[0].weight.data = torch.cat([model[0].weight[:4], -model[0].weight[:4]])
    found = active_neurons(model, torch.randn(50, 5), batch_size=7)
    assert list(found) == ["1", "3"]
    assert found["1"] == 0.5
    only = active_neurons(model, torch.randn(50, 5), ["3"])
    assert list(only) == ["3"]


def test_it_is_the_share_by_hand_and_batches_do_not_matter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.9), nn.SiLU())
    x = torch.randn(23, 5)
    expected = (model[0](x) > 0).double().mean().item()  # silu keeps the sign; dropout is off
    for batch_size in (1, 5, 100):
        assert active_neurons(model, x, batch_size=batch_size)["2"] == pytest.approx(expected, rel=1e-12)
    assert model.training
    assert not model[2]._forward_hooks


def test_the_hidden_units_of_transformer_blocks():
    torch.manual_seed(0)
    model = tinyvit(d=8, depth=2, heads=2)
    images = torch.randn(6, 1, 28, 28)
    found = active_neurons(model, images)
    assert list(found) == ["blocks.0", "blocks.1"]
    with torch.no_grad():
        tokens = model.patches(images).flatten(2).transpose(1, 2) + model.positions
        block = model.blocks[0]
        tokens = tokens + block.attention(block.norm1(tokens))
        hidden = F.gelu(block.up(block.norm2(tokens)))
    assert found["blocks.0"] == pytest.approx((hidden > 0).double().mean().item(), rel=1e-6)
    with torch.no_grad():
        model.blocks[1].up.bias -= 1e3
    assert active_neurons(model, images)["blocks.1"] == 0
    assert not model.blocks[0].down._forward_pre_hooks


def test_what_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(ValueError, match="at least one example"):
        active_neurons(model, torch.zeros(0, 2))
    with pytest.raises(ValueError, match="layers must be modules of the model: got '7'"):
        active_neurons(model, torch.zeros(1, 2), ["1", "7"])
    with pytest.raises(ValueError, match="activations"):
        active_neurons(nn.Linear(2, 2), torch.zeros(1, 2))
