"""Two views of one thing: the left and the right half of an image."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from .split import Labelled


def paired_halves(images: Float[Tensor, "n c h w"]) -> Labelled:
    """Left halves as inputs, right halves as targets: pairs that belong together, without a word of text.

    Args:
        images: of even width.

    Raises:
        ValueError: for an odd width, or anything that is not a batch of images.

    Example:
        >>> import torch
        >>> left, right = paired_halves(torch.arange(4.0).view(1, 1, 1, 4))
        >>> left.tolist(), right.tolist()
        ([[[[0.0, 1.0]]]], [[[[2.0, 3.0]]]])
    """
    if images.ndim != 4 or images.shape[3] % 2 or not images.shape[3]:
        raise ValueError(f"images must be (n, c, h, w) of even width: got {tuple(images.shape)}")
    half = images.shape[3] // 2
    return Labelled(images[..., :half].contiguous(), images[..., half:].contiguous())
