"""DiffROAR: whether the pixels that a map ranks high teach a new model more than those it ranks low."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.data import Labelled
from assay.probes.attribution_tests import unmask
from assay.probes.saliency import input_gradient, magnitude
from assay.train import accuracy


class DiffROAR(NamedTuple):
    """What `diff_roar` finds, one number a fraction.

    Args:
        top: test accuracy of models that learned, and are tested, on the highest ranked pixels.
        bottom: the same with the lowest ranked.
    """

    top: Tensor
    bottom: Tensor

    @property
    def difference(self) -> Float[Tensor, " fractions"]:
        """Positive where large attributions mark what a model needs; 0 for random ones."""
        return self.top - self.bottom


def gradient_size(model: nn.Module, images: Float[Tensor, "n c h w"], targets: Tensor) -> Float[Tensor, "n 1 h w"]:
    r"""The attribution that the paper tests: $\max_c |\partial f_y / \partial x_c|$.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        >>> model[1].weight.data = torch.tensor([[1.0, -2.0]])
        >>> gradient_size(model, torch.ones(1, 1, 1, 2), torch.tensor([0]))
        tensor([[[[1., 2.]]]])
    """
    return magnitude(input_gradient(model, images, targets))


def diff_roar(
    model: nn.Module,
    train: Labelled,
    test: Labelled,
    fit: Callable[[Labelled], nn.Module],
    fractions: Sequence[float] = (0.05, 0.1, 0.2),
    *,
    attribution: Callable[[nn.Module, Tensor, Tensor], Tensor] = gradient_size,
    fill: Tensor | float = 0.0,
    batch_size: int = 500,
) -> DiffROAR:
    r"""Predictive power of the highest and of the lowest ranked pixels: $\mathrm{PP}(A, k) - \mathrm{PP}(-A, k)$.

    $\mathrm{PP}$ is the test accuracy of a new model, trained on images of which only the share k of pixels of the
    largest (or smallest) attribution is left, and tested on such images. All attributions are those of `model` for the
    true labels.

    Args:
        model: what is judged, maps images to logits (n, k); used in evaluation mode, and left as it was found.
        train: images and labels to train on.
        test: images and labels to judge by.
        fit: fit(train) -> a new trained model of the same architecture; the caller's seeds and budget.
        fractions: k, each above 0 and at most 1.
        attribution: attribution(model, images, targets) -> (n, 1, h, w).
        fill: what pixels that are not left become: a number, or what broadcasts to the images.
        batch_size: images whose attributions are found at once.

    Shah et al., 2021 (arXiv:2102.12781), section 3, equations 2 and 3.

    Raises:
        ValueError: for a fraction out of range, attributions of another size, and as `input_gradient`.

    Example:
        >>> def nearest_mean(train):
        ...     means = torch.stack([train.inputs[train.targets == k].flatten(1).mean(0) for k in (0, 1)])
        ...     model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
        ...     model[1].weight.data, model[1].bias.data = means, -(means**2).sum(1) / 2
        ...     return model
        >>> data = Labelled(torch.tensor([[[[0.0, 0.3]]], [[[1.0, 0.3]]]] * 2), torch.tensor([0, 1] * 2))
        >>> found = diff_roar(nearest_mean(data), data, data, nearest_mean, [0.5],
        ...                   attribution=lambda m, x, y: torch.tensor([1.0, 0.0]).expand(len(x), 1, 1, 2))
        >>> found.top, found.bottom, found.difference
        (tensor([1.]), tensor([0.5000]), tensor([0.5000]))
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise ValueError(f"fractions must lie in (0, 1]: got {fraction}")
    maps = [_maps(model, part, attribution, batch_size) for part in (train, test)]
    power: dict[str, list[float]] = {"top": [], "bottom": []}
    for fraction in fractions:
        for which, found in power.items():
            left, judged = (
                Labelled(unmask(part.inputs, ranks, fraction, which, fill=fill), part.targets)
                for part, ranks in zip((train, test), maps, strict=True)
            )
            found.append(accuracy(fit(left), judged))
    return DiffROAR(torch.tensor(power["top"]), torch.tensor(power["bottom"]))


def _maps(
    model: nn.Module, part: Labelled, attribution: Callable[[nn.Module, Tensor, Tensor], Tensor], batch_size: int
) -> Tensor:
    pairs = zip(part.inputs.split(batch_size), part.targets.split(batch_size), strict=True)
    maps = torch.cat([attribution(model, x, y) for x, y in pairs])
    expected = (len(part.inputs), 1, *part.inputs.shape[2:])
    if tuple(maps.shape) != expected:
        raise ValueError(f"attribution must return maps of shape {expected}: got {tuple(maps.shape)}")
    return maps
