"""The worst input nearby: projected gradient ascent in a box (Madry et al., 2017, arXiv:1706.06083)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def worst_case(
    objective: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n ..."],
    *,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    random_start: bool = True,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n ..."]:
    r"""$x \leftarrow \Pi\left(x + \alpha\, \mathrm{sign}\, \nabla_x f(x)\right)$, `steps` times, $\Pi$ onto the box.

    The box is $\|x' - x\|_\infty \le \epsilon$, and within `bounds`. Networks should be in evaluation mode.

    Args:
        objective: $f$, what is to be made large: (n, ...) -> (n,), each entry of its own example alone.
        x: examples; not changed.
        eps: $\epsilon$, 0 or more.
        steps: 0 or more.
        step_size: $\alpha$, positive; None takes $2.5\, \epsilon / \mathrm{steps}$.
        bounds: least and greatest value of an entry, or None.
        random_start: whether to begin at a uniformly random point of the box; needed where f has no slope at x.
        generator: where it comes from.

    Returns:
        What was found, without a graph.

    Raises:
        ValueError: for arguments out of range, bounds that are no range or that x leaves, an objective that does not
            give one number an example.

    Example:
        >>> x = torch.tensor([[0.5, 0.9]])
        >>> worst_case(lambda x: x[:, 0] - x[:, 1], x, eps=0.25, random_start=False)
        tensor([[0.7500, 0.6500]])
        >>> worst_case(lambda x: x.sum(1), x, eps=0.25, random_start=False)
        tensor([[0.7500, 1.0000]])
    """
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and 0 or more: got {eps}")
    if steps < 0:
        raise ValueError(f"steps must be 0 or more: got {steps}")
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be positive and finite, or None: got {step_size}")
    low, high = bounds or (-math.inf, math.inf)
    if not low < high:
        raise ValueError(f"bounds must be a range: got {bounds}")
    x = x.detach()
    if bounds and x.numel() and (x.min() < low or x.max() > high):
        raise ValueError(f"x must lie within bounds {bounds}: got [{x.min():.4g}, {x.max():.4g}]")
    least, most = (x - eps).clamp(min=low), (x + eps).clamp(max=high)
    rate = 2.5 * eps / max(1, steps) if step_size is None else step_size
    found = x
    if random_start and eps > 0:
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        found = torch.minimum(torch.maximum(x + eps * (2 * noise - 1), least), most)
    for _ in range(steps if eps > 0 else 0):
        found = found.detach().requires_grad_()
        with torch.enable_grad():
            values = objective(found)
            if values.shape != (len(x),):
                raise ValueError(f"objective must give ({len(x)},): got {tuple(values.shape)}")
            (slope,) = torch.autograd.grad(values.sum(), found)
        found = torch.minimum(torch.maximum(found.detach() + rate * slope.sign(), least), most)
    return found.detach()
