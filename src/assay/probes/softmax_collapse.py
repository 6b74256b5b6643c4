"""What to watch where a network trains on after it has fitted (Prieto et al., 2025, arXiv:2501.04697)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def softmax_collapse(
    logits: Float[Tensor, "n k"], targets: Int[Tensor, " m"] | None = None, *, dtype: torch.dtype = torch.float32
) -> float:
    r"""The share of examples whose softmax is absorbed: $\sum_k e^{x_k - \max x}$ rounds to exactly 1.

    Their cross-entropy is exactly 0 if the top class is the right one, and with it the gradient. In float32 that is
    certain where the gap to each of the other $k - 1$ classes is above $24 \log 2 + \log(k - 1)$, and impossible
    below $24 \log 2 = 16.6$.

    Args:
        logits: (n, k), of any floating type.
        targets: right classes; if given, only examples whose top class is theirs can count.
        dtype: in which the softmax is taken.

    Returns:
        A share in [0, 1].

    The paper: definition 1 (Softmax Collapse).

    Raises:
        ValueError: for no examples, fewer than 2 classes, targets of another length, logits that are not finite.

    Example:
        >>> logits = torch.tensor([[16.0, 0.0], [17.5, 0.0]])
        >>> softmax_collapse(logits), softmax_collapse(logits, dtype=torch.float64)
        (0.5, 0.0)
    """
    if logits.ndim != 2 or len(logits) == 0 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (n, k), n at least 1 and k at least 2: got {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError("logits must be finite: got NaN or infinity")
    if targets is not None and targets.shape != logits.shape[:1]:
        raise ValueError(f"targets must be ({len(logits)},): got {tuple(targets.shape)}")
    shifted = (logits.detach() - logits.detach().amax(1, keepdim=True)).to(dtype)
    absorbed = shifted.exp().sum(1, dtype=dtype) == 1
    if targets is not None:
        absorbed &= logits.argmax(1) == targets
    return absorbed.double().mean().item()


def nlm_alignment(model: nn.Module, loss: Float[Tensor, "..."]) -> float:
    r"""$\cos(-\nabla_\theta L, \theta)$ over all parameters: how much of a descent step only scales the weights.

    Along $\theta$ a network that is positively homogeneous (ReLU, no biases) keeps all predictions and scales its
    logits: "naive loss minimisation".

    Args:
        model: its parameters that require gradients are $\theta$; those without influence on the loss count as 0.
        loss: $L$, a scalar with its graph, which is kept.

    Returns:
        A cosine; 0 where the gradient or the weights are 0.

    The paper: section 4 and its figure of the cosine with the naive direction.

    Raises:
        ValueError: for a loss without a graph, or not one number; a model without trainable parameters.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> model.weight.data = torch.tensor([[3.0, 4.0]])
        >>> round(nlm_alignment(model, -model(torch.tensor([1.0, 0.0])).sum()), 6)  # (1, 0) and (3, 4)
        0.6
    """
    if loss.numel() != 1 or not loss.requires_grad:
        raise ValueError(f"loss must be one number with its graph: got shape {tuple(loss.shape)}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model must have parameters that require gradients: got none")
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    pairs = [(p.detach().double(), g.double()) for p, g in zip(parameters, found, strict=True) if g is not None]
    inner = sum((p * g).sum().item() for p, g in pairs)
    weights = sum(p.detach().double().square().sum().item() for p in parameters) ** 0.5
    gradient = sum(g.square().sum().item() for _, g in pairs) ** 0.5
    return -inner / (weights * gradient) if weights * gradient > 0 else 0.0
