"""Sharpness-aware minimization, as it makes vision transformers train (Chen et al., 2021, arXiv:2106.01548)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import LBFGS, Optimizer

from assay.optim.perturbed import perturbed
from assay.optim.wrapper import Closure, Wrapper, refuse_gradients


class SAM(Wrapper):
    r"""An optimizer that steps with the gradient of where, nearby, the loss is worst.

    $$\epsilon = \rho \frac{g}{\|g\|}, \quad g = \nabla L(\theta); \qquad
      \theta \leftarrow \text{step of the wrapped optimizer with } \nabla L(\theta + \epsilon)$$

    Both gradients are of the same batch; $\|g\|$ is over all parameters. Adaptive (ASAM): $\epsilon = \rho\,
    \theta^2 g / \| |\theta|\, g \|$, which does not change when layers are rescaled against each other.

        optimizer = SAM(torch.optim.AdamW(model.parameters()), rho=0.1)
        optimizer.step(closure)      # the closure clears gradients, computes the loss, calls backward

    A step costs two gradients. Both see the same random numbers (dropout). The wrapped optimizer's weight decay acts at
    $\theta$. `assay.train.fit` updates running statistics of batch normalization in the first pass only; another loop
    has to see to it. A gradient of 0 moves nothing, and $\rho = 0$ is the wrapped optimizer, bit for bit.

    Args:
        optimizer: what is wrapped; it must step without a closure and need no graph.
        rho: $\rho$, 0 or more. The paper's: 0.1 to 0.6, 0.2 for ViT-B/16 on ImageNet with perturbations by device.
        adaptive: whether to scale by the weights (Kwon et al., 2021, arXiv:2102.11600, equation 8).

    The paper: equation 2, of Foret et al., 2020 (arXiv:2010.01412, Algorithm 1).

    Differs from the paper: one perturbation for the batch. The paper's are by device ("m-sharpness").

    Raises:
        ValueError: for a `rho` that is negative or not finite, an optimizer that needs a closure or a graph itself.
        TypeError: for a step without a closure, sparse or complex gradients, something that is not an optimizer.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = SAM(torch.optim.SGD([x], lr=0.1), rho=0.5)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (x**2).sum() / 2
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)  # the gradient at (3.3, 4.4)
        >>> loss.item(), [round(value, 4) for value in x.tolist()]
        (12.5, [2.67, 3.56])
    """

    def __init__(self, optimizer: Optimizer, *, rho: float = 0.05, adaptive: bool = False) -> None:
        super().__init__(optimizer)
        if not 0 <= rho < math.inf:
            raise ValueError(f"rho must be finite and 0 or more: got {rho}")
        if self.needs_graph or isinstance(optimizer, LBFGS | SAM):
            raise ValueError(f"optimizer must step without a closure or a graph: got {type(optimizer).__name__}")
        self.rho, self.adaptive = rho, adaptive

    def step(self, closure: Closure | None = None) -> Any:
        """One step; the loss at the weights it starts from is returned."""
        if closure is None:
            raise TypeError("closure must be given for SAM, which needs the gradient twice: got None")
        devices = {p.device for p in self.parameters if p.device.type != "cpu"}
        before = _random_state(devices)
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            moved, offsets = self._offsets()
        with perturbed(moved, offsets):
            _set_random_state(before)
            with torch.enable_grad():
                closure()
        self.optimizer.step()
        return loss

    def _offsets(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters with a gradient, and where they are moved; downhill where a group climbs."""
        signs = {p: -1.0 if group.get("maximize") else 1.0 for group in self.param_groups for p in group["params"]}
        found = [p for p in self.parameters if p.grad is not None]
        if not found:
            return [], []
        gradients: Sequence[Tensor] = [p.grad for p in found]
        refuse_gradients("SAM", list(gradients))
        if self.adaptive:
            scaled = torch._foreach_mul(torch._foreach_abs(found), gradients)
            norm = get_total_norm(scaled)
            gradients = torch._foreach_mul(scaled, torch._foreach_abs(found))
        else:
            norm = get_total_norm(gradients)
        scale = self.rho / (norm + 1e-12)
        offsets = [signs[p] * scale.to(p) * g for p, g in zip(found, gradients, strict=True)]
        return found, offsets


def _random_state(devices: set[torch.device]) -> dict[torch.device | None, Tensor]:
    states: dict[torch.device | None, Tensor] = {None: torch.get_rng_state()}
    return states | {d: torch.get_device_module(d).get_rng_state(d) for d in devices}


def _set_random_state(states: dict[torch.device | None, Tensor]) -> None:
    for device, state in states.items():
        if device is None:
            torch.set_rng_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state, device)
