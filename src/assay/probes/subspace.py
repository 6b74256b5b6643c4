"""Training within the subspace that a run's first epochs span: the opponent of online CMD."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from assay.data import Labelled
from assay.probes.layout import Layout
from assay.train import fit


class Subspace:
    """Training confined to the principal components of the first snapshots of a run, from the last of these on.

        w = w_last + P^T z,    P: (r, N) the components of the centred snapshots, z: (r,) what is trained

    Args:
        rows: (T, N) snapshots, at least 3; all components that are there are used (r <= T - 1).
        network: the network whose trainable parameters the rows are; its weights are overwritten.
        examples: what it is trained on.

    The methods P-SGD and P-BFGS of Li et al., "Low Dimensional Trajectory Hypothesis is True" (arXiv:2103.11154),
    against which correlation mode decomposition is compared.

    Differs from the paper: starts from the last snapshot and not from the first, so that what the warm-up has reached
    is kept; P-BFGS takes its gradients on all examples at once.

    Raises:
        ValueError: fewer than 3 rows, rows of another length than the network's weights, or rows that do not move.

    Example:
        >>> from assay.data import Labelled
        >>> network = nn.Linear(2, 2, bias=False)
        >>> rows = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]])
        >>> examples = Labelled(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1]))
        >>> moved = Subspace(rows, network, examples).bfgs(3)
        >>> bool(moved[0] > 2), moved[1:].tolist()        # it can only go on along the one direction it came by
        (True, [0.0, 0.0, 0.0])
    """

    def __init__(self, rows: Float[Tensor, "T N"], network: nn.Module, examples: Labelled) -> None:
        self.layout = Layout.of(network)
        if len(rows) < 3 or rows.shape[1] != self.layout.size:
            raise ValueError(f"rows must be (3 or more, {self.layout.size}), got {tuple(rows.shape)}")
        centred = (rows - rows.mean(0)).double()
        _, values, directions = torch.linalg.svd(centred, full_matrices=False)
        if not values[0] > 0:
            raise ValueError("rows must move, got the same weights in every row")
        self.basis = directions[values > 1e-6 * values[0]].to(rows.dtype)  # (r, N): all components there are
        self.start = rows[-1]
        self.network, self.examples = network, examples

    def weights(self, coordinates: Float[Tensor, " r"]) -> Float[Tensor, " N"]:
        """The weight vector at some coordinates."""
        return self.start + coordinates @ self.basis

    def sgd(
        self, epochs: int, lr: float, seed: int = 0, *, momentum: float = 0.9, batch_size: int = 128
    ) -> Float[Tensor, " N"]:
        """Stochastic gradient descent with every gradient projected on the subspace, `P^T P g`."""
        self.layout.write(self.network, self.start)
        optimizer = torch.optim.SGD(self.network.parameters(), lr=lr, momentum=momentum)
        fit(
            self.network,
            self.examples,
            optimizer,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            rule=self._projected,
        )
        return torch.cat([p.detach().flatten() for p in self.network.parameters()])

    def _projected(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        value = loss(model(inputs), targets)
        value.backward()
        parameters = list(model.parameters())
        gradient = torch.cat([p.grad.flatten() for p in parameters])
        gradient = (self.basis @ gradient) @ self.basis
        for p, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)
        return value.detach()

    def bfgs(self, steps: int, *, shrink: float = 0.4, sufficient: float = 0.4, tries: int = 12) -> Float[Tensor, " N"]:
        """BFGS in the coordinates: a full-batch gradient a step, and backtracking (Armijo) on the full-batch loss."""
        point = torch.zeros(len(self.basis), dtype=torch.float64)
        inverse = torch.eye(len(point), dtype=torch.float64)
        value, gradient = self._loss(point, gradient=True)
        for _ in range(steps):
            direction = -inverse @ gradient
            slope = float(gradient @ direction)
            size = 1.0
            for _ in range(tries):
                trial, _ = self._loss(point + size * direction)
                if trial <= value + sufficient * size * slope:
                    break
                size *= shrink
            else:
                break  # no step along this direction improves
            step = size * direction
            point = point + step
            value, new = self._loss(point, gradient=True)
            change, gradient = new - gradient, new
            curvature = float(step @ change)
            if curvature > 1e-12:
                left = torch.eye(len(point), dtype=torch.float64) - torch.outer(step, change) / curvature
                inverse = left @ inverse @ left.T + torch.outer(step, step) / curvature
        return self.weights(point.to(self.start.dtype))

    def _loss(self, point: Tensor, gradient: bool = False) -> tuple[float, Tensor | None]:
        self.layout.write(self.network, self.weights(point.to(self.start.dtype)))
        total, count = 0.0, len(self.examples.targets)
        self.network.zero_grad()
        with torch.set_grad_enabled(gradient):
            for inputs, targets in zip(
                self.examples.inputs.split(1000), self.examples.targets.split(1000), strict=True
            ):
                value = F.cross_entropy(self.network(inputs), targets, reduction="sum") / count
                total += float(value.detach())
                if gradient:
                    value.backward()
        if not gradient:
            return total, None
        whole = torch.cat([p.grad.flatten() for p in self.network.parameters()])
        return total, (self.basis @ whole).double()
