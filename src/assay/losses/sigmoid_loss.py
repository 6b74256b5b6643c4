"""Contrastive losses of pairs: by a sigmoid for each pair, and by softmax over the batch (Zhai et al., 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .checks import check_finite, readable
from .reduction import check_reduction, reduce


class SigmoidContrastiveLoss(nn.Module):
    r"""$-\frac1n \sum_i \sum_j \log \sigma(z_{ij} (t\, a_i \cdot b_j + \beta))$: every pair a question of its own.

    $z_{ij} = 1$ for i = j and $-1$ else; a and b are brought to length 1. $t$ (as its logarithm) and $\beta$ are
    learned: give the optimizer the loss's parameters too, without weight decay. With n - 1 wrong pairs for each right
    one $\beta = -10$ starts near the prior. Nothing is normalised over the batch, so that any part of the pairs can be
    summed at any time.

    Args:
        init_temperature: $t$ at the start, positive.
        init_bias: $\beta$ at the start.
        chunk: how many b are compared with all a at a time, at least 1. Less than all of them needs memory for n x
            chunk numbers, not n x n, and computes each similarity twice; value and gradients are the same.
        reduction: "mean" over the n rows i, "sum" of them, or "none".

    Called with a (n, d) and b (n, d), b_i belonging to a_i.

    The paper: equation 1 and algorithm 1 (arXiv:2303.15343); divided by n, not by the number of pairs.

    Raises:
        ValueError: for a temperature that is not positive and finite, a bias that is not finite, a chunk below 1; when
            called, for shapes that differ, no rows, vectors of length 0 or not finite (seen on a CPU only).

    Example:
        >>> a = torch.eye(3)
        >>> loss = SigmoidContrastiveLoss()
        >>> round(loss(a, a).item(), 4)  # all right, at 10 - 10: log 2 + 2 softplus(-10)
        0.6932
        >>> round(loss(a, a.roll(1, 0)).item(), 4)  # all wrong: softplus(10) + log 2 + softplus(-10)
        10.6932
    """

    def __init__(
        self,
        *,
        init_temperature: float = 10.0,
        init_bias: float = -10.0,
        chunk: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        _check(init_temperature, chunk)
        if not math.isfinite(init_bias):
            raise ValueError(f"init_bias must be finite: got {init_bias}")
        self.log_temperature = nn.Parameter(torch.tensor(math.log(init_temperature)))
        self.bias = nn.Parameter(torch.tensor(float(init_bias)))
        self.chunk, self.reduction = chunk, check_reduction(reduction)

    def forward(self, a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        dtype = _check_pairs(a, b, least=1)
        with torch.autocast(a.device.type, enabled=False):
            a, b = (F.normalize(each.to(torch.promote_types(dtype, torch.float32)), dim=1) for each in (a, b))
            rows = a.new_zeros(len(a))
            for start, part in _chunks(b, self.chunk):
                if self.chunk is None:
                    rows = rows + self._rows(a, part, start)
                else:
                    rows = rows + checkpoint(self._rows, a, part, start, use_reentrant=False)
            return reduce(rows, self.reduction).to(dtype)

    def _rows(self, a: Tensor, part: Tensor, start: int) -> Tensor:
        """What each a loses with some of the b, the first of which is number `start`."""
        logits = self.log_temperature.exp() * (a @ part.T) + self.bias
        here = torch.arange(len(part), device=a.device)
        # -log sigmoid(-x) of all pairs, and of the right ones -log sigmoid(x) = softplus(x) - x.
        rows = F.softplus(logits).sum(1)
        return rows.index_add(0, here + start, -logits[here + start, here])


class SoftmaxContrastiveLoss(nn.Module):
    r"""The symmetric loss of contrastive pre-training: cross-entropy over rows and over columns of $t\, a b^\top$.

    $\frac{1}{2n} \sum_i \left( -\log \frac{e^{t a_i \cdot b_i}}{\sum_j e^{t a_i \cdot b_j}}
    - \log \frac{e^{t a_i \cdot b_i}}{\sum_j e^{t a_j \cdot b_i}} \right)$, a and b brought to length 1, $t$ learned and
    kept at 100 or below.

    Args:
        init_temperature: $t$ at the start, positive.
        chunk: how many b are compared with all a at a time, at least 1; sums over rows are put together from the
            chunks, and each similarity is computed twice. None takes all at once.
        reduction: "mean" over the n pairs, "sum" of them, or "none".

    Called with a (n, d) and b (n, d), n at least 2.

    The paper: equation 2 of arXiv:2303.15343; Radford et al., 2021 (arXiv:2103.00020), figure 3.

    Raises:
        ValueError: as for `SigmoidContrastiveLoss`; fewer than 2 rows.

    Example:
        >>> a = torch.eye(2)
        >>> loss = SoftmaxContrastiveLoss(init_temperature=1.0)
        >>> round(loss(a, a).item(), 4), round(loss(a, a.flip(0)).item(), 4)  # log(1 + 1/e), both ways; 1 + that
        (0.3133, 1.3133)
    """

    def __init__(self, *, init_temperature: float = 10.0, chunk: int | None = None, reduction: str = "mean") -> None:
        super().__init__()
        _check(init_temperature, chunk)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(init_temperature)))
        self.chunk, self.reduction = chunk, check_reduction(reduction)

    def forward(self, a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        dtype = _check_pairs(a, b, least=2)
        with torch.autocast(a.device.type, enabled=False):
            a, b = (F.normalize(each.to(torch.promote_types(dtype, torch.float32)), dim=1) for each in (a, b))
            rows, columns = [], []
            for _, part in _chunks(b, self.chunk):
                if self.chunk is None:
                    row, column = self._sums(a, part)
                else:
                    row, column = checkpoint(self._sums, a, part, use_reentrant=False)
                rows.append(row)
                columns.append(column)
            right = self._temperature() * (a * b).sum(1)
            values = (torch.stack(rows).logsumexp(0) + torch.cat(columns)) / 2 - right
            return reduce(values, self.reduction).to(dtype)

    def _temperature(self) -> Tensor:
        return self.log_temperature.clamp(max=math.log(100.0)).exp()

    def _sums(self, a: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._temperature() * (a @ part.T)
        return logits.logsumexp(1), logits.logsumexp(0)


def _chunks(b: Tensor, chunk: int | None) -> Iterator[tuple[int, Tensor]]:
    size = len(b) if chunk is None else chunk
    for start in range(0, len(b), size):
        yield start, b[start : start + size]


def _check(temperature: float, chunk: int | None) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"init_temperature must be positive and finite: got {temperature}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, or None: got {chunk}")


def _check_pairs(a: Tensor, b: Tensor, *, least: int) -> torch.dtype:
    if a.ndim != 2 or a.shape != b.shape or len(a) < least:
        raise ValueError(
            f"a and b must be (n, d), the same, n at least {least}: got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    check_finite(a=a, b=b)
    for name, each in (("a", a), ("b", b)):
        if readable(each) and (each.detach().norm(dim=1) < 1e-12).any():
            raise ValueError(f"{name} must have no vector of length 0: got one")
    return torch.promote_types(a.dtype, b.dtype)
