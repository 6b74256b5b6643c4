"""Dynamic mode decomposition of a trajectory: one linear map that takes each snapshot to the next."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from assay.probes.chunks import (
    CHUNK,
    check_chunk,
    check_trajectory,
    combination_error,
    combine,
    error_ratio,
    read_moves,
)
from assay.probes.trajectory import Trajectory


class DMD:
    """Exact (unregularised) dynamic mode decomposition, rolled out from the first snapshot.

    X0 = W[:-1]^T, X1 = W[1:]^T,  X0 = U S V^T cut to rank r,  A = U^T X1 V S^-1,
    z(0) = U^T w(0),  z(t+1) = A z(t),  w(t) = U z(t)

    Everything comes from the T x T matrix G = W W^T of products of snapshots (summed in float64 over chunks):
    X0^T X0 and X0^T X1 are parts of it, and U z is a combination of snapshots.

    Args:
        rank: r, at least 1 and below the number of snapshots; directions that the snapshots do not have (in float64
            rounding) are left out.
        chunk: columns read at a time; no influence on the result.

    Schmid, "Dynamic mode decomposition of numerical and experimental data" (2010); Tu et al., "On dynamic mode
    decomposition" (2014), Algorithm 2.

    Raises:
        ValueError: an argument outside its range, fewer than 3 snapshots, non-finite weights.

    Example:
        >>> t = torch.arange(8.0, dtype=torch.float64)
        >>> weights = torch.stack([0.5**t, 0.9**t, 0.5**t + 0.9**t], dim=1)
        >>> dmd = DMD(rank=2).fit(Trajectory.from_weights(weights))
        >>> [round(value, 6) for value in dmd.eigenvalues.real.tolist()]
        [0.9, 0.5]
        >>> torch.allclose(dmd.forecast(2)[1], torch.tensor(0.9, dtype=torch.float64) ** 9)
        True
    """

    def __init__(self, rank: int, *, chunk: int = CHUNK) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.rank = rank
        self.chunk = check_chunk(chunk)

    def fit(self, trajectory: Trajectory) -> DMD:
        """Decompose a trajectory; it is read again by `reconstruct` and `forecast`."""
        self._rows = check_trajectory(trajectory)
        count = len(self._rows)
        if self.rank >= count:
            raise ValueError(f"rank must be below the {count} snapshots, got {self.rank}")
        gram = torch.zeros(count, count, dtype=torch.float64)
        self._moved = 0.0
        for _, first, moves in read_moves(trajectory, self._rows, self.chunk):
            self._moved += float((moves - moves.mean(0)).square_().sum(dtype=torch.float64))
            weights = moves.double().add_(first)
            gram += weights @ weights.T
        if not torch.isfinite(gram).all():
            raise ValueError("weights must be small enough to be squared in float64")
        values, vectors = torch.linalg.eigh(gram[:-1, :-1])
        real = int((values > values[-1] * count * torch.finfo(torch.float64).eps).sum()) if values[-1] > 0 else 0
        kept = min(self.rank, real)
        singular, vectors = values.flip(0)[:kept].sqrt(), vectors.flip(1)[:, :kept]
        self._trajectory = trajectory
        self._basis = vectors / singular  # U = X0 @ basis
        self._operator = self._basis.T @ gram[:-1, 1:] @ self._basis
        self._inside = self._basis.T @ gram[:-1]  # U^T w(t) in column t
        eigenvalues = torch.linalg.eigvals(self._operator)
        self.eigenvalues: Complex[Tensor, " r"] = eigenvalues[eigenvalues.abs().argsort(descending=True)]
        self._gram = gram
        return self

    @property
    def bytes_per_weight(self) -> int:
        """What is stored for each weight: one number a mode."""
        return 4 * len(self.eigenvalues)

    def reconstruct(self, t: int = -1) -> Float[Tensor, " N"]:
        """The weight vector at snapshot ``t`` of the roll-out from the first (negative counts from the end).

        Raises:
            ValueError: ``t`` is not a snapshot, or the roll-out has overflowed by then.
        """
        count = len(self._rows)
        if not -count <= t < count:
            raise ValueError(f"t must be in [{-count}, {count}), got {t}")
        return self._weights(self._rollout()[t % count])

    def forecast(self, steps: int = 1) -> Float[Tensor, " N"]:
        """The weight vector ``steps`` snapshots after the last one, rolled out from the last one."""
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        return self._weights(torch.linalg.matrix_power(self._operator, steps) @ self._inside[:, -1])

    def relative_error(self, trajectory: Trajectory | None = None) -> float:
        """||W - What||_F^2 / ||W - time mean||_F^2 for the roll-out from the first snapshot.

        Above 1 for a roll-out worse than constants, infinite for one that overflows; never NaN. Without an argument
        from the Gram matrix, at no cost; with the trajectory by comparing every weight.
        """
        coefficients = self._rollout() @ self._onto_snapshots()
        if trajectory is None:
            residual = torch.eye(len(self._rows), dtype=torch.float64) - coefficients
            return error_ratio(float((residual @ self._gram * residual).sum()), self._moved)
        if (trajectory.epochs, trajectory.size) != (len(self._rows), self._trajectory.size):
            raise ValueError(
                f"trajectory must be {len(self._rows)} x {self._trajectory.size}, "
                f"got {trajectory.epochs} x {trajectory.size}"
            )
        return combination_error(trajectory, coefficients, self._rows, self.chunk)

    def _rollout(self) -> Float[Tensor, "T r"]:
        """z(0) ... z(T-1)."""
        states = [self._inside[:, 0]]
        for _ in self._rows[1:]:
            states.append(self._operator @ states[-1])
        return torch.stack(states)

    def _onto_snapshots(self) -> Float[Tensor, "r T"]:
        """U^T as combinations of the snapshots: the last one is not part of X0."""
        return torch.cat([self._basis.T, torch.zeros(self._basis.shape[1], 1, dtype=torch.float64)], dim=1)

    def _weights(self, state: Float[Tensor, " r"]) -> Float[Tensor, " N"]:
        if not torch.isfinite(state).all():
            raise ValueError("the roll-out diverged: its weights have overflowed at this step")
        return combine(self._trajectory, (state @ self._onto_snapshots())[None], self._rows, self.chunk)[0]
