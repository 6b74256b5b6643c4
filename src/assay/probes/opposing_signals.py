"""Small groups of examples that pull a network in opposite directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from assay.curvature import Hessian, lanczos
from assay.data import Labelled


class Groups(NamedTuple):
    """Two groups of examples, as many in each.

    Args:
        up: indices of those whose loss rises the most, largest first.
        down: of those whose loss falls the most.
    """

    up: Int[Tensor, " g"]
    down: Int[Tensor, " g"]


class OpposingSignals:
    r"""The losses of every example, step by step, and the groups that move most and against each other.

    Record t holds $\ell_i(\theta_t)$. The groups of step t are the shares of the examples with the largest and the
    least $\ell_i(\theta_{t+1}) - \ell_i(\theta_t)$; they oppose each other if afterwards the one's loss goes on rising
    when the other's falls. With full-batch gradient descent, that is: momentum and sampling smear the alternation.

    Args:
        loss: loss(outputs, targets) -> one number an example, (m).
        inputs: (m, ...), always the same, in evaluation mode.
        targets: (m, ...).
        fraction: of the examples in each group, in (0, 0.5), ten examples at least.

    Rosenfeld and Risteski, 2023 (arXiv:2311.04163), section 2.

    Raises:
        ValueError: for a fraction out of range or too small for the data, a loss that is not one number an example,
            losses that are not finite; a step that was not recorded, a window below 2.

    Example:
        >>> watched = OpposingSignals(lambda out, y: out, torch.zeros(40, 1), torch.zeros(40), fraction=0.25)
        >>> swing = torch.cat([torch.ones(10), -torch.ones(10), torch.zeros(20)])
        >>> for value in (1.0, 2.0, 0.5, 3.0):
        ...     watched.record(5 + value * swing)
        >>> groups = watched.groups(0)
        >>> sorted(groups.up.tolist()) == list(range(10)), round(watched.opposition(groups, 0, 3), 4)
        (True, -1.0)
    """

    def __init__(
        self, loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor, *, fraction: float = 0.01
    ) -> None:
        if not 0 < fraction < 0.5:
            raise ValueError(f"fraction must lie in (0, 0.5): got {fraction}")
        if len(inputs) != len(targets) or int(fraction * len(inputs)) < 10:
            raise ValueError(f"fraction must make groups of 10 at least: got {fraction} of {len(inputs)} examples")
        self.loss, self.inputs, self.targets = loss, inputs, targets
        self.size = int(fraction * len(inputs))
        self.records: list[Tensor] = []

    def on_step(self, model: nn.Module) -> None:
        """Record the losses at the present weights; as a callback, after each step."""
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                self.record(self.loss(model(self.inputs), self.targets))
        finally:
            for module, mode in modes:
                module.training = mode

    def record(self, losses: Tensor) -> None:
        """Record losses that are known already, (m)."""
        if losses.shape != (len(self.targets),):
            raise ValueError(f"loss must give one number an example, ({len(self.targets)},): got {tuple(losses.shape)}")
        if not losses.isfinite().all():
            raise ValueError("loss must be finite: got NaN or infinity")
        self.records.append(losses.detach().clone())

    def groups(self, step: int) -> Groups:
        """The examples whose losses rose and fell the most from record `step` to the next."""
        self._recorded(step, step + 1)
        order = (self.records[step + 1] - self.records[step]).argsort(stable=True)
        return Groups(order[-self.size :].flip(0), order[: self.size])

    def group_losses(self, groups: Groups, start: int, stop: int) -> Float[Tensor, "2 steps"]:
        """The mean loss of both groups in the records from `start` to `stop`, both included."""
        self._recorded(start, stop)
        rows = torch.stack(self.records[start : stop + 1]).double()
        return torch.stack([rows[:, groups.up].mean(1), rows[:, groups.down].mean(1)])

    def opposition(self, groups: Groups, start: int, window: int = 50) -> float:
        """The correlation of both groups' changes over `window` steps from record `start`, from -1 to 1.

        0 where a group does not change at all. Groups found at step t are best looked at from t + 1 on: in step t
        itself they oppose each other by construction.
        """
        if window < 2:
            raise ValueError(f"window must be at least 2: got {window}")
        one, other = self.group_losses(groups, start, start + window).diff()
        one, other = one - one.mean(), other - other.mean()
        scale = one.norm() * other.norm()
        return (one @ other / scale).item() if scale > 0 else 0.0

    def _recorded(self, start: int, stop: int) -> None:
        if not 0 <= start < stop < len(self.records):
            raise ValueError(f"step must lie within the {len(self.records)} records: got {start} to {stop}")


def matched_groups(
    groups: Groups, features: Float[Tensor, "m k"], *, generator: torch.Generator | None = None
) -> Groups:
    """Other examples like those of the groups, one for each, divided into two groups by chance.

    What large losses and gradients do by themselves shows in these, too; what opposition does, does not.

    Args:
        groups: two groups.
        features: what the examples are to be alike in: a column each for the loss and the length of the gradient, say.
            Columns are divided by their standard deviation; the sum of distances over all pairs is the least possible.
        generator: where the division comes from.

    Raises:
        ValueError: for features that are not finite, groups of more than half of the examples.

    Example:
        >>> features = torch.tensor([[5.0], [0.0], [5.1], [0.1], [3.0], [3.1]])
        >>> found = matched_groups(Groups(torch.tensor([0]), torch.tensor([1])), features)
        >>> sorted([*found.up.tolist(), *found.down.tolist()])
        [2, 3]
    """
    members = torch.cat(groups)
    if 2 * len(members) > len(features):
        raise ValueError(f"groups must hold at most half of the {len(features)} examples: got {len(members)}")
    if not features.isfinite().all():
        raise ValueError("features must be finite: got NaN or infinity")
    scaled = features.double() / features.double().std(0).clamp(min=1e-12)
    others = torch.ones(len(features), dtype=torch.bool)
    others[members] = False
    rest = others.nonzero().flatten()
    _, chosen = linear_sum_assignment(torch.cdist(scaled[members], scaled[rest], p=1).numpy())
    order = torch.randperm(len(members), generator=generator)
    return Groups(*rest[torch.from_numpy(chosen)][order].chunk(2))


def sharpness(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor, *, steps: int = 20
) -> float:
    """The largest eigenvalue of the Hessian of a mean loss, by a fixed number of Lanczos steps from a fixed start.

    Args:
        model: used in evaluation mode, left as it was.
        loss: loss(outputs, targets) -> the mean over the examples.
        inputs: (m, ...).
        targets: (m, ...).
        steps: products with the Hessian, at least 1.

    Raises:
        ValueError: as `Hessian` and `lanczos` say.

    Example:
        >>> line = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> round(sharpness(line, nn.functional.mse_loss, x, torch.zeros(2, 1)), 4)  # 2 / n X^T X = diag(4, 1)
        4.0
    """
    operator = Hessian(model, loss, inputs, targets)
    like = operator.parameters[0]
    start = torch.Generator().manual_seed(0)
    found = lanczos(operator.matvec, operator.size, steps, generator=start, dtype=like.dtype, device=like.device)
    return found.ritz()[0].max().item()


def opposing_toy(
    *,
    alpha: float = 10.0,
    signal: float = 2.0,
    dim: int = 10,
    num: int = 2000,
    gamma: float = 1.0,
    generator: torch.Generator | None = None,
) -> Labelled:
    r"""Regression with one large feature that a linear map cannot use: $y = \langle\beta, x_s\rangle + \gamma |x_o|$.

    $x_s \sim N(0, I)$ and $x_o = \pm\sqrt\alpha$; the inputs are $(x_s, x_o)$. The two halves, $x_o > 0$ and $x_o < 0$,
    each want its weight to go their way, and the best weight is 0. The curvature along it is about $\alpha\,\|\beta\|$
    for `TwoLayerLinear` once that has learned the signal.

    Args:
        alpha: squared size of the large feature, positive.
        signal: $\|\beta\|$, positive.
        dim: of the useful part, at least 1.
        num: examples, at least 2.
        gamma: what the large feature brings; with 0 both halves rise and fall together.
        generator: where they come from.

    Returns:
        inputs (num, dim + 1), targets (num,).

    Rosenfeld and Risteski, 2023 (arXiv:2311.04163), section 3.2.

    Differs from the paper: rebuilt from its description; its constants may be others.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> x, y = opposing_toy(alpha=9.0, num=4, generator=torch.Generator().manual_seed(0))
        >>> x.shape, x[:, -1].abs().tolist()
        (torch.Size([4, 11]), [3.0, 3.0, 3.0, 3.0])
    """
    if not (alpha > 0 and signal > 0):
        raise ValueError(f"alpha and signal must be positive: got {alpha} and {signal}")
    if dim < 1 or num < 2:
        raise ValueError(f"dim must be at least 1 and num at least 2: got {dim} and {num}")
    useful = torch.randn(num, dim, generator=generator)
    signs = 2.0 * torch.randint(2, (num,), generator=generator) - 1
    beta = torch.randn(dim, generator=generator)
    beta *= signal / beta.norm()
    large = signs * alpha**0.5
    return Labelled(torch.cat([useful, large[:, None]], 1), useful @ beta + gamma * large.abs())


class TwoLayerLinear(nn.Module):
    r"""$f(x) = c\,\langle b, x\rangle$: the least network with depth.

    Args:
        dim: of the inputs.
        scale: standard deviation of b to begin with, 0 or more.
        c: to begin with.
        generator: where b comes from.

    Raises:
        ValueError: for a dim below 1 or a negative scale.

    Example:
        >>> network = TwoLayerLinear(2, c=3.0)
        >>> _ = nn.init.ones_(network.b)
        >>> network(torch.tensor([[1.0, 2.0]]))
        tensor([9.], grad_fn=<MulBackward0>)
    """

    def __init__(
        self, dim: int, *, scale: float = 0.01, c: float = 0.1, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if dim < 1 or not scale >= 0:
            raise ValueError(f"dim must be at least 1 and scale not negative: got {dim} and {scale}")
        self.b = nn.Parameter(scale * torch.randn(dim, generator=generator))
        self.c = nn.Parameter(torch.tensor(float(c)))

    def forward(self, inputs: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
        return self.c * (inputs @ self.b)

    @torch.no_grad()
    def hessian(self, inputs: Float[Tensor, "n dim"], targets: Float[Tensor, " n"]) -> Tensor:
        r"""Of $\frac12$ the mean squared error: $H_{bb} = c^2 S$, $H_{cc} = b^\top S b$, $H_{bc} = 2 c S b - q$."""
        S, q = inputs.T @ inputs / len(inputs), inputs.T @ targets / len(inputs)
        mixed = (2 * self.c * (S @ self.b) - q)[:, None]
        upper = torch.cat([self.c**2 * S, mixed], 1)
        return torch.cat([upper, torch.cat([mixed.T, (self.b @ S @ self.b).view(1, 1)], 1)])
