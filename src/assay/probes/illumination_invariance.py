"""Whether what a network says of a world depends on how the world is lit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Invariance:
    """What `illumination_invariance` found.

    Args:
        error_by_light: mean relative error under each light.
        invariance: the error under the reference light over that under the others, a mean over worlds; 1 is the same,
            less is worse under other lights.
        degradation: the mean error under the other lights over that under the reference.
        spread: variance of predictions over lights, as a share of that over worlds and places; 0 is invariant,
            and so is a prediction that never changes: look at the errors too.
    """

    error_by_light: list[float]
    invariance: float
    degradation: float
    spread: float


def illumination_invariance(
    predict: Callable[[Tensor], Tensor],
    shots: Float[Tensor, "..."],
    truth: Float[Tensor, "..."],
    *,
    reference: int = 0,
) -> Invariance:
    r"""Judge predictions of one truth under several lights.

    The error is $\overline{|\hat z - z| / z}$ over the places of a world.

    Args:
        predict: pictures or clips (n, ...) -> (n, ...) of the shape of `truth`.
        shots: (lights, n, ...): n worlds, each under every light, all else the same.
        truth: z, (n, ...), positive; the same under every light.
        reference: the light that others are compared with.

    After Ziskind et al., 2022 (arXiv:2207.02972), section 3.

    Raises:
        ValueError: for fewer than two lights, shapes that do not fit, a truth that is not positive.

    Example:
        >>> z = torch.tensor([[2.0, 4.0], [1.0, 3.0]])
        >>> dim, bright = z, 2 * z  # as if depth were read from brightness alone
        >>> found = illumination_invariance(lambda x: x + 0.1 * z, torch.stack([dim, bright]), z)
        >>> [round(error, 3) for error in found.error_by_light], round(found.degradation, 3)
        ([0.1, 1.1], 11.0)
    """
    if shots.ndim < 3 or len(shots) < 2:
        raise ValueError(f"shots must be (lights, n, ...), two lights or more: got {tuple(shots.shape)}")
    if shots.shape[1] != len(truth):
        raise ValueError(f"truth must have the worlds of shots, {shots.shape[1]}: got {len(truth)}")
    if not 0 <= reference < len(shots):
        raise ValueError(f"reference must be one of {len(shots)} lights: got {reference}")
    if not (truth > 0).all():
        raise ValueError("truth must be positive")
    with torch.no_grad():
        found = torch.stack([predict(shot) for shot in shots])
    if found.shape[1:] != truth.shape:
        raise ValueError(f"predict must give the shape of truth, {tuple(truth.shape)}: got {tuple(found.shape[1:])}")
    errors = ((found - truth).abs() / truth).flatten(2).mean(2)
    others = [light for light in range(len(shots)) if light != reference]
    tiny = torch.finfo(errors.dtype).tiny
    share = errors[reference] / errors[others].clamp_min(tiny)
    return Invariance(
        error_by_light=errors.mean(1).tolist(),
        invariance=share.mean().item(),
        degradation=(errors[others].mean() / errors[reference].mean().clamp_min(tiny)).item(),
        spread=(found.var(0).mean() / found.mean(0).var().clamp_min(tiny)).item(),
    )
