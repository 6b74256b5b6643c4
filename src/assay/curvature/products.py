"""Products of a Hessian with vectors, from gradients that carry their graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def hvp(
    grads: Sequence[Tensor | None],
    params: Sequence[Tensor],
    vectors: Sequence[Tensor],
    *,
    retain_graph: bool = True,
) -> list[Tensor]:
    r"""The product of the Hessian with a vector, by one more backward pass over all parameters together.

    $(Hv)_j = \partial \langle g, v\rangle / \partial\theta_j$, with $g = \nabla L(\theta)$ (Pearlmutter, 1994)

    Args:
        grads: gradients with their graph, as `torch.autograd.grad(loss, params, create_graph=True)` gives them; None or
            a gradient that depends on nothing counts as constant.
        params: the parameters, in the order of `grads`.
        vectors: what the Hessian is multiplied with, shaped like the parameters.
        retain_graph: False frees the graph: this was the last product.

    Returns:
        Tensors shaped like the parameters, without a graph.

    Raises:
        ValueError: for lists of different lengths or shapes, or gradients of which none has a graph.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> loss = x[0] ** 2 * x[1]  # Hessian [[2 x1, 2 x0], [2 x0, 0]]
        >>> grads = torch.autograd.grad(loss, [x], create_graph=True)
        >>> hvp(grads, [x], [torch.tensor([1.0, 10.0])])
        [tensor([24.,  2.])]
    """
    if not len(grads) == len(params) == len(vectors):
        raise ValueError(
            f"grads, params and vectors must be as many: got {len(grads)}, {len(params)} and {len(vectors)}"
        )
    for index, (p, v) in enumerate(zip(params, vectors, strict=True)):
        if p.shape != v.shape:
            raise ValueError(
                f"vectors must be shaped like params: got {tuple(v.shape)} for {tuple(p.shape)} at {index}"
            )
    curved = [(g, v) for g, v in zip(grads, vectors, strict=True) if g is not None and g.requires_grad]
    if not curved:
        raise ValueError("grads must carry their graph: make them with create_graph=True")
    products = torch.autograd.grad(
        [g for g, _ in curved],
        list(params),
        [v.to(g) for g, v in curved],
        retain_graph=retain_graph,
        allow_unused=True,
    )
    return [torch.zeros_like(p) if h is None else h for p, h in zip(params, products, strict=True)]
