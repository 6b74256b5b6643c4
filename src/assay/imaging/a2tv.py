"""Adaptive anisotropic total variation: its value, proximal map and flow, and how nearly an image keeps its shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from assay.imaging.adaptive_tensor import MatrixField
from assay.imaging.cell_gradient import CellGradient
from assay.imaging.cell_prox import differentiable, inner, project
from assay.imaging.protocols import Regularizer, Solution


class A2TV:
    r"""$J(u) = \sum_{\text{cells}} |K u|$, $K u = (A \nabla u, w\,h)$: a gradient measured through a matrix field.

    On the cell between four pixels $\nabla u$ is the mean of both differences along each axis, and
    $h = u_{00} - u_{01} - u_{10} + u_{11}$, which a corner gradient does not see; $w$ is `cross` times the smaller
    eigenvalue of A. J is convex and one-homogeneous, and 0 on constants only. With A = I it is an isotropic total
    variation.

    Images are (h, w), or (..., c, h, w) with a field for all (h - 1, w - 1), or one an image (..., h - 1, w - 1) for
    all of its channels. Each channel is a problem of its own, unless they are coupled. It is computed in the dtype and
    on the device of the image.

    Args:
        field: A, as `AdaptiveTensor` makes it of a guide.
        cross: how much of h counts, at least 0. 0 leaves a chessboard unseen; 0.5 removes noise better; 0.1 depends
            less on the direction of an edge (a disc of radius 16 is an eigenfunction of A = I to one degree, with 0.5
            to four).
        coupled: whether the channels of an image share one length in each cell, as in `total_variation`.

    What it is for: denoising, `A2TV(AdaptiveTensor(0.3, noise / 3, 1.2, 1.5)(noisy)).prox(noisy, noise)`, noise being
    its standard deviation; one image steering another, `A2TV(AdaptiveTensor(0.3)(colours)).prox(depth, t)`; and shapes
    by scale, `NonlinearSpectrum.from_snapshots(J.flow(f, times), times).filter(gain)`.

    Biton and Gilboa, "Adaptive Anisotropic Total Variation", J. Math. Imaging Vis. 64, 2022.

    Differs from the paper: the discretisation is our own choice. With forward differences, the gradient of an oblique
    edge is not across the edge, pays the full weight along it, and the edge blurs.

    Raises:
        ValueError: for a `cross` below 0; when called, for an image of another size than the field, and so on.

    Example:
        >>> from assay.imaging import AdaptiveTensor
        >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(2, 4)
        >>> J = A2TV(AdaptiveTensor(a=0.25, sigma=0.0, rho=0.0)(step))
        >>> J.value(step)  # one cell sees the step, and gives it a weight of 1 / 4
        tensor(0.2500)
        >>> J.prox(step, 0.8, tol=1e-6).x[0].round(decimals=3)  # 0.8 / 4 is spread over four pixels on each side
        tensor([0.0500, 0.0500, 0.9500, 0.9500])
    """

    def __init__(self, field: MatrixField, *, cross: float = 0.5, coupled: bool = False) -> None:
        if not 0 <= cross < math.inf:
            raise ValueError(f"cross must be finite and at least 0: got {cross}")
        self.field, self.cross, self.coupled = field, cross, coupled
        self._over = (-3, -2, -1) if coupled else (-2, -1)

    def gradient(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """K u."""
        return self._operator(u, "u").gradient(u)

    def adjoint(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""$K^\top z$. Where $|z| \le 1$ and z = K u / |K u|, it is in the subdifferential of J at u."""
        cells = (3, *self.field.shape[-2:])
        if z.ndim < 3 or z.shape[-3:] != cells:
            raise ValueError(f"z must have shape (..., {cells}): got {tuple(z.shape)}")
        return CellGradient(self.field, z[..., 0, :, :], cross=self.cross).adjoint(z)

    def value(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """J of each image, or of all its channels where they are coupled; it differentiates, with 0 where K u = 0."""
        k = self.gradient(u)
        square = inner(k, k, self.coupled)
        length = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt() * (square > 0)
        return length.squeeze(-3).sum(self._over)

    def rayleigh(self, f: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""$\lambda = J(f) / |f - \bar f|^2$, the eigenvalue where f is an eigenfunction.

        Raises:
            ValueError: for a constant image.
        """
        energy = self._energy(f)
        if not bool((energy > 0).all()):
            raise ValueError("f must not be constant")
        return self.value(f) / energy

    def prox(
        self,
        f: Tensor,
        t: float | Float[Tensor, "..."],
        *,
        tol: float = 1e-4,
        max_iterations: int = 2000,
        z0: Tensor | None = None,
        smoothing: float = 1e-3,
    ) -> Solution:
        r"""$\arg\min_u\; t J(u) + \tfrac12 |u - f|^2$, by accelerated projection of the dual, with its duality gap.

        $u = f - t K^\top z$ with $|z| \le 1$ in each cell: FISTA with restarts, in steps of $1 / (t |K|^2)$. The gap
        bounds $|u - u^*|^2 / 2$ whatever the solver did; it is divided by $|f - \bar f|^2 / 2$.

        The derivative in f and t is that of the implicit function at the solution: conjugate gradients solve
        $(I + t H)\, v = \partial L / \partial u$ with $H = K^\top \frac{I - z z^\top}{\max(|K u|, \delta)} K$; v is the
        derivative in f and $-\langle v, K^\top z \rangle$ that in t. $\delta$ stands for the plateaus, where K u is 0
        and stays 0: v is exact as $\delta$ and the gap go to 0, where the solution has a derivative. There is none in
        the field, and none of derivatives.

        Args:
            f: images, finite.
            t: at least 0, one for all or one a problem; 0 returns f.
            tol: relative gap at which it stops; float32 reaches about 1e-5.
            max_iterations: when it stops at the latest; the gap tells.
            z0: `dual` of an earlier solution, the warm start.
            smoothing: $\delta$ as a share of the standard deviation of f; only derivatives depend on it.

        Raises:
            ValueError: for arguments out of range, values that are not finite, shapes that do not fit.
            TypeError: for an f that is not floating point.
            ArithmeticError: in the backward pass, where conjugate gradients do not converge.
        """
        operator, energy = self._operator(f, "f"), self._energy(f)
        time = torch.as_tensor(t, dtype=f.dtype, device=f.device)
        if not bool(((time >= 0) & (time < math.inf)).all()) or time.shape not in ((), energy.shape):
            raise ValueError(f"t must be finite and at least 0, one or one a problem {tuple(energy.shape)}: got {t}")
        if not 0 < tol < math.inf or not 0 < smoothing < math.inf:
            raise ValueError(f"tol and smoothing must be positive and finite: got {tol} and {smoothing}")
        if max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1: got {max_iterations}")
        shape = (*f.shape[:-2], 3, *self.field.shape[-2:])
        if z0 is not None and z0.shape != shape:
            raise ValueError(f"z0 must have shape {shape}: got {tuple(z0.shape)}")
        with torch.no_grad():
            found = project(
                operator, f.detach(), time.detach(), energy / 2,
                coupled=self.coupled, tol=tol, max_iterations=max_iterations, start=z0,
            )  # fmt: skip
        if not (torch.is_grad_enabled() and (f.requires_grad or time.requires_grad)):
            return found
        spread = (energy * (energy.numel() / f.numel())).sqrt()
        floor = smoothing * torch.where(spread > 0, spread, 1)
        return differentiable(operator, f, time, found, floor, self.coupled)

    def flow(
        self,
        f: Float[Tensor, "..."],
        times: Float[Tensor, "..."],
        *,
        refresh: Callable[[Tensor], MatrixField] | None = None,
        tol: float = 1e-5,
        max_iterations: int = 2000,
    ) -> Float[Tensor, "m ... h w"]:
        r"""$u_t \in -\partial J(u)$ from f on, by implicit Euler: $u_{j+1} = \mathrm{prox}(u_j, t_{j+1} - t_j)$.

        Args:
            f: images at time 0.
            times: increasing, at least 0; a first time of 0 gives f back.
            refresh: makes the field of each step from the state before it; None keeps the field, as in the theory.
            tol: gap of each step, relative to $|f - \bar f|^2 / 2$ of the images at time 0.
            max_iterations: of each step.

        Raises:
            ValueError: for times that do not increase or lie below 0, a step whose gap stays above `tol`, what `prox`
                refuses.
        """
        if times.ndim != 1 or not bool((times.diff() > 0).all()) or not bool((times >= 0).all()):
            raise ValueError(f"times must be a line of increasing numbers, at least 0: got {times}")
        operator, energy = self._operator(f, "f"), self._energy(f)
        state, now, dual, out = f.detach(), 0.0, None, []
        for time in times.tolist():
            if refresh is not None and time > now:
                operator = A2TV(refresh(state), cross=self.cross)._operator(state, "refresh(u)")
            with torch.no_grad():
                found = project(
                    operator, state, state.new_tensor(time - now), energy / 2,
                    coupled=self.coupled, tol=tol, max_iterations=max_iterations, start=dual,
                )  # fmt: skip
            if found.gap > tol:
                raise ValueError(f"max_iterations = {max_iterations} leaves a gap of {found.gap:.1e} at t = {time}")
            state, now, dual = found.x, time, found.dual
            out.append(state)
        return torch.stack(out) if out else f.new_zeros(0, *f.shape)

    def eigen_angle(
        self, f: Float[Tensor, "..."], *, decay: float = 0.5, tol: float = 1e-5, max_iterations: int = 20_000
    ) -> Float[Tensor, "..."]:
        r"""Degrees between f and its prox at $t = \mathrm{decay} / \lambda$, means removed; 0 for an eigenfunction.

        An eigenfunction, $\lambda f \in \partial J(f)$, is multiplied by 1 - decay and keeps its shape. The gap leaves
        an uncertainty of about $\sqrt{\mathrm{tol}} / (1 - \mathrm{decay})$ radians.

        Raises:
            ValueError: for a decay outside (0, 1), a constant image, a gap that stays above `tol`.
        """
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie in (0, 1): got {decay}")
        with torch.no_grad():
            found = self.prox(f, decay / self.rayleigh(f), tol=tol, max_iterations=max_iterations)
        if found.gap > tol:
            raise ValueError(f"max_iterations = {max_iterations} leaves a gap of {found.gap:.1e}: tol {tol}")
        return angle_between(found.x, f.detach(), coupled=self.coupled)

    def eigenfunction(
        self,
        f: Float[Tensor, "..."],
        *,
        decay: float = 0.5,
        within: float = 0.5,
        rounds: int = 100,
        tol: float = 1e-5,
        max_iterations: int = 20_000,
    ) -> Float[Tensor, "..."]:
        r"""An eigenfunction near f, of its norm and mean 0, by the power method of the proximal map.

        $u \leftarrow \mathrm{prox}(u, \mathrm{decay} / \lambda(u))$, scaled back to the norm of f each time;
        $\lambda(u)$ does not grow. With a strongly anisotropic field made of a cross of four lobes the limit
        is not convex.

        Args:
            f: images to start from.
            decay: how much is lost in a round, in (0, 1).
            within: eigen-angle in degrees at which it ends.
            rounds: at most.
            tol: gap of each proximal map; the angle cannot be told better than `eigen_angle` says.
            max_iterations: of each.

        Bungert, Hait-Fraenkel, Papadakis and Gilboa, "Nonlinear power method for computing eigenvectors of proximal
        operators and neural networks", 2021, Algorithm 1, with a step that follows the Rayleigh quotient.

        Raises:
            ValueError: for a decay outside (0, 1), a constant image, a gap that stays above `tol`.
            ArithmeticError: when the rounds do not bring the angle below `within`.
        """
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie in (0, 1): got {decay}")
        norm = self._energy(f).sqrt()
        u, dual = f.detach() - f.detach().mean((-2, -1), keepdim=True), None
        for _ in range(rounds):
            found = self.prox(u, decay / self.rayleigh(u), tol=tol, max_iterations=max_iterations, z0=dual)
            if found.gap > tol:
                raise ValueError(f"max_iterations = {max_iterations} leaves a gap of {found.gap:.1e}: tol {tol}")
            if bool((angle_between(found.x, u, coupled=self.coupled) <= within).all()):
                return u
            growth = norm / self._energy(found.x).sqrt()
            u, dual = found.x * growth.reshape(*growth.shape, *[1] * len(self._over)), found.dual
        raise ArithmeticError(f"rounds = {rounds} do not bring the eigen-angle below {within} degrees")

    def regularizer(self, *, tol: float = 1e-4, max_iterations: int = 2000) -> Regularizer:
        """The same functional as solvers take it: a `Regularizer`, whose `prox` is the image alone."""
        return _AsRegularizer(self, tol, max_iterations)

    def _operator(self, u: Tensor, name: str) -> CellGradient:
        if not u.is_floating_point():
            raise TypeError(f"{name} must be floating point: got {u.dtype}")
        size = tuple(n + 1 for n in self.field.shape[-2:])
        if u.ndim < 2 + self.coupled or tuple(u.shape[-2:]) != size:
            axes = "..., c, " if self.coupled else "..., "
            raise ValueError(
                f"{name} must have shape ({axes}{size[0]}, {size[1]}) for this field: got {tuple(u.shape)}"
            )
        if not bool(torch.isfinite(u).all()):
            raise ValueError(f"{name} must be finite: got NaN or infinity")
        return CellGradient(self.field, u, cross=self.cross)

    def _energy(self, f: Tensor) -> Tensor:
        f = f.detach()
        return (f - f.mean((-2, -1), keepdim=True)).square().sum(self._over)


class _AsRegularizer(NamedTuple):
    functional: A2TV
    tol: float
    max_iterations: int

    def value(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.functional.value(x)

    def prox(self, x: Float[Tensor, "..."], t: float) -> Float[Tensor, "..."]:
        return self.functional.prox(x, t, tol=self.tol, max_iterations=self.max_iterations).x


def angle_between(u: Float[Tensor, "..."], f: Float[Tensor, "..."], *, coupled: bool = False) -> Tensor:
    """Degrees between images without their means, of each pair, or over all channels where they are coupled."""
    over = (-3, -2, -1) if coupled else (-2, -1)
    u, f = u - u.mean((-2, -1), keepdim=True), f - f.mean((-2, -1), keepdim=True)
    u = u / u.square().sum(over, keepdim=True).sqrt()
    f = f / f.square().sum(over, keepdim=True).sqrt()
    # accurate for small angles, where the cosine is not
    return 2 * torch.rad2deg(torch.atan2((u - f).norm(dim=over), (u + f).norm(dim=over)))
