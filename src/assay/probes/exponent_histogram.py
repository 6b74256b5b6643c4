"""Where numbers lie on the scale of powers of two (Micikevicius et al., 2017, arXiv:1710.03740, figures 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class ExponentHistogram(NamedTuple):
    """How many entries have each power of two.

    Args:
        exponents: e, ascending, without gaps.
        counts: entries with 2^e <= |x| < 2^(e + 1).
        zeros: share of entries that are exactly 0.
        lost: share of entries other than 0 that are below 2^-24, which float16 cannot tell from 0 or does so barely.
    """

    exponents: Int[Tensor, " k"]
    counts: Int[Tensor, " k"]
    zeros: float
    lost: float


def exponent_histogram(tensors: Iterable[Float[Tensor, "..."]]) -> ExponentHistogram:
    """The histogram of all entries of some tensors, such as the gradients of a step.

    Args:
        tensors: of real numbers; at least one entry in all.

    The paper: figures 2 and 3.

    Raises:
        ValueError: for no entries, or some that are not finite.

    Example:
        >>> found = exponent_histogram([torch.tensor([0.0, 1.0, 1.5, -0.25]), torch.tensor([2.0**-30])])
        >>> found.exponents[[0, -1]].tolist(), found.counts[[0, -3, -1]].tolist(), found.zeros, found.lost
        ([-30, 0], [1, 1, 2], 0.2, 0.2)
    """
    parts = [tensor.detach().flatten().double().cpu() for tensor in tensors]
    values = torch.cat(parts) if parts else torch.empty(0)
    if not values.numel():
        raise ValueError("tensors must have at least one entry: got none")
    if not values.isfinite().all():
        raise ValueError("tensors must be finite: got NaN or infinity")
    other = values[values != 0].abs()
    zeros = (len(values) - len(other)) / len(values)
    if not len(other):
        empty = torch.empty(0, dtype=torch.long)
        return ExponentHistogram(empty, empty, zeros, 0.0)
    exponent = torch.frexp(other).exponent.long() - 1
    low = int(exponent.min())
    counts = torch.bincount(exponent - low)
    lost = int((other < 2.0**-24).sum()) / len(values)
    return ExponentHistogram(torch.arange(low, low + len(counts)), counts, zeros, lost)
