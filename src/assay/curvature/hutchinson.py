"""Diagonal and trace of a symmetric matrix from products with random signs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from assay.curvature.products import hvp


def rademacher(tensors: Sequence[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
    """Tensors shaped like those given, each entry +1 or -1 with equal chance and independently of all others.

    All are parts of one draw, so that many small tensors cost no more than one large one.

    Args:
        tensors: what gives shapes, types and devices.
        generator: where the signs come from; None is torch's global generator.

    Example:
        >>> signs = rademacher([torch.zeros(2, 3), torch.zeros(5000)], torch.Generator().manual_seed(0))
        >>> signs[0].shape, sorted(set(signs[1].tolist())), abs(signs[1].mean().item()) < 0.06
        (torch.Size([2, 3]), [-1.0, 1.0], True)
    """
    if not tensors:
        return []
    where = tensors[0].device if generator is None else generator.device
    drawn = torch.randint(2, (sum(t.numel() for t in tensors),), generator=generator, device=where, dtype=torch.int8)
    signs = drawn.mul_(2).sub_(1)
    parts = signs.split([t.numel() for t in tensors])
    return [part.view(t.shape).to(t.device, t.dtype) for part, t in zip(parts, tensors, strict=True)]


def hutchinson_diagonal(
    grads: Sequence[Tensor | None],
    params: Sequence[Tensor],
    num_probes: int = 1,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    r"""An unbiased estimate of the diagonal of the Hessian: the mean of $z \odot Hz$ over random sign vectors $z$.

    $E[z_i (Hz)_i] = H_{ii}$, with variance $\sum_{j \ne i} H_{ij}^2$ a probe (Bekas et al., 2007; a diagonal Hessian is
    found exactly by one probe, since $z_i^2 = 1$)

    Args:
        grads: gradients with their graph, as for `hvp`.
        params: the parameters.
        num_probes: sign vectors, at least 1; each costs one Hessian-vector product.
        generator: where the signs come from.

    Returns:
        Tensors shaped like the parameters, signed, without a graph.

    Raises:
        ValueError: for fewer than 1 probe, or gradients without a graph.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> grads = torch.autograd.grad((x**3).sum(), [x], create_graph=True)  # the Hessian is diagonal: 6 x
        >>> hutchinson_diagonal(grads, [x])
        [tensor([ 6., 12., 18.])]
    """
    if num_probes < 1:
        raise ValueError(f"num_probes must be at least 1: got {num_probes}")
    total: list[Tensor] = []
    for _ in range(num_probes):
        signs = rademacher(params, generator)
        products = hvp(grads, params, signs)
        torch._foreach_mul_(products, signs)
        if total:
            torch._foreach_add_(total, products)
        else:
            total = products
    if num_probes > 1:
        torch._foreach_div_(total, num_probes)
    return total


class Trace(NamedTuple):
    """An estimate of a trace.

    Args:
        value: the mean over the probes.
        low: lower end of the interval that covers the trace with the confidence asked for.
        high: its upper end.
        products: products with the matrix that it took.
    """

    value: float
    low: float
    high: float
    products: int


def hutchinson_trace(
    matvec: Callable[[Tensor], Tensor],
    size: int,
    *,
    num_probes: int = 30,
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Trace:
    r"""The trace of a symmetric matrix, with an interval: the mean of $z^\top A z$ over random sign vectors.

    The interval is Student's, from the spread of the probes themselves (Hutchinson, 1990). The number of probes is
    fixed beforehand: stopping when the estimate seems to settle would make the interval too narrow.

    Args:
        matvec: v (size) -> A v.
        size: rows of the matrix.
        num_probes: sign vectors, at least 2; each costs one product.
        confidence: of the interval, in (0, 1).
        generator: where the signs come from.
        dtype: of the vectors.
        device: of the vectors.

    Raises:
        ValueError: for fewer than 2 probes, a confidence outside (0, 1), products that are not finite.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 5.0]])
        >>> trace = hutchinson_trace(matrix.mv, 2, num_probes=200, generator=torch.Generator().manual_seed(0))
        >>> trace.low < 7.0 < trace.high, trace.high - trace.low < 1.0
        (True, True)
    """
    if num_probes < 2:
        raise ValueError(f"num_probes must be at least 2: got {num_probes}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1): got {confidence}")
    like = torch.empty(size, dtype=dtype, device=device)
    found: Float[Tensor, " n"] = torch.empty(num_probes, dtype=torch.float64)
    for index in range(num_probes):
        (signs,) = rademacher([like], generator)
        found[index] = torch.dot(signs.double(), matvec(signs).double())
    if not found.isfinite().all():
        raise ValueError("matvec must give finite products: got NaN or infinity")
    value = found.mean().item()
    half = float(stats.t.ppf(0.5 + confidence / 2, num_probes - 1)) * found.std().item() / math.sqrt(num_probes)
    return Trace(value, value - half, value + half, num_probes)
