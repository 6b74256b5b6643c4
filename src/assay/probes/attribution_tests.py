"""How maps of importance are judged: by pointing, by removing pixels, by removing them and training again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from assay.data import Labelled
from assay.probes.scores import checked_targets, evaluated
from assay.train import accuracy


def pointing_game(
    maps: Float[Tensor, "n 1 h w"], objects: Bool[Tensor, "n 1 h w"], *, tolerance: int = 0
) -> Float[Tensor, " n"]:
    """Whether the largest value of each map lies on the object: 1 or 0.

    Args:
        maps: of importance.
        objects: where the object is.
        tolerance: pixels beside the object that count as hit, 0 or more, measured along rows, columns and diagonals.

    Zhang et al., 2016 (arXiv:1608.00507), section 4.

    Differs from the paper: where several places share the largest value, the share of them that hit counts, so that a
    constant map scores as a random one would.

    Raises:
        ValueError: for maps that are not finite, a tolerance below 0.

    Example:
        >>> where = torch.tensor([[[[True, False, False]]]])
        >>> pointing_game(torch.tensor([[[[0.1, 0.9, 0.2]]]]), where)
        tensor([0.])
        >>> pointing_game(torch.tensor([[[[0.1, 0.9, 0.2]]]]), where, tolerance=1)
        tensor([1.])
    """
    if not bool(maps.isfinite().all()):
        raise ValueError("maps must be finite: got NaN or infinity")
    if tolerance < 0:
        raise ValueError(f"tolerance must not be negative: got {tolerance}")
    near = F.max_pool2d(objects.to(maps.dtype), 2 * tolerance + 1, stride=1, padding=tolerance)
    largest = (maps == maps.amax(dim=(2, 3), keepdim=True)).to(maps.dtype)
    return (largest * near).sum(dim=(1, 2, 3)) / largest.sum(dim=(1, 2, 3))


def salient(saliency: Float[Tensor, "n 1 h w"], fraction: float, which: str = "top") -> Bool[Tensor, "n 1 h w"]:
    """The `fraction` of each map's pixels of the largest values ("top") or of the smallest ("bottom").

    Where values are equal the earlier pixel is the larger, so that "top" of a fraction and "bottom" of the rest part
    the image.

    Args:
        saliency: of each pixel.
        fraction: in [0, 1]; the number of pixels is rounded.
        which: "top" or "bottom".

    Raises:
        ValueError: for a fraction out of range, another `which`, saliency that is not a number.

    Example:
        >>> salient(torch.tensor([[[[3.0, 1.0, 2.0, 2.0]]]]), 0.5)
        tensor([[[[ True, False,  True, False]]]])
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in [0, 1]: got {fraction}")
    if which not in ("top", "bottom"):
        raise ValueError(f"which must be 'top' or 'bottom': got {which!r}")
    if bool(saliency.isnan().any()):
        raise ValueError("saliency must be numbers: got NaN")
    pixels = saliency[0].numel()
    count = int((fraction if which == "top" else 1 - fraction) * pixels + 0.5)
    order = saliency.flatten(1).argsort(dim=1, descending=True, stable=True)
    chosen = torch.zeros(order.shape, dtype=torch.bool, device=saliency.device)
    chosen.scatter_(1, order[:, :count], True)
    return (chosen if which == "top" else ~chosen).view(saliency.shape)


def unmask(
    images: Float[Tensor, "n c h w"],
    saliency: Float[Tensor, "n 1 h w"],
    fraction: float,
    which: str = "top",
    *,
    fill: Tensor | float = 0.0,
) -> Float[Tensor, "n c h w"]:
    """Images of which only the most ("top") or the least ("bottom") salient pixels are left.

    Args:
        images: (n, c, h, w).
        saliency: of each pixel.
        fraction: of the pixels that stay, in [0, 1].
        which: "top" or "bottom".
        fill: what the others become: a number, or what broadcasts to the images.

    Shah et al., 2021 (arXiv:2102.12781), section 3.

    Raises:
        ValueError: as `salient`.

    Example:
        >>> image = torch.tensor([[[[5.0, 6.0, 7.0, 8.0]]]])
        >>> unmask(image, torch.tensor([[[[3.0, 1.0, 2.0, 2.0]]]]), 0.25, "bottom", fill=-1.0)
        tensor([[[[-1.,  6., -1., -1.]]]])
    """
    fill = torch.as_tensor(fill, dtype=images.dtype, device=images.device)
    return torch.where(salient(saliency, fraction, which), images, fill)


