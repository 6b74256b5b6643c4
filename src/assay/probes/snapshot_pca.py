"""Principal components of a trajectory's snapshots, through their small Gram matrix (method of snapshots)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from assay.probes.chunks import CHUNK, check_chunk, check_trajectory, combination_error, combine, read_moves
from assay.probes.trajectory import Trajectory


class SnapshotPCA:
    """The best model of a trajectory by its time mean and ``rank`` fixed directions.

    G = (W - mean)(W - mean)^T = V L V^T,   What = mean + V_r V_r^T (W - mean)

    The T x T matrix G replaces the singular value decomposition of the T x N matrix W, whose squared singular values
    are L. It is summed in float64 over chunks of products of movements since the first snapshot.

    Args:
        rank: number of components, at least 1. A trajectory of T snapshots has at most T - 1; fewer are used when
            there are fewer (``explained`` says how many).
        chunk: columns read at a time; no influence on the result.

    Sirovich, "Turbulence and the dynamics of coherent structures" (1987), Part I, the method of snapshots.

    Raises:
        ValueError: an argument outside its range, fewer than 3 snapshots, rank above their number, non-finite weights.

    Example:
        >>> t = torch.arange(5.0, dtype=torch.float64)
        >>> pca = SnapshotPCA(rank=1).fit(Trajectory.from_weights(torch.stack([t, 3 * t + 1], dim=1)))
        >>> [round(share, 9) for share in pca.explained.tolist()], pca.reconstruct(2).round(decimals=9).tolist()
        ([1.0], [2.0, 7.0])
    """

    def __init__(self, rank: int, *, chunk: int = CHUNK) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.rank = rank
        self.chunk = check_chunk(chunk)

    def fit(self, trajectory: Trajectory) -> SnapshotPCA:
        """Decompose a trajectory; it is read again by `reconstruct` and `components`."""
        self._rows = check_trajectory(trajectory)
        count = len(self._rows)
        if self.rank > count:
            raise ValueError(f"rank must be at most the {count} snapshots, got {self.rank}")
        gram = torch.zeros(count, count, dtype=torch.float64)
        for _, _, moves in read_moves(trajectory, self._rows, self.chunk):
            moves -= moves.mean(0)
            gram += moves @ moves.T
        if not torch.isfinite(gram).all():
            raise ValueError("weights must be below about 1e18 to be squared in float32")
        values, vectors = torch.linalg.eigh(gram)
        precision = torch.finfo(torch.promote_types(trajectory.dtype, torch.float32)).eps
        real = int((values > values[-1] * count * precision).sum()) if values[-1] > 0 else 0
        kept = min(self.rank, real, count - 1)
        self._trajectory = trajectory
        self._total = float(values.clamp(min=0).sum())
        self.values: Float[Tensor, " r"] = values.flip(0)[:kept]  # squared singular values
        self._vectors = vectors.flip(1)[:, :kept]
        return self

    @property
    def explained(self) -> Float[Tensor, " r"]:
        """The share of the squared movement along each component, largest first."""
        return self.values / self._total if self._total else self.values

    @property
    def bytes_per_weight(self) -> int:
        """What is stored for each weight: mean and components."""
        return 4 * (1 + len(self.values))

    def reconstruct(self, t: int = -1) -> Float[Tensor, " N"]:
        """The modelled weight vector at snapshot ``t`` (negative counts from the end)."""
        count = len(self._rows)
        if not -count <= t < count:
            raise ValueError(f"t must be in [{-count}, {count}), got {t}")
        return combine(self._trajectory, self._coefficients()[t % count][None], self._rows, self.chunk)[0]

    def components(self) -> Float[Tensor, "r N"]:
        """The orthonormal directions in weight space, largest first."""
        weights = self._vectors.T / self.values.sqrt()[:, None]
        return combine(self._trajectory, weights - weights.mean(1, keepdim=True), self._rows, self.chunk)

    def mean(self) -> Float[Tensor, " N"]:
        """The weights averaged over time."""
        count = len(self._rows)
        return combine(
            self._trajectory, torch.full((1, count), 1 / count, dtype=torch.float64), self._rows, self.chunk
        )[0]

    def relative_error(self, trajectory: Trajectory | None = None) -> float:
        """||W - What||_F^2 / ||W - time mean||_F^2: the share of squared movement outside the components.

        Without an argument from the eigenvalues, at no cost; with the trajectory by comparing every weight.
        """
        if trajectory is None:
            return max(0.0, 1 - float(self.values.sum()) / self._total) if self._total else 0.0
        if (trajectory.epochs, trajectory.size) != (len(self._rows), self._trajectory.size):
            raise ValueError(
                f"trajectory must be {len(self._rows)} x {self._trajectory.size}, "
                f"got {trajectory.epochs} x {trajectory.size}"
            )
        return combination_error(trajectory, self._coefficients(), self._rows, self.chunk)

    def _coefficients(self) -> Float[Tensor, "T T"]:
        count = len(self._rows)
        onto: Tensor = self._vectors @ self._vectors.T
        centring: Tensor = torch.eye(count, dtype=torch.float64) - 1 / count
        return onto @ centring + 1 / count
