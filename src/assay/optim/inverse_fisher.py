"""Products with the inverse of an empirical Fisher matrix that is never formed (Frantar et al., 2021)."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from assay.losses.checks import readable

COLUMNS = 2**16
"""Columns of gradients that are turned into double precision at a time."""


class StaticInverseFisher:
    r"""$F^{-1}$ of $F = \lambda I + \frac1m \sum_i g_i g_i^\top$, for m gradients that are all there.

    With $K = m \lambda I + G G^\top = L L^\top$ and $W = L^{-1} G$ it is $F^{-1} = \frac1\lambda (I - W^\top W)$:
    $O(d m^2)$ once, $O(d m)$ a product or the whole diagonal, $O(m)$ an element, and d m numbers of memory. The rows of
    W are those that the paper's recursion finds one after the other ($v_i \sqrt{\lambda / q_i}$), found together.

    Args:
        grads: $G$ (m, d), one gradient a row: of single examples or of small batches, not of the whole set.
        damp: $\lambda$, positive.
        block_size: coordinates are split into consecutive blocks of this size, and F is 0 between blocks; None is one
            block of all. Blocks no larger than m are inverted as they are.

    The paper: equations 4 to 6 (arXiv:2107.03356). $K$ and its factor are in double precision whatever `grads` is.

    Raises:
        ValueError: for shapes that do not fit, no gradients, a `damp` that is not positive and finite, a block size
            below 1, gradients that are not finite.

    Example:
        >>> inverse = StaticInverseFisher(torch.tensor([[1.0, 0.0, 2.0]]), damp=0.5)  # one gradient: Sherman-Morrison
        >>> inverse.mul(torch.tensor([1.0, 1.0, 0.0])).round(decimals=4)  # (x - g (g.x) / (1/2 + g.g)) / (1/2)
        tensor([ 1.6364,  2.0000, -0.7273])
        >>> inverse.diag().round(decimals=4), round(inverse.element(0, 2), 4)
        (tensor([1.6364, 2.0000, 0.5455]), -0.7273)
    """

    def __init__(self, grads: Float[Tensor, "m d"], *, damp: float = 1e-5, block_size: int | None = None) -> None:
        _check_damp(damp)
        if grads.ndim != 2 or 0 in grads.shape:
            raise ValueError(f"grads must be (m, d), both at least 1: got {tuple(grads.shape)}")
        if block_size is not None and block_size < 1:
            raise ValueError(f"block_size must be at least 1, or None: got {block_size}")
        if not grads.isfinite().all():
            raise ValueError("grads must be finite: got NaN or infinity")
        m, d = grads.shape
        size = d if block_size is None else min(block_size, d)
        self.damp, self.size, self.block = damp, d, size
        self._inverse: Tensor | None = None
        if size <= m:
            blocks = _padded(grads, size).view(m, -1, size).movedim(1, 0).double()  # (blocks, m, size)
            fisher = blocks.mT @ blocks / m
            fisher.diagonal(dim1=1, dim2=2).add_(damp)
            self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(fisher)).to(grads.dtype)
        else:
            self._rows = torch.empty_like(grads)
            for start in range(0, d, size):
                part = grads[:, start : start + size]
                gram = _gram(part)
                gram.diagonal().add_(m * damp)
                factor = torch.linalg.cholesky(gram)
                for first in range(0, part.shape[1], COLUMNS):
                    columns = part[:, first : first + COLUMNS]
                    solved = torch.linalg.solve_triangular(factor, columns.double(), upper=False)
                    self._rows[:, start + first : start + first + columns.shape[1]] = solved

    def mul(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """$F^{-1} x$ of one vector (d,) or several (k, d).

        Raises:
            ValueError: for another length.
        """
        if x.shape[-1] != self.size:
            raise ValueError(f"x must have {self.size} entries a row: got {tuple(x.shape)}")
        if self._inverse is not None:
            parts = _padded(x, self.block).unflatten(-1, (-1, 1, self.block))  # (..., blocks, 1, block)
            return (parts @ self._inverse).flatten(-3)[..., : self.size]
        out = torch.empty_like(x)
        for start in range(0, self.size, self.block):
            part = slice(start, start + self.block)
            rows = self._rows[:, part]
            out[..., part] = x[..., part] - (x[..., part] @ rows.T) @ rows
        return out.div_(self.damp)

    def diag(self) -> Float[Tensor, " d"]:
        """The diagonal of $F^{-1}$, all positive."""
        if self._inverse is not None:
            return self._inverse.diagonal(dim1=1, dim2=2).flatten()[: self.size].clone()
        squares = torch.cat([part.double().square().sum(0) for part in self._rows.split(COLUMNS, 1)])
        return ((1 - squares) / self.damp).to(self._rows.dtype)

    def element(self, a: int, b: int) -> float:
        """$[F^{-1}]_{ab}$.

        Raises:
            ValueError: for places outside 0 .. d - 1.
        """
        for name, place in (("a", a), ("b", b)):
            if not 0 <= place < self.size:
                raise ValueError(f"{name} must lie in 0..{self.size - 1}: got {place}")
        if a // self.block != b // self.block:
            return 0.0
        if self._inverse is not None:
            return self._inverse[a // self.block, a % self.block, b % self.block].item()
        inner = (self._rows[:, a].double() @ self._rows[:, b].double()).item()
        return (float(a == b) - inner) / self.damp


class DynamicInverseFisher:
    r"""$F^{-1}$ of the last m gradients, a sliding window: $O(d m + m^3)$ a new gradient, $O(d m + m^2)$ a product.

    $F^{-1} x = \frac1\lambda (x - G^\top K^{-1} G x)$ with $K = m \lambda I + G G^\top$, of which a new gradient
    changes one row and column. Until m gradients have come the rest count as 0 and m stays the divisor.

    Args:
        dim: d, at least 1.
        window: m, gradients that are kept, at least 1; d m numbers of memory.
        damp: $\lambda$, positive.
        dtype: of the window and the products; $K$ is in double precision.
        device: where all of it lives.

    The paper: section 3.2 and algorithm 2 (arXiv:2107.03356).

    Differs from the paper: the factor of $K$ is Cholesky's, not an LU without pivots (which processors lack), and the
    coefficients are solved for instead of multiplied by a matrix of them; the products are the same numbers.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> inverse = DynamicInverseFisher(3, window=2, damp=0.25)
        >>> inverse.update(torch.tensor([9.0, 9.0, 9.0]))
        >>> inverse.update(torch.tensor([1.0, 0.0, 2.0]))
        >>> inverse.update_mul(torch.tensor([0.0, 3.0, 0.0])).round(decimals=4)  # 3 / (1/4 + 9/2): the first is gone
        tensor([0.0000, 0.6316, 0.0000])
    """

    def __init__(
        self,
        dim: int,
        window: int,
        *,
        damp: float = 1e-5,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        for name, value in (("dim", dim), ("window", window)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: got {value}")
        _check_damp(damp)
        self.damp = damp
        self.grads = torch.zeros(window, dim, dtype=dtype, device=device)
        self.gram = torch.zeros(window, window, dtype=torch.float64, device=device)
        self.last = -1
        self._factor: Tensor | None = None

    def update(self, g: Float[Tensor, " d"]) -> None:
        """Put a gradient in the place of the oldest one.

        Raises:
            ValueError: for another length; for one that is not finite (seen on a CPU only), which is not taken in.
        """
        self._check(g, "g")
        if readable(g) and not g.sum().isfinite() and not g.isfinite().all():
            raise ValueError("g must be finite: got NaN or infinity")
        self.last = (self.last + 1) % len(self.grads)
        self.grads[self.last] = g
        row = (self.grads @ self.grads[self.last]).double()
        self.gram[self.last] = row
        self.gram[:, self.last] = row
        self._factor = None

    def mul(self, x: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """$F^{-1} x$.

        Raises:
            ValueError: for another length.
        """
        self._check(x, "x")
        coefficients = self._solve((self.grads @ x).double())
        return torch.addmv(x, self.grads.T, coefficients, alpha=-1).div_(self.damp)

    def update_mul(self, g: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        r"""`update(g)` and then $F^{-1} g$, in two passes over the window and not three.

        As g is in row i of the window, $F^{-1} g = m\, G^\top K^{-1} e_i$. Nothing is taken from g here, so that no
        digits are lost where $g^\top F^{-1} g$ is far below $\|g\|^2 / \lambda$, as they are by `mul(g)`.

        Raises:
            ValueError: as `update`.
        """
        self.update(g)
        chosen = torch.zeros_like(self.gram[0])
        chosen[self.last] = len(chosen)
        return self.grads.T @ self._solve(chosen)

    def _solve(self, right: Tensor) -> Tensor:
        r"""$K^{-1}$ times a vector, solved in double precision.

        Where $m \lambda$ is below the rounding of the window's inner products (long gradients that are nearly
        parallel), that rounding takes its place on the diagonal, or K would be anything, and not positive definite.
        """
        if self._factor is None:
            kernel = self.gram.clone()
            rounding = kernel.diagonal().max() * (4 * torch.finfo(self.grads.dtype).eps)
            kernel.diagonal().add_(len(kernel) * rounding.clamp_min(self.damp))
            self._factor = torch.linalg.cholesky_ex(kernel).L
        return torch.cholesky_solve(right[:, None], self._factor)[:, 0].to(self.grads.dtype)

    def _check(self, x: Tensor, name: str) -> None:
        if x.shape != self.grads.shape[1:]:
            raise ValueError(f"{name} must be ({self.grads.shape[1]},): got {tuple(x.shape)}")

    def state_dict(self) -> dict[str, Any]:
        """The window, its inner products, and where in it the last gradient is."""
        return {"grads": self.grads, "gram": self.gram, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            ValueError: for a window of another shape.
        """
        if state["grads"].shape != self.grads.shape:
            raise ValueError(f"state must be of a window {tuple(self.grads.shape)}: got {tuple(state['grads'].shape)}")
        self.grads.copy_(state["grads"])
        self.gram.copy_(state["gram"])
        self.last, self._factor = int(state["last"]), None


def _gram(rows: Tensor) -> Tensor:
    """$G G^T$ in double precision, some columns at a time."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for part in rows.split(COLUMNS, 1):
        double = part.double()
        total.addmm_(double, double.T)
    return total


def _padded(x: Tensor, block: int) -> Tensor:
    """With zeros behind, so that the last dimension is whole blocks."""
    return torch.nn.functional.pad(x, (0, -x.shape[-1] % block))


def _check_damp(damp: float) -> None:
    if not 0 < damp < math.inf:
        raise ValueError(f"damp must be positive and finite: got {damp}")
