"""Training in random directions: the paper's toy, gradients, limits; the sweep; what is refused."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.data import Labelled
from assay.probes import RandomProjection, RandomSubspace, intrinsic_dimension
from assay.train import fit

KINDS = ("dense", "sparse", "fastfood")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).to(dtype)


def examples(n=9, dtype=torch.float64):
    return torch.randn(n, 1, 6, generator=generator(1), dtype=torch.float64).to(dtype), torch.arange(n) % 3


def sums_of_blocks(start, projection):
    """Least squares: how close z comes to sum_j (sum of block j - j)^2 = 0 for theta = theta_0 + P z."""
    blocks = torch.eye(10, dtype=torch.float64).repeat_interleave(100, 1)
    wanted = torch.arange(1.0, 11.0, dtype=torch.float64) - blocks @ start
    slopes = blocks @ projection.matrix
    z = torch.linalg.lstsq(slopes, wanted).solution if projection.dim <= 10 else torch.linalg.pinv(slopes) @ wanted
    return ((slopes @ z - wanted) ** 2).sum().item()


@pytest.mark.parametrize("kind", KINDS)
def test_the_papers_toy(kind):
    """1,000 weights, ten conditions: 990 dimensions of solutions, and an intrinsic dimension of exactly 10."""
    start = torch.randn(1000, generator=generator(2), dtype=torch.float64)

    def solved(dim):
        P = RandomProjection(1000, dim, kind=kind, generator=generator(dim), dtype=torch.float64)
        return math.exp(-sums_of_blocks(start, P))

    found = intrinsic_dimension(solved, 1.0, dims=range(6, 14), share=1 - 1e-9)
    assert found.scores[:4].max() < 1 - 1e-4
    assert found.dimension == pytest.approx(10, abs=1e-6)
    assert found.reached
    assert found.bracketed


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_projected(kind):
    """dL/dz = P^T dL/dtheta at theta_0 + P z, with the network's own gradients."""
    model, (x, y) = network(), examples()
    subspace = RandomSubspace(model, 5, projection=kind, generator=generator(3))
    nn.init.normal_(subspace.coordinates)
    F.cross_entropy(subspace(x), y).backward()
    moved = copy.deepcopy(model)
    moved.load_state_dict(subspace.weights(), strict=False)
    F.cross_entropy(moved(x), y).backward()
    flat = torch.cat([p.grad.flatten() for p in moved.parameters()])
    torch.testing.assert_close(subspace.coordinates.grad, subspace.projection.T(flat))
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    end = torch.cat([p.detach().flatten() for p in moved.parameters()])
    torch.testing.assert_close(end - start, subspace.projection.matrix @ subspace.coordinates.detach())
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is None for p in subspace.network.parameters())


def test_all_dimensions_are_direct_training_turned():
    """With an orthonormal P of d = D, plain gradient descent walks the same path: P P^T = 1."""
    model, (x, y) = network(), examples()
    size = sum(p.numel() for p in model.parameters())
    subspace = RandomSubspace(model, size, generator=generator(4))
    turn, _ = torch.linalg.qr(subspace.projection.tensors["matrix"])
    subspace.projection.tensors["matrix"] = turn
    data = Labelled(x, y)
    fit(subspace, data, torch.optim.SGD(subspace.parameters(), lr=0.3), epochs=4, batch_size=4)
    fit(model, data, torch.optim.SGD(model.parameters(), lr=0.3), epochs=4, batch_size=4)
    for name, p in model.named_parameters():
        torch.testing.assert_close(subspace.weights()[name], p, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(subspace.network[1].running_mean, model[1].running_mean)  # buffers move as ever


def test_what_is_trained_and_what_stays():
    model, (x, y) = network(torch.float32), examples(dtype=torch.float32)
    model[4].bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    subspace = RandomSubspace(model, 4, projection="sparse", generator=generator())
    torch.testing.assert_close(subspace.eval()(x), model.eval()(x))
    subspace.train()
    assert "4.bias" not in subspace.weights()
    optimizer = torch.optim.Adam(subspace.parameters(), lr=0.1, weight_decay=0.1)
    start = F.cross_entropy(subspace(x), y).item()
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(subspace(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < start
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    frozen = dict(subspace.network.named_parameters())
    assert all(torch.equal(frozen[name], value) for name, value in model.named_parameters())


def test_it_moves_with_its_projection():
    subspace = RandomSubspace(network(torch.float32), 3, generator=generator()).double()
    assert subspace.projection.tensors["matrix"].dtype == torch.float64
    assert subspace(examples()[0]).dtype == torch.float64
    assert subspace.projection.matrix.dtype == torch.float64


def test_interpolation_by_hand():
    scores = {10: 0.30, 20: 0.75, 40: 0.90, 80: 0.85}
    found = intrinsic_dimension(scores.get, 0.95, dims=(80, 20, 10, 40))
    part = (0.9 * 0.95 - 0.75) / 0.15
    assert found.dimension == pytest.approx(math.exp((1 - part) * math.log(20) + part * math.log(40)))
    assert found.dims == (10, 20, 40, 80)
    assert found.scores.tolist() == [0.30, 0.75, 0.90, 0.85]
    assert found.threshold == pytest.approx(0.855)
    never = intrinsic_dimension(scores.get, 1.1, dims=tuple(scores))
    assert (never.dimension, never.reached, never.bracketed) == (math.inf, False, False)
    at_once = intrinsic_dimension(scores.get, 0.3, dims=tuple(scores))
    assert (at_once.dimension, at_once.reached, at_once.bracketed) == (10.0, True, False)


def test_repeats_are_averaged():
    given = iter([0.2, 0.4, 0.6, 1.0])
    found = intrinsic_dimension(lambda d: next(given), 1.0, dims=(1, 2), repeats=2, share=0.8)
    assert found.scores.tolist() == pytest.approx([0.3, 0.8])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(dims=()), "dims"),
        (dict(dims=(0, 3)), "dims"),
        (dict(dims=(3, 3)), "dims"),
        (dict(baseline=0.0), "baseline"),
        (dict(baseline=math.inf), "baseline"),
        (dict(share=0.0), "share"),
        (dict(share=1.1), "share"),
        (dict(repeats=0), "repeats"),
        (dict(train=lambda d: math.nan), "train must return a number: got NaN for dimension 2"),
    ],
)
def test_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        intrinsic_dimension(**dict(train=lambda d: 1.0, baseline=1.0, dims=(2, 4)) | settings)


def test_refused_subspaces():
    with pytest.raises(ValueError, match="dim"):
        RandomSubspace(nn.Linear(2, 2), 7)
    with pytest.raises(ValueError, match="trainable"):
        RandomSubspace(nn.Linear(2, 2).requires_grad_(False), 1)
    with pytest.raises(ValueError, match="kind"):
        RandomSubspace(nn.Linear(2, 2), 1, projection="none")
