"""The Cauchy-Schwarz information bottleneck for regression (Yu et al., 2024)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .checks import check_finite
from .kernels import Bandwidth, bandwidth, log_gram

VARIANTS = ("paper", "released")


def cs_divergence(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, sigma: Bandwidth | Float[Tensor, ""] = 1.0
) -> Float[Tensor, ""]:
    r"""$D_{CS}(p; q) = \log \int p^2 + \log \int q^2 - 2 \log \int p q$ of the densities behind two samples.

    Each integral is the mean of a Gaussian Gram matrix. The value is at least 0, and 0 where the samples are the same.
    It is that of the two densities, both convolved with a Gaussian of variance $\sigma^2 / 2$.

    Args:
        x: sample of p, at least 3 rows.
        y: sample of q, at least 3 rows.
        sigma: width of the kernel, positive; `"median"`: the median distance of all points, without a gradient.

    Paper: equations 8 and 9 of arXiv:2404.17951.

    Differs from the paper: sums are taken in the logarithmic domain, so that samples far apart still have gradients.

    Raises:
        ValueError: for shapes that do not fit, fewer than 3 rows, entries that are not finite, a sigma not positive.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> round(cs_divergence(x, x + 10).item(), 3), cs_divergence(x, x.flip(0)).item()
        (67.479, 0.0)
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 3:
        raise ValueError(
            f"x and y must be (n, d) and (m, d), n and m at least 3: got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    check_finite(x=x, y=y)
    width = bandwidth(sigma, torch.cat([x, y]))
    within = _log_mean(log_gram(x, x, width)) + _log_mean(log_gram(y, y, width))
    return within - 2 * _log_mean(log_gram(x, y, width))


def conditional_cs_divergence(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n q"],
    y_hat: Float[Tensor, "n q"],
    *,
    sigma_x: Bandwidth | Float[Tensor, ""] = 1.0,
    sigma_y: Bandwidth | Float[Tensor, ""] = 1.0,
    variant: str = "paper",
) -> Float[Tensor, ""]:
    r"""$D_{CS}(p(y|x); q(\hat y|x)) = \log S(L^1) + \log S(L^2) - 2 \log S(L^{21})$.

    $S(L) = \sum_j \sum_i K_{ji} L_{ji} / (\sum_i K_{ji})^2$, with the Gram matrices $K$ of x, $L^1$ of y, $L^2$ of
    $\hat y$ and $L^{21}$ between $\hat y$ and y. It is 0 where $\hat y = y$. It estimates what is never negative, but
    may be slightly below 0 itself: the weights $K_{ji} / (\sum_i K_{ji})^2$ are not symmetric.

    Args:
        x: what both distributions are conditioned on.
        y: what was observed.
        y_hat: what was predicted.
        sigma_x: width of the kernel of x, positive, or `"median"` of the distances in `x`. Errors are averaged over
            neighbourhoods of this width, in which predictions that are too high and too low make up for each other.
        sigma_y: width of the kernel of y and $\hat y$, positive, or `"median"` of the distances in `y`. Errors far
            beyond it count no more than logarithmically.
        variant: `"released"` divides by $\sum_i K_{ji}^2$ instead, as the authors' code does.

    Paper: proposition 1 of arXiv:2404.17951.

    The widths of 1, for standardised data, are those of the authors' code. In ten dimensions or more the off-diagonal
    of $K$ then vanishes, and what is left compares predictions with targets point by point: a squared error of which
    the largest errors are bounded. Their code takes logarithms to the base 2.

    Raises:
        ValueError: for shapes that do not fit, fewer than 3 rows, entries that are not finite, widths not positive, an
            unknown variant.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> near = conditional_cs_divergence(x, x.square(), x.square() + 0.5)
        >>> far = conditional_cs_divergence(x, x.square(), x.square() - 3.0)
        >>> round(near.item(), 4), round(far.item(), 4)
        (0.1608, 3.823)
    """
    _check_rows(x=x, y=y, y_hat=y_hat)
    if y.shape != y_hat.shape:
        raise ValueError(f"y_hat must have the shape of y, {tuple(y.shape)}: got {tuple(y_hat.shape)}")
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}: got {variant!r}")
    width_x, width_y = bandwidth(sigma_x, x, name="sigma_x"), bandwidth(sigma_y, y, name="sigma_y")
    k = log_gram(x, x, width_x)
    density = 2 * k.logsumexp(1) if variant == "paper" else (2 * k).logsumexp(1)
    weights = k - density[:, None]
    first, second, cross = (
        (weights + log_gram(a, b, width_y)).flatten().logsumexp(0) for a, b in ((y, y), (y_hat, y_hat), (y_hat, y))
    )
    return first + second - 2 * cross


