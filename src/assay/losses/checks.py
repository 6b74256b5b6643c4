"""What a loss is given, checked where it enters."""

from __future__ import annotations

import torch
from torch import Tensor


def readable(tensor: Tensor) -> bool:
    """Whether a tensor's values can be looked at for free.

    On an accelerator a look would wait for it at every step, inside `torch.compile` it would break the graph, and under
    `torch.func.vmap` there is no one value: there shapes and types are checked and values are not.
    """
    if tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not torch._C._are_functorch_transforms_active()


def check_finite(**tensors: Tensor) -> None:
    """Refuse tensors with entries that are not finite, by their names.

    Raises:
        ValueError: naming the first such tensor.
    """
    for name, tensor in tensors.items():
        if not readable(tensor) or tensor.numel() == 0:
            continue
        # The extremes are not finite when any entry is not, and are found in one pass, which isfinite().all() is not.
        if not all(edge.isfinite() for edge in torch.aminmax(tensor.detach())):
            raise ValueError(f"{name} must be finite: got NaN or infinity")


def check_labels(
    logits: Tensor, targets: Tensor, *, ignore_index: int | None = None, dense: bool = True, name: str = "logits"
) -> None:
    """Refuse what no classification loss can work with.

    Args:
        logits: (n, k) or, if `dense`, (n, k, ...), one score a class, k at least 2.
        targets: (n) or (n, ...), whole numbers from 0 to k - 1, or `ignore_index`.
        ignore_index: a label that is allowed besides the classes.
        dense: whether there may be dimensions after the second.
        name: what the scores are called in messages.

    Raises:
        ValueError: for shapes that do not fit, fewer than 2 classes, no examples, labels out of range, logits that are
            not finite.
        TypeError: for targets that are not whole numbers, logits that are not real numbers.
    """
    if not logits.is_floating_point():
        raise TypeError(f"{name} must be real numbers: got {str(logits.dtype).removeprefix('torch.')}")
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"targets must be whole numbers: got {str(targets.dtype).removeprefix('torch.')}")
    right = logits.ndim >= 2 if dense else logits.ndim == 2
    if not right or targets.shape != logits.shape[:1] + logits.shape[2:]:
        tail = ", ..." if dense else ""
        raise ValueError(
            f"{name} must be (n, k{tail}) and targets (n{tail}): got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    if logits.shape[1] < 2:
        raise ValueError(f"{name} must have at least 2 classes: got {logits.shape[1]}")
    if targets.numel() == 0:
        raise ValueError("targets must have at least one example: got none")
    check_finite(**{name: logits})
    if readable(targets):
        wrong = (targets < 0) | (targets >= logits.shape[1])
        if ignore_index is not None:
            wrong &= targets != ignore_index
        if wrong.any():
            raise ValueError(f"targets must lie in 0..{logits.shape[1] - 1}: got {targets[wrong][0].item()}")
