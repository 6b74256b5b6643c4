"""The spectrum of a one-homogeneous flow: what a signal is made of, scale by scale, and filters of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class NonlinearSpectrum:
    r"""$f = \sum_k \phi_k + f_r$: the parts that disappear at the times $t_k$ of the flow, and what is left.

    `times` (k), `phi` (k, ...) and `residual` (...). `from_snapshots` makes one of any flow; `TVFlow.spectrum` gives
    the exact one. Gilboa, "A total variation spectral framework for scale and texture analysis", 2014, equations 7
    to 12.

    Example:
        >>> from assay.imaging import tv_flow
        >>> spectrum = tv_flow(torch.tensor([0.0, 0.0, 3.0, 0.0])).spectrum()
        >>> spectrum.filter(lambda t: (t < 1.1).float())  # 3/4 + (0, 0, 3/2, -3/2)
        tensor([ 0.7500,  0.7500,  2.2500, -0.7500])
    """

    times: Float[Tensor, " k"]
    phi: Float[Tensor, "k ..."]
    residual: Float[Tensor, "..."]

    @classmethod
    def from_snapshots(cls, snapshots: Float[Tensor, "m ..."], times: Float[Tensor, "..."]) -> NonlinearSpectrum:
        r"""$\phi_j = t_j\,(\sigma_j - \sigma_{j-1})$ with the slopes $\sigma_j$ between snapshots, from t = 0 on.

        Raises:
            ValueError: for fewer than three snapshots, times that do not start at 0 or do not grow.
        """
        slopes = slopes_of(snapshots, times)
        inner = times[1:-1].reshape(-1, *[1] * (snapshots.ndim - 1))
        phi = inner * slopes.diff(dim=0)
        return cls(times[1:-1], phi, snapshots[0] - phi.sum(0))

    def power(self, norm: str = "l1") -> Float[Tensor, " k"]:
        r"""How much there is at each time: `"l1"` $\sum|\phi_k|$, or `"parseval"` $\langle\phi_k, f\rangle^{1/2}$.

        Raises:
            ValueError: for another norm.
        """
        flat = self.phi.flatten(1)
        if norm == "l1":
            return flat.abs().sum(1)
        if norm == "parseval":
            return (flat @ (self.phi.sum(0)).flatten()).clamp_min(0).sqrt()
        raise ValueError(f"norm must be l1 or parseval: got {norm!r}")

    def filter(self, transfer: Callable[[Tensor], Tensor], *, residual: float = 1.0) -> Float[Tensor, "..."]:
        """The signal with every part multiplied by `transfer` of its time, and the residual by `residual`."""
        gains = transfer(self.times).to(self.phi)
        return torch.tensordot(gains, self.phi, dims=1) + residual * self.residual

    def band(self, begin: float, end: float) -> Float[Tensor, "..."]:
        """The parts with begin <= t < end, and nothing else."""
        return self.filter(lambda t: ((t >= begin) & (t < end)).to(t), residual=0.0)


def slopes_of(snapshots: Tensor, times: Tensor) -> Tensor:
    """What moves between snapshots per unit of time, after a look at the times."""
    if snapshots.shape[0] < 3:
        raise ValueError(f"snapshots must be at least 3: got {snapshots.shape[0]}")
    if times.shape != snapshots.shape[:1]:
        raise ValueError(f"times must be one a snapshot, {snapshots.shape[0]}: got shape {tuple(times.shape)}")
    if times[0] != 0 or not bool((times.diff() > 0).all()):
        raise ValueError("times must start at 0 and increase")
    if not bool(torch.isfinite(snapshots).all()):
        raise ValueError("snapshots must be finite: got NaN or infinity")
    return snapshots.diff(dim=0) / times.diff().reshape(-1, *[1] * (snapshots.ndim - 1))
