"""M-FAC: gradient steps preconditioned by the inverse Fisher of the last m gradients (Frantar et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from assay.optim.inverse_fisher import DynamicInverseFisher, StaticInverseFisher
from assay.optim.wrapper import refuse_gradients


class MFAC(Optimizer):
    r"""$\theta \leftarrow \theta - \eta\, F^{-1} g$, F the damped empirical Fisher of the last m gradients.

    $F = \lambda I + \frac1m \sum_i g_i g_i^\top$ over all parameters of all groups together, g among the $g_i$, weight
    decay added to g before. With momentum $\mu$ the step is $v \leftarrow \mu v + (1 - \mu) F^{-1} g$. Directions that
    gradients rarely take are followed $1 / \lambda$ times as far as a gradient step would, so that good learning rates
    are those of Newton-like methods times $\lambda$ wherever that happens; with $\lambda \to \infty$ and
    $\eta / \lambda$ fixed it is gradient descent.

    Args:
        params: parameters or groups of them, each with its own `lr`, `momentum`, `weight_decay` and `maximize`.
        lr: $\eta$, 0 or more.
        momentum: $\mu$, in [0, 1).
        weight_decay: times the parameter, added to the gradient, 0 or more (the authors' runs: 3e-3).
        window: m, at least 1 (the authors': 512 to 1024); m copies of all parameters are kept.
        damp: $\lambda$, positive.
        maximize: climb instead of descend.

    Frantar, Kurtic, Alistarh, 2021 (arXiv:2107.03356), section 3.2 and the authors' `optim.py`.

    Raises:
        ValueError: for arguments out of range; gradients that are not finite (seen on a CPU only; nothing is changed).
        TypeError: for sparse or complex gradients.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = MFAC([weight], lr=0.1, window=1, damp=0.5)
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> optimizer.step()  # of one gradient: g / (1/2 + g.g)
        >>> (weight / -0.1 * 25.5).round(decimals=4).tolist()
        [3.0, 4.0]
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        window: int = 64,
        damp: float = 1e-5,
        maximize: bool = False,
    ) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1: got {window}")
        if not 0 < damp < math.inf:
            raise ValueError(f"damp must be positive and finite: got {damp}")
        self.window, self.damp = window, damp
        self.fisher: DynamicInverseFisher | None = None
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, maximize=maximize))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; the gradients in the window count as 0 for its parameters.

        Raises:
            ValueError: for settings out of range.
        """
        group = self.defaults | param_group
        for name in ("lr", "weight_decay"):
            if not 0 <= group[name] < math.inf:
                raise ValueError(f"{name} must be finite and 0 or more: got {group[name]}")
        if not 0 <= group["momentum"] < 1:
            raise ValueError(f"momentum must lie in [0, 1): got {group['momentum']}")
        super().add_param_group(param_group)
        if self.fisher is not None:
            grown = self._fresh()
            grown.grads[:, : self.fisher.grads.shape[1]] = self.fisher.grads
            grown.gram, grown.last = self.fisher.gram, self.fisher.last
            self.fisher = grown

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; with a closure, that of the gradients it leaves, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        refuse_gradients("MFAC", [p.grad for p, _ in moving])
        if not moving:
            return loss
        if self.fisher is None:
            self.fisher = self._fresh()
        flat = torch.zeros_like(self.fisher.grads[0])
        everything = self._parameters()
        sizes = [p.numel() for p in everything]
        places = dict(zip(everything, flat.split(sizes), strict=True))
        for p, group in moving:
            place = places[p].copy_(p.grad.flatten())
            if group["maximize"]:
                place.neg_()
            if group["weight_decay"]:
                place.add_(p.flatten().to(place), alpha=group["weight_decay"])
        steps = dict(zip(everything, self.fisher.update_mul(flat).split(sizes), strict=True))
        for p, group in moving:
            update = steps[p].view_as(p).to(p)
            if group["momentum"]:
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
                update = self.state[p]["velocity"].lerp_(update, 1 - group["momentum"])
            p.sub_(update, alpha=group["lr"])
        return loss

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _fresh(self) -> DynamicInverseFisher:
        parameters = self._parameters()
        dtype = torch.float32
        for p in parameters:
            if p.is_complex():
                raise TypeError(f"parameters must be real for MFAC: got {str(p.dtype).removeprefix('torch.')}")
            dtype = torch.promote_types(dtype, p.dtype)
        size = sum(p.numel() for p in parameters)
        return DynamicInverseFisher(size, self.window, damp=self.damp, dtype=dtype, device=parameters[0].device)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and the window of gradients once there is one."""
        saved = super().state_dict()
        return saved if self.fisher is None else saved | {"fisher": self.fisher.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            ValueError: when the window has another shape.
        """
        if "fisher" in state_dict:
            fisher = self._fresh()
            fisher.load_state_dict(state_dict["fisher"])
            self.fisher = fisher
        super().load_state_dict({name: part for name, part in state_dict.items() if name != "fisher"})

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"window": self.window, "damp": self.damp, "fisher": self.fisher}


def obs_prune(
    weights: Float[Tensor, " d"],
    inverse: StaticInverseFisher,
    sparsity: float,
    mask: Bool[Tensor, " _"] | None = None,
) -> tuple[Float[Tensor, " d"], Bool[Tensor, " d"]]:
    r"""Remove the weights that cost least, and let the others make up for it (optimal brain surgeon).

    The cost of $w_p$ is $\rho_p = w_p^2 / (2 [F^{-1}]_{pp})$. Those of least cost go, and the rest move by
    $-\sum_p \frac{w_p}{[F^{-1}]_{pp}} F^{-1} e_p$ over the removed p. For a large share, prune in several rounds with
    the Fisher matrix taken anew.

    Args:
        weights: $w$, all of them in one vector.
        inverse: $F^{-1}$ at these weights.
        sparsity: the share of all weights that shall be 0 afterwards, in [0, 1).
        mask: True where a weight is still there; None is everywhere. What is gone stays gone.

    Returns:
        (new weights, new mask).

    The paper: equation 3 and section 4.1 (arXiv:2107.03356).

    Differs from the paper: not at all; what several removals do to each other is left out there too.

    Raises:
        ValueError: for shapes that do not fit, a sparsity outside [0, 1) or below what is gone already, weights that
            are not finite.

    Example:
        >>> inverse = StaticInverseFisher(torch.tensor([[1.0, 1.0]]), damp=0.1)
        >>> pruned, kept = obs_prune(torch.tensor([1.0, 2.0]), inverse, 0.5)
        >>> [round(value, 3) for value in pruned.tolist()], kept.tolist()  # g . w = 3 is nearly kept
        ([0.0, 2.909], [False, True])
    """
    if weights.shape != (inverse.size,):
        raise ValueError(f"weights must be ({inverse.size},): got {tuple(weights.shape)}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1): got {sparsity}")
    if not weights.isfinite().all():
        raise ValueError("weights must be finite: got NaN or infinity")
    kept = torch.ones_like(weights, dtype=torch.bool) if mask is None else mask.clone()
    if kept.shape != weights.shape:
        raise ValueError(f"mask must be {tuple(weights.shape)}: got {tuple(kept.shape)}")
    gone = int((~kept).sum())
    more = round(sparsity * len(weights)) - gone
    if more < 0:
        raise ValueError(f"sparsity must not be below the {gone / len(weights):.4g} that is gone: got {sparsity}")
    diagonal = inverse.diag()
    cost = (weights.square() / (2 * diagonal)).masked_fill(~kept, math.inf)
    removed = cost.topk(more, largest=False).indices
    push = torch.zeros_like(weights)
    push[removed] = weights[removed] / diagonal[removed]
    kept[removed] = False
    return (weights - inverse.mul(push)) * kept, kept
