"""One small training loop, on which optimizers, learning rules and probes meet.

optimizer   a torch.optim.Optimizer; `fit` always calls optimizer.step(closure). An optimizer that sets
            `needs_graph = True` finds gradients that can themselves be differentiated.
rule        rule(model, inputs, targets, loss) -> loss; it fills .grad. Without one, backpropagation does.
probe       anything called with the model after each step (`on_step`) or epoch (`on_epoch`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import ReduceLROnPlateau

from . import metrics
from .data import Labelled, batches

Loss = Callable[..., Tensor]
Rule = Callable[[nn.Module, Tensor, Tensor, Loss], Tensor]
Callback = Callable[[nn.Module], Any]


class Diverged(FloatingPointError):
    """The loss, a weight or a prediction is not finite. The message says in which epoch and step."""


@dataclass(frozen=True)
class History:
    """What a training run left behind.

    Args:
        loss: mean training loss of each epoch, as it was met on the way (each batch before its step).
        seconds: wall time of the training itself; callbacks are not counted.
        steps: optimizer steps taken.
    """

    loss: Float[np.ndarray, " epochs"]
    seconds: float
    steps: int


def fit(
    model: nn.Module,
    data: Labelled,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    loss: Loss = F.cross_entropy,
    rule: Rule | None = None,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
    seed: int = 0,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    on_step: Callback | Iterable[Any] = (),
    on_epoch: Callback | Iterable[Any] = (),
    probes: Sequence[Any] = (),
    channels_last: bool = False,
    bf16: bool = False,
) -> History:
    """Train `model` in place.

    Each epoch draws a new order of the examples; each batch is one `optimizer.step(closure)`. The closure clears the
    gradients, computes the loss and its gradients, and may be called several times a step (line search, sharpness-aware
    steps); running statistics of batch normalization are updated by its first call only. The loss that is recorded is
    that of the first call, at the weights the step starts from.

    The model is put into training mode for the run and given back with each of its modules in the mode it was in.
    Examples are moved to the model's device. Each epoch starts in training mode, so a callback after an epoch may
    leave the model in evaluation mode; one after a step must restore the mode, as `accuracy` does.

    Args:
        model: what is trained; it maps inputs to what `loss` takes first.
        data: training examples; any `Labelled`, also with real-valued targets.
        optimizer: over (some of) the model's parameters. It must call the closure that its `step` is given.
        epochs: passes over the data, at least 1.
        loss: loss(outputs, targets) -> a scalar, the mean over the batch.
        rule: learning rule that replaces backpropagation: rule(model, inputs, targets, loss) -> loss, after which every
            parameter's .grad is filled as the rule likes. It starts from cleared gradients.
        batch_size: examples a step, at least 1; the last batch of an epoch holds what is left.
        generator: where the order comes from.
        seed: makes the generator when none is given. Two runs with equal seeds see the same batches, whatever random
            numbers their optimizers, rules or dropout layers draw (those use torch's global generator).
        schedule: schedule(optimizer) -> a torch learning-rate scheduler, stepped after every epoch (one that watches a
            measure is given the epoch's mean loss).
        on_step: called with the model after each step; one callable or several.
        on_epoch: called with the model after each epoch, never before the first step; one callable or several.
        probes: objects with a method `on_step(model)`, `on_epoch(model)` or both.
        channels_last: run convolutions with channels last in memory (1.3 to 1.8 times as fast on a CPU); the weights
            are given back with channels second.
        bf16: run the forward pass (with a rule, all of the rule) in bfloat16 where torch's autocast finds it safe;
            weights stay as they are. Only processors with bfloat16 instructions gain: others are ten times slower.

    Raises:
        Diverged: when the loss is not finite (found at once on a CPU, at the end of the epoch elsewhere), or a weight
            is not at the end of an epoch.
        ValueError: for no examples, counts below 1, a rule for an optimizer that needs a graph.
        TypeError: for a callback that cannot be called, a probe without a method, an optimizer that skips its closure.

    Example:
        >>> from assay import data, nn
        >>> _ = torch.manual_seed(0)
        >>> split = data.load("digits")
        >>> network = nn.mlp(split.shape, widths=(32,))
        >>> history = fit(network, split.train, torch.optim.Adam(network.parameters(), lr=1e-2), epochs=5)
        >>> history.steps, bool(history.loss[-1] < 0.3 < 1.0 < history.loss[0])
        (60, True)
        >>> accuracy(network, split.test) > 0.85
        True
    """
    step_calls, epoch_calls = _callbacks(on_step, on_epoch, probes)
    needs_graph = bool(getattr(optimizer, "needs_graph", False))
    _check(data, epochs, batch_size, rule, needs_graph, optimizer)
    device = _device(model)
    data = Labelled(data.inputs.to(device), data.targets.to(device))
    if generator is None:
        generator = torch.Generator().manual_seed(seed)
    step = _Step(model, optimizer, loss, rule, needs_graph, bf16, device)
    scheduler = None if schedule is None else schedule(optimizer)

    curve: list[float] = []
    clock = _Clock()
    with _mode(model, training=True), _layout(model, channels_last):
        for epoch in range(epochs):
            model.train()
            losses: list[Tensor] = []
            sizes: list[int] = []
            with clock:
                for inputs, targets in batches(data, batch_size, generator=generator):
                    if channels_last and inputs.ndim == 4:
                        inputs = inputs.contiguous(memory_format=torch.channels_last)
                    losses.append(step(inputs, targets))
                    sizes.append(len(targets))
                    if device.type == "cpu" and not math.isfinite(losses[-1].item()):
                        break
                    if step_calls:
                        with clock.paused():
                            for call in step_calls:
                                call(model)
                curve.append(_epoch_loss(losses, sizes, epoch))
                _check_weights(model, epoch, len(losses))
                if isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step(curve[-1])
                elif scheduler is not None:
                    scheduler.step()
            for call in epoch_calls:
                call(model)
    return History(np.array(curve), clock.seconds, epochs * len(losses))


def accuracy(model: nn.Module, data: Labelled, *, batch_size: int = 1000) -> float:
    """The share of examples that `model` classifies rightly, in evaluation mode, in [0, 1].

    Every module is given back in the mode it was in.

    Args:
        model: maps inputs to logits (n, k).
        data: examples with integer labels.
        batch_size: examples a forward pass, at least 1.

    Raises:
        Diverged: when a logit is not finite.
        ValueError: for no examples or a batch size below 1.

    Example:
        >>> zeros = Labelled(torch.eye(4), torch.tensor([0, 1, 2, 2]))
        >>> accuracy(torch.nn.Identity(), zeros)
        0.75
    """
    device = _device(model)
    rows = [logits for logits, _ in _outputs(model, data, batch_size)]
    return metrics.accuracy(torch.cat(rows), data.targets.to(device))


def evaluate(model: nn.Module, data: Labelled, loss: Loss = F.cross_entropy, *, batch_size: int = 1000) -> float:
    """The mean of `loss` over the examples, in evaluation mode.

    Args:
        model: maps inputs to what `loss` takes first.
        data: the examples.
        loss: loss(outputs, targets) -> a scalar, the mean over the batch.
        batch_size: examples a forward pass, at least 1.

    Raises:
        Diverged: when an output or the loss is not finite.
        ValueError: for no examples or a batch size below 1.

    Example:
        >>> line = Labelled(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [2.0], [1.0]]))
        >>> evaluate(torch.nn.Identity(), line, F.mse_loss, batch_size=2)
        3.0
    """
    total = 0.0
    for outputs, targets in _outputs(model, data, batch_size):
        with torch.no_grad():
            total += loss(outputs, targets).item() * len(targets)
    if not math.isfinite(total):
        raise Diverged(f"the loss is {total / len(data.targets)}")
    return total / len(data.targets)


class _Step:
    """One optimizer step on one batch; returns the loss at the weights it started from."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        rule: Rule | None,
        needs_graph: bool,
        bf16: bool,
        device: torch.device,
    ) -> None:
        self.model, self.optimizer, self.loss, self.rule = model, optimizer, loss, rule
        self.needs_graph, self.bf16, self.device = needs_graph, bf16, device
        self.norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        first: Tensor | None = None

        def closure() -> Tensor:
            nonlocal first
            for norm in self.norms:
                norm.track_running_stats = first is None
            with torch.enable_grad():
                value = self._gradients(inputs, targets)
            if first is None:
                first = value
            return value

        try:
            self.optimizer.step(closure)  # type: ignore[arg-type]  # torch says float, every optimizer takes a tensor
        finally:
            for norm in self.norms:
                norm.track_running_stats = True
        if self.needs_graph:
            self._clear()
        if first is None:
            raise TypeError(
                f"optimizer must call the closure given to its step: {type(self.optimizer).__name__} did not"
            )
        return first

    def _gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self._clear()
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            if self.rule is not None:
                return self.rule(self.model, inputs, targets, self.loss).detach()
            value = self.loss(self.model(inputs), targets)
        if self.needs_graph:
            # The same gradients as backward(create_graph=True) leaves, without its warning about a cycle of references,
            # which is broken when the step is over.
            wanted = [p for p in self._parameters() if p.requires_grad]
            for p, g in zip(
                wanted, torch.autograd.grad(value, wanted, create_graph=True, allow_unused=True), strict=True
            ):
                p.grad = g
        else:
            value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def _parameters(self) -> Iterable[Tensor]:
        """Those of the model and of the optimizer, each once."""
        own = [p for group in self.optimizer.param_groups for p in group["params"]]
        return {id(p): p for p in [*self.model.parameters(), *own]}.values()

    def _clear(self) -> None:
        for p in self._parameters():
            p.grad = None


