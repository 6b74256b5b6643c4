"""How the eigenvalues of a symmetric matrix are spread, from products with it, with an error bar."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from assay.curvature.hutchinson import rademacher
from assay.curvature.lanczos import Matvec, lanczos

REACH = 5.0  # widths by which the grid goes beyond the outermost node; what is cut off is below 3e-7


class SpectralDensity(NamedTuple):
    """A smoothed spectral density and the quadrature that it was drawn from.

    Args:
        grid: where the density is given, evenly spaced.
        density: its mean over the probes; it integrates to 1.
        error: standard error of that mean at each place of the grid, from the spread of the probes.
        nodes: Ritz values of each probe, ascending; in float64.
        weights: what each node weighs, 1 a probe; 0 where a probe needed fewer steps.
        width: standard deviation of the Gaussian that each node was smoothed by.
        products: products with the matrix that it took.
    """

    grid: Float[Tensor, " points"]
    density: Float[Tensor, " points"]
    error: Float[Tensor, " points"]
    nodes: Float[Tensor, "probes steps"]
    weights: Float[Tensor, "probes steps"]
    width: float
    products: int

    def share(self, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
        """The share of the eigenvalues in [low, high], unsmoothed, and the standard error over the probes."""
        if not low <= high:
            raise ValueError(f"low must not be above high: got {low} and {high}")
        inside = (self.nodes >= low) & (self.nodes <= high)
        each = (self.weights * inside).sum(1)
        return each.mean().item(), (each.std() / math.sqrt(len(each))).item()


def spectral_density(
    matvec: Matvec,
    size: int,
    *,
    steps: int = 80,
    num_probes: int = 4,
    width: float | None = None,
    points: int = 1000,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SpectralDensity:
    r"""The density of eigenvalues by stochastic Lanczos quadrature.

    $\phi(t) = \frac1P \sum_{i=1}^P N(t; \lambda_i, \sigma^2) \approx
    \frac1q \sum_{p=1}^q \sum_{j=1}^m \tau_{pj}^2\, N(t; \theta_{pj}, \sigma^2)$

    $\theta_{pj}$ are the eigenvalues of the tridiagonal matrix that m steps of Lanczos make from the random signs
    $z_p$, and $\tau_{pj}$ the first entries of its eigenvectors: Gauss' quadrature, exact for polynomials up to the
    degree 2m - 1, so that the mean of the density is that of Hutchinson's estimate of trace / P.

    The error bar is that of the probes. What m steps cannot resolve is not in it: it is seen by taking more steps.

    Args:
        matvec: v (size) -> A v, symmetric: `Hessian(...).matvec`, `matrix.mv`.
        size: rows of A, P.
        steps: m, Lanczos steps a probe, at least 1; `steps * size` numbers are held.
        num_probes: q, sign vectors, at least 2.
        width: $\sigma$, positive; a hundredth of the range of the nodes if not given.
        points: of the grid, so many that their distance does not exceed the width.
        generator: where the signs come from.
        dtype: of the vectors. Single precision puts the eigenvalues that are 0 within about 1e-6 of the largest.
        device: of the vectors.

    Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature" (2017), algorithm 1; the
    smoothing by Lin, Saad and Yang, "Approximating spectral densities of large matrices" (2016), section 3.2.

    Raises:
        ValueError: for counts out of range, a width that is not positive or too small for the grid, products that are
            not finite.

    Example:
        >>> matrix = torch.diag(torch.tensor([0.0, 0.0, 0.0, 2.0]))
        >>> found = spectral_density(matrix.mv, 4, width=0.05, generator=torch.Generator().manual_seed(0))
        >>> [round(value, 6) for value in found.share(1.0, 3.0)]  # one in four, whatever the signs
        [0.25, 0.0]
        >>> round((found.grid * found.density).sum().item() * (found.grid[1] - found.grid[0]).item(), 4)  # trace / size
        0.5
    """
    if size < 1 or steps < 1:
        raise ValueError(f"size and steps must be at least 1: got {size} and {steps}")
    if num_probes < 2:
        raise ValueError(f"num_probes must be at least 2, for an error bar: got {num_probes}")
    if width is not None and not 0 < width < math.inf:
        raise ValueError(f"width must be positive and finite: got {width}")
    if points < 2:
        raise ValueError(f"points must be at least 2: got {points}")
    like = torch.empty(size, dtype=dtype, device=device)
    steps = min(steps, size)
    nodes = torch.zeros(num_probes, steps, dtype=torch.float64)
    weights = torch.zeros(num_probes, steps, dtype=torch.float64)
    products = 0
    for probe in range(num_probes):
        (signs,) = rademacher([like], generator)
        found = lanczos(matvec, size, steps, start=signs)
        values, vectors = found.ritz()
        count = len(values)
        products += count
        nodes[probe, :count], weights[probe, :count] = values, vectors[0].square()
        nodes[probe, count:] = values[-1]
    low, high = nodes.min().item(), nodes.max().item()
    if width is None:
        width = 0.01 * (high - low or abs(high) or 1.0)
    grid = torch.linspace(low - REACH * width, high + REACH * width, points, dtype=torch.float64)
    if grid[1] - grid[0] > width:
        least = math.ceil((high - low) / width + 2 * REACH) + 1
        raise ValueError(f"points must be at least {least} for width {width:g}: got {points}")
    each = torch.stack([_smoothed(grid, *probe, width) for probe in zip(nodes, weights, strict=True)])
    error = each.std(0) / math.sqrt(num_probes)
    return SpectralDensity(grid, each.mean(0), error, nodes, weights, width, products)


def _smoothed(grid: Tensor, nodes: Tensor, weights: Tensor, width: float) -> Tensor:
    """The sum of Gaussians, weight by weight."""
    bells = torch.exp(-0.5 * ((grid[:, None] - nodes) / width).square())
    return bells @ weights / (width * math.sqrt(2 * math.pi))
