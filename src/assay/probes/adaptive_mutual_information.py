"""What a layer knows of its input and of the label, by estimators that adapt to its activity (Chelombiev et al., 2019).

arXiv:1902.09037. A deterministic layer of continuous units determines its input, so the information is that of a
coarser variable: of bins that the activations fall into, or of the activations with noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from assay.probes.local_linear import evaluating


def entropy_bins(
    activations: Float[Tensor, "n d"], num_bins: int = 30, low: float | None = None
) -> Float[Tensor, " b"]:
    r"""Edges that give all bins equally many distinct values: $[\text{low}, v_{\lfloor k m / B \rfloor}, v_m]$.

    $v_1 < \dots < v_m$ are the distinct activations of all units of the layer, but `low`; $k = 0 \dots B - 1$.

    Args:
        activations: of one layer at one time, (n, d).
        num_bins: B, at least 2.
        low: an edge of its own below all others. None is 0 where no activation is negative (so that the zeros of a ReLU
            share a bin), else just below the least.

    Returns:
        The edges in order, at most B + 2: bin k holds edge k up to, not including, edge k + 1.

    Chelombiev et al., 2019 (arXiv:1902.09037), section 3.1 (entropy-based adaptive binning); the indices are those of
    the authors' code.

    Raises:
        ValueError: for fewer than 2 bins or examples, activations that are not finite, or below `low`.

    Example:
        >>> entropy_bins(torch.tensor([[0.0], [0.0], [1.0], [2.0], [10.0], [50.0]]), 2)
        tensor([ 0.,  1., 10., 50.], dtype=torch.float64)
    """
    values = _checked(activations).unique()
    if num_bins < 2:
        raise ValueError(f"num_bins must be at least 2: got {num_bins}")
    least = float(values[0])
    if low is None:
        low = 0.0 if least >= 0 else least - 1e-6 * max(1.0, abs(least))
    if least < low:
        raise ValueError(f"low must not be above the least activation {least}: got {low}")
    values = values[values != low]
    edge = values.new_tensor([low])
    if not len(values):
        return edge
    index = (torch.arange(num_bins, dtype=torch.float64) * (len(values) / num_bins)).long()
    return torch.cat([edge, values[index.to(values.device)], values[-1:]]).unique()


def binned_information(
    activations: Float[Tensor, "n d"],
    labels: Int[Tensor, " labels"],
    *,
    bins: str | Tensor = "adaptive",
    num_bins: int = 30,
    low: float | None = None,
    inputs: Int[Tensor, " inputs"] | None = None,
) -> tuple[float, float]:
    r"""$I(T;X) = H(T) - H(T \mid X)$ and $I(T;Y) = H(T) - \sum_y p(y) H(T \mid y)$ in bits, T the bins of all units.

    Args:
        activations: of one layer, (n, d). Every unit is cut by the same edges; T is the tuple of its bins.
        labels: Y, whole numbers.
        bins: `"adaptive"` for `entropy_bins`; `"uniform"` for `num_bins` edges from 0 (or the least activation, where
            that is negative) to the greatest; or edges, for limits that hold for a whole run.
        num_bins: at least 2.
        low: of `entropy_bins`.
        inputs: which examples are the same input. None takes each for another one, and then $H(T \mid X)$ is 0.

    Returns:
        I(T;X), at most log2 n, and I(T;Y), at most the entropy of the labels. Exactly 0 for a constant layer.

    Chelombiev et al., 2019 (arXiv:1902.09037), sections 2.2 and 3.1.

    Raises:
        ValueError: as for `entropy_bins`; labels or inputs of another length, an unknown kind of bins.

    Example:
        >>> layer, y = torch.tensor([[0.0], [0.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
        >>> binned_information(layer, y)     # the zeros cannot be told apart
        (1.5, 1.0)
    """
    values = _checked(activations)
    _same_length(values, labels=labels, **({} if inputs is None else {"inputs": inputs}))
    if isinstance(bins, Tensor):
        edges = bins.to(values)
        if edges.ndim != 1 or len(edges) < 2 or not bool((edges.diff() >= 0).all()):
            raise ValueError(f"bins must be edges in order, at least 2: got {tuple(edges.shape)}")
    elif bins == "adaptive":
        edges = entropy_bins(values, num_bins, low)
    elif bins == "uniform":
        if num_bins < 2:
            raise ValueError(f"num_bins must be at least 2: got {num_bins}")
        edges = torch.linspace(min(0.0, float(values.min())), float(values.max()), num_bins).to(values)
    else:
        raise ValueError(f"bins must be 'adaptive', 'uniform' or edges: got {bins!r}")
    symbol = _codes(torch.searchsorted(edges, values, right=True), len(edges) + 1)
    whole = _entropy(symbol)
    given_x = 0.0 if inputs is None else _conditional(symbol, inputs)
    return max(whole - given_x, 0.0), max(whole - _conditional(symbol, labels), 0.0)


def kde_information(
    activations: Float[Tensor, "n d"],
    labels: Int[Tensor, " labels"],
    *,
    noise: float = 1e-3,
    adaptive: bool = True,
    bound: str = "upper",
    chunk: int = 1024,
) -> tuple[float, float]:
    r"""I(T';X) and I(T';Y) in bits of $T' = T + N(0, \sigma^2 I)$, by bounds on the entropy of a mixture of Gaussians.

    $I(T';X) = -\frac1n \sum_i \log \frac1n \sum_j \exp(-\|t_i - t_j\|^2 / (2 \sigma^2))$ bounds it from above; from
    below with $8 \sigma^2$. Of I(T';Y) the same sums within each class are taken off, weighted by their shares.

    Args:
        activations: of one layer, (n, d).
        labels: Y.
        noise: $\sigma^2$, above 0; with `adaptive` in units of $\max |t|^2$.
        adaptive: scale the noise with the activity of the layer, by which scaling the layer changes nothing.
        bound: `"upper"` (Kullback-Leibler) or `"lower"` (Bhattacharyya).
        chunk: rows of distances at a time.

    Kolchinsky and Tracey, 2017 (arXiv:1706.02419), equations 10 and 11; adaptive noise: Chelombiev et al., 2019
    (arXiv:1902.09037), section 3.2.

    Differs from the paper: the scale of the noise is the square of the greatest activation times 1e-3 (the fixed
    variance of Saxe et al., 2018, where that is 1); the authors' code adds noise of deviation 0.01, once, and puts 0.01
    for the variance into the bound.

    Raises:
        ValueError: as for `binned_information`; noise that is not above 0, an unknown bound.

    Example:
        >>> layer, y = torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([0, 0, 1, 1])
        >>> kde_information(layer, y)
        (1.0, 1.0)
    """
    values = _checked(activations)
    _same_length(values, labels=labels)
    if not 0 < noise < math.inf:
        raise ValueError(f"noise must be above 0 and finite: got {noise}")
    if bound not in ("upper", "lower"):
        raise ValueError(f"bound must be 'upper' or 'lower': got {bound!r}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1: got {chunk}")
    largest = float(values.abs().max())
    if bool((values == values[0]).all()):
        return 0.0, 0.0
    width = (8 if bound == "lower" else 2) * noise * (largest**2 if adaptive else 1.0)

    def spread(points: Tensor) -> float:
        rows = [
            torch.logsumexp(-(torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist") ** 2) / width, 1)
            for part in points.split(chunk)
        ]
        return (math.log(len(points)) - float(torch.cat(rows).mean())) / math.log(2)

    whole = spread(values)
    within = sum(
        float((labels == y).double().mean()) * spread(values[labels.to(values.device) == y]) for y in labels.unique()
    )
    return max(whole, 0.0), max(whole - within, 0.0)


class InformationPlane:
    """Where the layers of a network are on the plane of I(T;X) and I(T;Y), epoch after epoch.

    Args:
        layers: names of modules, whose outputs are looked at.
        inputs: the examples.
        labels: their labels.
        estimator: estimator(activations (n, d), labels) -> I(T;X), I(T;Y).
        every: looks are taken at the first call of `on_epoch` and each `every`-th after it.
        networks: for a `BatchedMLP`, how many it is; each is then looked at by itself.

    Chelombiev et al., 2019 (arXiv:1902.09037), section 4.

    Raises:
        ValueError: for no layers, labels of another length than inputs, `every` below 1; when called, for a name that
            is not in the model.

    Example:
        >>> plane = InformationPlane(["0"], torch.eye(4), torch.tensor([0, 0, 1, 1]))
        >>> model = nn.Sequential(nn.Linear(4, 1, bias=False))
        >>> _ = nn.init.ones_(model[0].weight)
        >>> plane.on_epoch(model)
        >>> model[0].weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> plane.on_epoch(model)
        >>> plane.curves[:, 0]
        tensor([[0., 0.],
                [2., 1.]], dtype=torch.float64)
    """

    def __init__(
        self,
        layers: Sequence[str],
        inputs: Tensor,
        labels: Tensor,
        *,
        estimator: Callable[[Tensor, Tensor], tuple[float, float]] = binned_information,
        every: int = 1,
        networks: int | None = None,
    ) -> None:
        if not layers:
            raise ValueError("layers must name at least one module: got none")
        if every < 1:
            raise ValueError(f"every must be at least 1: got {every}")
        _same_length(inputs, labels=labels)
        self.layers, self.inputs, self.labels = list(layers), inputs, labels
        self.estimator, self.every, self.networks = estimator, every, networks
        self._calls, self._looks = 0, list[Tensor]()

    def on_epoch(self, model: nn.Module) -> None:
        """Take a look, if it is time."""
        self._calls += 1
        if (self._calls - 1) % self.every == 0:
            self._looks.append(self.look(model))

    def look(self, model: nn.Module) -> Float[Tensor, "layers ..."]:
        """(layers, 2), or (layers, networks, 2), of the model as it is now; nothing is kept."""
        known = dict(model.named_modules())
        for name in self.layers:
            if name not in known:
                raise ValueError(f"layers must be modules of the model: got {name!r}")
        outputs: dict[str, Tensor] = {}
        handles: list[Any] = []
        try:
            for name in self.layers:
                handles.append(
                    known[name].register_forward_hook(
                        lambda _m, _i, out, name=name: outputs.update({name: out.detach().clone()})
                    )
                )
            with evaluating(model), torch.no_grad():
                model(self.inputs)
        finally:
            for handle in handles:
                handle.remove()
        rows = []
        for name in self.layers:
            if self.networks is None:
                rows.append(torch.tensor(self.estimator(outputs[name].flatten(1), self.labels), dtype=torch.float64))
            else:
                each = [self.estimator(outputs[name][k], self.labels) for k in range(self.networks)]
                rows.append(torch.tensor(each, dtype=torch.float64))
        return torch.stack(rows)

    @property
    def curves(self) -> Float[Tensor, "t layers ..."]:
        """(t, layers, 2): I(T;X) and I(T;Y) at each look; (t, layers, networks, 2) for several networks."""
        if not self._looks:
            raise ValueError("curves need at least one look: on_epoch was not called")
        return torch.stack(self._looks)


def compression(
    i_tx: Float[Tensor, "t ..."],
    epochs: Sequence[float] | None = None,
    *,
    early: tuple[float, float] = (0.02, 0.2),
    late: tuple[float, float] = (0.8, 1.0),
) -> Float[Tensor, "..."]:
    """How much of the input is forgotten during training: the mean of I(T;X) early minus that late, in bits.

    The windows are fixed beforehand: the greatest value minus the last is above 0 for noise alone.

    Args:
        i_tx: I(T;X) at t times; further dimensions (layers, networks) are kept.
        epochs: when they were taken; None is 1 to t.
        early: first and last epoch of a window, as shares of the last epoch of all.
        late: another window.

    Raises:
        ValueError: for epochs of another length, or a window with no epoch in it.

    Example:
        >>> compression(torch.tensor([12.0, 11.0, 10.0, 9.0, 8.0]), early=(0.1, 0.4), late=(0.8, 1.0))  # 11.5 - 8.5
        tensor(3.)
    """
    times = torch.arange(1, len(i_tx) + 1) if epochs is None else torch.as_tensor(epochs)
    _same_length(i_tx, epochs=times)
    means = []
    for name, (first, last) in (("early", early), ("late", late)):
        inside = (times >= first * times.max()) & (times <= last * times.max())
        if not bool(inside.any()):
            raise ValueError(f"{name} must hold at least one epoch: got {(first, last)}")
        means.append(i_tx[inside].mean(0))
    return means[0] - means[1]


def _checked(activations: Tensor) -> Tensor:
    if activations.ndim != 2 or len(activations) < 2:
        raise ValueError(f"activations must be (n, d) with n at least 2: got {tuple(activations.shape)}")
    if not bool(activations.isfinite().all()):
        raise ValueError("activations must be finite: got NaN or infinity")
    return activations.detach().double()


def _same_length(first: Tensor, **others: Tensor) -> None:
    for name, other in others.items():
        if len(other) != len(first):
            raise ValueError(f"{name} must be as many as there are examples, {len(first)}: got {len(other)}")


def _codes(digits: Tensor, base: int) -> Tensor:
    """One whole number a row, equal where the rows are; as many columns at once as 62 bits hold."""
    at_once = max(1, int(40 / math.log2(base)))
    code = torch.zeros(len(digits), dtype=torch.long, device=digits.device)
    for part in digits.split(at_once, dim=1):
        for column in part.T:
            code = code * base + column
        code = code.unique(return_inverse=True)[1]  # below n again
    return code


def _entropy(code: Tensor) -> float:
    count = code.unique(return_counts=True)[1].double()
    share = count / count.sum()
    return float(-(share * share.log2()).sum()) + 0.0


def _conditional(code: Tensor, given: Tensor) -> float:
    """H(T | G) = H(T, G) - H(G)."""
    group = given.to(code.device).unique(return_inverse=True)[1]
    return _entropy(code * (int(group.max()) + 1) + group) - _entropy(group)
