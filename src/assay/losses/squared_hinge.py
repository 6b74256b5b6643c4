"""The squared hinge loss over classes, that of an L2 support vector machine."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .checks import check_labels
from .reduction import check_reduction, reduce


class SquaredHinge(nn.Module):
    r"""$\sum_{k \ne y} \max(0,\, m - s_y + s_k)^2$ with scores s: 0 where the right class leads by the margin.

    It is `torch.nn.MultiMarginLoss(p=2)` times the number of classes, and can be differentiated twice.

    Args:
        margin: $m$, positive.
        reduction: "none", "mean" or "sum".

    Called with scores (n, k) and targets (n).

    Lee et al., 2014 (arXiv:1409.5185), equation 1. As it is a square, scores beyond the root of the largest number are
    infinite losses.

    Raises:
        ValueError: for a margin that is not positive, an unknown reduction; when called, as `check_labels` says.
        TypeError: when called, for targets that are not whole numbers.

    Example:
        >>> scores = torch.tensor([[2.0, 1.5, 0.0]])
        >>> SquaredHinge()(scores, torch.tensor([0])).item()  # (1 - 2 + 1.5)^2 + 0
        0.25
    """

    def __init__(self, margin: float = 1.0, *, reduction: str = "mean") -> None:
        super().__init__()
        if not 0 < margin < math.inf:
            raise ValueError(f"margin must be positive and finite: got {margin}")
        self.margin = margin
        self.reduction = check_reduction(reduction)

    def forward(self, scores: Float[Tensor, "..."], targets: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        check_labels(scores, targets, dense=False, name="scores")
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        label = targets.long().unsqueeze(1)
        gaps = (self.margin - scores.gather(1, label) + scores).clamp_min(0).square()
        return reduce(gaps.scatter(1, label, 0.0).sum(1), self.reduction)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, reduction={self.reduction!r}"
