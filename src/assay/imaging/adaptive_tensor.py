"""From an image to a field of matrices that weigh gradients weakly across its edges and fully along them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from assay.imaging.structure_tensor import structure_tensor


@dataclass(frozen=True)
class MatrixField:
    """A symmetric positive definite 2 x 2 matrix on each cell between four pixels, x (columns) before y (rows).

    Args:
        a11: (h - 1, w - 1), or (..., h - 1, w - 1) for a batch of images.
        a12: the same.
        a22: the same.

    Raises:
        ValueError: for parts of different shapes, values that are not finite, a matrix that is not positive definite.

    Example:
        >>> across = torch.full((3, 4), 0.5)
        >>> field = MatrixField(across, torch.zeros(3, 4), torch.ones(3, 4))
        >>> [part[0, 0].item() for part in (*field.eigenvalues, field.angle)]
        [0.5, 1.0, 0.0]
    """

    a11: Float[Tensor, "..."]
    a12: Float[Tensor, "..."]
    a22: Float[Tensor, "..."]

    def __post_init__(self) -> None:
        if not self.a11.shape == self.a12.shape == self.a22.shape or self.a11.ndim < 2:
            shapes = [tuple(part.shape) for part in (self.a11, self.a12, self.a22)]
            raise ValueError(f"a11, a12 and a22 must have one shape (..., h - 1, w - 1): got {shapes}")
        if not all(bool(torch.isfinite(part).all()) for part in (self.a11, self.a12, self.a22)):
            raise ValueError("a11, a12 and a22 must be finite: got NaN or infinity")
        if not bool((self.eigenvalues[0] > 0).all()):
            raise ValueError(f"the matrices must be positive definite: got {self.eigenvalues[0].min().item():.2g}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of each part."""
        return tuple(self.a11.shape)

    @property
    def eigenvalues(self) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """The smaller one, of the direction across the edge, and the larger one."""
        mean, square = (self.a11 + self.a22) / 2, ((self.a11 - self.a22) / 2).square() + self.a12.square()
        half = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()  # its derivative is 0 where it is 0
        return mean - half, mean + half

    @property
    def angle(self) -> Float[Tensor, "..."]:
        """Of the direction of the smaller eigenvalue, in radians from the x axis towards larger rows."""
        return torch.atan2(0 - 2 * self.a12, self.a22 - self.a11) / 2


class AdaptiveTensor:
    r"""Image to matrix field: $A = \lambda_1 v_1 v_1^\top + v_2 v_2^\top$, $\lambda_1 = a + (1 - a)\,c(\sqrt{\mu_1})$.

    $\mu_1 \ge \mu_2$ and $v_1, v_2$ are the eigenvalues and eigenvectors of the structure tensor: $v_1$ points across
    an edge. $c(s) = 1 - \exp(-C_m / (s / k)^m)$ with the m of `exponent` and the k of `contrast` is 1 where the
    guide is flat (A = I there, plain total variation) and 0 on strong edges. $C_m$ puts the largest flux s c(s) at
    s = k: $e^{C_m} = 1 + m C_m$, 3.31488 for m = 8. A is averaged from pixels to the cells between four of them.

    Args:
        a: weight across the strongest edges, in (0, 1]; 1 gives A = I everywhere. A smaller one is more anisotropic,
            and slower to solve for: below 0.15 a small duality gap takes thousands of iterations.
        contrast: k, the size of a gradient of the smoothed guide above which it counts as an edge, in the guide's
            unit a pixel, positive.
        sigma: as in `structure_tensor`; for a noisy guide about 1.2, with a rho of 1.5.
        rho: as in `structure_tensor`.
        exponent: m, at least 2.

    Weickert, "Anisotropic Diffusion in Image Processing", 1998, section 5.1 (edge-enhancing diffusion), as Biton and
    Gilboa, 2022, use it for A2TV.

    Raises:
        ValueError: for an argument out of range; when called, as `structure_tensor`.

    Example:
        >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(4, 4)
        >>> field = AdaptiveTensor(a=0.25, sigma=0.0, rho=0.0)(step)
        >>> field.a11[1], field.a22[1]
        (tensor([0.6250, 0.2500, 0.6250]), tensor([1., 1., 1.]))
    """

    def __init__(
        self, a: float = 0.3, contrast: float = 0.03, sigma: float = 0.7, rho: float = 1.0, exponent: int = 8
    ) -> None:
        if not 0 < a <= 1:
            raise ValueError(f"a must lie in (0, 1]: got {a}")
        if not 0 < contrast < math.inf:
            raise ValueError(f"contrast must be positive and finite: got {contrast}")
        if exponent < 2:
            raise ValueError(f"exponent must be at least 2: got {exponent}")
        for name, value in (("sigma", sigma), ("rho", rho)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0: got {value}")
        self.a, self.contrast, self.sigma, self.rho, self.exponent = a, contrast, sigma, rho, exponent
        self.along_too = False

    @classmethod
    def scalar(
        cls, a: float = 0.3, contrast: float = 0.03, sigma: float = 0.7, rho: float = 1.0, exponent: int = 8
    ) -> AdaptiveTensor:
        r"""$A = \lambda_1 I$, the small weight in both directions: weighted total variation, a control."""
        made = cls(a, contrast, sigma, rho, exponent)
        made.along_too = True
        return made

    @staticmethod
    def isotropic(
        h: int, w: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> MatrixField:
        """A = I for images of h x w: plain total variation."""
        if min(h, w) < 2:
            raise ValueError(f"h and w must be at least 2: got {h} x {w}")
        ones = torch.ones(h - 1, w - 1, dtype=dtype, device=device)
        return MatrixField(ones, torch.zeros_like(ones), ones)

    def __call__(self, guide: Float[Tensor, "..."]) -> MatrixField:
        """The field of a guide (h, w), or (..., c, h, w): then (..., h - 1, w - 1), one for all channels."""
        j11, j12, j22 = structure_tensor(guide, sigma=self.sigma, rho=self.rho)
        half, cross = (j11 - j22) / 2, j12
        tiny = torch.finfo(guide.dtype).tiny
        radius = (half.square() + cross.square()).clamp_min(tiny).sqrt()
        edge = ((j11 + j22) / 2 + radius) / self.contrast**2
        strength = edge.double().clamp_min(1e-30).pow(self.exponent / 2)
        across = (1 - (1 - self.a) * torch.exp(-flux_constant(self.exponent) / strength)).to(guide)
        if self.along_too:
            a11, a12, a22 = across, torch.zeros_like(across), across
        else:
            # v1 v1^T by the double angle; where the tensor is isotropic, any direction
            some = radius > math.sqrt(tiny)
            cosine, sine = torch.where(some, half / radius, 1), torch.where(some, cross / radius, 0)
            mean, difference = (1 + across) / 2, (across - 1) / 2
            a11, a12, a22 = mean + difference * cosine, difference * sine, mean - difference * cosine
        return MatrixField(_on_cells(a11), _on_cells(a12), _on_cells(a22))


def flux_constant(exponent: float) -> float:
    """C > 0 with e^C = 1 + m C."""
    value = float(exponent)
    for _ in range(200):
        value = math.log1p(exponent * value)
    return value


def _on_cells(x: Tensor) -> Tensor:
    rows = (x[..., 1:, :] + x[..., :-1, :]) / 2
    return (rows[..., 1:] + rows[..., :-1]) / 2
