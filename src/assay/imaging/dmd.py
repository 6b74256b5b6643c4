"""Dynamic mode decomposition of the snapshots of a flow: plain, symmetric, or in a time that suits it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class DMD:
    r"""$u_{j+1} \approx A u_j$ within the r leading singular directions of $X = [u_0 \dots u_{m-2}]$.

    $X = U S V^\top$, $Y = [u_1 \dots u_{m-1}]$. Plain: $A = U^\top Y V S^{-1}$. Symmetric: $A = A^\top$ minimising
    $|U^\top Y - A U^\top X|_F$, that is $A G + G A = C + C^\top$ with $G = S^2$ and $C = U^\top Y X^\top U$.

    Args:
        rank: r, at least 1; directions that the snapshots do not have are left out.
        symmetric: whether A is symmetric.

    Attributes after `fit`: `eigenvalues` (r), `modes` (r, ...), `amplitudes` (r), all complex.

    Schmid, 2010; the symmetric variant is Cohen, Azencot, Lifshitz and Gilboa, "Modes of homogeneous gradient flows",
    2021. `assay.probes.DMD` is for training runs that do not fit into memory.

    Raises:
        ValueError: for a rank below 1; when fitted, for fewer than 3 snapshots or values that are not finite.

    Example:
        >>> t = torch.arange(8.0, dtype=torch.float64)
        >>> dmd = DMD(2).fit(torch.stack([0.5**t, 0.9**t, 0.5**t + 0.9**t], dim=1))
        >>> dmd.eigenvalues.real.sort().values
        tensor([0.5000, 0.9000], dtype=torch.float64)
    """

    def __init__(self, rank: int, *, symmetric: bool = False) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1: got {rank}")
        self.rank, self.symmetric = rank, symmetric

    def fit(self, snapshots: Float[Tensor, "m ..."]) -> DMD:
        """Decompose snapshots at equal distances of time."""
        if snapshots.shape[0] < 3:
            raise ValueError(f"snapshots must be at least 3: got {snapshots.shape[0]}")
        if not bool(torch.isfinite(snapshots).all()):
            raise ValueError("snapshots must be finite: got NaN or infinity")
        rows = snapshots.flatten(1)
        left, values, right = torch.linalg.svd(rows[:-1].T, full_matrices=False)
        floor = values[0] * max(rows.shape) * torch.finfo(values.dtype).eps
        r = max(1, min(self.rank, int((values > floor).sum())))
        u, s, v = left[:, :r], values[:r], right[:r].T
        forward = u.T @ rows[1:].T @ v  # U^T Y V
        if self.symmetric:
            c = forward * s
            operator = (c + c.T) / (s[:, None] ** 2 + s**2).clamp_min(torch.finfo(s.dtype).tiny)
        else:
            operator = forward / s.clamp_min(torch.finfo(s.dtype).tiny)
        self.eigenvalues, vectors = torch.linalg.eig(operator)
        start = (u.T @ rows[0]).to(vectors)
        self.amplitudes = torch.linalg.lstsq(vectors, start[:, None]).solution[:, 0]
        self.modes = (u.to(vectors) @ vectors).T.reshape(r, *snapshots.shape[1:])
        self._dtype = snapshots.dtype
        return self

    def reconstruct(self, m: int) -> Float[Tensor, "m ..."]:
        r"""$\sum_i a_i \mu_i^j\, \mathrm{mode}_i$ for j = 0, ..., m - 1; not finite where it diverges.

        Raises:
            ValueError: for less than one.
        """
        if m < 1:
            raise ValueError(f"m must be at least 1: got {m}")
        powers = self.eigenvalues ** torch.arange(m)[:, None]
        return torch.tensordot(powers * self.amplitudes, self.modes, dims=1).real.to(self._dtype)


def rescale_time(snapshots: Float[Tensor, "m ..."]) -> Float[Tensor, " m"]:
    r"""A time in which a flow that decays along a line decays exponentially: $\tau_0 = 0$,
    $\tau_{j+1} - \tau_j = -|u_{j+1} - u_j|^2 / \langle u_{j+1} - u_j, u_j\rangle$.

    Args:
        snapshots: (m, ...), m at least 2, mean-free; steps without movement take no time.

    Cohen and others, 2021, as in the authors' program: the blind normalisation of homogeneity.

    Raises:
        ValueError: for fewer than two snapshots.

    Example:
        >>> rescale_time(torch.tensor([[4.0], [3.0], [2.0], [1.0]]))  # 1/4, 1/3, 1/2
        tensor([0.0000, 0.2500, 0.5833, 1.0833])
    """
    if snapshots.shape[0] < 2:
        raise ValueError(f"snapshots must be at least 2: got {snapshots.shape[0]}")
    rows = snapshots.flatten(1)
    moves = rows.diff(dim=0)
    along = -(moves * rows[:-1]).sum(1)
    steps = torch.where(along == 0, 0.0, moves.square().sum(1) / torch.where(along == 0, 1.0, along))
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)])
