"""The patch triplet loss: a patch is nearer to itself under another light than to its surroundings."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

TERMS = ("triplet", "positive", "negative")


class PatchTripletLoss(nn.Module):
    r"""Hinge on distances of patches of two maps of one scene, $[d(a, p) - d(a, n) + m]_+$, over all places.

    $d$ is the mean squared difference over pixels and channels of two patches. The anchor a is a patch of the one map,
    the positive p that of the other at the same place, the negative n one beside it, at a shift whose larger side lies
    in `[min_shift, max_shift]`, half of the times in the other map, half in the same. Both maps take both parts.

    Args:
        patch: side of a patch, at least 1.
        margin: m, not negative.
        negatives: shifts drawn a call, at least 1, the same for all places; a place uses the nearest negative of them,
            or with `hardest=False` all of them.
        min_shift: at least 1.
        max_shift: at least `min_shift`; shifts that leave the maps are not drawn.
        stride: between the places of anchors; None is half a patch.
        terms: `"triplet"`, or one of its halves: `"positive"` is $d(a, p)$, `"negative"` is $[m - d(a, n)]_+$.

    Kaliroff and Gilboa, 2021 (arXiv:1911.12641).

    Differs from the paper: its loss could not be read in full; this is a triplet loss on patches of both maps as its
    abstract tells it, with distances in the maps themselves. No negatives come from other scenes.

    Raises:
        ValueError: for arguments out of range; when called, for maps of different sizes or without room for a shift.

    Example:
        >>> flat = torch.zeros(1, 1, 12, 12)
        >>> loss = PatchTripletLoss(4, margin=0.7, negatives=200, min_shift=2, max_shift=4)
        >>> round(loss(flat, flat + 2).item(), 4)  # p is at 4, n at 4 in the other map, at 0 in the same
        4.7
    """

    def __init__(
        self,
        patch: int = 16,
        *,
        margin: float = 1.0,
        negatives: int = 8,
        min_shift: int = 8,
        max_shift: int = 32,
        stride: int | None = None,
        terms: str = "triplet",
    ) -> None:
        super().__init__()
        stride = max(1, patch // 2) if stride is None else stride
        for name, value in (("patch", patch), ("negatives", negatives), ("min_shift", min_shift), ("stride", stride)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        if not margin >= 0:
            raise ValueError(f"margin must not be negative: got {margin}")
        if max_shift < min_shift:
            raise ValueError(f"max_shift must be at least min_shift, {min_shift}: got {max_shift}")
        if terms not in TERMS:
            raise ValueError(f"terms must be one of {', '.join(TERMS)}: got {terms!r}")
        self.patch, self.margin, self.negatives, self.stride = patch, margin, negatives, stride
        self.min_shift, self.max_shift, self.terms = min_shift, max_shift, terms

    def forward(
        self,
        map_a: Float[Tensor, "n c h w"],
        map_b: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
        *,
        hardest: bool = True,
    ) -> Float[Tensor, ""]:
        """The loss, a mean over places of both maps; shifts come from `generator`."""
        if map_a.shape != map_b.shape:
            raise ValueError(f"map_b must have the shape of map_a, {tuple(map_a.shape)}: got {tuple(map_b.shape)}")
        room = min(map_a.shape[2:]) - self.patch
        if room < self.min_shift:
            raise ValueError(
                f"maps must have sides of at least patch + min_shift = {self.patch + self.min_shift}: got "
                f"{tuple(map_a.shape[2:])}"
            )
        near = self._distance(map_a, map_b)
        if self.terms == "positive":
            return near.mean()
        losses, valid = [], []
        for number, (dy, dx) in enumerate(self._shifts(min(room, self.max_shift), generator)):
            # By turns from the other map and from the same.
            pairs = ((map_a, map_b), (map_b, map_a)) if number % 2 == 0 else ((map_a, map_a), (map_b, map_b))
            far = torch.stack([self._distance(one, two.roll((-dy, -dx), (2, 3))) for one, two in pairs])
            gap = self.margin - far if self.terms == "negative" else near + self.margin - far
            losses.append(torch.relu(gap))
            valid.append(self._inside(map_a, dy, dx).expand_as(gap))
        loss, inside = torch.stack(losses), torch.stack(valid)
        if hardest:
            return loss.masked_fill(~inside, -1).amax(0)[inside.any(0)].mean()
        return loss[inside].mean()

    def _distance(self, one: Tensor, two: Tensor) -> Tensor:
        """Mean squared difference of patches at all places of anchors, (n, rows, columns)."""
        return F.avg_pool2d((one - two).square().mean(1, keepdim=True), self.patch, self.stride)[:, 0]

    def _inside(self, like: Tensor, dy: int, dx: int) -> Tensor:
        """Whether the patch at the shifted place is in the map, (rows, columns)."""
        sides = []
        for size, shift in zip(like.shape[2:], (dy, dx), strict=True):
            start = torch.arange(0, size - self.patch + 1, self.stride, device=like.device) + shift
            sides.append((start >= 0) & (start <= size - self.patch))
        return sides[0][:, None] & sides[1]

    def _shifts(self, largest: int, generator: torch.Generator | None) -> list[list[int]]:
        reach = torch.arange(-largest, largest + 1)
        every = torch.cartesian_prod(reach, reach)
        every = every[every.abs().amax(1) >= self.min_shift]
        return every[torch.randint(len(every), (self.negatives,), generator=generator)].tolist()