class _Clock:
    """Adds up the seconds spent inside it, leaving out the pauses."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.seconds -= time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds -= time.perf_counter() - start


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside; outside, every module as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


@contextmanager
def _layout(model: nn.Module, channels_last: bool) -> Iterator[None]:
    """Weights of four dimensions with channels last in memory inside, contiguous afterwards."""
    if not channels_last:
        yield
        return
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _outputs(model: nn.Module, data: Labelled, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(outputs, targets) batch by batch, in evaluation mode and without gradients."""
    if len(data.targets) == 0:
        raise ValueError("data must hold at least one example: got none")
    device = _device(model)
    with _mode(model, training=False):
        for inputs, targets in batches(data, batch_size, shuffle=False):
            with torch.no_grad():
                outputs: Tensor = model(inputs.to(device))
            if not outputs.isfinite().all():
                raise Diverged("the model's outputs are not finite")
            yield outputs, targets.to(device)


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _callbacks(
    on_step: Callback | Iterable[Any], on_epoch: Callback | Iterable[Any], probes: Sequence[Any]
) -> tuple[list[Callback], list[Callback]]:
    step_calls = [on_step] if callable(on_step) else list(on_step)
    epoch_calls = [on_epoch] if callable(on_epoch) else list(on_epoch)
    for name, calls in (("on_step", step_calls), ("on_epoch", epoch_calls)):
        for call in calls:
            if not callable(call):
                raise TypeError(f"{name} must be callable with the model: got {type(call).__name__}")
    for probe in probes:
        methods = {name: getattr(probe, name, None) for name in ("on_step", "on_epoch")}
        if not any(callable(method) for method in methods.values()):
            raise TypeError(f"probes must have a method on_step or on_epoch: got {type(probe).__name__}")
        if callable(methods["on_step"]):
            step_calls.append(methods["on_step"])
        if callable(methods["on_epoch"]):
            epoch_calls.append(methods["on_epoch"])
    return step_calls, epoch_calls


def _check(
    data: Labelled, epochs: int, batch_size: int, rule: Rule | None, needs_graph: bool, optimizer: torch.optim.Optimizer
) -> None:
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1: got {epochs}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1: got {batch_size}")
    if len(data.targets) == 0:
        raise ValueError("data must hold at least one example: got none")
    if rule is not None and needs_graph:
        raise ValueError(
            f"rule must be None for {type(optimizer).__name__}, whose gradients need a graph: got {rule!r}"
        )


def _epoch_loss(losses: list[Tensor], sizes: list[int], epoch: int) -> float:
    """The mean over the epoch's examples; the one place at which an accelerator is waited for."""
    values = torch.stack(losses).double().cpu()
    finite = values.isfinite()
    if not finite.all():
        step = int((~finite).nonzero()[0])
        raise Diverged(f"the loss is {values[step].item()} in epoch {epoch + 1}, step {step + 1}")
    weights = torch.tensor(sizes, dtype=torch.float64)
    return ((values * weights).sum() / weights.sum()).item()


def _check_weights(model: nn.Module, epoch: int, step: int) -> None:
    for name, p in model.named_parameters():
        if not p.detach().isfinite().all():
            raise Diverged(f"the weight {name} is not finite after epoch {epoch + 1}, step {step}")
