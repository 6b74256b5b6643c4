"""Layer masking: the authors' numbers, what is removed never shows, filling by loops, masks that grow, refusals."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from assay.nn import build
from assay.probes import LayerMasking, fill_from_neighbours, paint


def setting():
    """A network, images and what is kept of them, from one stream of random numbers."""
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(5, 6, 1), nn.ReLU(), nn.AvgPool2d(2)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).double().eval()
    g = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = 0.5 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    net[1].running_mean.copy_(torch.randn(4, generator=g, dtype=torch.float64))
    net[1].running_var.copy_(0.5 + torch.rand(4, generator=g, dtype=torch.float64))
    x = torch.randn(4, 2, 16, 16, generator=g, dtype=torch.float64)
    keep = (torch.rand(4, 1, 16, 16, generator=g, dtype=torch.float64) > 0.5).double()
    keep[0] = 0
    keep[0, 0, 3:6, 2:9] = 1
    keep[1] = 1
    keep[1, 0, 5:12, 4:14] = 0
    return net, x, keep


# sal_layers.py of github.com/SriramB-98/layer_masking on the setting above: their Conv2d, BatchNorm2d, ReLU, MaxPool2d,
# SiLU, AvgPool2d and AdaptiveAvgPool2d in the places of torch's, in double precision with (x * keep, keep, [1]).
# Their masks are in single precision after a mean, to which the 1e-8 of the last one then adds nothing.
OFFICIAL = [
    [-0.09681035878291303, 1.2989029602737807, 0.3374337492221383],
    [-0.26675603481038, 1.1037609030968434, 0.6805706253269028],
    [-0.2645085776003976, 1.1134518024421252, 0.6093493951424952],
    [-0.21137246352977804, 1.162774515487115, 0.5829188142990884],
]


def test_numbers_of_the_authors():
    net, x, keep = setting()
    with torch.no_grad():
        np.testing.assert_allclose(LayerMasking(net)(x, keep).numpy(), OFFICIAL, rtol=1e-7)
        painted = net(x * keep)  # masking the input only is another thing
    assert (painted - torch.tensor(OFFICIAL)).abs().max() > 0.05


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.GELU())
        self.short = nn.Conv2d(6, 6, 1, stride=2, bias=False)

    def forward(self, x):
        return F.relu(self.inner(x) + self.short(x))


def networks():
    torch.manual_seed(0)
    residual = nn.Sequential(
        nn.Conv2d(1, 6, 3), Residual(), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)
    )
    for name, net in (
        ("residual", residual),
        *((name, build(name, (1, 20, 20))) for name in ("smallcnn", "convnet")),
    ):
        net(torch.rand(32, 1, 20, 20))
        yield name, net.eval()


@pytest.mark.parametrize(("name", "net"), list(networks()), ids=lambda each: each if isinstance(each, str) else "")
def test_everything_kept_is_the_network_and_nothing_removed_shows(name, net):
    generator = torch.Generator().manual_seed(1)
    x, other = torch.randn(2, 6, 1, 20, 20, generator=generator)
    keep = (torch.rand(6, 1, 20, 20, generator=generator) > 0.6).float()
    with torch.no_grad():
        # The network itself, but for the 1e-8 in the mean.
        torch.testing.assert_close(LayerMasking(net)(x, torch.ones_like(keep)), net(x), rtol=1e-4, atol=1e-5)
        masked = LayerMasking(net)(x, keep)
        assert torch.equal(masked, LayerMasking(net)(torch.where(keep > 0, x, other), keep))
        assert not torch.allclose(masked, net(x), atol=1e-2)
        nothing = LayerMasking(net)(x, torch.zeros_like(keep))
    assert torch.equal(nothing[:1].expand(6, -1), nothing)  # constant, and finite
    assert nothing.isfinite().all()


def test_filling_by_loops():
    g = torch.Generator().manual_seed(0)
    x, keep = torch.randn(2, 3, 7, 7, generator=g).double(), (torch.rand(2, 1, 7, 7, generator=g) > 0.7).double()
    value, there = (x * keep).numpy(), keep.numpy()[:, 0].copy()
    for _ in range(2):
        new, more = value.copy(), there.copy()
        for n in range(2):
            for i in range(7):
                for j in range(7):
                    if there[n, i, j] < 1:
                        window = (n, slice(max(i - 1, 0), i + 2), slice(max(j - 1, 0), j + 2))
                        total = there[window].sum()
                        sums = value[n, :, window[1], window[2]].sum((1, 2))
                        new[n, :, i, j] = value[n, :, i, j] + (1 - there[n, i, j]) * sums / (total + 1e-5)
                        more[n, i, j] = min(1.0, there[n, i, j] + total)
        value, there = new, more
    np.testing.assert_allclose(fill_from_neighbours(x, keep, 2).numpy(), value, rtol=1e-12, atol=1e-15)


def test_a_hole_becomes_the_mean_of_its_neighbours():
    x = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    keep = torch.ones(1, 1, 5, 5).double()
    keep[..., 2, 2] = 0
    found = fill_from_neighbours(x, keep, 3)
    mean = (x[..., 1:4, 1:4].sum((2, 3)) - x[..., 2, 2]) / 8
    torch.testing.assert_close(found[..., 2, 2], mean, rtol=2e-6, atol=0)  # eps against 8 neighbours
    assert torch.equal(found * keep, x * keep)
    assert torch.equal(fill_from_neighbours(x, keep, 0), x * keep)


def test_no_gradient_goes_through_the_filling():
    keep = torch.zeros(1, 1, 5, 5)
    keep[..., 1:3, 1:3] = 1.0
    x = torch.rand(1, 1, 5, 5, requires_grad=True)
    fill_from_neighbours(x, keep, 2).sum().backward()
    assert torch.equal(x.grad, keep)


@pytest.mark.parametrize("options", [dict(padding=1), dict(padding="same", dilation=2), dict(padding=2, dilation=2)])
def test_the_mask_grows_by_the_kernel(options):
    """A network of one convolution and one more that shows where it was valid: 1 there, 0 elsewhere."""
    net = nn.Sequential(nn.Conv2d(1, 1, 3, **options))
    nn.init.zeros_(net[0].weight)
    nn.init.ones_(net[0].bias)
    keep = torch.zeros(1, 1, 15, 15)
    keep[0, 0, 4:7, 5] = 1.0
    valid = LayerMasking(net, depth=1)(torch.zeros(1, 1, 15, 15), keep).detach()
    around = np.zeros((5, 5)) if options.get("dilation") else np.ones((3, 3))
    if options.get("dilation"):
        around[::2, ::2] = 1
    expected = ndimage.binary_dilation(keep[0, 0].numpy() > 0, around)
    np.testing.assert_array_equal(valid[0, 0].numpy() > 0, expected)


def test_a_constant_image_stays_constant():
    """Filled with itself, a constant does not show where it was cut; painting shows."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    x, keep = torch.full((1, 1, 9, 9), 1.7).double(), torch.zeros(1, 1, 9, 9).double()
    keep[..., 3:6, 2:7] = 1
    inner = nn.Sequential(net[0], net[1])(x)[..., 3:6, 3:6].mean((2, 3))
    # Seven neighbours in the corners, eps of 1e-5 each.
    torch.testing.assert_close(LayerMasking(net)(x, keep), inner, rtol=1e-4, atol=1e-5)
    assert (net(paint(x, keep)) - inner).abs().max() > 0.1


