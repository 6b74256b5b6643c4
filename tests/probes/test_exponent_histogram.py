"""Counts of powers of two by python's own frexp."""

import collections
import math

import pytest
import torch

from assay.probes import exponent_histogram


def test_every_entry_is_counted_once():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, generator=generator) * 10 ** (4 * torch.randn(500, generator=generator))
    x[::50] = 0
    found = exponent_histogram([x[:123].view(3, 41), x[123:]])
    expected = collections.Counter(math.frexp(abs(v))[1] - 1 for v in x.tolist() if v)
    assert {e: c for e, c in zip(found.exponents.tolist(), found.counts.tolist(), strict=True) if c} == expected
    assert found.exponents.tolist() == list(range(min(expected), max(expected) + 1))
    assert found.zeros == pytest.approx(10 / 500)
    assert found.lost == pytest.approx(sum(0 < abs(v) < 2**-24 for v in x.tolist()) / 500)
    assert found.lost > 0


def test_edges_and_nothing_but_zeros():
    found = exponent_histogram([torch.tensor([2.0**-24, 2.0**-24 * 0.999])])
    assert found.exponents.tolist() == [-25, -24]
    assert found.lost == 0.5
    empty = exponent_histogram([torch.zeros(3)])
    assert (empty.zeros, empty.lost, len(empty.counts)) == (1.0, 0.0, 0)


def test_what_is_refused():
    for tensors in ([], [torch.empty(0)]):
        with pytest.raises(ValueError, match="at least one entry"):
            exponent_histogram(tensors)
    with pytest.raises(ValueError, match="finite"):
        exponent_histogram([torch.tensor([math.nan])])
