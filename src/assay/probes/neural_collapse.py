"""Neural collapse: what frame the last features and the classifier form, and which one theory predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Geometry(NamedTuple):
    """The global optimum of unconstrained features, as `collapse_geometry` finds it.

    Args:
        norms_w: length of each class's row of the last weight matrix $W_M$.
        norms_h: length of each class's feature, an example.
        norms_product: length of each class's row of $W_M \\cdots W_1$.
        collapsed: classes whose rows and features are 0 (minority collapse).
        kind: "of", an orthogonal frame of equal lengths, or "gof", orthogonal with unequal lengths.
    """

    norms_w: Float[Tensor, " k"]
    norms_h: Float[Tensor, " k"]
    norms_product: Float[Tensor, " k"]
    collapsed: Tensor
    kind: str


class Collapse(NamedTuple):
    """What `NeuralCollapse` measures. Lower is more collapsed.

    Args:
        nc1: $\\mathrm{tr}(\\Sigma_W \\Sigma_B^+) / K$, within-class against between-class scatter of the features.
        nc2: distance of the class means' Gram matrix to the frame.
        nc3: $\\| W / \\|W\\| - \\bar H / \\|\\bar H\\| \\|_F$, once the lengths that the frame predicts are taken out.
        gram_h: Gram matrix of the class means, of norm 1.
        gram_w: of the classifier's rows.
        norms_w: length of the classifier's rows.
        norms_h: length of the class means.

    Without weights, what needs them is None.
    """

    nc1: float
    nc2: float
    nc3: float | None
    gram_h: Float[Tensor, "k k"]
    gram_w: Float[Tensor, "k k"] | None
    norms_w: Float[Tensor, " k"] | None
    norms_h: Float[Tensor, " k"]


def collapse_geometry(counts: Sequence[int], lambda_w: float | Sequence[float], lambda_h: float) -> Geometry:
    r"""Lengths at the global minimum of a deep linear network on free features, squared loss, no biases.

    $\frac{1}{2N}\|W_M \cdots W_1 H - Y\|^2 + \sum_j \frac{\lambda_j}{2}\|W_j\|^2 + \frac{\lambda_H}{2}\|H\|^2$ over all
    $W_j$ and one feature an example; Y is one-hot. Classes are orthogonal at every layer, and class k comes by itself:
    with $b = M N (N \lambda_H \prod_j \lambda_j)^{1/M}$, x is the largest root of
    $M x^{M-1} / (x^M + 1)^2 = b / n_k$, and

    $\lambda_j \|w^j_k\|^2 = n_k \lambda_H \|h_k\|^2 = (N \lambda_H \prod_j \lambda_j)^{1/M}\, x$,

    unless $b / n_k \ge (M-1)^{(M-1)/M} / M$, where 0 is lower and the class vanishes. For M = 1 that is
    $n_k \le N^2 \lambda_W \lambda_H$, and $\|w_k\|^2 = \sqrt{n_k \lambda_H / \lambda_W} - N \lambda_H$.

    Args:
        counts: examples of each class, at least 1 each, two classes or more.
        lambda_w: decay of each of the M matrices, positive; one number for M = 1.
        lambda_h: decay of the features, positive.

    Dang et al., 2023 (arXiv:2301.00437), the theorems on imbalanced data; x is theirs.

    Differs from the paper: each layer may have its own decay; the root is found by bisection.

    Raises:
        ValueError: for fewer than two classes, a class without examples, a decay that is not positive.

    Example:
        >>> found = collapse_geometry([60, 30, 10, 2], 5e-3, 1e-4)  # sqrt(60 * 1e-4 / 5e-3) - 102 * 1e-4 = 1.0852
        >>> found.norms_w.square().round(decimals=4).tolist()
        [1.0852, 0.7644, 0.437, 0.1898]
        >>> collapse_geometry([60, 30, 10, 2], 5e-3, 7e-2).collapsed.tolist()  # 102**2 * 5e-3 * 7e-2 = 3.6
        [False, False, False, True]
    """
    if len(counts) < 2 or min(counts) < 1:
        raise ValueError(f"counts must be at least 1 for two classes or more: got {list(counts)}")
    decays = [float(lambda_w)] if isinstance(lambda_w, int | float) else [float(each) for each in lambda_w]
    if not decays or not all(0 < each < math.inf for each in decays):
        raise ValueError(f"lambda_w must be positive for one layer or more: got {lambda_w}")
    if not 0 < lambda_h < math.inf:
        raise ValueError(f"lambda_h must be positive: got {lambda_h}")
    sizes, layers, total = torch.tensor(counts, dtype=torch.float64), len(decays), sum(counts)
    unit = (total * lambda_h * math.prod(decays)) ** (1 / layers)
    ratio = layers * total * unit / sizes
    collapsed = ratio >= (layers - 1) ** ((layers - 1) / layers) / layers
    # Right of the peak of M x^(M-1) / (x^M + 1)^2 it falls, below M x^(-M-1): the largest root lies in between.
    low = torch.full_like(sizes, ((layers - 1) / (layers + 1)) ** (1 / layers))
    high = (layers / ratio) ** (1 / (layers + 1))
    for _ in range(200):
        middle = (low + high) / 2
        above = layers * middle ** (layers - 1) / (middle**layers + 1) ** 2 > ratio
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    x = torch.where(collapsed, torch.zeros_like(low), (low + high) / 2)
    shared = unit * x
    return Geometry(
        (shared / decays[-1]).sqrt(),
        (shared / (sizes * lambda_h)).sqrt(),
        (total * lambda_h * x**layers).sqrt(),
        collapsed,
        "of" if len(set(counts)) == 1 else "gof",
    )


def distance_to(frame: str | Geometry, gram: Tensor, *, of: str = "features") -> float:
    r"""$\| G / \|G\| - G^* / \|G^*\| \|_F$: how far a Gram matrix is from a frame's, lengths apart.

    Args:
        frame: "etf", the simplex $I - 11^\top / K$; "of", the orthogonal frame I; or a `Geometry`, orthogonal with its
            lengths.
        gram: G, (K, K).
        of: which lengths of a `Geometry`: "features", "weights" (the last layer's rows) or "product".

    The paper: its measures of the second property, for weights and features.

    Raises:
        ValueError: for an unknown frame, a matrix that is not K by K, of norm 0 or not finite.

    Example:
        >>> distance_to("of", 7 * torch.eye(4)), round(distance_to("etf", torch.eye(2)), 4)  # |I/sqrt 2 - (I - 11/2)|
        (0.0, 0.7654)
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or len(gram) < 2:
        raise ValueError(f"gram must be (k, k), k at least 2: got {tuple(gram.shape)}")
    size = len(gram)
    if isinstance(frame, Geometry):
        lengths = _lengths(frame, of)
        if len(lengths) != size:
            raise ValueError(f"gram must be as large as the frame, {len(lengths)}: got {size}")
        target = torch.diag(lengths.square())
    elif frame == "etf":
        target = torch.eye(size, dtype=torch.float64) - 1 / size
    elif frame == "of":
        target = torch.eye(size, dtype=torch.float64)
    else:
        raise ValueError(f"frame must be 'etf', 'of' or a Geometry: got {frame!r}")
    return torch.linalg.matrix_norm(_unit("gram", gram.detach().cpu().double()) - _unit("frame", target)).item()


class NeuralCollapse:
    r"""Class means, scatter and alignment of features and classifier, over as many batches as there are.

    Means are not centred: that would make a simplex of every orthogonal frame.

    Args:
        num_classes: K, at least 2.
        frame: what nc2 and nc3 are against, as in `distance_to`.

    The paper: its measures NC1, NC2 and NC3, in float64; scatter is merged batch by batch (Chan et al., 1979).

    Raises:
        ValueError: for fewer than 2 classes; features that are not (n, d) or not finite, labels out of range, another
            width than before; when computed, a class without examples, weights that are not (K, d).

    Example:
        >>> collapse = NeuralCollapse(2, frame="of")
        >>> h = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> found = collapse(h, torch.tensor([0, 0, 1, 1]), torch.eye(2))
        >>> round(found.nc1, 4), round(found.nc2, 4), round(found.nc3, 4)  # means (2, 0) and (0, 2)
        (0.0625, 0.0, 0.0)
    """

    def __init__(self, num_classes: int, *, frame: str | Geometry = "etf") -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2: got {num_classes}")
        distance_to(frame, torch.eye(num_classes))
        self.num_classes, self.frame = num_classes, frame
        self._state: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, features: Tensor, labels: Tensor, weights: Tensor | None = None) -> Collapse:
        """All at once: forget what was seen, `update`, `compute`."""
        self._state = None
        self.update(features, labels)
        return self.compute(weights)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Take a batch in: features (n, d), labels (n,)."""
        if features.ndim != 2 or labels.shape != features.shape[:1]:
            raise ValueError(f"features must be (n, d) and labels (n,): got {(*features.shape,)}, {(*labels.shape,)}")
        if not features.isfinite().all():
            raise ValueError("features must be finite: got NaN or infinity")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(f"labels must lie in 0..{self.num_classes - 1}: got {labels.min()} to {labels.max()}")
        h, k = features.detach().double(), self.num_classes
        member = torch.zeros(k, len(h), dtype=h.dtype, device=h.device)
        member[labels, torch.arange(len(h), device=h.device)] = 1
        counts = member.sum(1)
        means = member @ h / counts.clamp(min=1)[:, None]
        rest = h - means[labels]
        scatter = rest.T @ rest
        if self._state is not None:
            if self._state[1].shape != means.shape:
                raise ValueError(f"features must be as wide as before, {self._state[1].shape[1]}: got {h.shape[1]}")
            before, old, inner = self._state
            both, gap = (before + counts).clamp(min=1), means - old
            scatter = scatter + inner + gap.T @ (gap * (before * counts / both)[:, None])
            means, counts = old + gap * (counts / both)[:, None], before + counts
        self._state = counts, means, scatter

    def compute(self, weights: Tensor | None = None) -> Collapse:
        """The measures of everything seen; `weights` (K, d) is the classifier that takes these features."""
        if self._state is None or float(self._state[0].min()) == 0:
            missing = [] if self._state is None else (self._state[0] == 0).nonzero()[:, 0].tolist()
            raise ValueError(f"every class must have examples: got none of {missing or 'any'}")
        counts, means, scatter = self._state
        total = counts.sum()
        spread = means - (counts @ means) / total
        between = torch.linalg.pinv(spread.T @ spread / self.num_classes, hermitian=True)
        nc1 = ((scatter / total) * between).sum().item() / self.num_classes
        gram_h = _unit("class means", means @ means.T)
        nc2 = distance_to(self.frame, gram_h)
        norms_h = means.norm(dim=1)
        if weights is None:
            return Collapse(nc1, nc2, None, gram_h, None, None, norms_h)
        if weights.shape != means.shape:
            raise ValueError(f"weights must be {tuple(means.shape)}: got {tuple(weights.shape)}")
        w = weights.detach().to(means)
        one, other = w, means
        if isinstance(self.frame, Geometry):
            one = w / _or_one(_lengths(self.frame, "product")).to(means)[:, None]
            other = means / _or_one(self.frame.norms_h).to(means)[:, None]
        nc3 = (_unit("weights", one) - _unit("class means", other)).norm().item()
        return Collapse(nc1, nc2, nc3, gram_h, _unit("weights", w @ w.T), w.norm(dim=1), norms_h)


class UnconstrainedFeatures(nn.Module):
    r"""A deep linear network whose inputs, one an example, are weights themselves; Gaussian at the start.

    Args:
        counts: examples of each class, at least 1.
        dim: width of features and hidden layers, at least the number of classes.
        num_layers: M, at least 1.
        bias: whether the last layer has one.
        std: of all entries at the start, positive.
        generator: where they come from.

    The paper: the unconstrained feature model; `forward()` gives (N, K).

    Raises:
        ValueError: for a class without examples, `dim` below K, no layers, a spread that is not positive.

    Example:
        >>> model = UnconstrainedFeatures([3, 1], 2)
        >>> _ = nn.init.zeros_(model.features)
        >>> model.layers[0].data = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> model().shape, model.objective([0.5], 0.1).item()  # (|Y|^2 / 4 + 0.5 * 14) / 2
        (torch.Size([4, 2]), 4.0)
    """

    def __init__(
        self,
        counts: Sequence[int],
        dim: int,
        *,
        num_layers: int = 1,
        bias: bool = False,
        std: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(counts) < 2 or min(counts) < 1:
            raise ValueError(f"counts must be at least 1 for two classes or more: got {list(counts)}")
        if dim < len(counts):
            raise ValueError(f"dim must be at least the number of classes, {len(counts)}: got {dim}")
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1: got {num_layers}")
        if not 0 < std < math.inf:
            raise ValueError(f"std must be positive: got {std}")

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(std * torch.randn(*shape, generator=generator))

        self.features = drawn(sum(counts), dim)
        heights = [dim] * (num_layers - 1) + [len(counts)]
        self.layers = nn.ParameterList(drawn(height, dim) for height in heights)
        self.bias = nn.Parameter(torch.zeros(len(counts))) if bias else None
        self.register_buffer("labels", torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))

    labels: Int[Tensor, " n"]

    def forward(self) -> Float[Tensor, "n k"]:
        out: Tensor = self.features
        for weight in self.layers:
            out = out @ weight.T
        return out if self.bias is None else out + self.bias

    def objective(self, lambda_w: Sequence[float], lambda_h: float) -> Float[Tensor, ""]:
        """What `collapse_geometry` is the minimum of."""
        if len(lambda_w) != len(self.layers):
            raise ValueError(f"lambda_w must be one number for each of {len(self.layers)} layers: got {len(lambda_w)}")
        wrong = self() - nn.functional.one_hot(self.labels, len(self.layers[-1])).to(self.features)
        value = wrong.square().sum() / len(wrong) + lambda_h * self.features.square().sum()
        for decay, weight in zip(lambda_w, self.layers, strict=True):
            value = value + decay * weight.square().sum()
        return value / 2


def _lengths(frame: Geometry, of: str) -> Tensor:
    kinds = {"features": frame.norms_h, "weights": frame.norms_w, "product": frame.norms_product}
    if of not in kinds:
        raise ValueError(f"of must be one of {', '.join(map(repr, kinds))}: got {of!r}")
    return kinds[of]


def _unit(name: str, matrix: Tensor) -> Tensor:
    norm = matrix.norm()
    if not 0 < norm < math.inf:
        raise ValueError(f"{name} must be finite and not 0: got a norm of {norm}")
    return matrix / norm


def _or_one(lengths: Tensor) -> Tensor:
    return torch.where(lengths > 0, lengths, torch.ones_like(lengths))
