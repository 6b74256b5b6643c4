"""The total-variation flow of an image, step by step."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from assay.imaging.dual import rof


def tv_flow_2d(
    image: Float[Tensor, "... h w"],
    times: Float[Tensor, " m"],
    *,
    isotropic: bool = True,
    tol: float = 1e-5,
    max_iterations: int = 2000,
) -> Float[Tensor, "m ... h w"]:
    r"""Implicit Euler: $u_{j+1} = \arg\min_u\; (t_{j+1} - t_j) J(u) + \tfrac12 |u - u_j|^2$, each step certified.

    In two dimensions plateaus may split and there is no list of events to jump along. `NonlinearSpectrum` and
    `linear_decay_modes` take the snapshots as they are.

    Args:
        image: (..., h, w), finite.
        times: (m,), increasing, at least 0; a first time of 0 gives the image back.
        isotropic: as in `total_variation`.
        tol: relative duality gap of each step, as in `rof`.
        max_iterations: of each step.

    Cohen, Berkov and Gilboa, 2021 (arXiv:2105.10044), the two-dimensional case.

    Differs from the paper: the authors iterate Chambolle's projection until nothing moves by 1e-8; here it is
    accelerated projection until the gap is small, started from the dual of the step before.

    Raises:
        ValueError: for times that do not increase or lie below 0, a step whose gap stays above `tol`, what `rof`
            refuses.

    Example:
        >>> ramp = torch.tensor([0.0, 0.0, 3.0, 0.0], dtype=torch.float64).expand(3, 4)
        >>> tv_flow_2d(ramp, torch.tensor([1.2]), tol=1e-10)[0, 1].round(decimals=3)  # as the one-dimensional flow
        tensor([0.6000, 0.6000, 0.9000, 0.9000], dtype=torch.float64)
    """
    if times.ndim != 1 or not bool((times.diff() > 0).all()) or not bool((times >= 0).all()):
        raise ValueError(f"times must be a line of increasing numbers, at least 0: got {times}")
    state, now, dual, out = image.detach(), 0.0, None, []
    for time in times.tolist():
        found = rof(state, time - now, isotropic=isotropic, tol=tol, max_iterations=max_iterations, start=dual)
        if found.gap > tol:
            raise ValueError(
                f"max_iterations = {max_iterations} leaves a gap of {found.gap:.1e} at t = {time}: tol {tol}"
            )
        state, now, dual = found.x, time, found.dual if time > 0 else None
        out.append(state)
    return torch.stack(out) if out else image.new_zeros(0, *image.shape)
