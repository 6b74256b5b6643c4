"""Where a classifier looks: the maps that others are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from assay.probes.scores import checked_targets, evaluated, leaf, scores


def input_gradient(
    model: nn.Module, images: Float[Tensor, "n c h w"], targets: Tensor | None = None
) -> Float[Tensor, "n c h w"]:
    r"""How each logit changes with each pixel: $\partial f_y / \partial x$.

    Args:
        model: maps images to logits (n, k); used in evaluation mode, and left as it was found.
        images: (n, c, h, w).
        targets: (n,), the class y of each image; None for the predicted one.

    Simonyan et al., 2013 (arXiv:1312.6034), section 3; their map is `magnitude` of it.

    Raises:
        ValueError: for images that are not finite or none, targets out of range, outputs that are no logits.
        TypeError: for images of whole numbers.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> model[1].weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
        >>> input_gradient(model, torch.ones(1, 1, 1, 2), torch.tensor([0]))
        tensor([[[[ 1., -2.]]]])
    """
    with evaluated(model):
        x = leaf(images)
        return _gradient(scores(model, x, targets), x)


def input_x_gradient(
    model: nn.Module, images: Float[Tensor, "n c h w"], targets: Tensor | None = None
) -> Float[Tensor, "n c h w"]:
    r"""The share of each pixel in a logit that were linear and without biases: $x \odot \partial f_y / \partial x$.

    Args:
        model: as for `input_gradient`.
        images: (n, c, h, w).
        targets: (n,), the class y of each image; None for the predicted one.

    Shrikumar et al., 2016 (arXiv:1605.01713).

    Raises:
        ValueError, TypeError: as `input_gradient`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> model[1].weight.data = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
        >>> input_x_gradient(model, torch.tensor([[[[5.0, 6.0]]]]), torch.tensor([0]))
        tensor([[[[  5., -12.]]]])
    """
    return images.detach() * input_gradient(model, images, targets)


def integrated_gradients(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    targets: Tensor | None = None,
    *,
    baseline: Tensor | float = 0.0,
    steps: int = 50,
    batch_size: int = 16,
) -> Float[Tensor, "n c h w"]:
    r"""The mean gradient on the way from a baseline: $(x - x') \odot \int_0^1 \nabla f_y(x' + a(x - x'))\,da$.

    Its sum over the pixels of an image is $f_y(x) - f_y(x')$, up to the error of the quadrature (completeness). Points
    of the way are looked at `batch_size` at a time, whatever `steps` is, so that memory stays that of a small batch.

    Args:
        model: as for `input_gradient`.
        images: (n, c, h, w).
        targets: (n,), the class y of each image; None for the predicted one.
        baseline: $x'$, an image where nothing is to be seen: a number, or what broadcasts to the images.
        steps: points on the way, at least 1.
        batch_size: images and points that go through the model at once, at least 1.

    Sundararajan et al., 2017 (arXiv:1703.01365), equation 1.

    Differs from the paper: Gauss-Legendre quadrature, not the Riemann sum of equation 3.

    Raises:
        ValueError: as `input_gradient`; for steps or a batch size below 1, a baseline of another shape.
        TypeError: as `input_gradient`.

    Example:
        >>> class Product(nn.Module):
        ...     def forward(self, x):
        ...         return x.flatten(1).prod(1, keepdim=True)
        >>> integrated_gradients(Product(), torch.tensor([[[[2.0, 3.0]]]])).round(decimals=4)  # to equal parts
        tensor([[[[3., 3.]]]])
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1: got {steps}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1: got {batch_size}")
    x = leaf(images).detach()
    start = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
    try:
        start = start.expand_as(x)
    except RuntimeError:
        raise ValueError(f"baseline must broadcast to {tuple(x.shape)}: got {tuple(start.shape)}") from None
    places, weights = (torch.tensor(each, dtype=x.dtype, device=x.device) for each in _gauss_legendre(steps))
    way = x - start
    total = torch.zeros_like(x)
    with evaluated(model):
        wanted = _classes(model, x, targets)
        layout = _layout(model, x)
        # One row for each image and point, a batch of rows at a time: an image's points come one after the other.
        rows = torch.arange(len(x) * steps, device=x.device)
        for part in rows.split(batch_size):
            image, point = part // steps, part % steps
            at = torch.addcmul(start[image], way[image], places[point].view(-1, 1, 1, 1))
            at = leaf(at.contiguous(memory_format=layout))
            slope = _gradient(scores(model, at, wanted[image]), at)
            total.index_add_(0, image, slope.mul_(weights[point].view(-1, 1, 1, 1)))
    return way * total


def smooth_grad(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    targets: Tensor | None = None,
    *,
    sigma: float = 0.15,
    samples: int = 50,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n c h w"]:
    r"""The gradient at an image's noisy copies, averaged: $\frac1m \sum_i \nabla f_y(x + \sigma\varepsilon_i)$.

    Args:
        model: as for `input_gradient`.
        images: (n, c, h, w).
        targets: (n,), the class y of each image; None for the predicted one (of the image without noise).
        sigma: $\sigma$, in the units of the images, 0 or more; the paper takes 0.1 to 0.2 of their range.
        samples: $m$, at least 1.
        generator: where the noise comes from, on the device of the images; None is torch's global generator.

    Smilkov et al., 2017 (arXiv:1706.03825), section 3.

    Raises:
        ValueError: as `input_gradient`; for a sigma below 0 or not finite, samples below 1.
        TypeError: as `input_gradient`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.ReLU())
        >>> edge = smooth_grad(model, torch.zeros(1, 1, 1, 1), samples=1000, generator=torch.Generator().manual_seed(0))
        >>> abs(edge.item() - 0.5) < 3 * 0.5 / 1000**0.5    # the slope is 1 on one side and 0 on the other
        True
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be 0 or more and finite: got {sigma}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1: got {samples}")
    x = leaf(images).detach()
    total = torch.zeros_like(x)
    with evaluated(model):
        wanted = _classes(model, x, targets)
        layout = _layout(model, x)
        for _ in range(samples):
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            at = leaf(torch.add(x, noise, alpha=sigma).contiguous(memory_format=layout))
            total += _gradient(scores(model, at, wanted), at)
    return total / samples


def grad_cam(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    targets: Tensor | None,
    layer: str,
    *,
    relu: bool = True,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "n 1 i j"]:
    r"""A layer's channels, weighted by their mean gradients: $\mathrm{relu}(\sum_c \bar g_c x_c)$, magnified.

    Args:
        model: as for `input_gradient`.
        images: (n, c, h, w).
        targets: (n,), the class y of each image; None for the predicted one.
        layer: name of a module with an output (n, c', h', w'), as `model.named_modules` spells it; the last convolution
            (or what follows it at the same size) is what the paper takes.
        relu: False leaves what speaks against the class.
        size: height and width of the map; those of the images if not given.

    Selvaraju et al., 2016 (arXiv:1610.02391), equations 1 and 2; bilinear magnification.

    Raises:
        ValueError: as `input_gradient`; for a layer that is not there, that is not run once, or has no such output.
        TypeError: as `input_gradient`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> _ = nn.init.constant_(model[0].weight, 2.0)
        >>> grad_cam(model, torch.tensor([[[[1.0, 4.0]]]]), None, "0")    # (1/2) (2, 8)
        tensor([[[[1., 4.]]]])
    """
    x, g = activation_gradients(model, images, targets, [layer])[layer]
    cam = (g.mean(dim=(2, 3), keepdim=True) * x).sum(dim=1, keepdim=True)
    return magnified(cam.relu() if relu else cam, size or (images.shape[2], images.shape[3]))


def activation_gradients(
    model: nn.Module, images: Float[Tensor, "n c h w"], targets: Tensor | None, layers: Sequence[str]
) -> dict[str, tuple[Float[Tensor, "n _ _ _"], Float[Tensor, "n _ _ _"]]]:
    r"""The outputs $x_l$ of layers, and the gradients $\partial f_y / \partial x_l$ there, by name.

    Args:
        model: as for `input_gradient`.
        images: (n, c, h, w).
        targets: (n,), the class y of each image; None for the predicted one.
        layers: names of modules with an output (n, c', h', w').

    Raises:
        ValueError: as `input_gradient`; for no layers, one that is not there, not run exactly once, without such an
            output, or of which the logit does not depend.
        TypeError: as `input_gradient`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(inplace=True), nn.Flatten())
        >>> _ = nn.init.constant_(model[0].weight, -2.0)
        >>> activation_gradients(model, torch.ones(1, 1, 1, 1), None, ["0"])["0"]   # before the ReLU overwrites it
        (tensor([[[[-2.]]]]), tensor([[[[0.]]]]))
    """
    known = dict(model.named_modules())
    if not layers:
        raise ValueError("layers must name at least one: got none")
    for name in layers:
        if name not in known:
            raise ValueError(f"layer must be a module of the model: got {name!r}")
    met: dict[str, list[Tensor]] = {name: [] for name in layers}

    def meet(name: str, out: Any) -> Any:
        met[name].append(out)
        # What follows works on a copy, and may overwrite that.
        return out.clone() if isinstance(out, Tensor) else None

    handles = []
    try:
        handles = [known[name].register_forward_hook(lambda _m, _i, out, name=name: meet(name, out)) for name in layers]
        with evaluated(model):
            value = scores(model, leaf(images), targets).sum()
            for name, outs in met.items():
                if len(outs) != 1:
                    raise ValueError(f"layer {name!r} must be run once in a forward pass: got {len(outs)} times")
                if not (isinstance(outs[0], Tensor) and outs[0].ndim == 4):
                    raise ValueError(f"layer {name!r} must have an output (n, c, h, w): got {_described(outs[0])}")
            found = [met[name][0] for name in layers]
            grads = torch.autograd.grad(value, found, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    for name, g in zip(layers, grads, strict=True):
        if g is None:
            raise ValueError(f"layer {name!r} must have a part in the logits: got none")
    return {name: (x.detach(), g) for name, x, g in zip(layers, found, grads, strict=True)}


def magnitude(attribution: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    r"""A map of what has a sign and several channels: $\max_c |a_c|$.

    Args:
        attribution: of each pixel of each channel.

    Simonyan et al., 2013 (arXiv:1312.6034), section 3.1.

    Example:
        >>> magnitude(torch.tensor([[[[1.0, -2.0]], [[-3.0, 0.5]]]]))
        tensor([[[[3., 2.]]]])
    """
    return attribution.abs().amax(dim=1, keepdim=True)


def magnified(
    maps: Float[Tensor, "n c _ _"], size: tuple[int, int], *, corners: bool = False
) -> Float[Tensor, "n c i j"]:
    """Maps brought to `size` (height, width), bilinearly: pixels are areas, or (`corners`) points up to the corners.

    Example:
        >>> magnified(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
        tensor([[[[0., 1., 3., 4.]]]])
        >>> magnified(torch.tensor([[[[0.0, 6.0]]]]), (1, 4), corners=True)
        tensor([[[[0., 2., 4., 6.]]]])
    """
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=corners)


def _gradient(value: Tensor, at: Tensor) -> Tensor:
    """Of each score with respect to its own image; zero where the model does not look."""
    if not value.requires_grad:
        return torch.zeros_like(at)
    (slope,) = torch.autograd.grad(value.sum(), at, allow_unused=True)
    return torch.zeros_like(at) if slope is None else slope


def _classes(model: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """The classes asked about, checked before any work: by one image, or by all where they are to be found."""
    with torch.no_grad():
        logits = model(images if targets is None else images[:1])
        return checked_targets(logits.expand(len(images), -1) if logits.ndim == 2 else logits, targets)


def _layout(model: nn.Module, images: Tensor) -> torch.memory_format:
    """Channels last, in which convolutions on a CPU take half the time, unless the model counts on channels first."""
    if images.device.type != "cpu":
        return torch.contiguous_format
    try:
        with torch.no_grad():
            model(images[:1].contiguous(memory_format=torch.channels_last))
    except RuntimeError:  # a view of activations that it takes to lie in one piece
        return torch.contiguous_format
    return torch.channels_last


@cache
def _gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """Places in [0, 1] and weights that sum to 1."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    return ((1 + places) / 2).tolist(), (weights / 2).tolist()


def _described(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
