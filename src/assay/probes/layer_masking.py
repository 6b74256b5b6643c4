"""Layer masking: a network looks at part of an image, and the rest is not painted over but not there."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn import functional as F

from assay.probes.scores import evaluated

POINTWISE: tuple[Any, ...] = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.ELU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(nn.Hardswish, nn.Hardsigmoid, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.Identity),
    *(F.relu, torch.relu, F.leaky_relu, F.relu6, F.gelu, F.silu, F.elu, F.mish, F.softplus, F.hardswish, F.dropout),
    *(torch.sigmoid, torch.tanh, "relu", "relu_", "sigmoid", "tanh"),
)
MAXIMA: tuple[Any, ...] = (nn.MaxPool2d, F.max_pool2d, torch.max_pool2d)
MEANS: tuple[Any, ...] = (nn.AvgPool2d, F.avg_pool2d)
GLOBAL: tuple[Any, ...] = (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d, torch.mean, "mean")
ENDS: tuple[Any, ...] = (nn.Flatten, torch.flatten, "flatten")
SUMS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")


class Masked(NamedTuple):
    """What goes from layer to layer: values (n, c, h, w), and where they are valid (n, 1, h, w), 0 or 1."""

    values: Tensor
    valid: Tensor


class LayerMasking:
    r"""A trained network that sees only part of each image: $(x, m)$ goes through it, not $x$.

    Before each convolution what is invalid is filled from valid neighbours (`fill_from_neighbours`), after it the
    output is valid where any input of its window was: $m' = \mathrm{maxpool}(m)$ with the convolution's kernel, and
    $y = m' \odot \mathrm{conv}(\mathrm{fill}(x, m))$. Activations and normalizations leave m, pooling pools it, a
    global mean is taken over what is valid; branches that meet are valid where one of them is. As m grows from layer
    to layer, deep layers see little of its outline.

    Called with images (n, c, h, w) and `keep` (n, 1, h, w) of 0 (removed) and 1 it returns the logits. Removed pixels
    never change them. Images must be normalized as for the network: what is far from everything visible is 0, which
    should mean the average and not black.

    Args:
        model: a convolutional network that `torch.fx` can trace; used in evaluation mode, and left as it was found.
        fill_steps: pixels that are filled at the edge before each convolution, 0 or more; its kernel's size if not
            given.
        depth: the number of convolutions after which masks are dropped; None for no such end.

    Balasubramanian and Feizi, 2022 (arXiv:2211.14646), section 3; rules of the authors' code.

    Differs from the paper: a dilated convolution's mask is dilated too.

    Raises:
        ValueError: for a model that cannot be traced, numbers out of range; when called, for `keep` of another shape or
            values, images not finite, an operation that has no rule (it is named).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> _ = nn.init.constant_(model[0].weight, 1 / 9), nn.init.zeros_(model[0].bias)
        >>> x = torch.full((1, 1, 7, 7), 2.0)
        >>> keep = torch.zeros(1, 1, 7, 7)
        >>> keep[..., 2:5, 2:5] = 1.0
        >>> plain, masked = model(x * keep), LayerMasking(model)(x, keep)   # 2 * 9/49, and 2
        >>> round(plain.item(), 3), round(masked.item(), 3)
        (0.367, 2.0)
    """

    def __init__(self, model: nn.Module, *, fill_steps: int | None = None, depth: int | None = None) -> None:
        for name, value in (("fill_steps", fill_steps), ("depth", depth)):
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative: got {value}")
        self.model, self.fill_steps, self.depth = model, fill_steps, depth
        with evaluated(model):
            try:
                self.graph = fx.Tracer().trace(model)
            except (fx.proxy.TraceError, TypeError) as error:
                raise ValueError(f"model must be traceable by torch.fx: {error}") from error

    def __call__(self, images: Float[Tensor, "n c h w"], keep: Tensor) -> Tensor:
        expected = (len(images), 1, *images.shape[2:])
        if tuple(keep.shape) != expected:
            raise ValueError(f"keep must be of shape {expected}: got {tuple(keep.shape)}")
        if not bool(((keep == 0) | (keep == 1)).all()):
            raise ValueError("keep must be 0 or 1 everywhere: got other values")
        if not bool(images.isfinite().all()):
            raise ValueError("images must be finite: got NaN or infinity")
        valid = keep.to(images.dtype)
        with evaluated(self.model), torch.set_grad_enabled(images.requires_grad):
            return _Rules(self).run(Masked(images * valid, valid))


def fill_from_neighbours(
    x: Float[Tensor, "n c h w"], keep: Float[Tensor, "n 1 h w"], steps: int, *, eps: float = 1e-5
) -> Float[Tensor, "n c h w"]:
    r"""Removed places next to visible ones become the mean of the visible among their eight neighbours, `steps` times.

    $x \leftarrow x + (1 - m) \odot S(x) / (S(m) + \epsilon)$, $m \leftarrow \min(1, m + S(m))$, with $S$ the sum over
    3 x 3 places. Visible values do not change; what is further away becomes 0. No gradient goes through the filling.

    Args:
        x: values.
        keep: 1 where they are visible, 0 elsewhere.
        steps: how far the filling reaches, in pixels, 0 or more.
        eps: $\epsilon$, positive.

    The paper: section 3 (the fast marching of the authors' code).

    Raises:
        ValueError: for steps below 0, an eps that is not positive.

    Example:
        >>> line, keep = torch.tensor([[[[3.0, 0.0, 0.0, 9.0]]]]), torch.tensor([[[[1.0, 0.0, 0.0, 1.0]]]])
        >>> fill_from_neighbours(line, keep, 1).round(decimals=3)
        tensor([[[[3., 3., 9., 9.]]]])
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative: got {steps}")
    if not eps > 0:
        raise ValueError(f"eps must be positive: got {eps}")
    x = x * keep
    for _ in range(steps):
        with torch.no_grad():
            if bool(keep.all()):
                break
            near = _box_sum(keep)
            fill = (1 - keep) * (_box_sum(x) / (near + eps))
            keep = (keep + near).clamp(max=1.0)
        x = x + fill
    return x


def paint(
    images: Float[Tensor, "n c h w"],
    keep: Float[Tensor, "n 1 h w"],
    color: float | Tensor = 0.0,
    *,
    smooth: float = 0.0,
) -> Float[Tensor, "n c h w"]:
    r"""Images whose removed part is painted a colour, as is usual: $a\,x + (1 - a)\,\mathrm{color}$ with $a$ = keep.

    Args:
        images: (n, c, h, w).
        keep: 1 where they stay, 0 elsewhere.
        color: a number, or one a channel.
        smooth: standard deviation in pixels of a Gaussian that softens the edge of what stays, 0 for a sharp one; what
            is removed stays hidden.

    Example:
        >>> paint(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, 0.0]]]]), 0.5)
        tensor([[[[1.0000, 0.5000]]]])
    """
    if not 0 <= smooth < math.inf:
        raise ValueError(f"smooth must be 0 or more and finite: got {smooth}")
    amount = keep * _blurred(keep, smooth) if smooth else keep
    shade = torch.as_tensor(color, dtype=images.dtype, device=images.device)
    shade = shade.view(-1, 1, 1) if shade.ndim == 1 else shade
    return amount * images + (1 - amount) * shade


def _blurred(keep: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    line = torch.arange(-reach, reach + 1, dtype=keep.dtype, device=keep.device)
    kernel = torch.exp(-((line / sigma) ** 2) / 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(keep, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def _box_sum(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, divisor_override=1)


class _Rules(fx.Interpreter):
    """The network's own operations, on pairs."""

    def __init__(self, masking: LayerMasking) -> None:
        super().__init__(masking.model, graph=masking.graph)
        self.masking, self.convolutions = masking, 0

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        return self._apply(module, type(module), f"{target} ({type(module).__name__})", args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._apply(target, target, getattr(target, "__name__", str(target)), args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._apply(
            lambda first, *rest, **more: getattr(first, target)(*rest, **more), target, target, args, kwargs
        )

    def _apply(
        self, run: Callable[..., Any], kind: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if kind is torch.cat:
            parts = args[0]
            joined = run([p.values if isinstance(p, Masked) else p for p in parts], *args[1:], **kwargs)
            return _joined(joined, parts)
        pairs = [each for each in (*args, *kwargs.values()) if isinstance(each, Masked)]
        if not pairs:
            return run(*args, **kwargs)
        if kind in SUMS:
            values = run(*(each.values if isinstance(each, Masked) else each for each in args), **kwargs)
            return _joined(values, args[:2])
        first, rest = args[0], args[1:]
        if len(pairs) > 1 or not isinstance(first, Masked):
            raise ValueError(f"model must use operations with a rule for masks: {name} has none for two images")
        x, m = first
        if kind is nn.Conv2d:
            return self._convolved(run, x, m)
        if kind in POINTWISE:
            return Masked(run(x * m, *rest, **kwargs) * m, m)
        if kind in MAXIMA:
            pooled = run(m, *rest, **kwargs)
            return Masked(run(x, *rest, **kwargs) * pooled, pooled)
        if kind in MEANS:
            pooled = (run(m, *rest, **kwargs) > 0).to(m)
            return Masked(run(x, *rest, **kwargs) * pooled, pooled)
        if kind in GLOBAL:
            return run(x * m, *rest, **kwargs) / (run(m, *rest, **kwargs) + 1e-8)
        if kind in ENDS:
            return run(x * m, *rest, **kwargs)
        raise ValueError(f"model must use operations with a rule for masks: {name} has none")

    def _convolved(self, convolution: Any, x: Tensor, m: Tensor) -> Masked | Tensor:
        kernel, stride, dilation = convolution.kernel_size, convolution.stride, convolution.dilation
        steps = self.masking.fill_steps
        if steps is None:
            steps = 0 if max(kernel) == 1 else max(kernel)
        if self.masking.depth == 0:
            return convolution(x)
        out = convolution(fill_from_neighbours(x, m, steps))
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if convolution.padding == "same":
            around = [(t // 2, t - t // 2) for t in total]
        elif convolution.padding == "valid":
            around = [(0, 0), (0, 0)]
        else:
            around = [(p, p) for p in convolution.padding]
        padded = F.pad(m, (*around[1], *around[0]))
        grown = F.max_pool2d(padded, kernel, stride, dilation=dilation)
        self.convolutions += 1
        if self.masking.depth is not None and self.convolutions >= self.masking.depth:
            return out * grown
        return Masked(out * grown, grown)


def _joined(values: Tensor, parts: Any) -> Masked | Tensor:
    """Valid where one of the branches is; a branch without a mask takes it off."""
    masks = [each.valid for each in parts if isinstance(each, Masked)]
    if len(masks) < len(parts):
        return values
    grown = masks[0]
    for other in masks[1:]:
        grown = torch.maximum(grown, other)
    return Masked(values, grown)
