"""Linear centered kernel alignment: how alike two layers' representations are, up to rotation and scale."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def linear_cka(x: Float[Tensor, "..."], y: Float[Tensor, "..."], *, debiased: bool = False) -> Float[Tensor, ""]:
    r"""$\mathrm{HSIC}(K, L) / \sqrt{\mathrm{HSIC}(K, K)\, \mathrm{HSIC}(L, L)}$ with $K = X X^\top, L = Y Y^\top$.

    $\mathrm{HSIC}(K, L) = \sum_{ij} (HKH)_{ij} (HLH)_{ij}$, $H = I - \mathbf{1}\mathbf{1}^\top / n$. In [0, 1]; 1 for
    representations that are rotations and scalings of each other, and 0 where one of them does not vary. Of few
    examples it is too large: that of independent noise is near $p / (p + n)$. There is a gradient.

    Args:
        x: X, (n, p) or (n, ...), which is flattened; n at least 2, or 4 if debiased.
        y: Y, of as many examples, with any number of features.
        debiased: with the unbiased estimate of HSIC, which has mean 0 for independent representations and may be
            negative.

    Kornblith et al., 2019 (arXiv:1905.00414), section 3; the unbiased HSIC of Song et al., 2012, equation 5.

    Raises:
        ValueError: for different numbers of examples, or too few.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])
        >>> turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
        >>> round(linear_cka(x, 7 * x @ turn).item(), 5)
        1.0
        >>> round(linear_cka(x, x[:, :1]).item(), 4)  # 5 / (2 * sqrt(6.4444))
        0.9848
    """
    least = 4 if debiased else 2
    if len(x) != len(y) or len(x) < least:
        raise ValueError(f"x and y must have as many examples, {least} or more: got {len(x)} and {len(y)}")
    grams = []
    for each in (x, y):
        rows = each.flatten(1).float() if each.dtype.itemsize < 4 else each.flatten(1)
        rows = rows - rows.mean(0)
        grams.append(rows @ rows.T)
    k, l = (_hollow(gram) for gram in grams) if debiased else grams  # noqa: E741 (the paper's letter)
    product, one, two = (k * l).sum(), k.square().sum(), l.square().sum()
    if debiased:
        product, one, two = _unbiased(k, l), _unbiased(k, k), _unbiased(l, l)
    varies = (one > 0) & (two > 0)
    # Square roots of each, not of the product, which overflows for wide layers; 1 stands in for a 0 below the line.
    scale = torch.where(varies, one, 1.0).sqrt() * torch.where(varies, two, 1.0).sqrt()
    return torch.where(varies, product / scale, 0.0)


def _hollow(gram: Tensor) -> Tensor:
    return gram - torch.diag(gram.diagonal())


def _unbiased(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """The unbiased HSIC of two Gram matrices without diagonals, times n (n - 3)."""
    n = len(k)
    return (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ l.sum(0))
