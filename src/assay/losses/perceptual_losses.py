"""Perceptual losses: features and their Gram matrices compared (Johnson, Alahi, Fei-Fei, 2016, arXiv:1603.08155)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .checks import check_finite
from .frozen_features import FrozenFeatures, check_layers


def gram_matrix(features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c c"]:
    r"""$G_{ij} = \frac{1}{c\, h\, w} \sum_{p} \phi_i(p)\, \phi_j(p)$: which channels are active together, wherever.

    Args:
        features: activations of one layer.

    The paper: equation 3.

    Raises:
        ValueError: for anything that is not a batch of maps.

    Example:
        >>> features = torch.tensor([[[[1.0, 2.0]], [[0.0, 3.0]]]])
        >>> gram_matrix(features) * 4
        tensor([[[5., 6.],
                 [6., 9.]]])
    """
    if features.ndim != 4 or 0 in features.shape[1:]:
        raise ValueError(f"features must be (n, c, h, w): got {tuple(features.shape)}")
    flat = features.flatten(2)
    return flat @ flat.mT / flat[0].numel()


class FeatureReconstructionLoss(nn.Module):
    r"""$\sum_j \frac{1}{C_j H_j W_j} \|\phi_j(\hat y) - \phi_j(y)\|_2^2$, averaged over the batch.

    Args:
        features: a fixed network, called with images and names of layers, that gives {name: map}; `FrozenFeatures()`,
            which has VGG's too, when left out.
        layers: the layers $j$; "relu2_2" or "relu3_3" of VGG-16 in the paper.

    Called with (output, target), both (n, 3, h, w) in [0, 1].

    The paper: equation 2.

    Raises:
        ValueError: for unknown layers; when called, for shapes that differ, entries that are not finite.

    Example:
        >>> loss = FeatureReconstructionLoss()
        >>> x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> loss(x, x).item(), 0 < loss(x.roll(1, 3), x).item() < loss(x.flip(3), x).item()
        (0.0, True)
    """

    def __init__(self, features: nn.Module | None = None, *, layers: Sequence[str] = ("relu2",)) -> None:
        super().__init__()
        self.features = FrozenFeatures() if features is None else features
        self.layers = check_layers(self.features, layers)

    def forward(self, output: Float[Tensor, "n c h w"], target: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        if output.shape != target.shape:
            raise ValueError(
                f"output and target must have one shape: got {tuple(output.shape)} and {tuple(target.shape)}"
            )
        check_finite(output=output, target=target)
        ours, theirs = self.features(output, self.layers), self.features(target, self.layers)
        parts = [_exact(ours[name] - theirs[name]).square().mean() for name in self.layers]
        return torch.stack(parts).sum().to(output.dtype)


class GramStyleLoss(nn.Module):
    r"""$\sum_j \|G_j(\hat y) - G_j(y_s)\|_F^2$ with `gram_matrix` $G_j$ of layer j, averaged over the batch.

    Args:
        features: as for `FeatureReconstructionLoss`.
        layers: the layers $j$.
        style: $y_s$, one image (1, 3, h, w) of any size; its Gram matrices are computed once.

    Called with (output).

    The paper: equation 4.

    Raises:
        ValueError: for unknown layers, a style that is not one image; when called, for entries that are not finite.

    Example:
        >>> style = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> loss = GramStyleLoss(style=style, layers=("relu1",))
        >>> loss(style).item(), loss(torch.zeros(1, 3, 48, 48)).item() > 1e-4
        (0.0, True)
    """

    def __init__(
        self,
        features: nn.Module | None = None,
        *,
        style: Float[Tensor, "..."],
        layers: Sequence[str] = ("relu1", "relu2", "relu3"),
    ) -> None:
        super().__init__()
        if style.ndim != 4 or len(style) != 1:
            raise ValueError(f"style must be one image, (1, c, h, w): got {tuple(style.shape)}")
        check_finite(style=style)
        self.features = FrozenFeatures() if features is None else features
        self.layers = check_layers(self.features, layers)
        with torch.no_grad():
            found = self.features(style, self.layers)
            for number, name in enumerate(self.layers):
                self.register_buffer(f"gram{number}", gram_matrix(found[name]))

    def forward(self, output: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
        check_finite(output=output)
        found = self.features(output, self.layers)
        parts = []
        for number, name in enumerate(self.layers):
            gram: Tensor = getattr(self, f"gram{number}")
            apart = gram_matrix(_exact(found[name])) - _exact(gram)
            parts.append(apart.square().sum((1, 2)).mean())
        return torch.stack(parts).sum().to(output.dtype)


def _exact(x: Tensor) -> Tensor:
    """In single precision at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class TotalVariation(nn.Module):
    r"""$\frac1n \sum (x_{p+1} - x_p)^2$ over neighbours across and down: how rough images are.

    Args:
        power: 2 (the paper's regularizer) or 1, the absolute differences.

    Called with images (n, c, h, w); the sum over all channels and pixels, averaged over the batch.

    The paper: section 3.2, after Mahendran and Vedaldi (2015).

    Raises:
        ValueError: for another power; when called, for anything that is not a batch of images.

    Example:
        >>> ramp = torch.arange(4.0).expand(1, 1, 3, 4)
        >>> TotalVariation()(2 * ramp).item(), TotalVariation(power=1)(2 * ramp).item()  # nine steps of 2
        (36.0, 18.0)
    """

    def __init__(self, *, power: int = 2) -> None:
        super().__init__()
        if power not in (1, 2):
            raise ValueError(f"power must be 1 or 2: got {power}")
        self.power = power

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        if x.ndim != 4:
            raise ValueError(f"x must be (n, c, h, w): got {tuple(x.shape)}")
        total = sum(d.abs().sum() if self.power == 1 else d.square().sum() for d in (x.diff(dim=2), x.diff(dim=3)))
        return total / len(x)


