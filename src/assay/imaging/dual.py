"""The Rudin-Osher-Fatemi problem by accelerated projection of its dual, until the duality gap is small."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.imaging.ops import divergence, total_variation
from assay.imaging.protocols import Solution

CHECK_EVERY = 10


def rof(
    f: Tensor,
    t: float,
    *,
    dims: int = 2,
    isotropic: bool = True,
    coupled: bool = False,
    tol: float = 1e-4,
    max_iterations: int = 2000,
    start: Tensor | None = None,
) -> Solution:
    r"""$\arg\min_u\; t J(u) + \tfrac12 |u - f|^2$, the proximal map of the total variation J.

    The dual is $\min_{|z| \le 1} \tfrac12 |f + t\, \mathrm{div}\, z|^2$, and $u = f + t\, \mathrm{div}\, z$. It is
    solved by FISTA, $z \leftarrow P(y + \tfrac{1}{4 d t} \nabla(f + t\, \mathrm{div}\, y))$, whose momentum starts anew
    when the dual has grown between two looks at the gap. The gap $t (J(u) - \langle \nabla u, z \rangle)$ bounds
    $|u - u^*|^2 / 2$ whatever the solver did; it is divided by $\tfrac12 |f - \bar f|^2$.

    Args:
        f: (..., n) or (..., h, w), with any axes before, each entry of which is a problem of its own.
        t: weight of the total variation, at least 0; 0 returns f.
        dims: d, how many trailing axes are space, 1 or 2.
        isotropic: as in `total_variation`.
        coupled: as in `total_variation`; the axis before those of space is then channels.
        tol: relative gap at which every problem counts as solved, positive.
        max_iterations: when to stop at the latest, at least 1; the gap tells.
        start: `dual` of an earlier `Solution` for a similar f, the warm start.

    Returns:
        A `Solution`, of the dtype of f; `dual` is z, (..., d, *space).

    Beck and Teboulle, "Fast gradient-based algorithms for constrained total variation image denoising and deblurring
    problems", 2009, Algorithm FGP; the restart is the function scheme of O'Donoghue and Candes, 2015, section 3.2.

    Raises:
        ValueError: for arguments out of range, values that are not finite, a `start` of another shape.
        TypeError: for an f that is not floating point.

    Example:
        >>> rof(torch.tensor([0.0, 0.0, 3.0, 3.0], dtype=torch.float64), 1.0, dims=1, tol=1e-12).x  # 1 spread over two
        tensor([0.5000, 0.5000, 2.5000, 2.5000], dtype=torch.float64)
    """
    if not f.is_floating_point():
        raise TypeError(f"f must be floating point: got {f.dtype}")
    if not 0 <= t < math.inf:
        raise ValueError(f"t must be finite and at least 0: got {t}")
    if not 0 < tol < math.inf:
        raise ValueError(f"tol must be positive and finite: got {tol}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1: got {max_iterations}")
    if not torch.isfinite(f).all():
        raise ValueError("f must be finite: got NaN or infinity")
    total_variation(f.new_zeros((1,) * f.ndim), dims=dims, coupled=coupled)  # refuses wrong axes
    shape = (*f.shape[:-dims], dims, *f.shape[-dims:])
    if start is not None and start.shape != shape:
        raise ValueError(f"start must have shape {shape}: got {tuple(start.shape)}")
    with torch.no_grad():
        z = f.new_zeros(shape) if start is None else start.detach().to(f).clone()
        return _project(f.detach(), float(t), z, dims, isotropic, coupled, tol, max_iterations)


def _project(
    f: Tensor, t: float, z: Tensor, dims: int, isotropic: bool, coupled: bool, tol: float, max_iterations: int
) -> Solution:
    space = tuple(range(-dims, 0))
    over = (-dims - 1, *space) if coupled else space
    scale = (f - f.mean(space, keepdim=True)).square().sum(over) / 2
    if t == 0 or not bool((scale > 0).any()):
        return Solution(f.clone(), z.zero_(), 0.0, 0)
    scale.clamp_min_(torch.finfo(f.dtype).tiny)
    components = range(-dims, 0)
    axes = ([-dims - 1] if isotropic and dims > 1 else []) + ([-dims - 2] if coupled else [])
    plain = axes == [-dims - 1]
    step = 1 / (4 * dims * t)
    u, y, before = torch.empty_like(f), z.clone(), torch.empty_like(z)
    length = torch.empty_like(f).unsqueeze(-dims - 1) if plain else None

    def primal(field: Tensor) -> Tensor:
        """u = f + t div z, in place."""
        u.copy_(f)
        for axis in components:
            inner = field.select(-dims - 1, axis).narrow(axis, 0, f.shape[axis] - 1)
            u.narrow(axis, 0, f.shape[axis] - 1).add_(inner, alpha=t)
            u.narrow(axis, 1, f.shape[axis] - 1).sub_(inner, alpha=t)
        return u

    momentum, gap, best, iteration = 1.0, math.inf, math.inf, 0
    for iteration in range(1, max_iterations + 1):
        primal(y)
        before, z = z, before
        z.copy_(y)
        for axis in components:
            inner = z.select(-dims - 1, axis).narrow(axis, 0, f.shape[axis] - 1)
            inner.add_(u.narrow(axis, 1, f.shape[axis] - 1), alpha=step)
            inner.sub_(u.narrow(axis, 0, f.shape[axis] - 1), alpha=step)
        if length is not None:
            torch.mul(z.narrow(-dims - 1, 0, 1), z.narrow(-dims - 1, 0, 1), out=length)
            length.addcmul_(z.narrow(-dims - 1, 1, 1), z.narrow(-dims - 1, 1, 1))
            z.mul_(length.clamp_min_(1).rsqrt_())
        elif axes:
            z.mul_(z.square().sum(axes, keepdim=True).clamp_min_(1).rsqrt_())
        else:
            z.clamp_(-1, 1)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        torch.lerp(before, z, 1 + (momentum - 1) / following, out=y)
        momentum = following
        if iteration % CHECK_EVERY == 0 or iteration == max_iterations:
            value = total_variation(primal(z), dims=dims, isotropic=isotropic, coupled=coupled)
            gaps = t * (value + (u * divergence(z, dims=dims)).sum(over))
            gap = float((gaps / scale).max().clamp_min(0))
            energy = float(u.double().square().sum())
            if gap <= tol:
                break
            if energy > best:
                momentum = 1.0
                y.copy_(z)
            best = energy
    return Solution(primal(z), z, gap, iteration)
