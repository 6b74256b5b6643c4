"""Training within the subspace of a run's first snapshots."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.data import Labelled
from assay.probes.subspace import Subspace


def problem(rows=5, examples=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = nn.Linear(6, 3).double()
    inputs = torch.randn(examples, 6, generator=generator, dtype=torch.float64)
    targets = (inputs @ torch.randn(6, 3, generator=generator, dtype=torch.float64)).argmax(1)
    weights = torch.randn(rows, 21, generator=generator, dtype=torch.float64)
    return Subspace(weights, network, Labelled(inputs, targets)), weights, network, inputs, targets


def loss_at(weights, inputs, targets):
    return F.cross_entropy(inputs @ weights[:18].view(3, 6).T + weights[18:], targets)


def test_all_components_there_are_span_the_snapshots():
    subspace, weights, *_ = problem()
    assert subspace.basis.shape == (4, 21)  # five snapshots, centred
    torch.testing.assert_close(subspace.basis @ subspace.basis.T, torch.eye(4, dtype=torch.float64))
    moved = weights - weights[-1]
    torch.testing.assert_close(moved @ subspace.basis.T @ subspace.basis, moved)
    torch.testing.assert_close(subspace.weights(torch.zeros(4, dtype=torch.float64)), weights[-1])


def test_projected_sgd_against_a_naive_loop():
    subspace, weights, _, inputs, targets = problem()
    found = subspace.sgd(7, lr=0.3, momentum=0.9, batch_size=60)  # full batches: the order does not matter
    projector = subspace.basis.T @ subspace.basis
    at, velocity = weights[-1].clone(), torch.zeros(21, dtype=torch.float64)
    for _ in range(7):
        at.requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss_at(at, inputs, targets), at)
        velocity = 0.9 * velocity + projector @ gradient
        at = (at - 0.3 * velocity).detach()
    torch.testing.assert_close(found, at)
    outside = (found - weights[-1]) - projector @ (found - weights[-1])
    assert outside.norm() < 1e-12  # without the projection it leaves the subspace
    at.requires_grad_(True)
    (free,) = torch.autograd.grad(loss_at(at, inputs, targets), at)
    assert (free - projector @ free).norm() > 1e-3


def test_bfgs_reaches_the_minimum_within_the_subspace():
    """Against scipy's BFGS in the same coordinates, on a convex loss."""
    from scipy.optimize import minimize

    subspace, weights, _, inputs, targets = problem(examples=400)

    def objective(z):
        return float(loss_at(subspace.weights(torch.from_numpy(z)), inputs, targets))

    best = minimize(objective, torch.zeros(4).double().numpy(), method="BFGS", tol=1e-10)
    found = float(loss_at(subspace.bfgs(40), inputs, targets))
    assert found == pytest.approx(best.fun, abs=1e-6)
    start = float(loss_at(weights[-1], inputs, targets))
    assert found < start


def test_every_bfgs_step_satisfies_armijo_and_beats_gradient_descent():
    subspace, weights, _, inputs, targets = problem(examples=400)
    values = [float(loss_at(subspace.bfgs(steps), inputs, targets)) for steps in range(8)]
    assert values[0] == pytest.approx(float(loss_at(weights[-1], inputs, targets)))
    assert all(later <= earlier for earlier, later in pairwise(values))
    steepest = Subspace(weights, nn.Linear(6, 3).double(), Labelled(inputs, targets)).sgd(
        7, lr=1.0, momentum=0.0, batch_size=400
    )
    assert values[-1] < float(loss_at(steepest, inputs, targets))  # curvature is used


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(2, 21), r"rows must be \(3 or more, 21\), got \(2, 21\)"),
        (torch.zeros(5, 20), r"got \(5, 20\)"),
        (torch.ones(5, 21), "rows must move"),
    ],
)
def test_refusals(rows, message):
    with pytest.raises(ValueError, match=message):
        Subspace(rows, nn.Linear(6, 3), Labelled(torch.zeros(4, 6), torch.zeros(4, dtype=torch.long)))
