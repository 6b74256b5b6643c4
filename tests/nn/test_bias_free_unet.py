"""A U-Net without additive constants: homogeneous where U-Net is not, its norm against batch norm, refusals."""

import pytest
import torch
from torch import nn

from assay.nn import BiasFreeUNet, ScaleNorm, UNet


def test_the_norm_is_batch_norm_without_means():
    """Ancestor: on channels of mean 0 it is `nn.BatchNorm2d`, in training and in evaluation mode."""
    torch.manual_seed(0)
    ours, theirs = ScaleNorm(3).double(), nn.BatchNorm2d(3, eps=1e-12).double()
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        theirs.weight.copy_(ours.weight)
    for _ in range(200):
        x = torch.randn(4, 3, 5, 5).double() * torch.tensor([1.0, 3.0, 0.2])[:, None, None].double()
        x = x - x.mean((0, 2, 3), keepdim=True)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-9)
    ours.eval(), theirs.eval()
    # the mean of standard deviations, of the biased kind, is not the root of the mean of unbiased variances
    torch.testing.assert_close(ours(x), theirs(x), rtol=0.02, atol=1e-3)
    shifted = x + 5.0
    assert (ours(shifted) - ours(x)).abs().min() > 1  # no mean is removed
    torch.testing.assert_close(ours(shifted) - ours(x), ours(torch.full_like(x, 5.0)))


def test_it_is_homogeneous_and_its_ancestor_is_not():
    torch.manual_seed(1)
    y = torch.randn(2, 1, 16, 16)
    for make, homogeneous in ((BiasFreeUNet(1, width=4, levels=2), True), (UNet(1, 1, width=4, levels=2), False)):
        for _ in range(3):
            make(torch.rand(8, 1, 16, 16))  # statistics that are not those of the start
        make.eval()
        apart = (make(2 * y) - 2 * make(y)).abs().max() / make(y).abs().max()
        assert bool(apart < 1e-5) is homogeneous
        assert bool((make(0 * y) == 0).all()) is homogeneous


def test_the_jacobian_makes_the_output():
    torch.manual_seed(2)
    net = BiasFreeUNet(1, width=4, levels=1).eval()
    y = torch.randn(1, 1, 6, 6)
    matrix = torch.autograd.functional.jacobian(lambda v: net(v).flatten(), y).flatten(1)
    torch.testing.assert_close(matrix @ y.flatten(), net(y).flatten(), rtol=1e-4, atol=1e-5)


def test_no_constants_are_left():
    names = [name for name, _ in BiasFreeUNet(3, width=4).named_parameters()]
    assert not [name for name in names if name.endswith("bias")]
    assert BiasFreeUNet(3, width=4)(torch.zeros(2, 3, 9, 12)).shape == (2, 3, 9, 12)


def test_what_is_refused():
    with pytest.raises(ValueError, match="channels must be at least 1: got 0"):
        ScaleNorm(0)
    with pytest.raises(ValueError, match="width must be at least 1: got 0"):
        BiasFreeUNet(width=0)
    with pytest.raises(ValueError, match="images must have sides of at least 4"):
        BiasFreeUNet(levels=2)(torch.zeros(1, 1, 3, 8))
