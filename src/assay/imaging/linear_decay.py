"""Modes that fade along a straight line and are gone at a time of their own, found in snapshots."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from assay.imaging.spectral import slopes_of

PARALLEL = 0.9


@dataclass(frozen=True)
class DecayModes:
    r"""$u(t) = \mathrm{steady} + \sum_k \mathrm{modes}_k\, (1 - t / \mathrm{times}_k)^+$.

    `times` (k), `modes` (k, ...), `steady` (...).

    Example:
        >>> modes = DecayModes(torch.tensor([2.0]), torch.tensor([[4.0]]), torch.tensor([1.0]))
        >>> modes.reconstruct(torch.tensor([0.0, 1.0, 3.0])).flatten()
        tensor([5., 3., 1.])
    """

    times: Float[Tensor, " k"]
    modes: Float[Tensor, "k ..."]
    steady: Float[Tensor, "..."]

    def reconstruct(self, times: Float[Tensor, " m"]) -> Float[Tensor, "m ..."]:
        """The snapshots that these modes give."""
        profile = (1 - times[:, None] / self.times).clamp_min(0)
        return self.steady + torch.tensordot(profile, self.modes, dims=1)

    def largest(self, count: int) -> DecayModes:
        """The `count` modes of the greatest norm, by time."""
        if count < 1:
            raise ValueError(f"count must be at least 1: got {count}")
        kept = self.modes.flatten(1).norm(dim=1).topk(min(count, len(self.times))).indices.sort().values
        return DecayModes(self.times[kept], self.modes[kept], self.steady)


def linear_decay_modes(
    snapshots: Float[Tensor, "m ..."], times: Float[Tensor, "..."], *, merge: bool = True, floor: float = 1e-6
) -> DecayModes:
    r"""Decompose snapshots into $\psi_j (1 - t/t_j)^+$, $\psi_j = t_j (\sigma_j - \sigma_{j-1})$, and join split modes.

    $\sigma_j$ is the slope between snapshots j and j + 1, and 0 after the last, which is taken for the steady state:
    the sum then goes through every snapshot. A mode that ends at T between two snapshots shows as two parallel ones,
    whose sum is the mode and whose harmonic time is T,
    $T = (|\psi_j| + |\psi_{j+1}|) / (|\psi_j|/t_j + |\psi_{j+1}|/t_{j+1})$:
    with `merge` such neighbours are joined, exactly, in pairs.

    Args:
        snapshots: (m, ...), m at least 3, finite; the last one steady.
        times: (m,), from 0, increasing.
        merge: whether to join.
        floor: modes whose norm is below this share of that of the first snapshot less the last are dropped; with
            `merge=False` none is. At least 0.

    Cohen, Berkov and Gilboa, 2021 (arXiv:2105.10044): the decomposition by the linear decay profile.

    Differs from the paper: the atoms are found in closed form (second differences of the snapshots), which that
    profile allows, and split ones are joined.

    Raises:
        ValueError: for fewer than three snapshots, times that do not start at 0 or do not increase, a negative floor.

    Example:
        >>> t = torch.arange(6.0, dtype=torch.float64)
        >>> u = torch.stack([(1 - t / 2.5).clamp_min(0), 3 * (1 - t / 4).clamp_min(0)], dim=1)
        >>> linear_decay_modes(u, t).times  # 2.5 lies between two snapshots
        tensor([2.5000, 4.0000], dtype=torch.float64)
    """
    if not floor >= 0:
        raise ValueError(f"floor must be at least 0: got {floor}")
    slopes = slopes_of(snapshots, times)
    steady = snapshots[-1]
    ends = times[1:]
    psi = (ends * (torch.cat([slopes[1:], torch.zeros_like(slopes[:1])]) - slopes).flatten(1).T).T
    if not merge:
        return DecayModes(ends, psi.reshape(-1, *steady.shape), steady)
    size = psi.norm(dim=1)
    large = size > floor * (snapshots[0] - steady).norm()
    cosine = (psi[1:] * psi[:-1]).sum(1) / (size[1:] * size[:-1]).clamp_min(torch.finfo(psi.dtype).tiny)
    join = (large[1:] & large[:-1] & (cosine > PARALLEL)).tolist()
    first, second, j = [], [], 0
    while j < len(size):
        if large[j]:
            first.append(j)
            second.append(j + 1 if j < len(join) and join[j] else -1)
            j += 1 if second[-1] >= 0 else 0
        j += 1
    a = torch.tensor(first, dtype=torch.long)
    b = torch.tensor(second, dtype=torch.long)
    pair = (b >= 0).to(psi)
    modes = psi[a] + pair[:, None] * psi[b]
    amount = size[a] + pair * size[b]
    when = amount / (size[a] / ends[a] + pair * size[b] / ends[b])
    return DecayModes(when, modes.reshape(-1, *steady.shape), steady)
