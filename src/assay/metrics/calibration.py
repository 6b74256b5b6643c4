"""Further measures of how well a classifier knows how often it is right; see `calibration_error` for the usual one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def adaptive_calibration_error(
    probabilities: Float[Tensor, "n k"], targets: Int[Tensor, " n"], bins: int = 15
) -> float:
    r"""$\sum_b \frac{n_b}{n}\,|\mathrm{acc}(b) - \mathrm{conf}(b)|$ with bins of equal count.

    The examples are put in order of their confidence and cut into `bins` runs whose lengths differ by one at most
    (Nguyen & O'Connor, 2015, arXiv:1508.05154). Examples of equal confidence share their mean correctness, so that
    their order does not matter.

    Args:
        probabilities: rows of numbers in [0, 1] that sum to one.
        targets: labels from 0 to k - 1.
        bins: at least 1; with more than there are examples, each is a bin of its own.

    Raises:
        ValueError: for no examples, rows that are no probabilities, labels out of range, bins below 1.

    Example:
        >>> sure = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])  # right, wrong, right, right
        >>> error = adaptive_calibration_error(sure, torch.tensor([0, 1, 1, 1]), bins=2)
        >>> round(error, 4)  # 1/2 * |1/2 - 0.85| + 1/2 * |1 - 0.65|
        0.35
    """
    values = _checked(probabilities, targets, bins)
    confidence, predicted = values.max(dim=1)
    right = (predicted == targets).double()
    confidence, group, count = confidence.unique(return_inverse=True, return_counts=True)
    shared = torch.zeros_like(confidence).index_add_(0, group, right) / count
    gap = (shared - confidence).repeat_interleave(count)
    parts = torch.tensor_split(gap, min(bins, len(gap)))
    return sum(part.sum().abs().item() for part in parts) / len(targets)


def classwise_calibration_error(
    probabilities: Float[Tensor, "n k"], targets: Int[Tensor, " n"], bins: int = 15
) -> float:
    r"""$\frac{1}{k} \sum_c \sum_b \frac{n_{cb}}{n}\,|\mathrm{freq}_c(b) - \mathrm{conf}_c(b)|$: each class by itself.

    For class c all examples are binned by their probability of c, into equal intervals $(\frac{b-1}{B}, \frac{b}{B}]$,
    0 being in the first, and the mean of that is held against the share of examples that are of class c (Kull et al.,
    2019, arXiv:1910.12656, section 2).

    Args:
        probabilities: rows of numbers in [0, 1] that sum to one.
        targets: labels from 0 to k - 1.
        bins: $B$, at least 1.

    Raises:
        ValueError: for no examples, rows that are no probabilities, labels out of range, bins below 1.

    Example:
        >>> sure = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
        >>> round(classwise_calibration_error(sure, torch.tensor([0, 1])), 4)  # (|1/2 - 0.9| + |1/2 - 0.1|) / 2
        0.4
    """
    values = _checked(probabilities, targets, bins)
    n, classes = values.shape
    truth = torch.zeros_like(values).scatter_(1, targets.long()[:, None], 1.0)
    cell = _bins(values, probabilities.dtype, bins) + bins * torch.arange(classes, device=values.device)
    gap = values.new_zeros(bins * classes).index_add_(0, cell.flatten(), (truth - values).flatten())
    return (gap.abs().sum() / (n * classes)).item()


def maximum_calibration_error(probabilities: Float[Tensor, "n k"], targets: Int[Tensor, " n"], bins: int = 15) -> float:
    r"""$\max_b |\mathrm{acc}(b) - \mathrm{conf}(b)|$ over the bins of `calibration_error` that are not empty.

    Guo et al., 2017, arXiv:1706.04599, section 2 ("Maximum Calibration Error"). With few examples a bin
    the worst of them is a matter of luck.

    Args:
        probabilities: rows of numbers in [0, 1] that sum to one.
        targets: labels from 0 to k - 1.
        bins: at least 1.

    Raises:
        ValueError: for no examples, rows that are no probabilities, labels out of range, bins below 1.

    Example:
        >>> sure = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])  # right, wrong, right
        >>> round(maximum_calibration_error(sure, torch.tensor([0, 1, 1])), 4)  # |1/2 - 0.9| against |1 - 0.8|
        0.4
    """
    values = _checked(probabilities, targets, bins)
    confidence, predicted = values.max(dim=1)
    bin_of = _bins(confidence, probabilities.dtype, bins)
    gap = values.new_zeros(bins).index_add_(0, bin_of, (predicted == targets).double() - confidence)
    count = torch.bincount(bin_of, minlength=bins).clamp_min(1)
    return (gap.abs() / count).max().item()


def confidence_gap(probabilities: Float[Tensor, "n k"], targets: Int[Tensor, " n"]) -> float:
    """Mean confidence minus accuracy: above 0 over-confident, below 0 under-confident.

    Its size is never above the expected calibration error, which it is where all bins err to one side.

    Args:
        probabilities: rows of numbers in [0, 1] that sum to one.
        targets: labels from 0 to k - 1.

    Raises:
        ValueError: for no examples, rows that are no probabilities, labels out of range.

    Example:
        >>> sure = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]])  # right, wrong, right
        >>> round(confidence_gap(sure, torch.tensor([0, 1, 1])), 4)  # 2.5 / 3 - 2 / 3
        0.1667
    """
    values = _checked(probabilities, targets, 1)
    confidence, predicted = values.max(dim=1)
    return (confidence - (predicted == targets).double()).mean().item()


def _bins(values: Tensor, dtype: torch.dtype, bins: int) -> Tensor:
    """The bin of each value, the edges rounded once to the precision of the input as `calibration_error` has them."""
    edges = (torch.arange(1, bins, dtype=torch.float64) / bins).to(dtype).to(values)
    return torch.bucketize(values, edges)


def _checked(probabilities: Tensor, targets: Tensor, bins: int) -> Tensor:
    """The probabilities in float64."""
    if probabilities.ndim != 2 or targets.shape != probabilities.shape[:1]:
        raise ValueError(
            "probabilities must be (n, k) and targets (n,): "
            f"got {tuple(probabilities.shape)} and {tuple(targets.shape)}"
        )
    n, classes = probabilities.shape
    if n == 0:
        raise ValueError("probabilities must have at least one row: got none")
    if bins < 1:
        raise ValueError(f"bins must be at least 1: got {bins}")
    values = probabilities.detach().double()
    tolerance = 1e-3 if probabilities.dtype in (torch.float16, torch.bfloat16) else 1e-5
    if not (values.min() >= 0 and (values.sum(dim=1) - 1).abs().max() <= tolerance * classes):
        raise ValueError("probabilities must be rows of numbers in [0, 1] that sum to one")
    if targets.min() < 0 or targets.max() >= classes:
        raise ValueError(f"targets must lie in 0..{classes - 1}: got {targets.min().item()}..{targets.max().item()}")
    return values
