"""The residual block against its formula, and the ancestors it must become."""

import pytest
import torch
from torch.nn import functional

from assay import nn
from assay.nn.resnet import BasicBlock


def generic(in_channels, channels, stride):
    torch.manual_seed(0)
    block = BasicBlock(in_channels, channels, stride).double()
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.normal_()
            module.bias.data.normal_()
    return block


def batch_norm(x, norm):
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    scale, shift = norm.weight[None, :, None, None], norm.bias[None, :, None, None]
    return (x - mean) / torch.sqrt(variance + norm.eps) * scale + shift


@pytest.mark.parametrize(("in_channels", "channels", "stride"), [(3, 3, 1), (3, 5, 1), (3, 5, 2), (3, 3, 2)])
def test_block_is_its_formula(in_channels, channels, stride):
    block = generic(in_channels, channels, stride)
    x = torch.randn(4, in_channels, 7, 6, dtype=torch.float64)
    inner = functional.conv2d(x, block.conv1.weight, stride=stride, padding=1)
    inner = batch_norm(inner, block.norm1).clamp(min=0)
    inner = batch_norm(functional.conv2d(inner, block.conv2.weight, padding=1), block.norm2)
    if stride == 1 and in_channels == channels:
        assert not list(block.shortcut.parameters())
        straight = x
    else:
        straight = batch_norm(functional.conv2d(x, block.shortcut[0].weight, stride=stride), block.shortcut[1])
    torch.testing.assert_close(block(x), (inner + straight).clamp(min=0), rtol=1e-10, atol=1e-10)


def test_with_its_branch_silent_a_block_is_a_rectifier():
    block = generic(3, 3, 1)
    torch.nn.init.zeros_(block.norm2.weight)
    torch.nn.init.zeros_(block.norm2.bias)
    x = torch.randn(4, 3, 7, 6, dtype=torch.float64)
    assert torch.equal(block(x), x.clamp(min=0))


def test_without_its_shortcut_it_is_a_plain_network_and_differs():
    block, x = generic(3, 3, 1), torch.randn(4, 3, 7, 6, dtype=torch.float64)
    with_shortcut = block(x)
    block.shortcut = torch.nn.Conv2d(3, 3, 1, bias=False).double()
    torch.nn.init.zeros_(block.shortcut.weight)
    assert not torch.allclose(block(x), with_shortcut)


def test_resnet8_is_stem_three_stages_mean_and_linear():
    torch.manual_seed(0)
    network = nn.resnet8((2, 12, 10), 3, widths=(3, 4, 5)).double()
    x = torch.randn(4, 2, 12, 10, dtype=torch.float64)
    stem, norm, _, one, two, three, _, _, linear = network
    out = batch_norm(functional.conv2d(x, stem.weight, padding=1), norm).clamp(min=0)
    for block, size in ((one, (3, 12, 10)), (two, (4, 6, 5)), (three, (5, 3, 3))):
        out = block(out)
        assert out.shape[1:] == size
    torch.testing.assert_close(network(x), out.mean(dim=(2, 3)) @ linear.weight.T + linear.bias, rtol=1e-10, atol=1e-10)


def test_refused_widths():
    with pytest.raises(Exception, match="widths"):
        nn.resnet8(widths=(16, 32))
