"""A language model small enough for two cores: a decoder-only transformer (Radford et al., 2019, GPT-2)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .tinyvit import Attention, TransformerBlock


class CausalAttention(Attention):
    r"""Multi-head self-attention in which no token sees a later one: $\mathrm{softmax}(Q K^\top / \sqrt{d_h} + M) V$.

    $M_{ij} = -\infty$ for $j > i$ and 0 elsewhere (Vaswani et al., 2017, arXiv:1706.03762, section 3.2.3).

    Args:
        d: width of a token.
        heads: a divisor of d.

    Example:
        >>> attention = CausalAttention(4, 2)
        >>> x = torch.randn(1, 3, 4)
        >>> changed = torch.cat([x[:, :2], x[:, 2:] + 1], dim=1)  # the last token alone
        >>> torch.equal(attention(x)[:, :2], attention(changed)[:, :2])
        True
    """

    def forward(self, x: Float[Tensor, "n tokens d"]) -> Float[Tensor, "n tokens d"]:
        n, tokens, d = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        scores = q * (d // self.heads) ** -0.5 @ k.transpose(-2, -1)
        later = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
        weights = torch.softmax(scores.masked_fill(later, -torch.inf), dim=-1)
        joined: Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, tokens, d))
        return joined


class DecoderBlock(TransformerBlock):
    """A pre-norm transformer block whose attention is causal.

    Args:
        d: width of a token.
        heads: a divisor of d.

    Example:
        >>> sum(p.numel() for p in DecoderBlock(8, 2).parameters())  # 12 d^2 + 13 d
        872
    """

    def __init__(self, d: int, heads: int) -> None:
        super().__init__(d, heads)
        self.attention = CausalAttention(d, heads)


class Decoder(nn.Module):
    """Words and learned positions, causal transformer blocks, a norm, one linear layer; see `decoder`."""

    def __init__(self, vocabulary: int, context: int, d: int, depth: int, heads: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, d)
        self.positions = nn.Parameter(torch.randn(context, d) * 0.02)
        self.blocks = nn.Sequential(*(DecoderBlock(d, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, vocabulary, bias=False)
        nn.init.normal_(self.words.weight, std=0.02)

    def forward(self, words: Int[Tensor, "n tokens"]) -> Float[Tensor, "n tokens k"]:
        if words.shape[1] > len(self.positions):
            raise ValueError(f"words must be at most {len(self.positions)} a row: got {words.shape[1]}")
        tokens = self.words(words) + self.positions[: words.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(tokens)))
        return logits


def decoder(vocabulary: int = 512, context: int = 32, *, d: int = 64, depth: int = 2, heads: int = 4) -> Decoder:
    """A decoder-only transformer with GELU MLPs of ratio 4: words (n, t) -> logits of the next word (n, t, vocabulary).

    With v words, context c and depth L it has $2 v d + c d + L (12 d^2 + 13 d) + 2 d$ parameters. Words and positions
    start with standard deviation 0.02, as in GPT-2; all else as torch starts it.

    Differs from the paper: the last layer has weights of its own (GPT-2 reuses those of the words), and there is no
    dropout.

    Args:
        vocabulary: words, at least 1.
        context: tokens that a row may have, at least 1.
        d: width of a token, at least 1.
        depth: blocks, at least 1.
        heads: attention heads, a divisor of d.

    Raises:
        ValueError: when anything is below 1, `heads` does not divide `d`, or a row is longer than `context`.

    Example:
        >>> sum(p.numel() for p in decoder().parameters())
        167680
    """
    for name, value in (
        ("vocabulary", vocabulary),
        ("context", context),
        ("d", d),
        ("depth", depth),
        ("heads", heads),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1: got {value}")
    if d % heads:
        raise ValueError(f"heads must divide d = {d}: got {heads}")
    return Decoder(vocabulary, context, d, depth, heads)
