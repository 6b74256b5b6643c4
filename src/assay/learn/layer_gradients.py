"""The gradient of each example with respect to the weights of one layer, from what went in and what came back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

LAYERS = (nn.Linear, nn.Conv2d, _BatchNorm, nn.LayerNorm)


class Passage:
    """What went through a layer: `input` (n, ...), and after a backward pass `grad_output`."""

    def __init__(self, value: Tensor) -> None:
        self.input = value
        self.grad_output: Tensor | None = None


@contextmanager
def passages(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Passage]]:
    """Watch forward and backward passes through layers inside; the watching ends with the block.

    Args:
        modules: linear layers, 2-D convolutions, batch and layer norms.

    Example:
        >>> line = nn.Linear(2, 1)
        >>> with passages([line]) as seen:
        ...     line(torch.tensor([[1.0, 2.0]])).sum().backward()
        >>> seen[line].input, seen[line].grad_output
        (tensor([[1., 2.]]), tensor([[1.]]))
    """
    seen: dict[nn.Module, Passage] = {}

    def forward(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        passage = seen[module] = Passage(args[0].detach())

        def keep(grad: Tensor) -> None:
            passage.grad_output = grad

        if out.requires_grad:
            out.register_hook(keep)

    handles = [module.register_forward_hook(forward) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def sample_gradients(layer: nn.Module, passage: Passage) -> dict[str, Float[Tensor, "n ..."]]:
    r"""$\partial L / \partial W$ through each example's row of a layer: (n, *shape of W) for `weight` and `bias`.

    Summed over examples they are the gradient. Under batch norm rows influence each other, and what is told apart is
    through which example's passage of this layer the loss depends on its weights.

    Args:
        layer: one of those `passages` takes.
        passage: with a `grad_output`.

    Raises:
        TypeError: for any other layer.

    Example:
        >>> line = nn.Linear(1, 1)
        >>> with passages([line]) as seen:
        ...     (line(torch.tensor([[1.0], [2.0]])) * torch.tensor([[1.0], [10.0]])).sum().backward()
        >>> {name: g.flatten().tolist() for name, g in sample_gradients(line, seen[line]).items()}
        {'weight': [1.0, 20.0], 'bias': [1.0, 10.0]}
    """
    x, g = passage.input, passage.grad_output
    found: dict[str, Tensor] = {}
    if g is None:
        return {name: p.new_zeros(len(x), *p.shape) for name, p in layer.named_parameters(recurse=False)}
    if isinstance(layer, nn.Linear):
        rows = (len(x), -1)
        found["weight"] = torch.einsum("nto,nti->noi", g.reshape(*rows, g.shape[-1]), x.reshape(*rows, x.shape[-1]))
        found["bias"] = g.reshape(*rows, g.shape[-1]).sum(1)
    elif isinstance(layer, nn.Conv2d):
        settings = dict(dilation=layer.dilation, padding=layer.padding, stride=layer.stride)
        columns = F.unfold(x, layer.kernel_size, **settings)  # type: ignore[arg-type]
        columns = columns.unflatten(1, (layer.groups, -1))
        slopes = g.flatten(2).unflatten(1, (layer.groups, -1))
        found["weight"] = torch.einsum("ngol,ngil->ngoi", slopes, columns).reshape(len(x), *layer.weight.shape)
        found["bias"] = g.flatten(2).sum(2)
    elif isinstance(layer, _BatchNorm):
        places = tuple(range(2, x.ndim))
        axes = (0, *places)
        batch = layer.training or layer.running_mean is None
        mean = x.mean(axes) if batch else layer.running_mean
        var = x.var(axes, correction=0) if batch else layer.running_var
        shape = (1, -1) + (1,) * len(places)
        normal = (x - mean.view(shape)) * (var.view(shape) + layer.eps).rsqrt()  # type: ignore[union-attr, operator]
        found["weight"] = (g * normal).flatten(2).sum(2) if places else g * normal
        found["bias"] = g.flatten(2).sum(2) if places else g
    elif isinstance(layer, nn.LayerNorm):
        dims = tuple(layer.normalized_shape)
        normal = F.layer_norm(x, dims, eps=layer.eps)
        kept = (len(x), -1, *dims)
        found["weight"], found["bias"] = (g * normal).reshape(kept).sum(1), g.reshape(kept).sum(1)
    else:
        raise TypeError(f"layer must be linear, a 2-D convolution, batch or layer norm: got {type(layer).__name__}")
    return {name: found[name] for name, _ in layer.named_parameters(recurse=False)}
