"""How often a classifier is right, and how well it knows it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def accuracy(logits: Float[Tensor, "n k"], targets: Int[Tensor, " n"], top: int = 1) -> float:
    """The share of examples whose target is among the `top` largest logits, in [0, 1].

    Ties are broken at random, and the expectation of that is returned: a classifier that says the same of every class
    scores 1/k, as chance does, and not as the first class does.

    Args:
        logits: one row an example; any increasing function of the probabilities does.
        targets: labels from 0 to k - 1.
        top: 1 for plain accuracy, 5 for top-5; 1 to k.

    Raises:
        ValueError: for no examples, logits that are not a number, labels or `top` out of range.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 0.0, 2.0]])
        >>> targets = torch.tensor([0, 1, 1])
        >>> round(accuracy(logits, targets), 4), round(accuracy(logits, targets, top=2), 4)
        (0.3333, 0.6667)
    """
    _check(logits, targets, "logits")
    if not 1 <= top <= logits.shape[1]:
        raise ValueError(f"top must lie in 1..{logits.shape[1]}: got {top}")
    chosen = logits.gather(1, targets.long()[:, None])
    above = (logits > chosen).sum(dim=1)
    tied = (logits == chosen).sum(dim=1)
    places = (top - above).clamp(min=0).minimum(tied)
    return (places.double() / tied.double()).mean().item()


def calibration_error(probabilities: Float[Tensor, "n k"], targets: Int[Tensor, " n"], bins: int = 15) -> float:
    r"""Expected calibration error: $\sum_b \frac{n_b}{n}\,|\mathrm{acc}(b) - \mathrm{conf}(b)|$.

    Examples are binned by the probability of the class they are given to, into `bins` equal intervals
    $(\frac{b-1}{B}, \frac{b}{B}]$ (Guo et al., 2017, arXiv:1706.04599, equations 2, 3 and 5).

    Args:
        probabilities: rows of numbers in [0, 1] that sum to one.
        targets: labels from 0 to k - 1.
        bins: $B$, at least 1.

    Raises:
        ValueError: for no examples, rows that are no probabilities, labels out of range, bins below 1.

    Example:
        >>> sure = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])  # right, wrong, right
        >>> round(calibration_error(sure, torch.tensor([0, 1, 1])), 4)  # 2/3 * |1/2 - 0.9| + 1/3 * |1 - 0.8|
        0.3333
    """
    _check(probabilities, targets, "probabilities")
    if bins < 1:
        raise ValueError(f"bins must be at least 1: got {bins}")
    values = probabilities.detach().double()
    tolerance = 1e-3 if probabilities.dtype in (torch.float16, torch.bfloat16) else 1e-5
    if values.min() < 0 or (values.sum(dim=1) - 1).abs().max() > tolerance * values.shape[1]:
        raise ValueError("probabilities must be rows of numbers in [0, 1] that sum to one")
    confidence, predicted = values.max(dim=1)
    right = (predicted == targets).double()
    # The edges are rounded once to the precision of the input, so that 0.3 in float32 falls on the edge 3/10.
    edges = (torch.arange(1, bins, dtype=torch.float64) / bins).to(probabilities.dtype).to(confidence)
    bin_of = torch.bucketize(confidence, edges)
    gap = torch.zeros(bins, dtype=torch.float64, device=values.device).index_add_(0, bin_of, right - confidence)
    return (gap.abs().sum() / len(targets)).item()


def _check(rows: Tensor, targets: Tensor, name: str) -> None:
    if rows.ndim != 2 or targets.shape != rows.shape[:1]:
        raise ValueError(f"{name} must be (n, k) and targets (n,): got {tuple(rows.shape)} and {tuple(targets.shape)}")
    if len(targets) == 0:
        raise ValueError(f"{name} must have at least one row: got none")
    if rows.isnan().any():
        raise ValueError(f"{name} must be numbers: got NaN")
    if targets.min() < 0 or targets.max() >= rows.shape[1]:
        raise ValueError(
            f"targets must lie in 0..{rows.shape[1] - 1}: got {targets.min().item()}..{targets.max().item()}"
        )
