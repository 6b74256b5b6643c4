"""Focal loss, for one yes-or-no question an entry and for one class of many (Lin et al., 2017, arXiv:1708.02002)."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_finite, check_labels, readable
from .reduction import check_reduction, reduce


def sigmoid_focal_loss(
    logits: Float[Tensor, "..."],
    targets: Shaped[Tensor, "..."],
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    normalizer: float | Tensor | None = None,
) -> Float[Tensor, "..."]:
    r"""$\mathrm{FL}(p_t) = -\alpha_t (1 - p_t)^\gamma \log p_t$, each entry a question of its own.

    $p = \sigma(x)$; $p_t = p$ and $\alpha_t = \alpha$ where the target is 1, $1 - p$ and $1 - \alpha$ where it is 0.
    $\gamma = 0$ is $\alpha$-balanced cross-entropy. Value and gradient are computed in closed form, in float32 at
    least, and are right at logits of any finite size and for every $\gamma$, also below 1.

    Args:
        logits: $x$, any shape.
        targets: 0 or 1, of the same shape; real numbers, whole numbers or truth values.
        alpha: $\alpha$, between 0 and 1; None leaves the factor out.
        gamma: $\gamma$, 0 or more.
        reduction: "none", "mean" over all entries (with very many easy ones it vanishes), or "sum".
        normalizer: a positive number that the values or their sum are divided by: a dense detector divides the sum over
            all anchors by the number of those assigned to an object (section 4.1, "Focal Loss").

    Focal Loss for Dense Object Detection, equation 5.

    Raises:
        ValueError: for shapes that differ, logits that are not finite, targets other than 0 and 1, `gamma` below 0,
            `alpha` outside (0, 1), a normalizer that is not positive or is given together with the mean.
        TypeError: for logits that are not real numbers.

    Example:
        >>> easy, hard = torch.tensor(9.0).log(), torch.tensor(1 / 9).log()  # p_t = 0.9 and 0.1
        >>> loss = sigmoid_focal_loss(torch.stack([easy, hard]), torch.ones(2), alpha=None)
        >>> [round(value, 6) for value in loss.tolist()]  # 0.1^2 * 0.105361 and 0.9^2 * 2.302585
        [0.001054, 1.865094]
    """
    _check_gamma(gamma)
    if alpha is not None and not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie between 0 and 1: got {alpha}")
    check_reduction(reduction)
    _check_questions(logits, targets)
    if normalizer is not None:
        if reduction == "mean":
            raise ValueError("normalizer must be None for the mean, which has its own: got reduction='mean'")
        known = not isinstance(normalizer, Tensor) or readable(normalizer)
        if known and not 0.0 < float(normalizer) < math.inf:
            raise ValueError(f"normalizer must be positive and finite: got {float(normalizer)}")
    x = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    values = _values(x, targets.to(x.dtype), alpha, gamma)
    loss = reduce(values, reduction)
    return loss if normalizer is None else loss / normalizer


class FocalLoss(nn.Module):
    r"""$-w_y (1 - p_y)^\gamma \log p_y$ with $p = \mathrm{softmax}(x)$: cross-entropy that easy examples leave alone.

    With two classes it is `sigmoid_focal_loss` of the difference of the logits. With label smoothing $\varepsilon$ it
    is $\sum_c q_c w_c (1 - p_c)^\gamma (-\log p_c)$, $q_c = (1 - \varepsilon) [c = y] + \varepsilon / k$, which at
    $\gamma = 0$ is torch's smoothed cross-entropy.

    Args:
        gamma: $\gamma$, 0 or more; 0 is cross-entropy.
        weight: $w$ (k), one weight a class (the paper's $\alpha$); the mean is then a weighted one, as torch's is.
        ignore_index: label of examples that count for nothing. The mean over none but such is 0.
        label_smoothing: $\varepsilon$, 0 to 1.
        reduction: "none", "mean" or "sum".

    Called with logits (n, k) or (n, k, ...) and targets (n) or (n, ...).

    Focal Loss for Dense Object Detection, equation 5 and section 3 ("extending the focal loss to the multi-class case
    is straightforward").

    Differs from the paper: label smoothing and `ignore_index` are torch's, not the paper's.

    Raises:
        ValueError: for `gamma` below 0, weights that are negative, not finite or not one a class, smoothing outside
            0 to 1; when called, as `check_labels` says.
        TypeError: when called, for targets that are not whole numbers.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.25, 0.25]])
        >>> loss = FocalLoss(gamma=2.0, reduction="none")(probabilities.log(), torch.tensor([0, 0]))
        >>> [round(value, 6) for value in loss.tolist()]  # a hundred times and four times less than cross-entropy
        [0.001054, 0.173287]
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        weight: Float[Tensor, " k"] | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        _check_gamma(gamma)
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing must lie in 0..1: got {label_smoothing}")
        if weight is not None and not (weight.ndim == 1 and weight.isfinite().all() and (weight >= 0).all()):
            raise ValueError(f"weight must be one finite number a class, 0 or more: got {weight}")
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.reduction = check_reduction(reduction)
        self.register_buffer("weight", weight)

    def forward(self, logits: Float[Tensor, "n k ..."], targets: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        check_labels(logits, targets, ignore_index=self.ignore_index)
        if self.weight is not None and len(self.weight) != logits.shape[1]:
            raise ValueError(f"weight must have {logits.shape[1]} entries, one a class: got {len(self.weight)}")
        log_p = F.log_softmax(logits, dim=1)
        kept = targets != self.ignore_index
        label = torch.where(kept, targets, 0).long()
        share = kept.to(log_p.dtype)
        if self.weight is not None:
            share = share * self.weight.to(log_p.dtype)[label]
        values = share * _modulated(log_p.gather(1, label.unsqueeze(1)).squeeze(1), self.gamma)
        if self.label_smoothing > 0:
            every = _modulated(log_p, self.gamma)
            if self.weight is not None:
                every = every * self.weight.to(log_p.dtype).view(-1, *[1] * (log_p.ndim - 2))
            spread = kept * every.mean(dim=1)
            values = (1 - self.label_smoothing) * values + self.label_smoothing * spread
        if self.reduction != "mean":
            return reduce(values, self.reduction)
        return values.sum() / share.sum().clamp_min(torch.finfo(share.dtype).tiny)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, label_smoothing={self.label_smoothing}, reduction={self.reduction!r}"


def prior_bias(prior: float = 0.01) -> float:
    r"""$-\log\frac{1 - \pi}{\pi}$: the bias with which a sigmoid starts by calling the share $\pi$ of entries positive.

    Focal Loss for Dense Object Detection, section 4.1 ("Initialization"), for the last layer of the classifier.

    Args:
        prior: $\pi$, between 0 and 1.

    Raises:
        ValueError: for a prior outside (0, 1).

    Example:
        >>> round(prior_bias(0.01), 5), round(torch.tensor(prior_bias(0.2)).sigmoid().item(), 6)
        (-4.59512, 0.2)
    """
    if not 0.0 < prior < 1.0:
        raise ValueError(f"prior must lie between 0 and 1: got {prior}")
    return -math.log((1.0 - prior) / prior)


def _modulated(log_p: Tensor, gamma: float) -> Tensor:
    r"""$-(1 - p)^\gamma \log p$ of log-probabilities.

    At $p = 1$ a power of $1 - p$ below its order has no derivative; a log-probability is therefore kept below 0 by the
    square of the machine's precision, far less than what a logarithm near 0 resolves.
    """
    if gamma == 0:
        return -log_p
    log_p = log_p.clamp(max=-(torch.finfo(log_p.dtype).eps ** 2))
    return -log_p * (-torch.expm1(log_p)).pow(gamma)


def _values(x: Tensor, t: Tensor, alpha: float | None, gamma: float) -> Tensor:
    if x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        values, _ = _Focal.apply(x, t, alpha, gamma)
        return values  # type: ignore[no-any-return]
    # Without a gradient half the work is enough, and the compiler fuses what it differentiates.
    z = x * torch.rsub(t, 1, alpha=2)  # -x_t
    factor = torch.sigmoid(z).pow(gamma) if gamma == 0 or gamma >= 1 else torch.exp(gamma * F.logsigmoid(z))
    values = F.softplus(z, threshold=40.0) * factor
    return values if alpha is None else values * torch.rsub(t, 1 - alpha).abs()


class _Focal(torch.autograd.Function):
    r"""The values and their slope in one go: $\sigma(z)^\gamma u$, $u = \log(1 + e^z)$, $z = -x_t$, times $\alpha_t$.

    Its derivative is $\sigma(z)^\gamma (\sigma(z) + \gamma (1 - \sigma(z)) u)$, in which nothing cancels or overflows.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, t: Tensor, alpha: float | None, gamma: float) -> tuple[Tensor, Tensor]:
        sign = torch.rsub(t, 1, alpha=2)
        z = x * sign
        wrong = torch.sigmoid(z)
        values = F.softplus(z, threshold=40.0)  # beyond 40 the difference from z is below float64's precision
        factor = wrong.pow(gamma)
        values.mul_(factor)
        slope = factor.mul_(wrong).add_(torch.rsub(wrong, 1).mul_(values), alpha=gamma)
        if alpha is None:
            return values, slope.mul_(sign)
        signed = torch.rsub(t, 1 - alpha)  # alpha_t times the sign, for t of 0 and 1
        slope.mul_(signed)
        return values.mul_(signed.abs()), slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, t, ctx.alpha, ctx.gamma = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, t, output[1])
        ctx.save_for_forward(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, None, None, None]:
        x, t, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is itself to be differentiated
            sign = torch.rsub(t, 1, alpha=2)
            z = x * sign
            factor = torch.exp(ctx.gamma * F.logsigmoid(z))
            slope = factor * (torch.sigmoid(z) - ctx.gamma * torch.sigmoid(-z) * F.logsigmoid(-z))
            slope = slope * (sign if ctx.alpha is None else torch.rsub(t, 1 - ctx.alpha))
        return grad * slope, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, None]:
        return tangent * ctx.saved_tensors[0], None


def _check_gamma(gamma: float) -> None:
    if not 0.0 <= gamma < math.inf:
        raise ValueError(f"gamma must be finite and 0 or more: got {gamma}")


def _check_questions(logits: Tensor, targets: Tensor) -> None:
    """Refuse logits that are not finite and targets that are no answers, in two passes over each."""
    if not logits.is_floating_point():
        raise TypeError(f"logits must be real numbers: got {str(logits.dtype).removeprefix('torch.')}")
    if logits.shape != targets.shape:
        raise ValueError(f"targets must have the shape of logits, {tuple(logits.shape)}: got {tuple(targets.shape)}")
    if logits.numel() == 0:
        raise ValueError("logits must have at least one entry: got none")
    check_finite(logits=logits)
    if readable(targets) and targets.dtype != torch.bool:
        answers = targets.detach()
        excess = torch.addcmul(answers, answers, answers, value=-1)  # t - t^2 is 0 for 0 and 1 alone, rounding included
        if any(edge != 0 for edge in torch.aminmax(excess)):
            raise ValueError("targets must be 0 or 1: got another number")
