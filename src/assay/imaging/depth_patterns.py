"""Where to measure depth when only so many pixels can be: at random, on a grid, one for each superpixel."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

COMPACTNESS = 20.0
ROUNDS = 10


def random_pattern(
    height: int, width: int, budget: int, *, valid: Tensor | None = None, generator: torch.Generator | None = None
) -> Bool[Tensor, "h w"]:
    """Every set of `budget` pixels is as likely as any other.

    Args:
        height: of the image.
        width: of the image.
        budget: samples, from 1 to the pixels there are.
        valid: (h, w), where samples may lie; None is everywhere.
        generator: where it comes from.

    Raises:
        ValueError: for a budget or shape out of range.

    Example:
        >>> int(random_pattern(5, 7, 11).sum())
        11
    """
    allowed = torch.ones(height, width, dtype=torch.bool) if valid is None else valid.bool()
    if allowed.shape != (height, width):
        raise ValueError(f"valid must be {(height, width)}: got {tuple(allowed.shape)}")
    check_budget(budget, int(allowed.sum()))
    return _topped_up(torch.zeros_like(allowed), budget, allowed, generator)


def grid_pattern(
    height: int, width: int, budget: int, *, exact: bool = True, generator: torch.Generator | None = None
) -> Bool[Tensor, "h w"]:
    r"""A square lattice of pitch $d = \sqrt{h w / B}$ in the middle, round(h / d) by round(w / d) points.

    Args:
        height: of the image.
        width: of the image.
        budget: B.
        exact: points are added or dropped at random until there are B; False leaves the lattice as it is.
        generator: where they come from.

    Tcenov and Gilboa, 2022 (arXiv:2205.10202), and its code: the grid that patterns are compared with.

    Differs from the paper: exactly B points.

    Raises:
        ValueError: for a budget out of range.

    Example:
        >>> grid_pattern(4, 6, 6).nonzero().tolist()
        [[1, 1], [1, 3], [1, 5], [3, 1], [3, 3], [3, 5]]
    """
    check_budget(budget, height * width)
    pitch = math.sqrt(height * width / budget)
    sides = []
    for size in (height, width):
        count = max(1, math.floor(size / pitch + 0.5))
        first = (size - pitch * (count - 1)) / 2
        at = (first + pitch * torch.arange(count, dtype=torch.float64)).round().long().clamp(0, size - 1)
        sides.append(at)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[sides[0][:, None], sides[1]] = True
    return _topped_up(mask, budget, torch.ones_like(mask), generator) if exact else mask


def superpixel_pattern(
    rgb: Float[Tensor, "c h w"], budget: int, *, generator: torch.Generator | None = None
) -> Bool[Tensor, "h w"]:
    r"""The middle pixel of each of about B superpixels, made exactly B at random.

    Superpixels are clusters of pixels by $|\Delta Lab|^2 + (20 / d)^2 |\Delta xy|^2$, d the pitch of the lattice
    of first centers (SLIC of Achanta et al., 2012; 10 rounds, every pixel with the nine centers around it).

    Args:
        rgb: in [0, 1], three channels.
        budget: B.
        generator: where points that are added or dropped come from.

    Superpixel sampling (Wolff et al., 2020), as the baseline of Tcenov and Gilboa, 2022 (arXiv:2205.10202), whose
    code has the compactness 20.

    Differs from the paper: clusters need not be connected.

    Raises:
        ValueError: for other than three channels, a budget out of range.

    Example:
        >>> int(superpixel_pattern(torch.rand(3, 20, 20), 16).sum())
        16
    """
    if len(rgb) != 3:
        raise ValueError(f"rgb must have three channels: got {len(rgb)}")
    _, height, width = rgb.shape
    check_budget(budget, height * width)
    pitch = math.sqrt(height * width / budget)
    rows, cols = (max(1, math.floor(size / pitch + 0.5)) for size in (height, width))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([y, x], 2).reshape(-1, 2).double()
    points = torch.cat([_lab(rgb).permute(1, 2, 0).reshape(-1, 3), place * COMPACTNESS / pitch], 1)
    home = torch.stack([y * rows // height, x * cols // width], 2).reshape(-1, 2)
    steps = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))
    near = home[:, None] + steps
    outside = ((near < 0) | (near >= torch.tensor([rows, cols]))).any(2)
    near = near[..., 0].clamp(0, rows - 1) * cols + near[..., 1].clamp(0, cols - 1)
    label = home[:, 0] * cols + home[:, 1]
    for _ in range(ROUNDS):
        count = torch.bincount(label, minlength=rows * cols).clamp_min(1).double()
        centers = torch.zeros(rows * cols, 5).double().index_add(0, label, points) / count[:, None]
        centers[torch.bincount(label, minlength=rows * cols) == 0] = torch.inf
        apart = (points[:, None] - centers[near]).square().sum(2).masked_fill(outside, torch.inf)
        label = near.gather(1, apart.argmin(1, keepdim=True))[:, 0]
    count = torch.bincount(label, minlength=rows * cols).clamp_min(1).double()
    middle = torch.zeros(rows * cols, 2).double().index_add(0, label, place) / count[:, None]
    off = (place - middle[label]).square().sum(1)
    nearest = torch.full((rows * cols,), torch.inf).double().scatter_reduce(0, label, off, "amin")
    best = (off == nearest[label]).nonzero()[:, 0]
    # Of pixels equally near the first alone.
    first = torch.full((rows * cols,), len(label)).scatter_reduce(0, label[best], best, "amin")
    mask = torch.zeros(height * width, dtype=torch.bool)
    mask[first[first < len(label)]] = True
    mask = mask.view(height, width)
    return _topped_up(mask, budget, torch.ones_like(mask), generator)


def check_budget(budget: int, most: int) -> None:
    """Refuse a budget below 1 or above the pixels there are."""
    if not 1 <= budget <= most:
        raise ValueError(f"budget must lie in 1 to {most}, the pixels there are: got {budget}")


def _topped_up(mask: Tensor, budget: int, allowed: Tensor, generator: torch.Generator | None) -> Tensor:
    """With points added where it is allowed, or dropped, until there are `budget`."""
    flat = mask.flatten().clone()
    missing = budget - int(flat.sum())
    where = ((~flat & allowed.flatten()) if missing > 0 else flat).nonzero()[:, 0]
    chosen = where[torch.randperm(len(where), generator=generator)[: abs(missing)]]
    flat[chosen] = missing > 0
    return flat.view_as(mask)


def _lab(rgb: Tensor) -> Tensor:
    """CIE Lab under D65, from sRGB."""
    x = rgb.double()
    x = torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0) + 0.055) / 1.055) ** 2.4)
    to_xyz = torch.tensor(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    ).double()
    xyz = torch.einsum("dc,chw->dhw", to_xyz / torch.tensor([[0.95047], [1.0], [1.08883]]).double(), x)
    small = (6 / 29) ** 3
    f = torch.where(xyz > small, xyz.clamp_min(small) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
