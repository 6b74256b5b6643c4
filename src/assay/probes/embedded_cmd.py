"""Embedded correlation mode decomposition: weights that have settled on their lines are tied to them for good."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from assay.probes.online_cmd import OnlineCMD


class _Settling(OnlineCMD):
    """Every ``window`` epochs, take hold of the weights whose lines have changed least; how is up to the subclass."""

    def __init__(
        self,
        model: nn.Module,
        num_modes: int = 10,
        num_samples: int = 1000,
        *,
        warmup: int = 20,
        window: int = 10,
        percent: float | int = 10.0,
        relative: bool = False,
        buffers: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, num_modes, num_samples, warmup=warmup, buffers=buffers, generator=generator)
        if window < 1:
            raise ValueError(f"window must be at least 1 epoch, got {window}")
        if not 0 < percent <= 100:
            raise ValueError(f"percent must be in (0, 100], got {percent}")
        self.window = window
        self.percent = percent
        self.relative = relative
        self.embedded: Bool[Tensor, " N"] = torch.zeros(self.layout.size, dtype=torch.bool)
        self._held = torch.empty(0, dtype=torch.long)  # indices of the embedded weights

    @property
    def embedded_fraction(self) -> float:
        """The share of all weights that are held."""
        return len(self._held) / len(self.embedded)

    def on_epoch(self, model: nn.Module) -> None:
        """Take the weights in, put the held ones in their places, and at the end of a window take hold of more."""
        super().on_epoch(model)
        if self.epoch == self.warmup:
            self._kept_scale, self._kept_offset = super()._lines()
        if self.epoch <= self.warmup:
            return
        if (self.epoch - self.warmup) % self.window == 0:
            self._take_hold(self.layout.flatten(model, dtype=torch.float64))
        self._put_in_place(model)

    def _take_hold(self, weights: Tensor) -> None:
        scale, offset = self._lines()
        change = torch.hypot(scale - self._kept_scale, offset - self._kept_offset)
        change[self.embedded] = math.inf
        change[self._index] = math.inf
        candidates = int(change.isfinite().sum())
        of = len(change) - len(self._held) if self.relative else len(change)
        count = min(math.ceil(of * self.percent / 100), candidates)
        chosen = change.topk(count, largest=False, sorted=False).indices
        self._kept_scale, self._kept_offset = scale, offset  # of held weights: what they were when taken
        self.embedded[chosen] = True
        self._held = self.embedded.nonzero()[:, 0]
        self._on_hold(weights)

    def _on_hold(self, weights: Tensor) -> None:
        """What is remembered of newly held weights."""

    def _put_in_place(self, model: nn.Module) -> None:
        """Overwrite the held weights of the model."""
        if len(self._held):
            weights = self.layout.flatten(model, dtype=torch.float64)
            weights[self._held] = self._places(weights)
            self.layout.write(model, weights)

    def _places(self, weights: Tensor) -> Tensor:
        raise TypeError("a subclass says where the held weights belong")


class EmbeddedCMD(_Settling):
    """Tie to their reference, for good, the weights whose lines have stopped changing.

    Every ``window`` epochs after the warm-up, of the weights neither embedded nor references, the ``percent`` (of all
    weights; with ``relative`` of those not yet embedded) with the smallest

        d_i = sqrt((a_i(t) - a_i(t - L))^2 + (b_i(t) - b_i(t - L))^2)

    are embedded: their a_i and b_i are frozen and w_i = a_i w_r + b_i from then on.

    Args:
        model: the network that is trained.
        num_modes: M, at least 1.
        num_samples: K, the weights that are clustered.
        warmup: F, at least 3 epochs.
        window: L, epochs between two rounds of embedding.
        percent: P, in (0, 100].
        relative: P is of the weights not yet embedded.
        tie: ``epoch`` lets all weights train within an epoch and overwrites the embedded ones at its end (as the
            official code does); ``project`` needs `on_step` after every optimizer step and replaces the step of a
            reference and its embedded weights by its orthogonal projection on the line (1, a_i):
            dr = (dr + sum_i a_i dw_i) / (1 + sum_i a_i^2), dw_i = a_i dr.
        buffers: also follow float buffers.
        generator: where the samples are drawn from.

    arXiv:2312.13247, Algorithm 3 (embedded CMD).

    Differs from the paper: weights are put on their line at the moment they are embedded (the official code waits for
    the end of the next epoch); references never count towards P.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> model = nn.Linear(3, 1, bias=False)
        >>> cmd = EmbeddedCMD(model, num_modes=1, warmup=3, window=1, percent=50)
        >>> for t in (0.0, 1.0, 2.0, 3.0):
        ...     _ = model.weight.data.copy_(torch.tensor([[t, 2 * t + 1, t**2]]))
        ...     cmd.on_epoch(model)
        >>> cmd.embedded_fraction == 2 / 3
        True
    """

    def __init__(
        self,
        model: nn.Module,
        num_modes: int = 10,
        num_samples: int = 1000,
        *,
        warmup: int = 20,
        window: int = 10,
        percent: float | int = 10.0,
        relative: bool = False,
        tie: Literal["epoch", "project"] = "epoch",
        buffers: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            model, num_modes, num_samples, warmup=warmup, window=window, percent=percent, relative=relative,
            buffers=buffers, generator=generator,
        )  # fmt: skip
        if tie not in ("epoch", "project"):
            raise ValueError(f"tie must be 'epoch' or 'project', got {tie!r}")
        self.tie = tie
        self._steps = 0

    def on_epoch(self, model: nn.Module) -> None:
        """As `OnlineCMD.on_epoch`; then embedded weights are put on their lines, and a window's end embeds more.

        Raises:
            RuntimeError: ``tie="project"`` and no `on_step` since the last epoch, though there are embedded weights.
        """
        if self.tie == "project" and len(self._held) and not self._steps:
            raise RuntimeError("tie='project' needs on_step(model) after every optimizer step, got none this epoch")
        self._steps = 0
        super().on_epoch(model)

    def on_step(self, model: nn.Module) -> None:
        """With ``tie="project"``: project the optimizer step just made; nothing otherwise."""
        self._steps += 1
        if self.tie != "project" or not len(self._held):
            return
        weights = self.layout.flatten(model, dtype=torch.float64)
        step = weights[self._index] - self._tied_reference
        scale, label = self._held_scale, self._held_mode
        own_step = weights[self._held] - (scale * self._tied_reference[label] + self._held_offset)
        step = step.index_add(0, label, scale * own_step) / self._held_square
        reference = self._tied_reference + step
        weights[self._index] = reference if self._wide else reference.float().double()  # as the model will hold it
        weights[self._held] = self._places(weights)
        self.layout.write(model, weights)

    def _lines(self) -> tuple[Tensor, Tensor]:
        scale, offset = super()._lines()
        if len(self._held):
            scale[self._held] = self._held_scale
            offset[self._held] = self._held_offset
        return scale, offset

    def _on_hold(self, weights: Tensor) -> None:
        self._held_scale, self._held_offset = self._kept_scale[self._held], self._kept_offset[self._held]
        self._held_mode = self._mode.int()[self._held].long()
        ones = torch.ones(len(self._index), dtype=torch.float64)
        self._held_square = ones.index_add(0, self._held_mode, self._held_scale.square())  # 1 + sum_i a_i^2

    def _places(self, weights: Tensor) -> Tensor:
        self._tied_reference = weights[self._index]
        return self._held_scale * self._tied_reference[self._held_mode] + self._held_offset


class FrozenWeights(_Settling):
    """The opponent of `EmbeddedCMD`: weights chosen by the same rule on the same schedule stay at their values.

    What embedding claims for the modes could be had by freezing if late in training most weights hardly moved. With
    `on_step` after every optimizer step the frozen weights never move; without it they are put back at the end of an
    epoch. Arguments, refusals and `embedded` are those of `EmbeddedCMD`.

    Example:
        >>> model = nn.Linear(3, 1, bias=False)
        >>> frozen = FrozenWeights(model, num_modes=1, warmup=3, window=1, percent=100)
        >>> for t in (0.0, 1.0, 2.0, 3.0, 4.0):
        ...     _ = model.weight.data.copy_(torch.tensor([[t, 2 * t + 1, 5 * t - 1]]))
        ...     frozen.on_epoch(model)
        >>> int((model.weight == torch.tensor([[3.0, 7.0, 14.0]])).sum())      # all but the reference
        2
    """

    _frozen = torch.empty(0, dtype=torch.long)
    _values = torch.empty(0, dtype=torch.float64)

    def on_step(self, model: nn.Module) -> None:
        """Put the frozen weights back after an optimizer step."""
        self._put_in_place(model)

    def _on_hold(self, weights: Tensor) -> None:
        weights = weights.clone()
        weights[self._frozen] = self._values
        self._frozen, self._values = self._held, weights[self._held]

    def _places(self, weights: Tensor) -> Tensor:
        return self._values
