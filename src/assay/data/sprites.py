"""Sprites: one shape on black, of which colour, shape, size and turn can be told apart, or made to say the same."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

CUES = ("color", "shape", "scale", "orientation")
"""The columns of `cues`, each in {0, 1, 2}."""
SCALES = (0.5, 0.75, 1.0)
TURNS = (0.0, math.pi / 6, math.pi / 3)
LARGEST = 20 / 32  # side of the largest square, of the image's
FINER = 4  # samples a pixel each way
CHUNK = 500


def sprites(
    n: int,
    *,
    cues: Int[Tensor, "n 4"] | None = None,
    size: int = 32,
    noise: float = 0.02,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "n 3 size size"], Int[Tensor, "n 4"]]:
    """Filled shapes on black, one an image, somewhere in it.

    Color: red, green, blue, all of it in one channel. Shape: a square, an ellipse whose axes are as 1 to 0.6, a heart.
    Scale: 0.5, 0.75 or 1 of what is 20 pixels across in an image of 32. Orientation: turned by 0, 30 or 60 degrees
    against the clock. The middle is uniform over where the whole shape is inside.

    Args:
        n: images, at least 1.
        cues: columns color, shape, scale, orientation, each 0, 1 or 2; drawn independently and uniformly if not given.
        size: height and width in pixels, at least 16.
        noise: standard deviation of what is added to each pixel, 0 or more; images are cut to [0, 1] afterwards.
        generator: where cues, places and noise come from; None is torch's global generator.

    Returns:
        Images in [0, 1], pixels counted by area (4 x 4 samples each), and the cues.

    After the shapes of dSprites, as used by Scimeca et al., 2021 (arXiv:2110.03095), section 3.

    Raises:
        ValueError: for counts and sizes out of range, cues of another shape or outside 0 to 2.

    Example:
        >>> wanted = torch.tensor([[1, 0, 2, 0]])  # green, square, large, upright
        >>> images, cues = sprites(1, cues=wanted, noise=0.0, generator=torch.Generator().manual_seed(0))
        >>> round(images.sum().item()), images.sum(dim=(0, 2, 3)).bool().tolist()  # 20 x 20 pixels
        (400, [False, True, False])
    """
    if n < 1:
        raise ValueError(f"n must be at least 1: got {n}")
    if size < 16:
        raise ValueError(f"size must be at least 16: got {size}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be 0 or more and finite: got {noise}")
    if cues is None:
        cues = torch.randint(3, (n, 4), generator=generator)
    if tuple(cues.shape) != (n, 4):
        raise ValueError(f"cues must be ({n}, 4): got {tuple(cues.shape)}")
    if int(cues.min()) < 0 or int(cues.max()) > 2:
        raise ValueError(f"cues must lie in 0 to 2: got {int(cues.min())} to {int(cues.max())}")
    color, shape, scale, turn = cues.unbind(1)
    across = size * LARGEST * torch.tensor(SCALES)[scale]
    angle = torch.tensor(TURNS)[turn]
    low, high = (across[:, None] * each[shape, turn] for each in _boxes())
    middle = -low + torch.rand(n, 2, generator=generator) * (size - high + low)
    rows = range(0, n, CHUNK)
    covered = torch.cat(
        [_covered(*(each[row : row + CHUNK] for each in (middle, across, angle, shape)), size=size) for row in rows]
    )
    images = torch.zeros(n, 3, size, size)
    images[torch.arange(n), color] = covered
    if noise:
        images += noise * torch.randn(images.shape, generator=generator)
    return images.clamp_(0, 1), cues


def _covered(
    middle: Tensor, across: Tensor, angle: Tensor, shape: Tensor, *, size: int
) -> Float[Tensor, "n size size"]:
    """The share of each pixel that the shape covers."""
    places = (torch.arange(size * FINER) + 0.5) / FINER
    dx = (places - middle[:, :1])[:, None, :] / across[:, None, None]
    dy = (middle[:, 1:] - places)[:, :, None] / across[:, None, None]  # rows go down, y goes up
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    # All three are within half a unit each way; only what is asked for is kept.
    square = torch.maximum(x.abs(), y.abs()) - 0.5
    ellipse = (2 * x).square() + (2 * y / 0.6).square() - 1
    outside = torch.where((shape == 0)[:, None, None], square, ellipse)
    heart = shape == 2
    if heart.any():
        outside[heart] = _heart(x[heart], y[heart])
    inside = (outside <= 0).to(x.dtype).view(len(x), size, FINER, size, FINER)
    return inside.mean(dim=(2, 4))


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """Negative inside the curve (u^2 + v^2 - 1)^3 = u^2 v^3, of width 1, in the middle of its height."""
    u, v = 2.28 * x, 2.28 * y + 0.11
    return (u.square() + v.square() - 1).pow(3) - u.square() * v.pow(3)


def _boxes() -> tuple[Float[Tensor, "3 3 2"], Float[Tensor, "3 3 2"]]:
    """Least and greatest column and row, from the middle, of each shape at each turn, the shape being 1 across."""
    t = torch.linspace(0, 2 * math.pi, 721)
    way = torch.stack([t.cos(), t.sin()], 1)
    square = 0.5 * way / way.abs().amax(1, keepdim=True)
    ellipse = way * torch.tensor([0.5, 0.3])
    # Along each way from the middle, the heart is met once: halve until there.
    near, far = torch.zeros(len(t)), torch.ones(len(t))
    for _ in range(30):
        half = (near + far) / 2
        inside = _heart(*(half[:, None] * way).unbind(1)) <= 0
        near, far = torch.where(inside, half, near), torch.where(inside, far, half)
    edges = torch.stack([square, ellipse, far[:, None] * way])
    turned = []
    for angle in TURNS:
        cos, sin = math.cos(angle), math.sin(angle)
        x, y = edges.unbind(2)
        turned.append(torch.stack([cos * x - sin * y, -(sin * x + cos * y)], 2))
    every = torch.stack(turned, 1)
    return every.amin(2), every.amax(2)
