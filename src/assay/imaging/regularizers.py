"""Total variation as a regularizer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from assay.imaging.dual import rof
from assay.imaging.ops import total_variation


class TotalVariation:
    """`total_variation` and `rof` with one set of options: a `Regularizer`.

    Args:
        dims: how many trailing axes are space, 1 or 2.
        isotropic: as in `total_variation`.
        coupled: as in `total_variation`.
        tol: relative duality gap of the proximal map.
        max_iterations: when it stops at the latest.

    Raises:
        ValueError: when called, as `total_variation` and `rof`.

    Example:
        >>> import torch
        >>> tv = TotalVariation(tol=1e-8)
        >>> step = torch.tensor([[0.0, 3.0], [0.0, 3.0]], dtype=torch.float64)
        >>> tv.value(step).item(), tv.prox(step, 0.5)[0].round(decimals=4)
        (6.0, tensor([0.5000, 2.5000], dtype=torch.float64))
    """

    def __init__(
        self,
        *,
        dims: int = 2,
        isotropic: bool = True,
        coupled: bool = False,
        tol: float = 1e-4,
        max_iterations: int = 2000,
    ) -> None:
        self.shape = dict(dims=dims, isotropic=isotropic, coupled=coupled)
        self.tol, self.max_iterations = tol, max_iterations

    def value(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """J(x) of each image."""
        return total_variation(x, **self.shape)  # type: ignore[arg-type]

    def prox(self, x: Float[Tensor, "..."], t: float) -> Float[Tensor, "..."]:
        """The denoised image."""
        return rof(x, t, **self.shape, tol=self.tol, max_iterations=self.max_iterations).x  # type: ignore[arg-type]