def cs_mutual_information(
    x: Float[Tensor, "n p"],
    t: Float[Tensor, "n k"],
    *,
    sigma_x: Bandwidth | Float[Tensor, ""] = 1.0,
    sigma_t: Bandwidth | Float[Tensor, ""] = 1.0,
    normalized: bool = False,
) -> Float[Tensor, ""]:
    r"""$I_{CS}(x; t) = D_{CS}(p(x, t); p(x) p(t))$, the Cauchy-Schwarz quadratic mutual information.

    $\log (n^{-2} \sum_{ij} K_{ij} Q_{ij}) + \log (n^{-4} \sum_{ij} K_{ij} \sum_{ij} Q_{ij})
    - 2 \log (n^{-3} \sum_i \sum_j K_{ij} \sum_j Q_{ij})$ with the Gram matrices $K$ of x and $Q$ of t; at least 0. The
    normalised one is $I(x; t) / \sqrt{I(x; x) I(t; t)}$, which is 1 where t = x.

    Args:
        x: one sample a row.
        t: another, row for row with `x`.
        sigma_x: width of the kernel of x, positive, or `"median"` of the distances in `x`.
        sigma_t: width of the kernel of t, positive, or `"median"` of the distances in `t`.
        normalized: whether to divide. Each of the two factors is at least the machine's epsilon, so that a t that has
            collapsed into a point has 0, up to some roots of it.

    Paper: proposition 2 of arXiv:2404.17951; the normalised one is the authors' code's.

    The widths of 1, for standardised data, are those with which the authors' code trains; where it is given none, it
    takes ten times the median of *squared* distances, for which nearly nothing is left of the information.

    Raises:
        ValueError: for shapes that do not fit, fewer than 3 rows, entries that are not finite, widths not positive.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
        >>> t = torch.tensor([[1.0], [-1.0], [-1.0], [1.0]])
        >>> information = cs_mutual_information(x, t, sigma_x="median", sigma_t="median", normalized=True)
        >>> round(information.item(), 4), round(cs_mutual_information(x, x, normalized=True).item(), 4)
        (0.4348, 1.0)
    """
    _check_rows(x=x, t=t)
    k = log_gram(x, x, bandwidth(sigma_x, x, name="sigma_x"))
    q = log_gram(t, t, bandwidth(sigma_t, t, name="sigma_t"))
    shared = _information(k, q)
    if not normalized:
        return shared
    least = torch.finfo(shared.dtype).eps
    return shared / (_information(k, k).clamp(min=least) * _information(q, q).clamp(min=least)).sqrt()


