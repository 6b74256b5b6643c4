"""Which numbers of a model make up its weight vector, and in which order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the tensors of a model, laid end to end in one vector of N numbers.

    Trainable float parameters come in the order of ``named_parameters``; with ``buffers=True`` the float buffers
    (batch-norm running statistics, never counters) follow in the order of ``named_buffers``.

    Args:
        names: one name a tensor, all different.
        shapes: one shape a tensor.
        buffers: whether float buffers belong to the vector.

    Raises:
        ValueError: names and shapes do not pair up, or a name occurs twice.

    Example:
        >>> layout = Layout.of(nn.Linear(3, 2))
        >>> layout.layers
        {'weight': slice(0, 6, None), 'bias': slice(6, 8, None)}
        >>> layout.layer_at(6)
        'bias'
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    buffers: bool = False

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes) or len(set(self.names)) != len(self.names) or not self.names:
            raise ValueError(f"names and shapes must pair up and names differ, got {self.names!r} and {self.shapes!r}")
        if any(n < 0 for shape in self.shapes for n in shape) or self.size == 0:
            raise ValueError(f"shapes must hold at least one number and no negative size, got {self.shapes!r}")

    @classmethod
    def of(cls, model: nn.Module, *, buffers: bool = False) -> Layout:
        """The layout of a model as it is now."""
        found = _float_tensors(model, buffers)
        if not found:
            raise ValueError(f"model must have a trainable float parameter, got {type(model).__name__} with none")
        return cls(tuple(found), tuple(tuple(tensor.shape) for tensor in found.values()), buffers)

    @classmethod
    def from_slices(cls, layers: Mapping[str, slice] | None, size: int) -> Layout:
        """The layout of a bare vector cut into named slices (one called ``weights`` when ``layers`` is None)."""
        if layers is None:
            return cls(("weights",), ((size,),))
        ends = [0, *(part.stop for part in layers.values())]
        if [part.start for part in layers.values()] != ends[:-1] or ends[-1] != size:
            raise ValueError(f"layers must be slices that cover 0 to {size} without gaps, got {dict(layers)!r}")
        return cls(tuple(layers), tuple((part.stop - part.start,) for part in layers.values()))

    @property
    def size(self) -> int:
        """N, the length of the vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def layers(self) -> dict[str, slice]:
        """Where each tensor lies in the vector."""
        layers, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            layers[name] = slice(start, start := start + math.prod(shape))
        return layers

    def layer_at(self, index: int) -> str:
        """The name of the tensor that holds entry ``index`` of the vector."""
        return next(name for name, part in self.layers.items() if part.start <= index < part.stop)

    def tensors(self, model: nn.Module) -> list[Tensor]:
        """The model's own tensors in the order of the layout.

        Raises:
            ValueError: a tensor is missing, new, or has changed its shape (named, with the old and the new shape).
        """
        found = _float_tensors(model, self.buffers)
        if extra := [name for name in found if name not in self.names]:
            raise ValueError(f"model has {extra[0]!r}, which the recorded model had not (or not as trainable)")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in found:
                raise ValueError(f"model has no trainable float tensor {name!r}, which was recorded with shape {shape}")
            new = tuple(found[name].shape)
            if new != shape and shape != (math.prod(new),):
                raise ValueError(f"the shape of {name!r} changed: recorded {shape}, now {new}")
        return [found[name] for name in self.names]

    @torch.no_grad()
    def flatten(self, model: nn.Module, *, dtype: torch.dtype = torch.float32) -> Float[Tensor, " N"]:
        """A copy of the model's numbers as one vector on the CPU."""
        vector = torch.empty(self.size, dtype=dtype)
        for part, tensor in zip(self.layers.values(), self.tensors(model), strict=True):
            vector[part].copy_(tensor.detach().reshape(-1))
        return vector

    def split(self, vector: Float[Tensor, " N"]) -> dict[str, Tensor]:
        """The vector as named tensors of their own shapes (views)."""
        if vector.numel() != self.size:
            raise ValueError(f"vector must have {self.size} entries, got {vector.numel()}")
        shapes = zip(self.layers.items(), self.shapes, strict=True)
        return {name: vector[part].view(shape) for (name, part), shape in shapes}

    @torch.no_grad()
    def write(self, model: nn.Module, vector: Float[Tensor, " N"]) -> None:
        """Put the vector into the model, in place."""
        tensors = self.tensors(model)
        for tensor, values in zip(tensors, self.split(vector).values(), strict=True):
            tensor.copy_(values.view(tensor.shape))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        return {"layers": [[n, list(s)] for n, s in zip(self.names, self.shapes, strict=True)], "buffers": self.buffers}

    @classmethod
    def from_json(cls, content: Any) -> Layout:
        """Checks what it is given: the file it comes from may be anybody's."""
        layers = content.get("layers") if isinstance(content, dict) else None
        if not isinstance(layers, list) or not all(_is_layer(layer) for layer in layers):
            raise ValueError(f"layers must be a list of [name, shape], got {str(layers)[:80]!r}")
        return cls(
            tuple(name for name, _ in layers),
            tuple(tuple(shape) for _, shape in layers),
            content.get("buffers") is True,
        )


def _float_tensors(model: nn.Module, buffers: bool) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {
        name: p for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()
    }
    if buffers:
        found.update((name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point())
    return found


def _is_layer(layer: Any) -> bool:
    return (
        isinstance(layer, Sequence)
        and len(layer) == 2
        and isinstance(layer[0], str)
        and isinstance(layer[1], list)
        and all(type(n) is int and n >= 0 for n in layer[1])
    )
