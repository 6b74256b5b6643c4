"""Arithmetic modulo a number, all pairs of it: the data on which networks were seen to generalise late."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .split import Labelled

OPERATIONS = ("add", "subtract", "multiply")


def modular_arithmetic(
    p: int = 113, *, op: str = "add", train_fraction: float = 0.4, generator: torch.Generator | None = None
) -> tuple[Labelled, Labelled]:
    r"""All $p^2$ pairs (a, b) as two one-hot codes, labelled with $a \circ b \bmod p$, split at random.

    Args:
        p: the modulus, at least 2; a prime for "multiply" to be a group but for 0.
        op: "add", "subtract" or "multiply".
        train_fraction: share of the pairs to learn from, in (0, 1).
        generator: where the split comes from; None is torch's global generator.

    Returns:
        (to learn from, to judge by); inputs (n, 2p) of 0 and 1, targets (n,).

    Raises:
        ValueError: for arguments out of range, a fraction that leaves one part empty, an unknown operation.

    Example:
        >>> learn, judge = modular_arithmetic(5, op="subtract", train_fraction=0.6)
        >>> a, b = learn.inputs.unflatten(1, (2, 5)).argmax(2).T
        >>> learn.inputs.shape, len(judge.targets), bool((learn.targets == (a - b) % 5).all())
        (torch.Size([15, 10]), 10, True)
    """
    if p < 2:
        raise ValueError(f"p must be at least 2: got {p}")
    if op not in OPERATIONS:
        raise ValueError(f"op must be one of {', '.join(map(repr, OPERATIONS))}: got {op!r}")
    count = round(train_fraction * p * p) if 0 < train_fraction < 1 else 0
    if not 0 < count < p * p:
        raise ValueError(f"train_fraction must lie in (0, 1) and leave pairs on both sides: got {train_fraction}")
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    targets = {"add": a + b, "subtract": a - b, "multiply": a * b}[op] % p
    inputs = F.one_hot(torch.stack([a, b], 1), p).flatten(1).to(torch.get_default_dtype())
    order = torch.randperm(p * p, generator=generator)
    learn, judge = order[:count], order[count:]
    return Labelled(inputs[learn], targets[learn]), Labelled(inputs[judge], targets[judge])
