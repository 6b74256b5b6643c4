"""Where a template is in an image: squared differences, or zero-mean normalized correlation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SCORES = ("ssd", "zncc")


class Match(NamedTuple):
    """Upper left corner of the best place, and the scores of all places, (rows, columns), of the window first."""

    row: int
    col: int
    scores: Tensor


def match_template(
    image: Float[Tensor, "c h w"],
    template: Float[Tensor, "d p q"],
    *,
    score: str = "ssd",
    window: tuple[int, int, int, int] | None = None,
) -> Match:
    r"""Find a template by trying all places.

    `"ssd"`: $\sum (x - t)^2$, least is best. `"zncc"`: the mean over channels of $\sum (x - \bar x)(t - \bar t) /
    (\|x - \bar x\| \|t - \bar t\|)$, most is best; a flat patch or template scores 0.

    Args:
        image: where to look.
        template: what to look for; not larger than the image.
        score: `"ssd"` or `"zncc"`, which does not change with gain or offset of a channel.
        window: first and last row, first and last column that an upper left corner may have; cut at the image's
            border. None is everywhere.

    Raises:
        ValueError: for a template that does not fit, an unknown score, a window without a place in it.

    Example:
        >>> image = torch.arange(48.0).sin().view(1, 6, 8)
        >>> match_template(0.5 * image + 3, image[:, 2:5, 3:6], score="zncc")[:2]
        (2, 3)
    """
    (c, h, w), (d, p, q) = image.shape, template.shape
    if c != d or p > h or q > w:
        raise ValueError(f"template must fit into the image, {(c, h, w)}: got {(d, p, q)}")
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}: got {score!r}")
    top, bottom, left, right = (0, h - p, 0, w - q) if window is None else window
    top, bottom, left, right = max(top, 0), min(bottom, h - p), max(left, 0), min(right, w - q)
    if top > bottom or left > right:
        raise ValueError(f"window must have a place in it: got {window} in an image of {(h, w)}")
    # Products of centered values, in float64: squares of large offsets would drown what differs.
    x, t = image[:, top : bottom + p, left : right + q].double(), template.double()
    center = x.mean((1, 2), keepdim=True)
    x, t = (x - center)[:, None], (t - center)[:, None]
    size = p * q
    if score == "ssd":
        cross = F.conv2d(x, t).diagonal(dim1=0, dim2=1).sum(2)
        squares = size * F.avg_pool2d(x.square(), (p, q), 1).sum((0, 1))
        scores = (squares - 2 * cross + t.square().sum()).clamp_min(0)
        best = scores.argmin()
    else:
        mean = F.avg_pool2d(x, (p, q), 1)[:, 0]
        spread = (size * (F.avg_pool2d(x.square(), (p, q), 1)[:, 0] - mean.square())).clamp_min(0)
        still = t - t.mean((2, 3), keepdim=True)
        cross = F.conv2d(x.transpose(0, 1), still, groups=c)[0]
        own = still.square().sum((1, 2, 3))[:, None, None]
        # A spread below the rounding of squares is none.
        least = 1e-12 * size * x.square().amax((1, 2, 3))[:, None, None]
        flat = (spread <= least) | (own <= least)
        length = (spread * own).sqrt()
        scores = torch.where(flat, 0.0, cross / torch.where(flat, 1.0, length)).mean(0)
        best = scores.argmax()
    row, col = divmod(int(best), scores.shape[1])
    return Match(top + row, left + col, scores.to(image.dtype))
