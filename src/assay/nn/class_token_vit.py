"""A vision transformer that reads its answer off a class token."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .tinyvit import TinyViT, tinyvit


class ClassTokenViT(TinyViT):
    r"""`tinyvit` with a class token, which is all that the last layer sees: `head(norm(blocks(...)[:, 0]))`.

    Args:
        shape: channels, height, width of an image.
        num_classes: logits, at least 1.
        patch: side of a patch in pixels, a divisor of height and width.
        d: width of a token.
        depth: blocks.
        heads: attention heads, a divisor of d.

    Dosovitskiy et al., 2020 (arXiv:2010.11929), equations 1 to 4.

    Raises:
        ValueError: as `tinyvit`.

    Example:
        >>> ClassTokenViT((1, 8, 8), 3, patch=4, d=8, depth=1, heads=2)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        num_classes: int = 10,
        *,
        patch: int = 7,
        d: int = 64,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        tinyvit(shape, num_classes, patch=patch, d=d, depth=depth, heads=heads)  # refuses what cannot be
        super().__init__(shape, num_classes, patch, d, depth, heads)
        self.token = nn.Parameter(torch.randn(1, 1, d) * 0.02)

    def embed(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n tokens d"]:
        """What the first block gets: the class token, then the patches with their positions."""
        patches = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return torch.cat([self.token.expand(len(images), -1, -1), patches], 1)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        logits: Tensor = self.head(self.norm(self.blocks(self.embed(images))[:, 0]))
        return logits
