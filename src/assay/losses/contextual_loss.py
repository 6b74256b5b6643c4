"""The contextual loss: images compared as bags of features, wherever in the image these are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .checks import check_finite
from .reduction import check_reduction, reduce

DISTANCES = ("cosine", "l2")
ENTRIES = 2**23
"""Distances held at a time, over the batch, unless told otherwise (32 MiB in single precision)."""


def contextual_similarity(
    x: Float[Tensor, "..."],
    y: Float[Tensor, "..."],
    *,
    h: float = 0.5,
    distance: str = "cosine",
    eps: float = 1e-5,
    chunk: int | None = None,
) -> Float[Tensor, " n"]:
    r"""How well the features of a target find each its own counterpart among those of an output, in (0, 1].

    $$\tilde d_{ij} = \frac{d_{ij}}{\min_k d_{ik} + \epsilon}, \qquad
    CX_{ij} = \operatorname{softmax}_j \frac{1 - \tilde d_{ij}}{h}, \qquad
    CX(x, y) = \frac{1}{M} \sum_j \max_i CX_{ij}$$

    with $d_{ij} = 1 - \cos(x_i - \bar y, y_j - \bar y)$, or the squared distance of $x_i$ and $y_j$. It is near 1 where
    every $y_j$ has an $x_i$ that is close to it and to no other, and 1/M where all $x_i$ are one point.

    Args:
        x: features of the outputs, N points each, in any order.
        y: features of the targets, M points each, in any order.
        h: bandwidth, positive; the smaller, the more a match has to be the only one.
        distance: "cosine" or "l2".
        eps: keeps a perfect match from being infinitely better than the rest; positive.
        chunk: points of an output that are compared at a time. Less than all of them needs memory for chunk x M
            distances, not N x M, and computes each distance twice; value and gradient are the same. None chooses.

    The paper: Mechrez, Talmi, Shama, Zelnik-Manor (2018, arXiv:1803.04626), equations 3-5; defined in Mechrez, Talmi,
    Zelnik-Manor (2018, arXiv:1803.02077), equations 1-4.

    Differs from the paper: as in the authors' code the Euclidean distance is squared. That code halves the cosine
    distance, which is the same as twice this `eps`, and centres by the mean of a whole batch of targets; here each pair
    is centred by the mean of its own target, so that it does not depend on its neighbours.

    Raises:
        ValueError: for features of different dimensions, fewer than 2 points, arguments out of range, entries that are
            not finite (seen on a CPU only).

    Example:
        >>> y = torch.randn(1, 50, 8, generator=torch.Generator().manual_seed(0))
        >>> same, collapsed = contextual_similarity(y[:, torch.randperm(50)], y), contextual_similarity(0 * y + 1, y)
        >>> round(same.item(), 3), round(1 / collapsed.item(), 3)
        (1.0, 50.0)
    """
    _check(h, distance, eps)
    if x.ndim != 3 or y.ndim != 3 or x.shape[0] != y.shape[0] or x.shape[2] != y.shape[2]:
        raise ValueError(f"x and y must be (n, N, d) and (n, M, d): got {tuple(x.shape)} and {tuple(y.shape)}")
    if min(x.shape[1], y.shape[1]) < 2 or x.shape[0] < 1:
        raise ValueError(f"x and y must have at least 2 points: got {tuple(x.shape)} and {tuple(y.shape)}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, or None: got {chunk}")
    check_finite(x=x, y=y)
    dtype = torch.promote_types(x.dtype, y.dtype)
    with torch.autocast(x.device.type, enabled=False):
        x, y = (points.to(torch.promote_types(dtype, torch.float32)) for points in (x, y))
        if distance == "cosine":
            middle = y.mean(1, keepdim=True)
            x, y = (F.normalize(points - middle, dim=2, eps=1e-8) for points in (x, y))
        rows = chunk or max(1, ENTRIES // (x.shape[0] * y.shape[1]))
        if rows >= x.shape[1]:
            best = _best(x, y, h, distance, eps)
        else:
            parts = [checkpoint(_best, part, y, h, distance, eps, use_reentrant=False) for part in x.split(rows, 1)]
            best = torch.stack(parts).max(0).values
        return best.mean(1).to(dtype)


def _best(x: Tensor, y: Tensor, h: float, distance: str, eps: float) -> Tensor:
    """(n, M): the largest contextual similarity of each target point to any of these output points."""
    if distance == "cosine":
        apart = (1 - x @ y.mT).clamp_min(0.0)
    else:  # by differences: near matches, which decide, would drown in the rounding of squares
        apart = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    relative = apart / (apart.amin(2, keepdim=True) + eps)
    return ((1 - relative) / h).softmax(2).max(1).values


def patch_features(images: Float[Tensor, "n c h w"], *, size: int = 5, stride: int = 2) -> Float[Tensor, "n N d"]:
    """All square patches of images as points, without a network.

    Args:
        images: at least `size` pixels high and wide.
        size: height and width of a patch in pixels, at least 1.
        stride: pixels from one patch to the next, at least 1.

    Returns:
        (n, N, c * size * size), patches row by row, each with its channels one after the other.

    Raises:
        ValueError: for images smaller than a patch, sizes or strides below 1.

    Example:
        >>> patch_features(torch.arange(12.0).reshape(1, 1, 3, 4), size=2, stride=2)
        tensor([[[0., 1., 4., 5.],
                 [2., 3., 6., 7.]]])
    """
    if size < 1 or stride < 1:
        raise ValueError(f"size and stride must be at least 1: got {size} and {stride}")
    if min(images.shape[2:]) < size:
        raise ValueError(f"images must have at least {size} pixels a side: got {tuple(images.shape[2:])}")
    return F.unfold(images, size, stride=stride).mT


class ContextualLoss(nn.Module):
    r"""$-\log CX$ of the features of an output and of a target, summed over layers.

    Args:
        features: what turns images into features: called with images it gives points (n, N, d) or a map (n, d, h, w),
            whose pixels are the points; with `layers` it is called with images and these names, and gives {name: map}.
            None takes the images as maps themselves.
        layers: names of layers of `features`, or None.
        h: bandwidth of `contextual_similarity`; 0.1 in this paper, 0.5 for style.
        distance: "cosine" or "l2".
        max_points: of more than so many points a random subset is compared, the same places of output and target; at
            least 2. Drawn from `generator`.
        eps: of `contextual_similarity`.
        chunk: of `contextual_similarity`.
        reduction: "mean", "sum" or "none" over the images of a batch.
        generator: where subsets are drawn from (on the features' device); None is torch's global generator.

    Called with `(output, target)`. With M target points the loss lies in [0, log M].

    The paper: Mechrez, Talmi, Shama, Zelnik-Manor (2018, arXiv:1803.04626), equation 5.

    Raises:
        ValueError: for arguments out of range, features of different dimensions, fewer than 2 points, entries that are
            not finite.

    Example:
        >>> target = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> loss = ContextualLoss(patch_features)
        >>> moved, other = target.roll((2, 4), (2, 3)), torch.rand_like(target)
        >>> loss(moved, target).item() < 0.5 < loss(other, target).item()  # most patches are there, elsewhere
        True
    """

    def __init__(
        self,
        features: Callable[..., Tensor | dict[str, Tensor]] | None = None,
        *,
        layers: Sequence[str] | None = None,
        h: float = 0.1,
        distance: str = "cosine",
        max_points: int = 65**2,
        eps: float = 1e-5,
        chunk: int | None = None,
        reduction: str = "mean",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check(h, distance, eps)
        if max_points < 2:
            raise ValueError(f"max_points must be at least 2: got {max_points}")
        if layers is not None and features is None:
            raise ValueError(f"layers must be None without features: got {layers!r}")
        if layers is not None and (isinstance(layers, str) or not layers):
            raise ValueError(f"layers must be names, at least one, or None: got {layers!r}")
        self.features, self.layers = features, None if layers is None else tuple(layers)
        self.h, self.distance, self.eps, self.chunk = h, distance, eps, chunk
        self.max_points, self.generator = max_points, generator
        self.reduction = check_reduction(reduction)

    def forward(self, output: Float[Tensor, "n ..."], target: Float[Tensor, "n ..."]) -> Float[Tensor, "..."]:
        total = torch.zeros((), device=output.device, dtype=output.dtype)
        for x, y in zip(self._points(output), self._points(target), strict=True):
            x, y = self._some(x, y)
            found = contextual_similarity(x, y, h=self.h, distance=self.distance, eps=self.eps, chunk=self.chunk)
            total = total - found.log()
        return reduce(total, self.reduction)

    def _points(self, images: Tensor) -> list[Tensor]:
        if self.layers is not None:
            found = self.features(images, self.layers)
            maps = [found[name] for name in self.layers]
        else:
            maps = [images if self.features is None else self.features(images)]
        return [each.flatten(2).mT if each.ndim == 4 else each for each in maps]

    def _some(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """At most `max_points` of each; where both have as many, the same ones."""
        same, most = x.shape[1] == y.shape[1], self.max_points
        if x.shape[1] > most:
            kept = self._draw(x)
            x, y = x[:, kept], y[:, kept] if same else y
        return x, y[:, self._draw(y)] if y.shape[1] > most else y

    def _draw(self, points: Tensor) -> Tensor:
        return torch.randperm(points.shape[1], generator=self.generator, device=points.device)[: self.max_points]


def _check(h: float, distance: str, eps: float) -> None:
    if not (math.isfinite(h) and h > 0):
        raise ValueError(f"h must be positive and finite: got {h}")
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(map(repr, DISTANCES))}: got {distance!r}")
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps must be positive and finite: got {eps}")
