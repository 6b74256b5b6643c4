"""How far parallel branches whose outputs are summed become experts in different things, and why they would."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Specialization(NamedTuple):
    """What `branch_specialization` finds.

    Args:
        score: 0 for branches that say the same, 1 for uncorrelated ones; also 1 where one branch says all.
        covariance: of the branches' outputs.
        importance: of each branch, $C_{ii} / \\sqrt{\\sum_j C_{jj}^2}$.
        local: of each branch, $C_{ii} / \\sqrt{\\sum_j C_{ji}^2}$: 1 where no other follows it.
        active: branches with at least a tenth of the largest importance.
    """

    score: float
    covariance: Float[Tensor, "l l"]
    importance: Float[Tensor, " l"]
    local: Float[Tensor, " l"]
    active: int


class Branched(nn.Module):
    """$f(x) = \\sum_i f_i(x)$, summed before any softmax.

    Args:
        branches: $f_i$, two or more, with outputs of one shape.

    Brokman and Gilboa, 2022 (arXiv:2206.05810).

    Raises:
        ValueError: for fewer than 2 branches.

    Example:
        >>> net = Branched([nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)])
        >>> for branch, value in zip(net.branches, (1.0, 3.0)):
        ...     _ = nn.init.constant_(branch.weight, value)
        >>> net(torch.ones(1, 2)).item(), [out.item() for out in net.outputs(torch.ones(1, 2))]
        (8.0, [2.0, 6.0])
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(branches) < 2:
            raise ValueError(f"branches must be 2 or more: got {len(branches)}")
        self.branches = nn.ModuleList(branches)

    @classmethod
    def clone_of(cls, branch: nn.Module, num_branches: int) -> Branched:
        """Copies of one branch: equal weights, which equal gradients keep equal."""
        return cls([copy.deepcopy(branch) for _ in range(num_branches)])

    def outputs(self, x: Tensor) -> list[Tensor]:
        """What each branch adds."""
        return [branch(x) for branch in self.branches]

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(self.outputs(x)).sum(0)


def branch_specialization(outputs: Sequence[Tensor], *, threshold: float = 0.1) -> Specialization:
    r"""$S = \frac{L - \sum_{ij} C_{ij}^2 / \sum_i C_{ii}^2}{L - 1}$, C the covariance of the L branches' outputs.

    Args:
        outputs: of each branch, all of one shape: examples, classes or pixels.
        threshold: share of the largest importance from which on a branch counts as active, in (0, 1].

    The paper: its specialization score, and the 10 % threshold of active branches; as the authors' code.

    Raises:
        ValueError: for fewer than 2 branches, unequal shapes, fewer than 2 numbers a branch, a threshold out of range,
            values that are not finite, branches that are all constant.

    Example:
        >>> one, other = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
        >>> branch_specialization([one, one]).score, branch_specialization([one, other]).score
        (0.0, 1.0)
    """
    if len(outputs) < 2:
        raise ValueError(f"outputs must come from 2 branches or more: got {len(outputs)}")
    shapes = {tuple(out.shape) for out in outputs}
    if len(shapes) > 1 or outputs[0].numel() < 2:
        raise ValueError(f"outputs must be of one shape, 2 numbers or more each: got {sorted(shapes)}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1]: got {threshold}")
    flat = torch.stack([out.detach().double().flatten() for out in outputs])
    if not flat.isfinite().all():
        raise ValueError("outputs must be finite: got NaN or infinity")
    covariance = torch.cov(flat)
    own = covariance.diagonal()
    total = own.square().sum()
    if total <= torch.finfo(outputs[0].dtype).eps ** 4 * flat.square().mean().square():
        raise ValueError("outputs must vary: all branches are constant")
    size = len(outputs)
    score = (size - (covariance.square().sum() / total).item()) / (size - 1)
    importance = own / total.sqrt()
    length = covariance.norm(dim=0)
    local = torch.where(length > 0, own / length.clamp(min=torch.finfo(torch.float64).tiny), torch.zeros_like(own))
    active = int((importance >= threshold * importance.max()).sum())
    return Specialization(score, covariance, importance, local, active)


def branch_solution(jacobians: Sequence[Tensor], targets: Tensor) -> list[Tensor]:
    r"""$A_i A_i^\top (\sum_j A_j A_j^\top)^+ y$: each branch's part once gradient descent fitted the linearized sum.

    The weights of squared loss and a linear model move by the solution of the smallest norm, $[A_1 \cdots A_L]^+ y$,
    of which branch i holds its part.

    Args:
        jacobians: $A_i$, (m, k_i), of each branch at the m training points (`assay.probes.tangent.jacobian`).
        targets: y, (m,) or (m, c): what the sum is to change by, targets minus the outputs at the start.

    Returns:
        The change of each branch at the training points, shaped as the targets, in float64.

    The paper: its branch-wise Moore-Penrose solution.

    Raises:
        ValueError: for fewer than 2 branches, matrices that are not (m, k), m that differ, values that are not finite.

    Example:
        >>> y = torch.tensor([2.0, 4.0])  # the second has three times the kernel of the first
        >>> branch_solution([torch.eye(2), 3**0.5 * torch.eye(2)], y)[1].round(decimals=6)
        tensor([1.5000, 3.0000], dtype=torch.float64)
    """
    if len(jacobians) < 2:
        raise ValueError(f"jacobians must come from 2 branches or more: got {len(jacobians)}")
    if targets.ndim not in (1, 2) or any(a.ndim != 2 or len(a) != len(targets) for a in jacobians):
        shapes = [tuple(a.shape) for a in jacobians]
        raise ValueError(f"jacobians must be (m, k) with m = {len(targets)}, as many as targets: got {shapes}")
    features = [a.detach().double() for a in jacobians]
    wanted = targets.detach().double()
    if not all(each.isfinite().all() for each in [*features, wanted]):
        raise ValueError("jacobians and targets must be finite: got NaN or infinity")
    moved = torch.linalg.pinv(torch.cat(features, dim=1)) @ wanted
    parts = moved.split([a.shape[1] for a in features])
    return [a @ part for a, part in zip(features, parts, strict=True)]
