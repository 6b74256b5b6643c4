"""Which unit of one network goes with which of another: correlation, matchings, and clusters of both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

METHODS = ("one_to_one", "each_best")
STARTS = 10
ROUNDS = 100


def unit_samples(activation: Float[Tensor, "..."], *, border: int = 0) -> Float[Tensor, "s c"]:
    """A unit's values as one column: every position of a map, and every token, is a sample.

    Args:
        activation: vectors (n, c), maps (n, c, h, w) or sequences with channels first (n, c, t).
        border: positions left out at each edge of maps, where padding makes units of any two networks alike.

    Raises:
        ValueError: for fewer than two dimensions, a border that is negative or leaves nothing.

    Example:
        >>> unit_samples(torch.arange(8.0).view(1, 2, 2, 2))
        tensor([[0., 4.],
                [1., 5.],
                [2., 6.],
                [3., 7.]])
    """
    if activation.ndim < 2:
        raise ValueError(f"activation must be (n, c, ...): got {tuple(activation.shape)}")
    sides = activation.shape[2:]
    if border < 0 or any(side <= 2 * border for side in sides):
        raise ValueError(f"border must be at least 0 and leave some of {tuple(sides)}: got {border}")
    for dim in range(2, activation.ndim):
        activation = activation.narrow(dim, border, activation.shape[dim] - 2 * border)
    return activation.movedim(1, -1).flatten(0, -2)


class UnitCorrelation:
    r"""Pearson correlation between the units of two networks, gathered batch by batch.

    $r_{ij} = \mathrm E[(a_i - \mu_i)(b_j - \mu_j)] / (\sigma_i \sigma_j)$, accumulated in float64 by merging the
    moments of batches, so that neither means far from 0 nor the size of batches count. A unit that is dead, of standard
    deviation below `dead` times the largest of its network, gets 0 with all others.

    Args:
        dead: a share in [0, 1).

    Li et al., 2015 (arXiv:1511.07543), section 2.2.

    Raises:
        ValueError: for `dead` out of range; batches of different numbers of samples, or values that are not finite.

    Example:
        >>> both = UnitCorrelation()
        >>> both.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0, 7.0], [4.0, 7.0]]))
        >>> both.update(torch.tensor([[4.0]]), torch.tensor([[3.0, 7.0]]))
        >>> both.value()        # 1, 2, 4 against 2, 4, 3 and against a constant
        tensor([[0.3273, 0.0000]], dtype=torch.float64)
        >>> both.dead_units()
        (tensor([False]), tensor([False,  True]))
    """

    def __init__(self, *, dead: float = 1e-6) -> None:
        if not 0 <= dead < 1:
            raise ValueError(f"dead must lie in [0, 1): got {dead}")
        self.dead, self.count = dead, 0
        self.means: tuple[Tensor, Tensor] | None = None
        self.squares: tuple[Tensor, Tensor]
        self.products: Tensor

    def update(self, a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> None:
        """Take a batch, (s, p) and (s, q): rows are the same images (and positions) in both."""
        if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) == 0:
            raise ValueError(f"a and b must be (s, units) with the same s: got {tuple(a.shape)} and {tuple(b.shape)}")
        if not (a.isfinite().all() and b.isfinite().all()):
            raise ValueError("a and b must be finite: got NaN or infinity")
        a, b = a.double(), b.double()
        size, means = len(a), (a.mean(0), b.mean(0))
        a, b = a - means[0], b - means[1]
        squares, products = (a.square().sum(0), b.square().sum(0)), a.T @ b
        if self.means is None:
            self.count, self.means, self.squares, self.products = size, means, squares, products
            return
        if self.products.shape != products.shape:
            raise ValueError(
                f"a and b must have the units of before, {tuple(self.products.shape)}: got {tuple(products.shape)}"
            )
        total = self.count + size
        between = self.count * size / total
        steps = [new - old for new, old in zip(means, self.means, strict=True)]
        self.products = self.products + products + between * torch.outer(*steps)
        self.squares = tuple(  # type: ignore[assignment]
            old + new + between * step**2 for old, new, step in zip(self.squares, squares, steps, strict=True)
        )
        self.means = tuple(  # type: ignore[assignment]
            old + size / total * step for old, step in zip(self.means, steps, strict=True)
        )
        self.count = total

    def dead_units(self) -> tuple[Tensor, Tensor]:
        """Which units of either network do not vary."""
        if self.means is None:
            raise ValueError("update must have been called: there are no samples yet")
        # Rounding leaves about eps times the mean on a constant.
        floors = [1e-12 * mean.abs() for mean in self.means]
        deviations = [(square / self.count).sqrt() for square in self.squares]
        one, two = (d <= torch.maximum(self.dead * d.max(), f) for d, f in zip(deviations, floors, strict=True))
        return one, two

    def value(self) -> Float[Tensor, "p q"]:
        """r, float64, in [-1, 1]."""
        one, two = self.dead_units()
        scale = torch.outer(*(square.sqrt() for square in self.squares))
        alive = torch.outer(~one, ~two)
        return torch.where(alive, self.products / torch.where(alive, scale, 1.0), 0.0).clamp(-1, 1)


def unit_correlation(a: Float[Tensor, "..."], b: Float[Tensor, "..."], *, dead: float = 1e-6) -> Float[Tensor, "p q"]:
    """Pearson correlation of every unit of one network with every unit of another, in float64.

    Args:
        a: (s, p), samples of the units of one network; see `unit_samples`.
        b: (s, q), of another, for the same images and positions.
        dead: units below this share of the largest standard deviation of their network get 0.

    Li et al., 2015 (arXiv:1511.07543), section 2.2.

    Raises:
        ValueError: for different numbers of samples, or values that are not finite.

    Example:
        >>> a = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]])
        >>> unit_correlation(a, -a[:, :1])
        tensor([[-1.0000],
                [-0.5000]], dtype=torch.float64)
    """
    both = UnitCorrelation(dead=dead)
    both.update(a, b)
    return both.value()


class Assignment(NamedTuple):
    """What `assign_units` finds for each row.

    Args:
        partner: the column that a row goes with; -1 for none.
        score: their score; NaN for none.
    """

    partner: Int[Tensor, " p"]
    score: Float[Tensor, " p"]


def assign_units(score: Float[Tensor, "p q"], *, method: str = "one_to_one") -> Assignment:
    r"""The partner of each unit: the matching of greatest total score, or each unit's best.

    Units that do well both ways are shared features; one that does well only by `"each_best"` competes for a partner.

    Args:
        score: of each row with each column.
        method: `"one_to_one"`, $\max_\pi \sum_i s_{i \pi(i)}$ over injections (bipartite matching; with more rows than
            columns some rows stay without); `"each_best"`, $\arg\max_j s_{ij}$, where a column may serve twice
            (semi-matching).

    Li et al., 2015 (arXiv:1511.07543), section 3.1.

    Raises:
        ValueError: for scores that are not a table or not finite, an unknown method.

    Example:
        >>> score = torch.tensor([[0.9, 0.8], [0.8, 0.1]])
        >>> assign_units(score).partner.tolist(), assign_units(score, method="each_best").partner.tolist()
        ([1, 0], [0, 0])
    """
    _check_score(score)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}: got {method!r}")
    if method == "each_best":
        best = score.max(1)
        return Assignment(best.indices, best.values)
    rows, columns = linear_sum_assignment(score.detach().double().cpu().numpy(), maximize=True)
    partner = torch.full((len(score),), -1)
    partner[torch.from_numpy(rows)] = torch.from_numpy(columns)
    partner = partner.to(score.device)
    values = score.gather(1, partner.clamp_min(0)[:, None])[:, 0]
    return Assignment(partner, torch.where(partner >= 0, values, torch.nan))


def best_buddies(score: Float[Tensor, "p q"], k: int = 1) -> dict[int, int]:
    r"""Rows whose best column has them among its k best.

    $i \to j = \arg\max_j s_{ij}$, kept where $i \in \mathrm{top}_k\, s_{\cdot j}$.

    Args:
        score: of each row with each column.
        k: 1 makes them mutual nearest neighbours; more than there are rows keeps every row.

    Returns:
        row -> column.

    Dravid et al., 2023 (arXiv:2306.09346), section 3, where k = 5.

    Raises:
        ValueError: for scores that are not a table or not finite, k below 1.

    Example:
        >>> score = torch.tensor([[0.9, 0.2], [0.8, 0.1], [0.3, 0.4]])
        >>> best_buddies(score), best_buddies(score, k=2)
        ({0: 0, 2: 1}, {0: 0, 1: 0, 2: 1})
    """
    _check_score(score)
    if k < 1:
        raise ValueError(f"k must be at least 1: got {k}")
    best = score.argmax(1)
    among = torch.zeros_like(score, dtype=torch.bool)
    among.scatter_(0, score.topk(min(k, len(score)), dim=0).indices, True)
    kept = among.gather(1, best[:, None])[:, 0].nonzero()[:, 0]
    return dict(zip(kept.tolist(), best[kept].tolist(), strict=True))


def cocluster_units(
    score: Float[Tensor, "p q"], clusters: int, *, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, " p"], Int[Tensor, " q"]]:
    r"""Groups of units of both networks that go together: spectral clustering of the graph between them.

    The edges are $\max(s_{ij}, 0)$; the nodes are embedded by the eigenvectors of $D^{-1/2} W D^{-1/2}$ with the
    largest eigenvalues, rows brought to length 1, and grouped by k-means (the best of 10 starts). For a graph with two
    sides these eigenvectors are the singular vectors of $D_1^{-1/2} S D_2^{-1/2}$.

    Args:
        score: of each row with each column, such as `unit_correlation`.
        clusters: at least 1 and at most min(p, q).
        generator: where the starts come from.

    Returns:
        the cluster of each row, and of each column.

    Li et al., 2015 (arXiv:1511.07543), section 5; the algorithm of Ng et al., 2001.

    Differs from the paper: edges join units of different networks only, as here no correlations within a network are
    asked for.

    Raises:
        ValueError: for scores that are not a table or not finite, clusters out of range, a unit without any positive
            score.

    Example:
        >>> score = torch.tensor([[0.9, 0.1, 0.8], [0.0, 0.7, 0.1]])
        >>> rows, columns = cocluster_units(score, 2)
        >>> rows[0] == columns[0] == columns[2] != columns[1] == rows[1]
        tensor(True)
    """
    _check_score(score)
    if not 1 <= clusters <= min(score.shape):
        raise ValueError(f"clusters must lie in 1..{min(score.shape)}: got {clusters}")
    edges = score.double().clamp_min(0)
    one, two = edges.sum(1), edges.sum(0)
    if not ((one > 0).all() and (two > 0).all()):
        raise ValueError("score must have a positive entry in every row and column: leave out units that have none")
    u, _, v = torch.linalg.svd(edges / torch.outer(one, two).sqrt(), full_matrices=False)
    nodes = torch.nn.functional.normalize(torch.cat([u, v.T])[:, :clusters], dim=1)
    labels = k_means(nodes, clusters, generator=generator)
    return labels[: len(score)], labels[len(score) :]


def k_means(
    points: Float[Tensor, "n d"], clusters: int, *, generator: torch.Generator | None = None
) -> Int[Tensor, " n"]:
    r"""Labels that minimise $\sum_i \|x_i - c_{l_i}\|^2$, by Lloyd's rounds from the best of 10 `k-means++` starts.

    Args:
        points: (n, d).
        clusters: at least 1 and at most n. With fewer different points than that, some labels stay unused.
        generator: where the starts come from.

    Arthur and Vassilvitskii, 2007, section 2.2.

    Raises:
        ValueError: for clusters out of range.

    Example:
        >>> labels = k_means(torch.tensor([[0.0], [5.0], [0.2], [5.1]]), 2)
        >>> labels[0] == labels[2] != labels[1] == labels[3]
        tensor(True)
    """
    if not 1 <= clusters <= len(points):
        raise ValueError(f"clusters must lie in 1..{len(points)}: got {clusters}")
    best, least = torch.zeros(len(points), dtype=torch.long), torch.inf
    for _ in range(STARTS):
        centres = _spread(points, clusters, generator)
        for _ in range(ROUNDS):
            distances = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").square()
            found = distances.min(1)
            chosen = torch.nn.functional.one_hot(found.indices, clusters).to(points)
            sizes = chosen.sum(0)
            moved = torch.where(sizes[:, None] > 0, chosen.T @ points / sizes.clamp_min(1)[:, None], centres)
            if torch.equal(moved, centres):
                break
            centres = moved
        cost = found.values.sum().item()
        if cost < least:
            best, least = found.indices, cost
    return best


def _spread(points: Tensor, clusters: int, generator: torch.Generator | None) -> Tensor:
    """Centres drawn from the points, each with a probability that grows as its squared distance to those before."""
    first = int(torch.randint(len(points), (1,), generator=generator))
    centres = [points[first]]
    nearest = (points - centres[0]).square().sum(1)
    for _ in range(clusters - 1):
        weights = nearest if nearest.sum() > 0 else torch.ones_like(nearest)
        centres.append(points[int(torch.multinomial(weights.cpu(), 1, generator=generator))])
        nearest = torch.minimum(nearest, (points - centres[-1]).square().sum(1))
    return torch.stack(centres)


def _check_score(score: Tensor) -> None:
    if score.ndim != 2 or score.numel() == 0:
        raise ValueError(f"score must be a table (p, q): got {tuple(score.shape)}")
    if not score.isfinite().all():
        raise ValueError("score must be finite: got NaN or infinity")
