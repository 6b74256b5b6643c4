"""Distances between numbers, vectors, distributions, positive definite matrices and directions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_finite

KINDS = ("euclidean", "wasserstein1d", "spd_frobenius", "spd_log_euclidean", "sphere")


def metric_distances(y: Float[Tensor, "n ..."], kind: str = "euclidean") -> Float[Tensor, "n n"]:
    r"""All distances $d(y_i, y_j)$ in one of five metric spaces.

    - `"euclidean"`: $\|y_i - y_j\|$; y (n) or (n, q).
    - `"wasserstein1d"`: the 2-Wasserstein distance between distributions on the line, each given by m draws, or by its
      quantiles at m evenly spaced levels: the root mean square difference of sorted rows; y (n, m).
    - `"spd_frobenius"`: $\|y_i - y_j\|_F$; y (n, k, k), symmetric positive definite.
    - `"spd_log_euclidean"`: $\|\log y_i - \log y_j\|_F$ with matrix logarithms; y (n, k, k), likewise.
    - `"sphere"`: the angle $\arccos \langle y_i, y_j \rangle$ in radians; y (n, q), rows of length 1.

    Args:
        y: responses, one a row.
        kind: which of the five.

    Raises:
        ValueError: for an unknown kind, a shape that is not its own, entries that are not finite, matrices that are not
            symmetric and positive definite, directions that are not of length 1.

    Example:
        >>> turned = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> metric_distances(turned, "sphere")[0]
        tensor([0.0000, 1.5708, 3.1416])
        >>> metric_distances(torch.tensor([[0.0, 4.0], [5.0, 1.0]]), "wasserstein1d")[0, 1].item()  # 0 to 1, 4 to 5
        1.0
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}: got {kind!r}")
    matrices = kind.startswith("spd")
    allowed = (1, 2) if kind == "euclidean" else (3,) if matrices else (2,)
    if y.ndim not in allowed or 0 in y.shape or (matrices and y.shape[1] != y.shape[2]):
        shape = {1: "(n) or (n, q)", 2: "(n, q)", 3: "(n, k, k)"}[allowed[0]]
        raise ValueError(f"y must be {shape} for {kind}: got {tuple(y.shape)}")
    check_finite(y=y)
    if matrices:
        values, vectors = torch.linalg.eigh(y)
        if (y - y.mT).abs().max() > 1e-5 * y.abs().max() or values.min() <= 0:
            raise ValueError(f"y must be symmetric and positive definite: got a least eigenvalue of {values.min():.3g}")
        if kind == "spd_log_euclidean":
            y = vectors * values.log()[:, None] @ vectors.mT
    if kind == "sphere":
        length = y.norm(dim=1)
        if (length - 1).abs().max() > 1e-4:
            raise ValueError(f"y must have rows of length 1: got one of {length[(length - 1).abs().argmax()]:.4g}")
        y = y / length[:, None]
    rows = y.sort(1).values / y.shape[1] ** 0.5 if kind == "wasserstein1d" else y.reshape(len(y), -1)
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return 2 * (distances / 2).clamp(max=1).asin() if kind == "sphere" else distances
