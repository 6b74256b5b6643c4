"""Curves by arc length: circle, tractrix, great circles, the same in more dimensions, and what a decoder draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Curve:
    """A curve in space: called with m parameters it gives m points (m, d).

    Args:
        point: the map.
        interval: first and last parameter.
        length: arc length; the parameter itself measures it, up to a shift, but for `latent_path`.
        closed: whether the last point is the first.
    """

    point: Callable[[Tensor], Tensor]
    interval: tuple[float, float]
    length: float
    closed: bool = False

    def __call__(self, s: Float[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """The points at parameters `s`."""
        return self.point(s)

    @property
    def subtended_angle(self) -> float:
        """The way that the direction from the origin goes, in radians, forth and back both counted."""
        points = self(torch.linspace(*self.interval, 100_001, dtype=torch.float64))
        points = points / points.norm(dim=1, keepdim=True)
        return float(2 * (points.diff(dim=0).norm(dim=1) / 2).clamp_max(1).asin().sum())


def circle(radius: float = 1.0, center: tuple[float, float] = (0.0, 0.0)) -> Curve:
    r"""$c + r (\cos(s/r), \sin(s/r))$, s in $[0, 2 \pi r]$.

    Args:
        radius: r, above 0.
        center: c.

    Raises:
        ValueError: for a radius that is not above 0.

    Example:
        >>> circle(2.0, (1.0, 0.0))(torch.tensor([0.0, math.pi])).round(decimals=4)  # a quarter of the way round
        tensor([[3., 0.],
                [1., 2.]])
    """
    if not 0 < radius < math.inf:
        raise ValueError(f"radius must be above 0 and finite: got {radius}")

    def point(s: Tensor) -> Tensor:
        angle = s / radius
        return torch.stack([center[0] + radius * angle.cos(), center[1] + radius * angle.sin()], 1)

    return Curve(point, (0.0, 2 * math.pi * radius), 2 * math.pi * radius, closed=True)


def tractrix_parameter(s: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    r"""The t of $(t - \tanh t, 1/\cosh t)$ at arc length s from the cusp: $\cosh t = e^{|s|}$, with the sign of s.

    Example:
        >>> tractrix_parameter(torch.tensor([2.0]).cosh().log()).round(decimals=5)
        tensor([2.])
    """
    away = s.abs()
    return s.sign() * (away + torch.log1p((-torch.expm1(-2 * away)).sqrt()))


def tractrix(span: float = 4.0) -> Curve:
    r"""$(t - \tanh t,\; 1/\cosh t)$ for t from -span to span; s is $\log\cosh t$ with t's sign.

    It has a cusp at (0, 1), where s is 0. Its revolution about the first axis is the pseudosphere.

    Args:
        span: above 0.

    Raises:
        ValueError: for a span that is not above 0.

    Example:
        >>> tractrix()(torch.tensor([0.0]))
        tensor([[0., 1.]])
        >>> round(tractrix(4.0).length, 4)  # 2 log cosh 4
        6.6144
    """
    if not 0 < span < math.inf:
        raise ValueError(f"span must be above 0 and finite: got {span}")

    def point(s: Tensor) -> Tensor:
        t = tractrix_parameter(s)
        return torch.stack([t - t.tanh(), (-s.abs()).exp()], 1)

    end = span - math.log(2) + math.log1p(math.exp(-2 * span))
    return Curve(point, (-end, end), 2 * end)


def sphere_path(dim: int, *, generator: torch.Generator | None = None) -> Curve:
    """A great circle of the unit sphere in R^dim, in a random plane.

    Args:
        dim: at least 2.
        generator: where the plane comes from; None is torch's global generator.

    Raises:
        ValueError: for a dimension below 2.

    Example:
        >>> path = sphere_path(5, generator=torch.Generator().manual_seed(0))
        >>> path(torch.linspace(0, 6, 4, dtype=torch.float64)).norm(dim=1).round(decimals=9)
        tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    return embedded(circle(), dim, generator=generator)


def embedded(curve: Curve, dim: int, *, generator: torch.Generator | None = None) -> Curve:
    """A plane curve in R^dim, by a random orthonormal pair of vectors; lengths and distances stay.

    Args:
        curve: in the plane.
        dim: at least 2.
        generator: where the plane comes from; None is torch's global generator.

    Raises:
        ValueError: for a dimension below 2.

    Example:
        >>> far = embedded(circle(3.0), 7, generator=torch.Generator().manual_seed(0))
        >>> far(torch.zeros(1, dtype=torch.float64)).norm(dim=1).round(decimals=9), far.closed
        (tensor([3.], dtype=torch.float64), True)
    """
    if dim < 2:
        raise ValueError(f"dim must be at least 2: got {dim}")
    plane = torch.linalg.qr(torch.randn(dim, 2, generator=generator, dtype=torch.float64))[0].T
    return Curve(lambda s: curve(s) @ plane.to(s), curve.interval, curve.length, curve.closed)


def latent_path(
    decoder: Callable[[Tensor], Tensor],
    start: Float[Tensor, " k"],
    end: Float[Tensor, " k"],
    *,
    samples: int = 4096,
) -> Curve:
    """What a decoder makes of the straight line between two codes; the parameter runs from 0 to 1.

    Args:
        decoder: maps (m, k) to (m, ...).
        start: the first code.
        end: the last one.
        samples: chords by which the length is measured, at least 1.

    Raises:
        ValueError: for samples below 1.

    Example:
        >>> bow = latent_path(lambda z: torch.cat([z, z**2], 1), torch.tensor([0.0]), torch.tensor([1.0]))
        >>> round(bow.length, 4)   # of a parabola
        1.4789
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1: got {samples}")

    def point(s: Tensor) -> Tensor:
        with torch.no_grad():
            return decoder(start.to(s) + s[:, None] * (end - start).to(s)).flatten(1)

    line = point(torch.linspace(0, 1, samples + 1, dtype=start.dtype))
    return Curve(point, (0.0, 1.0), float(line.diff(dim=0).norm(dim=1).sum()))
