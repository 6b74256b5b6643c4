"""Networks whose hidden layer is grown by gradient boosting (Emami and Martínez-Muñoz, 2023, arXiv:1909.12098)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from assay.train import Diverged

from .small_network import ACTIVATIONS, SmallNetwork


class _Layers(NamedTuple):
    """All groups as one: hidden (units, d), bias (units), out (k, units), constants (1 + T, k) that sum to a bias."""

    hidden: Tensor
    bias: Tensor
    out: Tensor
    constants: Tensor


class BoostedNetwork:
    r"""One hidden layer, grown J units at a time, each group fitted to what the loss still asks for.

    $F_0$ is the best constant; for $t = 1, \dots, T$ a small network $h_t(x) = V^\top \sigma(W x + b) + c$ is fitted by
    L-BFGS to the pseudo-residuals $r = -\partial \ell / \partial F$ at $F_{t-1}$ on a fresh subsample of m examples,

    $\min \frac{1}{2m} \big( \sum_i \|r_i - h_t(x_i)\|^2 + \alpha \|W\|^2 + \alpha \|V\|^2 \big)$,
    $\qquad F_t = F_{t-1} + \rho_t h_t$,

    where $\rho_t$ is the step size times one Newton step on all examples, $\sum h r / \sum h^2 \ell''$ (1 for the
    squared loss). All groups together are one network of T J hidden units, whose last units can be switched off:

        booster = BoostedNetwork(units=200, step_size=0.5).fit(x, y)
        network, smaller = booster.to_module(), booster.truncate(100).to_module()

    On frozen features it trains the last layers of any network: `.fit(body(x), y)`, then
    `nn.Sequential(body, booster.to_module())`. Standardise x, and y of a regression, first. On some hundreds of
    examples single units, fitted to half of them with a step of 1, overshoot on the others and the loss may run away,
    here as in the authors' code: take smaller steps, or groups of three.

    - `cross_entropy`, $-\log p_y$ with $p = \mathrm{softmax}(F)$: $F_0 = 0$, $r = [y] - p$, $\ell'' = p (1 - p)$;
    - `logistic`, $\log(1 + e^{-2 y F})$ with $y = \pm 1$: $F_0 = \frac12 \log \frac{1 + \bar y}{1 - \bar y}$,
      $r = 2 y / (1 + e^{2 y F})$, $\ell'' = r (2 y - r)$;
    - `squared`, $(y - F)^2 / 2$: $F_0 = \bar y$, $r = y - F$.

    Args:
        units: hidden units, T J; what `units_per_step` does not divide is left off.
        units_per_step: J, 1 to `units`.
        step_size: shrinks $\rho$; positive, 1 or less is usual.
        subsample: share of the examples that a group sees, above 0, at most 1; drawn without replacement.
        loss: one of these; of a logistic loss two labels are told apart. Labels may be any whole numbers; several
            columns of numbers are fitted together.
        activation: $\sigma$: "sigmoid", "tanh", "relu" or "identity".
        max_iter: L-BFGS iterations a group, at least 1.
        tol: largest entry of the gradient at which L-BFGS stops, 0 or more; it also stops where the objective falls by
            less than 2.2e-9.
        alpha: $\alpha$, 0 or more.
        log_priors: cross entropy only: start at the logarithms of the classes' shares, the best constant.
        generator: where weights and subsamples come from, on the CPU.

    Attributes:
        losses: (T), mean loss on all training examples after each step; the mean of $(y - F)^2$ for numbers.
        multipliers: (T), $\rho_t$.
        classes: labels, ascending; the order of the outputs. None for numbers.

    The paper: algorithm 1; constants, and the penalty, of the authors' code.

    Differs from the paper: boosting stops, with the units it has, where a Newton step cannot be taken, the mean of
    $\ell''$ weighted with $h^2$ being below 1e-12. Where there are k > 1 outputs, the authors' code tells L-BFGS a
    value k times smaller than its gradient; here both are those of the objective above.

    Raises:
        ValueError: for arguments out of range; in `fit`, for examples that are none, not finite or of unequal number, a
            single class, more than two for "logistic".
        TypeError: for x that are not real numbers; in `fit`, for labels that are not whole, targets that are not real.
        Diverged: in `fit`, where the loss has run away beyond what a float holds.
        RuntimeError: for anything asked before `fit`.

    Example:
        >>> x = torch.linspace(-2, 2, 64, dtype=torch.float64)[:, None]
        >>> y, seeded = x[:, 0].abs() > 1.5, torch.Generator().manual_seed(0)
        >>> booster = BoostedNetwork(units=10, units_per_step=2, loss="logistic", generator=seeded).fit(x, y)
        >>> round(booster.decision_function(x, units=0)[0].item(), 4)  # the odds, 16 to 48: log(1 / 3)
        -1.0986
        >>> bool((booster.predict(x) == y).all())
        True
        >>> half = booster.truncate(4).to_module()  # the loss after two of five steps
        >>> bool(torch.isclose(F.binary_cross_entropy_with_logits(half(x)[:, 0], y.double()), booster.losses[1]))
        True
    """

    losses: Float[Tensor, " steps"]
    multipliers: Float[Tensor, " steps"]
    classes: Shaped[Tensor, " k"] | None

    def __init__(
        self,
        *,
        units: int = 200,
        units_per_step: int = 1,
        step_size: float = 1.0,
        subsample: float = 0.5,
        loss: str = "cross_entropy",
        activation: str = "sigmoid",
        max_iter: int = 200,
        tol: float = 0.0,
        alpha: float = 1e-4,
        log_priors: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if not 1 <= units_per_step <= units:
            raise ValueError(f"units_per_step must lie in 1..units = {units}: got {units_per_step}")
        if not 0 < step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite: got {step_size}")
        if not 0 < subsample <= 1:
            raise ValueError(f"subsample must be above 0 and at most 1: got {subsample}")
        for name, value, known in (("loss", loss, LOSSES), ("activation", activation, ACTIVATIONS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}: got {value!r}")
        if max_iter < 1:
            raise ValueError(f"max_iter must be at least 1: got {max_iter}")
        for name, value in (("tol", tol), ("alpha", alpha)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and 0 or more: got {value}")
        if log_priors and loss != "cross_entropy":
            raise ValueError(f"log_priors must be False for another loss than cross_entropy: got True for {loss}")
        self.units, self.units_per_step, self.step_size, self.subsample = units, units_per_step, step_size, subsample
        self.loss, self.activation, self.max_iter, self.tol, self.alpha = loss, activation, max_iter, tol, alpha
        self.log_priors, self.generator = log_priors, generator
        self.classes = None
        self._layers: _Layers | None = None

    def fit(self, x: Shaped[Tensor, "..."], y: Shaped[Tensor, "n ..."]) -> BoostedNetwork:
        """Grow the network anew. x (n, d); y (n) labels, or (n) or (n, k) numbers. Returns the booster itself."""
        _check_inputs(x)
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(f"y must have one entry an example, at least one: got {len(y)} for {len(x)} examples")
        target = self._encoded(y.detach().cpu())
        inputs, loss = x.detach().double().cpu(), LOSSES[self.loss]
        n, sampled = len(x), max(1, int(self.subsample * len(x)))
        start = target.mean(0).log() if self.log_priors else loss.start(target)
        output = start.expand_as(target)
        sizes = inputs.shape[1], self.units_per_step, target.shape[1]
        fitting = dict(alpha=self.alpha, max_iter=self.max_iter, tol=self.tol)
        groups: list[SmallNetwork] = []
        multipliers, losses = [], []
        for _ in range(self.units // self.units_per_step):
            residual = loss.residual(target, output)
            group = SmallNetwork.drawn(*sizes, self.activation, self.generator)
            rows = slice(None) if sampled == n else torch.randperm(n, generator=self.generator)[:sampled]
            group = group.fitted(inputs[rows].numpy(), residual[rows].numpy(), **fitting)
            h = torch.from_numpy(group(inputs.numpy()))
            length = _newton_step(h, residual, loss.curvature and loss.curvature(target, residual))
            if length is None:
                break
            output = output + self.step_size * length * h
            groups.append(group)
            multipliers.append(self.step_size * length)
            losses.append(loss.value(target, output).item())
            if not math.isfinite(losses[-1]):
                raise Diverged(f"loss {losses[-1]} after step {len(losses)}: take smaller steps or larger groups")
        self.multipliers = torch.tensor(multipliers, dtype=torch.float64)
        self.losses = torch.tensor(losses, dtype=torch.float64)
        self._layers = _assembled(start, self.multipliers, inputs.shape[1], loss.scale, *groups)
        self._dtype, self._flat = x.dtype, self.loss == "logistic" or (self.loss == "squared" and y.ndim == 1)
        return self

    def decision_function(self, x: Float[Tensor, "..."], *, units: int | None = None) -> Float[Tensor, "..."]:
        """What `to_module` computes, of the first `units` units trained (None: of all).

        Logits (n, k) in the order of `classes` for cross entropy, the logit 2 F (n) of the greater label for the
        logistic loss, predictions of the shape of y for numbers.
        """
        layers = self._grown() if units is None else self.truncate(units)._grown()
        _check_inputs(x, layers.hidden.shape[1])
        hidden, bias, out, constant = (each.to(x.device) for each in layers[:4])
        active = ACTIVATIONS[self.activation].module()(x.double() @ hidden.T + bias)
        values = (active @ out.T + constant.sum(0)).to(x.dtype)
        return values[:, 0] if self._flat else values

    def predict(self, x: Float[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Labels, or numbers for the squared loss."""
        values = self.decision_function(x)
        if self.classes is None:
            return values
        which = (values > 0).long() if self._flat else values.argmax(1)
        return self.classes.to(x.device)[which]

    def truncate(self, units: int) -> BoostedNetwork:
        """A booster of the first `units` units trained: 0 to all, a multiple of `units_per_step`."""
        layers = self._grown()
        step, most = self.units_per_step, len(layers.bias)
        if not 0 <= units <= most or units % step:
            raise ValueError(f"units must be a multiple of {step} in 0..{most}: got {units}")
        shorter, steps = copy.copy(self), units // step
        shorter.losses, shorter.multipliers = self.losses[:steps], self.multipliers[:steps]
        hidden, bias, out, constant = layers
        shorter._layers = _Layers(hidden[:units], bias[:units], out[:, :units], constant[: steps + 1])
        return shorter

    def to_module(self) -> nn.Sequential:
        """Linear, activation, Linear, in the precision of the x of `fit`; outputs (n, k), (n, 1) where there is one."""
        hidden, bias, out, constant = self._grown()
        layers = []
        for weight, shift in ((hidden, bias), (out, constant.sum(0))):
            layer = nn.utils.skip_init(nn.Linear, 1, 1)
            layer.out_features, layer.in_features = weight.shape
            layer.weight, layer.bias = (nn.Parameter(each.to(self._dtype, copy=True)) for each in (weight, shift))
            layers.append(layer)
        return nn.Sequential(layers[0], ACTIVATIONS[self.activation].module(), layers[1])

    def _grown(self) -> _Layers:
        if self._layers is None:
            raise RuntimeError("the network has no units yet: call fit first")
        return self._layers

    def _encoded(self, y: Tensor) -> Float[Tensor, "n k"]:
        """Targets as the loss takes them, in float64; the labels are remembered."""
        if self.loss == "squared":
            if not y.is_floating_point():
                raise TypeError(f"y must be real numbers for the squared loss: got {y.dtype}")
            if y.ndim not in (1, 2):
                raise ValueError(f"y must be (n) or (n, k): got {tuple(y.shape)}")
            if not y.isfinite().all():
                raise ValueError("y must be finite: got NaN or infinity")
            return y.double().reshape(len(y), -1)
        if y.is_floating_point() or y.is_complex():
            raise TypeError(f"y must be labels, whole numbers: got {y.dtype}")
        if y.ndim != 1:
            raise ValueError(f"y must be (n), one label an example: got {tuple(y.shape)}")
        self.classes, which = torch.unique(y, return_inverse=True)
        if len(self.classes) < 2 or (self.loss == "logistic" and len(self.classes) > 2):
            allowed = "two classes" if self.loss == "logistic" else "at least two classes"
            raise ValueError(f"y must hold {allowed}: got {len(self.classes)}")
        if self.loss == "logistic":
            return 2.0 * which.double()[:, None] - 1
        return F.one_hot(which, len(self.classes)).double()


