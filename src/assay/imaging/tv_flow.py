"""The total-variation flow of a signal, exactly and for all times, from one merging of plateaus to the next."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assay.imaging.plateaus import Floats, Tree, merge_tree
from assay.imaging.spectral import NonlinearSpectrum


def tv_flow(signal: Tensor, *, weights: Tensor | None = None) -> TVFlow:
    r"""Solve $\dot u = -p,\; p \in \partial J(u),\; u(0) = f$ with $J(u) = \sum_{i<n} |u_{i+1} - u_i|$ for every t.

    A plateau of L samples moves at $v = (s_+ - s_-)/L$ with the signs of the jumps at its ends (0 outside the signal),
    until it meets a neighbour; plateaus merge and never split. Both hold for any t, so the flow is known for all times
    after at most n - 1 events, in O(n log n).

    Args:
        signal: f, (n,), n at least 1, finite.
        weights: m, (n,), positive: what each sample counts in the inner product,
            $\langle a, b\rangle = \sum m_i a_i b_i$ (the distances of an uneven grid); L is then a sum of
            them. None is ones.

    Returns:
        A `TVFlow`; everything in it is computed in float64 and returned in the dtype of the signal.

    Cohen, Berkov and Gilboa, 2021 (arXiv:2105.10044), the fast one-dimensional flow; the ends are free, as there.

    Differs from the paper: the authors' program looks for plateaus by comparing values with 1e-16 and recomputes all
    speeds at each event; here the runs are kept as such and events wait in a heap. Weights are an addition.

    Raises:
        ValueError: for a signal that is not one line of finite numbers; weights of another shape or not positive.
        TypeError: for a signal that is not floating point.

    Example:
        >>> flow = tv_flow(torch.tensor([0.0, 0.0, 3.0, 0.0]))
        >>> flow.event_times  # 3 falls at speed 2 and the 0 beside it rises at 1; then (0, 0) meets (1, 1)
        tensor([1.0000, 1.5000])
        >>> flow.at(1.0)
        tensor([0.5000, 0.5000, 1.0000, 1.0000])
    """
    f, m = checked(signal, weights)
    return TVFlow(f, m, merge_tree(f, m, math.inf), signal)


class TVFlow:
    """The flow of one signal, as `tv_flow` computes it: a tree of runs, each a straight line for its time.

    `event_times` are the times at which plateaus merge, in growing order, simultaneous ones once; `mean` is what the
    flow ends in, at `extinction_time`. Methods that take t take a number or a (m,) tensor, at least 0.

    Example:
        >>> flow = tv_flow(torch.tensor([4.0, 0.0, 0.0, 1.0], dtype=torch.float64))
        >>> flow.extinction_time, flow.mean
        (2.75, 1.25)
        >>> bool((flow.at(flow.extinction_time) == 1.25).all())
        True
    """

    def __init__(self, signal: Floats, weights: Floats, tree: Tree, like: Tensor) -> None:
        self._signal, self._weights, self._tree, self._like = signal, weights, tree, like
        ended = np.unique(tree.died[np.isfinite(tree.died)])
        apart = np.diff(ended, prepend=-1.0) > 64 * np.finfo(float).eps * (ended[-1] if len(ended) else 0.0)
        self._times = ended[apart]
        self._birth = np.searchsorted(self._times, tree.born, side="right") - 1
        self._death = np.where(tree.parent >= 0, np.searchsorted(self._times, tree.died, side="right") - 1, len(ended))
        self._birth[tree.born == 0] = -1
        parent = tree.parent.copy()
        while True:  # past what was born and died in one event
            passing = (parent >= 0) & (self._birth[parent] == self._death[parent]) & (tree.parent[parent] >= 0)
            if not passing.any():
                break
            parent[passing] = tree.parent[parent[passing]]
        self._leaving = np.flatnonzero((parent >= 0) & (self._birth != self._death))
        jump = tree.speed[parent[self._leaving]] - tree.speed[self._leaving]
        self._part = self._times[self._death[self._leaving]] * jump  # of phi, on the samples of that run

    @property
    def event_times(self) -> Float[Tensor, " k"]:
        """When plateaus merge."""
        return self._out(self._times)

    @property
    def extinction_time(self) -> float:
        r"""When nothing moves any more: $\max_i |\sum_{j \le i} m_j (f_j - \bar f)|$; 0 for a constant."""
        return float(self._times[-1]) if len(self._times) else 0.0

    @property
    def mean(self) -> float:
        """The (weighted) mean, which the flow keeps."""
        return float(self._tree.mean[-1])

    def at(self, t: float | Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""u(t), (n,) or (m, n): the proximal map $\arg\min_u t J(u) + \tfrac12 |u - f|^2$ for every t given."""
        return self._lines(t, lambda alive, t: self._tree.mean[alive] + t * self._tree.speed[alive])

    def subgradient(self, t: float | Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """p(t) = -du/dt, from t on; an eigenfunction: it is a subgradient of J at itself."""
        return self._lines(t, lambda alive, t: -self._tree.speed[alive])

    def plateaus(self, t: float) -> list[tuple[int, int, float]]:
        """(first sample, one past the last, value) of each plateau at t."""
        alive = self._alive(float(_times(t)[0]))
        values = self._tree.mean[alive] + t * self._tree.speed[alive]
        return list(
            zip(self._tree.start[alive].tolist(), self._tree.stop[alive].tolist(), values.tolist(), strict=True)
        )

    def energy(self, t: float | Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """J(u(t))."""
        return self.at(t).diff(dim=-1).abs().sum(-1)

    def power(self, norm: str = "l1") -> Float[Tensor, " k"]:
        r"""The spectrum, `"l1"` $|\phi_k|_1$ or `"parseval"` $\langle \phi_k, f\rangle^{1/2}$, without the components.

        Raises:
            ValueError: for another norm.
        """
        if norm not in ("l1", "parseval"):
            raise ValueError(f"norm must be l1 or parseval: got {norm!r}")
        mass = self._tree.mass[self._leaving]
        if norm == "l1":
            return self._out(self._sums(np.abs(self._part) * mass))
        return self._out(np.sqrt(np.maximum(self._sums(self._part * mass * self._tree.mean[self._leaving]), 0)))

    def spectrum(self, *, largest: int | None = None) -> NonlinearSpectrum:
        r"""The components $\phi_k = t_k\,(p_{k-1} - p_k)$, orthogonal to each other: $f = \bar f + \sum_k \phi_k$.

        Args:
            largest: how many, those of the greatest norm, the rest being left in the residual; None is all, which take
                k x n numbers.

        Raises:
            ValueError: for less than one.
        """
        count = len(self._times)
        if largest is not None and largest < 1:
            raise ValueError(f"largest must be at least 1: got {largest}")
        size = self._sums(self._part**2 * self._tree.mass[self._leaving])
        kept = np.sort(np.argsort(-size, kind="stable")[:largest])
        row = np.full(count, -1)
        row[kept] = np.arange(len(kept))
        phi = np.zeros((len(kept), len(self._signal)))
        rows = row[self._death[self._leaving]]
        used = rows >= 0
        starts, lengths = self._tree.start[self._leaving][used], self._spans(self._leaving)[used]
        offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        phi[np.repeat(rows[used], lengths), np.repeat(starts, lengths) + offsets] = np.repeat(self._part[used], lengths)
        rest = self._signal - phi.sum(0) if largest is not None else np.full(len(self._signal), self.mean)
        return NonlinearSpectrum(self._out(self._times[kept]), self._out(phi), self._out(rest))

    def modes(self) -> tuple[Float[Tensor, " k"], Float[Tensor, "k n"]]:
        """The event times and the components that disappear at them."""
        spectrum = self.spectrum()
        return spectrum.times, spectrum.phi

    def filter(self, transfer: Callable[[Tensor], Tensor]) -> Float[Tensor, " n"]:
        r"""$\bar f + \sum_k H(t_k)\, \phi_k$ in O(n), without the components."""
        gains = transfer(torch.from_numpy(self._times)).double().numpy()
        amounts = gains[self._death[self._leaving]] * self._part
        size = len(self._signal) + 1
        steps = np.bincount(self._tree.start[self._leaving], amounts, size)
        steps -= np.bincount(self._tree.stop[self._leaving], amounts, size)
        return self._out(self.mean + np.cumsum(steps)[:-1])

    def koopman_eigenfunction(self, k: int, a: float = 1.0) -> Callable[[Float[Tensor, "... n"]], Float[Tensor, "..."]]:
        r"""$u \mapsto \exp(a \langle u, p_k\rangle / |p_k|^2)$, which decays like $e^{-at}$ between events k and k + 1.

        Args:
            k: 0 for the time before the first event, below the number of events.
            a: the rate.

        Raises:
            ValueError: for a k without a phase.
        """
        if not 0 <= k < len(self._times):
            raise ValueError(f"k must lie in 0..{len(self._times) - 1}: got {k}")
        p = self.subgradient(0.0 if k == 0 else float(self._times[k - 1] + self._times[k]) / 2).double()
        weighted = p * torch.from_numpy(self._weights).to(p.device)
        unit = weighted / (weighted @ p)
        return lambda u: torch.exp(a * (u.double() @ unit)).to(u.dtype)

    def _alive(self, t: float) -> np.ndarray:
        alive = np.flatnonzero((self._tree.born <= t) & (t < self._tree.died))
        return alive[np.argsort(self._tree.start[alive])]

    def _lines(self, t: float | Tensor, value: Callable[[np.ndarray, float], Floats]) -> Tensor:
        rows = []
        for time in _times(t):
            alive = self._alive(time)
            rows.append(np.repeat(value(alive, time), self._spans(alive)))
        out = self._out(np.stack(rows)) if rows else self._out(np.zeros((0, len(self._signal))))
        return out if isinstance(t, Tensor) and t.ndim else out[0]

    def _spans(self, runs: np.ndarray) -> np.ndarray:
        return self._tree.stop[runs] - self._tree.start[runs]

    def _sums(self, amounts: Floats) -> Floats:
        return np.bincount(self._death[self._leaving], amounts, len(self._times)).astype(float)

    def _out(self, values: Floats) -> Tensor:
        return torch.from_numpy(values).to(self._like)


def checked(signal: Tensor, weights: Tensor | None) -> tuple[Floats, Floats]:
    """Signal and weights as float64 arrays."""
    if not signal.is_floating_point():
        raise TypeError(f"signal must be floating point: got {signal.dtype}")
    if signal.ndim != 1 or signal.numel() < 1:
        raise ValueError(f"signal must have shape (n,) with n >= 1: got {tuple(signal.shape)}")
    f = signal.detach().cpu().double().numpy()
    if not np.isfinite(f).all():
        raise ValueError("signal must be finite: got NaN or infinity")
    if weights is None:
        return f, np.ones(len(f))
    m = weights.detach().cpu().double().numpy()
    if m.shape != f.shape or not (np.isfinite(m).all() and (m > 0).all()):
        raise ValueError(f"weights must be positive, finite and of shape {f.shape}: got {weights}")
    return f, m


def _times(t: float | Tensor) -> list[float]:
    values = t.detach().double().flatten().tolist() if isinstance(t, Tensor) else [float(t)]
    if any(not 0 <= value < math.inf for value in values):
        raise ValueError(f"t must be finite and at least 0: got {t}")
    return values
