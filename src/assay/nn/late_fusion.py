"""Several encoders and one linear layer on their features side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


class LateFusion(nn.Module):
    r"""Logits $W [z_1, \dots, z_M] + b$ from features $z_m = \mathrm{enc}_m(x_m)$ of M modalities.

    Each modality's own logits come from the same layer with the other features set to zero, $W_m z_m + b$, so that they
    take no weights of their own.

    Args:
        encoders: one a modality, two or more; each gives (n, d_m).
        feature_dims: $d_m$.
        num_classes: logits, at least 2.
        shapes: shapes of one example of each modality; only needed for inputs that come as one tensor (n, total), with
            the modalities flattened side by side, as a data set of plain tensors has them.

    Called with a sequence of M tensors of equally many examples, or with one such tensor.

    Raises:
        ValueError: for fewer than two encoders, dimensions that do not fit; when called, for another number of
            modalities, unequal numbers of examples, or one tensor without `shapes`.

    Example:
        >>> fusion = LateFusion([nn.Linear(3, 4), nn.Linear(5, 2)], [4, 2], 10, shapes=[(3,), (5,)])
        >>> xs = torch.rand(7, 3), torch.rand(7, 5)
        >>> torch.equal(fusion(xs), fusion(torch.cat(xs, 1)))
        True
        >>> one, two = fusion.unimodal(fusion.features(xs))
        >>> torch.allclose(one + two - fusion.head.bias, fusion(xs), atol=1e-6)
        True
    """

    def __init__(
        self,
        encoders: Sequence[nn.Module],
        feature_dims: Sequence[int],
        num_classes: int,
        *,
        shapes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if len(encoders) < 2:
            raise ValueError(f"encoders must be two or more: got {len(encoders)}")
        if len(feature_dims) != len(encoders) or min(feature_dims) < 1:
            raise ValueError(f"feature_dims must be one for each encoder, at least 1: got {tuple(feature_dims)}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2: got {num_classes}")
        if shapes is not None and len(shapes) != len(encoders):
            raise ValueError(f"shapes must be one for each encoder: got {len(shapes)}")
        self.encoders = nn.ModuleList(encoders)
        self.feature_dims = list(feature_dims)
        self.shapes = None if shapes is None else [tuple(shape) for shape in shapes]
        self.head = nn.Linear(sum(feature_dims), num_classes)

    def modalities(self, xs: Sequence[Tensor] | Tensor) -> list[Tensor]:
        """The inputs of each encoder."""
        if isinstance(xs, Tensor):
            if self.shapes is None:
                raise ValueError("shapes must be given for inputs in one tensor: got none")
            parts = xs.split([math.prod(shape) for shape in self.shapes], 1)
            return [part.reshape(len(xs), *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        if len(xs) != len(self.encoders):
            raise ValueError(f"inputs must be {len(self.encoders)} modalities: got {len(xs)}")
        if len({len(x) for x in xs}) != 1:
            raise ValueError(f"inputs must have equally many examples: got {[len(x) for x in xs]}")
        return list(xs)

    def features(self, xs: Sequence[Tensor] | Tensor) -> list[Tensor]:
        """$z_m$, (n, d_m) each."""
        return [encoder(x) for encoder, x in zip(self.encoders, self.modalities(xs), strict=True)]

    def unimodal(self, features: Sequence[Float[Tensor, "n _"]]) -> list[Float[Tensor, "n k"]]:
        """Each modality's own logits."""
        weights = self.head.weight.split(self.feature_dims, 1)
        return [nn.functional.linear(z, w, self.head.bias) for z, w in zip(features, weights, strict=True)]

    def forward(self, xs: Sequence[Tensor] | Shaped[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        logits: Tensor = self.head(torch.cat(self.features(xs), 1))
        return logits
