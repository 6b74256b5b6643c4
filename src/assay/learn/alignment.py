"""How near a learning rule's gradient is to backpropagation's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from assay.learn.blocks import running_statistics_kept

Loss = Callable[..., Tensor]
Rule = Callable[[nn.Module, Tensor, Tensor, Loss], Tensor]


def gradient_cosine(
    model: nn.Module, rule: Rule, inputs: Shaped[Tensor, "..."], targets: Shaped[Tensor, "..."], loss: Loss
) -> dict[str, float]:
    r"""$\cos\angle(\hat g, g) = \langle \hat g, g \rangle / (\|\hat g\| \|g\|)$ of each parameter, and of all together.

    $\hat g$ is what the rule leaves in `.grad`, $g$ what backpropagation would. Nothing is changed: gradients, running
    statistics, the random numbers to come (also of a `rule.generator`) and the state of a rule (if it has `state_dict`)
    are as before.

    Args:
        model: whose parameters are looked at; in the mode it is in.
        rule: rule(model, inputs, targets, loss); `backpropagation` gives 1 everywhere.
        inputs: one batch.
        targets: of the batch.
        loss: loss(outputs, targets) -> a scalar.

    Returns:
        Parameter name -> cosine, and under `""` that of all parameters as one vector; NaN where either gradient is 0 or
        missing.

    Example:
        >>> from torch.nn.functional import mse_loss
        >>> line = nn.Linear(1, 1)
        >>> def uphill(model, inputs, targets, loss):
        ...     value = loss(model(inputs), targets)
        ...     (-value).backward()
        ...     return value
        >>> found = gradient_cosine(line, uphill, torch.ones(1, 1), torch.tensor([[9.0]]), mse_loss)
        >>> {name: round(cosine, 6) for name, cosine in found.items()}
        {'weight': -1.0, 'bias': -1.0, '': -1.0}
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    before = {p: p.grad for _, p in named}
    owned = list(getattr(rule, "parameters", list)())
    before |= {p: p.grad for p in owned}
    saved = copy.deepcopy(rule.state_dict()) if hasattr(rule, "state_dict") else None
    generator = getattr(rule, "generator", None)
    drawn = generator.get_state() if isinstance(generator, torch.Generator) else None
    device = named[0][1].device if named else torch.device("cpu")
    with torch.random.fork_rng([device] if device.type == "cuda" else []), running_statistics_kept(model):
        try:
            found = []
            for how in (rule, backpropagation):
                for p in before:
                    p.grad = None
                with torch.enable_grad():
                    how(model, inputs, targets, loss)
                found.append({name: p.grad for name, p in named})
        finally:
            for p, grad in before.items():
                p.grad = grad
            if drawn is not None:
                generator.set_state(drawn)  # type: ignore[union-attr]
            if saved is not None:
                rule.load_state_dict(saved)  # type: ignore[attr-defined]
    return _cosines(*found)


def backpropagation(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """The rule that all others are compared with: `loss(model(inputs), targets).backward()`.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> value = backpropagation(line, torch.ones(1, 1), torch.zeros(1, 1), lambda y, t: (3 * y - t).sum())
        >>> line.weight.grad
        tensor([[3.]])
    """
    value = loss(model(inputs), targets)
    value.backward()
    return value


class Alignment:
    """A probe: `gradient_cosine` on one held-out batch, along a training run.

        probe = Alignment(rule, inputs, targets, cross_entropy)
        fit(model, data, optimizer, epochs=5, rule=rule, probes=[probe])
        probe.curve()           # of all parameters together, one number each time
        probe.curve("0.weight")

    Args:
        rule: the rule that trains (or any other).
        inputs: the batch.
        targets: of the batch.
        loss: loss(outputs, targets) -> a scalar.
        every: steps from one look to the next, at least 1; the first is after step `every`.

    Attributes:
        steps: after which step each look was.
        cosines: one dict of `gradient_cosine` a look.

    Raises:
        ValueError: for an `every` below 1.

    Example:
        >>> from torch.nn.functional import mse_loss
        >>> line, probe = nn.Linear(1, 1), Alignment(backpropagation, torch.ones(1, 1), torch.zeros(1, 1), mse_loss)
        >>> probe.on_step(line)
        >>> probe.steps, [round(cosine, 6) for cosine in probe.curve()]
        ([1], [1.0])
    """

    def __init__(
        self, rule: Rule, inputs: Shaped[Tensor, "..."], targets: Shaped[Tensor, "..."], loss: Loss, *, every: int = 1
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1: got {every}")
        self.rule, self.inputs, self.targets, self.loss, self.every = rule, inputs, targets, loss, every
        self.count = 0
        self.steps: list[int] = []
        self.cosines: list[dict[str, float]] = []

    def on_step(self, model: nn.Module) -> None:
        """Look, if it is time to."""
        self.count += 1
        if self.count % self.every == 0:
            self.look(model)

    def look(self, model: nn.Module) -> None:
        """Look now."""
        self.steps.append(self.count)
        self.cosines.append(gradient_cosine(model, self.rule, self.inputs, self.targets, self.loss))

    def curve(self, name: str = "") -> list[float]:
        """The cosines of one parameter, or of all together."""
        return [cosines[name] for cosines in self.cosines]


def _cosines(found: dict[str, Any], exact: dict[str, Any]) -> dict[str, float]:
    cosines = {}
    totals = [0.0, 0.0, 0.0]
    for name, g in exact.items():
        ghat = found[name]
        sums = [0.0 if a is None or b is None else _dot(a, b) for a, b in ((ghat, g), (ghat, ghat), (g, g))]
        totals = [total + each for total, each in zip(totals, sums, strict=True)]
        cosines[name] = _cosine(*sums)
    cosines[""] = _cosine(*totals)
    return cosines


def _dot(a: Tensor, b: Tensor) -> float:
    return (a.detach().double() * b.detach().double()).sum().item()


def _cosine(product: float, one: float, two: float) -> float:
    if not (one > 0 and two > 0):
        return math.nan
    return max(-1.0, min(1.0, product / math.sqrt(one) / math.sqrt(two)))
