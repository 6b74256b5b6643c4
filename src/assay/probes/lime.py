"""LIME on images: which segments a prediction rests on, by removing random ones and fitting a line."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def lime_image(
    predict: Callable[[Tensor], Tensor],
    image: Float[Tensor, "c h w"],
    segments: Tensor,
    target: int,
    *,
    masker: Callable[[Tensor, Tensor], Tensor],
    samples: int = 512,
    p_keep: float = 0.5,
    kernel_width: float = 0.25,
    ridge: float = 1.0,
    batch_size: int = 100,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " segments"]:
    r"""Each segment's weight in a linear model of what is predicted when random segments are removed.

    $w = \arg\min \sum_i \pi_i\, (y_i - b - w^\top z_i)^2 + \lambda \|w\|^2$, $z_i$ in {0, 1} telling which segments are
    kept (the first sample keeps all), $y_i$ the probability of the target, $\pi_i = \exp(-(1 - \cos(z_i, 1))^2 / s^2)$.

    Args:
        predict: what `masker` returns -> logits (m, k).
        image: (c, h, w).
        segments: (h, w) whole numbers from 0, each of which occurs: the segment of each pixel.
        target: the class that is explained.
        masker: masker(images (m, c, h, w), keep (m, 1, h, w)) -> what is given to `predict`: the way of removing.
            With `LayerMasking` that is both at once: let it return the logits, and `predict` pass them on.
        samples: at least 2.
        p_keep: probability of a segment to be kept, in (0, 1).
        kernel_width: $s$, positive.
        ridge: $\lambda$, 0 or more.
        batch_size: samples that are predicted at once.
        generator: where the samples come from; None is torch's global generator.

    Ribeiro et al., 2016 (arXiv:1602.04938), section 3.4; distance and ridge as in the authors' package.

    Raises:
        ValueError: for arguments out of range, segments of another size or with gaps, a target that is not there.

    Example:
        >>> def predict(x):     # only the left half speaks for class 1
        ...     return torch.stack([torch.zeros(len(x)), 4 * x[:, 0, :, :2].mean((1, 2)) - 2], 1)
        >>> halves = torch.tensor([[0, 0, 1, 1]])
        >>> weights = lime_image(predict, torch.ones(1, 1, 4), halves, 1, masker=lambda x, keep: x * keep,
        ...                      ridge=1e-6, generator=torch.Generator().manual_seed(0))
        >>> bool((weights - torch.tensor([0.7616, 0.0])).abs().max() < 1e-3)   # sigmoid(2) - sigmoid(-2)
        True
    """
    count = _checked(image, segments, samples, p_keep, kernel_width, ridge)
    kept = torch.bernoulli(torch.full((samples, count), p_keep), generator=generator).to(image)
    kept[0] = 1.0
    found = []
    with torch.no_grad():
        for part in kept.split(batch_size):
            keep = part[:, segments][:, None]
            logits = predict(masker(image.expand(len(part), -1, -1, -1), keep))
            if not 0 <= target < logits.shape[1]:
                raise ValueError(f"target must lie in 0..{logits.shape[1] - 1}: got {target}")
            found.append(logits.softmax(dim=1)[:, target])
    y, z = torch.cat(found).double(), kept.double()
    cosine = z.sum(dim=1).sqrt() / math.sqrt(count)
    weight = torch.exp(-(((1 - cosine) / kernel_width) ** 2))
    z, y = z - (weight @ z) / weight.sum(), y - (weight @ y) / weight.sum()
    normal = (weight[:, None] * z).T @ z + ridge * torch.eye(count, dtype=z.dtype, device=z.device)
    return torch.linalg.solve(normal, (weight * y) @ z).to(image.dtype)


def _checked(image: Tensor, segments: Tensor, samples: int, p_keep: float, kernel_width: float, ridge: float) -> int:
    if tuple(segments.shape) != tuple(image.shape[1:]):
        raise ValueError(f"segments must be of the image's size {tuple(image.shape[1:])}: got {tuple(segments.shape)}")
    numbers = segments.unique()
    if not torch.equal(numbers.cpu(), torch.arange(len(numbers))):
        raise ValueError(f"segments must be numbered from 0 without gaps: got {numbers.tolist()[:10]}")
    if samples < 2:
        raise ValueError(f"samples must be at least 2: got {samples}")
    if not 0 < p_keep < 1:
        raise ValueError(f"p_keep must lie in (0, 1): got {p_keep}")
    if not 0 < kernel_width < math.inf:
        raise ValueError(f"kernel_width must be positive and finite: got {kernel_width}")
    if not 0 <= ridge < math.inf:
        raise ValueError(f"ridge must be 0 or more and finite: got {ridge}")
    return len(numbers)
