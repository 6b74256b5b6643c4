"""Finite differences of signals and images, and the total variation that is made of them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def gradient(x: Float[Tensor, "..."], *, dims: int = 2) -> Float[Tensor, "..."]:
    r"""Forward differences, 0 at the end of each axis: $(\nabla x)_{1,ij} = x_{i+1,j} - x_{ij}$ and so on.

    Args:
        x: (..., n) or (..., h, w).
        dims: how many trailing axes are space, 1 or 2.

    Returns:
        (..., 1, n) or (..., 2, h, w): the component along each axis of space, the first axis first.

    The discretisation of Chambolle, 2004, section 2; the boundary is free (Neumann's).

    Raises:
        ValueError: for other `dims` than 1 and 2, or fewer axes than that.

    Example:
        >>> gradient(torch.tensor([[0.0, 1.0], [5.0, 9.0]]))
        tensor([[[5., 8.],
                 [0., 0.]],
        <BLANKLINE>
                [[1., 0.],
                 [4., 0.]]])
    """
    _check_dims(dims, x.ndim)
    parts = []
    for axis in range(-dims, 0):
        step = x.diff(dim=axis)
        parts.append(torch.cat([step, torch.zeros_like(x.narrow(axis, 0, 1))], dim=axis))
    return torch.stack(parts, dim=-dims - 1)


def divergence(z: Float[Tensor, "..."], *, dims: int = 2) -> Float[Tensor, "..."]:
    r"""$-\nabla^\top z$: backward differences that see 0 beyond both ends.

    Args:
        z: (..., 1, n) or (..., 2, h, w), as `gradient` returns; the last entry along an axis does not count.
        dims: how many trailing axes are space, 1 or 2.

    Chambolle, 2004, section 2.

    Raises:
        ValueError: for other `dims` than 1 and 2, or a field with another number of components.

    Example:
        >>> divergence(torch.tensor([[1.0, 4.0, 100.0]]), dims=1)
        tensor([ 1.,  3., -4.])
    """
    _check_dims(dims, z.ndim - 1)
    if z.shape[-dims - 1] != dims:
        raise ValueError(f"z must have {dims} component(s) at axis {-dims - 1}: got shape {tuple(z.shape)}")
    out = torch.zeros_like(z.select(-dims - 1, 0))
    for component, axis in enumerate(range(-dims, 0)):
        part = z.select(-dims - 1, component)
        inner = part.narrow(axis, 0, part.shape[axis] - 1)
        out.narrow(axis, 0, part.shape[axis] - 1).add_(inner)
        out.narrow(axis, 1, part.shape[axis] - 1).sub_(inner)
    return out


def total_variation(
    x: Float[Tensor, "..."], *, dims: int = 2, isotropic: bool = True, coupled: bool = False
) -> Float[Tensor, "..."]:
    r"""$J(x) = \sum_{ij} |(\nabla x)_{ij}|$, with the Euclidean length of each difference, or the sum of its parts.

    Args:
        x: (..., n) or (..., h, w); with `coupled` (..., c, n) or (..., c, h, w).
        dims: how many trailing axes are space, 1 or 2.
        isotropic: True takes the length of the gradient, False the sum of the magnitudes of its components.
        coupled: whether the channels share one length (vectorial total variation) or each has its own.

    Returns:
        One number for each signal or image: the axes of space are gone, and that of channels with `coupled`.

    Rudin, Osher and Fatemi, 1992; the discretisation of Chambolle, 2004, equation (1).

    Raises:
        ValueError: for other `dims` than 1 and 2, or fewer axes than needed.

    Example:
        >>> x = torch.tensor([[0.0, 4.0], [3.0, 3.0]])
        >>> total_variation(x), total_variation(x, isotropic=False)  # (3, 4), (-1), (0): 5 + 1 + 0 and 7 + 1 + 0
        (tensor(6.), tensor(8.))
    """
    _check_dims(dims, x.ndim - coupled)
    field = gradient(x, dims=dims)
    axes = [-dims - 1] if isotropic else []
    axes += [-dims - 2] if coupled else []
    length = field.square().sum(axes, keepdim=True).sqrt_() if axes else field.abs()
    over = tuple(range(-dims - 1 - coupled, 0))
    return length.sum(over)


def _check_dims(dims: int, axes: int) -> None:
    if dims not in (1, 2):
        raise ValueError(f"dims must be 1 or 2: got {dims}")
    if axes < dims:
        raise ValueError(f"dims must not exceed the axes there are: got dims = {dims} for {axes}")
