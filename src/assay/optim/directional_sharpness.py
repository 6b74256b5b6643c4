"""Clipping coordinates, not norms: the few largest entries of an update are cut to the size of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from assay.losses.checks import check_finite
from assay.optim.wrapper import Closure, GradientWrapper


def coordinate_clip(tensors: Sequence[Tensor], fraction: float = 0.1, *, per_tensor: bool = False) -> list[Tensor]:
    r"""Cut the largest entries down to a threshold that a given share of all entries exceeds.

    $\mathrm{clip}(g)_i = \mathrm{sign}(g_i) \min(|g_i|, \tau)$, with $\tau$ the $(\lfloor q n \rfloor + 1)$-th largest
    of the $n$ magnitudes

    Args:
        tensors: $g$, of any shapes.
        fraction: $q$, the share of entries that are cut, in (0, 1]. A $q$ below $1/n$ changes nothing, $q = 1$ leaves
            the signs times the smallest magnitude.
        per_tensor: whether each tensor has a threshold of its own; otherwise all entries of all tensors share one.

    Returns:
        New tensors.

    Pan and Li, 2023 (arXiv:2306.00204), coordinate-wise clipping; the share counts what is cut, as in the authors'
    code, which for $q = 1$ takes a threshold of 0 instead.

    Raises:
        ValueError: for a fraction outside (0, 1], or entries that are not finite (looked at on a CPU only).

    Example:
        >>> coordinate_clip([torch.tensor([9.0, -1.0, 2.0]), torch.tensor([-7.0])], 0.5)
        [tensor([ 2., -1.,  2.]), tensor([-2.])]
        >>> coordinate_clip([torch.tensor([9.0, -1.0, 2.0]), torch.tensor([-7.0])], 0.5, per_tensor=True)
        [tensor([ 2., -1.,  2.]), tensor([-7.])]
    """
    _check_fraction(fraction)
    if per_tensor:
        return [part for tensor in tensors for part in coordinate_clip([tensor], fraction)]
    if not sum(tensor.numel() for tensor in tensors):
        return [tensor.clone() for tensor in tensors]
    magnitudes = torch.cat([tensor.detach().flatten().to(tensors[0].device) for tensor in tensors]).abs_()
    check_finite(gradients=magnitudes)
    n = len(magnitudes)
    above = min(int(fraction * n), n - 1)
    # On a processor a selection is the fastest; on an accelerator it is made by one block, and a sort by all of them.
    rank = n - above
    threshold = magnitudes.kthvalue(rank).values if magnitudes.device.type == "cpu" else magnitudes.sort()[0][rank - 1]
    clipped = []
    for tensor in tensors:
        bound = threshold.to(tensor)
        clipped.append(torch.clamp(tensor, -bound, bound))
    return clipped


class CoordinateClipped(GradientWrapper):
    r"""An optimizer whose gradients, or whose updates, have their largest coordinates clipped in every step.

    With `clip="gradient"` the wrapped optimizer sees $\mathrm{clip}(g_t)$; with `clip="update"` it moves the parameters
    to $\theta_t$ and they are put at $\theta_{t-1} + \mathrm{clip}(\theta_t - \theta_{t-1})$ instead. `coordinate_clip`
    says what clip is. With momentum the two differ: an update has the history in it.

        CoordinateClipped(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))

    Args:
        optimizer: what is wrapped.
        fraction: $q$, the share of coordinates that are clipped, in (0, 1].
        clip: `"gradient"` or `"update"`.
        per_tensor: whether each parameter has a threshold of its own.

    Pan and Li, 2023 (arXiv:2306.00204).

    Differs from the paper: their clipped Adam feeds clipped gradients to the first moment and unclipped ones to the
    second; a wrapper feeds the same to both. Weight decay that the wrapped optimizer applies to the parameters is part
    of the update, and is clipped with it.

    Raises:
        ValueError: for a fraction outside (0, 1], an unknown `clip`, gradients or updates that are not finite.
        TypeError: for sparse or complex gradients, or something that is not an optimizer.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(4))
        >>> optimizer = CoordinateClipped(torch.optim.SGD([weight], lr=1.0), fraction=0.25)
        >>> weight.grad = torch.tensor([100.0, -2.0, 1.0, 0.5])
        >>> optimizer.step()
        >>> weight.tolist()
        [-2.0, 2.0, -1.0, -0.5]
    """

    def __init__(
        self, optimizer: Optimizer, *, fraction: float = 0.1, clip: str = "gradient", per_tensor: bool = False
    ) -> None:
        super().__init__(optimizer)
        _check_fraction(fraction)
        if clip not in ("gradient", "update"):
            raise ValueError(f"clip must be 'gradient' or 'update': got {clip!r}")
        self.fraction, self.clip, self.per_tensor = fraction, clip, per_tensor

    def change(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """The clipped gradients; the very same ones where the update is clipped."""
        if self.clip == "update":
            return gradients
        return coordinate_clip(gradients, self.fraction, per_tensor=self.per_tensor)

    def step(self, closure: Closure | None = None) -> Any:
        """One step of the wrapped optimizer, clipped before or after."""
        if self.clip == "gradient":
            return super().step(closure)
        parameters = self.parameters
        with torch.no_grad():
            before = [p.clone() for p in parameters]
        loss = super().step(closure)
        with torch.no_grad():
            updates = coordinate_clip(torch._foreach_sub(parameters, before), self.fraction, per_tensor=self.per_tensor)
            torch._foreach_copy_(parameters, torch._foreach_add(before, updates))
        return loss


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1]: got {fraction}")
