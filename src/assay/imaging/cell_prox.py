"""The proximal map of a one-homogeneous functional of cell gradients: its dual by FISTA, and its derivative."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from assay.imaging.cell_gradient import CellGradient
from assay.imaging.protocols import Solution

CHECK_EVERY = 10


def project(
    operator: CellGradient,
    f: Tensor,
    t: Tensor,
    scale: Tensor,
    *,
    coupled: bool,
    tol: float,
    max_iterations: int,
    start: Tensor | None,
) -> Solution:
    r"""$\min_{|z| \le 1} |f / t - K^\top z|^2$ by FISTA with restarts, until the duality gap is below `tol * scale`.

    $z \leftarrow P(y + K (f / t - K^\top y) / |K|^2)$, $u = f - t K^\top z$. The gap $t \sum (|K u| - \langle K u, z
    \rangle)$ is a sum of terms that are not negative. Beck and Teboulle, 2009; restarts as in `rof`.

    Args:
        operator: K.
        f: images.
        t: one number for all, or one a problem.
        scale: what the gap of each problem is divided by.
        coupled: whether the axis before space shares lengths.
        tol: largest gap of any problem.
        max_iterations: at the latest.
        start: z to begin with, or zeros.
    """
    over = (-3, -2, -1) if coupled else (-2, -1)
    z = f.new_zeros(*f.shape[:-2], 3, *operator.cells) if start is None else start.detach().to(f).clone()
    weight = t.reshape(*t.shape, *[1] * len(over)) if t.ndim else t
    if not bool((weight > 0).any()) or not bool((scale > 0).any()):
        return Solution(f.clone(), z.zero_(), 0.0, 0)
    scale = scale.clamp_min(torch.finfo(f.dtype).tiny)
    goal = f / torch.where(weight > 0, weight, 1)
    u, y, work = torch.empty_like(f), z.clone(), torch.empty_like(z)
    scratch = (torch.empty_like(z.select(-3, 0)), torch.empty_like(z.select(-3, 0)))

    def primal(field: Tensor) -> Tensor:
        operator.subtract_adjoint(field, u.copy_(goal), scratch)
        return u

    momentum, gap, best, iteration = 1.0, math.inf, math.inf, 0
    for iteration in range(1, max_iterations + 1):
        operator.add_gradient(primal(y), 1 / operator.bound, y, scratch)
        into_ball(y, work, coupled)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        torch.lerp(z, y, 1 + (momentum - 1) / following, out=z)
        z, y, momentum = y, z, following
        if iteration % CHECK_EVERY == 0 or iteration == max_iterations:
            operator.add_gradient(primal(z), 1.0, work.zero_(), scratch)
            excess = lengths(work, coupled).squeeze(-3) - inner(work, z, coupled).squeeze(-3)
            gaps = (weight**2 * excess.clamp_min_(0)).sum(over)
            gap = float((gaps / scale).max())
            if gap <= tol:
                break
            energy = float(((weight * u).double().square().sum(over) / scale).sum())
            if energy > best:
                momentum = 1.0
                y.copy_(z)
            best = energy
    return Solution(torch.where(weight > 0, weight * primal(z), f), z, gap, iteration)


def inner(a: Tensor, b: Tensor, coupled: bool) -> Tensor:
    """The inner product in each cell, its axes kept."""
    product = (a * b).sum(-3, keepdim=True)
    return product.sum(-4, keepdim=True) if coupled else product


def lengths(z: Tensor, coupled: bool) -> Tensor:
    """The length in each cell, its axes kept."""
    return inner(z, z, coupled).sqrt_()


def into_ball(z: Tensor, work: Tensor, coupled: bool) -> None:
    """z / max(1, |z|) in each cell, in place."""
    if coupled:
        z.mul_(inner(z, z, True).clamp_min_(1).rsqrt_())
        return
    x, y, mixed = z.unbind(-3)
    square = work.select(-3, 0)
    torch.mul(x, x, out=square).addcmul_(y, y).addcmul_(mixed, mixed)
    z.mul_(square.clamp_min_(1).rsqrt_().unsqueeze(-3))


def differentiable(
    operator: CellGradient, f: Tensor, t: Tensor, found: Solution, floor: Tensor, coupled: bool
) -> Solution:
    """The same solution, with the derivative that `A2TV.prox` describes."""
    x: Tensor = _Implicit.apply(f, t, found.x, found.dual, operator, floor, coupled)  # type: ignore[no-untyped-call]
    return Solution(x, found.dual, found.gap, found.iterations)


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, f: Tensor, t: Tensor, x: Tensor, dual: Tensor, operator: CellGradient, floor: Tensor, coupled: bool
    ) -> Tensor:
        ctx.save_for_backward(t, x, dual, floor)
        ctx.operator, ctx.coupled = operator, coupled
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        t, x, z, floor = (part.double() for part in ctx.saved_tensors)
        coupled = ctx.coupled
        operator = CellGradient(ctx.operator.field, x, cross=ctx.operator.cross)
        over = (-3, -2, -1) if coupled else (-2, -1)
        weight = t.reshape(*t.shape, *[1] * len(over)) if t.ndim else t
        floor = floor.reshape(*floor.shape, *[1] * (len(over) + 1))
        stiffness = 1 / torch.maximum(lengths(operator.gradient(x), coupled), floor)

        def system(v: Tensor) -> Tensor:
            k = operator.gradient(v)
            moved: Tensor = v + weight * operator.adjoint(stiffness * (k - z * inner(z, k, coupled)))
            return moved

        v = conjugate_gradients(system, grad.double(), over)
        along = -(v * operator.adjoint(z)).sum(over)
        in_t = (along if t.ndim else along.sum()).to(ctx.saved_tensors[0])
        return v.to(grad), in_t, None, None, None, None, None


def conjugate_gradients(system: Any, right: Tensor, over: tuple[int, ...], tol: float = 1e-8) -> Tensor:
    """The solution of a symmetric positive definite system, each problem of the batch with steps of its own.

    Raises:
        ArithmeticError: when 20,000 iterations do not bring the residual below `tol` of the right side.
    """
    x, residual = torch.zeros_like(right), right.clone()
    direction, square = residual.clone(), residual.square().sum(over, keepdim=True)
    enough = tol**2 * square
    for _ in range(20_000):
        if bool((square <= enough).all()):
            return x
        moved = system(direction)
        curvature = (direction * moved).sum(over, keepdim=True)
        alpha = square / curvature.clamp_min(torch.finfo(right.dtype).tiny)
        x += alpha * direction
        residual -= alpha * moved
        before, square = square, residual.square().sum(over, keepdim=True)
        direction = residual + square / before.clamp_min(torch.finfo(right.dtype).tiny) * direction
    raise ArithmeticError("the derivative of prox was not found in 20,000 iterations: raise smoothing")
