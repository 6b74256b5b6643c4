"""Images that are a sum of two known parts: even polygons, and a texture."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .photos import SIZE, photos

TEXTURES = ("brick", "grass", "gravel")


def cartoons_and_textures(
    count: int, side: int = 32, *, polygons: int = 3, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "n 1 side side"], Float[Tensor, "n 1 side side"]]:
    """Piecewise-constant images, and patches of brick, grass or gravel to add to them.

    A cartoon is an even ground in [0, 1) with regular polygons of three to six corners on it, one above the other, of
    values in [0, 1), a distance of 0.15 to 0.45 sides from center to edge. A texture is a patch of a shipped photograph
    at a random place, its mean removed, times a strength in [0.5, 1.5).

    Args:
        count: how many, at least 1.
        side: height and width, 1 to 256.
        polygons: on each cartoon, 0 or more.
        generator: where they come from.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> cartoons, textures = cartoons_and_textures(5, 16, generator=torch.Generator().manual_seed(0))
        >>> cartoons.shape, textures.mean((2, 3)).abs().max().item() < 1e-6
        (torch.Size([5, 1, 16, 16]), True)
    """
    if count < 1:
        raise ValueError(f"count must be at least 1: got {count}")
    if not 1 <= side <= SIZE:
        raise ValueError(f"side must lie in 1..{SIZE}: got {side}")
    if polygons < 0:
        raise ValueError(f"polygons must be 0 or more: got {polygons}")
    pictures = list(photos(TEXTURES, color=False).values())
    chosen = torch.randint(len(pictures), (count,), generator=generator).tolist()
    corners = torch.randint(SIZE - side + 1, (count, 2), generator=generator).tolist()
    patches = [pictures[which][:, i : i + side, j : j + side] for which, (i, j) in zip(chosen, corners, strict=True)]
    textures = torch.stack(patches)
    strength = 0.5 + torch.rand(count, 1, 1, 1, generator=generator)
    textures = strength * (textures - textures.mean((2, 3), keepdim=True))
    return _cartoons(count, side, polygons, generator), textures


def _cartoons(count: int, side: int, polygons: int, generator: torch.Generator | None) -> Tensor:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    places = torch.arange(side) + 0.5
    image = uniform(1, 1).expand(count, side, side)
    for _ in range(polygons):
        edges = torch.randint(3, 7, (count, 1), generator=generator)
        center, distance = side * uniform(2, 1, 1, 1), side * (0.15 + 0.3 * uniform(1, 1, 1))
        # inside is what lies before every edge; of six directions, those beyond the number of edges come twice
        angle = 2 * math.pi * (uniform(1) + (torch.arange(6) % edges) / edges)[..., None, None]
        away = torch.cos(angle) * (places - center[:, 0]) + torch.sin(angle) * (places[:, None] - center[:, 1])
        image = torch.where((away < distance).all(1), uniform(1, 1), image)
    return image[:, None]
