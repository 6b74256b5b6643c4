"""The gradient of each example by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from assay.curvature.hessian import evaluating


def per_sample_gradients(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    chunk: int | None = None,
) -> Float[Tensor, "n size"]:
    """The gradient of the loss at each example, in rows; their mean is the gradient of the mean loss.

    The model is used in evaluation mode, in which examples do not see each other, and left as it was.

    Args:
        model: maps inputs to what `loss` takes first.
        loss: loss(outputs, targets) -> a scalar for a batch, here always of one.
        inputs: (n, ...).
        targets: (n, ...).
        chunk: examples at a time; None takes all at once. The result itself takes `n * size` numbers.

    Returns:
        Rows in the order of the examples; columns in the order of those of `model.parameters()` that want a gradient.

    Raises:
        ValueError: for no examples, as many targets as not, a chunk below 1, or no weight that wants a gradient.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.ones_(line.weight)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> per_sample_gradients(line, nn.functional.mse_loss, x, torch.zeros(2, 1))  # 2 (w.x) x
        tensor([[ 6., 12.],
                [18.,  0.]])
    """
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise ValueError(f"inputs and targets must be as many, at least 1: got {len(inputs)} and {len(targets)}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1: got {chunk}")
    wanted = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not wanted:
        raise ValueError("model must have weights that want a gradient: got none")

    def one(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(model, parameters, (x[None],)), y[None])

    with evaluating(model):
        each = vmap(grad(one), (None, 0, 0), chunk_size=chunk)(wanted, inputs, targets)
    return torch.cat([each[name].flatten(1) for name in wanted], dim=1)
