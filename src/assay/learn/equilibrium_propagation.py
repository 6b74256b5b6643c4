"""Equilibrium propagation without tied feedback weights, with exact derivatives from complex nudges."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.learn.equilibrium_net import ACTIVATIONS, SLOPES, EquilibriumNet, State, jacobian_homeostasis, linear

Loss = Callable[..., Tensor]


class EquilibriumPropagation:
    r"""A learning rule: the change of the resting state under a small push of the output, times what each weight sees.

    $g = \left(\frac{ds^*}{d\beta}\right)^\top \frac{\partial F}{\partial w}$ at the resting state, where $\beta$ times
    the slope of the loss is added to the last layer's drive; and the plain gradient for the readout. Where $J =
    \partial F / \partial s$ is symmetric this is the gradient of the loss; where it is not, it errs.

    $ds^*/d\beta$ is taken by
    $\frac{1}{N |\beta|} \sum_{k=0}^{N-1} s^*(|\beta| e^{2 \pi i k / N}) e^{-2 \pi i k / N}$, whose error is of order
    $|\beta|^N$ (order $|\beta|$ for N = 1, which is a difference to the free state); N = 0 is the limit.

    Args:
        beta: $|\beta|$, positive.
        points: N, 0 or more. Real ones (0, 1, 2) work with any loss; complex ones need the loss to be
            `cross_entropy` or `mse_loss` of torch, whose slopes are holomorphic.
        free_steps: of the free phase, at least 1.
        nudge_steps: of each nudged phase, which starts at the end of the free one, at least 1.
        homeostasis: coefficient of `jacobian_homeostasis`, 0 or more.
        probes: of that, at least 1.
        generator: where those come from.

    The paper: equations 5, 9 and 12, and the authors' code.

    Differs from the paper: with N = 0 the state is taken to be at rest, so that its derivative follows the linearised
    dynamics there; theirs also follows a state that still moves.

    Raises:
        ValueError: for arguments out of range; when called, for a loss without a holomorphic slope and complex points.
        TypeError: when called, for a model that is not an `EquilibriumNet`.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> net = EquilibriumNet((4, 6, 3), num_classes=2, tracked=150, generator=generator).double()
        >>> x, y = torch.rand(5, 4, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
        >>> F.cross_entropy(net(x), y).backward()  # through 150 steps
        >>> exact = net.feed[0].weight.grad.clone()
        >>> net.zero_grad()
        >>> _ = EquilibriumPropagation(points=0, nudge_steps=150)(net, x, y, F.cross_entropy)
        >>> torch.allclose(net.feed[0].weight.grad, exact, rtol=1e-6)  # feedback is tied at angle 0
        True
    """

    def __init__(
        self,
        *,
        beta: float = 0.5,
        points: int = 2,
        free_steps: int = 150,
        nudge_steps: int = 20,
        homeostasis: float = 0.0,
        probes: int = 5,
        generator: torch.Generator | None = None,
    ) -> None:
        if not 0 < beta < math.inf:
            raise ValueError(f"beta must be positive and finite: got {beta}")
        if points < 0:
            raise ValueError(f"points must be 0 or more: got {points}")
        for name, value in (("free_steps", free_steps), ("nudge_steps", nudge_steps), ("probes", probes)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        if not 0 <= homeostasis < math.inf:
            raise ValueError(f"homeostasis must be finite and 0 or more: got {homeostasis}")
        self.beta, self.points, self.free_steps, self.nudge_steps = beta, points, free_steps, nudge_steps
        self.homeostasis, self.probes, self.generator = homeostasis, probes, generator

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """Fill the gradients; the loss at the resting state is returned."""
        if not isinstance(model, EquilibriumNet):
            raise TypeError(f"model must be an EquilibriumNet: got {type(model).__name__}")
        with torch.no_grad():
            u = model.settle(inputs, steps=self.free_steps)
            act = ACTIVATIONS[model.activation]
            s = [act(each) for each in u]
            response = self.response(model, inputs, targets, loss, u)
        value = loss(linear(model.readout, s[-1]), targets)
        driven = model.drive(s, inputs)
        moved = sum((change * drive).sum() for change, drive in zip(response, driven, strict=True))
        total = value + moved / len(inputs)
        if self.homeostasis:
            total = total + self.homeostasis * jacobian_homeostasis(
                model, len(inputs), probes=self.probes, generator=self.generator
            )
        total.backward()
        return value.detach()

    @torch.no_grad()
    def response(self, model: EquilibriumNet, x: Tensor, targets: Tensor, loss: Loss, u: State) -> State:
        r"""$ds^*/d\beta$ at the resting state u, one tensor a layer; the loss of each example counts in full."""
        act, slope = ACTIVATIONS[model.activation], SLOPES[model.activation]
        if self.points == 0:
            slopes = [slope(each) for each in u]
            push = self._slope(model, act(u[-1]), targets, loss)
            zero = torch.zeros_like(x)
            bias = model.drive([torch.zeros_like(each) for each in u], zero)
            moved = [torch.zeros_like(each) for each in u]
            for _ in range(self.nudge_steps):
                driven = model.drive([d * m for d, m in zip(slopes, moved, strict=True)], zero, push)
                moved = [each - b for each, b in zip(driven, bias, strict=True)]
            return [d * m for d, m in zip(slopes, moved, strict=True)]
        total = [torch.zeros_like(each) for each in u]
        # Of conjugate points one is enough: the other gives the conjugate.
        for k in range(self.points // 2 + 1):
            turn = 2 * k / self.points
            once = turn in (0.0, 1.0)
            point = (
                self.beta * (1.0 if turn == 0 else -1.0)
                if once
                else complex(self.beta * math.cos(math.pi * turn), self.beta * math.sin(math.pi * turn))
            )
            for each, s in zip(total, self._nudged(model, x, targets, loss, u, point), strict=True):
                each.add_(s / point if once else 2 * (s / point).real)
        if self.points == 1:
            return [(a * self.beta - act(b)) / self.beta for a, b in zip(total, u, strict=True)]
        return [each / self.points for each in total]

    def _nudged(self, model: EquilibriumNet, x: Tensor, targets: Tensor, loss: Loss, u: State, point: complex) -> State:
        if isinstance(point, complex):
            kind = torch.complex128 if x.dtype == torch.float64 else torch.complex64
            x, u = x.to(kind), [each.to(kind) for each in u]
        end = model.settle(
            x, steps=self.nudge_steps, u0=u, nudge=lambda s: point * self._slope(model, s, targets, loss)
        )
        return [ACTIVATIONS[model.activation](each) for each in end]

    def _slope(self, model: EquilibriumNet, s: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """dL/ds of the last layer, for each example on its own."""
        if s.is_complex():
            out = linear(model.readout, s)
            if loss is F.cross_entropy:
                shift = out.real.amax(1, keepdim=True)
                weights = (out - shift).exp()
                wrong = weights / weights.sum(1, keepdim=True) - F.one_hot(targets, out.shape[1])
            elif loss is F.mse_loss:
                wrong = 2 * (out - targets) / out.shape[1]
            else:
                raise ValueError("loss must be cross_entropy or mse_loss of torch.nn.functional for points above 2")
            return wrong @ model.readout.weight.to(wrong.dtype)
        with torch.enable_grad():
            start = s.detach().requires_grad_()
            value = loss(linear(model.readout, start), targets)
            return torch.autograd.grad(value, start)[0] * len(s)
