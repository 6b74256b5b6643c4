"""IGNITE: surrogates whose predictions do not hang on their weights (Dao et al., 2024, arXiv:2503.04242)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from assay.curvature.hessian import evaluating
from assay.losses.checks import readable
from assay.optim.perturbed import perturbed


def surrogate_sharpness(model: nn.Module, x: Float[Tensor, "n ..."], *, rho: float = 0.05) -> float:
    r"""$\rho\, \|\nabla_\theta h(\theta)\|$ with $h(\theta) = \frac1n \sum_i g_\theta(x_i)$, the mean prediction.

    To first order it is how far the mean prediction can rise when the weights move by at most $\rho$.

    Args:
        model: $g_\theta$, one number an example: (n,) or (n, 1); used in evaluation mode and given back as it was.
        x: inputs.
        rho: $\rho$, positive.

    The paper: definition 1 and lemma 1.

    Raises:
        ValueError: for a `rho` that is not positive and finite, more than one output, predictions that are not finite.

    Example:
        >>> model = nn.Linear(2, 1)  # the gradient of the mean is (mean of x, 1)
        >>> round(surrogate_sharpness(model, torch.tensor([[1.0, 2.0], [3.0, 2.0]]), rho=0.1), 4)  # 0.1 * 3
        0.3
    """
    _check(rho=rho)
    return (rho * get_total_norm(_mean_gradient(model, x))).item()


def gradient_norm_penalty(
    model: nn.Module, x: Float[Tensor, "n ..."], *, rho: float = 0.05, r: float = 0.05
) -> list[Tensor]:
    r"""$\nabla_\theta\, \rho \|\nabla h\| \approx \frac{\rho}{r} (\nabla h(\theta + r u) - \nabla h(\theta))$.

    $u = \nabla h / \|\nabla h\|$ over all parameters together; one gradient more, no second derivatives. It is 0 where
    $\nabla h$ is, and exact where h is quadratic in the weights.

    Args:
        model: as for `surrogate_sharpness`.
        x: inputs.
        rho: $\rho$, positive.
        r: $r$, length of the finite difference, positive.

    Returns:
        One tensor for each trainable parameter; the weights are put back exactly.

    The paper: equation 14.

    Raises:
        ValueError: as `surrogate_sharpness`; for an `r` that is not positive and finite.

    Example:
        >>> class Square(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.w = nn.Parameter(torch.tensor([3.0, 4.0]))
        ...     def forward(self, x):
        ...         return (self.w**2).sum() / 2 + 0 * x[:, 0]
        >>> gradient_norm_penalty(Square(), torch.zeros(1, 1), rho=1.0)[0]  # of the length of w: w / 5
        tensor([0.6000, 0.8000])
    """
    _check(rho=rho, r=r)
    return _penalty(model, x, rho, r)[0]


class IGNITE:
    r"""A learning rule: the loss, subject to $\rho \|\nabla h\| \le \epsilon$ on every batch.

    The gradient is that of $L + \lambda (\rho \|\nabla h\| - \epsilon)$, the multiplier follows the constraint,
    $\lambda \leftarrow \max(0, \lambda + \eta (\rho \|\nabla h\| - \epsilon))$. Any optimizer may take the step:

        fit(surrogate, examples, torch.optim.Adam(...), loss=mse_loss, rule=IGNITE(epsilon=0.1))

    or, in a loop of one's own, `rule(model, inputs, targets, loss)` in place of computing the loss and `backward()`.

    Args:
        rho: $\rho$, positive.
        r: length of the finite difference, positive.
        lam: $\lambda$ at the start, 0 or more.
        eta: $\eta$, 0 or more.
        epsilon: $\epsilon$, 0 or more.
        dual: whether $\lambda$ follows the constraint; False keeps it ("IGNITE-2").

    Attributes:
        lam: $\lambda$ now, a tensor of one number.
        sharpness: $\rho \|\nabla h\|$ of the last batch, a tensor of one number.

    The paper: equations 10 to 15 and algorithm 1; constants of the authors' gradient ascent runs.

    Differs from the paper: the multiplier is kept at 0 or above; in the authors' code it may turn negative, and then
    rewards sharpness.

    Raises:
        ValueError: for arguments out of range; when called, for more than one output or predictions not finite.

    Example:
        >>> from torch.nn.functional import mse_loss
        >>> model, rule = nn.Linear(1, 1), IGNITE(lam=0.0, eta=0.5, epsilon=0.1, rho=0.2)
        >>> _ = rule(model, torch.zeros(4, 1), torch.zeros(4, 1), mse_loss)
        >>> round(rule.sharpness.item(), 4), round(rule.lam.item(), 4)  # 0.2 * |(0, 1)|, 0.5 * (0.2 - 0.1)
        (0.2, 0.05)
    """

    def __init__(
        self,
        *,
        rho: float = 0.05,
        r: float = 0.05,
        lam: float = 1e-3,
        eta: float = 1e-3,
        epsilon: float = 0.1,
        dual: bool = True,
    ) -> None:
        _check(rho=rho, r=r)
        for name, value in (("lam", lam), ("eta", eta), ("epsilon", epsilon)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and 0 or more: got {value}")
        self.rho, self.r, self.eta, self.epsilon, self.dual = rho, r, eta, epsilon, dual
        self.lam = torch.tensor(float(lam))
        self.sharpness = torch.tensor(math.nan)

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        """Fill the gradients, and let the multiplier follow; the plain loss is returned."""
        value = loss(model(inputs), targets)
        value.backward()
        penalty, norm = _penalty(model, inputs, self.rho, self.r)
        self.lam = self.lam.to(norm)
        with torch.no_grad():
            for p, push in zip(_trainable(model), penalty, strict=True):
                p.grad = self.lam * push if p.grad is None else p.grad + self.lam * push
            self.sharpness = self.rho * norm
            if self.dual:
                self.lam = (self.lam + self.eta * (self.sharpness - self.epsilon)).clamp_min(0.0)
        return value

    def state_dict(self) -> dict[str, Any]:
        """The multiplier."""
        return {"lam": self.lam}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.lam = torch.as_tensor(state["lam"]).clone()


def ascend_designs(
    model: nn.Module, designs: Float[Tensor, "k ..."], *, steps: int = 200, lr: float = 0.01
) -> Float[Tensor, "k ..."]:
    r"""Designs that a surrogate likes better: $x \leftarrow x + \mathrm{lr} \sqrt{d}\, \nabla_x g(x)$, `steps` times.

    Args:
        model: $g$, one number a design; used in evaluation mode and given back as it was.
        designs: where to start, (k, d) or of any shape with d entries a design; not changed.
        steps: 0 or more.
        lr: positive; 0.01 in the paper.

    The paper: section 5, gradient ascent.

    Raises:
        ValueError: for arguments out of range, more than one output, predictions that are not finite.

    Example:
        >>> model = nn.Linear(4, 1, bias=False)
        >>> model.weight.data = torch.tensor([[1.0, 0.0, -1.0, 0.0]])
        >>> ascend_designs(model, torch.zeros(1, 4), steps=10, lr=0.1).round(decimals=4)  # 10 * 0.1 * 2
        tensor([[ 2.,  0., -2.,  0.]])
    """
    _check(lr=lr)
    if steps < 0:
        raise ValueError(f"steps must be 0 or more: got {steps}")
    rate = lr * math.sqrt(designs[0].numel())
    x = designs.detach().clone()
    with evaluating(model):
        for _ in range(steps):
            x.requires_grad_()
            (slope,) = torch.autograd.grad(_predictions(model, x).sum(), x)
            x = (x + rate * slope).detach()
    return x


def _penalty(model: nn.Module, x: Tensor, rho: float, r: float) -> tuple[list[Tensor], Tensor]:
    """The penalty's gradient, and the norm of the mean prediction's."""
    first = _mean_gradient(model, x)
    norm = get_total_norm(first)
    offsets = [torch.where(norm > 0, r / norm, 0.0) * g for g in first]
    with perturbed(_trainable(model), offsets):
        second = _mean_gradient(model, x)
    return list(torch._foreach_mul(torch._foreach_sub(second, first), rho / r)), norm


def _mean_gradient(model: nn.Module, x: Tensor) -> list[Tensor]:
    parameters = _trainable(model)
    with evaluating(model), torch.enable_grad():
        found = torch.autograd.grad(_predictions(model, x).mean(), parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def _predictions(model: nn.Module, x: Tensor) -> Tensor:
    values: Tensor = model(x)
    if values.shape not in ((len(x),), (len(x), 1)):
        raise ValueError(
            f"model must give one number an example, ({len(x)},) or ({len(x)}, 1): got {tuple(values.shape)}"
        )
    if readable(values) and not values.isfinite().all():
        raise ValueError("model must give finite predictions: got NaN or infinity")
    return values


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite: got {value}")
