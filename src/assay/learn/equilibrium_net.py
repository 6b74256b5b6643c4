"""A network that settles, with feedback weights of its own, and what makes its feedback symmetric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

State = list[Tensor]


def steep_sigmoid(z: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    r"""$1 / (1 + e^{2 - 4z})$: the logistic function of slope 1 at its middle, which is at one half; holomorphic.

    Example:
        >>> steep_sigmoid(torch.tensor([0.0, 0.5, 1.0])).round(decimals=4)
        tensor([0.1192, 0.5000, 0.8808])
    """
    return torch.sigmoid(4 * z - 2)


def dsilu(z: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    r"""$\frac z2 \sigma(z) + (1 - \frac z2)\, \sigma(z - 2)$: silu less a silu two further on; from 0 to 1;
    holomorphic.

    Example:
        >>> dsilu(torch.tensor([-20.0, 1.0, 20.0])).round(decimals=4) + 0.0
        tensor([0.0000, 0.5000, 1.0000])
    """
    half = z / 2
    return half * torch.sigmoid(z) + (1 - half) * torch.sigmoid(z - 2)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": steep_sigmoid, "dsilu": dsilu, "tanh": torch.tanh}
# s'(u), from u.
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda z: 4 * torch.sigmoid(4 * z - 2) * torch.sigmoid(2 - 4 * z),
    "dsilu": lambda z: (
        (torch.sigmoid(z) * (1 + z * torch.sigmoid(-z)) - torch.sigmoid(z - 2) * (1 + (z - 2) * torch.sigmoid(2 - z)))
        / 2
    ),
    "tanh": lambda z: 1 - torch.tanh(z).square(),
}


class EquilibriumNet(nn.Module):
    r"""Layers that drive each other both ways, and the point at which they rest.

    $u_l \leftarrow W_l\, s(u_{l-1}) + b_l + V_l\, s(u_{l+1})$ for all layers at once, $s(u_0) = x$, until nothing
    moves; then a linear readout of $s(u_L)$. $V_l$ is not $W_{l+1}^\top$, but starts at an angle to it,
    $V_l = \sin(\phi) R_l + \cos(\phi) W_{l+1}^\top$ with random $R_l$.

    Called like any classifier, it settles from rest for `steps` steps, of which the last `tracked` have a graph:
    backpropagation through these is the gradient that equilibrium propagation is measured against.

    Args:
        sizes: of the input and of each layer, two or more.
        num_classes: of the readout, at least 1.
        activation: `"sigmoid"` (`steep_sigmoid`), `"dsilu"` or `"tanh"`; all are holomorphic near the real line.
        angle: $\phi$ in degrees, in [0, 90].
        steps: of the free phase in `forward`, at least 1.
        tracked: steps of it with a graph, from 0 to `steps`.
        generator: where initial weights come from; W and R are normal with variance 1 / fan in, biases 0.

    Attributes:
        residual: how far a step would move the state when the last `settle` ended, root mean square over units, the
            largest of the batch; a tensor of one number. Gradients of equilibrium propagation are only as exact as this
            is small.

    Laborieux & Zenke, 2024 (arXiv:2309.02214), equations 1 and 7 and appendix; weights and slopes of the authors' code.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> net = EquilibriumNet((4, 6, 3), num_classes=2, steps=200, generator=torch.Generator().manual_seed(0))
        >>> x = torch.rand(5, 4)
        >>> u = net.settle(x, steps=200)
        >>> all(torch.allclose(a, b, atol=1e-5) for a, b in zip(u, net.step(u, x)))  # at rest
        True
        >>> torch.allclose(net(x), net.logits(u), atol=1e-5)
        True
    """

    def __init__(
        self,
        sizes: Sequence[int] = (784, 256, 256, 10),
        num_classes: int = 10,
        *,
        activation: str = "sigmoid",
        angle: float = 0.0,
        steps: int = 150,
        tracked: int = 20,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes must be two or more, each at least 1: got {tuple(sizes)}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1: got {num_classes}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be holomorphic, one of {', '.join(ACTIVATIONS)}: got {activation!r}")
        if not 0 <= angle <= 90:
            raise ValueError(f"angle must lie in [0, 90] degrees: got {angle}")
        if steps < 1 or not 0 <= tracked <= steps:
            raise ValueError(f"steps must be at least 1 and tracked between 0 and steps: got {steps} and {tracked}")
        self.activation, self.steps, self.tracked = activation, steps, tracked
        self.feed = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.back = nn.ModuleList(nn.Linear(b, a, bias=False) for a, b in pairwise(sizes[1:]))
        self.readout = nn.Linear(sizes[-1], num_classes)
        turn = math.radians(angle)
        with torch.no_grad():
            for layer in (*self.feed, *self.back, self.readout):
                layer.weight.normal_(0, layer.in_features**-0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()
            for back, feed in zip(self.back, self.feed[1:], strict=True):
                back.weight.mul_(math.sin(turn)).add_(feed.weight.T, alpha=math.cos(turn))
        self.residual = torch.tensor(math.nan)

    def rest(self, x: Shaped[Tensor, "n ..."]) -> State:
        """u = 0 for each layer, of the kind that x is."""
        return [x.new_zeros(len(x), layer.out_features) for layer in self.feed]  # type: ignore[misc]

    def step(self, u: State, x: Shaped[Tensor, "n ..."], nudge: Shaped[Tensor, "n k"] | None = None) -> State:
        """F(u, x): one step of all layers, `nudge` added to what the last is driven by.

        Args:
            u: (n, size) a layer, real or complex.
            x: (n, ...); flattened.
            nudge: of the shape of the last layer.
        """
        act = ACTIVATIONS[self.activation]
        return self.drive([act(each) for each in u], x, nudge)

    def drive(self, s: State, x: Shaped[Tensor, "n ..."], nudge: Shaped[Tensor, "n k"] | None = None) -> State:
        """What each layer is driven by at the activations s; linear in them."""
        below = [x.flatten(1), *s[:-1]]
        new = [linear(layer, each) for layer, each in zip(self.feed, below, strict=True)]
        for number, layer in enumerate(self.back):
            new[number] = new[number] + linear(layer, s[number + 1])
        if nudge is not None:
            new[-1] = new[-1] + nudge
        return new

    def settle(
        self,
        x: Shaped[Tensor, "n ..."],
        *,
        steps: int = 150,
        u0: State | None = None,
        nudge: Callable[[Tensor], Tensor] | None = None,
    ) -> State:
        """The state after so many steps, from rest or from `u0`; `residual` tells how much it still moves.

        Args:
            x: (n, ...).
            steps: 0 or more.
            u0: where to start.
            nudge: s(u_L) -> what the last layer is driven by in addition.
        """
        act = ACTIVATIONS[self.activation]
        u = self.rest(x) if u0 is None else list(u0)
        before = u
        for _ in range(steps):
            before = u
            s = [act(each) for each in u]
            u = self.drive(s, x, None if nudge is None else nudge(s[-1]))
        if steps:
            moved = torch.cat([(a - b).detach().abs() for a, b in zip(u, before, strict=True)], dim=1)
            self.residual = moved.square().mean(1).sqrt().max()
        return u

    def logits(self, u: State) -> Shaped[Tensor, "n k"]:
        """The readout of the last layer."""
        return linear(self.readout, ACTIVATIONS[self.activation](u[-1]))

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        with torch.no_grad():
            u = self.settle(x, steps=self.steps - self.tracked)
        return self.logits(self.settle(x, steps=self.tracked, u0=u))

    def jacobian(self) -> Float[Tensor, "units units"]:
        r"""$J = \partial F / \partial s$ over all units, layer after layer: W below the diagonal, V above it.

        In this wiring it hangs neither on the state nor on the input.
        """
        sizes = [layer.out_features for layer in self.feed]
        rows = [[torch.zeros(a, b, dtype=self.readout.weight.dtype) for b in sizes] for a in sizes]
        for number, layer in enumerate(self.back):
            rows[number][number + 1] = layer.weight
            rows[number + 1][number] = self.feed[number + 1].weight
        return torch.cat([torch.cat([each.to(self.readout.weight) for each in row], dim=1) for row in rows])

    def symmetry(self) -> float:
        r"""$\|S\| / (\|S\| + \|A\|)$ of the symmetric and antisymmetric parts of J; 1 if symmetric, 1/2 by chance."""
        j = self.jacobian().detach()
        even, odd = (j + j.T).norm(), (j - j.T).norm()
        return (even / (even + odd)).item()


def jacobian_homeostasis(
    model: EquilibriumNet, samples: int = 1, *, probes: int = 5, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    r"""$\frac1{n_u} E_\varepsilon \left[\|J \varepsilon\|^2 - \varepsilon^\top J^2 \varepsilon\right]$, 0 where J is
    symmetric.

    As $\|J\|_F^2 - \mathrm{tr}(J^2) = \frac12 \|J - J^\top\|_F^2$, it is an unbiased estimate of
    $\|J - J^\top\|_F^2 / (2 n_u)$ for $\varepsilon \sim N(0, I)$ over the $n_u$ units. There is a gradient for W and V.

    Args:
        model: whose J; it does not hang on the state there.
        samples: $\varepsilon$ a probe, which stand for the examples of a batch, at least 1.
        probes: at least 1; the mean over all is taken.
        generator: where $\varepsilon$ comes from.

    The paper: equations 10 and 11.

    Raises:
        ValueError: for counts below 1.

    Example:
        >>> net = EquilibriumNet((4, 30, 20), generator=torch.Generator().manual_seed(0))  # tied
        >>> round(jacobian_homeostasis(net, 10, generator=torch.Generator().manual_seed(0)).item(), 5) + 0.0
        0.0
    """
    if samples < 1 or probes < 1:
        raise ValueError(f"samples and probes must be at least 1: got {samples} and {probes}")
    like = model.readout.weight
    sizes = [layer.out_features for layer in model.feed]
    device = like.device if generator is None else generator.device
    rows = probes * samples
    eps = [torch.randn(rows, size, generator=generator, device=device).to(like) for size in sizes]

    def times(v: State) -> State:
        """J v for each row."""
        below = [F.linear(v[number], layer.weight) for number, layer in enumerate(model.feed[1:])]
        above = [F.linear(v[number + 1], layer.weight) for number, layer in enumerate(model.back)]
        zero = torch.zeros_like(v[0]), torch.zeros_like(v[-1])
        return [a + b for a, b in zip([zero[0], *below], [*above, zero[1]], strict=True)]

    once = times(eps)
    twice = times(once)
    total = sum(a.square().sum() - (e * b).sum() for a, b, e in zip(once, twice, eps, strict=True))
    return torch.as_tensor(total) / (rows * sum(sizes))


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer of real weights on real or complex input."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    if x.is_complex():
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    return F.linear(x, weight, bias)
