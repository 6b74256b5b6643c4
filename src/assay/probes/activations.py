"""What the layers of a network put out, over data: all of it, batch by batch, or boiled down on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Reduce = Callable[[Tensor], Tensor]


@contextmanager
def watched(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of named layers in the latest forward pass inside the block, with their graph.

    The hooks go with the block, whatever ends it; mode, gradients and buffers are the caller's. An output that is
    overwritten in place afterwards (by a ReLU with `inplace=True`) is kept as it was.

    Args:
        model: any module.
        layers: names as in `model.named_modules()`; the empty name is the model itself.

    Returns:
        name -> output, filled by each forward pass. Of a layer that returns a tuple (attention) its first entry. A
        layer that is used several times in a pass leaves its last output.

    Raises:
        ValueError: for no names, or one that is not in the model.
        TypeError: when a layer returns something else than a tensor, or a tuple that begins with one.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Linear(2, 1))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), nn.init.zeros_(model[0].bias)
        >>> with watched(model, ["0", "1"]) as seen:
        ...     _ = model(torch.tensor([[3.0, -4.0]]))
        >>> seen["0"].tolist(), seen["1"].tolist()
        ([[3.0, -4.0]], [[3.0, 0.0]])
    """
    known = dict(model.named_modules())
    if isinstance(layers, str) or not layers:
        raise ValueError(f"layers must be a sequence of one name or more: got {layers!r}")
    for name in layers:
        if name not in known:
            raise ValueError(f"layers must be modules of the model: got {name!r}")
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, out: Any) -> None:
            seen[name] = _tensor(name, out).clone()

        return hook

    handles = [known[name].register_forward_hook(keep(name)) for name in dict.fromkeys(layers)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def stream_activations(
    model: nn.Module,
    layers: Sequence[str],
    inputs: Tensor | Iterable[Any],
    *,
    batch_size: int = 500,
    reduce: Reduce | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The outputs of named layers, a batch at a time, without gradients: for data whose activations fill the memory.

    Args:
        model: used in evaluation mode, on its own device. Between batches it is as it was found: modes, hooks, buffers.
        layers: names as in `model.named_modules()`.
        inputs: examples (n, ...); or batches, each a tensor or a tuple that begins with one (a `DataLoader`).
        batch_size: examples at a time, of inputs that are one tensor.
        reduce: what is kept of an output, applied to each.

    Yields:
        name -> output of a batch, in the order of `layers`.

    Raises:
        ValueError: for a batch size below 1, no inputs, a name that is not in the model or is not used by it.
        TypeError: as `watched` does.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Identity())
        >>> [part["1"].shape[0] for part in stream_activations(model, ["1"], torch.zeros(5, 2), batch_size=2)]
        [2, 2, 1]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1: got {batch_size}")
    with watched(model, layers):
        pass  # refuses unknown names before the first batch is asked for
    parts = inputs.split(batch_size) if isinstance(inputs, Tensor) else inputs
    if isinstance(inputs, Tensor) and len(inputs) == 0:
        raise ValueError("inputs must have at least one example: got none")
    return _stream(model, list(dict.fromkeys(layers)), parts, reduce)


def _stream(
    model: nn.Module, layers: list[str], parts: Iterable[Any], reduce: Reduce | None
) -> Iterator[dict[str, Tensor]]:
    parameter = next(model.parameters(), None)
    empty = True
    for part in parts:
        empty = False
        batch = _tensor("inputs", part)
        with evaluated(model), torch.no_grad(), watched(model, layers) as seen:
            model(batch if parameter is None else batch.to(parameter.device))
        for name in layers:
            if name not in seen:
                raise ValueError(f"layers must be used by the model: {name!r} is not")
        yield {name: seen[name] if reduce is None else reduce(seen[name]) for name in layers}
    if empty:
        raise ValueError("inputs must have at least one example: got none")


def record_activations(
    model: nn.Module,
    layers: Sequence[str],
    inputs: Tensor | Iterable[Any],
    *,
    batch_size: int = 500,
    reduce: Reduce | None = None,
) -> dict[str, Float[Tensor, "n ..."]]:
    """The outputs of named layers over all the data, without gradients: name -> (n, ...).

    Args:
        model: used in evaluation mode; given back as found, also after an error.
        layers: names as in `model.named_modules()`.
        inputs: examples (n, ...); or batches, each a tensor or a tuple that begins with one.
        batch_size: examples at a time, of inputs that are one tensor.
        reduce: what is kept of an output, applied to each batch: `lambda maps: maps.mean((2, 3))`.

    Raises:
        ValueError: as `stream_activations` does.
        TypeError: as `watched` does.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        >>> record_activations(model, ["1"], torch.tensor([[1.0, 2.0], [3.0, 0.0]]), batch_size=1)
        {'1': tensor([[3., 0.],
                      [3., 3.]])}
    """
    found: dict[str, list[Tensor]] = {}
    for part in stream_activations(model, layers, inputs, batch_size=batch_size, reduce=reduce):
        for name, values in part.items():
            found.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in found.items()}


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; outside, every module in the mode it was in.

    Args:
        model: any module.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
        >>> with evaluated(model):
        ...     inside = model[0].training
        >>> inside, model[0].training, model[1].training
        (False, True, False)
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _tensor(name: str, value: Any) -> Tensor:
    first = value[0] if isinstance(value, tuple | list) and value else value
    if not isinstance(first, Tensor):
        raise TypeError(f"{name} must give tensors, or tuples that begin with one: got {type(first).__name__}")
    return first
