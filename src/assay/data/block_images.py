"""Images of two blocks, of which one is known to mean nothing; and points of which one coordinate tells the label."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

SIDE = 28
"""Height and width of a block, in pixels."""

FRAME = (4, 24)
"""First line and first line after the square that is drawn in the null block."""


class BlockImages(NamedTuple):
    """Columns of two blocks.

    Args:
        images: (n, 1, 56, 28) float32.
        labels: (n,), those of the signal blocks.
        signal: (n, 1, 56, 28) bool, where the signal block is.
    """

    images: Tensor
    labels: Tensor
    signal: Tensor


class SignalCoordinates(NamedTuple):
    """Points and labels.

    Args:
        inputs: (n, dim) float32, of which one number a row is not 0.
        labels: (n,) int64, 0 or 1.
        coordinates: (n,) int64, which one.
    """

    inputs: Tensor
    labels: Tensor
    coordinates: Tensor


def block_images(
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    position: str = "random",
    generator: torch.Generator | None = None,
) -> BlockImages:
    """Each image above or below a null block: the outline of a square, 20 x 20, the same in every image.

    Whatever a map of importance shows in the null block leaked there: the block tells nothing about the label.

    Args:
        images: (n, 1, 28, 28) in [0, 1].
        labels: of the images.
        position: "random", the image is above or below by a fair coin; "top", always above.
        generator: where the coins come from; None is torch's global generator.

    Shah et al., 2021 (arXiv:2102.12781), section 5.

    Raises:
        ValueError: for images of another size, labels of another length, another position.

    Example:
        >>> blocks = block_images(torch.full((1, 1, 28, 28), 0.5), torch.tensor([3]), position="top")
        >>> blocks.images[0, 0, 0, 0].item(), blocks.images[0, 0, 28:].sum().item()     # 4 x 20 - 4 white pixels
        (0.5, 76.0)
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != (1, SIDE, SIDE):
        raise ValueError(f"images must be (n, 1, {SIDE}, {SIDE}): got {tuple(images.shape)}")
    if len(labels) != len(images):
        raise ValueError(f"labels must be as many as images: got {len(labels)} for {len(images)}")
    if position not in ("random", "top"):
        raise ValueError(f"position must be 'random' or 'top': got {position!r}")
    first, end = FRAME
    null = torch.zeros(SIDE, SIDE)
    null[first:end, first:end] = 1.0
    null[first + 1 : end - 1, first + 1 : end - 1] = 0.0
    above = torch.ones(len(images), dtype=torch.bool)
    if position == "random":
        above = torch.rand(len(images), generator=generator) < 0.5
    above = above[:, None, None, None]
    nulls = null.expand_as(images)
    given = images.float()
    column = torch.cat([torch.where(above, given, nulls), torch.where(above, nulls, given)], dim=2)
    signal = torch.cat([above.expand_as(images), ~above.expand_as(images)], dim=2)
    return BlockImages(column, labels.long(), signal)


def signal_coordinates(n: int, dim: int = 10, *, generator: torch.Generator | None = None) -> SignalCoordinates:
    r"""Points $x = (2y - 1)\, e_j$, of which each has its own coordinate to look at.

    Args:
        n: points, at least 1.
        dim: coordinates, at least 1; $j$ is uniform, $y$ a fair coin.
        generator: where they come from; None is torch's global generator.

    Shah et al., 2021 (arXiv:2102.12781), section 6, in the form of the authors' code (one signal coordinate).

    Raises:
        ValueError: for n or dim below 1.

    Example:
        >>> points = signal_coordinates(4, 3, generator=torch.Generator().manual_seed(0))
        >>> torch.equal(points.inputs.sum(1), 2.0 * points.labels - 1)
        True
    """
    for name, value in (("n", n), ("dim", dim)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1: got {value}")
    coordinates = torch.randint(dim, (n,), generator=generator)
    labels = torch.randint(2, (n,), generator=generator)
    inputs = torch.zeros(n, dim).scatter_(1, coordinates[:, None], (2.0 * labels - 1)[:, None])
    return SignalCoordinates(inputs, labels, coordinates)
