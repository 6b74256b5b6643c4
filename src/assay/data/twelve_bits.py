"""All patterns of twelve bits on the vertices of an icosahedron, with a rule that does not notice turning it."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

WEIGHTS = (0.7, 1.0, 0.4, 0.9)
"""Of the Legendre polynomials of degree 1 to 4."""


class Patterns(NamedTuple):
    """`inputs` (4096, 12) of 0 and 1, each pattern once; `targets` (4096,) of 0 and 1, as many of each."""

    inputs: Float[Tensor, "4096 12"]
    targets: Int[Tensor, " 4096"]


def icosahedron() -> Float[Tensor, "12 3"]:
    """The vertices, of length 1.

    Example:
        >>> angles = icosahedron() @ icosahedron().T
        >>> sorted(set(angles[0].round(decimals=4).tolist()))    # 1, 5, 5 and 1 of them
        [-1.0, -0.4472, 0.4472, 1.0]
    """
    golden = (1 + 5**0.5) / 2
    rows = []
    for one, other in product((1.0, -1.0), (golden, -golden)):
        rows += [(0.0, one, other), (one, other, 0.0), (other, 0.0, one)]
    vertices = torch.tensor(rows, dtype=torch.float64)
    unit: Tensor = vertices / vertices.norm(dim=1, keepdim=True)
    return unit


def twelve_bits() -> Patterns:
    r"""$y = 1$ where $f(b) = \sum_{l=1}^{4} w_l \sum_{ij} b_i b_j P_l(v_i \cdot v_j)$ is above its median.

    The bits sit on the twelve vertices $v_i$ of an icosahedron; f depends on their angles only, so turning the pattern
    changes nothing. Of the patterns at the median, which 360 share, the later ones of the list are 1, so that both
    classes are 2,048. It stands in for the set of 4,096 patterns of Shwartz-Ziv and Tishby, 2017 (arXiv:1703.00810),
    which was made in the same way and does not ship here.

    Example:
        >>> x, y = twelve_bits()
        >>> x.shape, len(x.unique(dim=0)), y.bincount().tolist()
        (torch.Size([4096, 12]), 4096, [2048, 2048])
    """
    bits = (torch.arange(4096)[:, None] >> torch.arange(12)) & 1
    cosine = icosahedron() @ icosahedron().T
    legendre = (
        cosine,
        (3 * cosine**2 - 1) / 2,
        (5 * cosine**3 - 3 * cosine) / 2,
        (35 * cosine**4 - 30 * cosine**2 + 3) / 8,
    )
    kernel = sum(weight * each for weight, each in zip(WEIGHTS, legendre, strict=True))
    value = torch.einsum("ni,ij,nj->n", bits.double(), kernel, bits.double())
    order = value.round(decimals=9).argsort(stable=True)  # equal up to rounding is equal
    targets = torch.zeros(4096, dtype=torch.long)
    targets[order[2048:]] = 1
    return Patterns(bits.float(), targets)
