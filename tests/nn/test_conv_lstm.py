"""A convolutional LSTM cell: torch's own cell on one pixel, space, what is refused."""

import pytest
import torch
from torch import nn

from assay.nn import ConvLSTMCell


def test_on_one_pixel_it_is_torchs_cell():
    """With a 1 x 1 kernel, at every place: torch's gates stand in the order i, f, g, o."""
    torch.manual_seed(0)
    cell, other = ConvLSTMCell(3, 5, kernel_size=1).double(), nn.LSTMCell(3, 5).double()
    weight = cell.gates.weight[:, :, 0, 0].detach()
    i, f, o, g = weight.chunk(4)
    bi, bf, bo, bg = cell.gates.bias.detach().chunk(4)
    other.weight_ih.data = torch.cat([i, f, g, o])[:, :3]
    other.weight_hh.data = torch.cat([i, f, g, o])[:, 3:]
    other.bias_ih.data, other.bias_hh.data = torch.cat([bi, bf, bg, bo]), torch.zeros(20).double()
    state, expected = None, None
    for _ in range(3):
        x = torch.randn(2, 3, 4, 4).double()
        state = cell(x, state)
        expected = other(x.permute(0, 2, 3, 1).reshape(-1, 3), expected)
    for found, exact in zip(state, expected, strict=True):
        torch.testing.assert_close(found.permute(0, 2, 3, 1).reshape(-1, 5), exact)


def test_a_state_is_kept_apart_by_place():
    cell = ConvLSTMCell(1, 2)
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = 1
    changed = (cell(x)[0] - cell(torch.zeros_like(x))[0]).abs().sum((0, 1)) > 0
    assert changed[3:6, 3:6].all()
    assert changed.sum() == 9


def test_what_is_refused():
    for settings, name in (
        (dict(in_channels=0, hidden_channels=2), "channels"),
        (dict(in_channels=2, hidden_channels=0), "channels"),
        (dict(in_channels=2, hidden_channels=2, kernel_size=2), "kernel_size"),
    ):
        with pytest.raises(ValueError, match=name):
            ConvLSTMCell(**settings)
