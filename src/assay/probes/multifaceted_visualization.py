"""Multifaceted feature visualization: a picture for each kind of thing that a unit fires for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from assay.probes.activations import evaluated, record_activations, watched
from assay.probes.matching import k_means
from assay.probes.tsne import tsne

TRIES = 5


class Octave(NamedTuple):
    """One stretch of activation maximization; steps and weights run linearly from their first value to their second.

    Args:
        steps: how many.
        step_size: in units of the range of pixels, of a gradient divided by its mean magnitude.
        denoise: weight of the data in total variation denoising; larger smooths less.
        scale: the image is enlarged by it first.
        window: standard deviation of the crop's place about the middle, as a share of what is left over.
        margin: pixels at the edges of a crop that are not changed.
    """

    steps: int
    step_size: tuple[float, float]
    denoise: tuple[float, float]
    scale: float = 1.0
    window: float = 0.3
    margin: int = 0


SMALL = (Octave(60, (0.02, 0.01), (2.0, 8.0)), Octave(40, (0.01, 0.01), (4.0, 10.0), scale=1.14))
"""For images of up to 64 pixels."""

ALEXNET = (
    Octave(190, (1 / 255, 2 / 255), (102.0, 102.0)),
    Octave(150, (1 / 255, 1 / 255), (2.55, 510.0), scale=1.2),
    Octave(20, (2 / 255, 2 / 255), (25.5, 510.0), window=0.2, margin=50),
    Octave(10, (2 / 255, 2 / 255), (102.0, 510.0)),
)
"""The authors', for images of 227 pixels from mean images; theirs are for pixels from 0 to 255, these from 0 to 1."""


def tv_denoise(images: Float[Tensor, "n c h w"], weight: float, *, iterations: int = 30) -> Float[Tensor, "n c h w"]:
    r"""$\arg\min_u \mathrm{TV}(u) + \frac{w}{2} \|u - f\|^2$, isotropic, the channels of a pixel together.

    By accelerated projected gradients on the dual, $p \leftarrow \Pi_{|p| \le 1}(p + \frac{w}{8} \nabla u)$ with
    $u = f + \mathrm{div}\, p / w$. The mean of each channel is kept.

    Args:
        images: f.
        weight: w, above 0; larger smooths less.
        iterations: at least 1.

    Beck and Teboulle, 2009, section IV; the problem, Rudin, Osher and Fatemi, 1992.

    Raises:
        ValueError: for a weight that is not above 0, iterations below 1.

    Example:
        >>> step = torch.tensor([[[[0.0, 1.0]]]])     # both sides move by 1 / w towards each other
        >>> tv_denoise(step, 10.0, iterations=200).round(decimals=3)
        tensor([[[[0.1000, 0.9000]]]])
    """
    if not weight > 0:
        raise ValueError(f"weight must be above 0: got {weight}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1: got {iterations}")
    dual = torch.zeros(2, *images.shape, dtype=images.dtype, device=images.device)
    ahead, t = dual, 1.0
    for _ in range(iterations):
        u = images + _divergence(ahead) / weight
        stepped = ahead + weight / 8 * _slopes(u)
        new = stepped / stepped.square().sum((0, 2), keepdim=True).sqrt().clamp_min(1)
        later = (1 + (1 + 4 * t * t) ** 0.5) / 2
        ahead, dual, t = new + (t - 1) / later * (new - dual), new, later
    return images + _divergence(dual) / weight


