"""Learning rates from batch sizes and from spectra (Granziol, Zohren, Roberts, 2020, arXiv:2006.09092)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from assay.curvature import Hessian, lanczos

RULES = ("linear", "sqrt")
NEGLIGIBLE = 1e-3
"""Share of the largest Ritz value below which one is not taken for the smallest curvature."""


def scale_learning_rate(
    lr: float, batch: int, new_batch: int, *, rule: str = "linear", saturation: float | None = None
) -> float:
    r"""The learning rate for another batch size: $\eta\, B' / B$ for SGD, $\eta \sqrt{B' / B}$ for adaptive methods.

    The largest eigenvalue of a small batch's Hessian is mostly sampling noise and shrinks like $1/B$; from the size on
    where it no longer does, a larger rate is not stable, which `saturation` says.

    Args:
        lr: $\eta$ at `batch`, 0 or more.
        batch: $B$, at least 1.
        new_batch: $B'$, at least 1.
        rule: "linear" or "sqrt".
        saturation: largest rate that is given, positive; None does not limit it.

    The paper: section 5.

    Raises:
        ValueError: for arguments out of range, an unknown rule.

    Example:
        >>> scale_learning_rate(0.1, 128, 512), scale_learning_rate(0.001, 128, 512, rule="sqrt")
        (0.4, 0.002)
        >>> scale_learning_rate(0.1, 128, 4096, saturation=1.0)
        1.0
    """
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr must be finite and 0 or more: got {lr}")
    for name, value in (("batch", batch), ("new_batch", new_batch)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1: got {value}")
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(map(repr, RULES))}: got {rule!r}")
    if saturation is not None and not saturation > 0:
        raise ValueError(f"saturation must be positive, or None: got {saturation}")
    scaled = lr * (new_batch / batch if rule == "linear" else math.sqrt(new_batch / batch))
    return scaled if saturation is None else min(scaled, saturation)


class Rate(NamedTuple):
    """A learning rate and the momentum that goes with it."""

    lr: float
    momentum: float


def polyak_rate(largest: float, smallest: float) -> Rate:
    r"""$\eta = 4 / (\sqrt L + \sqrt l)^2$ and $\mu = (\sqrt L - \sqrt l)^2 / (\sqrt L + \sqrt l)^2$.

    The best pair for the heavy ball on a quadratic whose curvatures lie between l and L: the error shrinks by
    $\sqrt\mu$ a step.

    Args:
        largest: $L$, positive.
        smallest: $l$, positive, at most $L$.

    Polyak, 1964; the paper's on-the-fly learner uses it.

    Raises:
        ValueError: for anything out of range.

    Example:
        >>> polyak_rate(9.0, 1.0)
        Rate(lr=0.25, momentum=0.25)
    """
    if not 0 < smallest <= largest < math.inf:
        raise ValueError(f"smallest and largest must be positive and in this order: got {smallest} and {largest}")
    high, low = math.sqrt(largest), math.sqrt(smallest)
    return Rate((2 / (high + low)) ** 2, ((high - low) / (high + low)) ** 2)


def lanczos_rate(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    steps: int = 10,
    generator: torch.Generator | None = None,
) -> Rate:
    r"""`polyak_rate` of a batch's Hessian, read off a few Lanczos steps: `steps` products, each about two gradients.

    $L$ is the largest Ritz value and $l$ the smallest one above $10^{-3} L$, which of a few steps stands for the bulk.

    Args:
        model: used in evaluation mode.
        loss: loss(outputs, targets) -> the mean over the batch.
        inputs: a batch.
        targets: its targets.
        steps: at least 1.
        generator: where the start vector comes from.

    The paper: section 6, the on-the-fly learner.

    Differs from the paper, which does not say which Ritz values enter: as above.

    Raises:
        ValueError: for a Hessian without positive curvature along the steps, arguments out of range.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> rate = lanczos_rate(line, nn.functional.mse_loss, x, torch.zeros(2, 1))  # curvatures 4 and 1
        >>> [round(value, 4) for value in rate]  # (2 / 3)^2, (1 / 3)^2
        [0.4444, 0.1111]
    """
    operator = Hessian(model, loss, inputs, targets)
    found = lanczos(
        operator.matvec, operator.size, steps, generator=generator, dtype=inputs.dtype, device=inputs.device
    )
    values = found.ritz()[0]
    largest = values[-1].item()
    if not largest > 0:
        raise ValueError(f"the Hessian must have positive curvature: its largest Ritz value is {largest}")
    return polyak_rate(largest, values[values > NEGLIGIBLE * largest][0].item())


class LanczosLearningRate:
    """A scheduler that reads learning rate and momentum of all groups off a batch's Hessian, at once and as it steps.

        fit(model, data, SGD(..., lr=0.1, momentum=0.9), schedule=lambda o: LanczosLearningRate(o, model, loss, x, y))

    Args:
        optimizer: whose groups have `lr` and, if momentum is to be set, `momentum`.
        model: as for `lanczos_rate`.
        loss: as for `lanczos_rate`.
        inputs: the batch, always the same.
        targets: its targets.
        steps: Lanczos steps at each reading, at least 1.
        every: calls of `step` from one reading to the next, at least 1.
        scale: times the learning rate that was read, positive: below 1 keeps a distance from the edge of stability.
        generator: where start vectors come from.

    Attributes:
        rate: what was read last.
        products: Hessian-vector products so far.

    The paper: section 6.

    Raises:
        ValueError: for arguments out of range; when read, as `lanczos_rate`.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> optimizer = torch.optim.SGD(line.parameters(), lr=1.0, momentum=0.9)
        >>> _ = LanczosLearningRate(optimizer, line, nn.functional.mse_loss, x, torch.zeros(2, 1))
        >>> round(optimizer.param_groups[0]["lr"], 4), round(optimizer.param_groups[0]["momentum"], 4)
        (0.4444, 0.1111)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        *,
        steps: int = 10,
        every: int = 1,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, value in (("steps", steps), ("every", every)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite: got {scale}")
        self.optimizer, self.model, self.loss, self.batch = optimizer, model, loss, (inputs, targets)
        self.steps, self.every, self.scale, self.generator = steps, every, scale, generator
        self.calls, self.products = 0, 0
        self._read()

    def step(self) -> None:
        """Read again, if it is time to."""
        self.calls += 1
        if self.calls % self.every == 0:
            self._read()

    def _read(self) -> None:
        self.rate = lanczos_rate(self.model, self.loss, *self.batch, steps=self.steps, generator=self.generator)
        self.products += self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.scale * self.rate.lr
            if "momentum" in group:
                group["momentum"] = self.rate.momentum

    def state_dict(self) -> dict[str, Any]:
        """The numbers of calls and products."""
        return {"calls": self.calls, "products": self.products}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.calls, self.products = int(state["calls"]), int(state["products"])
