"""Linear regions along curves: known nets, exact segments, brute force, Kac and Rice, what is refused."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from assay.data import curves
from assay.probes import (
    activation_pattern,
    boundary_distance,
    expected_density_first_layer,
    regions_along_curve,
    regions_along_segment,
)


def network(widths=(2, 9, 7, 1), seed=0):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.Linear(fan_in, fan_out)
        linear.weight.data.normal_(0, math.sqrt(2 / fan_in), generator=generator)
        linear.bias.data.normal_(0, 0.3, generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_lines_through_the_centre_cut_a_circle_twice_each():
    """Bias-free units: at the angle of the weight +- 90 degrees."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 5, bias=False), nn.ReLU(), nn.Linear(5, 1))
    found = regions_along_curve(net, curves.circle())
    assert (found.regions, found.crossings, found.neurons) == (10, 10, 5)
    weight = net[0].weight.detach().double()
    angle = torch.atan2(weight[:, 1], weight[:, 0])
    expected = torch.cat([angle + math.pi / 2, angle - math.pi / 2]) % (2 * math.pi)
    torch.testing.assert_close(found.positions, expected.sort().values, atol=1e-9, rtol=0)
    assert found.length == pytest.approx(2 * math.pi, rel=1e-6)
    assert found.density == pytest.approx(10 / (5 * 2 * math.pi), rel=1e-6)
    open_arc = regions_along_curve(net, curves.circle(), (0.0, 6.2))
    assert open_arc.regions == len(open_arc.positions) + 1


@pytest.mark.parametrize("widths", [(3, 12, 1), (3, 8, 8, 8, 2)])
def test_segments_are_exact(widths):
    """Against 2 million samples of the pattern typed out; and the network is affine between the cuts."""
    net = network(widths, seed=3).double()
    a, b = torch.tensor([-2.0, 1.0, 0.3]).double(), torch.tensor([1.5, -2.0, 1.0]).double()
    found = regions_along_segment(net, a, b)
    s = torch.linspace(0, 1, 200_001).double()
    h, patterns = a + s[:, None] * (b - a), []
    for layer in net:
        if isinstance(layer, nn.ReLU):
            patterns.append(h > 0)
        h = layer(h)
    pattern = torch.cat(patterns, 1)
    changes = (pattern[1:] != pattern[:-1]).any(1).nonzero()[:, 0]
    assert found.regions == len(changes) + 1 > 4
    torch.testing.assert_close(found.positions, s[changes], atol=6e-6, rtol=0)
    assert found.neurons == sum(widths[1:-1])
    ends = torch.cat([torch.tensor([0.0]).double(), found.positions, torch.tensor([1.0]).double()])
    third = ends[:-1] + (ends[1:] - ends[:-1]) / 3

    def value(t):
        return net(a + t[:, None] * (b - a)).detach()

    torch.testing.assert_close(value(third), value(ends[:-1]) * 2 / 3 + value(ends[1:]) / 3)
    along = regions_along_curve(net, lambda t: a + t[:, None] * (b - a), (0.0, 1.0))
    assert along.regions == found.regions
    torch.testing.assert_close(along.positions, found.positions, atol=1e-9, rtol=0)


def test_close_boundaries_are_parted_and_coinciding_ones_are_not():
    net = nn.Sequential(nn.Linear(1, 3), nn.ReLU())
    net[0].weight.data, net[0].bias.data = torch.ones(3, 1), -torch.tensor([0.501, 0.502, 0.502])
    for refine, regions in ((True, 3), (False, 2)):
        found = regions_along_curve(net, lambda s: s[:, None], (0.0, 1.0), samples=10, refine=refine)
        assert (found.regions, found.crossings) == (regions, 3)


def test_more_samples_change_little():
    net = network((2, 32, 32, 1))
    few, many = (regions_along_curve(net, curves.tractrix(), samples=n).regions for n in (8192, 16384))
    assert abs(few - many) <= 0.01 * many


