"""The Hessian of a small network, entry by entry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.curvature.hessian import Hessian

LARGEST = 20_000


def hessian_matrix(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    kind: str = "hessian",
    batch_size: int | None = None,
    chunk: int = 64,
    force: bool = False,
) -> Float[Tensor, "size size"]:
    """All of `Hessian(...)`: its products with the columns of the identity, many at a time.

    Args:
        model: as for `Hessian`; used in evaluation mode and left as it was.
        loss: loss(outputs, targets) -> a scalar, the mean over the examples.
        inputs: (n, ...).
        targets: (n, ...).
        kind: "hessian" or "gauss_newton".
        batch_size: examples a part; None keeps the graph of all.
        chunk: products at a time; each holds a second backward pass.
        force: also for more than 20,000 weights, whose matrix takes 1.6 GB in single precision and more.

    Returns:
        In the type of the weights; symmetric, rounding included.

    Raises:
        ValueError: as `Hessian` says; for a chunk below 1, too many weights, an entry that is not finite.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> hessian_matrix(line, nn.functional.mse_loss, x, torch.zeros(2, 1))  # 2/n X^T X
        tensor([[10.,  2.],
                [ 2.,  4.]])
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1: got {chunk}")
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if size > LARGEST and not force:
        raise ValueError(f"model must have at most {LARGEST:,} weights, or force=True be given: got {size:,}")
    operator = Hessian(model, loss, inputs, targets, kind=kind, batch_size=batch_size)
    like = operator.parameters[0]
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    matrix = torch.func.vmap(operator.matvec, chunk_size=chunk)(identity)
    if not matrix.isfinite().all():
        raise ValueError("loss must have finite second derivatives: got NaN or infinity")
    return (matrix + matrix.T) / 2
