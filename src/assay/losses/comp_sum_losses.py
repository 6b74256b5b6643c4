"""Comp-sum losses, their bounds, and their smooth adversarial version (Mao et al., 2023, arXiv:2304.07288)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.nn import functional as F

from assay.curvature.hessian import evaluating

from .checks import check_finite, check_labels
from .reduction import check_reduction, reduce
from .worst_case import worst_case


class CompSumLoss(nn.Module):
    r"""$\Phi_\tau(u)$ of $u = \sum_{y' \ne y} e^{x_{y'} - x_y} = 1/p_y - 1$: from sum-exponential to absolute error.

    $\Phi_1(u) = \log(1 + u)$, and else $((1 + u)^{1 - \tau} - 1) / (1 - \tau) = (1 - p_y^{\tau - 1}) / (\tau - 1)$.
    $\tau = 0$ is the sum-exponential loss, 1 cross-entropy, between 1 and 2 generalised cross-entropy with
    $q = \tau - 1$, and 2 the mean absolute error $1 - p_y$. Below 1 the loss grows like a power of $1 / p_y$; it is cut
    off, without a slope, where $p_y^{\tau - 1}$ passes $e^{80}$.

    Args:
        tau: $\tau$, 0 or more.
        weight: (k), one weight a class; the mean is then a weighted one, as torch's is.
        ignore_index: label of examples that count for nothing. The mean over none but such is 0.
        reduction: "none", "mean" or "sum".

    Called with logits (n, k) or (n, k, ...) and targets (n) or (n, ...).

    The paper: equations 2 to 4.

    Raises:
        ValueError: for a negative tau, weights that are negative, not finite or not one a class; when called, as
            `check_labels` says.
        TypeError: when called, for targets that are not whole numbers.

    Example:
        >>> logits = torch.tensor([[0.25, 0.5, 0.25]]).log()
        >>> [round(CompSumLoss(tau=tau)(logits, torch.tensor([0])).item(), 4) for tau in (0, 1, 1.5, 2)]
        [3.0, 1.3863, 1.0, 0.75]
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        tau: float = 1.0,
        weight: Float[Tensor, " k"] | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        _check_tau(tau)
        if weight is not None and not (weight.ndim == 1 and weight.isfinite().all() and (weight >= 0).all()):
            raise ValueError(f"weight must be one finite number a class, 0 or more: got {weight}")
        self.tau, self.ignore_index, self.reduction = tau, ignore_index, check_reduction(reduction)
        self.register_buffer("weight", weight)

    def forward(self, logits: Float[Tensor, "n k ..."], targets: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        check_labels(logits, targets, ignore_index=self.ignore_index)
        if self.weight is not None and len(self.weight) != logits.shape[1]:
            raise ValueError(f"weight must have {logits.shape[1]} entries, one a class: got {len(self.weight)}")
        kept = targets != self.ignore_index
        label = torch.where(kept, targets, 0).long()
        log_p = F.log_softmax(logits, dim=1).gather(1, label.unsqueeze(1)).squeeze(1)
        share = kept.to(log_p.dtype)
        if self.weight is not None:
            share = share * self.weight.to(log_p.dtype)[label]
        values = share * _of_log_probability(log_p, self.tau)
        if self.reduction != "mean":
            return reduce(values, self.reduction)
        return values.sum() / share.sum().clamp_min(torch.finfo(share.dtype).tiny)

    def extra_repr(self) -> str:
        return f"tau={self.tau}, reduction={self.reduction!r}"


class SmoothAdversarialCompSum(nn.Module):
    r"""$\Phi_\tau\Big(\sum_{y' \ne y} e^{-\Delta_{y'}(x) / \rho}\Big)
    + \nu \sup_{\|x' - x\|_\infty \le \epsilon} \|(\Delta(x') - \Delta(x)) / \rho\|_2$, averaged over the batch.

    $\Delta(x)$ are the margins $h_y - h_{y'}$: a comp-sum loss of the clean input, and the furthest that the margins
    can be moved nearby. The supremum is sought by `worst_case`, in evaluation mode, from a random start; the gradient
    goes through $\Delta(x')$ and $\Delta(x)$ in the mode that the model is in.

    Args:
        tau: $\tau$ of the comp-sum loss, 0 or more.
        rho: $\rho$, margin that counts as one, positive.
        nu: $\nu$, 0 or more; 0 leaves the plain loss.
        eps: $\epsilon$, 0 or more.
        steps: of the search, 0 or more.
        step_size: of the search, positive; None takes $2.5\, \epsilon / \mathrm{steps}$.
        bounds: least and greatest value of an input's entry, or None.

    Called with (model, inputs, targets (n,)).

    The paper: equation 13 and section 5 (ADV-COMP-SUM).

    Raises:
        ValueError: for arguments out of range; when called, as `check_labels` and `worst_case` say.

    Example:
        >>> model = nn.Linear(1, 2)
        >>> model.weight.data, model.bias.data = torch.tensor([[1.0], [-1.0]]), torch.zeros(2)
        >>> loss = SmoothAdversarialCompSum(nu=0.5, eps=0.1, steps=30, bounds=None)  # enough from any start
        >>> round(loss(model, torch.tensor([[1.0]]), torch.tensor([0])).item(), 4)  # log(1 + e^-2) + 0.5 * 0.2
        0.2269
    """

    def __init__(
        self,
        *,
        tau: float = 1.0,
        rho: float = 1.0,
        nu: float = 1.0,
        eps: float = 8 / 255,
        steps: int = 10,
        step_size: float | None = 2 / 255,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__()
        _check_tau(tau)
        if not 0 < rho < math.inf:
            raise ValueError(f"rho must be positive and finite: got {rho}")
        for name, value in (("nu", nu), ("eps", eps)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and 0 or more: got {value}")
        self.tau, self.rho, self.nu, self.eps = tau, rho, nu, eps
        self.steps, self.step_size, self.bounds = steps, step_size, bounds

    def forward(self, model: nn.Module, inputs: Tensor, targets: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        logits = model(inputs)
        check_labels(logits, targets, dense=False)
        log_p = F.log_softmax(logits / self.rho, dim=1).gather(1, targets[:, None]).squeeze(1)
        clean = _of_log_probability(log_p, self.tau)
        if self.nu == 0 or self.eps == 0:
            return clean.mean()
        with evaluating(model):
            with torch.no_grad():
                here = _margins(model(inputs), targets)
            moved = worst_case(
                lambda x: (_margins(model(x), targets) - here).square().sum(1),
                inputs,
                eps=self.eps,
                steps=self.steps,
                step_size=self.step_size,
                bounds=self.bounds,
            )
        change = (_margins(model(moved), targets) - _margins(logits, targets)) / self.rho
        # The root of what is never exactly 0 has a slope everywhere.
        return (clean + self.nu * (change.square().sum(1) + 1e-12).sqrt()).mean()

    def extra_repr(self) -> str:
        return f"tau={self.tau}, rho={self.rho}, nu={self.nu}, eps={self.eps}, steps={self.steps}"


def comp_sum_transform(tau: float, beta: float, num_classes: int) -> float:
    r"""$\mathcal{T}_\tau(\beta)$: the least excess of a comp-sum loss that allows an excess $\beta$ of zero-one errors.

    With $m = \tfrac12 \big((1+\beta)^{1/(2-\tau)} + (1-\beta)^{1/(2-\tau)}\big)$ it is
    $\frac{2^{1-\tau}}{1-\tau} (1 - m^{2-\tau})$ for $\tau < 1$,
    $\frac{1+\beta}{2} \log(1+\beta) + \frac{1-\beta}{2} \log(1-\beta)$ for 1,
    $\frac{1}{(\tau-1) k^{\tau-1}} (m^{2-\tau} - 1)$ between 1 and 2, and $\frac{\beta}{(\tau-1) k^{\tau-1}}$ from 2 on.

    Args:
        tau: $\tau$, 0 or more.
        beta: $\beta$, in [0, 1].
        num_classes: k, at least 2.

    The paper: theorem 3.1.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> round(comp_sum_transform(1.0, 1.0, 10), 4), round(comp_sum_transform(2.0, 0.5, 10), 4)  # log 2; 0.5 / 10
        (0.6931, 0.05)
    """
    _check_tau(tau)
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie in [0, 1]: got {beta}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2: got {num_classes}")
    if tau == 1:
        return sum(s / 2 * math.log(s) for s in (1 + beta, 1 - beta) if s > 0)
    if tau >= 2:
        return beta / ((tau - 1) * num_classes ** (tau - 1))
    logs = [math.log(s) / (2 - tau) for s in (1 + beta, 1 - beta) if s > 0]  # powers of 1 / (2 - tau) overflow
    mean = math.exp((2 - tau) * (logs[0] + math.log(sum(math.exp(each - logs[0]) for each in logs) / 2)))
    if tau < 1:
        return 2 ** (1 - tau) / (1 - tau) * (1 - mean)
    return (mean - 1) / ((tau - 1) * num_classes ** (tau - 1))


def comp_sum_bound(tau: float, excess: float, num_classes: int) -> float:
    r"""$\Gamma_\tau$, the inverse of `comp_sum_transform`: the zero-one excess is at most this of the loss's excess.

    Args:
        tau: $\tau$, 0 or more.
        excess: of the comp-sum loss over the best that is possible, 0 or more.
        num_classes: at least 2.

    Returns:
        A number in [0, 1].

    The paper: theorem 3.1.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> round(comp_sum_bound(1.0, comp_sum_transform(1.0, 0.3, 4), 4), 6), comp_sum_bound(2.0, 0.025, 4)
        (0.3, 0.1)
    """
    if not 0 <= excess < math.inf:
        raise ValueError(f"excess must be finite and 0 or more: got {excess}")
    if excess >= comp_sum_transform(tau, 1.0, num_classes):
        return 1.0
    if tau >= 2:
        return excess * (tau - 1) * num_classes ** (tau - 1)
    return float(brentq(lambda beta: comp_sum_transform(tau, beta, num_classes) - excess, 0.0, 1.0, xtol=1e-14))


def conditional_risk(tau: float, posterior: Float[Tensor, "n k"], logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    r"""$\sum_y \eta_y \Phi_\tau(1/p_y - 1)$, what a prediction loses on average where the truth is $\eta$.

    Args:
        tau: $\tau$, 0 or more.
        posterior: $\eta$, rows of probabilities.
        logits: of the prediction.

    Raises:
        ValueError: for shapes that differ, rows that are no probabilities, logits that are not finite.

    Example:
        >>> conditional_risk(2.0, torch.tensor([[0.75, 0.25]]), torch.zeros(1, 2))  # 1 - 1/2, whatever the truth
        tensor([0.5000])
    """
    _check_tau(tau)
    _check_posterior(posterior, logits.shape)
    check_finite(logits=logits)
    return (posterior * _of_log_probability(F.log_softmax(logits, dim=1), tau)).sum(1)


def best_conditional_risk(tau: float, posterior: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    r"""The least `conditional_risk` of any prediction.

    For $\tau < 2$ that of $p_y \propto \eta_y^{1/(2-\tau)}$; from 2 on $(1 - \max_y \eta_y) / (\tau - 1)$, which is
    approached and not attained.

    Args:
        tau: $\tau$, 0 or more.
        posterior: $\eta$, rows of probabilities.

    The paper: appendix on the best-in-class conditional error.

    Raises:
        ValueError: for a negative tau, rows that are no probabilities.

    Example:
        >>> posterior = torch.tensor([[0.5, 0.5], [0.8, 0.2]])
        >>> best_conditional_risk(1.0, posterior), best_conditional_risk(0.0, posterior)  # entropy; 2 sqrt(0.8 * 0.2)
        (tensor([0.6931, 0.5004]), tensor([1.0000, 0.8000]))
    """
    _check_tau(tau)
    _check_posterior(posterior, posterior.shape)
    if tau >= 2:
        return (1 - posterior.amax(1)) / (tau - 1)
    log_p = F.log_softmax(posterior.log() / (2 - tau), dim=1)
    return (posterior * _of_log_probability(log_p, tau)).nan_to_num(0.0).sum(1)


def minimizability_gap(tau: float, posterior: Float[Tensor, "n k"], best_logits: Float[Tensor, "n k"]) -> float:
    r"""What the best predictor of a family loses on average beyond `best_conditional_risk`.

    Args:
        tau: $\tau$, 0 or more.
        posterior: $\eta$ at points drawn from the inputs' distribution.
        best_logits: of the family's best predictor, at the same points.

    The paper: section 2, $\mathcal{M}$.

    Raises:
        ValueError: as `conditional_risk`.

    Example:
        >>> posterior = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
        >>> round(minimizability_gap(1.0, posterior, posterior.log()), 6)
        0.0
        >>> round(minimizability_gap(1.0, posterior, torch.zeros(2, 2)), 4)  # half of KL((.9, .1) || (.5, .5))
        0.184
    """
    return (conditional_risk(tau, posterior, best_logits) - best_conditional_risk(tau, posterior)).mean().item()


def _of_log_probability(log_p: Tensor, tau: float) -> Tensor:
    if tau == 1:
        return -log_p
    return -torch.expm1(((tau - 1) * log_p).clamp(max=80.0)) / (tau - 1)


def _margins(logits: Tensor, targets: Tensor) -> Tensor:
    """$h_y - h_{y'}$ for all y'; the entry of y itself is 0."""
    return logits.gather(1, targets[:, None]) - logits


def _check_tau(tau: float) -> None:
    if not 0 <= tau < math.inf:
        raise ValueError(f"tau must be finite and 0 or more: got {tau}")


def _check_posterior(posterior: Tensor, shape: torch.Size) -> None:
    if posterior.ndim != 2 or posterior.shape != shape or posterior.shape[1] < 2:
        raise ValueError(f"posterior must be (n, k), k at least 2, as logits are: got {tuple(posterior.shape)}")
    if not ((posterior >= 0).all() and (posterior.sum(1) - 1).abs().max() < 1e-4):
        raise ValueError("posterior must have rows of probabilities that sum to 1")
