"""A network of a few hidden units, fitted to numbers by least squares and L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import nn

Array = NDArray[np.float64]


class Activation(NamedTuple):
    """A function, its slope as a function of what it gives, its module, what its Glorot bounds have over the ends."""

    forward: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    module: type[nn.Module]
    gain: float = 6.0


ACTIVATIONS = {
    "sigmoid": Activation(expit, lambda a: a * (1 - a), nn.Sigmoid, gain=2.0),
    "tanh": Activation(np.tanh, lambda a: 1 - a * a, nn.Tanh),
    "relu": Activation(lambda z: np.maximum(z, 0.0), lambda a: (a > 0).astype(float), nn.ReLU),
    "identity": Activation(lambda z: z, np.ones_like, nn.Identity),
}
"""The activations by name."""


class SmallNetwork(NamedTuple):
    r"""$h(x) = \sigma(x W + b) V + c$ in float64: d inputs, J hidden units, k outputs.

    NumPy, because an evaluation takes some microseconds, of which torch's graph would make a multiple.

    Args:
        W: (d, J).
        b: (J).
        V: (J, k).
        c: (k).
        activation: $\sigma$, one of `ACTIVATIONS`.

    Example:
        >>> x, seeded = np.array([[-1.0], [2.0]]), torch.Generator().manual_seed(0)
        >>> line = SmallNetwork.drawn(1, 1, 1, "identity", seeded)
        >>> round(line.fitted(x, 2 * x - 1, alpha=0.0, max_iter=99, tol=0.0)(np.array([[4.0]])).item(), 2)
        7.0
    """

    W: Array
    b: Array
    V: Array
    c: Array
    activation: str

    @staticmethod
    def drawn(d: int, units: int, outputs: int, activation: str, generator: torch.Generator | None) -> SmallNetwork:
        """Weights and biases uniform within the root of 6 (sigmoid: 2) over the ends of a layer (Glorot and Bengio)."""
        j, k, gain = units, outputs, ACTIVATIONS[activation].gain
        drawn = 2 * torch.rand(d * j + j + j * k + k, generator=generator, dtype=torch.float64) - 1
        W, b, V, c = (each.numpy() for each in drawn.split([d * j, j, j * k, k]))
        first, second = math.sqrt(gain / (d + j)), math.sqrt(gain / (j + k))
        return SmallNetwork(first * W.reshape(d, j), first * b, second * V.reshape(j, k), second * c, activation)

    def __call__(self, x: Array) -> Array:
        """Outputs (n, k) for x (n, d)."""
        values: Array = ACTIVATIONS[self.activation].forward(x @ self.W + self.b) @ self.V + self.c
        return values

    def fitted(self, x: Array, r: Array, *, alpha: float, max_iter: int, tol: float) -> SmallNetwork:
        r"""After L-BFGS, from here, on $\frac{1}{2n} (\|r - h(x)\|^2 + \alpha \|W\|^2 + \alpha \|V\|^2)$."""
        forward, slope, *_ = ACTIVATIONS[self.activation]
        weights, n = self[:4], len(x)
        shapes = [each.shape for each in weights]
        ends = np.cumsum([0, *(each.size for each in weights)])

        def parts(flat: Array) -> SmallNetwork:
            views = (flat[i:j].reshape(shape) for i, j, shape in zip(ends[:-1], ends[1:], shapes, strict=True))
            return SmallNetwork(*views, self.activation)

        def objective(flat: Array) -> tuple[float, Array]:
            W, b, V, c, _ = parts(flat)
            a = forward(x @ W + b)
            error = a @ V
            error += c - r
            value = np.vdot(error, error) + alpha * (np.vdot(W, W) + np.vdot(V, V))
            back = error @ V.T
            back *= slope(a)
            gradient = alpha * flat
            slopes = parts(gradient)
            np.add(slopes.W, x.T @ back, out=slopes.W)
            np.add(slopes.V, a.T @ error, out=slopes.V)
            back.sum(0, out=slopes.b)
            error.sum(0, out=slopes.c)
            gradient /= n
            return value / (2 * n), gradient

        flat = np.concatenate([each.ravel() for each in weights])
        options = {"maxiter": max_iter, "gtol": tol}
        return parts(minimize(objective, flat, jac=True, method="L-BFGS-B", options=options).x)
