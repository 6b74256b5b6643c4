"""Scalable forward-forward: goodness by hand, isolation of blocks, one block alone, votes, what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.data import Labelled
from assay.learn import BlockChain, ScalableForwardForward
from assay.nn import resnet8
from assay.train import accuracy


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


def chain():
    torch.manual_seed(0)
    return BlockChain(*list(BlockChain.of(resnet8((1, 8, 8), 3, widths=(4, 6, 8))))[:-1])


def batch(n=6):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 3


def test_goodness_by_arithmetic():
    """A 1 x 1 head of weights (1, -1) and bias 0.5 on one map of 2 x 2."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    net[0].weight.data.fill_(1.0)
    net[0].bias.data.fill_(0.0)
    rule = ScalableForwardForward(net, 2, torch.zeros(1, 1, 2, 2))
    rule.heads[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    rule.heads[0].bias.data.fill_(0.5)
    (found,) = rule.goodness(torch.tensor([[[[1.0, 2.0], [3.0, 0.0]]]]))
    # (1.5^2 + 2.5^2 + 3.5^2 + 0.5^2) / 4 and (0.5^2 + 1.5^2 + 2.5^2 + 0.5^2) / 4
    assert found.tolist() == [[5.25, 2.25]]


def test_a_naive_pass_in_double_precision():
    """Two blocks, the normalization between them, both losses, typed out."""
    net = BlockChain(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh()), nn.Sequential(nn.Flatten(), nn.Linear(27, 5))
    ).double()
    rule = ScalableForwardForward(net, 4, torch.zeros(1, 1, 5, 5).double(), threshold=0.7)
    rule.heads.double()
    x, y = waves((3, 1, 5, 5), 0.2), torch.tensor([1, 3, 0])
    first = torch.tanh(F.conv2d(x, net[0][0].weight, net[0][0].bias))
    mapped = torch.einsum("kc,nchw->nkhw", rule.heads[0].weight[:, :, 0, 0], first) + rule.heads[0].bias.view(
        1, -1, 1, 1
    )
    one = (mapped**2).mean((2, 3))
    flat = first.flatten(1)
    normal = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    second = normal @ net[1][1].weight.T + net[1][1].bias
    two = ((second @ rule.heads[1].weight.T + rule.heads[1].bias) ** 2).view(3, 4, 4).mean(2)
    for found, exact in zip(rule.goodness(x), (one, two), strict=True):
        torch.testing.assert_close(found, exact)
    torch.testing.assert_close(rule.predict(x), (one + two) / 2)
    total = 0.0
    for row in range(3):
        for k in range(4):
            gap = one[row, k] - 0.7
            total += torch.log1p(torch.exp(-gap)) if k == y[row] else torch.log1p(torch.exp(gap)) / 3
    torch.testing.assert_close(rule.block_loss(one, y), total / 3)
    rule.objective = "softmax"
    torch.testing.assert_close(rule.block_loss(one, y), -torch.log_softmax(one, 1)[torch.arange(3), y].mean())


def test_goodness_does_not_see_where():
    net = nn.Sequential(nn.Conv2d(2, 3, 1))
    rule = ScalableForwardForward(net, 4, torch.zeros(1, 2, 4, 4))
    x = waves((2, 2, 16), 0.1).float()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    one, two = rule.goodness(x.view(2, 2, 4, 4))[0], rule.goodness(x[:, :, order].view(2, 2, 4, 4))[0]
    torch.testing.assert_close(one, two)


def test_no_gradient_crosses_a_block():
    net, (x, y) = chain(), batch()
    rule = ScalableForwardForward(net, 3, x)
    rule(net, x, y, F.cross_entropy)
    before = [p.grad.clone() for p in [*net[1].parameters(), *rule.heads[1].parameters()]]
    net.zero_grad()
    rule.heads.zero_grad()
    net[2].conv1.weight.data.mul_(-3)
    rule.heads[3].weight.data.mul_(5)
    rule(net, x, y, F.cross_entropy)
    after = [p.grad for p in [*net[1].parameters(), *rule.heads[1].parameters()]]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(p.grad is not None for p in net.parameters())


def test_one_block_with_softmax_is_backpropagation():
    """Inside a block nothing is cut: a residual block with its head is a network like any other."""
    block = chain()[2]
    net, x = BlockChain(block), torch.rand(6, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.arange(6) % 3
    rule = ScalableForwardForward(net, 3, x, objective="softmax")
    rule(net, x, y, F.cross_entropy)
    found = [p.grad.clone() for p in block.parameters()]
    block.zero_grad()
    goodness = rule.heads[0](block(x)).square().mean((2, 3))
    F.cross_entropy(goodness, y).backward()
    for p, g in zip(block.parameters(), found, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_the_next_block_cannot_read_the_length():
    """Scaling a block's output leaves all later goodness as it was."""
    net, (x, _) = chain().eval(), batch()
    rule = ScalableForwardForward(net, 3, x)
    before = rule.goodness(x)
    net[1].norm2.weight.data.mul_(4)
    net[1].norm2.bias.data.mul_(4)
    net[1].shortcut = nn.Sequential(_Times(4.0))
    after = rule.goodness(x)
    assert (after[1] / before[1]).max() > 2
    for a, b in zip(after[2:], before[2:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


class _Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_votes_and_the_voter():
    net, (x, y) = chain(), batch()
    rule = ScalableForwardForward(net, 3, x, votes="last")
    rule.chain.eval()
    goodness = rule.goodness(x)
    assert torch.equal(rule.predict(x), goodness[-1])
    rule.votes = "all"
    torch.testing.assert_close(rule.predict(x), sum(goodness) / len(goodness))
    voter = rule.voter()
    assert torch.equal(voter(x), rule.predict(x))
    right = (voter(x).argmax(1) == y).double().mean().item()
    net.train()
    assert accuracy(voter, Labelled(x, y)) == pytest.approx(right)  # in evaluation mode, with the blocks
    assert all(m.training for m in net.modules())


@pytest.mark.parametrize("objective", ["logistic", "softmax"])
def test_it_learns_and_is_restored(objective):
    net, (x, y) = chain(), batch(30)
    rule = ScalableForwardForward(net, 3, x, objective=objective)
    optimizer = torch.optim.Adam([*net.parameters(), *rule.parameters()], lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(rule(net, x, y, F.cross_entropy).item())
        optimizer.step()
    assert losses[-1] < losses[0]
    other = ScalableForwardForward(net, 3, x)
    other.load_state_dict(rule.state_dict())
    net.eval()
    assert torch.equal(other.predict(x), rule.predict(x))


def test_tokens_are_places():
    net = nn.Sequential(nn.Linear(5, 6))
    rule = ScalableForwardForward(net, 2, torch.zeros(1, 7, 5))
    x = waves((3, 7, 5), 0.1).float()
    (found,) = rule.goodness(x)
    torch.testing.assert_close(found, torch.stack([rule.goodness(x[:, t : t + 1])[0] for t in range(7)]).mean(0))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(num_classes=1), "num_classes"),
        (dict(kernel=2), "kernel"),
        (dict(threshold=0.0), "threshold"),
        (dict(objective="hinge"), "objective"),
        (dict(votes="first"), "votes"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        ScalableForwardForward(chain(), **{"num_classes": 3, "example": batch()[0]} | settings)


def test_refused_models():
    x, y = batch()
    with pytest.raises(TypeError, match="forward of its own"):
        ScalableForwardForward(nn.Linear(2, 2), 2, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="whose blocks"):
        ScalableForwardForward(chain(), 3, x)(chain(), x, y, F.cross_entropy)
