"""Whether a network could have learned anything else: data with their sense taken out, and how soon they are fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.data import Labelled
from assay.train import accuracy, fit

KINDS = ("labels", "partial", "shuffled_pixels", "random_pixels", "gaussian")


class Curve(NamedTuple):
    """How a training set was fitted, as `fit_curve` saw it.

    Args:
        train_accuracy: after each epoch, in evaluation mode.
        epochs_to_target: the first epoch, counted from 1, that reached the target; None if none did.
        test_accuracy: at the end; None without test examples.
    """

    train_accuracy: Float[Tensor, " epochs"]
    epochs_to_target: int | None
    test_accuracy: float | None


def randomize(
    dataset: Labelled,
    kind: str = "labels",
    *,
    p: float = 1.0,
    num_classes: int | None = None,
    generator: torch.Generator | None = None,
) -> Labelled:
    """Training examples without what could be learned from them; as many, of the same shapes.

    Args:
        dataset: inputs (n, ...) and integer labels (n,); left as they are.
        kind: `"labels"` draws every label anew, uniformly; `"partial"` each with probability `p`;
            `"shuffled_pixels"` puts the pixels of all images into one new order, `"random_pixels"` those of each image
            into its own; `"gaussian"` draws all inputs from the normal distribution with the data's mean and variance.
        p: for `"partial"`, in [0, 1]. A label drawn anew may be the right one.
        num_classes: labels are drawn from 0..num_classes - 1; None takes one more than the largest there is.
        generator: where the randomness comes from. Everything is drawn once, here: the same run sees the same data in
            every epoch.

    Zhang et al., 2017 (arXiv:1611.03530), section 2.1. Pixels are moved with all their channels.

    Raises:
        ValueError: for no examples, an unknown kind, `p` out of range, labels beyond `num_classes`.

    Example:
        >>> four = Labelled(torch.arange(8.0).view(2, 1, 2, 2), torch.tensor([0, 1]))
        >>> mixed = randomize(four, "shuffled_pixels", generator=torch.Generator().manual_seed(1))
        >>> (mixed.inputs[1] - mixed.inputs[0]).unique(), mixed.inputs[0].flatten().sort().values, mixed.targets
        (tensor([4.]), tensor([0., 1., 2., 3.]), tensor([0, 1]))
    """
    inputs, targets = dataset
    count = len(targets)
    if count == 0 or len(inputs) != count:
        raise ValueError(
            f"dataset must have as many targets as inputs, at least 1: got {count} targets, {len(inputs)} inputs"
        )
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}: got {kind!r}")
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1]: got {p}")
    where = inputs.device if generator is None else generator.device
    if kind in ("labels", "partial"):
        classes = int(targets.max()) + 1 if num_classes is None else num_classes
        if int(targets.max()) >= classes:
            raise ValueError(f"num_classes must be above every label: got {classes} and a label {int(targets.max())}")
        drawn = torch.randint(classes, (count,), generator=generator, device=where).to(targets)
        again = torch.rand(count, generator=generator, device=where).to(targets.device) < p
        return Labelled(inputs, torch.where(again, drawn, targets) if kind == "partial" else drawn)
    if kind == "gaussian":
        noise = torch.randn(inputs.shape, generator=generator, device=where, dtype=inputs.dtype).to(inputs.device)
        return Labelled(inputs.mean() + inputs.std() * noise, targets)
    pixels = inputs.flatten(2) if inputs.ndim > 2 else inputs[:, None]
    rows = 1 if kind == "shuffled_pixels" else count
    order = torch.rand(rows, pixels.shape[2], generator=generator, device=where).argsort(1).to(inputs.device)
    return Labelled(pixels.gather(2, order[:, None].expand(count, pixels.shape[1], -1)).view(inputs.shape), targets)


class InterpolatingNetwork(nn.Module):
    r"""$c(x) = \sum_j w_j \max(\langle a, x\rangle - b_j, 0)$, as `interpolating_network` makes it: (m, d) -> (m,).

    Args:
        direction: a, (d,).
        thresholds: b, (n,), ascending.
        weights: w, (n,).

    Example:
        >>> double = dict(dtype=torch.float64)
        >>> net = InterpolatingNetwork(torch.ones(1, **double), torch.zeros(1, **double), torch.ones(1, **double))
        >>> net(torch.tensor([[-2.0], [3.0]]))
        tensor([0., 3.], dtype=torch.float64, grad_fn=<MvBackward0>)
    """

    def __init__(self, direction: Tensor, thresholds: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.direction, self.thresholds = nn.Parameter(direction), nn.Parameter(thresholds)
        self.weights = nn.Parameter(weights)

    def forward(self, x: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
        along = x.to(self.direction) @ self.direction
        return (along[:, None] - self.thresholds).relu() @ self.weights


def interpolating_network(
    x: Float[Tensor, "n d"], y: Tensor, *, generator: torch.Generator | None = None
) -> InterpolatingNetwork:
    r"""A two-layer ReLU network with $2n + d$ weights that takes the value $y_i$ at each $x_i$, exactly.

    Along a random direction a the points lie at distinct $z_1 < z_2 < \dots$; with a threshold before each, the matrix
    $\max(z_i - b_j, 0)$ is triangular with a positive diagonal, and its system is solved for w.

    Args:
        x: points, all finite.
        y: values, one a point. Points that occur twice with one value count once in n.
        generator: where a comes from.

    The paper: theorem 1 and its proof in the appendix.

    Differs from the paper: thresholds lie midway between neighbours, where the solution grows no faster than the gaps
    between points make it; all is kept in double precision.

    Raises:
        ValueError: for no points, values that are not one a point or not finite, a point with two values, points that
            rounding brings together along a.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 5.0], [4.0, 4.0]])
        >>> net = interpolating_network(x, torch.tensor([7.0, -1.0, 3.0]), generator=torch.Generator().manual_seed(0))
        >>> sum(p.numel() for p in net.parameters()), [round(each, 9) for each in net(x).tolist()]
        (8, [7.0, -1.0, 3.0])
    """
    if x.ndim != 2 or len(x) == 0 or y.shape != x.shape[:1]:
        raise ValueError(f"x must be (n, d), n at least 1, and y (n,): got {tuple(x.shape)} and {tuple(y.shape)}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("x and y must be finite: got NaN or infinity")
    points, which = torch.unique(x.double(), dim=0, return_inverse=True)
    values = torch.zeros(len(points), dtype=torch.float64, device=x.device).index_put((which,), y.double())
    if not torch.equal(values[which], y.double()):
        raise ValueError("y must be one value a point: got different ones for equal rows of x")
    where = x.device if generator is None else generator.device
    direction = torch.randn(x.shape[1], generator=generator, dtype=torch.float64, device=where).to(x.device)
    z, order = (points @ direction).sort()
    if not (z.diff() > 0).all():
        raise ValueError("x must have distinct places along a random direction: rounding brings some together")
    first = z[:1] - (z[1:2] - z[:1] if len(z) > 1 else 1.0)
    thresholds = torch.cat([first, (z[:-1] + z[1:]) / 2])
    matrix = (z[:, None] - thresholds).relu()
    weights = torch.linalg.solve_triangular(matrix, values[order][:, None], upper=False)[:, 0]
    return InterpolatingNetwork(direction, thresholds, weights)


def fit_curve(
    make_model: Callable[[], nn.Module],
    dataset: Labelled,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    *,
    max_epochs: int,
    target: float = 1.0,
    test: Labelled | None = None,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
) -> Curve:
    """Train until the training accuracy is reached, and keep the way there.

    Args:
        make_model: a new network.
        dataset: what it is trained on, by cross-entropy.
        optimizer: its parameters -> an optimizer.
        max_epochs: at most so many, at least 1.
        target: training accuracy to stop at, in [0, 1].
        test: examples to judge the last network by.
        batch_size: examples a step.
        generator: where the order of the examples comes from.

    The paper: its curves of training by epoch, and times to overfit.

    Raises:
        ValueError: for no epochs, a target out of range; as `assay.train.fit`.
        assay.train.Diverged: as `assay.train.fit`.

    Example:
        >>> two = Labelled(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
        >>> _ = torch.manual_seed(0)
        >>> make = lambda: nn.Linear(1, 2)
        >>> curve = fit_curve(make, two, lambda params: torch.optim.SGD(params, lr=1.0), max_epochs=50, test=two)
        >>> curve.epochs_to_target == len(curve.train_accuracy), curve.train_accuracy[-1].item(), curve.test_accuracy
        (True, 1.0, 1.0)
    """
    if max_epochs < 1:
        raise ValueError(f"max_epochs must be at least 1: got {max_epochs}")
    if not 0 <= target <= 1:
        raise ValueError(f"target must lie in [0, 1]: got {target}")
    model = make_model()
    steps = optimizer(model.parameters())
    order = torch.Generator().manual_seed(0) if generator is None else generator
    curve: list[float] = []
    while len(curve) < max_epochs and (not curve or curve[-1] < target):
        fit(model, dataset, steps, epochs=1, batch_size=batch_size, generator=order)
        curve.append(accuracy(model, dataset))
    reached = len(curve) if curve[-1] >= target else None
    return Curve(torch.tensor(curve), reached, None if test is None else accuracy(model, test))
