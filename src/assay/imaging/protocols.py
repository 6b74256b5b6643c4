"""What imaging papers agree on: a forward operator, a regularizer, and what a solver gives back."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class ForwardOperator(Protocol):
    """A linear camera: `A(x)` is what it would measure of x without noise, `A.adjoint(y)` its transpose.

    x is (batch, channel, *in) and y (batch, channels of y, *out); `shape_in` and `shape_out` are the sizes without the
    batch. Both are differentiable. Noise is no part of it: y = A(x) + noise is written out where data are made.

    Example:
        >>> class Halve:
        ...     shape_in, shape_out = (1, 4), (1, 2)
        ...
        ...     def __call__(self, x):
        ...         return (x[..., ::2] + x[..., 1::2]) / 2
        ...
        ...     def adjoint(self, y):
        ...         return y.repeat_interleave(2, -1) / 2
        >>> isinstance(Halve(), ForwardOperator), check_adjoint(Halve()) < 1e-12
        (True, True)
    """

    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor: ...

    def adjoint(self, y: Tensor) -> Tensor: ...


@runtime_checkable
class Regularizer(Protocol):
    """J: `value(x)` is one number an item of the batch, `prox(x, t)` is $\\arg\\min_u t J(u) + |u - x|^2 / 2$.

    Example:
        >>> from assay.imaging import TotalVariation
        >>> isinstance(TotalVariation(), Regularizer)
        True
    """

    def value(self, x: Tensor) -> Tensor: ...

    def prox(self, x: Tensor, t: float) -> Tensor: ...


class Solution(NamedTuple):
    """What a solver found, and how far it is from the optimum at most.

    `x` is the estimate; `dual` what certifies it, to start the next solve from; `gap` the relative duality gap, the
    largest in the batch; `iterations` how many were made. A solver that runs out of iterations says so by its `gap`.
    """

    x: Tensor
    dual: Tensor
    gap: float
    iterations: int


def check_adjoint(operator: ForwardOperator, *, generator: torch.Generator | None = None) -> float:
    r"""$|\langle A x, y\rangle - \langle x, A^\top y\rangle| / (|A x|\,|y|)$ for one random x and y, in float64.

    Rounding for a true adjoint (below 1e-12), of order one for a wrong one.

    Args:
        operator: whose `adjoint` is tested; it must work in float64.
        generator: where x and y come from.

    Raises:
        ValueError: when `A(x)` does not have the shape `shape_out`.

    Example:
        >>> class Shift:
        ...     shape_in = shape_out = (1, 5)
        ...
        ...     def __call__(self, x):
        ...         return x.roll(1, -1)
        ...
        ...     adjoint = __call__  # wrong: it should roll back
        >>> check_adjoint(Shift(), generator=torch.Generator().manual_seed(0)) > 0.01
        True
    """
    x = torch.randn(2, *operator.shape_in, generator=generator, dtype=torch.float64)
    y = torch.randn(2, *operator.shape_out, generator=generator, dtype=torch.float64)
    seen = operator(x)
    if seen.shape != y.shape:
        raise ValueError(f"operator must map to shape_out = {operator.shape_out}: got {tuple(seen.shape[1:])}")
    difference = (seen * y).sum() - (x * operator.adjoint(y)).sum()
    return float(difference.abs() / (seen.norm() * y.norm()))
