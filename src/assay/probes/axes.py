"""Which axes of a network's tensors may be permuted together: found by watching one forward pass.

Every axis of every tensor that takes part carries a label. Operations tie labels together (the columns of a linear
layer's weight to the units that come in), or pin them, where the order of the entries matters. What an operation does
is said for those listed here; any other pins whatever comes into it, which is always right, if sometimes too careful.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from assay.probes.axis_labels import Label, pin, pinned, reshaped, tie, tie_broadcast

REORDERING = {"t", "transpose", "permute"}
RESHAPING = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "clone", "detach", "alias"),
    *("contiguous", "_to_copy", "_softmax", "_log_softmax", "native_dropout"),
}
REDUCING = {"mean", "sum", "amax", "amin"}
POOLING = {
    *("max_pool1d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "reflection_pad2d", "replication_pad2d"),
}


class Watch(TorchDispatchMode):
    """Follows labels through every operation of a forward pass.

    Args:
        known: tensors (parameters, buffers) whose axes are to be found, by name.
    """

    def __init__(self, known: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.labels: dict[int, list[Label]] = {}
        self.kept: list[Tensor] = []  # an id is one tensor's only as long as that lives
        self.known = {
            name: self.give(t, [Label() if n > 1 else pinned() for n in t.shape]) for name, t in known.items()
        }

    def give(self, tensor: Tensor, labels: Sequence[Label]) -> list[Label]:
        self.kept.append(tensor)
        self.labels[id(tensor)] = list(labels)
        return self.labels[id(tensor)]

    def of(self, tensor: Tensor) -> list[Label]:
        """The labels of a tensor; one that nobody has seen keeps its order."""
        return self.labels.get(id(tensor)) or self.give(tensor, [pinned() for _ in tensor.shape])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [each for each in _flat((*args, *(kwargs or {}).values())) if isinstance(each, Tensor)]
        before = {id(each): self.of(each) for each in inputs}
        shapes = [tuple(each.shape) for each in inputs]
        out = func(*args, **(kwargs or {}))
        outputs = [each for each in _flat((out,)) if isinstance(each, Tensor)]
        name = func.overloadpacket.__name__
        name = name.removesuffix("_") if name.endswith("_") and not name.endswith("__") else name
        labels = self.follow(name, func, args, [before[id(each)] for each in inputs], shapes, outputs)
        for each in outputs:
            known = labels if labels is not None and len(labels) == each.ndim else None
            if labels is None and id(each) in before:  # changed in place by something unknown
                known = before[id(each)]
            self.give(each, known if known is not None else [pinned() for _ in each.shape])
        return out

    def follow(
        self,
        name: str,
        func: Any,
        args: Any,
        labels: list[list[Label]],
        shapes: list[tuple[int, ...]],
        outs: list[Tensor],
    ) -> list[Label] | None:
        """Tie and pin; the labels of the (first) output, or None where nothing is known of it."""
        shape = tuple(outs[0].shape) if outs else ()
        if name in REORDERING:
            order = list(range(len(shape)))
            if name == "permute":
                order = [d % len(shape) for d in args[1]]
            elif name == "transpose":
                a, b = args[1] % len(shape), args[2] % len(shape)
                order[a], order[b] = b, a
            else:
                order.reverse()
            return [labels[0][d] for d in order]
        if name in RESHAPING:
            return reshaped(labels[0], shapes[0], shape)
        if name in POOLING or (name == "constant_pad_nd" and len(args[1]) <= 2 * (len(shape) - 2)):
            pin(labels[0][2:])
            return labels[0]
        if name in REDUCING:
            return self._reduced(args, labels[0], len(shape))
        if name == "expand":
            ahead = len(shape) - len(shapes[0])
            same = [ahead + i for i, n in enumerate(shapes[0]) if n == shape[ahead + i]]
            return [labels[0][d - ahead] if d in same else pinned() for d in range(len(shape))]
        if name in ("mm", "bmm", "addmm"):
            left, right = labels[-2:]
            tie(left[-1], right[-2])
            if name == "addmm":
                tie_broadcast(labels[0], shapes[0], [left[0], right[1]], shape)
            if name == "bmm":
                tie(left[0], right[0])
            return [*left[:-1], right[-1]]
        if name == "convolution":
            return _convolved(labels, shapes, args)
        if name == "embedding":
            labels[0][0].pin()
            return [*labels[1], labels[0][1]]
        if "batch_norm" in name:
            for each, size in zip(labels[1:], shapes[1:], strict=True):
                if size == shapes[0][1:2]:
                    tie(labels[0][1], each[0])
            return labels[0]
        if name == "native_layer_norm":
            for each in labels[1:]:
                for one, other in zip(labels[0][-len(each) :], each, strict=True):
                    tie(one, other)
            return labels[0]
        if name == "native_group_norm" and args[6] in (1, args[4]):
            for each in labels[1:]:
                tie(labels[0][1], each[0])
            return labels[0]
        if torch.Tag.pointwise in func.tags and outs:
            out = [Label() if n > 1 else pinned() for n in shape]
            for each, size in zip(labels, shapes, strict=True):
                tie_broadcast(each, size, out, shape)
            return out
        for each in labels:
            pin(each)
        return None

    def _reduced(self, args: Any, labels: list[Label], left: int) -> list[Label]:
        """A mean or a sum does not care for the order of what it goes over."""
        dims = args[1] if len(args) > 1 and isinstance(args[1], list | tuple | int) else range(len(labels))
        dims = {d % len(labels) for d in ([dims] if isinstance(dims, int) else dims or range(len(labels)))}
        if left == len(labels):
            return [pinned() if d in dims else label for d, label in enumerate(labels)]
        return [label for d, label in enumerate(labels) if d not in dims]


def _convolved(labels: list[list[Label]], shapes: list[tuple[int, ...]], args: Any) -> list[Label]:
    (x, weight), transposed, groups = labels[:2], args[6], args[8]
    pin([*x[2:], *weight[2:]])
    incoming, outgoing = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
    if groups == 1:
        tie(x[1], incoming)
    elif groups == shapes[0][1] == shapes[1][0] and not transposed:  # one filter a channel
        tie(x[1], outgoing)
    else:
        pin([x[1], weight[0], weight[1]])
        outgoing = pinned()
    for bias in labels[2:]:
        tie(outgoing, bias[0])
    return [x[0], outgoing, *(pinned() for _ in x[2:])]


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value
