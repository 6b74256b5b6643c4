"""Small classifiers beside a network, which tell a hidden layer what is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("linear", "mlp", "cnn")


class AuxiliaryHead(nn.Module):
    r"""Logits from the output of a hidden block, of any shape: a vector, an image of channels, a row of tokens.

    Images are averaged down to `pool` x `pool` before the classifier, tokens to their mean. Three kinds:

    - `"linear"`: batch norm, pooling, one linear layer.
    - `"mlp"`: pooling, `layers` hidden layers of `hidden` units with batch norm and ReLU, one linear layer.
    - `"cnn"` (images only): a 1 x 1 convolution to `hidden` channels, `layers` 3 x 3 convolutions of stride 2, each
      with batch norm and ReLU, pooling, one linear layer.

    Args:
        shape: of the block's output for one example: (c, h, w), (tokens, d) or (d,).
        num_classes: logits, at least 2.
        kind: as above.
        hidden: width, at least 1; 32 in the paper for eight blocks.
        layers: hidden layers, at least 1.
        pool: side of what is left of an image, at least 1.

    Fournier et al., 2023 (arXiv:2306.06968), appendix A, and the authors' `auxnet.py`.

    Differs from the paper: `layers` and `pool` are not told there; one layer and a side of 2 are what their `linear`
    head uses. Vectors and tokens are ours.

    Raises:
        ValueError: for an unknown kind, numbers below 1, fewer than two classes, a shape no head is made for.

    Example:
        >>> import torch
        >>> AuxiliaryHead((16, 7, 7), 10, kind="cnn", hidden=8)(torch.zeros(4, 16, 7, 7)).shape
        torch.Size([4, 10])
        >>> sum(p.numel() for p in AuxiliaryHead((16, 7, 7), 10).parameters())  # 2 * 16 + (4 * 16 + 1) * 10
        682
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        kind: str = "linear",
        hidden: int = 32,
        layers: int = 1,
        pool: int = 2,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}: got {kind!r}")
        for name, value in (("hidden", hidden), ("layers", layers), ("pool", pool)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2: got {num_classes}")
        if not 1 <= len(shape) <= 3 or min(shape) < 1:
            raise ValueError(f"shape must be (c, h, w), (tokens, d) or (d,) with each at least 1: got {tuple(shape)}")
        if kind == "cnn" and len(shape) != 3:
            raise ValueError(f"kind 'cnn' must have a shape (c, h, w): got {tuple(shape)}")
        self.image = len(shape) == 3
        self.pool = min(pool, *shape[1:]) if self.image else 1
        width = shape[0] if self.image else shape[-1]
        parts: list[nn.Module] = []
        if kind == "cnn":
            parts += [nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()]
            for _ in range(layers):
                conv = nn.Conv2d(hidden, hidden, 3, stride=2, padding=1, bias=False)
                parts += [conv, nn.BatchNorm2d(hidden), nn.ReLU()]
            width = hidden
        elif kind == "linear":
            parts.append(nn.BatchNorm2d(width) if self.image else nn.BatchNorm1d(width))
        self.features = nn.Sequential(*parts)
        width *= self.pool**2
        parts = []
        if kind == "mlp":
            for _ in range(layers):
                parts += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
                width = hidden
        self.classifier = nn.Sequential(*parts, nn.Linear(width, num_classes))

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        if x.ndim == 3:
            x = x.mean(1)
        x = self.features(x)
        if self.image:
            x = F.adaptive_avg_pool2d(x, self.pool).flatten(1)
        logits: Tensor = self.classifier(x)
        return logits
