"""Online correlation mode decomposition: the lines of CMD kept up to date while training goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from assay.probes.chunks import CHUNK, read_moves
from assay.probes.cmd import CMD
from assay.probes.modes import Modes
from assay.probes.trajectory import FEWEST, record


class OnlineCMD:
    """Decompose the first epochs of a run, then follow every weight's line by recursive least squares.

    After ``warmup`` snapshots modes and references stay as they are, and with n snapshots so far, the new weights w
    and their references r:

        d_r = r - mean_r,  mean_r += d_r / n,  d_i = w_i - mean_i,  mean_i += d_i / n,
        S_i += d_i (r - mean_r),  V_r += d_r (r - mean_r),  a_i = S_i / V_r,  b_i = mean_i - a_i mean_r

    which is the offline least-squares fit to all snapshots so far, without their history: two numbers per weight
    (float64) and three per mode are kept, and the paths of the references. Training itself goes on undisturbed; the
    smoothed network a_i w_r + b_i is put into the model by `averaged`.

    Args:
        model: the network that is trained.
        num_modes: M, at least 1.
        num_samples: K, the weights that are clustered.
        warmup: F, snapshots that are kept and decomposed, at least 3.
        buffers: also smooth float buffers (batch-norm running statistics).
        generator: where the samples are drawn from.

    arXiv:2312.13247, Algorithm 2 (online CMD); the Welford form of its equation for A and B.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> online = OnlineCMD(model, num_modes=1, warmup=3)
        >>> for t in (0.0, 1.0, 2.0, 3.0):
        ...     _ = model.weight.data.copy_(torch.tensor([[t, 5 - 2 * t]]))
        ...     online.on_epoch(model)
        >>> online.modes.scale.tolist(), online.modes.offset.tolist()
        ([1.0, -2.0], [0.0, 5.0])
    """

    def __init__(
        self,
        model: nn.Module,
        num_modes: int = 10,
        num_samples: int = 1000,
        *,
        warmup: int = 20,
        buffers: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if warmup < FEWEST:
            raise ValueError(f"warmup must be at least {FEWEST}, got {warmup}")
        self.warmup = warmup
        self.epoch = 0
        self._cmd = CMD(num_modes, num_samples, generator=generator)
        self._model = model
        self._wide = any(p.dtype == torch.float64 for p in model.parameters())
        self._warmup = record(model, buffers=buffers, dtype=torch.float64 if self._wide else torch.float32)
        self.layout = self._warmup.layout
        self._references: list[Tensor] = []  # (M,) an epoch

    @property
    def ready(self) -> bool:
        """Whether the warm-up is over."""
        return self.epoch >= self.warmup

    def on_epoch(self, model: nn.Module) -> None:
        """Take the model's weights in as the next snapshot.

        Raises:
            ValueError: a weight is not finite, a shape changed, or too few weights moved during the warm-up.
        """
        self.epoch += 1
        if self.epoch <= self.warmup:
            self._warmup.append(model)
            if self.epoch == self.warmup:
                self._decompose()
            return
        weights = self.layout.flatten(model, dtype=torch.float64)
        if not torch.isfinite(weights.sum()):
            self._warmup.refuse_non_finite(weights, 0, self.epoch - 1)
        self._observe(weights)

    @property
    def modes(self) -> Modes:
        """The decomposition as it is now; its last snapshot is the smoothed network of this epoch."""
        self._need_modes()
        dtype = torch.float64 if self._wide else torch.float32
        scale, offset = self._lines()
        reference = torch.stack(self._references, dim=1)
        return Modes(
            scale.to(dtype), offset.to(dtype), self._mode, self._index, reference.to(dtype), self.layout
        )  # fmt: skip

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Within the block the model has the smoothed weights; the trained ones come back after it, come what may.

        Raises:
            RuntimeError: the warm-up is not over.
        """
        modes = self.modes
        trained = [tensor.detach().clone() for tensor in self.layout.tensors(self._model)]
        try:
            modes.write(self._model)
            yield self._model
        finally:
            with torch.no_grad():
                for tensor, values in zip(self.layout.tensors(self._model), trained, strict=True):
                    tensor.copy_(values)

    # -- the recursion

    def _decompose(self) -> None:
        modes = self._cmd.fit(self._warmup)
        self._mode, self._index, self._n = modes.mode, modes.reference_index, self.warmup
        reference = self._warmup.take(self._index)
        self._references = list(reference)
        self._reference_mean = reference.mean(0)
        centred = reference - self._reference_mean
        self._reference_moment = centred.square().sum(0)  # V
        self._mean = torch.empty(self.layout.size, dtype=torch.float64)
        self._moment = torch.empty(self.layout.size, dtype=torch.float64)  # S
        for part, first, moves in read_moves(self._warmup, range(self.warmup), CHUNK):
            self._mean[part] = first.double() + moves.double().mean(0)
            products = centred.T @ moves.double()
            self._moment[part] = products.gather(0, self._mode[part].long()[None])[0]
        self._moment[self._index] = self._reference_moment
        self._mean[self._index] = self._reference_mean
        self._warmup = record(self._model, buffers=self.layout.buffers, dtype=self._warmup.dtype)  # the history goes

    def _observe(self, weights: Tensor) -> None:
        """One step of Welford's recursion for means, covariances and reference variances."""
        self._n += 1
        reference = weights[self._index]
        self._references.append(reference)
        ahead = reference - self._reference_mean
        self._reference_mean += ahead / self._n
        behind = reference - self._reference_mean
        difference = weights - self._mean
        self._mean.add_(difference, alpha=1 / self._n)
        self._moment.addcmul_(difference, self._of_mode(behind))
        self._reference_moment += ahead * behind

    def _lines(self) -> tuple[Tensor, Tensor]:
        """a and b of every weight, in float64."""
        scale = self._moment / self._of_mode(self._reference_moment)
        return scale, self._mean - scale * self._of_mode(self._reference_mean)

    def _of_mode(self, values: Tensor) -> Tensor:
        return values.index_select(0, self._mode.int())

    def _need_modes(self) -> None:
        if not self.ready:
            raise RuntimeError(f"no modes before {self.warmup} epochs of warm-up, got {self.epoch}")
