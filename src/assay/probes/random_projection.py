"""Random linear maps from a few coordinates into the space of all weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

KINDS = ("dense", "sparse", "fastfood")


class RandomProjection:
    r"""A fixed random matrix $P$, (D, d), with nearly orthogonal columns of unit length, as a linear operator.

    - `"dense"`: $P_{ij} \sim N(0, 1)$, columns brought to length 1; D d numbers.
    - `"sparse"`: $P_{ij} = \pm 1$ with probability $1/\sqrt D$, else 0; columns brought to length 1 (Li et al., 2006).
    - `"fastfood"`: $P = \frac{1}{c} S H G \Pi H B Z$: $Z$ appends zeros up to $L = 2^{\lceil \log_2 D \rceil}$, $B$
      flips signs, $H$ is Hadamard's matrix, $\Pi$ permutes, $G$ is diagonal and Gaussian, $S$ takes the first D
      entries, and $c^2 = D \|G\|^2$. A product takes $O(D \log D)$ operations and P takes 3 L numbers (Le et al.,
      2013).

    Columns of the first two have length 1 up to rounding, those of the third only where D is a power of two; else their
    squared lengths scatter around 1 by $O(1/\sqrt D)$.

    Args:
        size: D, weights.
        dim: d, from 1 to D.
        kind: "dense", "sparse" or "fastfood".
        generator: where P comes from. The same generator in the same state gives the same P, which is how it is kept.
        dtype: of P.
        device: where P lives; it is drawn where the generator lives.

    Attributes:
        matrix: P itself, made anew at each look; for small sizes.
        T: the adjoint, (D) -> (d).

    Li et al., 2018 (arXiv:1804.08838), section 2 and supplement S7; the scale c of the authors' code.

    Differs from the paper: a column of the sparse kind that would be zero is given one entry. The authors' code draws
    that kind layer by layer, with the density $1/\sqrt{\text{weights of the layer}}$; here all weights count, as in the
    text.

    Raises:
        ValueError: for a size below 1, a dim outside 1..D, an unknown kind, a vector of another shape.

    Example:
        >>> P = RandomProjection(1000, 3, kind="fastfood", generator=torch.Generator().manual_seed(0))
        >>> z, v = torch.tensor([1.0, -2.0, 0.5]), torch.linspace(-1, 1, 1000)
        >>> P(z).shape, bool(torch.isclose(P(z) @ v, z @ P.T(v), atol=1e-5))  # <P z, v> = <z, P^T v>
        (torch.Size([1000]), True)
        >>> lengths = P.matrix.norm(dim=0)
        >>> bool(((lengths > 0.9) & (lengths < 1.1)).all())
        True
    """

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        kind: str = "dense",
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1: got {size}")
        if not 1 <= dim <= size:
            raise ValueError(f"dim must lie in 1..{size}: got {dim}")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}: got {kind!r}")
        self.size, self.dim, self.kind = size, dim, kind
        self._dtype, self._device = dtype, torch.device(device)
        where = self._device if generator is None else generator.device
        make = {"dense": _dense, "sparse": _sparse, "fastfood": _fastfood}[kind]
        self.tensors = {
            name: t.to(self._device, dtype if t.is_floating_point() else t.dtype)
            for name, t in make(size, dim, generator, where).items()
        }

    def __call__(self, coordinates: Float[Tensor, " d"]) -> Float[Tensor, " D"]:
        """P z; differentiable in z."""
        if coordinates.shape != (self.dim,):
            raise ValueError(f"coordinates must be ({self.dim},): got {tuple(coordinates.shape)}")
        t = self.tensors
        if self.kind == "dense":
            return t["matrix"] @ coordinates
        if self.kind == "sparse":
            out = torch.zeros(self.size, dtype=coordinates.dtype, device=coordinates.device)
            return out.index_add(0, t["rows"], t["values"] * coordinates[t["columns"]])
        padded = torch.nn.functional.pad(coordinates, (0, len(t["signs"]) - self.dim))
        mixed = hadamard(t["signs"] * padded)[t["order"]]
        return hadamard(t["scales"] * mixed)[: self.size]

    def T(self, vector: Float[Tensor, " D"]) -> Float[Tensor, " d"]:  # noqa: N802
        """P^T v."""
        if vector.shape != (self.size,):
            raise ValueError(f"vector must be ({self.size},): got {tuple(vector.shape)}")
        t = self.tensors
        if self.kind == "dense":
            return vector @ t["matrix"]
        if self.kind == "sparse":
            out = torch.zeros(self.dim, dtype=vector.dtype, device=vector.device)
            return out.index_add(0, t["columns"], t["values"] * vector[t["rows"]])
        padded = torch.nn.functional.pad(vector, (0, len(t["signs"]) - self.size))
        mixed = t["scales"] * hadamard(padded)
        return (t["signs"] * hadamard(torch.zeros_like(mixed).index_copy(0, t["order"], mixed)))[: self.dim]

    @property
    def matrix(self) -> Float[Tensor, "D d"]:
        identity = torch.eye(self.dim, dtype=self._dtype, device=self._device)
        return torch.stack([self(column) for column in identity], dim=1)

    def apply(self, move: Callable[[Tensor], Tensor]) -> None:
        """Move what P is made of, as `nn.Module` moves its tensors."""
        self.tensors = {name: move(t) for name, t in self.tensors.items()}
        first = next(t for t in self.tensors.values() if t.is_floating_point())
        self._dtype, self._device = first.dtype, first.device


def hadamard(vector: Float[Tensor, " L"]) -> Float[Tensor, " L"]:
    r"""The product with Hadamard's matrix of $\pm 1$ (Sylvester's), by L log2 L additions.

    Args:
        vector: of a length that is a power of two.

    Raises:
        ValueError: for another length.
    """
    length = len(vector)
    if length < 1 or length & (length - 1):
        raise ValueError(f"vector must have a power of two as its length: got {length}")
    half = 1
    while half < length:
        pairs = vector.view(-1, 2, half)
        vector = torch.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).view(-1)
        half *= 2
    return vector


def _dense(size: int, dim: int, generator: torch.Generator | None, where: torch.device) -> dict[str, Tensor]:
    columns = torch.randn(dim, size, generator=generator, device=where)
    return {"matrix": (columns / torch.linalg.vector_norm(columns, dim=1, keepdim=True)).T}


def _sparse(size: int, dim: int, generator: torch.Generator | None, where: torch.device) -> dict[str, Tensor]:
    """Entries that differ from 0, found by the gaps between them, which are geometric: no pass over D d entries."""
    chance, total = 1 / math.sqrt(size), size * dim
    more = int(total * chance + 6 * math.sqrt(total * chance)) + 10
    places = torch.empty(0, dtype=torch.int64, device=where)
    last = -1
    while last < total:
        gaps = torch.empty(more, dtype=torch.int64, device=where)
        # A chance of 1 (a single weight) is no geometric distribution to torch.
        gaps = gaps.geometric_(chance, generator=generator) if chance < 1 else gaps.fill_(1)
        places = torch.cat([places, last + gaps.cumsum(0)])
        last = int(places[-1])
    places = places[places < total]  # column after column
    empty = torch.bincount(places // size, minlength=dim) == 0
    spare = torch.randint(size, (dim,), generator=generator, device=where) + size * torch.arange(dim, device=where)
    places = torch.cat([places, spare[empty]])
    rows, columns = places % size, places // size
    signs = 2.0 * torch.randint(2, (len(places),), generator=generator, device=where) - 1
    lengths = torch.bincount(columns, minlength=dim).sqrt()
    return {"rows": rows, "columns": columns, "values": signs / lengths[columns]}


def _fastfood(size: int, dim: int, generator: torch.Generator | None, where: torch.device) -> dict[str, Tensor]:
    length = 1 << (size - 1).bit_length()
    signs = 2.0 * torch.randint(2, (length,), generator=generator, device=where) - 1
    order = torch.randperm(length, generator=generator, device=where)
    gauss = torch.randn(length, generator=generator, device=where)
    return {"signs": signs, "order": order, "scales": gauss / (math.sqrt(size) * torch.linalg.vector_norm(gauss))}
