"""A vision transformer small enough for two cores (Dosovitskiy et al., 2020, arXiv:2010.11929, equations 1-4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .shapes import check_shape

MLP_RATIO = 4


class Attention(nn.Module):
    r"""Multi-head self-attention: $\mathrm{softmax}(Q K^\top / \sqrt{d_h}) V$ in each head, then a linear map.

    It is written out in products and a softmax, not as a fused kernel, because methods here differentiate it twice and
    in forward mode, which the fused kernels on a CPU do not allow; at some dozen tokens it costs the same.

    Args:
        d: width of a token.
        heads: a divisor of d.

    Example:
        >>> Attention(8, 2)(torch.zeros(1, 5, 8)).shape
        torch.Size([1, 5, 8])
    """

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)

    def forward(self, x: Float[Tensor, "n tokens d"]) -> Float[Tensor, "n tokens d"]:
        n, tokens, d = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q * (d // self.heads) ** -0.5 @ k.transpose(-2, -1), dim=-1)
        joined: Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, tokens, d))
        return joined


class TransformerBlock(nn.Module):
    r"""Pre-norm block: $x' = x + \mathrm{MSA}(\mathrm{LN}(x))$, $y = x' + \mathrm{MLP}(\mathrm{LN}(x'))$.

    Equations 2 and 3 of the paper. The MLP is d -> 4d -> d with GELU.

    Args:
        d: width of a token.
        heads: a divisor of d.

    Example:
        >>> sum(p.numel() for p in TransformerBlock(8, 2).parameters())  # 12 d^2 + 13 d
        872
    """

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d)
        self.attention = Attention(d, heads)
        self.norm2 = nn.LayerNorm(d)
        self.up = nn.Linear(d, MLP_RATIO * d)
        self.down = nn.Linear(MLP_RATIO * d, d)

    def forward(self, x: Float[Tensor, "n tokens d"]) -> Float[Tensor, "n tokens d"]:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out


class TinyViT(nn.Module):
    """Patches, learned positions, transformer blocks, a norm, the mean over tokens, one linear layer; see `tinyvit`."""

    def __init__(
        self, shape: tuple[int, int, int], num_classes: int, patch: int, d: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        tokens = (shape[1] // patch) * (shape[2] // patch)
        self.patches = nn.Conv2d(shape[0], d, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, tokens, d) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(d, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, num_classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits


def tinyvit(
    shape: tuple[int, int, int] = (1, 28, 28),
    num_classes: int = 10,
    *,
    patch: int = 7,
    d: int = 64,
    depth: int = 4,
    heads: int = 4,
) -> TinyViT:
    """A pre-norm vision transformer with GELU MLPs of ratio 4.

    With c channels, t tokens and k classes it has $(c p^2 + 1) d + t d + L (12 d^2 + 13 d) + 2 d + (d + 1) k$
    parameters (p `patch`, L `depth`).

    Differs from the paper: the mean over tokens is classified instead of a class token, and there is no dropout.

    Args:
        shape: channels, height, width of an image.
        num_classes: logits, at least 1.
        patch: side of a patch in pixels, a divisor of height and width.
        d: width of a token, at least 1.
        depth: blocks, at least 1.
        heads: attention heads, a divisor of d.

    Raises:
        ValueError: when `patch` does not divide the image, `heads` does not divide `d`, or anything is below 1.

    Example:
        >>> sum(p.numel() for p in tinyvit().parameters())
        204938
    """
    check_shape(shape, num_classes)
    for name, value in (("patch", patch), ("d", d), ("depth", depth), ("heads", heads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1: got {value}")
    if shape[1] % patch or shape[2] % patch:
        raise ValueError(f"patch must divide height and width, {shape[1]} and {shape[2]}: got {patch}")
    if d % heads:
        raise ValueError(f"heads must divide d = {d}: got {heads}")
    return TinyViT(shape, num_classes, patch, d, depth, heads)
