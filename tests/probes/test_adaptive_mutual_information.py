"""Estimators of information: tuples counted in plain Python, closed forms, invariances, the authors' edges."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from assay.data import twelve_bits
from assay.data.twelve_bits import icosahedron
from assay.nn import BatchedMLP
from assay.probes import InformationPlane, binned_information, compression, entropy_bins, kde_information


def layer(n=400, d=3, relu=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(n, d, generator=generator, dtype=torch.float64)
    labels = (values.sum(1) + torch.randn(n, generator=generator, dtype=torch.float64) > 0).long()
    return (values.relu() if relu else values).to(dtype), labels


def entropy(symbols):
    counts = Counter(symbols)
    return -sum(c / len(symbols) * math.log2(c / len(symbols)) for c in counts.values())


@pytest.mark.parametrize(("relu", "low"), [(True, 0.0), (False, -9.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_and_information_counted_by_hand(relu, low, dtype):
    """The authors' loop over bins, numpy's digitize, tuples in a dictionary."""
    values, labels = layer(relu=relu, dtype=dtype)
    array = values.double().numpy()
    unique = np.setdiff1d(np.unique(array), [low])
    edges = [low] + [unique[int(k * (unique.size / 30))] for k in range(30)] + [unique[-1]]
    np.testing.assert_array_equal(entropy_bins(values, low=low).numpy(), edges)
    symbols = [tuple(row) for row in np.digitize(array, edges)]
    y = labels.tolist()
    expected = entropy(symbols)
    given = sum(
        y.count(k) / len(y) * entropy([s for s, label in zip(symbols, y, strict=True) if label == k]) for k in (0, 1)
    )
    found = binned_information(values, labels, low=low)
    assert found == pytest.approx((expected, expected - given), rel=1e-12)
    assert binned_information(values, labels) == pytest.approx(found)  # low is found by itself
    assert 0 < found[1] <= min(found[0], entropy(y)) + 1e-9


def test_unique_values_are_shared_out_not_all_values():
    """Half of the values are 0; quantiles of all would put half of the edges there."""
    edges = entropy_bins(torch.cat([torch.zeros(100, 1), torch.arange(1.0, 101)[:, None]]), 10)
    assert edges.tolist() == [0, 1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]


def test_many_units_are_told_apart():
    """Sixty units of two values each: more tuples than a 64-bit number holds."""
    bits = torch.randint(2, (300, 60), generator=torch.Generator().manual_seed(0)).double()
    assert binned_information(bits, torch.arange(300))[0] == pytest.approx(math.log2(300))
    doubled = torch.cat([bits, bits])
    assert binned_information(doubled, torch.arange(600))[0] == pytest.approx(math.log2(300))


def test_closed_forms():
    y = torch.arange(64) % 4
    code = torch.arange(64.0)[:, None]
    assert binned_information(code, y, num_bins=64) == pytest.approx((6.0, 2.0))
    assert binned_information(torch.eye(4)[y], y) == pytest.approx((2.0, 2.0))
    assert binned_information(torch.full((64, 3), 0.7), y) == (0.0, 0.0)
    # two noisy copies of each input: what differs between them is no information about it
    assert binned_information(code, y, num_bins=64, inputs=torch.arange(64) // 2)[0] == pytest.approx(5.0)
    assert binned_information(code, y, bins="uniform", num_bins=8)[0] < 3.1  # seven bins of nine and the last value


def test_adaptive_bins_do_not_notice_scales_and_uniform_limits_do():
    values, labels = layer()
    found = binned_information(values, labels)
    assert binned_information(17.3 * values, labels) == found
    assert binned_information(values**3, labels) == found
    assert kde_information(17.3 * values, labels) == pytest.approx(kde_information(values, labels), rel=1e-9)
    limits = torch.linspace(0, 3, 30).double()
    small, large = (binned_information(c * values, labels, bins=limits)[0] for c in (0.01, 1.0))
    assert small < large
    assert kde_information(0.01 * values, labels, adaptive=False)[0] < 1 < kde_information(values, labels)[0]


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize(("bound", "factor"), [("upper", 2), ("lower", 8)])
def test_kernels_against_the_double_sum(adaptive, bound, factor):
    values, labels = layer(60)
    width = factor * 0.02 * (values.abs().max().item() ** 2 if adaptive else 1)

    def spread(points):
        rows = [
            math.log(sum(math.exp(-((a - b) ** 2).sum().item() / width) for b in points) / len(points)) for a in points
        ]
        return -sum(rows) / len(rows) / math.log(2)

    within = sum((labels == k).double().mean().item() * spread(values[labels == k]) for k in (0, 1))
    for chunk in (7, 1024):
        found = kde_information(values, labels, noise=0.02, adaptive=adaptive, bound=bound, chunk=chunk)
        assert found == pytest.approx((spread(values), spread(values) - within), rel=1e-9)


def test_bounds_are_in_order_and_exact_for_far_clusters():
    values, labels = layer()
    assert kde_information(values, labels, bound="lower")[0] < kde_information(values, labels)[0]
    far = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    for bound in ("upper", "lower"):
        assert kde_information(far, torch.tensor([0, 1, 0, 1]), bound=bound) == pytest.approx((1.0, 0.0), abs=1e-9)
    assert kde_information(torch.ones(4, 2), torch.arange(4)) == (0.0, 0.0)


def test_the_plane_looks_at_each_layer_and_leaves_all_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Dropout(0.9), nn.Linear(5, 2))
    model[2].eval()
    x, y = twelve_bits()
    plane = InformationPlane(["1", "3"], x[:500], y[:500], every=2)
    for _ in range(3):
        plane.on_epoch(model)
    assert plane.curves.shape == (2, 2, 2)
    hidden = model[1](model[0](x[:500])).detach()
    assert plane.curves[1, 0].tolist() == list(binned_information(hidden, y[:500]))
    assert model.training
    assert not model[2].training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(RuntimeError):
        InformationPlane(["1"], x[:9, :5], y[:9]).look(model)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_many_networks_at_once_are_each_by_itself():
    many = BatchedMLP(3, (12, 5, 2), generator=torch.Generator().manual_seed(0)).double()
    x, y = twelve_bits()
    x, y = x[::8].double(), y[::8]
    together = InformationPlane(["1", "2"], x, y, networks=3).look(many)
    for k in range(3):
        alone = InformationPlane(["1", "2"], x, y).look(many.single(k))
        torch.testing.assert_close(together[:, k], alone)


def test_compression_has_fixed_windows():
    times = [1, 10, 20, 50, 90, 100]
    curve = torch.tensor([9.0, 4.0, 2.0, 7.0, 1.0, 2.0])
    assert compression(curve, times).item() == 3.0 - 1.5  # epochs 10 and 20; 90 and 100
    noise = torch.randn(2000, 400, generator=torch.Generator().manual_seed(0))
    # no bias: 400 x 361 and 400 x 401 numbers
    assert abs(compression(noise).mean().item()) < 4 * math.sqrt((1 / 361 + 1 / 401) / 400)


def test_twelve_bits_do_not_notice_a_rotation():
    x, y = twelve_bits()
    assert (x.sum(1).unique(return_counts=True)[1] == torch.tensor([math.comb(12, k) for k in range(13)])).all()
    vertices = icosahedron()
    # the rotation by 120 degrees about (1, 1, 1) permutes coordinates, and with them the vertices
    turned = vertices[:, [1, 2, 0]]
    where = torch.cdist(turned, vertices).argmin(1)
    assert sorted(where.tolist()) == list(range(12))
    number = (x[:, where].long() * 2 ** torch.arange(12)).sum(1)
    assert (y[number] != y).sum() <= 360  # only those at the median, 360 of them, are parted by their place


def test_what_is_refused():
    values, labels = layer(10)
    bad = values.clone()
    bad[0, 0] = math.nan
    for call, name in (
        (lambda: entropy_bins(values, 1), "num_bins"),
        (lambda: entropy_bins(values, low=5.0), "low"),
        (lambda: entropy_bins(values[:1]), "activations"),
        (lambda: binned_information(bad, labels), "activations must be finite"),
        (lambda: binned_information(values, labels[:5]), "labels"),
        (lambda: binned_information(values, labels, inputs=labels[:5]), "inputs"),
        (lambda: binned_information(values, labels, bins="odd"), "bins"),
        (lambda: binned_information(values, labels, bins="uniform", num_bins=1), "num_bins"),
        (lambda: binned_information(values, labels, bins=torch.tensor([1.0, 0.0])), "bins"),
        (lambda: kde_information(values, labels, noise=0.0), "noise"),
        (lambda: kde_information(values, labels, bound="middle"), "bound"),
        (lambda: kde_information(values, labels, chunk=0), "chunk"),
        (lambda: InformationPlane([], values, labels), "layers"),
        (lambda: InformationPlane(["0"], values, labels[:5]), "labels"),
        (lambda: InformationPlane(["0"], values, labels, every=0), "every"),
        (lambda: InformationPlane(["7"], values, labels).look(nn.Sequential(nn.Linear(3, 1)).double()), "layers"),
        (lambda: InformationPlane(["0"], values, labels).curves, "at least one look"),
        (lambda: compression(torch.ones(3), [1, 2]), "epochs"),
        (lambda: compression(torch.ones(3), early=(0.0, 0.1)), "early"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