def pixel_perturbation(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    saliency: Float[Tensor, "n 1 h w"],
    fractions: Sequence[float],
    *,
    fill: Tensor | float,
    remove: str = "least",
    targets: Tensor | None = None,
    batch_size: int = 500,
) -> Float[Tensor, " fractions"]:
    r"""How much a logit changes when pixels are removed: the mean of $|f(x') - f(x)| / |f(x)|$ over the images.

    Args:
        model: maps images to logits (n, k); used in evaluation mode, and left as it was found.
        images: (n, c, h, w).
        saliency: of each pixel.
        fractions: of the pixels that are removed, each in [0, 1].
        fill: what removed pixels become: a number, or what broadcasts to the images; the mean of the data is usual.
        remove: "least" salient pixels (where a good map changes little), or the "most".
        targets: (n,), the class of each image; None for the one predicted for the whole image.
        batch_size: images at a time.

    Srinivas and Fleuret, 2019 (arXiv:1905.00780), section 5.1.

    Raises:
        ValueError: as `salient`; for another `remove`, targets out of range, a logit of 0 (its change has no scale).

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False))
        >>> model[1].weight.data = torch.tensor([[1.0, 0.0, 2.0, 5.0]])
        >>> image, saliency = torch.ones(1, 1, 2, 2), torch.tensor([[[[4.0, 1.0], [2.0, 3.0]]]])
        >>> pixel_perturbation(model, image, saliency, [0.25, 0.5, 1.0], fill=0.0)    # 0, 2 and 8 of 8
        tensor([0.0000, 0.2500, 1.0000])
    """
    if remove not in ("least", "most"):
        raise ValueError(f"remove must be 'least' or 'most': got {remove!r}")
    totals = torch.zeros(len(fractions), dtype=torch.float64)
    with evaluated(model), torch.no_grad():
        for start in range(0, len(images), batch_size):
            part, ranks = images[start : start + batch_size], saliency[start : start + batch_size]
            logits = model(part)
            wanted = checked_targets(logits, None if targets is None else targets[start : start + batch_size])
            whole = logits.gather(1, wanted[:, None])
            if bool((whole == 0).any()):
                raise ValueError("model must give logits other than 0: got 0, of which there is no relative change")
            for number, fraction in enumerate(fractions):
                left = unmask(part, ranks, 1 - fraction, "top" if remove == "least" else "bottom", fill=fill)
                changed = model(left).gather(1, wanted[:, None])
                totals[number] += ((changed - whole).abs() / whole.abs()).sum().item()
    return (totals / len(images)).to(images.dtype)


def remove_and_retrain(
    train: Labelled,
    test: Labelled,
    saliency_train: Float[Tensor, "n 1 h w"],
    saliency_test: Float[Tensor, "m 1 h w"],
    fractions: Sequence[float],
    fit: Callable[[Labelled], nn.Module],
    *,
    fill: Tensor | float,
) -> Float[Tensor, " fractions"]:
    """Test accuracy of new models that never see the most salient pixels (ROAR): the lower, the better the maps.

    Args:
        train: images and labels to train on.
        test: images and labels to judge by.
        saliency_train: of each pixel of the training images.
        saliency_test: of each pixel of the test images, from the same model and method.
        fractions: of the pixels that are removed, each in [0, 1].
        fit: fit(train) -> a new trained model; the caller's seeds, architecture and budget.
        fill: what removed pixels become: a number, or what broadcasts to the images.

    Hooker et al., 2018 (arXiv:1806.10758), section 3.

    Raises:
        ValueError: as `salient`.

    Example:
        >>> def nearest_mean(train):
        ...     means = torch.stack([train.inputs[train.targets == k].flatten(1).mean(0) for k in (0, 1)])
        ...     model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
        ...     model[1].weight.data, model[1].bias.data = means, -(means**2).sum(1) / 2
        ...     return model
        >>> data = Labelled(torch.tensor([[[[0.0, 0.3]]], [[[1.0, 0.3]]]] * 2), torch.tensor([0, 1] * 2))
        >>> where = torch.tensor([[[[9.0, 0.0]]]] * 4)              # all there is to know is in the first pixel
        >>> remove_and_retrain(data, data, where, where, [0.0, 0.5], nearest_mean, fill=0.0)
        tensor([1.0000, 0.5000])
    """
    found = []
    for fraction in fractions:
        model = fit(Labelled(unmask(train.inputs, saliency_train, 1 - fraction, "bottom", fill=fill), train.targets))
        left = Labelled(unmask(test.inputs, saliency_test, 1 - fraction, "bottom", fill=fill), test.targets)
        found.append(accuracy(model, left))
    return torch.tensor(found)