def maximize_activation(
    model: nn.Module,
    unit: int,
    start: Float[Tensor, "n c h w"],
    *,
    layer: str | None = None,
    octaves: Sequence[Octave] = SMALL,
    range: tuple[float, float] = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n c h w"]:
    r"""Images that excite a unit, each climbing from its own start.

    $x \leftarrow \mathrm{TV}\big(\mathrm{clip}(x + \eta\, g / \overline{|g|})\big)$, $g = \partial a / \partial x$ on a
    crop of an image that is enlarged from octave to octave. All starts climb side by side; each has its own crop
    places.

    Args:
        model: used in evaluation mode; its weights and their gradients are left alone.
        unit: index of an output, or of a channel, of which the middle position counts.
        start: where the images begin, inside the range.
        layer: name of the module whose output has the unit; the model's own if None. Logits, not softmax, which would
            push other classes down.
        octaves: at least one.
        range: of pixels.
        generator: where the crops come from.

    Nguyen et al., 2016 (arXiv:1602.03616), section 3 and the authors' code.

    Raises:
        ValueError: for a unit that is not there, a start that is not (n, c, h, w) or outside of the range, no octaves
            or steps, an octave that shrinks, a margin that leaves nothing.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
        >>> model[1].weight.data = torch.tensor([[2.0, -1.0, -1.0, 3.0]])
        >>> start = torch.full((1, 1, 2, 2), 0.5)
        >>> maximize_activation(model, 0, start, octaves=[Octave(60, (0.05, 0.05), (1e6, 1e6))]).round(decimals=3)
        tensor([[[[1., 0.],
                  [0., 1.]]]])
    """
    low, high = range
    if start.ndim != 4 or len(start) == 0:
        raise ValueError(f"start must be (n, c, h, w): got {tuple(start.shape)}")
    if not (start >= low).all() or not (start <= high).all():
        raise ValueError(f"start must lie in {low}..{high}: got {start.min().item():.4g}..{start.max().item():.4g}")
    if not octaves or any(o.steps < 1 or o.scale < 1 for o in octaves):
        raise ValueError(f"octaves must be at least one, of steps and scales of 1 or more: got {list(octaves)}")
    height, width = start.shape[2:]
    for o in octaves:
        if not 0 <= 2 * o.margin < min(height, width):
            raise ValueError(f"margin must leave some of {height} x {width} pixels: got {o.margin}")
    image = start.detach().clone()
    with evaluated(model), torch.enable_grad():
        for octave in octaves:
            if octave.scale > 1:
                image = F.interpolate(image, scale_factor=octave.scale, mode="bicubic", recompute_scale_factor=True)
            for i in torch.arange(octave.steps).tolist():
                share = i / octave.steps
                size, weight = (a + (b - a) * share for a, b in (octave.step_size, octave.denoise))
                rows, columns = _windows(image, height, width, octave.window, generator)
                crop = image.gather(2, rows).gather(3, columns)
                slope = _slope(model, layer, unit, crop)
                if octave.margin:
                    m = octave.margin
                    slope = F.pad(slope[:, :, m : height - m, m : width - m], (m, m, m, m))
                scale = slope.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)
                crop = (crop + size * (high - low) * slope / scale).clamp(low, high)
                crop = tv_denoise((crop - low) / (high - low), weight) * (high - low) + low
                wide = image.gather(2, rows).scatter(3, columns, crop)
                image = image.scatter(2, rows, wide)
    top, left = (image.shape[2] - height) // 2, (image.shape[3] - width) // 2
    return image[:, :, top : top + height, left : left + width].clamp(low, high)


