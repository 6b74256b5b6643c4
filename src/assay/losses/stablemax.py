"""StableMax, a softmax that grows linearly, and its cross-entropy (Prieto et al., 2025, arXiv:2501.04697)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from .checks import check_finite, check_labels
from .reduction import check_reduction, reduce


def stablemax(logits: Shaped[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    r"""$s(x_i) / \sum_j s(x_j)$ with $s(x) = x + 1$ for $x \ge 0$ and $1 / (1 - x)$ below.

    $s$ is smooth once, and grows linearly where the exponential explodes: no class is ever rounded away.

    Args:
        logits: any shape.
        dim: the dimension of the classes.

    The paper: equations 5 and 6.

    Raises:
        ValueError: for logits that are not finite.
        TypeError: for logits that are not real numbers.

    Example:
        >>> (stablemax(torch.tensor([3.0, 0.0, -1.0])) * 11).round(decimals=4)  # s = 4, 1 and 1/2
        tensor([8., 2., 1.])
    """
    return log_stablemax(logits, dim).exp()


def log_stablemax(logits: Shaped[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """The logarithm of `stablemax`, finite at logits of any finite size.

    Raises:
        ValueError: for logits that are not finite.
        TypeError: for logits that are not real numbers.

    Example:
        >>> log_stablemax(torch.tensor([1e30, 0.0, -1e30])).round(decimals=2)
        tensor([   0.0000,  -69.0800, -138.1600])
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits must be real numbers: got {str(logits.dtype).removeprefix('torch.')}")
    check_finite(logits=logits)
    return _log_stablemax(logits, dim)


class StableMaxCrossEntropy(nn.Module):
    r"""$-\log \mathrm{stablemax}(x)_y$, for softmax cross-entropy where that would collapse.

    When float32 softmax has fitted an example by a gap of some 17, its loss is exactly 0 and teaches nothing more. This
    loss falls with the gap like 1/x instead.

    Args:
        weight: (k), one weight a class; the mean is then a weighted one, as torch's is.
        ignore_index: label of examples that count for nothing. The mean over none but such is 0.
        label_smoothing: 0 to 1, as in torch's cross-entropy.
        reduction: "none", "mean" or "sum".
        dtype: what it is computed in; float64 as in the authors' code. The value has the type of the logits, single
            precision at least.

    Called with logits (n, k) or (n, k, ...) and targets (n) or (n, ...).

    Prieto, Barsbey, Mediano, Birdal, 2025 (arXiv:2501.04697), equations 5 and 6.

    Differs from the paper: weights, smoothing and `ignore_index` are torch's.

    Raises:
        ValueError: for weights that are negative, not finite or not one a class, smoothing outside 0 to 1; when called,
            as `check_labels` says.
        TypeError: for a dtype that is not of real numbers; when called, for targets that are not whole numbers.

    Example:
        >>> loss = StableMaxCrossEntropy(reduction="none")
        >>> logits = torch.tensor([[3.0, 0.0, 0.0], [999.0, 0.0, 0.0]])
        >>> [round(value, 4) for value in loss(logits, torch.tensor([0, 0])).tolist()]  # log(6/4), log(1002/1000)
        [0.4055, 0.002]
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        weight: Float[Tensor, " k"] | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing must lie in 0..1: got {label_smoothing}")
        if weight is not None and not (weight.ndim == 1 and weight.isfinite().all() and (weight >= 0).all()):
            raise ValueError(f"weight must be one finite number a class, 0 or more: got {weight}")
        if not dtype.is_floating_point:
            raise TypeError(f"dtype must be one of real numbers: got {str(dtype).removeprefix('torch.')}")
        self.ignore_index, self.label_smoothing, self.dtype = ignore_index, label_smoothing, dtype
        self.reduction = check_reduction(reduction)
        self.register_buffer("weight", weight)

    def forward(self, logits: Float[Tensor, "n k ..."], targets: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        check_labels(logits, targets, ignore_index=self.ignore_index)
        if self.weight is not None and len(self.weight) != logits.shape[1]:
            raise ValueError(f"weight must have {logits.shape[1]} entries, one a class: got {len(self.weight)}")
        log_p = _log_stablemax(logits.to(self.dtype), 1)
        kept = targets != self.ignore_index
        label = torch.where(kept, targets, 0).long()
        share = kept.to(log_p.dtype)
        if self.weight is not None:
            share = share * self.weight.to(log_p.dtype)[label]
        values = -share * log_p.gather(1, label.unsqueeze(1)).squeeze(1)
        if self.label_smoothing > 0:
            every = -log_p
            if self.weight is not None:
                every = every * self.weight.to(log_p.dtype).view(-1, *[1] * (log_p.ndim - 2))
            values = (1 - self.label_smoothing) * values + self.label_smoothing * kept * every.mean(dim=1)
        if self.reduction == "mean":
            value = values.sum() / share.sum().clamp_min(torch.finfo(share.dtype).tiny)
        else:
            value = reduce(values, self.reduction)
        return value.to(torch.promote_types(logits.dtype, torch.float32))

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}, reduction={self.reduction!r}, dtype={self.dtype}"


def _log_stablemax(x: Tensor, dim: int) -> Tensor:
    # Of the two slopes at 0, clamp has 1 and relu has 0: together the 1 of s.
    log_s = torch.log1p(x.clamp(min=0)) - torch.log1p(torch.relu(-x))
    return log_s - log_s.logsumexp(dim, keepdim=True)
