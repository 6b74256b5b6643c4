"""The U-Net: its wiring typed out, sizes, shifts, what is refused."""

import pytest
import torch
from torch.nn import functional as F

from assay.nn import UNet


def test_wiring_typed_out():
    torch.manual_seed(0)
    net = UNet(2, 3, width=4, levels=2).double().eval()
    x = torch.randn(2, 2, 8, 12).double()
    fine = net.down[0](x)
    middle = net.down[1](F.max_pool2d(fine, 2))
    coarse = net.down[2](F.max_pool2d(middle, 2))
    assert [fine.shape[1], middle.shape[1], coarse.shape[1]] == [4, 8, 16]
    up = F.interpolate(coarse, scale_factor=2, mode="bilinear")
    up = net.up[0](torch.cat([middle, up], 1))
    up = F.interpolate(up, scale_factor=2, mode="bilinear")
    up = net.up[1](torch.cat([fine, up], 1))
    torch.testing.assert_close(net(x), net.head(up))
    assert (up >= 0).all()  # ReLU last in a block, no activation after the head


def test_shifts_by_whole_cells_away_from_the_border():
    torch.manual_seed(0)
    net = UNet(1, 1, width=4, levels=2).double().eval()
    x = torch.zeros(1, 1, 96, 96).double()
    x[..., 40:56, 40:56] = torch.randn(16, 16).double()
    one, two = net(x), net(x.roll((4, -8), (2, 3)))
    inner = slice(30, 66)
    torch.testing.assert_close(two.roll((-4, 8), (2, 3))[..., inner, inner], one[..., inner, inner])
    assert not torch.allclose(net(x.roll(1, 2)).roll(-1, 2)[..., inner, inner], one[..., inner, inner])


@pytest.mark.parametrize("size", [(9, 14), (4, 4), (7, 5)])
def test_any_size_is_kept(size):
    assert UNet(1, 2, width=2, levels=2).eval()(torch.rand(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("name", ["in_channels", "out_channels", "width", "levels"])
def test_refused_settings(name):
    with pytest.raises(ValueError, match=name):
        UNet(**{name: 0})


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="images"):
        UNet(levels=3)(torch.zeros(1, 3, 7, 16))
