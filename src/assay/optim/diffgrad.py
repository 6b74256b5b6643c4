"""diffGrad: Adam with a step that shrinks where the gradient stands still (Dubey et al., 2019, arXiv:1909.11015)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from assay.optim.wrapper import refuse_gradients


class DiffGrad(Optimizer):
    r"""Adam whose step is multiplied, entry by entry, by a sigmoid of how much the gradient has just changed.

    $$\xi_t = \frac{1}{1 + e^{-|g_{t-1} - g_t|}}, \qquad
    \theta_t = \theta_{t-1} - \mathrm{lr}\, \frac{\xi_t\, \hat m_t}{\sqrt{\hat v_t} + \epsilon},$$

    with $g_0 = 0$ and Adam's bias-corrected averages $\hat m_t$, $\hat v_t$ of $g$ and $g^2$. The friction coefficient
    $\xi$ is between 1/2, where the gradient stays what it was, and 1, where it jumps: a step is never longer than
    Adam's and never shorter than half of it. $\xi$ depends on the scale of the loss: with gradients far below 1
    everywhere, the method is Adam at half the learning rate.

    Args:
        params: parameters or groups of them, real or complex (then the real and the imaginary part count as two
            entries, as in `torch.optim.Adam`).
        lr: learning rate, at least 0.
        betas: decay rates of the averages of gradients and of their squares, each in [0, 1).
        eps: added to the root of the second average, at least 0; with 0, as in Adam, an entry whose gradient has never
            been anything but 0 becomes 0/0.
        weight_decay: times the parameter, added to the gradient, at least 0.
        maximize: climb instead of descend.
        foreach: True or None treats all tensors of a kind together; False one after the other, which is slower on an
            accelerator and needs less memory while it works.
        keep_friction: keep the coefficients of the last step, for `friction`; one more tensor a parameter.

    The paper: section III-B, equations 10 to 14. Its first code kept a reference to the gradient, not a copy;
    where gradients are cleared in place both are then the same tensor, and $\xi$ is 1/2 throughout. A corrected
    `diffGrad_v2.py` followed. Here the gradient is copied.

    Differs from the paper: not at all; from the official code in one point: $\epsilon$ is added to the bias-corrected
    root, as the paper has it, where the code adds it before the correction. Both agree for $\epsilon = 0$.

    Gradients are not looked at for values that are not finite, which would make the processor wait for an accelerator;
    a gradient scaler in front does so.

    Raises:
        ValueError: for a number out of its range, of the constructor or of a group.
        TypeError: for a number that is none, or a sparse gradient.

    Example:
        A gradient that stays the same is followed at half of Adam's pace from the second step on.

        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = DiffGrad([weight], lr=0.5, keep_friction=True)
        >>> for gradient in ([3.0, -3.0], [3.0, -3.0], [3.0, 50.0]):
        ...     weight.grad = torch.tensor(gradient)
        ...     optimizer.step()
        ...     print(optimizer.friction[0].numpy().round(3), weight.detach().numpy().round(3))
        [0.953 0.953] [-0.476  0.476]
        [0.5 0.5] [-0.726  0.726]
        [0.5 1. ] [-0.976  0.441]
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        keep_friction: bool = False,
    ) -> None:
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
            foreach=foreach,
            keep_friction=keep_friction,
        )
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what it does not say is as the constructor was told."""
        _check(self.defaults | param_group)
        super().add_param_group(param_group)

    @property
    def friction(self) -> list[Tensor]:
        r"""$\xi$ of the last step of every parameter that has made one, between 1/2 and 1, in the order of the groups.

        Raises:
            ValueError: when `keep_friction` is False.

        Example:
            >>> weight = torch.nn.Parameter(torch.zeros(1))
            >>> optimizer = DiffGrad([weight], keep_friction=True)
            >>> weight.grad = torch.log(torch.tensor([4.0]))
            >>> optimizer.step()
            >>> optimizer.friction
            [tensor([0.8000])]
        """
        if not all(group["keep_friction"] for group in self.param_groups):
            raise ValueError("keep_friction must be True for the friction to be there: got False")
        moved = [p for group in self.param_groups for p in group["params"] if p in self.state]
        return [self.state[p]["friction"] for p in moved]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; with a closure, that of the gradients it leaves, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            together: dict[Any, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    kind = p if group["foreach"] is False else (p.device, p.dtype)
                    together.setdefault(kind, []).append(p)
            for parameters in together.values():
                self._step(group, parameters)
        return loss

    def _step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients = [p.grad for p in parameters]
        refuse_gradients("DiffGrad", gradients, complex_too=False)
        states = [self._state(p, group) for p in parameters]
        for state in states:
            state["step"] += 1
        names = ("exp_avg", "exp_avg_sq", "previous_grad")
        tensors = [parameters, gradients, *([state[name] for state in states] for name in names)]
        if parameters[0].is_complex():
            tensors = [[torch.view_as_real(t) for t in each] for each in tensors]
        parameters, gradients, means, squares, previous = tensors
        if group["maximize"]:
            gradients = torch._foreach_neg(gradients)
        if group["weight_decay"]:
            gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)

        torch._foreach_sub_(previous, gradients)
        torch._foreach_abs_(previous)
        torch._foreach_sigmoid_(previous)
        if group["keep_friction"]:
            for state, friction in zip(states, previous, strict=True):
                state["friction"] = friction.clone()
        torch._foreach_mul_(previous, means)

        # m / (sqrt(v) / root + eps) = root * m / (sqrt(v) + root * eps), which is one reading and writing less.
        roots = [math.sqrt(1 - beta2 ** state["step"]) for state in states]
        rates = [-group["lr"] * r / (1 - beta1 ** state["step"]) for r, state in zip(roots, states, strict=True)]
        below = torch._foreach_sqrt(squares)
        torch._foreach_add_(below, [root * group["eps"] for root in roots])
        torch._foreach_addcdiv_(parameters, previous, below, rates)
        torch._foreach_copy_(previous, gradients)

    def _state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = self.state[p]
        if not state:
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq", "previous_grad"):
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state


def _check(group: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        value = group[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number: got {type(value).__name__}")
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite: got {value}")
    betas = tuple(group["betas"])
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1): got {betas}")
