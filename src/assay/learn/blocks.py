"""A network as a chain of blocks: the form on which rules with local structure agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.modules import pooling
from torch.nn.modules.batchnorm import _BatchNorm

# Modules without weights that prepare what comes next, and go with it; all others go with the weights before them.
LEADING = (
    nn.Flatten,
    nn.Unflatten,
    pooling._AdaptiveAvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
)


class BlockChain(nn.Sequential):
    r"""Blocks $f_1, \dots, f_M$, each a module that takes one tensor and gives one: $f_M \circ \dots \circ f_1$.

    It is an `nn.Sequential` (forward, indexing, length), with three more ways to walk it. What a rule asks of a network
    is where its blocks end, nothing else: a block may hold residual connections, attention, anything.

    Args:
        blocks: the blocks, in order; one at least.

    Raises:
        ValueError: for no block, or a block that stands (or shares a weight) in two places.
        TypeError: for what is not a module.

    Example:
        >>> chain = BlockChain(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2))
        >>> x = torch.ones(1, 4)
        >>> outputs = list(chain.local(x))
        >>> outputs[1].sum().backward()  # the graph of a block ends at its input
        >>> chain[1].weight.grad is None, chain[0][0].weight.grad is None
        (False, True)
        >>> torch.equal(outputs[1], chain(x))
        True
    """

    def __init__(self, *blocks: nn.Module) -> None:
        for block in blocks:
            if not isinstance(block, nn.Module):
                raise TypeError(f"blocks must be modules: got {type(block).__name__}")
        if not blocks:
            raise ValueError("blocks must be at least one: got none")
        owners: dict[int, int] = {}
        for index, block in enumerate(blocks):
            for p in block.parameters():
                if owners.setdefault(id(p), index) != index:
                    raise ValueError(f"blocks must not share weights: blocks {owners[id(p)]} and {index} do")
        super().__init__(*blocks)

    def __getitem__(self, index: int | slice) -> Any:
        """One block, or some of them as a chain."""
        return BlockChain(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    @classmethod
    def of(cls, model: nn.Module) -> BlockChain:
        """The same modules as a chain: a new block at every module that holds a matrix or kernel of weights.

        Nested `nn.Sequential`s are walked; any other module stays whole (a residual block, a transformer block). Norms,
        activations, pooling and dropout go with the weights before them, what flattens or pools to a fixed size with
        those after it. The chain computes what the model computes, with the model's own parameters: training one trains
        both.

        Args:
            model: an `nn.Sequential`, or a chain, which is returned as it is.

        Raises:
            TypeError: for a model with a forward of its own, whose order of computation cannot be read off; name its
                parts yourself: `BlockChain(part, part, ...)`.
            ValueError: when no module holds a matrix of weights.

        Example:
            >>> from assay.nn import smallcnn
            >>> chain = BlockChain.of(smallcnn(widths=(4, 8)))
            >>> [[type(m).__name__ for m in block] for block in chain]
            [['Conv2d', 'BatchNorm2d', 'ReLU'], ['Conv2d', 'BatchNorm2d', 'ReLU'], ['AdaptiveAvgPool2d', 'Flatten',
            'Linear']]
        """
        if isinstance(model, BlockChain):
            return model
        if not isinstance(model, nn.Sequential):
            raise TypeError(
                f"model must be an nn.Sequential for BlockChain.of: {type(model).__name__} has a forward of its own; "
                "build BlockChain(part, part, ...) from its parts"
            )
        groups: list[list[nn.Module]] = []
        waiting: list[nn.Module] = []
        for module in _leaves(model):
            if any(p.ndim > 1 for p in module.parameters()):
                groups.append([*waiting, module])
                waiting = []
            elif not groups or waiting or isinstance(module, LEADING):
                waiting.append(module)
            else:
                groups[-1].append(module)
        if not groups:
            raise ValueError("model must hold at least one matrix or kernel of weights: it holds none")
        groups[-1] += waiting
        return cls(*(group[0] if len(group) == 1 else nn.Sequential(*group) for group in groups))

    def local(self, x: Shaped[Tensor, "..."]) -> Iterator[Tensor]:
        """The output of each block on a detached input: a backward pass from one stays inside its block.

        A block runs when it is asked for, so that a caller who is done with one output before the next holds the graph
        of one block at a time.
        """
        for block in self:
            x = block(x.detach())
            yield x

    def joint(self, x: Shaped[Tensor, "..."]) -> Iterator[Tensor]:
        """The output of each block, with the graph of all blocks before it."""
        for block in self:
            x = block(x)
            yield x

    def shapes(self, x: Shaped[Tensor, "..."]) -> list[tuple[int, ...]]:
        """The shape of each block's output for one example, found by running `x` in evaluation mode.

        Args:
            x: (n, ...), examples as the chain takes them; one is enough.

        Example:
            >>> BlockChain(nn.Conv2d(1, 4, 3), nn.Flatten()).shapes(torch.zeros(2, 1, 5, 5))
            [(4, 3, 3), (36,)]
        """
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                return [tuple(out.shape[1:]) for out in self.joint(x[:1])]
        finally:
            for module, mode in modes:
                module.training = mode

    def must_be(self, model: nn.Module) -> None:
        """Refuse a model that this chain is not.

        Raises:
            ValueError: when a weight of one is not a weight of the other, naming it.
        """
        if model is self:
            return
        own = {id(p) for p in self.parameters()}
        for name, p in model.named_parameters():
            if id(p) not in own:
                raise ValueError(f"model must be the one whose blocks the rule has: its weight {name!r} is in no block")
        there = {id(p) for p in model.parameters()}
        for name, p in self.named_parameters():
            if id(p) not in there:
                raise ValueError(f"model must be the one whose blocks the rule has: it lacks the weight {name!r}")


def chain_of(blocks: nn.Module, *, least: int = 1) -> BlockChain:
    """What a rule is given as `blocks`, as a chain of at least `least` of them.

    Raises:
        TypeError: as `BlockChain.of`.
        ValueError: for fewer blocks.

    Example:
        >>> chain_of(nn.Sequential(nn.Linear(2, 2)), least=2)
        Traceback (most recent call last):
        ValueError: blocks must be at least 2: got 1
    """
    chain = BlockChain.of(blocks)
    if len(chain) < least:
        raise ValueError(f"blocks must be at least {least}: got {len(chain)}")
    return chain


@contextmanager
def running_statistics_kept(*modules: nn.Module) -> Iterator[None]:
    """Batch norms normalize as their mode says inside, but do not update their running statistics.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with running_statistics_kept(norm):
        ...     out = norm(torch.tensor([[5.0, 0.0], [7.0, 0.0]]))
        >>> out[:, 0].round().tolist(), norm.running_mean.tolist()
        ([-1.0, 1.0], [0.0, 0.0])
    """
    norms = [
        (m, m.track_running_stats)
        for module in modules
        for m in module.modules()
        if isinstance(m, _BatchNorm) and m.training
    ]
    for norm, _ in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, tracked in norms:
            norm.track_running_stats = tracked


def add_gradients(parameters: Iterable[Tensor], gradients: Iterable[Float[Tensor, "..."] | None]) -> None:
    """Add gradients to `.grad`, as a backward pass would; None adds nothing."""
    for p, g in zip(parameters, gradients, strict=True):
        if g is not None:
            p.grad = g if p.grad is None else p.grad + g


def _leaves(model: nn.Sequential) -> Iterator[nn.Module]:
    for module in model:
        if isinstance(module, nn.Sequential):
            yield from _leaves(module)
        else:
            yield module
