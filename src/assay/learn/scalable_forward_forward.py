"""Scalable forward-forward: blocks learn one by one from a goodness for each class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from assay.learn.blocks import BlockChain, chain_of

LOSSES = ("logistic", "softmax")
VOTES = ("all", "last")
UNITS = 4  # of a class, where a block's output is a vector


class ScalableForwardForward:
    r"""A learning rule, and the classifier it makes: the goodness $g_l[k]$ of class k is read from each block.

    $g_l[k] = \frac{1}{hw} \sum_{ij} (A_l * a_l)_{kij}^2$ with a small convolution $A_l$ of K channels beside block l,
    used for learning and voting only. Block l minimizes

    $$\mathrm{softplus}(\theta - g_l[y]) + \frac{1}{K-1} \sum_{k \ne y} \mathrm{softplus}(g_l[k] - \theta)
    \quad\text{or}\quad \mathrm{CE}(g_l, y)$$

    by backpropagation inside the block, and passes its output on detached and brought to mean 0 and variance 1 (per
    example), so that the next block cannot read the goodness off its length. The right class is the positive example
    and all others are the negative ones: no second pass, no label in the input.

    `rule(model, inputs, targets, loss)` trains; `rule.voter()` is the classifier, a module of its own over the same
    blocks and heads (`accuracy(rule.voter(), data)`). Give `rule.parameters()`, the heads, to the optimizer with the
    model's. The loss that is given is used on the votes, to be returned; nothing learns from it.

    Args:
        blocks: a `BlockChain` or `nn.Sequential`; every block gets a head, so leave the classifier out.
        num_classes: K, at least 2.
        example: one input (1, ...) or more, from which the shapes of the outputs are found.
        kernel: side of the convolution, odd.
        threshold: $\theta$ of the logistic loss, positive.
        objective: `"logistic"` (forward-forward's own) or `"softmax"`.
        votes: `"all"` blocks' mean goodness decides, or the `"last"` one's.

    Krutsylo, 2025 (arXiv:2501.03176), section 3. Outputs that are vectors (and tokens, of which each is a place) have a
    linear head with four units a class.

    Differs from the paper: its loss on the goodness is not told, nor the threshold; both forms are here. For a strict
    forward-forward give a chain with one weight layer a block.

    Raises:
        ValueError: for arguments out of range; when called, for another model.
        TypeError: for a model that is no chain of blocks.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
        >>> rule = ScalableForwardForward(net, 10, torch.zeros(1, 1, 8, 8))
        >>> [tuple(g.shape) for g in rule.goodness(torch.zeros(5, 1, 8, 8))]
        [(5, 10), (5, 10)]
    """

    def __init__(
        self,
        blocks: nn.Module,
        num_classes: int,
        example: Float[Tensor, "..."],
        *,
        kernel: int = 1,
        threshold: float = 1.0,
        objective: str = "logistic",
        votes: str = "all",
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2: got {num_classes}")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and positive: got {kernel}")
        if not 0 < threshold < math.inf:
            raise ValueError(f"threshold must be positive and finite: got {threshold}")
        if objective not in LOSSES:
            raise ValueError(f"objective must be one of {', '.join(LOSSES)}: got {objective!r}")
        if votes not in VOTES:
            raise ValueError(f"votes must be one of {', '.join(VOTES)}: got {votes!r}")
        self.chain: BlockChain = chain_of(blocks)
        self.num_classes, self.threshold, self.objective, self.votes = num_classes, threshold, objective, votes
        heads: list[nn.Module] = []
        for shape in self.chain.shapes(example):
            if len(shape) == 3:
                heads.append(nn.Conv2d(shape[0], num_classes, kernel, padding=kernel // 2))
            else:
                heads.append(nn.Linear(shape[-1], num_classes * UNITS))
        device = next(iter(self.chain.parameters())).device
        self.heads = nn.ModuleList(heads).to(device)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The heads'."""
        return self.heads.parameters()

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        """Fill the gradients, block after block; the loss at the votes is returned."""
        self.chain.must_be(model)
        found = []
        for good in self._walk(inputs):
            self.block_loss(good, targets).backward()
            found.append(good.detach())
        return loss(self._vote(found), targets)

    def block_loss(self, goodness: Float[Tensor, "n k"], targets: Tensor) -> Float[Tensor, ""]:
        """The loss of one block at its goodness, the mean over the batch."""
        if self.objective == "softmax":
            return F.cross_entropy(goodness, targets)
        right = F.one_hot(targets, self.num_classes).to(goodness)
        below, above = F.softplus(self.threshold - goodness), F.softplus(goodness - self.threshold)
        return (right * below + (1 - right) * above / (self.num_classes - 1)).sum(1).mean()

    def goodness(self, inputs: Float[Tensor, "n ..."]) -> list[Float[Tensor, "n k"]]:
        """That of each block, in the mode the blocks are in, without gradients."""
        with torch.no_grad():
            return list(self._walk(inputs))

    def predict(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        """The mean goodness of the blocks that vote, in the mode they are in."""
        return self._vote(self.goodness(inputs))

    def voter(self) -> nn.Module:
        """A module that predicts, over the same blocks and heads."""
        return _Voter(self)

    def state_dict(self) -> dict[str, Any]:
        """The heads'."""
        return self.heads.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.heads.load_state_dict(state)

    def _walk(self, x: Tensor) -> Iterator[Tensor]:
        for block, head in zip(self.chain, self.heads, strict=True):
            out = block(x.detach())
            yield self._goodness(head(out).square())
            x = F.layer_norm(out.detach(), out.shape[1:])

    def _goodness(self, squares: Tensor) -> Tensor:
        """Means over the units of a class and over places."""
        if squares.ndim == 4:
            return squares.mean((2, 3))
        good = squares.unflatten(-1, (self.num_classes, UNITS)).mean(-1)
        return good.mean(1) if good.ndim == 3 else good

    def _vote(self, found: list[Tensor]) -> Tensor:
        return found[-1] if self.votes == "last" else torch.stack(found).mean(0)


class _Voter(nn.Module):
    def __init__(self, rule: ScalableForwardForward) -> None:
        super().__init__()
        self.chain, self.heads, self.predict = rule.chain, rule.heads, rule.predict

    def forward(self, inputs: Tensor) -> Tensor:
        return self.predict(inputs)
