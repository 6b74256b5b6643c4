"""Noise added to gradients, less and less of it (Neelakantan et al., 2015, arXiv:1511.06807)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from assay.optim.wrapper import GradientWrapper


def annealed_std(t: int, *, eta: float, gamma: float = 0.55) -> float:
    r"""$\sigma_t = \sqrt{\eta / (1 + t)^\gamma}$: the variance, not the deviation, decays as $(1 + t)^{-\gamma}$.

    Args:
        t: steps made so far, 0 or more.
        eta: $\eta$, the variance at first, 0 or more.
        gamma: $\gamma$, 0 or more; 0 keeps the variance.

    The paper: equations 1 and 2.

    Raises:
        ValueError: for anything negative or not finite.

    Example:
        >>> annealed_std(0, eta=0.01), round(annealed_std(99, eta=0.01), 5)  # a tenth, over 100 ** 0.275
        (0.1, 0.02818)
    """
    _check(t=t, eta=eta, gamma=gamma)
    return math.sqrt(eta / (1 + t) ** gamma)


class GradientNoise(GradientWrapper):
    r"""An optimizer that sees $g_t + N(0, \sigma_t^2 I)$, $\sigma_t^2 = \eta / (1 + t)^\gamma$.

        GradientNoise(torch.optim.SGD(model.parameters(), lr=0.1), eta=0.01)

    Noise is drawn for every entry that has a gradient, be it 0, and after the gradients have been clipped; it is not
    scaled by the batch. With $\eta = 0$ the wrapped optimizer is left as it is, bit for bit.

    Args:
        optimizer: what is wrapped. The paper's is plain SGD; Adam divides the noise away again, momentum piles it up.
        eta: $\eta$, 0 or more; the paper chooses among 0.01, 0.3 and 1.0.
        gamma: $\gamma$, 0 or more; 0 keeps the noise as it is.
        clip_norm: length to which all gradients together are clipped before the noise comes, positive; None does not
            clip.
        generator: where the noise comes from, on the device of the parameters; its state is part of `state_dict`. None
            is torch's global generator.

    The paper: section 3, equations 1 and 2. $t$ counts steps from 0 (each call of the closure has noise of its own, of
    the step's size).

    Raises:
        ValueError: for `eta` or `gamma` that are negative or not finite, a `clip_norm` that is not positive.
        TypeError: for sparse or complex gradients, or something that is not an optimizer.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(100_000))
        >>> optimizer = GradientNoise(torch.optim.SGD([weight], lr=1.0), eta=0.3, generator=torch.Generator())
        >>> weight.grad = torch.ones(100_000)
        >>> optimizer.step()
        >>> round(weight.mean().item(), 1), round(weight.var().item(), 2), round(optimizer.std, 3)  # std of the next
        (-1.0, 0.3, 0.453)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        eta: float = 0.01,
        gamma: float = 0.55,
        clip_norm: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(optimizer)
        _check(eta=eta, gamma=gamma)
        if clip_norm is not None and not 0 < clip_norm < math.inf:
            raise ValueError(f"clip_norm must be positive and finite, or None: got {clip_norm}")
        self.eta, self.gamma, self.clip_norm, self.generator = eta, gamma, clip_norm, generator
        self.steps = 0

    @property
    def std(self) -> float:
        r"""$\sigma_t$ of the coming step."""
        return annealed_std(self.steps, eta=self.eta, gamma=self.gamma)

    def change(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """The gradients, clipped, with noise."""
        if self.clip_norm is not None:
            norm = get_total_norm(gradients)
            gradients = list(torch._foreach_mul(gradients, (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)))
        if self.eta == 0:
            return gradients
        noise = [torch.randn(g.shape, generator=self.generator, dtype=g.dtype, device=g.device) for g in gradients]
        return list(torch._foreach_add(gradients, noise, alpha=self.std))

    def step(self, closure: Any = None) -> Any:
        """One step of the wrapped optimizer with noise of this step's size."""
        loss = super().step(closure)
        self.steps += 1
        return loss

    def own_state(self) -> dict[str, Any]:
        """How many steps were made, and the state of the generator if there is one."""
        state: dict[str, Any] = {"steps": self.steps}
        return state if self.generator is None else state | {"generator": self.generator.get_state()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take back what `own_state` gave.

        Raises:
            ValueError: when it holds the state of a generator and there is none here.
        """
        self.steps = int(state["steps"])
        if "generator" in state:
            if self.generator is None:
                raise ValueError("generator must be given to load a state that was saved with one: got None")
            self.generator.set_state(state["generator"].cpu())


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and 0 or more: got {value}")
