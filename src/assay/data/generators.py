"""Data made from formulas, in which the truth is known. All draw from the `generator` given, or the global one."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .split import Labelled


def blobs(
    count: int, centers: Float[Tensor, "k d"], *, std: float = 1.0, generator: torch.Generator | None = None
) -> Labelled:
    r"""Gaussian clusters: $x = c_y + \sigma \varepsilon$, $y$ uniform over the centers, $\varepsilon \sim N(0, I)$.

    Args:
        count: points, at least 1.
        centers: one row a class.
        std: $\sigma$, 0 or more.

    Returns:
        inputs (count, d), targets (count,) int64.

    Raises:
        ValueError: for a count below 1, no centers or a negative std.

    Example:
        >>> centers = torch.tensor([[0.0, 5.0], [9.0, 0.0]])
        >>> points = blobs(4, centers, std=0.0, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(points.inputs, centers[points.targets])
        True
    """
    _at_least_one(count=count, centers=len(centers))
    _not_negative(std=std)
    targets = torch.randint(len(centers), (count,), generator=generator)
    noise = torch.randn(count, centers.shape[1], generator=generator, dtype=centers.dtype)
    return Labelled(centers[targets] + std * noise, targets)


def spirals(
    count: int, *, arms: int = 2, turns: float = 1.0, noise: float = 0.0, generator: torch.Generator | None = None
) -> Labelled:
    r"""Interleaved Archimedean spirals: arm $y$ at radius $r$ stands at the angle $2\pi (t r + y / k)$.

    The radius is the square root of a uniform number, so that points are spread evenly over the disc.

    Args:
        count: points, at least 1.
        arms: $k$, classes, at least 1.
        turns: $t$, full turns from the centre to radius 1; 0 or more.
        noise: standard deviation added to both coordinates, 0 or more.

    Returns:
        inputs (count, 2), targets (count,) int64.

    Raises:
        ValueError: for a count or arms below 1, negative turns or noise.

    Example:
        >>> points = spirals(5, turns=0.0, generator=torch.Generator().manual_seed(0))  # two straight arms
        >>> bool(((points.inputs[:, 0] < 0) == (points.targets == 1)).all())
        True
    """
    _at_least_one(count=count, arms=arms)
    _not_negative(turns=turns, noise=noise)
    targets = torch.randint(arms, (count,), generator=generator)
    radius = torch.rand(count, generator=generator).sqrt()
    angle = 2 * math.pi * (turns * radius + targets / arms)
    inputs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return Labelled(inputs + noise * torch.randn(count, 2, generator=generator), targets)


def moons(count: int, *, noise: float = 0.0, generator: torch.Generator | None = None) -> Labelled:
    r"""Two half circles: $(\cos a, \sin a)$ and $(1 - \cos a, \tfrac12 - \sin a)$, $a$ uniform on $[0, \pi]$.

    Args:
        count: points, at least 1.
        noise: standard deviation added to both coordinates, 0 or more.

    Returns:
        inputs (count, 2), targets (count,) int64 of 0 (upper) and 1 (lower).

    Raises:
        ValueError: for a count below 1 or negative noise.

    Example:
        >>> points = moons(6, generator=torch.Generator().manual_seed(0))
        >>> upper = points.inputs[points.targets == 0]
        >>> torch.allclose(upper.norm(dim=1), torch.ones(len(upper)))
        True
    """
    _at_least_one(count=count)
    _not_negative(noise=noise)
    targets = torch.randint(2, (count,), generator=generator)
    angle = math.pi * torch.rand(count, generator=generator)
    x = torch.where(targets == 0, angle.cos(), 1 - angle.cos())
    y = torch.where(targets == 0, angle.sin(), 0.5 - angle.sin())
    return Labelled(torch.stack([x, y], dim=1) + noise * torch.randn(count, 2, generator=generator), targets)


def sinusoids(
    count: int,
    length: int,
    frequencies: Float[Tensor, " k"],
    *,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Labelled:
    r"""Signals $x_t = \sin(2\pi f_y t + \varphi) + \sigma\varepsilon_t$ at $t = 0, 1/n, \dots, (n-1)/n$, phase uniform.

    Args:
        count: signals, at least 1.
        length: $n$, samples a signal, at least 1.
        frequencies: one a class, in cycles a signal.
        noise: $\sigma$, 0 or more.

    Returns:
        inputs (count, length), targets (count,) int64: which frequency.

    Raises:
        ValueError: for a count or length below 1, no frequencies or negative noise.

    Example:
        >>> waves = sinusoids(3, 32, torch.tensor([2.0, 5.0]), generator=torch.Generator().manual_seed(0))
        >>> torch.equal(torch.fft.rfft(waves.inputs).abs().argmax(dim=1), torch.tensor([2, 5])[waves.targets])
        True
    """
    _at_least_one(count=count, length=length, frequencies=len(frequencies))
    _not_negative(noise=noise)
    targets = torch.randint(len(frequencies), (count,), generator=generator)
    phase = 2 * math.pi * torch.rand(count, 1, generator=generator, dtype=frequencies.dtype)
    time = torch.arange(length, dtype=frequencies.dtype) / length
    waves = torch.sin(2 * math.pi * frequencies[targets, None] * time + phase)
    return Labelled(waves + noise * torch.randn(count, length, generator=generator, dtype=frequencies.dtype), targets)


def linear_regression(
    count: int, weights: Float[Tensor, " d"], *, noise: float = 0.0, generator: torch.Generator | None = None
) -> Labelled:
    r"""$y = X w + \sigma \varepsilon$ with standard normal $X$ and $\varepsilon$.

    Args:
        count: examples, at least 1.
        weights: $w$, the planted truth.
        noise: $\sigma$, 0 or more.

    Returns:
        inputs (count, d), targets (count,), in the precision of `weights`.

    Raises:
        ValueError: for a count below 1 or negative noise.

    Example:
        >>> truth = torch.tensor([2.0, -1.0], dtype=torch.float64)
        >>> x, y = linear_regression(5, truth, generator=torch.Generator().manual_seed(0))
        >>> torch.linalg.lstsq(x, y[:, None]).solution.squeeze().round(decimals=6)
        tensor([ 2., -1.], dtype=torch.float64)
    """
    _at_least_one(count=count)
    _not_negative(noise=noise)
    inputs = torch.randn(count, len(weights), generator=generator, dtype=weights.dtype)
    error = torch.randn(count, generator=generator, dtype=weights.dtype)
    return Labelled(inputs, inputs @ weights + noise * error)


def piecewise_constant_signal(
    length: int, pieces: int, *, generator: torch.Generator | None = None
) -> Float[Tensor, " length"]:
    """A signal of exactly `pieces` runs, each with a level uniform on [0, 1]; where they end is uniform too.

    Args:
        length: samples, at least 1.
        pieces: runs, 1 to `length`.

    Raises:
        ValueError: for a length below 1, or pieces out of range.

    Example:
        >>> signal = piecewise_constant_signal(50, 4, generator=torch.Generator().manual_seed(0))
        >>> int((signal.diff() != 0).sum())
        3
    """
    _at_least_one(length=length, pieces=pieces)
    if pieces > length:
        raise ValueError(f"pieces must be at most length = {length}: got {pieces}")
    ends = torch.randperm(length - 1, generator=generator)[: pieces - 1] + 1
    starts_here = torch.zeros(length, dtype=torch.long)
    starts_here[ends] = 1
    return torch.rand(pieces, generator=generator)[starts_here.cumsum(0)]


def piecewise_constant_image(
    size: int, pieces: int, *, generator: torch.Generator | None = None
) -> Float[Tensor, "1 size size"]:
    """An image of flat regions: the Voronoi cells of uniform points, each with a level uniform on [0, 1].

    Args:
        size: height and width in pixels, at least 1.
        pieces: points, at least 1; a cell that covers no pixel centre is not seen.

    Raises:
        ValueError: for a size or pieces below 1.

    Example:
        >>> image = piecewise_constant_image(32, 5, generator=torch.Generator().manual_seed(0))
        >>> image.shape, len(image.unique())
        (torch.Size([1, 32, 32]), 5)
    """
    _at_least_one(size=size, pieces=pieces)
    points = torch.rand(pieces, 2, generator=generator)
    levels = torch.rand(pieces, generator=generator)
    center = (torch.arange(size) + 0.5) / size
    pixels = torch.cartesian_prod(center, center)
    nearest = torch.cdist(pixels, points, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
    return levels[nearest].reshape(1, size, size)


def low_rank(
    rows: int,
    columns: int,
    singular_values: Float[Tensor, " r"],
    *,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "rows columns"]:
    r"""$U \,\mathrm{diag}(s)\, V^\top + \sigma E$, with Haar-distributed orthonormal $U$, $V$ and normal $E$.

    Args:
        rows: at least the number of singular values.
        columns: at least the number of singular values.
        singular_values: $s$, each 0 or more, at least one.
        noise: $\sigma$, 0 or more.

    Raises:
        ValueError: for negative singular values or noise, none, or more than the matrix has.

    Example:
        >>> planted = torch.tensor([5.0, 2.0], dtype=torch.float64)
        >>> matrix = low_rank(6, 4, planted, generator=torch.Generator().manual_seed(0))
        >>> torch.linalg.svdvals(matrix).round(decimals=6) + 0.0
        tensor([5., 2., 0., 0.], dtype=torch.float64)
    """
    rank = len(singular_values)
    _at_least_one(rows=rows, columns=columns, singular_values=rank)
    _not_negative(noise=noise, singular_values=singular_values.min().item())
    if rank > min(rows, columns):
        raise ValueError(f"singular_values must be at most {min(rows, columns)} for {rows} x {columns}: got {rank}")
    dtype = singular_values.dtype
    left, right = (_orthonormal(n, rank, dtype, generator) for n in (rows, columns))
    return (left * singular_values) @ right.T + noise * torch.randn(rows, columns, generator=generator, dtype=dtype)


def _orthonormal(n: int, rank: int, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
    """Haar distributed: the signs that QR leaves open are fixed by the diagonal of R."""
    q, r = torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=dtype))
    signed: Tensor = q * r.diagonal().sign()
    return signed


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1: got {value}")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative: got {value}")
