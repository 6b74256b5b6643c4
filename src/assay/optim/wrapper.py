"""What goes round an optimizer: itself an optimizer, with the parameter groups and the state of the one it wraps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Closure = Callable[[], Any]


class Wrapper(Optimizer):
    """An optimizer around another one.

    Parameter groups, state and defaults are those of the wrapped optimizer, so that schedulers, gradient scalers and
    `zero_grad` work on the wrapper as they would on it. A subclass overrides `step`, and `own_state` with
    `load_own_state` if it has a state of its own.

    Args:
        optimizer: what is wrapped; any torch optimizer, another wrapper too.

    Raises:
        TypeError: when `optimizer` is not a torch optimizer.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> inner = torch.optim.SGD([weight], lr=0.1)
        >>> outer = Wrapper(Wrapper(inner))
        >>> outer.param_groups[0]["lr"] = 0.5
        >>> weight.grad = torch.ones(2)
        >>> outer.step()
        >>> weight.tolist()
        [0.5, 0.5]
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer: got {type(optimizer).__name__}")
        # As torch itself restores an optimizer without building its groups anew: they stay those of the wrapped one.
        self.__setstate__({"optimizer": optimizer, "defaults": optimizer.defaults})

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the wrapped optimizer, the very same objects."""
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:
        """The state of the wrapped optimizer."""
        return self.optimizer.state

    @property
    def needs_graph(self) -> bool:
        """Whether gradients must come with their graph: as the wrapped optimizer says."""
        return bool(getattr(self.optimizer, "needs_graph", False))

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters of all groups, in their order."""
        return [p for group in self.param_groups for p in group["params"]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimizer."""
        self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Closure | None = None) -> Any:
        """One step of the wrapped optimizer."""
        return self.optimizer.step(closure)

    def own_state(self) -> dict[str, Any]:
        """What the wrapper itself must remember: numbers and tensors."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take back what `own_state` gave."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the wrapped optimizer under `"wrapped"`, the wrapper's own under `"own"`."""
        return {"wrapped": self.optimizer.state_dict(), "own": self.own_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            ValueError: when it is the state of an optimizer that was not wrapped.
        """
        if set(state_dict) != {"wrapped", "own"}:
            raise ValueError(
                f"state_dict must hold 'wrapped' and 'own', as {type(self).__name__}.state_dict gives: "
                f"got {sorted(map(str, state_dict))}"
            )
        self.optimizer.load_state_dict(state_dict["wrapped"])
        self.load_own_state(state_dict["own"])

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "defaults": self.defaults} | self.own_attributes()

    def own_attributes(self) -> dict[str, Any]:
        """Attributes of the subclass, for copies and pickles."""
        torchs = {"optimizer", "defaults"}
        return {k: v for k, v in self.__dict__.items() if k not in torchs and not k.startswith("_optimizer_")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.optimizer!r})"


class GradientWrapper(Wrapper):
    """A wrapper that changes the gradients before the wrapped optimizer sees them.

    A subclass says how in `change`. Whatever calls the closure again (a line search, a sharpness-aware step) gets
    changed gradients each time.

    Example:
        >>> class Halved(GradientWrapper):
        ...     def change(self, parameters, gradients):
        ...         return torch._foreach_mul(gradients, 0.5)
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> Halved(torch.optim.SGD([weight], lr=1.0)).step()
        >>> weight.item()
        0.5
    """

    def change(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """The gradients the wrapped optimizer shall see, as new tensors; only parameters with a gradient are given."""
        return gradients

    def step(self, closure: Closure | None = None) -> Any:
        """One step of the wrapped optimizer with changed gradients."""
        if closure is None:
            self._change()
            return self.optimizer.step()

        def changed() -> Any:
            loss = closure()
            self._change()
            return loss

        return self.optimizer.step(changed)

    def _change(self) -> None:
        found = [p for p in self.parameters if p.grad is not None]
        if not found:
            return
        gradients = [p.grad for p in found]
        refuse_gradients(type(self).__name__, gradients)
        with torch.set_grad_enabled(self.needs_graph):
            changed = self.change(found, gradients)
        for p, g in zip(found, changed, strict=True):
            p.grad = g


def refuse_gradients(name: str, gradients: list[Tensor], *, complex_too: bool = True) -> None:
    """Refuse sparse gradients, and complex ones if they too have no meaning for the method called `name`.

    Raises:
        TypeError: naming the method and what came.
    """
    for g in gradients:
        if g.is_sparse or g.layout != torch.strided:
            raise TypeError(f"gradients must be dense for {name}: got a {str(g.layout).removeprefix('torch.')} one")
        if complex_too and g.is_complex():
            raise TypeError(f"gradients must be real for {name}: got {str(g.dtype).removeprefix('torch.')}")
