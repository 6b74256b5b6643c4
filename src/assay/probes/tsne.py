"""t-SNE: points in the plane whose neighbours are those of points in many dimensions."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDS = 60


def tsne(
    points: Float[Tensor, "n d"],
    *,
    perplexity: float = 30.0,
    steps: int = 500,
    exaggeration: float = 12.0,
    exaggerated: int = 150,
) -> Float[Tensor, "n 2"]:
    r"""Plane positions that minimise $\mathrm{KL}(P \| Q)$, $q_{ij} \propto (1 + \|y_i - y_j\|^2)^{-1}$.

    $P$ is `neighbour_probabilities`. Started from the first two principal components, so that nothing is random; exact
    gradients, momentum 0.5 and then 0.8, gains as in the paper.

    Args:
        points: (n, d), at least 4 of them. Memory and time grow with n squared.
        perplexity: above 1 and below n - 1.
        steps: of gradient descent.
        exaggeration: P is multiplied by it at first, which forms clusters early; at least 1.
        exaggerated: for how many steps.

    van der Maaten and Hinton, 2008, algorithm 1.

    Differs from the paper: the start, and the learning rate, which is $\max(n / (4 \cdot \mathrm{exaggeration}), 50)$
    (Belkina et al., 2019).

    Raises:
        ValueError: for too few points, a perplexity out of range, steps below 1, an exaggeration below 1.

    Example:
        >>> points = torch.cat([torch.eye(20), torch.eye(20) + 20.0])
        >>> plane = tsne(points, perplexity=8.0)
        >>> gaps = torch.cdist(plane, plane)
        >>> bool(gaps[:20, :20].max() < gaps[:20, 20:].min())
        True
    """
    n = len(points)
    if steps < 1:
        raise ValueError(f"steps must be at least 1: got {steps}")
    if not exaggeration >= 1:
        raise ValueError(f"exaggeration must be at least 1: got {exaggeration}")
    given = neighbour_probabilities(points, perplexity=perplexity)
    joint = (given + given.T) / (2 * n)
    centred = points.double() - points.double().mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    u = (
        u * torch.where(v.gather(1, v.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0).T
    )  # signs that do not depend on the solver
    plane = torch.nn.functional.pad(u[:, :2] * s[:2], (0, max(0, 2 - u.shape[1])))
    plane = plane / plane[:, 0].std().clamp_min(1e-12) * 1e-4
    rate = max(n / (4 * exaggeration), 50.0)
    moved, gains = torch.zeros_like(plane), torch.ones_like(plane)
    for step in range(steps):
        early = step < exaggerated
        gradient = tsne_gradient(plane, joint * exaggeration if early else joint)
        gains = torch.where(gradient * moved < 0, gains + 0.2, gains * 0.8).clamp_min(0.01)
        moved = (0.5 if early else 0.8) * moved - rate * gains * gradient
        plane = plane + moved
    return plane.to(points.dtype if points.is_floating_point() else plane.dtype)


def neighbour_probabilities(points: Float[Tensor, "n d"], *, perplexity: float = 30.0) -> Float[Tensor, "n n"]:
    r"""How likely each point is to pick each other as its neighbour.

    $p_{j | i} \propto \exp(-\beta_i \|x_i - x_j\|^2)$, 0 for itself, each $\beta_i$ such that $\exp H_i$ is the
    perplexity.

    Args:
        points: (n, d), at least 4.
        perplexity: above 1 and below n - 1.

    van der Maaten and Hinton, 2008, equation 1.

    Raises:
        ValueError: for too few points or not finite ones, a perplexity out of range.

    Example:
        >>> near = neighbour_probabilities(torch.tensor([[0.0], [1.0], [3.0], [9.0]]), perplexity=1.5)
        >>> torch.special.entr(near).sum(1).exp()
        tensor([1.5000, 1.5000, 1.5000, 1.5000], dtype=torch.float64)
    """
    n = len(points)
    if points.ndim != 2 or n < 4 or not points.isfinite().all():
        raise ValueError(f"points must be (n, d), 4 or more, finite: got {tuple(points.shape)}")
    if not 1 < perplexity < n - 1:
        raise ValueError(f"perplexity must lie between 1 and {n - 1}: got {perplexity}")
    gaps = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    itself = torch.eye(n, dtype=torch.bool, device=points.device)
    gaps = gaps.masked_fill(itself, torch.inf)
    gaps = gaps - gaps.amin(1, keepdim=True)  # a common factor of a row, and nothing underflows
    scale = gaps.masked_fill(itself, 0).sum(1, keepdim=True) / (n - 1)
    gaps = gaps / torch.where(scale > 0, scale, 1.0)
    low, high = torch.full((n, 1), -30.0).to(gaps), torch.full((n, 1), 30.0).to(gaps)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        p = torch.softmax(-middle.exp() * gaps, 1)
        flat = torch.special.entr(p).sum(1, keepdim=True) > math.log(perplexity)
        low, high = torch.where(flat, middle, low), torch.where(flat, high, middle)
    return torch.softmax(-((low + high) / 2).exp() * gaps, 1)


def tsne_gradient(plane: Float[Tensor, "n 2"], joint: Float[Tensor, "n n"]) -> Float[Tensor, "n 2"]:
    r"""$4 \sum_j (p_{ij} - q_{ij}) (y_i - y_j) (1 + \|y_i - y_j\|^2)^{-1}$.

    Args:
        plane: y.
        joint: p, symmetric.

    van der Maaten and Hinton, 2008, equation 5.

    Example:
        >>> tsne_gradient(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.6], [0.6, 0.0]]))
        tensor([[-0.2000,  0.0000],
                [ 0.2000,  0.0000]])
    """
    near = 1 / (1 + torch.cdist(plane, plane, compute_mode="donot_use_mm_for_euclid_dist").square())
    near = near - torch.diag(near.diagonal())
    pull = (joint - near / near.sum()) * near
    return 4 * (pull.sum(1, keepdim=True) * plane - pull @ plane)
