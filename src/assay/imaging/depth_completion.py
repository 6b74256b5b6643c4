"""Dense depth from sparse samples by classical interpolation, and how wrong a depth map is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

METHODS = ("nearest", "linear")
TUKEY = 10.0


def complete_depth(mask: Tensor, values: Float[Tensor, "h w"], *, method: str = "linear") -> Float[Tensor, "h w"]:
    """Depth at all pixels from depth at some.

    Args:
        mask: (h, w), True where there is a sample; at least one.
        values: depth; looked at where `mask` is True alone.
        method: `"nearest"` sample, or `"linear"` in the triangles of a Delaunay triangulation of the samples, with the
            nearest outside of them.

    Raises:
        ValueError: for shapes that differ, no samples, an unknown method.

    Example:
        >>> mask = torch.zeros(1, 5, dtype=torch.bool)
        >>> mask[0, [0, 3]] = True
        >>> complete_depth(mask, torch.tensor([[1.0, 0.0, 0.0, 7.0, 0.0]]), method="nearest").tolist()
        [[1.0, 1.0, 7.0, 7.0, 7.0]]
    """
    from scipy.interpolate import LinearNDInterpolator
    from scipy.spatial import QhullError, cKDTree

    if mask.shape != values.shape or mask.ndim != 2:
        raise ValueError(f"mask and values must be (h, w) both: got {tuple(mask.shape)} and {tuple(values.shape)}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}: got {method!r}")
    if not mask.any():
        raise ValueError("mask must have a sample: got none")
    at = mask.bool().nonzero().numpy()
    known = values[mask.bool()].detach().cpu().double().numpy()
    everywhere = torch.ones_like(mask, dtype=torch.bool).nonzero().numpy()
    filled = known[cKDTree(at).query(everywhere)[1]]
    if method == "linear" and len(at) > 2:
        try:
            inside = LinearNDInterpolator(at, known)(everywhere)
        except QhullError:  # all samples on a line
            inside = filled
        outside = inside != inside
        inside[outside] = filled[outside]
        filled = inside
    return torch.from_numpy(filled).view(mask.shape).to(values)


def depth_errors(
    predicted: Float[Tensor, "h w"], truth: Float[Tensor, "h w"], *, valid: Tensor | None = None, peak: float = 100.0
) -> dict[str, float]:
    r"""`rmse`, `mae`, `rel` $\overline{|e| / z}$, `psnr`, and `tukey`: $1 - (1 - (e / 10)^2)^3$, 1 from 10 on.

    Args:
        predicted: depth in meters.
        truth: z; positive where it is valid.
        valid: (h, w), pixels that count; None is all.
        peak: of the PSNR, in meters.

    Tcenov and Gilboa, 2022 (arXiv:2205.10202); the formulas are those of its code.

    Raises:
        ValueError: for shapes that differ, a truth that is not positive, nothing valid.

    Example:
        >>> found = depth_errors(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 4.0]]))
        >>> {name: round(found[name], 4) for name in ("rmse", "mae", "rel", "tukey")}
        {'rmse': 0.7071, 'mae': 0.5, 'rel': 0.25, 'tukey': 0.0149}
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted must have the shape of truth, {tuple(truth.shape)}: got {tuple(predicted.shape)}")
    counted = torch.ones_like(truth, dtype=torch.bool) if valid is None else valid.bool()
    if not counted.any():
        raise ValueError("valid must have a pixel: got none")
    z, e = truth[counted], (predicted - truth)[counted]
    if not (z > 0).all():
        raise ValueError(f"truth must be positive where it is valid: got {z.min().item()}")
    mse = e.square().mean()
    return {
        "rmse": mse.sqrt().item(),
        "mae": e.abs().mean().item(),
        "rel": (e.abs() / z).mean().item(),
        "psnr": (10 * torch.log10(peak**2 / mse)).item(),
        "tukey": (1 - (1 - (e / TUKEY).square().clamp_max(1)) ** 3).mean().item(),
    }
