"""Counts of a known spectrum, what scale does not change, clusters whose outliers can be counted; what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.curvature import hessian_matrix
from assay.probes import spectrum_summary

VALUES = torch.tensor([7.3, -0.9, 0.002, -0.0071, 0.0075, 0.74, 0.71, 3.1, -0.01, 0.3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_by_hand(dtype):
    """Above 0.73: 7.3, 0.74, 3.1. Within 0.0073: 0.002, -0.0071. Below -0.0073: -0.9, -0.01."""
    found = spectrum_summary(VALUES.to(dtype))
    assert (found.num_outliers, found.num_negative) == (3, 2)
    assert found.near_zero_fraction == pytest.approx(0.2)
    assert found.top == pytest.approx(7.3)
    assert found.bulk_edge == pytest.approx(0.71)
    assert found.gap == pytest.approx(0.74 / 0.71, rel=1e-6)
    other = spectrum_summary(VALUES.to(dtype), outlier=0.3, zero=0.05)
    assert (other.num_outliers, other.num_negative) == (2, 1)
    assert other.near_zero_fraction == pytest.approx(0.5)


def test_order_and_scale_do_not_matter():
    found, turned = spectrum_summary(VALUES), spectrum_summary(40 * VALUES.flip(0))
    assert found[:3] == turned[:3]
    assert found.gap == pytest.approx(turned.gap)


def test_all_outliers():
    found = spectrum_summary(torch.tensor([1.0, 2.0]))
    assert (found.num_outliers, found.bulk_edge, found.gap) == (2, 2.0, 0.5)
    assert spectrum_summary(torch.tensor([1.0, -2.0])).gap == math.inf


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_clusters_without_noise_have_as_many_outliers_as_the_softmax_allows(classes):
    """C points, one a class: the Gauss-Newton matrix has rank C (C - 1) and not one more, whatever the width."""
    for width in (6, 9):
        torch.manual_seed(classes)
        network = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, classes)).double()
        x, y = torch.randn(classes, 5, dtype=torch.float64), torch.arange(classes)
        values = torch.linalg.eigvalsh(hessian_matrix(network, F.cross_entropy, x, y, kind="gauss_newton"))
        found = spectrum_summary(values, outlier=1e-9, zero=1e-9)
        assert found.num_outliers == classes * (classes - 1)
        assert found.near_zero_fraction == 1 - classes * (classes - 1) / len(values)


@pytest.mark.parametrize(
    ("values", "settings", "name"),
    [
        ([1.0], dict(outlier=0.0), "outlier"),
        ([1.0], dict(outlier=1.0), "outlier"),
        ([1.0], dict(zero=0.0), "zero"),
        ([1.0], dict(zero=0.2), "zero"),
        ([], {}, "values"),
        ([1.0, math.nan], {}, "values"),
        ([0.0, -1.0], {}, "values must have one above 0"),
    ],
)
def test_refused(values, settings, name):
    with pytest.raises(ValueError, match=name):
        spectrum_summary(torch.tensor(values), **settings)
