"""NormGrad: how much each place of a layer would add to the gradient of a weight put there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from assay.probes.saliency import activation_gradients, magnified
from assay.probes.scores import checked_targets, evaluated, leaf

VIRTUAL = ("conv1x1", "conv3x3", "scaling", "bias")
AGGREGATE = ("norm", "positive_norm", "sum", "max")


def norm_grad(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    targets: Tensor | None,
    layers: str | Sequence[str],
    *,
    virtual: str = "conv1x1",
    aggregate: str = "norm",
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "n 1 i j"]:
    r"""A map of the size of each place's contribution to a weight's gradient: $\|g_u x_u^\top\|_F = \|g_u\| \|x_u\|$.

    An identity is put behind a layer in thought, and the gradient of its weights written as a sum over places $u$; $x$
    is the layer's output and $g$ the gradient of the logit there. The contribution of $u$ is $g_u x_u^\top$ for a
    1 x 1 convolution, $g_u x_{N(u)}^\top$ for a 3 x 3 one ($N(u)$ the nine places around, 0 outside), $g_u \odot x_u$
    for a scaling of channels, $g_u$ for a bias. No outer product is formed.

    The maps of several layers are magnified, brought to [0, 1] by their least and greatest value, and multiplied.

    Args:
        model: maps images to logits (n, k); used in evaluation mode, and left as it was found.
        images: (n, c, h, w).
        targets: (n,), the class of each image; None for the predicted one.
        layers: names of one or several modules with outputs (n, c', h', w'). With mean pooling and one linear layer on
            top, $g$ is the same everywhere in the last of them: the map is then that of $\|x_u\|$ for every class.
        virtual: `"conv1x1"`, `"conv3x3"`, `"scaling"` or `"bias"`.
        aggregate: of the entries of a contribution: `"norm"` (Frobenius), `"positive_norm"` (of the positive ones),
            `"sum"` or `"max"`. With `"scaling"`, `"sum"` is gradient times activation.
        size: height and width of the map; those of the images if not given.

    Rebuffi et al., 2020 (arXiv:2004.02866): contributions of virtual identities, and products of maps of layers.

    Raises:
        ValueError: for another virtual layer or aggregate, and as `activation_gradients`.
        TypeError: for images of whole numbers.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(4, 1, bias=False))
        >>> model[2].weight.data = torch.tensor([[3.0, 0.0, 4.0, 1.0]])
        >>> x = torch.tensor([[[[1.0, 5.0]], [[0.0, 12.0]]]])     # |g| = 5, 1 and |x| = 1, 13
        >>> norm_grad(model, x, None, "0")
        tensor([[[[ 5., 13.]]]])
    """
    if virtual not in VIRTUAL:
        raise ValueError(f"virtual must be one of {', '.join(VIRTUAL)}: got {virtual!r}")
    if aggregate not in AGGREGATE:
        raise ValueError(f"aggregate must be one of {', '.join(AGGREGATE)}: got {aggregate!r}")
    names = [layers] if isinstance(layers, str) else list(layers)
    size = size or (images.shape[2], images.shape[3])
    found = activation_gradients(model, images, targets, names)
    maps = [magnified(_aggregated(x, g, virtual, aggregate), size) for x, g in (found[name] for name in names)]
    if len(maps) == 1:
        return maps[0]
    return torch.stack([_unit_range(each) for each in maps]).prod(dim=0)


def meta_saliency(
    saliency: Callable[[nn.Module, Tensor, Tensor], Tensor],
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    targets: Tensor,
    *,
    lr: float = 1e-3,
    negate: bool = False,
) -> Float[Tensor, "n 1 h w"]:
    r"""The map of a model that has first taken one step towards the class asked about, image by image.

    $\theta' = \theta - \eta\, \nabla_\theta\, \mathrm{CE}(f_\theta(x), y)$, then `saliency` at $\theta'$.

    Args:
        saliency: saliency(model, image (1, c, h, w), target (1,)) -> a map (1, 1, h, w).
        model: maps images to logits (n, k); used in evaluation mode, and left as it was found, to the last bit.
        images: (n, c, h, w).
        targets: (n,), the class of each image.
        lr: $\eta$, 0 or more.
        negate: step away from the class.

    The paper: meta-saliency; as in the authors' code, the derivative does not go through the step.

    Raises:
        ValueError: for a learning rate below 0 or not finite, targets out of range, images not finite.

    Example:
        >>> from assay.probes import input_gradient, magnitude
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
        >>> _ = nn.init.zeros_(model[1].weight)
        >>> one = torch.ones(1, 1, 1, 1)
        >>> gradient = lambda m, x, y: magnitude(input_gradient(m, x, y))
        >>> meta_saliency(gradient, model, one, torch.tensor([0]), lr=0.5)    # the weights after it: 1/4 and -1/4
        tensor([[[[0.2500]]]])
    """
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr must be 0 or more and finite: got {lr}")
    parameters = list(model.parameters())
    with evaluated(model), _weights_kept(parameters):
        start = [p.detach().clone() for p in parameters]
        x = leaf(images).detach()
        with torch.no_grad():
            wanted = checked_targets(model(x), targets)
        maps = []
        for image, target in zip(x.split(1), wanted.split(1), strict=True):
            loss = F.cross_entropy(model(image), target)
            grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            with torch.no_grad():
                torch._foreach_add_([p.data for p in parameters], list(grads), alpha=lr if negate else -lr)
            maps.append(saliency(model, image, target))
            with torch.no_grad():
                torch._foreach_copy_([p.data for p in parameters], start)
    return torch.cat(maps)


def class_sensitivity(
    saliency: Callable[[nn.Module, Tensor, Tensor], Tensor], model: nn.Module, images: Float[Tensor, "n c h w"]
) -> Float[Tensor, " n"]:
    r"""How alike the maps of an image's most and least likely class are, over its pixels; lower is better.

    Args:
        saliency: saliency(model, images, targets) -> maps (n, 1, h, w).
        model: maps images to logits (n, k).
        images: (n, c, h, w).

    Returns:
        Pearson's correlation of each image's two maps, in [-1, 1]; 0 where one of them is constant.

    The paper: class sensitivity.

    Raises:
        ValueError: for images not finite, outputs that are no logits.

    Example:
        >>> from assay.probes import input_gradient
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
        >>> model[1].weight.data = torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 0.0]])
        >>> class_sensitivity(input_gradient, model, torch.ones(1, 1, 1, 3))
        tensor([-1.])
    """
    with evaluated(model), torch.no_grad():
        logits = model(leaf(images).detach())
        top = checked_targets(logits, None)
    a, b = (saliency(model, images, wanted).flatten(1).double() for wanted in (top, logits.argmin(dim=1)))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    lengths = a.norm(dim=1) * b.norm(dim=1)
    return ((a * b).sum(dim=1) / lengths.where(lengths > 0, 1)).to(images.dtype)


def _aggregated(x: Tensor, g: Tensor, virtual: str, aggregate: str) -> Tensor:
    """(n, 1, h, w): the size of the contribution of each place, of which the first factor is g and the second `x`."""
    if virtual == "bias":
        return _reduced(g, aggregate)
    if virtual == "scaling":
        return _reduced(g * x, aggregate)
    # An outer product of g with the nine or one neighbours: each reduction is one of the two factors'.
    wide = virtual == "conv3x3"
    if aggregate == "norm":
        return _length(g) * _around(_length(x), wide)
    if aggregate == "positive_norm":
        up = _length(g.relu()).square() * _around(_length(x.relu()), wide).square()
        down = _length((-g).relu()).square() * _around(_length((-x).relu()), wide).square()
        return (up + down).sqrt()
    if aggregate == "sum":
        total = x.sum(dim=1, keepdim=True)
        return g.sum(dim=1, keepdim=True) * (9 * F.avg_pool2d(total, 3, 1, 1) if wide else total)
    greatest, least = x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True)
    if wide:
        greatest = F.max_pool2d(F.pad(greatest, (1, 1, 1, 1)), 3, 1)
        least = -F.max_pool2d(F.pad(-least, (1, 1, 1, 1)), 3, 1)
    up, down = g.amax(dim=1, keepdim=True), g.amin(dim=1, keepdim=True)
    return torch.stack([up * greatest, up * least, down * greatest, down * least]).amax(dim=0)


def _reduced(entries: Tensor, aggregate: str) -> Tensor:
    if aggregate == "norm":
        return _length(entries)
    if aggregate == "positive_norm":
        return _length(entries.relu())
    return entries.sum(dim=1, keepdim=True) if aggregate == "sum" else entries.amax(dim=1, keepdim=True)


def _length(x: Tensor) -> Tensor:
    return x.norm(dim=1, keepdim=True)


def _around(lengths: Tensor, wide: bool) -> Tensor:
    """The length of the nine vectors around each place together."""
    return (9 * F.avg_pool2d(lengths.square(), 3, 1, 1)).sqrt() if wide else lengths


def _unit_range(maps: Tensor) -> Tensor:
    """Each map from 0 to 1; a constant one is 0."""
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    spread = high - low
    return (maps - low) / spread.where(spread > 0, 1)


@contextmanager
def _weights_kept(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Weights to the bit, and whether they ask for gradients, as they were, also after an error."""
    start = [p.detach().clone() for p in parameters]
    asked = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        yield
    finally:
        with torch.no_grad():
            for p, value, before in zip(parameters, start, asked, strict=True):
                p.data.copy_(value)
                p.requires_grad_(before)
