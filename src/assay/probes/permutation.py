"""Permutations of a network's hidden units that leave its function as it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from assay.curvature.hessian import evaluating
from assay.probes.axes import Watch

Permutations = dict[str, Tensor]
"""Name of a permutation -> (n,) whole numbers: place i is taken by the unit that was at `permutation[i]`."""


@dataclass(frozen=True)
class PermutationSpec:
    r"""Which axes of a network's weights are permuted together, so that the network computes what it did.

    $W_l \leftarrow P_l W_l P_{l-1}^\top,\quad b_l \leftarrow P_l b_l$ for a perceptron: the rows of a layer and the
    columns of the next one share a permutation. Channels of convolutions, the scale, shift and statistics of a
    normalization, and all layers that write to one residual stream do likewise.

    Args:
        axes: for every parameter and buffer of real numbers, the name of the permutation that acts on each of its axes,
            or None. `"name*k"` moves k neighbours at once: what a linear layer has for each channel of k pixels.

    Ainsworth et al., 2022 (arXiv:2209.04836), section 2 and appendix A.3 (residual networks).

    Raises:
        ValueError: for a label that cannot be read; when used with a model: tensors that the spec does not name, axes
            of one permutation that differ in length, permutations that are none.

    Example:
        >>> spec = PermutationSpec(
        ...     {"0.weight": ("hidden", None), "0.bias": ("hidden",), "2.weight": (None, "hidden"), "2.bias": (None,)}
        ... )
        >>> model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> spec.sizes(model)
        {'hidden': 3}
        >>> model[0].bias.data = torch.tensor([10.0, 20.0, 30.0])
        >>> spec.apply({"hidden": torch.tensor([2, 0, 1])}, model)[0].bias.tolist()
        [30.0, 10.0, 20.0]
    """

    axes: Mapping[str, tuple[str | None, ...]]

    def __post_init__(self) -> None:
        for name, labels in self.axes.items():
            for label in labels:
                if label is not None:
                    _read(label, name)

    @classmethod
    def of(cls, model: nn.Module, inputs: Tensor) -> PermutationSpec:
        """The spec of a network, found by watching how one forward pass uses its tensors.

        Linear and convolutional layers, batch, layer and group norm, pooling, flattening, residual sums, products and
        whatever works entry by entry are followed; units that go through anything else (heads of attention, channels
        that are concatenated or split) keep their order. A random permutation is then tried on the inputs.

        Args:
            model: used in evaluation mode and left as it was.
            inputs: a few examples.

        Raises:
            ValueError: where a permuted network computes something else: its forward pass does what was not seen.

        Example:
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
            >>> dict(PermutationSpec.of(model, torch.rand(2, 1, 5, 5)).axes)
            {'0.weight': ('0', None, None, None), '0.bias': ('0',), '3.weight': (None, '0*9'), '3.bias': (None,)}
        """
        inputs = inputs[:2]
        tensors = tensors_of(model)
        watch = Watch(tensors)
        with evaluating(model), torch.no_grad(), watch:
            out = model(inputs)
        if not isinstance(out, Tensor):
            raise ValueError(f"model must give a tensor: got {type(out).__name__}")
        for label in watch.of(out):
            label.pin()
        names: dict[int, str] = {}
        axes: dict[str, tuple[str | None, ...]] = {}
        for name, labels in watch.known.items():
            row: list[str | None] = []
            for d, label in enumerate(labels):
                node, inner = label.root()
                if node.pinned:
                    row.append(None)
                    continue
                if id(node) not in names:
                    short = name.rpartition(".")[0] or name
                    names[id(node)] = short if short not in names.values() else f"{name}:{d}"
                row.append(names[id(node)] + (f"*{inner}" if inner > 1 else ""))
            axes[name] = tuple(row)
        spec = cls(_used_more_than_once(axes))
        spec._try(model, inputs, out)
        return spec

    def sizes(self, model: nn.Module) -> dict[str, int]:
        """How many units each permutation moves; refuses a model that the spec does not fit."""
        sizes: dict[str, int] = {}
        tensors = tensors_of(model)
        for name, tensor in tensors.items():
            if name not in self.axes:
                raise ValueError(f"spec must name every parameter and buffer of the model: {name!r} is not in it")
            labels = self.axes[name]
            if len(labels) != tensor.ndim:
                raise ValueError(f"spec must name the {tensor.ndim} axes of {name!r}: got {labels}")
            for length, label in zip(tensor.shape, labels, strict=True):
                if label is None:
                    continue
                permutation, inner = _read(label, name)
                size, rest = divmod(length, inner)
                if rest or sizes.setdefault(permutation, size) != size:
                    raise ValueError(
                        f"axes of permutation {permutation!r} must be equally long: {name!r} has {length} / {inner}, "
                        f"others {sizes.get(permutation, size)}"
                    )
        if unknown := [name for name in self.axes if name not in tensors]:
            raise ValueError(f"spec names {unknown[0]!r}, which the model has not")
        return sizes

    def places(self) -> dict[str, list[tuple[str, int, int]]]:
        """Name of a permutation -> (tensor, axis, neighbours moved at once), wherever it acts."""
        found: dict[str, list[tuple[str, int, int]]] = {}
        for name, labels in self.axes.items():
            for d, label in enumerate(labels):
                if label is not None:
                    permutation, inner = _read(label, name)
                    found.setdefault(permutation, []).append((name, d, inner))
        return found

    def identity(self, model: nn.Module) -> Permutations:
        """The permutations that leave everything where it is."""
        return {name: torch.arange(size) for name, size in self.sizes(model).items()}

    def random(self, model: nn.Module, generator: torch.Generator | None = None) -> Permutations:
        """Permutations drawn evenly."""
        return {name: torch.randperm(size, generator=generator) for name, size in self.sizes(model).items()}

    def permuted(
        self, name: str, tensor: Tensor, permutations: Mapping[str, Tensor], *, but: int | None = None
    ) -> Tensor:
        """One tensor with the permutations that act on its axes, all `but` one."""
        for d, label in enumerate(self.axes[name]):
            if label is not None and d != but:
                permutation, inner = _read(label, name)
                if permutation in permutations:
                    tensor = tensor.index_select(d, in_blocks(permutations[permutation].to(tensor.device), inner))
        return tensor

    def apply(self, permutations: Mapping[str, Int[Tensor, " _"]], model: nn.Module) -> nn.Module:
        """A copy of the model with its units permuted; the same function, to rounding.

        Applying p and then q is applying `compose(p, q)`.

        Args:
            permutations: name -> (n,), each number below n once; those that are not given are the identity.
            model: with the tensors that the spec names.
        """
        sizes = self.sizes(model)
        for name, permutation in permutations.items():
            if name not in sizes:
                raise ValueError(f"permutations must be those of the spec, {', '.join(sizes)}: got {name!r}")
            if not torch.equal(permutation.sort().values.cpu(), torch.arange(sizes[name])):
                raise ValueError(f"permutation {name!r} must hold each number below {sizes[name]} once")
        new = copy.deepcopy(model)
        with torch.no_grad():
            for name, tensor in tensors_of(new).items():
                tensor.copy_(self.permuted(name, tensor, permutations))
        for p in new.parameters():
            p.grad = None
        return new

    def _try(self, model: nn.Module, inputs: Tensor, out: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        turned = self.apply(self.random(model, generator), model)
        with evaluating(turned), torch.no_grad():
            again = turned(inputs)
        allowed = torch.finfo(out.dtype).eps ** 0.5 * (1 + out.abs().max())
        if not (again - out).abs().max() <= allowed:
            raise ValueError("model must compute the same with its units permuted: its forward pass could not be read")


def compose(first: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> Permutations:
    """The permutations that do what `first` and `then`, applied one after the other, do.

    Args:
        first: applied first.
        then: applied to the result; the same names.

    Example:
        >>> compose({"h": torch.tensor([2, 0, 1])}, {"h": torch.tensor([1, 0, 2])})
        {'h': tensor([0, 2, 1])}
    """
    if set(first) != set(then):
        raise ValueError(f"then must have the permutations of first, {sorted(first)}: got {sorted(then)}")
    return {name: first[name][then[name]] for name in first}


def inverse(permutations: Mapping[str, Tensor]) -> Permutations:
    """The permutations that undo these.

    Example:
        >>> inverse({"h": torch.tensor([2, 0, 1])})
        {'h': tensor([1, 2, 0])}
    """
    return {name: permutation.argsort() for name, permutation in permutations.items()}


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of real numbers that have axes, by name."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: t for name, t in named.items() if t.is_floating_point() and t.ndim}


def in_blocks(permutation: Int[Tensor, " n"], inner: int) -> Int[Tensor, " m"]:
    """The permutation of n blocks of `inner` neighbours."""
    if inner == 1:
        return permutation
    return (permutation[:, None] * inner + torch.arange(inner, device=permutation.device)).flatten()


def _read(label: str, name: str) -> tuple[str, int]:
    permutation, star, inner = label.rpartition("*")
    if not star:
        return label, 1
    if not permutation or not inner.isdecimal() or int(inner) < 1:
        raise ValueError(f"axes of {name!r} must be names, 'name*k' with a whole k, or None: got {label!r}")
    return permutation, int(inner)


def _used_more_than_once(axes: dict[str, tuple[str | None, ...]]) -> dict[str, tuple[str | None, ...]]:
    """Without permutations of axes that nothing in the forward pass was tied to: tensors that it does not use."""
    count: dict[str, int] = {}
    for labels in axes.values():
        for label in labels:
            if label is not None:
                count[_read(label, "")[0]] = count.get(_read(label, "")[0], 0) + 1
    return {
        name: tuple(label if label is not None and count[_read(label, name)[0]] > 1 else None for label in labels)
        for name, labels in axes.items()
    }
