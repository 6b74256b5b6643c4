"""Saturated softmaxes by their closed form, and the cosine with the weights by Euler's theorem."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.probes import nlm_alignment, softmax_collapse


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.float64, 53)])
def test_the_gap_at_which_it_collapses(dtype, bits):
    """With k - 1 others at a gap c: certain above bits log 2 + log(k - 1), impossible below bits log 2."""
    k = 113
    for gap, share in ((bits * math.log(2) - 0.1, 0.0), (bits * math.log(2) + math.log(k - 1) + 0.1, 1.0)):
        logits = torch.zeros(3, k, dtype=torch.float64)
        logits[:, 7] = gap
        assert softmax_collapse(logits, dtype=dtype) == share
        assert softmax_collapse(logits + 5.0, dtype=dtype) == share


def test_it_is_where_cross_entropy_is_exactly_zero():
    logits = torch.zeros(40, 5)
    logits[:, 2] = torch.linspace(10, 25, 40)
    zero = F.cross_entropy(logits, torch.full((40,), 2), reduction="none") == 0
    assert 0 < zero.float().mean() < 1
    assert abs(softmax_collapse(logits) - zero.double().mean().item()) <= 2 / 40  # where the order of the sum decides


def test_only_the_right_class_counts_if_it_is_known():
    logits = torch.tensor([[30.0, 0.0], [30.0, 0.0], [0.0, 1.0], [0.0, 40.0]])
    assert softmax_collapse(logits) == 0.75
    assert softmax_collapse(logits, torch.tensor([0, 1, 1, 1])) == 0.5


def test_alignment_by_euler():
    """For a network homogeneous of degree 3 the inner product of gradient and weights is 3 sum <dL/df, f>."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
    ).double()
    x, y = torch.randn(10, 5, dtype=torch.float64), torch.randint(4, (10,))
    outputs = network(x)
    loss = F.cross_entropy(outputs, y)
    found = nlm_alignment(network, loss)
    (slope,) = torch.autograd.grad(loss, outputs, retain_graph=True)
    loss.backward()
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
    expected = -3 * (slope * outputs).sum() / (weights.norm() * gradient.norm())
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_a_fitted_network_only_scales():
    """Once all is fitted, descent is along the weights more than at the start."""
    torch.manual_seed(0)
    network = nn.Linear(6, 3, bias=False)
    x, y = torch.randn(6, 6), torch.arange(6) % 3
    before = nlm_alignment(network, F.cross_entropy(network(x), y))
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    for _ in range(500):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    assert nlm_alignment(network, F.cross_entropy(network(x), y)) > max(0.8, before + 0.3)


def test_no_gradient_or_no_weights_is_no_alignment():
    network = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(network.weight)
    assert nlm_alignment(network, network(torch.ones(1, 2)).sum()) == 0
    unused = nn.ModuleDict({"used": nn.Linear(2, 1, bias=False), "not": nn.Linear(2, 1, bias=False)})
    unused["used"].weight.data = torch.tensor([[3.0, 4.0]])
    unused["not"].weight.data = torch.tensor([[12.0, 0.0]])
    loss = -unused["used"](torch.tensor([[3.0, 4.0]])).sum()
    assert nlm_alignment(unused, loss) == pytest.approx(25 / (5 * 13))  # weights without influence still have length


def test_what_is_refused():
    with pytest.raises(ValueError, match="logits must be"):
        softmax_collapse(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="finite"):
        softmax_collapse(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match="targets"):
        softmax_collapse(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="graph"):
        nlm_alignment(nn.Linear(1, 1), torch.tensor(1.0))
    with pytest.raises(ValueError, match="parameters"):
        nlm_alignment(nn.ReLU(), torch.tensor(1.0, requires_grad=True))