class _Loss(NamedTuple):
    r"""$F_0$ of y; r of (y, F); $\ell''$ of (y, r), None for a step of 1; mean loss of (y, F); outputs over F."""

    start: Callable[[Tensor], Tensor]
    residual: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[Tensor, Tensor], Tensor] | None
    value: Callable[[Tensor, Tensor], Tensor]
    scale: float


LOSSES = {
    "cross_entropy": _Loss(
        start=lambda y: y.new_zeros(y.shape[1]),
        residual=lambda y, f: y - f.softmax(1),
        curvature=lambda y, r: r.abs() * (1 - r.abs()),  # p (1 - p), as |r| is p or 1 - p
        value=lambda y, f: F.cross_entropy(f, y),
        scale=1.0,
    ),
    "logistic": _Loss(
        start=lambda y: y.mean(0).atanh(),
        residual=lambda y, f: 2 * y * torch.sigmoid(-2 * y * f),
        curvature=lambda y, r: r * (2 * y - r),
        value=lambda y, f: F.softplus(-2 * y * f).mean(),
        scale=2.0,
    ),
    "squared": _Loss(
        start=lambda y: y.mean(0),
        residual=lambda y, f: y - f,
        curvature=None,
        value=lambda y, f: F.mse_loss(f, y),
        scale=1.0,
    ),
}
"""The losses by name. Targets y are (n, k): one-hot rows, signs, or numbers."""


