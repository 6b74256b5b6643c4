"""TrAct: a first layer whose weights follow its pre-activations (Petersen et al., 2024, arXiv:2410.23970)."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from assay.losses.checks import check_finite


def tract_gradient(
    x: Float[Tensor, "b n"], grad_out: Float[Tensor, "b m"], *, lam: float = 0.1
) -> Float[Tensor, "m n"]:
    r"""$G^\top x \left(\tfrac{1}{b} x^\top x + \lambda I\right)^{-1}$, what an optimizer is given for the weights.

    $-\eta$ times it is the change $\Delta W$ that minimizes
    $\tfrac1b \|x \Delta W^\top + \eta b G\|_F^2 + \lambda \|\Delta W\|_F^2$: of all small changes the one that best
    moves the pre-activations $z = x W^\top$ one step of gradient descent, $-\eta b G$, along.

    Args:
        x: inputs of the layer, one a row (for a convolution, one row a position).
        grad_out: $G = \partial L / \partial z$ of a loss that is a mean over the batch.
        lam: $\lambda$, positive; in units of the mean square of the inputs.

    The paper: section 3, equations 8 to 10. With fewer rows than columns the equal form
    $G^\top (\tfrac1b x x^\top + \lambda I)^{-1} x$ is taken, which needs a smaller matrix.

    Raises:
        ValueError: for a `lam` that is not positive and finite, rows that do not fit, entries that are not finite.

    Example:
        >>> x, g = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0], [3.0]])
        >>> (g.T @ x).tolist()  # twice the contrast, twice the gradient
        [[6.0, 3.0]]
        >>> (x @ tract_gradient(x, g, lam=1e-6).T).flatten().round(decimals=3).tolist()  # b G, whatever the contrast
        [6.0, 6.0]
    """
    _check_lam(lam)
    if x.ndim != 2 or grad_out.ndim != 2 or len(x) != len(grad_out) or len(x) == 0:
        raise ValueError(f"x and grad_out must be (b, n) and (b, m): got {tuple(x.shape)} and {tuple(grad_out.shape)}")
    check_finite(x=x, grad_out=grad_out)
    rows, columns = x.shape
    if rows >= columns:
        return _solved(grad_out.T @ x, x, lam)
    kernel = x @ x.T / rows
    kernel.diagonal().add_(lam)
    return torch.cholesky_solve(grad_out, torch.linalg.cholesky(kernel)).T @ x


class TrAct(nn.Module):
    r"""A first layer, linear or convolutional, whose weight gradient is `tract_gradient`; all else is as it was.

    The gradient of a first layer's weights is proportional to the pixels: pictures of little contrast teach it little.
    Here it is what a step on the pre-activations asks for. Weight and bias are the very parameters of `layer` (an
    optimizer that has them keeps them, a state dict has the same names), the output is the same bit for bit, gradients
    of bias and input are the ordinary ones, and any optimizer may follow:

        network[0] = TrAct(network[0])

    Args:
        layer: an `nn.Linear` (any dimensions before the last; each is a row) or an `nn.Conv2d` without groups, padded
            with zeros.
        lam: $\lambda$, positive; 0.1 for standardised inputs in all the paper's experiments, the learning rate being
            left as it is.

    Petersen et al., 2024 (arXiv:2410.23970), equations 8 to 10 and the code of figure 2.

    Differs from the paper: the authors' code copies neither dilation nor padding of other kinds; here dilation works
    and other padding is refused. $x^\top x$ is inverted through its Cholesky factor, in float32 at least.

    The gradient cannot be differentiated again (`needs_graph` optimizers refuse such layers by torch's own error).

    Raises:
        TypeError: for other layers.
        ValueError: for a `lam` that is not positive and finite, groups, padding other than with zeros; when called, for
            inputs that are not finite (seen on a CPU only).

    Example:
        >>> plain = nn.Linear(2, 1)
        >>> layer = TrAct(plain, lam=0.5)
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])  # mean squares 1/2 and 2
        >>> layer(x)[[0, 2]].sum().backward()
        >>> layer.weight is plain.weight, plain.weight.grad.tolist()  # (1, 2) over (1/2 + 1/2, 2 + 1/2)
        (True, [[1.0, 0.800000011920929]])
    """

    def __init__(self, layer: nn.Module, *, lam: float = 0.1) -> None:
        super().__init__()
        _check_lam(lam)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise TypeError(f"layer must be nn.Linear or nn.Conv2d: got {type(layer).__name__}")
        self.lam = lam
        self.weight, self.bias = layer.weight, layer.bias
        self.window: dict[str, Any] | None = None
        if isinstance(layer, nn.Conv2d):
            if layer.groups != 1:
                raise ValueError(f"layer must have groups=1: got {layer.groups}")
            if layer.padding_mode != "zeros":
                raise ValueError(f"layer must be padded with zeros: got {layer.padding_mode!r}")
            reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
            if layer.padding == "same" and any(each % 2 for each in reach):
                raise ValueError(f"layer must have padding in numbers for an even kernel: got {layer.padding!r}")
            named = {"same": tuple(each // 2 for each in reach), "valid": (0, 0)}
            padding = named[layer.padding] if isinstance(layer.padding, str) else layer.padding
            self.window = {"stride": layer.stride, "padding": padding, "dilation": layer.dilation}

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if self.weight.requires_grad and torch.is_grad_enabled():
            check_finite(x=x)
        weight = _AsAsked.apply(self.weight, x.detach(), self.lam, self.window)
        return F.linear(x, weight, self.bias) if self.window is None else F.conv2d(x, weight, self.bias, **self.window)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, lam={self.lam}, window={self.window}"


class _AsAsked(torch.autograd.Function):
    """The weight itself; on the way back its ordinary gradient, solved for the step that activations ask for."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, lam: float, window: dict[str, Any] | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.lam, ctx.window = lam, window
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            rows = _rows(x.to(torch.promote_types(x.dtype, torch.float32)), grad.shape[2:], ctx.window)
            return _solved(grad.flatten(1).to(rows.dtype), rows, ctx.lam).view_as(grad).to(grad.dtype), None, None, None


def _rows(x: Tensor, kernel: torch.Size, window: dict[str, Any] | None) -> Tensor:
    """(b, n): what the weights are multiplied with, one row for every output position."""
    if window is None:
        return x.flatten(0, -2)
    return F.unfold(x, tuple(kernel), **window).transpose(1, 2).flatten(0, 1)


def _solved(gradient: Tensor, x: Tensor, lam: float) -> Tensor:
    r"""$D (\tfrac1b x^\top x + \lambda I)^{-1}$ of an ordinary gradient D (m, n), by the smaller of two systems."""
    rows, columns = x.shape
    small = rows < columns
    kernel = (x @ x.T if small else x.T @ x) / rows
    kernel.diagonal().add_(lam)
    factor = torch.linalg.cholesky_ex(kernel).L
    if not small:
        return torch.cholesky_solve(gradient.T, factor).T
    return (gradient - torch.cholesky_solve(x @ gradient.T, factor).T @ x / rows) / lam


def _check_lam(lam: float) -> None:
    if not (math.isfinite(lam) and lam > 0):
        raise ValueError(f"lam must be positive and finite: got {lam}")