def test_depth_and_fill_steps():
    net, x, keep = setting()
    with torch.no_grad():
        whole = LayerMasking(net)(x, keep)
        torch.testing.assert_close(LayerMasking(net, depth=0)(x, keep), net(x * keep))
        first = net[0](fill_from_neighbours(x, keep, 3)) * F.max_pool2d(keep, 3, 1, 1)
        torch.testing.assert_close(LayerMasking(net, depth=1)(x, keep), net[1:](first))
        assert not torch.allclose(LayerMasking(net, fill_steps=0)(x, keep), whole, rtol=1e-3)
        assert not torch.allclose(LayerMasking(net, depth=2)(x, keep), whole, rtol=1e-3)


class Branches(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.wide, self.narrow, self.join = nn.Conv2d(1, 2, 5, padding=2), nn.Conv2d(1, 2, 1), join

    def forward(self, x):
        return self.join(F.relu(self.wide(x)), self.narrow(x)).mean((2, 3))


def test_branches_are_valid_where_one_is():
    torch.manual_seed(0)
    keep = torch.zeros(1, 1, 9, 9)
    keep[..., 4, 4] = 1.0
    x = torch.rand(1, 1, 9, 9)
    for join in (torch.add, lambda a, b: torch.cat([a, b], 1)):
        net = Branches(join)
        wide = net.wide(fill_from_neighbours(x, keep, 5)).relu() * F.max_pool2d(keep, 5, 1, 2)
        expected = join(wide, net.narrow(x * keep) * keep).sum((2, 3)) / 25
        torch.testing.assert_close(LayerMasking(net)(x, keep), expected)


def test_painting():
    x, keep = torch.rand(1, 2, 9, 9).double(), torch.zeros(1, 1, 9, 9).double()
    keep[..., 2:6, 3:7] = 1
    painted = paint(x, keep, torch.tensor([0.2, 0.7]))
    torch.testing.assert_close(painted, torch.where(keep > 0, x, torch.tensor([0.2, 0.7]).double().view(2, 1, 1)))
    soft = paint(x, keep, 0.5, smooth=1.0)
    blurred = ndimage.gaussian_filter(keep[0, 0].numpy(), 1.0, mode="nearest", truncate=3.0)
    expected = 0.5 + (x[0].numpy() - 0.5) * blurred * keep[0, 0].numpy()
    np.testing.assert_allclose(soft[0].numpy(), expected, rtol=1e-9)


def test_the_model_is_left_as_it_was():
    net, x, keep = setting()
    net.train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = LayerMasking(net)(x, keep)
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), OFFICIAL, rtol=1e-7)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [m.training for m in net] == [True, False] + [True] * 10
    assert LayerMasking(net)(x.requires_grad_(), keep).requires_grad


class Dynamic(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm((16, 16))

    def forward(self, x):
        return self.norm(x).flatten(1)


def test_refused():
    net, x, keep = setting()
    for call, words in (
        (lambda: LayerMasking(net)(x, keep[:2]), r"keep must be of shape \(4, 1, 16, 16\): got \(2, 1, 16, 16\)"),
        (lambda: LayerMasking(net)(x, keep / 2), "keep must be 0 or 1"),
        (lambda: LayerMasking(net)(x / 0, keep), "images must be finite"),
        (lambda: LayerMasking(net, depth=-1), "depth must not be negative"),
        (lambda: LayerMasking(net, fill_steps=-1), "fill_steps must not be negative"),
        (lambda: LayerMasking(Dynamic()), "model must be traceable"),
        (lambda: LayerMasking(Own().double())(x, keep), r"norm \(LayerNorm\) has none"),
        (lambda: fill_from_neighbours(x, keep, -1), "steps must not be negative"),
        (lambda: fill_from_neighbours(x, keep, 1, eps=0.0), "eps must be positive"),
        (lambda: paint(x, keep, smooth=-1.0), "smooth must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert not net.training
