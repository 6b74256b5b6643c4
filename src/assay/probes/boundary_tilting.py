"""How near a linear boundary lies to its data, and that its angle decides it (Tanay and Griffin, 2016).

arXiv:1608.07690. The nearest-centroid classifier of two classes looks along the difference of their means; the angle by
which another classifier deviates from it says how many times closer its boundary lies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class LinearBoundary(NamedTuple):
    """$c \\cdot x + c_0 = 0$ with `normal` $c$ (d,) of length 1 and `offset` $c_0$; where it is positive is class 1."""

    normal: Float[Tensor, " d"]
    offset: float


class Strength(NamedTuple):
    """How many times closer a boundary is than that of the nearest-centroid classifier.

    Args:
        class0: seen from the mean of class 0.
        class1: seen from that of class 1.
        mean: of the two.
        angle: the deviation angle, in radians.
        relative_offset: how far from the middle of the means the boundary crosses their line, in halves of their
            distance, towards class 1.
    """

    class0: float
    class1: float
    mean: float
    angle: float
    relative_offset: float


def linear_boundary(weight: Float[Tensor, " d"], bias: float = 0.0) -> LinearBoundary:
    """The boundary $w \\cdot x + b = 0$ with a normal of length 1.

    Args:
        weight: w, not zero.
        bias: b.

    Raises:
        ValueError: for a weight that is zero or not finite.

    Example:
        >>> linear_boundary(torch.tensor([3.0, 4.0]), 10.0)
        LinearBoundary(normal=tensor([0.6000, 0.8000]), offset=2.0)
    """
    length = float(weight.norm())
    if not 0 < length < math.inf:
        raise ValueError(f"weight must be finite and not zero: got one of length {length}")
    return LinearBoundary(weight / length, float(bias) / length)


def nearest_centroid(x: Float[Tensor, "n d"], y: Tensor) -> LinearBoundary:
    """The classifier that goes by the nearer mean: its normal is their difference, and it passes through their middle.

    Args:
        x: examples.
        y: their classes, 0 and 1.

    The paper: section 4.1.

    Raises:
        ValueError: unless there are two classes, 0 and 1, with different means.

    Example:
        >>> nearest_centroid(torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 2.0]]), torch.tensor([0, 0, 1]))
        LinearBoundary(normal=tensor([1., 0.]), offset=-2.0)
    """
    zero, one = _means(x, y)
    normal = (one - zero) / (one - zero).norm()
    return LinearBoundary(normal, -float(normal @ (zero + one) / 2))


def deviation_angle(boundary: LinearBoundary, x: Float[Tensor, "n d"], y: Tensor) -> float:
    r"""$\delta = \arccos(c \cdot b)$, the angle in radians to the nearest-centroid classifier of the data.

    Args:
        boundary: of class 1 against class 0.
        x: examples; angles are those of the space they are given in.
        y: their classes, 0 and 1.

    The paper: section 4.2.

    Raises:
        ValueError: as for `nearest_centroid`; a normal of another size.

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
        >>> round(deviation_angle(linear_boundary(torch.tensor([1.0, 1.0])), x, y), 4)  # an eighth of a turn
        0.7854
    """
    _fits(boundary, x)
    return _angle(boundary.normal, nearest_centroid(x, y).normal)


def adversarial_strength(boundary: LinearBoundary, x: Float[Tensor, "n d"], y: Tensor) -> Strength:
    r"""$s_0 = D / d(i, C) = \frac{1}{\cos\delta\,(1 + o/D)}$ and $s_1 = \frac{1}{\cos\delta\,(1 - o/D)}$.

    i and j are the means of classes 0 and 1, D half their distance, and $m + o b$ is where the boundary C crosses their
    line, m being its middle. With o = 0 the strength is $1/\cos\delta$: 1 for the nearest-centroid classifier, and
    without bound as the boundary is tilted.

    Args:
        boundary: C; it has to part the means, each on its own side.
        x: examples.
        y: their classes, 0 and 1.

    Tanay and Griffin, 2016 (arXiv:1608.07690), section 4.2.

    Raises:
        ValueError: as for `deviation_angle`; for a boundary that does not part the means.

    Example:
        >>> x, y = torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
        >>> tilted = linear_boundary(torch.tensor([0.6, 0.8]), -0.6)     # crosses the line of the means at x = 1
        >>> s = adversarial_strength(tilted, x, y)
        >>> round(s.class0, 4), round(s.class1, 4), round(s.relative_offset, 4)     # 1 / (0.6 * 1.5), 1 / (0.6 * 0.5)
        (1.1111, 3.3333, 0.5)
    """
    _fits(boundary, x)
    zero, one = _means(x, y)
    half = float((one - zero).norm()) / 2
    below = -float(boundary.normal @ zero) - boundary.offset
    above = float(boundary.normal @ one) + boundary.offset
    if not (below > 0 and above > 0):
        raise ValueError(f"boundary must part the means of the classes: got {-below} and {above} on its two sides")
    strength = half / below, half / above
    return Strength(*strength, sum(strength) / 2, deviation_angle(boundary, x, y), (below - above) / (below + above))


def distance(boundary: LinearBoundary, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """The distance of each example to the boundary, positive on the side of class 1.

    Example:
        >>> distance(linear_boundary(torch.tensor([0.0, 2.0]), 2.0), torch.tensor([[5.0, 1.0], [0.0, -4.0]]))
        tensor([ 2., -3.])
    """
    _fits(boundary, x)
    return x @ boundary.normal.to(x) + boundary.offset


def nearest_adversarial(
    boundary: LinearBoundary, x: Float[Tensor, "n d"], overshoot: float = 1e-3
) -> Float[Tensor, "n d"]:
    """The nearest example of the other side: the projection on the boundary, and beyond it by a share of the way.

    Args:
        boundary: the classifier.
        x: examples.
        overshoot: above 0 to cross, below 0 to stay; above -1.

    Raises:
        ValueError: for an overshoot that is not above -1.

    Example:
        >>> across = nearest_adversarial(linear_boundary(torch.tensor([1.0, 0.0])), torch.tensor([[2.0, 5.0]]), 0.5)
        >>> across
        tensor([[-1.,  5.]])
    """
    if not -1 < overshoot < math.inf:
        raise ValueError(f"overshoot must be above -1 and finite: got {overshoot}")
    return x - (1 + overshoot) * distance(boundary, x)[:, None] * boundary.normal.to(x)


def tilt(
    boundary: LinearBoundary,
    direction: Float[Tensor, " d"],
    angle: float,
    through: Float[Tensor, " d"] | None = None,
) -> LinearBoundary:
    r"""$c' = \cos\theta\, c + \sin\theta\, z$, turned about a point of the boundary.

    Where the data hardly vary along z, their classes hardly change whatever $\theta$, while their distances to the
    boundary shrink by about $\cos\theta$.

    Args:
        boundary: $c$.
        direction: z, made orthogonal to c and of length 1.
        angle: $\theta$ in radians, in [0, pi/2).
        through: the point; the mean of all data is a good one, and is projected on the old boundary first. None is the
            point of the boundary nearest to the origin.

    Tanay and Griffin, 2016 (arXiv:1608.07690), section 4.3.

    Raises:
        ValueError: for an angle out of range, a direction that is zero or along the normal, or of another size.

    Example:
        >>> turned = tilt(linear_boundary(torch.tensor([1.0, 0.0])), torch.tensor([5.0, 2.0]), math.pi / 6)
        >>> turned.normal.round(decimals=4)
        tensor([0.8660, 0.5000])
    """
    normal = boundary.normal
    if direction.shape != normal.shape:
        raise ValueError(f"direction must be of shape {tuple(normal.shape)}: got {tuple(direction.shape)}")
    if not 0 <= angle < math.pi / 2:
        raise ValueError(f"angle must lie in [0, pi / 2): got {angle}")
    size = float(direction.norm())
    z = direction.to(normal) - (direction.to(normal) @ normal) * normal
    if not float(z.norm()) > 1e-6 * max(size, 1e-300):
        raise ValueError("direction must not be zero or along the normal of the boundary")
    z = z / z.norm()
    z = z - (z @ normal) * normal  # once more: rounding
    turned = math.cos(angle) * normal + math.sin(angle) * z / z.norm()
    turned = turned / turned.norm()
    point = torch.zeros_like(normal) if through is None else through.to(normal)
    point = point - (normal @ point + boundary.offset) * normal
    return LinearBoundary(turned, -float(turned @ point))


def _means(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if len(x) != len(y) or set(y.unique().tolist()) != {0, 1}:
        raise ValueError(f"y must hold the classes 0 and 1, one an example: got {y.unique().tolist()}")
    zero, one = x[y == 0].mean(0), x[y == 1].mean(0)
    if not 0 < float((one - zero).norm()) < math.inf:
        raise ValueError("x must have different means in the two classes")
    return zero, one


def _angle(one: Tensor, other: Tensor) -> float:
    """Also for small angles, of which a cosine keeps half the digits."""
    one, other = one.double(), other.double()
    return 2 * math.atan2(float((one - other).norm()), float((one + other).norm()))


def _fits(boundary: LinearBoundary, x: Tensor) -> None:
    if x.ndim != 2 or x.shape[1:] != boundary.normal.shape:
        raise ValueError(f"x must be (n, {len(boundary.normal)}), as the boundary: got {tuple(x.shape)}")