def _newton_step(h: Tensor, r: Tensor, curvature: Tensor | None) -> float | None:
    """The step along h at which the loss, to second order, is least; None where it has no curvature."""
    if curvature is None:
        return 1.0
    squares = h.square()
    bend = (squares * curvature).sum().item()
    if not bend > 1e-12 * squares.sum().item():
        return None
    return (h * r).sum().item() / bend


def _assembled(start: Tensor, multipliers: Tensor, d: int, scale: float, *groups: SmallNetwork) -> _Layers:
    factors = scale * multipliers
    out = [by * torch.from_numpy(group.V.T) for by, group in zip(factors, groups, strict=True)]
    constants = [by * torch.from_numpy(group.c)[None] for by, group in zip(factors, groups, strict=True)]
    return _Layers(
        torch.cat([start.new_empty(0, d), *(torch.from_numpy(group.W.T) for group in groups)]),
        torch.cat([start.new_empty(0), *(torch.from_numpy(group.b) for group in groups)]),
        torch.cat([start.new_empty(len(start), 0), *out], dim=1),
        torch.cat([scale * start[None], *constants]),
    )


def _check_inputs(x: Tensor, d: int | None = None) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x must be real numbers: got {x.dtype}")
    if x.ndim != 2 or x.shape[1] == 0 or d not in (None, x.shape[1]):
        raise ValueError(f"x must be (n, {d or 'd'}): got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("x must be finite: got NaN or infinity")
