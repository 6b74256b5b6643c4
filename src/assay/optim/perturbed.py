"""Weights moved for a while, and put back exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def perturbed(parameters: Sequence[Tensor], offsets: Sequence[Tensor]) -> Iterator[None]:
    r"""$\theta + \epsilon$ inside, $\theta$ again after, bit for bit, whatever happens in between.

    The old values are kept, not subtracted back: sums round.

    Args:
        parameters: $\theta$, moved in place.
        offsets: $\epsilon$, one tensor of the same shape for each.

    Raises:
        ValueError: for offsets that do not fit.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([0.1, 1.0]))
        >>> with perturbed([weight], [torch.tensor([1e8, 0.5])]):
        ...     print(weight[1].item())
        1.5
        >>> weight.tolist() == torch.tensor([0.1, 1.0]).tolist()  # 0.1 + 1e8 - 1e8 would be 0
        True
    """
    if [p.shape for p in parameters] != [offset.shape for offset in offsets]:
        raise ValueError(
            f"offsets must have the shapes of parameters, {[tuple(p.shape) for p in parameters]}: "
            f"got {[tuple(offset.shape) for offset in offsets]}"
        )
    parameters = list(parameters)
    with torch.no_grad():
        start = [p.clone() for p in parameters]
        if parameters:
            torch._foreach_add_(parameters, list(offsets))
    try:
        yield
    finally:
        with torch.no_grad():
            if parameters:
                torch._foreach_copy_(parameters, start)
