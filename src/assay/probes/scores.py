"""The logits that an explanation is about, of a model that is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and gradients inside; outside, every module in the mode it was in, also after an error.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
        >>> with evaluated(model):
        ...     model[0].training
        False
        >>> [module.training for module in model]
        [True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def leaf(images: Tensor) -> Tensor:
    """A copy of the images of which there is a gradient.

    Raises:
        ValueError: for no images, or values that are not finite.
        TypeError: for images that are no floating-point numbers.

    Example:
        >>> leaf(torch.ones(1, 1, 2, 2)).requires_grad
        True
    """
    if not images.is_floating_point():
        raise TypeError(f"images must be floating-point numbers: got {images.dtype}")
    if len(images) == 0:
        raise ValueError("images must hold at least one image: got none")
    if not bool(images.isfinite().all()):
        raise ValueError("images must be finite: got NaN or infinity")
    return images.detach().clone().requires_grad_()


def checked_targets(logits: Tensor, targets: Tensor | None) -> Int[Tensor, " n"]:
    """The classes asked for, or those of the largest logits.

    Raises:
        ValueError: for outputs that are no logits (n, k), or targets of another length or out of range.

    Example:
        >>> checked_targets(torch.tensor([[1.0, 3.0], [2.0, 0.0]]), None)
        tensor([1, 0])
    """
    if logits.ndim != 2:
        raise ValueError(f"model must return logits (n, k): got {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise ValueError("model must return finite logits: got NaN or infinity")
    if targets is None:
        return logits.detach().argmax(dim=1)
    if tuple(targets.shape) != (len(logits),):
        raise ValueError(f"targets must be one class an image, ({len(logits)},): got {tuple(targets.shape)}")
    if targets.dtype.is_floating_point or targets.dtype == torch.bool:
        raise ValueError(f"targets must be whole numbers: got {targets.dtype}")
    least, most = int(targets.min()), int(targets.max())
    if least < 0 or most >= logits.shape[1]:
        raise ValueError(f"targets must lie in 0..{logits.shape[1] - 1}: got {least}..{most}")
    return targets.to(logits.device, torch.long)


def scores(model: nn.Module, images: Tensor, targets: Tensor | None) -> Float[Tensor, " n"]:
    """The logit of each image's class, with its graph; the class of the largest one where none is given.

    Example:
        >>> scores(nn.Flatten(), torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([0]))
        tensor([1.])
    """
    logits = model(images)
    wanted = checked_targets(logits, targets)
    return logits.gather(1, wanted[:, None])[:, 0]
