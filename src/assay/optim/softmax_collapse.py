"""Gradients without their part along the weights (Prieto et al., 2025, arXiv:2501.04697)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.optim.wrapper import GradientWrapper


class OrthoGrad(GradientWrapper):
    r"""An optimizer that sees, of each tensor's gradient, only what is orthogonal to the tensor, at full length.

    $$g_\perp = g - \frac{\langle w, g \rangle}{\langle w, w \rangle} w, \qquad
    g \leftarrow \frac{\|g\|}{\|g_\perp\|} g_\perp$$

    To first order a step can then not scale a layer up. In a network whose outputs scale with its weights that is what
    gradients of an already fitted training set mostly do ("naive loss minimisation"): it lowers the loss and changes no
    prediction, until the softmax saturates in floating point.

        OrthoGrad(torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0))

    The wrapped optimizer's own weight decay, and whatever it makes of the gradients, may bring a part along the weights
    back. Where the weights are 0, or nothing is orthogonal to them (a tensor of one entry), the gradient is unchanged
    or 0.

    Args:
        optimizer: what is wrapped.

    Prieto, Barsbey, Mediano, Birdal, 2025 (arXiv:2501.04697), section 5 and the authors' `orthograd.py`: the paper's
    perpendicular gradient, rescaled as in its code.

    Differs from the paper: a remainder that is no more than rounding counts as 0; their code stretches it to the length
    of the gradient.

    Raises:
        TypeError: for sparse or complex gradients, or something that is not an optimizer.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
        >>> optimizer = OrthoGrad(torch.optim.SGD([weight], lr=1.0))
        >>> weight.grad = torch.tensor([-3.0, -4.0])
        >>> optimizer.step()
        >>> weight.tolist()  # as long as before, 5, and all of it across
        [1.0, 5.0]
    """

    def change(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """The parts across, as long as the gradients were."""
        changed: dict[int, Tensor] = {}
        together: dict[Any, list[int]] = {}
        for i, g in enumerate(gradients):
            together.setdefault((g.device, g.dtype), []).append(i)
        for rows in together.values():
            found = _across([parameters[i].detach() for i in rows], [gradients[i] for i in rows])
            changed |= zip(rows, found, strict=True)
        return [changed[i] for i in range(len(gradients))]


def _across(weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """For tensors of one kind; the numbers of all of them side by side, so that each step is one operation."""
    along = torch.stack([product.sum() for product in torch._foreach_mul(weights, gradients)])
    squares = torch.stack(torch._foreach_norm(weights)).square()
    shares = torch.where(squares > 0, along / squares, 0.0)
    across = torch._foreach_sub(gradients, torch._foreach_mul(weights, list(shares.unbind())))
    lengths, left = torch.stack(torch._foreach_norm(gradients)), torch.stack(torch._foreach_norm(across))
    roots = torch.tensor([max(8.0, g.numel() ** 0.5) for g in gradients]).to(left)
    rounding = torch.finfo(left.dtype).eps * roots
    scales = torch.where(left > rounding * lengths, lengths / left, 0.0)
    return list(torch._foreach_mul(across, list(scales.unbind())))