def facet_starts(
    model: nn.Module,
    images: Float[Tensor, "m c h w"],
    *,
    code_layer: str,
    facets: int = 10,
    nearest: int = 15,
    pca: int = 50,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "facets c h w"], Int[Tensor, " m"]]:
    """The mean image of each kind among images that fire a unit.

    Their codes in a layer are reduced by principal components, then to the plane by `tsne`, where k-means finds the
    kinds; each start is the mean of the images closest to its centre.

    Args:
        model: used in evaluation mode.
        images: that activate the unit: those of its class, or the ones it answers to most.
        code_layer: name of the module whose outputs are the codes (the one before the last in the paper).
        facets: kinds, at least 1.
        nearest: images a start is the mean of.
        pca: components kept, at most.
        generator: where the starts of k-means come from.

    Returns:
        the starts, and the kind of each image.

    Nguyen et al., 2016 (arXiv:1602.03616), algorithm 1.

    Raises:
        ValueError: for fewer images than facets or than 8, counts below 1, a kind that stays empty.

    Example:
        >>> images = torch.cat([torch.zeros(9, 1, 2, 2), torch.ones(9, 1, 2, 2)]) + 0.01 * torch.rand(18, 1, 2, 2)
        >>> model = nn.Sequential(nn.Flatten(), nn.Identity())
        >>> starts, kind = facet_starts(model, images, code_layer="1", facets=2, nearest=5)
        >>> sorted(starts.mean((1, 2, 3)).round().tolist()), kind[:9].unique().numel(), kind[9:].unique().numel()
        ([0.0, 1.0], 1, 1)
    """
    for name, value in (("facets", facets), ("nearest", nearest), ("pca", pca)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1: got {value}")
    count = len(images)
    if count < max(facets, 8):
        raise ValueError(f"images must be at least {max(facets, 8)}: got {count}")
    codes = record_activations(model, [code_layer], images)[code_layer].flatten(1).double()
    u, s, _ = torch.linalg.svd(codes - codes.mean(0), full_matrices=False)
    kept = min(pca, count - 1, codes.shape[1])
    plane = tsne(u[:, :kept] * s[:kept], perplexity=min(30.0, (count - 1) / 3))
    for _ in torch.arange(TRIES):
        kind = k_means(plane, facets, generator=generator)
        chosen = F.one_hot(kind, facets).to(plane)
        if (chosen.sum(0) > 0).all():
            break
    else:
        raise ValueError(f"facets must be fewer: of {facets} kinds some stay empty after {TRIES} tries")
    centres = chosen.T @ plane / chosen.sum(0)[:, None]
    gaps = torch.cdist(centres, plane).masked_fill(chosen.T == 0, torch.inf)
    order = gaps.sort(1)
    used = (torch.arange(count, device=gaps.device) < nearest) & order.values.isfinite()
    weights = torch.zeros_like(gaps).scatter(1, order.indices, used.to(gaps))
    starts = torch.einsum("km,m...->k...", (weights / weights.sum(1, keepdim=True)).to(images), images)
    return starts, kind


class MultifacetedVisualization:
    """A picture for each kind of thing that a unit fires for: `maximize_activation` from `facet_starts`.

    Args:
        model: any classifier of images.
        code_layer: as in `facet_starts`, and so the next three.
        facets: pictures of a unit.
        nearest: images a start is the mean of.
        pca: components of codes, at most.
        octaves: as in `maximize_activation`.

    Nguyen et al., 2016 (arXiv:1602.03616).

    Raises:
        ValueError: when called, as `facet_starts` and `maximize_activation` do.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> pictures = MultifacetedVisualization(model, "0", facets=2, octaves=[Octave(2, (0.02, 0.02), (9.0, 9.0))])
        >>> pictures(1, torch.rand(20, 1, 4, 4)).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        code_layer: str,
        *,
        facets: int = 10,
        nearest: int = 15,
        pca: int = 50,
        octaves: Sequence[Octave] = SMALL,
    ) -> None:
        self.model, self.code_layer, self.octaves = model, code_layer, octaves
        self.facets, self.nearest, self.pca = facets, nearest, pca

    def __call__(
        self, unit: int, images: Float[Tensor, "m c h w"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "facets c h w"]:
        """The pictures of a unit, from images that activate it, with pixels in [0, 1]."""
        settings = dict(code_layer=self.code_layer, facets=self.facets, nearest=self.nearest, pca=self.pca)
        starts, _ = facet_starts(self.model, images, generator=generator, **settings)  # type: ignore[arg-type]
        return maximize_activation(self.model, unit, starts, octaves=self.octaves, generator=generator)


def _slope(model: nn.Module, layer: str | None, unit: int, crop: Tensor) -> Tensor:
    """The gradient of the unit's activation, for each image its own."""
    x = crop.detach().requires_grad_()
    with watched(model, [layer or ""]) as seen:
        model(x)
    out = seen[layer or ""]
    if not 0 <= unit < out.shape[1]:
        raise ValueError(f"unit must lie in 0..{out.shape[1] - 1}: got {unit}")
    values = out[:, unit] if out.ndim == 2 else out[:, unit, out.shape[2] // 2, out.shape[3] // 2]
    return torch.autograd.grad(values.sum(), x)[0]


def _windows(
    image: Tensor, height: int, width: int, window: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Indices of a crop of each image, about its middle: rows for the whole width, and columns of those rows."""
    n, c, tall, wide = image.shape
    places = []
    for side, size in ((tall, height), (wide, width)):
        left = side - size
        at = left / 2 + left * window * torch.randn(n, generator=generator)
        places.append((at.clamp(0, left).long()[:, None] + torch.arange(size)).to(image.device))
    rows = places[0][:, None, :, None].expand(n, c, height, wide)
    return rows, places[1][:, None, None, :].expand(n, c, height, width)


def _slopes(u: Tensor) -> Tensor:
    """Forward differences down and right, 0 at the far edge."""
    return torch.stack([F.pad(u.diff(dim=2), (0, 0, 0, 1)), F.pad(u.diff(dim=3), (0, 1))])


def _divergence(p: Tensor) -> Tensor:
    """Minus the adjoint of `_slopes`."""
    down, right = p[0, :, :, :-1], p[1, :, :, :, :-1]
    return F.pad(down, (0, 0, 0, 1)) - F.pad(down, (0, 0, 1, 0)) + F.pad(right, (0, 1)) - F.pad(right, (1, 0))
