"""How a loss of many examples becomes one number."""

from __future__ import annotations

from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")


def check_reduction(reduction: str) -> str:
    """`reduction`, if it is one.

    Raises:
        ValueError: for anything but "none", "mean" and "sum".
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}: got {reduction!r}")
    return reduction


def reduce(values: Tensor, reduction: str, weight: Tensor | None = None) -> Tensor:
    """The values, their sum, or their mean; a weighted mean divides by the sum of the weights, as torch's does.

    Args:
        values: the loss of each example, already multiplied by its weight; any shape.
        reduction: "none", "mean" or "sum".
        weight: of each example, of the shape of `values`; examples to be ignored have weight 0.

    Example:
        >>> import torch
        >>> weight = torch.tensor([1.0, 3.0])
        >>> reduce(weight * torch.tensor([2.0, 4.0]), "mean", weight)
        tensor(3.5000)
    """
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    return values.mean() if weight is None else values.sum() / weight.sum()
