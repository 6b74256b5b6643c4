"""Full gradients: what the input and what every bias contributes to a logit, and the map that they make together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from assay.probes.saliency import magnified
from assay.probes.scores import evaluated, leaf, scores

HOMOGENEOUS = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.Upsample),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.ZeroPad2d, nn.ReflectionPad2d),
)
"""Modules that have no bias of their own: in evaluation mode they are linear near every input, and 0 at 0."""

POINTWISE = (
    *(nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, nn.SELU, nn.CELU, nn.ReLU6, nn.Hardtanh),
    *(nn.Hardsigmoid, nn.Hardswish, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink),
    nn.Threshold,
)
"""Activations whose tangent does not pass through 0: the bias is where it meets the axis."""

TOLERANCE = 1e-4


class FullGradients(NamedTuple):
    """What `full_gradients` finds.

    Args:
        input: (n, c, h, w), the image times its gradient.
        biases: one entry for each place that adds a bias, in the order in which they are met: (n, ...) shaped as the
            output there, the bias times the gradient. A module that is run again is `name#2`.
        output: (n,), the logits.
    """

    input: Tensor
    biases: dict[str, Tensor]
    output: Tensor

    @property
    def residual(self) -> Float[Tensor, " n"]:
        """The logit less the sum of all terms: 0 up to rounding, which is what completeness means."""
        found = self.input.flatten(1).sum(1, dtype=torch.float64)
        for term in self.biases.values():
            found = found + term.flatten(1).sum(1, dtype=torch.float64)
        return (self.output.double() - found).to(self.output.dtype)


def full_gradients(model: nn.Module, images: Float[Tensor, "n c h w"], targets: Tensor | None = None) -> FullGradients:
    r"""The logit taken apart: $f(x) = x^\top \nabla_x f + \sum_l b_l^\top \nabla_{z_l} f$, $b_l$ being added to $z_l$.

    Exact for networks of affine layers and pieces of lines (ReLU, maxima, means). A batch normalization adds
    $\beta - \mu\gamma / \sqrt{\sigma^2 + \epsilon}$ at its output, an activation $\eta$ that is curved or does not pass
    through 0 adds $\eta(z) - \eta'(z) z$. One forward and one backward pass.

    Args:
        model: maps images to logits (n, k), without a softmax; used in evaluation mode, and left as it was found.
            Biases are found in linear and convolutional layers, batch normalizations and activations that are modules.
        images: (n, c, h, w).
        targets: (n,), the class y of each image; None for the predicted one.

    Srinivas and Fleuret, 2019 (arXiv:1905.00780), proposition 1 and, for activations, section 3.1.

    Raises:
        ValueError: when the terms do not add up to the logits within 1e-4, with the names of modules that may be why;
            for images that are not finite or none, targets out of range, outputs that are no logits.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
        >>> for p, value in zip(model.parameters(), ([[1.0, 2.0]], [3.0], [[4.0]], [5.0])):
        ...     p.data = torch.tensor(value)
        >>> found = full_gradients(model, torch.tensor([[[[10.0, 20.0]]]]))   # 4 (10 + 2 * 20 + 3) + 5
        >>> found.input.flatten(), found.biases["1"], found.biases["3"], found.output, found.residual
        (tensor([ 40., 160.]), tensor([[12.]]), tensor([[5.]]), tensor([217.]), tensor([0.]))
    """
    calls: list[tuple[str, nn.Module, Tensor | None, Tensor]] = []
    given: dict[nn.Module, Tensor] = {}
    unknown: dict[str, None] = {}

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> Any:
        given[module] = _differentiable(arguments[0])
        return (given[module].clone(), *arguments[1:])  # which an activation may overwrite

    def after(name: str, module: nn.Module, out: Any) -> Any:
        out = _differentiable(out)
        times = sum(other is module for _, other, _, _ in calls)
        calls.append((f"{name}#{times + 1}" if times else name, module, given.pop(module, None), out))
        return out.clone()

    handles: list[Any] = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, POINTWISE):
                handles.append(module.register_forward_pre_hook(before))
            if isinstance(module, POINTWISE) or _bias(module) is not None:
                hook = lambda m, _, out, name=name: after(name, m, out)  # noqa: E731
                handles.append(module.register_forward_hook(hook))
            elif not isinstance(module, HOMOGENEOUS) and _is_leaf(module):
                unknown[f"{name} ({type(module).__name__})"] = None
        with evaluated(model):
            x = leaf(images)
            value = scores(model, x, targets)
            places = [x, *(out for *_, out in calls), *(z for _, _, z, _ in calls if z is not None)]
            grads = iter(torch.autograd.grad(value.sum(), places, allow_unused=True, materialize_grads=True))
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        first = next(grads) * x
        at_outputs = [next(grads) for _ in calls]
        biases = {}
        for (name, module, z, out), slope in zip(calls, at_outputs, strict=True):
            biases[name] = slope * _bias(module, slope.ndim) if z is None else slope * out - next(grads) * z
    found = FullGradients(first.detach(), {name: term.detach() for name, term in biases.items()}, value.detach())
    _check_complete(found, list(unknown))
    return found


def full_grad(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    targets: Tensor | None = None,
    *,
    layers: str | Sequence[str] = "conv",
    normalize: bool = True,
) -> Float[Tensor, "n 1 h w"]:
    r"""The FullGrad map: $\psi(x \odot \nabla_x f) + \sum_l \sum_c \psi(b_l \odot \nabla_{z_l} f)_c$.

    $\psi$ takes magnitudes, brings those of an image and a layer to [0, 1] (all channels together) and magnifies them
    to the size of the image.

    Args:
        model: as for `full_gradients`.
        images: (n, c, h, w).
        targets: (n,), the class y of each image; None for the predicted one.
        layers: "conv" for every bias at a place with height and width, or names among `full_gradients(...).biases`.
        normalize: False leaves the magnitudes as they are.

    The paper: equation 5 and section 4; magnification as in the authors' code (bilinear, corner to corner).

    Raises:
        ValueError: as `full_gradients`; for a layer without a bias, or without height and width.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(3, 1, bias=False))
        >>> for p, value in zip(model.parameters(), ([[[[1.0]]]], [2.0], [[1.0, -1.0, 3.0]])):
        ...     p.data = torch.tensor(value)
        >>> x = torch.tensor([[[[4.0, 1.0, 1.0]]]])     # |x g| = 4, 1, 3 and |b g| = 2, 2, 6
        >>> full_grad(model, x).round(decimals=3), full_grad(model, x, normalize=False)
        (tensor([[[[1.0000, 0.0000, 1.6670]]]]), tensor([[[[6., 3., 9.]]]]))
    """
    found = full_gradients(model, images, targets)
    if layers == "conv":
        wanted = [term for term in found.biases.values() if term.ndim == 4]
    else:
        for name in layers:
            if name not in found.biases or found.biases[name].ndim != 4:
                there = ", ".join(key for key, term in found.biases.items() if term.ndim == 4)
                raise ValueError(f"layers must have a bias with height and width ({there}): got {name!r}")
        wanted = [found.biases[name] for name in layers]
    total = _scaled(found.input, normalize).sum(dim=1, keepdim=True)
    size = (images.shape[2], images.shape[3])
    for term in wanted:
        # Magnification is linear: the channels are added up first.
        total += magnified(_scaled(term, normalize).sum(dim=1, keepdim=True), size, corners=True)
    return total


def _bias(module: nn.Module, ndim: int = 1) -> Tensor | None:
    """What a module adds to something linear, to be broadcast over outputs of `ndim` dimensions."""
    if isinstance(module, _BatchNorm):
        if module.running_mean is None or module.running_var is None:
            return None
        scale = (module.running_var + module.eps).rsqrt()
        bias = -module.running_mean * (scale if module.weight is None else scale * module.weight)
        bias = bias if module.bias is None else bias + module.bias
    elif isinstance(module, (_ConvNd, nn.Linear)):
        if module.bias is None:
            return None
        bias = module.bias
    else:
        return None
    return bias if isinstance(module, nn.Linear) or ndim == 1 else bias.view(-1, *[1] * (ndim - 2))


def _is_leaf(module: nn.Module) -> bool:
    affine = isinstance(module, (_ConvNd, nn.Linear))  # those without a bias
    return not affine and next(module.children(), None) is None


def _differentiable(value: Tensor) -> Tensor:
    """What does not come from the image, in a model with frozen weights, has a gradient too."""
    return value if value.requires_grad else value.detach().requires_grad_()


def _scaled(term: Tensor, normalize: bool) -> Tensor:
    size = term.abs()
    if not normalize:
        return size
    size = size - size.amin(dim=(1, 2, 3), keepdim=True)
    return size / (size.amax(dim=(1, 2, 3), keepdim=True) + 1e-6)


def _check_complete(found: FullGradients, unknown: list[str]) -> None:
    terms = torch.stack([t.flatten(1).sum(1).abs() for t in (found.input, *found.biases.values())]).sum(0)
    allowed = TOLERANCE * torch.maximum(found.output.abs(), terms)
    worst = (found.residual.abs() - allowed).argmax()
    if not bool(found.residual.abs()[worst] <= allowed[worst]):
        why = (
            f"the biases of {', '.join(unknown)} are not known" if unknown else "a function in its forward adds a bias"
        )
        raise ValueError(
            f"model must be a network whose biases are known: {found.residual[worst].item():.3g} of the logit"
            f" {found.output[worst].item():.3g} is left; {why}"
        )
