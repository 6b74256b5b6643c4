"""Dual focal loss (Tao, Dong & Xu, 2023, arXiv:2305.13665)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_labels
from .reduction import check_reduction, reduce


class DualFocalLoss(nn.Module):
    r"""$-(1 - p_y + p_j)^\gamma \log p_y$, $p_j = \max \{ p_i : p_i < p_y \}$: focal loss that looks at the runner-up.

    $p = \mathrm{softmax}(x)$, and $p_j$ is 0 where no class is below the right one. Where the right class comes first
    the factor is one less the gap of the top two; where it does not, the classes before it play no part. Without $p_j$
    it is focal loss, at $\gamma = 0$ cross-entropy. The gradient flows through $p_y$ and $p_j$; which class $j$ is
    counts as given.

    Args:
        gamma: $\gamma$, 0 or more; chosen by calibration error on held-out data.
        weight: (k), one weight a class; the mean is then a weighted one, as torch's is.
        ignore_index: label of examples that count for nothing. The mean over none but such is 0.
        reduction: "none", "mean" or "sum".

    Called with logits (n, k) or (n, k, ...) and targets (n) or (n, ...).

    Dual Focal Loss for Calibration, the definition of the loss; "below" is strict, as in the authors' code
    (github.com/Linwei94/DualFocalLoss).

    Differs from the paper: `weight` and `ignore_index` are torch's. The authors' code sums over the batch unless told
    otherwise; here the mean is the default.

    Raises:
        ValueError: for `gamma` below 0, weights that are negative, not finite or not one a class; when called, as
            `check_labels` says.
        TypeError: when called, for targets that are not whole numbers.

    Example:
        >>> probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.1, 0.6, 0.3]])
        >>> loss = DualFocalLoss(gamma=2.0, reduction="none")(probabilities.log(), torch.tensor([0, 0, 0]))
        >>> factor = loss / -probabilities[:, 0].log()
        >>> [round(value, 4) for value in factor.sqrt().tolist()]  # 1 - 0.6 + 0.3, 1 - 0.3 + 0.1, 1 - 0.1
        [0.7, 0.8, 0.9]
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        gamma: float = 5.0,
        weight: Float[Tensor, " k"] | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if not 0.0 <= gamma < math.inf:
            raise ValueError(f"gamma must be finite and 0 or more: got {gamma}")
        if weight is not None and not (weight.ndim == 1 and weight.isfinite().all() and (weight >= 0).all()):
            raise ValueError(f"weight must be one finite number a class, 0 or more: got {weight}")
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.reduction = check_reduction(reduction)
        self.register_buffer("weight", weight)

    def forward(self, logits: Float[Tensor, "n k ..."], targets: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        check_labels(logits, targets, ignore_index=self.ignore_index)
        if self.weight is not None and len(self.weight) != logits.shape[1]:
            raise ValueError(f"weight must have {logits.shape[1]} entries, one a class: got {len(self.weight)}")
        log_p = F.log_softmax(logits, dim=1)
        kept = targets != self.ignore_index
        label = torch.where(kept, targets, 0).long()
        values = _dual(log_p, label.unsqueeze(1), self.gamma)
        share = kept.to(log_p.dtype)
        if self.weight is not None:
            share = share * self.weight.to(log_p.dtype)[label]
        values = share * values
        if self.reduction != "mean":
            return reduce(values, self.reduction)
        return values.sum() / share.sum().clamp_min(torch.finfo(share.dtype).tiny)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, reduction={self.reduction!r}"


def _dual(log_p: Tensor, label: Tensor, gamma: float) -> Tensor:
    """The loss of each example, from log-probabilities (n, k, ...) and labels (n, 1, ...)."""
    log_right = log_p.gather(1, label)
    if gamma == 0:
        return -log_right.squeeze(1)
    p = log_p.exp()
    runner_up = p.masked_fill(p >= p.gather(1, label), 0.0).amax(dim=1)
    log_right = log_right.squeeze(1)
    # 1 - p + p_j is above 0 by the square of the precision at least, so that every power of it has a derivative.
    gap = (runner_up - torch.expm1(log_right)).clamp_min(torch.finfo(log_p.dtype).eps ** 2)
    return -log_right * gap.pow(gamma)
