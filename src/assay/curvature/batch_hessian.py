"""What sampling does to the ends of a Hessian's spectrum (Granziol, Zohren, Roberts, 2020, arXiv:2006.09092)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.curvature.hessian import Hessian
from assay.curvature.lanczos import lanczos

KINDS = ("additive", "covariance")


class Extremes(NamedTuple):
    """The ends of several spectra.

    Args:
        largest: largest eigenvalue of each.
        smallest: most negative, or smallest, eigenvalue of each.
    """

    largest: Float[Tensor, " k"]
    smallest: Float[Tensor, " k"]


def effective_batch(batch: int, dataset: int) -> float:
    r"""$b = B / (1 - B/N)$: a batch drawn without replacement tells more than one drawn with; all of it tells all.

    Args:
        batch: $B$, at least 1.
        dataset: $N$, at least $B$.

    Returns:
        $b$, infinite for $B = N$.

    The paper: section 3, from the variance of a mean without replacement.

    Raises:
        ValueError: for anything out of range.

    Example:
        >>> effective_batch(100, 400), effective_batch(7, 7)
        (133.33333333333334, inf)
    """
    if not 1 <= batch <= dataset:
        raise ValueError(f"batch must lie in 1..{dataset}, the size of the data: got {batch}")
    return math.inf if batch == dataset else batch / (1 - batch / dataset)


def spiked_eigenvalue(spike: float, noise: float, *, kind: str = "additive", bulk: float = 1.0) -> float:
    r"""Where an outlying eigenvalue of the full matrix is found in that of a sample.

    - `"additive"`: a symmetric matrix plus independent noise, `noise` $= \frac{P}{b} \sigma^2$. An outlier $\lambda$
      above $e = \sqrt{\mathrm{noise}}$ is seen at $\lambda + \mathrm{noise} / \lambda$; below, it drowns in the edge
      $2 e$.
    - `"covariance"`: a covariance of b samples in P dimensions, `noise` $= q = P / b$, all other variances `bulk` = s.
      An outlier above $s (1 + \sqrt q)$ is seen at $\lambda (1 + q s / (\lambda - s))$; below, at the edge
      $s (1 + \sqrt q)^2$.

    Args:
        spike: $\lambda$, the eigenvalue of the full matrix; of the additive kind it may be negative, and the answer is
            then the most negative eigenvalue.
        noise: as said, 0 or more.
        kind: "additive" or "covariance".
        bulk: $s$, positive; for covariances only.

    The paper: theorem 1 (additive) and the generalised Gauss-Newton theorem after it; Baik, Ben Arous, Peche (2005).

    Raises:
        ValueError: for an unknown kind, negative noise, numbers that are not finite.

    Example:
        >>> spiked_eigenvalue(5.0, 1.0), spiked_eigenvalue(0.5, 1.0), spiked_eigenvalue(-2.0, 1.0)
        (5.2, 2.0, -2.5)
        >>> spiked_eigenvalue(5.0, 0.25, kind="covariance")
        5.3125
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}: got {kind!r}")
    if not math.isfinite(spike):
        raise ValueError(f"spike must be finite: got {spike}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be finite and 0 or more: got {noise}")
    if kind == "additive":
        edge = math.sqrt(noise)
        size = abs(spike) + noise / abs(spike) if abs(spike) > edge else 2 * edge
        return math.copysign(size, spike)
    if not 0 < bulk < math.inf:
        raise ValueError(f"bulk must be positive and finite: got {bulk}")
    if spike > bulk * (1 + math.sqrt(noise)):
        return spike * (1 + noise * bulk / (spike - bulk))
    return bulk * (1 + math.sqrt(noise)) ** 2


def batch_hessian_spectrum(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    batch: int,
    num_batches: int = 10,
    lanczos_steps: int = 20,
    generator: torch.Generator | None = None,
) -> Extremes:
    """The ends of the spectra of Hessians of random batches, by Lanczos.

    Args:
        model: used in evaluation mode.
        loss: loss(outputs, targets) -> the mean over the batch.
        inputs: (n, ...), the whole data.
        targets: (n, ...).
        batch: examples a Hessian, 1 to n, drawn without replacement.
        num_batches: Hessians, at least 1.
        lanczos_steps: products for each, at least 1; the ends converge first.
        generator: where batches and start vectors come from.

    The paper: section 4, spectra of batch Hessians.

    Raises:
        ValueError: for anything out of range, a loss that is not finite.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> found = batch_hessian_spectrum(line, nn.functional.mse_loss, x, torch.zeros(2, 1), batch=2, num_batches=1)
        >>> [round(value, 4) for value in (found.largest.item(), found.smallest.item())]  # 2 / n X' X
        [9.0, 1.0]
    """
    effective_batch(batch, len(inputs))
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1: got {num_batches}")
    ends = []
    for _ in range(num_batches):
        chosen = torch.randperm(len(inputs), generator=generator)[:batch].to(inputs.device)
        operator = Hessian(model, loss, inputs[chosen], targets[chosen])
        found = lanczos(
            operator.matvec, operator.size, lanczos_steps, generator=generator, dtype=inputs.dtype, device=inputs.device
        )
        values = found.ritz()[0]
        ends.append((values[-1], values[0]))
    largest, smallest = (torch.stack(side) for side in zip(*ends, strict=True))
    return Extremes(largest, smallest)
