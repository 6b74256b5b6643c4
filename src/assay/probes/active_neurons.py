"""How many hidden units are at work (Chen et al., 2021, arXiv:2106.01548, section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay.nn.tinyvit import TransformerBlock

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU)


def active_neurons(
    model: nn.Module, inputs: Tensor, layers: Sequence[str] | None = None, *, batch_size: int = 500
) -> dict[str, float]:
    r"""The share of hidden units that are above 0, by layer, over all examples, tokens and positions.

    Args:
        model: used in evaluation mode; every module is given back in the mode it was in.
        inputs: examples, the first dimension counts them.
        layers: names of modules whose outputs are looked at. None takes all activations (`ReLU`, `GELU`, `SiLU`) and,
            of this library's transformer blocks, the hidden layer of each MLP, named after its block.
        batch_size: examples at a time.

    Returns:
        name -> share in [0, 1], in the order of the model.

    The paper: section 4.3, "sparser active neurons in the first few layers".

    Raises:
        ValueError: for no inputs, a name that is not in the model, a model with nothing to look at.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
        >>> model[0].weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        >>> _ = nn.init.zeros_(model[0].bias)
        >>> active_neurons(model, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))  # 2 of 4, and 1 of 4
        {'1': 0.375}
    """
    if len(inputs) == 0:
        raise ValueError("inputs must have at least one example: got none")
    known = dict(model.named_modules())
    if layers is None:
        blocks = {name: m for name, m in known.items() if isinstance(m, TransformerBlock)}
        watched = {name: m for name, m in known.items() if isinstance(m, (*ACTIVATIONS, TransformerBlock))}
    else:
        blocks, watched = {}, {name: known[name] for name in layers if name in known}
        for name in layers:
            if name not in known:
                raise ValueError(f"layers must be modules of the model: got {name!r}")
    if not watched:
        raise ValueError("model must have activations to look at, or layers must name some: got none")
    counts = {name: [0, 0] for name in watched}

    def count(name: str, values: Tensor) -> None:
        counts[name][0] += int((values > 0).sum())
        counts[name][1] += values.numel()

    handles: list[Any] = []
    for name, module in watched.items():
        if name in blocks:  # what its MLP's second layer is given
            handles.append(module.down.register_forward_pre_hook(lambda _, given, name=name: count(name, given[0])))
        else:
            handles.append(module.register_forward_hook(lambda _m, _i, out, name=name: count(name, out)))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            for part in inputs.split(batch_size):
                model(part)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return {name: positive / total for name, (positive, total) in counts.items() if total}
