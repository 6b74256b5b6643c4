"""The gradient of an image on the cells between four pixels, measured through a matrix field, and its transpose."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from assay.imaging.adaptive_tensor import MatrixField


class CellGradient:
    r"""$K u = (A \nabla u, w h)$ on each cell, for images of the dtype, device and axes of one of them.

    With $d = u_{11} - u_{00}$, $e = u_{01} - u_{10}$ and $h = u_{00} - u_{01} - u_{10} + u_{11}$ the mean differences
    along both axes are $g_x = (d + e) / 2$ and $g_y = (d - e) / 2$, and K u is linear in d, e and h. `bound` is an
    upper bound of $|K|^2$, 4 where A and 2 w have no eigenvalue above 1.

    Args:
        field: A.
        like: an image (h, w), or (..., c, h, w); one value a cell will do as well.
        cross: w as a multiple of the smaller eigenvalue of A, at least 0.

    Raises:
        ValueError: for a `cross` below 0, or a field whose axes do not fit those of the images.

    Example:
        >>> u = torch.tensor([[1.0, 2.0], [4.0, 9.0]])
        >>> one = torch.ones(1, 1)
        >>> CellGradient(MatrixField(one, 0 * one, one), u).gradient(u).flatten()  # (3, 5) and half of 4
        tensor([3., 5., 2.])
    """

    def __init__(self, field: MatrixField, like: Float[Tensor, "..."], *, cross: float = 0.5) -> None:
        if not 0 <= cross < math.inf:
            raise ValueError(f"cross must be finite and at least 0: got {cross}")
        parts = [part.to(like) for part in (field.a11, field.a12, field.a22, cross * field.eigenvalues[0])]
        if len(field.shape) > 2:
            if field.shape[:-2] != like.shape[:-3] or like.ndim != len(field.shape) + 1:
                raise ValueError(
                    f"a field of shape {field.shape} is for images {(*field.shape[:-2], 'c', 'h', 'w')}: "
                    f"got {tuple(like.shape)}"
                )
            parts = [part.unsqueeze(-3) for part in parts]
        self.field, self.cross = field, cross
        a11, a12, a22, self.w = parts
        self.weights = ((a11 + a12) / 2, (a11 - a12) / 2, (a12 + a22) / 2, (a12 - a22) / 2)
        largest = max(field.eigenvalues[1].max().item(), 2 * self.w.max().item())
        self.bound = 4 * largest**2
        self.cells = field.shape[-2:]

    def gradient(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """K u."""
        u00, u01, u10, u11 = corners(u)
        d, e = u11 - u00, u01 - u10
        bxd, bxe, byd, bye = self.weights
        return torch.stack([bxd * d + bxe * e, byd * d + bye * e, self.w * (u00 - u01 - u10 + u11)], dim=-3)

    def adjoint(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """K^T z."""
        out = z.new_zeros(*z.shape[:-3], z.shape[-2] + 1, z.shape[-1] + 1)
        self.subtract_adjoint(-z, out)
        return out

    def add_gradient(self, u: Tensor, step: float, z: Tensor, scratch: tuple[Tensor, Tensor]) -> None:
        """z += step K u, in place; `scratch` are two images on the cells."""
        u00, u01, u10, u11 = corners(u)
        bxd, bxe, byd, bye = self.weights
        x, y, mixed = z.unbind(-3)
        d, e = scratch
        torch.sub(u11, u00, out=d)
        torch.sub(u01, u10, out=e)
        x.addcmul_(bxd, d, value=step).addcmul_(bxe, e, value=step)
        y.addcmul_(byd, d, value=step).addcmul_(bye, e, value=step)
        torch.add(u00, u11, out=d).sub_(u01).sub_(u10)
        mixed.addcmul_(self.w, d, value=step)

    def subtract_adjoint(self, z: Tensor, u: Tensor, scratch: tuple[Tensor, Tensor] | None = None) -> None:
        """u -= K^T z, in place."""
        u00, u01, u10, u11 = corners(u)
        bxd, bxe, byd, bye = self.weights
        x, y, mixed = z.unbind(-3)
        d, e = scratch or (torch.empty_like(x), torch.empty_like(x))
        torch.mul(bxd, x, out=d).addcmul_(byd, y)
        torch.mul(bxe, x, out=e).addcmul_(bye, y)
        u11.sub_(d)
        u00.add_(d)
        u01.sub_(e)
        u10.add_(e)
        torch.mul(self.w, mixed, out=d)
        u00.sub_(d)
        u11.sub_(d)
        u01.add_(d)
        u10.add_(d)


def corners(u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Upper left, upper right, lower left and lower right pixel of each cell."""
    return u[..., :-1, :-1], u[..., :-1, 1:], u[..., 1:, :-1], u[..., 1:, 1:]