class CSIBLoss(nn.Module):
    r"""$D_{CS}(p(y|x); q(\hat y|x)) + \beta I_{CS}(x; t)$: predict y, and let t tell no more of x than that takes.

    No distribution is assumed and nothing is bounded: both terms are kernel estimates over the batch, so batches should
    hold some 50 examples at least.

    Args:
        beta: $\beta$, 0 or more; the paper's grid runs from 0 and 1e-4 to 1.
        sigma_x: width of the kernel of x, positive, or `"median"` of each batch's distances.
        sigma_y: width of the kernel of y, positive, or `"median"`.
        sigma_t: width of the kernel of t, positive, or `"median"`.
        normalized: whether the compression is the normalised one, as in the authors' code.
        variant: of the prediction term: `"paper"` or `"released"`.

    Attributes:
        prediction: the first term of the last call, without a gradient.
        compression: $I_{CS}(x; t)$ of the last call, without a gradient and without $\beta$.

    Paper: equation 7 of arXiv:2404.17951. With `variant="released"` it is what the authors' code minimises for the
    housing data, but for the base of its logarithms, 2, which there makes the first term 1.44 times as large and leaves
    the normalised one as it is.

    Raises:
        ValueError: for a negative beta, widths not positive, an unknown variant, and whatever
            `conditional_cs_divergence` and `cs_mutual_information` refuse.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> criterion = CSIBLoss(beta=0.5)
        >>> loss = criterion(x, x, x, x)  # (x, t, y, y_hat): predicted as observed, nothing compressed
        >>> criterion.prediction.item(), round(criterion.compression.item(), 4), round(loss.item(), 4)
        (0.0, 1.0, 0.5)
    """

    prediction: Tensor | None
    compression: Tensor | None

    def __init__(
        self,
        *,
        beta: float = 1e-2,
        sigma_x: Bandwidth = 1.0,
        sigma_y: Bandwidth = 1.0,
        sigma_t: Bandwidth = 1.0,
        normalized: bool = True,
        variant: str = "paper",
    ) -> None:
        super().__init__()
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta must be finite and not negative: got {beta}")
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}: got {variant!r}")
        for name, sigma in (("sigma_x", sigma_x), ("sigma_y", sigma_y), ("sigma_t", sigma_t)):
            if sigma != "median":
                bandwidth(sigma, torch.empty(0), name=name)
        self.beta, self.normalized, self.variant = beta, normalized, variant
        self.sigma_x, self.sigma_y, self.sigma_t = sigma_x, sigma_y, sigma_t
        self.prediction = self.compression = None

    def forward(
        self,
        x: Float[Tensor, "n p"],
        t: Float[Tensor, "n k"],
        y: Float[Tensor, "n q"],
        y_hat: Float[Tensor, "n q"],
    ) -> Float[Tensor, ""]:
        prediction = conditional_cs_divergence(
            x, y, y_hat, sigma_x=self.sigma_x, sigma_y=self.sigma_y, variant=self.variant
        )
        compression = cs_mutual_information(
            x, t, sigma_x=self.sigma_x, sigma_t=self.sigma_t, normalized=self.normalized
        )
        self.prediction, self.compression = prediction.detach(), compression.detach()
        return prediction + self.beta * compression

    def extra_repr(self) -> str:
        return (
            f"beta={self.beta}, sigma_x={self.sigma_x!r}, sigma_y={self.sigma_y!r}, sigma_t={self.sigma_t!r}, "
            f"normalized={self.normalized}, variant={self.variant!r}"
        )


def _information(k: Tensor, q: Tensor) -> Tensor:
    """From the logarithms of two Gram matrices."""
    marginal = _log_mean(k) + _log_mean(q)
    rows = k.logsumexp(1) + q.logsumexp(1) - 2 * math.log(len(k))
    return _log_mean(k + q) + marginal - 2 * _log_mean(rows)


def _log_mean(logarithms: Tensor) -> Tensor:
    return logarithms.flatten().logsumexp(0) - math.log(logarithms.numel())


def _check_rows(**samples: Tensor) -> None:
    lengths = {len(sample) if sample.ndim == 2 else -1 for sample in samples.values()}
    if len(lengths) > 1 or min(lengths) < 3:
        shapes = ", ".join(f"{name} {tuple(sample.shape)}" for name, sample in samples.items())
        raise ValueError(f"{' and '.join(samples)} must have two dimensions and the same 3 rows or more: got {shapes}")
    check_finite(**samples)
