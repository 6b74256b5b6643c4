"""Mixed precision training, half precision emulated where a processor has none (Micikevicius et al., 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from assay.losses.checks import check_finite
from assay.optim.wrapper import Closure, Wrapper


def round_to_half(x: Float[Tensor, "..."], dtype: torch.dtype = torch.float16) -> Float[Tensor, "..."]:
    """The nearest number that half precision has, ties to even, in the type of `x`; its gradient is rounded as well.

    float16: 5 bits of exponent and 10 of fraction. Below 2^-24 there is nothing but 0, from 65520 on infinity.

    Args:
        x: any shape.
        dtype: the type that is stored; one that holds all values of `x` changes nothing.

    Raises:
        TypeError: for numbers that are not real, or a dtype that is not of such.

    Example:
        >>> round_to_half(torch.tensor([1 + 2**-12, 1 + 2**-10, 2.0**-25, 1e5])).tolist()
        [1.0, 1.0009765625, 0.0, inf]
    """
    for name, kind in (("x", x.dtype), ("dtype", dtype)):
        if not kind.is_floating_point:
            raise TypeError(f"{name} must be of real numbers: got {str(kind).removeprefix('torch.')}")
    if torch.promote_types(x.dtype, dtype) == dtype:
        return x
    rounded: Tensor = _Rounded.apply(x, dtype)
    return rounded


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = dtype
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype).to(grad.dtype), None


class LossScaler:
    """The factor that lifts gradients above what half precision rounds to 0, found by trial.

    After an overflow it shrinks, after `interval` steps without one it grows.

    Args:
        init: at first, positive.
        growth: above 1.
        backoff: in (0, 1).
        interval: steps, at least 1.

    Attributes:
        value: the factor now.

    The paper: section 3.2 on choosing the factor dynamically; constants and decisions are those of torch's GradScaler.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> scaler = LossScaler(init=4.0, interval=2)
        >>> [scaler.update(found_inf) for found_inf in (True, False, False, False)]
        [2.0, 2.0, 4.0, 4.0]
    """

    def __init__(
        self, *, init: float = 2.0**15, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000
    ) -> None:
        if not 0 < init < math.inf:
            raise ValueError(f"init must be positive and finite: got {init}")
        if not 1 < growth < math.inf:
            raise ValueError(f"growth must be above 1 and finite: got {growth}")
        if not 0 < backoff < 1:
            raise ValueError(f"backoff must lie between 0 and 1: got {backoff}")
        if interval < 1:
            raise ValueError(f"interval must be at least 1: got {interval}")
        self.value, self.growth, self.backoff, self.interval = init, growth, backoff, interval
        self.good = 0

    def scale(self, loss: Tensor) -> Tensor:
        """The loss, times the factor."""
        return loss * self.value

    def unscale_(self, grads: list[Tensor]) -> bool:
        """Divide gradients by the factor in place; whether one of them is not finite."""
        if not grads:
            return False
        torch._foreach_div_(grads, self.value)
        return not bool(torch.stack([g.sum().isfinite() for g in grads]).all()) and not all(
            g.isfinite().all() for g in grads
        )

    def update(self, found_inf: bool) -> float:
        """Adapt the factor to what the step met, and give it."""
        if found_inf:
            self.value *= self.backoff
            self.good = 0
        else:
            self.good += 1
            if self.good == self.interval:
                self.value *= self.growth
                self.good = 0
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """The factor, and the steps since it changed."""
        return {"value": self.value, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.value, self.good = float(state["value"]), int(state["good"])


class MixedPrecision(Wrapper):
    r"""An optimizer for a model that computes with weights, activations and gradients stored in half precision.

    The model's own weights are the master copy, in their own precision. A pass rounds them, what goes into and comes
    out of every layer, and all gradients of those on the way back; within a layer products are summed, and norms taken,
    in full precision, and so is the loss. It is multiplied by a factor before the way back; gradients are divided by it
    before anything else sees them, and a step with one that is not finite is left out. It is what a processor with half
    precision arithmetic does, up to the order of sums, at about one and a half times the cost of single precision; on
    an accelerator `torch.autocast` and `GradScaler` are the fast way.

        mixed = MixedPrecision(torch.optim.SGD(model.parameters(), lr=0.1), model)
        fit(model, data, mixed, rule=mixed.rule)

    or in a loop of one's own `mixed.rule(model, inputs, targets, loss)` for `loss.backward()`, then `mixed.step()`.

    Args:
        optimizer: what is wrapped, over parameters of the model.
        model: modules without children are its layers.
        loss_scale: the factor, positive; `"dynamic"` is a `LossScaler()`; 1 does without.
        master_weights: False keeps the weights themselves in half precision, rounding them after each step.
        store: the type that is stored, float16 or bfloat16; float32 is ordinary training.

    Attributes:
        scaler: the `LossScaler`, or None for a constant factor.
        skipped: steps left out so far.

    Micikevicius et al., 2017 (arXiv:1710.03740), section 3 and figure 1.

    Raises:
        ValueError: for a factor that is not positive, an optimizer over other parameters, a model without real ones;
            when called, for inputs that are not finite.
        TypeError: for something that is not an optimizer.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> mixed = MixedPrecision(torch.optim.SGD(model.parameters(), lr=2**-12), model)
        >>> for _ in range(4):
        ...     mixed.zero_grad()
        ...     _ = mixed.rule(model, torch.ones(1, 1), torch.zeros(1, 1), lambda outputs, targets: -outputs.sum())
        ...     _ = mixed.step()
        >>> model.weight.item() == 1 + 4 * 2**-12  # each step by itself would be lost in half precision
        True
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        *,
        loss_scale: float | str = 1024.0,
        master_weights: bool = True,
        store: torch.dtype = torch.float16,
    ) -> None:
        super().__init__(optimizer)
        trained = [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
        if not trained:
            raise ValueError("model must have real parameters that require gradients: got none")
        if not {id(p) for p in self.parameters} <= {id(p) for p in model.parameters()}:
            raise ValueError("optimizer must be over parameters of the model: got others")
        if isinstance(loss_scale, str):
            if loss_scale != "dynamic":
                raise ValueError(f"loss_scale must be a positive number or 'dynamic': got {loss_scale!r}")
            self.scaler: LossScaler | None = LossScaler()
        elif 0 < loss_scale < math.inf:
            self.scaler = None
        else:
            raise ValueError(f"loss_scale must be positive and finite, or 'dynamic': got {loss_scale}")
        self.loss_scale, self.master_weights, self.store = loss_scale, master_weights, store
        self.skipped, self.found_inf = 0, False
        if not master_weights:
            self._round_weights()

    @property
    def factor(self) -> float:
        """What the loss of the coming pass is multiplied by."""
        return float(self.loss_scale) if self.scaler is None else self.scaler.value

    def rule(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        """One pass in half precision; gradients are left in the weights' own type, without the factor."""
        if inputs.is_floating_point():
            check_finite(inputs=inputs)
            inputs = round_to_half(inputs, self.store)
        weights = {
            name: round_to_half(p, self.store) if p.is_floating_point() else p for name, p in model.named_parameters()
        }
        with rounded_layers(model, self.store):
            outputs = functional_call(model, weights, (inputs,))
        value = loss(outputs, targets)
        (value * self.factor).backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        scaler = self.scaler if self.scaler is not None else LossScaler(init=self.factor)
        self.found_inf = scaler.unscale_(grads)
        return value

    def step(self, closure: Closure | None = None) -> Any:
        """One step of the wrapped optimizer, unless a gradient was not finite."""
        loss = None if closure is None else closure()
        if self.found_inf:
            self.skipped += 1
        else:
            self.optimizer.step()
            if not self.master_weights:
                self._round_weights()
        if self.scaler is not None:
            self.scaler.update(self.found_inf)
        return loss

    @torch.no_grad()
    def _round_weights(self) -> None:
        for p in self.parameters:
            p.copy_(round_to_half(p, self.store))

    def own_state(self) -> dict[str, Any]:
        """The scaler's factor, and how many steps were left out."""
        return {"skipped": self.skipped} | ({} if self.scaler is None else {"scaler": self.scaler.state_dict()})

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take back what `own_state` gave."""
        self.skipped = int(state["skipped"])
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])


@contextmanager
def rounded_layers(model: nn.Module, store: torch.dtype = torch.float16) -> Iterator[None]:
    """Inside, what goes into and comes out of every module without children is rounded, and so are its gradients.

    Args:
        model: any module.
        store: the type that is stored.

    Example:
        >>> layer = nn.Identity()
        >>> with rounded_layers(layer):
        ...     layer(torch.tensor([1 + 2**-12])).item()
        1.0
    """

    def rounded(value: Any) -> Any:
        return round_to_half(value, store) if isinstance(value, Tensor) and value.is_floating_point() else value

    handles = []
    for module in model.modules():
        if not list(module.children()):
            handles.append(module.register_forward_pre_hook(lambda _, given: tuple(rounded(each) for each in given)))
            handles.append(module.register_forward_hook(lambda _, __, out: rounded(out)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
