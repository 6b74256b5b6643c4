"""Correlation mode decomposition of a training run (Brokman et al., 2022, arXiv:2212.09040)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster import hierarchy
from torch import Tensor

from assay.probes.chunks import CHUNK, check_chunk, check_trajectory, read_moves
from assay.probes.layout import Layout
from assay.probes.modes import Modes, by_layer
from assay.probes.trajectory import Trajectory

TIE = 1e-12  # mean correlations that differ by less are alike: beyond the rounding of a product of unit vectors


class CMD:
    """Describe the path of every weight as a line in the path of one of a few reference weights.

    w_i(t) = a_i w_r(i)(t) + b_i,   r(i) = argmax_m |corr(w_i, w_r(m))|

    The references come from ``num_samples`` sampled weights: their absolute correlations over time are clustered
    (rows, Euclidean distance, complete linkage), and the reference of a cluster is the sample with the largest mean
    absolute correlation to the members of its own cluster. All N weights are then assigned and fitted by least
    squares in one pass over chunks of columns, so that memory does not grow with the number of snapshots.

    Args:
        num_modes: M, the largest number of clusters, at least 1. The linkage may give fewer.
        num_samples: K, the weights that are clustered; all when there are fewer. K = 10,000 needs matrices of 10^8
            entries (0.8 GB each) and minutes.
        sampling: ``balanced`` gives half of K equally to the layers and half by layer size, ``uniform`` draws from
            all weights alike (and is what balanced does when K/2 is below the number of layers).
        cut: ``maxclust`` cuts the tree to at most ``num_modes`` clusters, ``distance`` at half of the largest
            distance, so that the number of modes comes out of the data.
        start: first snapshot to use.
        stride: use every stride-th snapshot.
        chunk: columns read at a time; no influence on the result.
        generator: where the samples are drawn from; torch's global one when None.

    arXiv:2212.09040, Sections 3 and 4; arXiv:2312.13247, Algorithm 1 (post-hoc CMD).

    Differs from the paper: samples that never move are dropped before clustering, since a cluster of constants has no
    reference worth having (there they are clustered with correlation 0); products are of centred float32 values, not
    of raw ones.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> t = torch.linspace(0, 6, 20, dtype=torch.float64)
        >>> weights = torch.stack([t.sin(), 3 - t.sin(), t.cos(), 2 * t.cos() + 1], dim=1)
        >>> modes = CMD(num_modes=2).fit(Trajectory.from_weights(weights))
        >>> modes.mode.tolist() in ([0, 0, 1, 1], [1, 1, 0, 0]), round(modes.relative_error(), 12)
        (True, 0.0)
    """

    def __init__(
        self,
        num_modes: int = 10,
        num_samples: int = 1000,
        *,
        sampling: Literal["balanced", "uniform"] = "balanced",
        cut: Literal["maxclust", "distance"] = "maxclust",
        start: int = 0,
        stride: int = 1,
        chunk: int = CHUNK,
        generator: torch.Generator | None = None,
    ) -> None:
        if num_modes < 1:
            raise ValueError(f"num_modes must be at least 1, got {num_modes}")
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        if sampling not in ("balanced", "uniform"):
            raise ValueError(f"sampling must be 'balanced' or 'uniform', got {sampling!r}")
        if cut not in ("maxclust", "distance"):
            raise ValueError(f"cut must be 'maxclust' or 'distance', got {cut!r}")
        self.num_modes = num_modes
        self.num_samples = num_samples
        self.sampling = sampling
        self.cut = cut
        self.start = start
        self.stride = stride
        self.chunk = check_chunk(chunk)
        self.generator = generator

    def fit(self, trajectory: Trajectory, *, samples: Int[Tensor, " K"] | None = None) -> Modes:
        """Decompose a trajectory.

        Args:
            trajectory: at least 3 snapshots (after ``start`` and ``stride``).
            samples: indices of the weights to cluster, instead of drawing them.

        Raises:
            ValueError: too few snapshots, non-finite weights (layer and epoch named), or more modes asked for than
                there are samples that move.
        """
        rows = check_trajectory(trajectory, start=self.start, stride=self.stride)
        if samples is None:
            samples = draw_samples(trajectory.layout, self.num_samples, self.sampling, self.generator)
        elif (
            int(samples.min()) < 0 or int(samples.max()) >= trajectory.size or len(set(samples.tolist())) < len(samples)
        ):
            raise ValueError(f"samples must be different indices in [0, {trajectory.size})")
        paths = trajectory.take(samples, rows=rows)
        for row, t in zip(paths, rows, strict=True):
            if not torch.isfinite(row.sum()):
                trajectory.refuse_non_finite(trajectory.row(t), 0, t)
        moving = (paths != paths[0]).any(0)
        if self.num_modes > int(moving.sum()):
            raise ValueError(
                f"num_modes must be at most the {int(moving.sum())} sampled weights that move, got {self.num_modes}"
            )
        samples, paths = samples[moving], paths[:, moving]
        chosen = references(correlations(paths), self.num_modes, cut=self.cut)
        return assign(trajectory, samples[chosen].long(), paths[:, chosen].T.contiguous(), rows, self.chunk)


def draw_samples(
    layout: Layout, num_samples: int, sampling: str = "balanced", generator: torch.Generator | None = None
) -> Int[Tensor, " K"]:
    """Sorted indices of min(num_samples, N) different weights, drawn as `CMD` describes."""
    total = min(num_samples, layout.size)
    if sampling == "uniform" or total / 2 < len(layout.names):
        return _draw(layout.size, total, generator)
    sizes = [part.stop - part.start for part in layout.layers.values()]
    counts = [min(total // (2 * len(sizes)), size) for size in sizes]
    counts = [n + min(total * size // (2 * layout.size), size - n) for n, size in zip(counts, sizes, strict=True)]
    for i in sorted(range(len(sizes)), key=lambda i: counts[i]):  # what the roundings left, to layers with room
        counts[i] += min(total - sum(counts), sizes[i] - counts[i])
    parts = zip(layout.layers.values(), counts, sizes, strict=True)
    return torch.cat([part.start + _draw(size, count, generator) for part, count, size in parts])


def _draw(size: int, count: int, generator: torch.Generator | None) -> Tensor:
    if 4 * count >= size:
        return torch.randperm(size, generator=generator)[:count].sort().values
    draws = torch.empty(0, dtype=torch.long)
    while True:  # the first `count` different ones of a long row of draws: no permutation of millions
        draws = torch.cat([draws, torch.randint(size, (2 * count,), generator=generator)])
        first = np.sort(np.unique(draws.numpy(), return_index=True)[1])
        if len(first) >= count:
            return draws[torch.from_numpy(first[:count])].sort().values


def correlations(paths: Float[Tensor, "T K"]) -> Float[Tensor, "K K"]:
    """Pearson correlation over time of each column with each, in float64; 0 with a column that never moves."""
    centred = paths.double() - paths[0].double()
    centred = centred - centred.mean(0)
    norms = torch.linalg.vector_norm(centred, dim=0)
    unit = centred / torch.where(norms > 0, norms, 1)
    products = unit.T @ unit
    return ((products + products.T) / 2).clamp_(-1, 1)


def clusters(correlation: Float[Tensor, "K K"], num_modes: int, *, cut: str = "maxclust") -> Int[Tensor, " K"]:
    """Labels from 0 of a complete-linkage clustering of the rows of |C| under Euclidean distance."""
    if len(correlation) == 1:
        return torch.zeros(1, dtype=torch.long)
    distances = hierarchy.distance.pdist(correlation.abs().numpy())
    tree = hierarchy.linkage(distances, method="complete")
    threshold = num_modes if cut == "maxclust" else distances.max() / 2
    return torch.from_numpy(hierarchy.fcluster(tree, threshold, criterion=cut)).long() - 1


def references(correlation: Float[Tensor, "K K"], num_modes: int, *, cut: str = "maxclust") -> Int[Tensor, " M"]:
    """The row that stands for each cluster, largest cluster first; ties go to what is closer to all samples."""
    labels = clusters(correlation, num_modes, cut=cut)
    overall = correlation.abs().mean(1)
    chosen = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero()[:, 0]
        closeness = correlation.abs()[members][:, members].mean(1)
        closest = members[closeness >= closeness.max() - TIE]  # the two of a pair always tie
        best = closest[overall[closest].argmax()]
        chosen.append((-len(members), -float(overall[best]), int(best)))
    return torch.tensor([index for _, _, index in sorted(chosen)])


def assign(
    trajectory: Trajectory,
    reference_index: Int[Tensor, " M"],
    reference: Float[Tensor, "M T"],
    rows: range,
    chunk: int = CHUNK,
) -> Modes:
    """Give every weight the reference that it is most correlated with, and its least-squares line in it."""
    size, dtype = trajectory.size, torch.promote_types(trajectory.dtype, torch.float32)
    middle = reference.mean(1)
    centred = reference - middle[:, None]
    length = torch.linalg.vector_norm(centred, dim=1)
    unit = (centred / length[:, None]).to(dtype)
    scale, offset, correlation = (torch.empty(size, dtype=dtype) for _ in range(3))
    moved, missed = (torch.empty(size, dtype=dtype) for _ in range(2))
    mode = torch.empty(size, dtype=torch.uint8 if len(reference) <= 256 else torch.uint16)
    for part, first, moves in read_moves(trajectory, rows, chunk):
        mean = moves.mean(0)
        moves.sub_(mean)
        products = unit @ moves
        best, label = products.abs().max(0)
        signed = products.gather(0, label[None])[0]
        energy = moves.square_().sum(0)
        scale[part] = slope = (signed / length[label]).to(dtype)
        offset[part] = first.double() + mean - slope.double() * middle[label]
        mode[part] = label.to(mode.dtype)
        correlation[part] = (signed / energy.sqrt().clamp_(min=torch.finfo(dtype).tiny)).clamp_(-1, 1)
        moved[part] = energy
        missed[part] = (energy - best.square_()).clamp_(min=0)
    if not torch.isfinite(moved.sum()):
        raise ValueError(f"weights must be below about 1e18 to be squared in {dtype}")
    scale[reference_index], offset[reference_index], correlation[reference_index] = 1, 0, 1
    mode.numpy()[reference_index.numpy()] = range(len(reference))  # torch has no index_put for uint16
    missed[reference_index] = 0
    return Modes(
        scale, offset, mode, reference_index, reference.to(dtype), trajectory.layout,
        correlation, by_layer(moved, trajectory.layout), by_layer(missed, trajectory.layout),
    )  # fmt: skip
