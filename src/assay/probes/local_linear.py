"""What a network is near a point: its Jacobian there, and the affine map it is tangent to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class AffineMap(NamedTuple):
    """$x \\mapsto J x + c$ for each of n points: `slope` $J$ (n, m, d), `offset` $c$ (n, m)."""

    slope: Float[Tensor, "n m d"]
    offset: Float[Tensor, "n m"]

    def __call__(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n m"]:
        """The value at one point of each of the n maps."""
        return (self.slope @ inputs.flatten(1)[:, :, None])[:, :, 0] + self.offset


def jacobian(
    function: Callable[[Tensor], Tensor], inputs: Float[Tensor, "n ..."], *, chunk: int | None = None
) -> Float[Tensor, "n m d"]:
    r"""$J_{nkj} = \partial f_k(x_n) / \partial x_{nj}$, exact, by one forward pass and one backward pass an output.

    Args:
        function: maps (n, ...) to (n, ...), one example to one result; a module is used in evaluation mode, in which
            examples do not see each other, and given back in the mode it was in. Gradients of its weights are not
            touched.
        inputs: n points, of any shape with d entries each.
        chunk: backward passes made at once; None takes all m of them.

    Returns:
        (n, m, d), the entries of inputs and outputs counted row by row.

    Raises:
        ValueError: for inputs that are none or not finite, as many outputs as not, a chunk below 1, a Jacobian that is
            not finite.

    Example:
        >>> product = lambda x: torch.stack([x[:, 0] * x[:, 1], 3 * x[:, 1]], 1)
        >>> jacobian(product, torch.tensor([[2.0, 5.0]]))
        tensor([[[5., 2.],
                 [0., 3.]]])
    """
    return _tangent(function, inputs, chunk)[1]


def local_affine(
    function: Callable[[Tensor], Tensor], inputs: Float[Tensor, "n ..."], *, chunk: int | None = None
) -> AffineMap:
    r"""The affine map that is tangent to a function at each point: $f(x) + J(x)(x' - x)$.

    A network whose nonlinearities are piecewise linear equals it on all of the linear region that the point lies in.

    Args:
        function: as for `jacobian`.
        inputs: n points.
        chunk: as for `jacobian`.

    Raises:
        ValueError: as for `jacobian`.

    Example:
        >>> square = lambda x: x**2
        >>> near = local_affine(square, torch.tensor([[3.0]]))   # 6 x - 9
        >>> near(torch.tensor([[4.0]]))
        tensor([[15.]])
    """
    values, slope = _tangent(function, inputs, chunk)
    return AffineMap(slope, values - (slope @ inputs.detach().flatten(1)[:, :, None])[:, :, 0])


def _tangent(function: Callable[[Tensor], Tensor], inputs: Tensor, chunk: int | None) -> tuple[Tensor, Tensor]:
    """Values (n, m) and Jacobians (n, m, d)."""
    if inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError(f"inputs must be of shape (n, ...) with n at least 1: got {tuple(inputs.shape)}")
    if not inputs.isfinite().all():
        raise ValueError("inputs must be finite: got NaN or infinity")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1: got {chunk}")
    points = inputs.detach().clone().requires_grad_()
    with evaluating(function), torch.enable_grad():
        outputs = function(points)
        if outputs.shape[:1] != points.shape[:1]:
            raise ValueError(f"function must give one output an example: got {tuple(outputs.shape)}")
        values = outputs.flatten(1)
        if not values.requires_grad:  # a constant
            return values.detach(), values.new_zeros(*values.shape, inputs[0].numel())
        count = values.shape[1]
        step = count if chunk is None else chunk
        parts = []
        for start in range(0, count, step):
            wanted = torch.eye(count, dtype=values.dtype, device=values.device)[start : start + step]
            seeds = wanted[:, None, :].expand(-1, len(points), -1)
            (part,) = torch.autograd.grad(
                values, points, seeds, retain_graph=start + step < count, is_grads_batched=True, materialize_grads=True
            )
            parts.append(part.flatten(2))
    slope = torch.cat(parts).transpose(0, 1).contiguous()
    if not slope.isfinite().all():
        raise ValueError("function must have finite derivatives at the inputs: got NaN or infinity")
    return values.detach(), slope


@contextmanager
def evaluating(function: object) -> Iterator[None]:
    """A module in evaluation mode inside; outside, each of its modules as it was."""
    modules = list(function.modules()) if isinstance(function, nn.Module) else []
    before = [(module, module.training) for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