def test_kac_and_rice_against_random_units():
    """1,000 units: the count's standard error is below 1 / sqrt(1000) a unit, four of which are allowed."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 1000), nn.ReLU())
    net[0].weight.data.normal_(0, 0.7)
    net[0].bias.data.normal_(0, 0.3)
    for curve in (curves.circle(), curves.tractrix(), curves.circle(1.0, (2.0, 0.0))):
        found = regions_along_curve(net, curve, samples=4_000, halvings=2)
        rate = expected_density_first_layer(curve, weight_std=0.7, bias_std=0.3)
        assert found.crossings / 1000 == pytest.approx(rate * curve.length, abs=4 / math.sqrt(1000))
    # without a bias the units count the angle from the origin, in half turns
    for curve in (curves.circle(1.0, (2.0, 0.0)), curves.tractrix()):
        rate = expected_density_first_layer(curve, weight_std=0.7, bias_std=0.0, samples=50_000)
        assert rate * curve.length == pytest.approx(curve.subtended_angle / math.pi, rel=1e-3)


def test_distances_go_along_the_curve():
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU())
    net[0].weight.data = torch.tensor([[1.0, 0.0]])  # x = 0: a quarter and three quarters of the way round
    at = torch.tensor([0.0, 1.0, 3.0, 6.0])
    found = boundary_distance(net, curves.circle(2.0), at=at * 2)
    expected = 2 * torch.tensor([math.pi / 2, math.pi / 2 - 1, 3 - math.pi / 2, 6 - 1.5 * math.pi]).double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    # closed: from just before the end the nearest boundary lies beyond the start
    net[0].weight.data = torch.tensor([[0.0, 1.0]])
    rotated = lambda s: curves.circle()(s - 0.25)  # noqa: E731
    near = boundary_distance(net, rotated, (0.0, 2 * math.pi), at=torch.tensor([2 * math.pi - 0.5]))
    assert near.item() == pytest.approx(0.75, abs=1e-4)
    net[0].weight.data.zero_()
    assert boundary_distance(net, curves.circle(), at=torch.tensor([1.0])).item() == math.inf


def test_double_precision_whatever_the_model_and_nothing_is_touched():
    """In single precision a bias of 1e-9 beside weights of 1 drowns."""
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.BatchNorm1d(1), nn.Dropout(), nn.Linear(1, 1))
    net[0].weight.data, net[0].bias.data = torch.ones(1, 1), torch.tensor([1e-9])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert activation_pattern(net, torch.tensor([[-1e-9 + 1e-12], [-1e-9 - 1e-12]], dtype=torch.float64)).tolist() == [
        [True],
        [False],
    ]
    regions_along_curve(net, lambda s: s[:, None], (-1.0, 1.0), samples=5)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert net[0].weight.dtype == torch.float32


def test_convolutions_and_activations_in_place():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3), nn.LeakyReLU())
    a, b = torch.randn(2, 1, 4, 4)
    found = regions_along_segment(net, a, b)
    assert found.neurons == 8 + 3
    along = regions_along_curve(net, lambda s: a + s.view(-1, 1, 1, 1) * (b - a), (0.0, 1.0))
    assert along.regions == found.regions > 2


def test_what_is_refused():
    net, line = network((1, 3, 1)), lambda s: s[:, None]
    with pytest.raises(ValueError, match="bend at 0 only: got Tanh"):
        regions_along_curve(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Tanh()), line, (0.0, 1.0))
    with pytest.raises(ValueError, match="must have ReLU"):
        activation_pattern(nn.Linear(1, 1), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="inputs"):
        activation_pattern(net, torch.tensor([[math.nan]]))
    with pytest.raises(ValueError, match="samples"):
        regions_along_curve(net, line, (0.0, 1.0), samples=1)
    with pytest.raises(ValueError, match="interval must be given"):
        regions_along_curve(net, line)
    with pytest.raises(ValueError, match="interval must be a first"):
        regions_along_curve(net, line, (1.0, 1.0))
    with pytest.raises(ValueError, match="finite points"):
        regions_along_curve(net, lambda s: s[:, None] / 0, (0.0, 1.0))
    with pytest.raises(ValueError, match="one point a parameter"):
        regions_along_curve(net, lambda s: s, (0.0, 1.0))
    with pytest.raises(ValueError, match="end must have the shape"):
        regions_along_segment(net, torch.zeros(1), torch.zeros(2))
    with pytest.raises(ValueError, match="another point"):
        regions_along_segment(net, torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match="at must lie"):
        boundary_distance(net, line, (0.0, 1.0), at=torch.tensor([2.0]))
    for stds in ((0.0, 1.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match="weight_std"):
            expected_density_first_layer(line, (0.0, 1.0), weight_std=stds[0], bias_std=stds[1])
    with pytest.raises(ValueError, match="samples"):
        expected_density_first_layer(line, (0.0, 1.0), weight_std=1.0, bias_std=1.0, samples=1)