def stylize_by_optimization(
    content: Float[Tensor, "n 3 h w"],
    objective: Callable[[Tensor], Tensor],
    *,
    steps: int = 500,
    optimizer: str = "lbfgs",
    lr: float | None = None,
    callback: Callable[[int, float], Any] | None = None,
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, " steps"]]:
    """The image that makes an objective small, found pixel by pixel from a start: what a trained network approximates.

    Args:
        content: where to start, in [0, 1]; not changed.
        objective: image -> one number, a weighted sum of `FeatureReconstructionLoss`, `GramStyleLoss` and
            `TotalVariation` in the paper.
        steps: iterations, at least 1.
        optimizer: "lbfgs" (with strong Wolfe line search) or "adam".
        lr: learning rate; None is 1 for L-BFGS and 0.02 for Adam.
        callback: called after each iteration with its number and the objective before it.

    Returns:
        (image, cut to [0, 1] at the end; the objective before each iteration).

    Gatys, Ecker, Bethge, 2015 (arXiv:1508.06576); the paper's section 4.1 compares with 500 iterations of L-BFGS.

    Raises:
        ValueError: for arguments out of range, an objective that is not finite.

    Example:
        >>> target = torch.full((1, 3, 4, 4), 0.25)
        >>> image, curve = stylize_by_optimization(target + 0.5, lambda x: (x - target).square().sum(), steps=5)
        >>> bool((image - target).abs().max() < 1e-5), round(curve[0].item(), 4)
        (True, 12.0)
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1: got {steps}")
    if optimizer not in ("lbfgs", "adam"):
        raise ValueError(f"optimizer must be 'lbfgs' or 'adam': got {optimizer!r}")
    image = content.detach().clone().requires_grad_()
    rate = lr if lr is not None else {"lbfgs": 1.0, "adam": 0.02}[optimizer]
    made = (
        torch.optim.LBFGS([image], lr=rate, max_iter=1, history_size=20, line_search_fn="strong_wolfe")
        if optimizer == "lbfgs"
        else torch.optim.Adam([image], lr=rate)
    )

    def closure() -> Tensor:
        made.zero_grad()
        value = objective(image)
        value.backward()
        return value

    curve = torch.empty(steps)
    for step in range(steps):
        value = float(made.step(closure).detach())
        if not math.isfinite(value):
            raise ValueError(f"objective must be finite: got {value} at step {step}")
        curve[step] = value
        if callback is not None:
            callback(step, value)
    return image.detach().clamp(0, 1), curve


def style_objective(
    content: Float[Tensor, "n 3 h w"],
    losses: Mapping[str, nn.Module],
    *,
    weights: Mapping[str, float],
) -> Callable[[Tensor], Tensor]:
    """The weighted sum of a content loss, a style loss and a roughness, as a function of the image alone.

    Args:
        content: whose content is kept.
        losses: "content" (called with image and content), "style" and "variation" (called with the image); any of them.
        weights: of the same names, 0 or more.

    The paper: equation 5.

    Raises:
        ValueError: for names that are not these or do not agree, weights that are negative or not finite.

    Example:
        >>> content = torch.rand(1, 3, 8, 8)
        >>> objective = style_objective(content, {"variation": TotalVariation()}, weights={"variation": 0.5})
        >>> torch.allclose(objective(content), 0.5 * TotalVariation()(content))
        True
    """
    known = ("content", "style", "variation")
    if set(losses) != set(weights) or not set(losses) <= set(known) or not losses:
        raise ValueError(f"losses and weights must have the same names among {', '.join(known)}: got {sorted(losses)}")
    for name, value in weights.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"weights must be finite and 0 or more: got {value} for {name!r}")

    def objective(image: Tensor) -> Tensor:
        parts = [
            weights[name] * (loss(image, content) if name == "content" else loss(image))
            for name, loss in losses.items()
        ]
        return torch.stack(parts).sum()

    return objective
