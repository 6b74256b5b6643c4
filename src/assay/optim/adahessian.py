"""AdaHessian: Adam with the diagonal of the Hessian in place of the squared gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from assay.curvature import hvp, rademacher
from assay.optim.wrapper import refuse_gradients

Average = Literal["magnitude", "signed"]


class AdaHessian(Optimizer):
    r"""Adam whose second moment follows the diagonal of the Hessian, seen through one random vector a step.

    $$d_t = z \odot H_t z, \quad z_i = \pm 1; \qquad
      D_t = |d_t| \text{ averaged over the kernel window of a convolution}$$
    $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) D_t^2$$
    $$\theta_t = \theta_{t-1} - \eta \left( \frac{m_t / (1 - \beta_1^t)}{\left(\sqrt{v_t / (1 - \beta_2^t)}\right)^k
      + \epsilon} + \lambda \theta_{t-1} \right)$$

    The gradients must come with their graph, and are dropped after the step, which frees it:

        loss.backward(create_graph=True)
        optimizer.step()

    (torch warns of a cycle of references then; the step breaks it). `assay.train.fit` does all this by itself. A loop
    of its own may spare the graph in the steps that make no new estimate (`update_every`), which `diagonal_due` tells.

    Args:
        params: parameters, or groups of them, each with its own `lr`, `betas`, `eps`, `weight_decay`, `hessian_power`,
            `spatial_average`, `update_every` and `maximize`.
        lr: $\eta$, 0 or more. As the step is measured in units of the curvature, good values are near those of Newton's
            method (the authors': 0.15 for images), not near Adam's.
        betas: $\beta_1, \beta_2$, each in [0, 1).
        eps: $\epsilon$, 0 or more. With 0, a parameter without curvature makes the step infinite.
        weight_decay: $\lambda$, decoupled, 0 or more.
        hessian_power: $k$ in [0, 1]; with 0 what is left is momentum.
        spatial_average: `"magnitude"` averages $|d|$ over all dimensions after the second of parameters that have three
            or more (kernels of convolutions of any dimension); `"signed"` averages $d$; None does not average.
        update_every: steps from one estimate to the next, at least 1; $v$ and its bias correction count estimates.
        maximize: climb instead of descend; the momentum is of the negated gradient, the curvature's sign is not seen.
        num_probes: random vectors an estimate, at least 1; $d$ is their mean.
        generator: where the signs come from; its state is part of `state_dict`.

    Yao et al., 2020 (arXiv:2006.00719), Algorithm 1.

    Differs from the paper: its formula averages $d$ with its sign and squares afterwards (`"signed"`), so that
    curvatures of opposite sign within a kernel cancel; the authors' code averages $|d|$, with which their results were
    obtained, and which is the default here. Their code averages parameters of exactly four dimensions and goes wrong on
    three and five; here all of three or more are averaged alike, and those of fewer never (their block size for linear
    layers in language models is a setting of another copy of their code). Updating every few steps is theirs;
    counting estimates in the bias correction is ours (it makes no difference for `update_every=1`).

    Raises:
        ValueError: for anything out of range; gradients without a graph in a step that needs one.
        TypeError: for sparse or complex gradients.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, -2.0, 1.0]))
        >>> curvature = torch.tensor([1.0, 10.0, 100.0])
        >>> optimizer = AdaHessian([weight], lr=1.0, betas=(0.0, 0.0), eps=0.0)
        >>> loss = (curvature * weight**2).sum() / 2  # a diagonal Hessian is found exactly: this is Newton's method
        >>> (weight.grad,) = torch.autograd.grad(loss, [weight], create_graph=True)
        >>> optimizer.step()
        >>> weight.tolist(), weight.grad
        ([0.0, 0.0, 0.0], None)
    """

    needs_graph = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.15,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        hessian_power: float = 1.0,
        spatial_average: Average | None = "magnitude",
        update_every: int = 1,
        maximize: bool = False,
        num_probes: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        if num_probes < 1:
            raise ValueError(f"num_probes must be at least 1: got {num_probes}")
        self.num_probes = num_probes
        self.generator = generator
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "hessian_power": hessian_power,
            "spatial_average": spatial_average,
            "update_every": update_every,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what it sets for itself is checked as the constructor's arguments are."""
        _check(self.defaults | param_group)
        super().add_param_group(param_group)

    @property
    def diagonal_due(self) -> bool:
        """Whether the coming step makes a new estimate, and needs gradients with their graph, for any parameter."""
        return any(self._due(p, group) for group in self.param_groups for p in group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the gradients are dropped afterwards, so that their graph does not pile up.

        Args:
            closure: clears the gradients, computes the loss and its gradients with `create_graph=True`, returns the
                loss. Without one, the gradients that are there are used.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        refuse_gradients(type(self).__name__, [p.grad for _, params in groups for p in params])
        self._estimate([(p, group) for group, params in groups for p in params if self._due(p, group)])
        for group, params in groups:
            if params:
                self._move(params, group)
        for _, params in groups:
            for p in params:
                p.grad = None
        return loss

    def _due(self, p: Tensor, group: dict[str, Any]) -> bool:
        return bool(self.state[p].get("step", 0) % group["update_every"] == 0) if p in self.state else True

    def _estimate(self, due: list[tuple[Tensor, dict[str, Any]]]) -> None:
        """A new diagonal for these parameters, into the mean of its squares."""
        if not due:
            return
        params = [p for p, _ in due]
        grads = [p.grad for p in params]
        if not any(g.requires_grad for g in grads):
            raise ValueError("gradients must carry their graph for AdaHessian: call loss.backward(create_graph=True)")
        for probe in range(self.num_probes):
            signs = rademacher(params, self.generator)
            products = hvp(grads, params, signs, retain_graph=probe + 1 < self.num_probes)
            torch._foreach_mul_(products, signs)
            if probe == 0:
                diagonal = products
            else:
                torch._foreach_add_(diagonal, products)
        torch._foreach_div_(diagonal, self.num_probes)
        averaged = [_average(d, group["spatial_average"]) for d, (_, group) in zip(diagonal, due, strict=True)]
        for (p, group), d in zip(due, averaged, strict=True):
            state = self.state[p]
            if not state:
                state["step"] = 0
                state["estimates"] = 0
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_hessian_sq"] = torch.zeros_like(d)
            beta2 = group["betas"][1]
            state["exp_hessian_sq"].mul_(beta2).addcmul_(d, d, value=1 - beta2)
            state["estimates"] += 1

    def _move(self, params: list[Tensor], group: dict[str, Any]) -> None:
        lr, (beta1, beta2), power = float(group["lr"]), group["betas"], group["hessian_power"]
        states = [self.state[p] for p in params]
        for state in states:
            state["step"] += 1
        momenta = [state["exp_avg"] for state in states]
        grads = [p.grad.detach() for p in params]
        if group["maximize"]:
            grads = torch._foreach_neg(grads)
        torch._foreach_lerp_(momenta, grads, 1 - beta1)
        scales = torch._foreach_sqrt([state["exp_hessian_sq"] for state in states])
        torch._foreach_div_(scales, [(1 - beta2 ** state["estimates"]) ** 0.5 for state in states])
        if power != 1:
            torch._foreach_pow_(scales, power)
        torch._foreach_add_(scales, group["eps"])
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(params, momenta, scales, [-lr / (1 - beta1 ** state["step"]) for state in states])

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and the state of the generator if there is one."""
        saved = super().state_dict()
        if self.generator is not None:
            saved["generator"] = self.generator.get_state()
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            ValueError: when it holds the state of a generator and this optimizer has none.
        """
        if "generator" in state_dict:
            if self.generator is None:
                raise ValueError("generator must be given to load a state that was saved with one: got None")
            self.generator.set_state(state_dict["generator"].cpu())
        super().load_state_dict({name: part for name, part in state_dict.items() if name != "generator"})

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"num_probes": self.num_probes, "generator": self.generator}


def _average(diagonal: Tensor, how: Average | None) -> Tensor:
    if how is None or diagonal.ndim < 3:
        return diagonal
    window = tuple(range(2, diagonal.ndim))
    return (diagonal.abs() if how == "magnitude" else diagonal).mean(window, keepdim=True)


def _check(group: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        if not group[name] >= 0:
            raise ValueError(f"{name} must not be negative: got {group[name]}")
    if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"betas must be two numbers in [0, 1): got {group['betas']}")
    if not 0 <= group["hessian_power"] <= 1:
        raise ValueError(f"hessian_power must lie in [0, 1]: got {group['hessian_power']}")
    if group["spatial_average"] not in ("magnitude", "signed", None):
        raise ValueError(f"spatial_average must be 'magnitude', 'signed' or None: got {group['spatial_average']!r}")
    if group["update_every"] < 1:
        raise ValueError(f"update_every must be at least 1: got {group['update_every']}")
