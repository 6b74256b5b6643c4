"""The proximal map of total variation in one dimension, exact and differentiable, for batches of signals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assay.imaging.plateaus import plateaus_at
from assay.imaging.tv_flow import checked


def tv_prox(signal: Tensor, t: float | Float[Tensor, ""], *, weights: Tensor | None = None) -> Float[Tensor, "... n"]:
    r"""$\arg\min_u\; t \sum_i |u_{i+1} - u_i| + \tfrac12 \sum_i m_i (u_i - f_i)^2$, exactly, in O(n).

    The taut string: u is the slope of the shortest line within t of the running sums of f, pinned at both ends. Its
    derivative averages over plateaus; in t it is the speed of `tv_flow`, whose state at t this is.

    Args:
        signal: f, (..., n), finite; computed in float64, returned in its own dtype.
        t: at least 0; a tensor may require a gradient.
        weights: m, (n,), positive; None is ones.

    Davies and Kovac, "Local extremes, runs, strings and multiresolution", 2001, section 2; for many times of one signal
    `tv_flow` is cheaper.

    Raises:
        ValueError: for a t below 0, values that are not finite, weights of another shape or not positive.
        TypeError: for a signal that is not floating point.

    Example:
        >>> f = torch.tensor([0.0, 0.0, 3.0, 0.0], requires_grad=True)
        >>> u = tv_prox(f, 1.2)
        >>> u  # (0, 0) + 1.2 / 2 and (3, 0) - 1.2 / 2
        tensor([0.6000, 0.6000, 0.9000, 0.9000], grad_fn=<_ProxBackward>)
        >>> torch.autograd.grad(u[3], f)[0]
        tensor([0.0000, 0.0000, 0.5000, 0.5000])
    """
    time = torch.as_tensor(t, dtype=torch.float64)
    if not 0 <= time.item() < math.inf:
        raise ValueError(f"t must be finite and at least 0: got {time.item()}")
    result: Tensor = _Prox.apply(signal, time, weights)
    return result


class _Prox(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, t: Tensor, weights: Tensor | None) -> Tensor:
        rows = signal.reshape(-1, signal.shape[-1]) if signal.ndim else signal.reshape(0)
        ctx.runs, ctx.like, out = [], t, []
        for row in rows:
            f, m = checked(row, weights)
            if float(t) == 0:
                starts, mass, signs = np.arange(len(f)), m, np.concatenate([[0.0], np.sign(np.diff(f)), [0.0]])
            else:
                starts, mass, signs = plateaus_at(f, m, float(t))
            lengths = np.diff(np.append(starts, len(f)))
            speed = np.diff(signs) / mass
            values = np.add.reduceat(f * m, starts) / mass + float(t) * speed
            ctx.runs.append((starts, lengths, mass, speed, m))
            out.append(np.repeat(values, lengths))
        return torch.from_numpy(np.stack(out)).to(signal).reshape(signal.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, along = grad.reshape(-1, grad.shape[-1]).detach().cpu().double().numpy(), 0.0
        out = []
        for row, (starts, lengths, mass, speed, m) in zip(rows, ctx.runs, strict=True):
            sums = np.add.reduceat(row, starts)
            out.append(m * np.repeat(sums / mass, lengths))
            along += float(sums @ speed)
        return torch.from_numpy(np.stack(out)).to(grad).reshape(grad.shape), torch.full_like(ctx.like, along), None
