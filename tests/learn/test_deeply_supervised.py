"""Deep supervision: the objective typed out, its limits, fading and silence, what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.data import Labelled
from assay.learn import BlockChain, DeepSupervision, gradient_cosine
from assay.losses import SquaredHinge
from assay.nn import convnet
from assay.train import fit


def chain():
    torch.manual_seed(0)
    return BlockChain.of(convnet((1, 8, 8), 3, widths=(3, 4, 5))).double()


def batch(n=6):
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    return x, torch.arange(n) % 3


def made(net, **settings):
    torch.manual_seed(2)
    rule = DeepSupervision(net, 3, batch()[0], **{"total_steps": 10} | settings)
    rule.heads.double()
    return rule


@pytest.mark.parametrize("companion", [None, SquaredHinge()])
def test_the_objective_typed_out(companion):
    net, (x, y) = chain(), batch()
    rule = made(net, alpha=(0.2, 0.5, 0.7), gamma=0.4, companion=companion)
    rule.step = 3
    value = rule(net, x, y, F.cross_entropy)
    found = [p.grad.clone() for p in [*net.parameters(), *rule.parameters()]]
    net.zero_grad()
    rule.heads.zero_grad()
    loss = companion or F.cross_entropy
    total = F.cross_entropy(net(x), y)
    torch.testing.assert_close(value, total.detach())
    h = x
    for number, alpha in enumerate((0.2, 0.5, 0.7)):
        h = net[number](h)
        z = F.adaptive_avg_pool2d(h, min(4, h.shape[-1])).flatten(1) if h.ndim == 4 else h
        linear = rule.heads[number][-1] if isinstance(rule.heads[number], nn.Sequential) else rule.heads[number]
        ell = loss(z @ linear.weight.T + linear.bias, y)
        assert rule.companion_losses[number] == pytest.approx(ell.item())
        total = total + alpha * 0.7 * torch.relu(ell - 0.4)
    total.backward()
    for p, g in zip([*net.parameters(), *rule.parameters()], found, strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("settings", [dict(alpha=0.0), dict(gamma=math.inf)])
def test_without_companions_it_is_plain_training_bit_for_bit(settings):
    ends = []
    for guided in (True, False):
        net, (x, y) = chain(), batch(20)
        rule = made(net, **settings) if guided else None
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        fit(net, Labelled(x, y), optimizer, epochs=2, batch_size=5, rule=rule)
        ends.append([p.detach() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_companions_reach_all_blocks_below():
    """It is one objective: with a detached input the last companion would leave the first block alone."""
    net, (x, y) = chain(), batch()
    rule = made(net, alpha=(0.0, 0.0, 0.5), decay=None)
    found = gradient_cosine(net, rule, x, y, F.cross_entropy)
    assert found["3.weight"] == pytest.approx(1)
    assert found["0.0.weight"] < 1 - 1e-4
    rule(net, x, y, F.cross_entropy)
    assert [math.isnan(each) for each in rule.companion_losses] == [True, True, False]


def test_fading():
    rule = made(chain(), alpha=0.4, total_steps=8)
    assert rule.alphas(0).tolist() == pytest.approx([0.4] * 3)
    assert rule.alphas(6).tolist() == pytest.approx([0.1] * 3)
    assert rule.alphas(8).tolist() == rule.alphas(11).tolist() == [0.0] * 3
    assert made(chain(), alpha=0.4, decay=None).alphas(9).tolist() == pytest.approx([0.4] * 3)
    net, (x, y) = chain(), batch()
    rule = made(net, total_steps=2)
    for _ in range(3):
        rule(net, x, y, F.cross_entropy)
    assert all(math.isnan(each) for each in rule.companion_losses)


def test_a_companion_below_gamma_is_silent():
    net, (x, y) = chain(), batch()
    rule = made(net, gamma=100.0)
    rule(net, x, y, F.cross_entropy)
    assert all(p.grad.abs().sum() == 0 for p in rule.parameters())


def test_tokens_and_state():
    net = BlockChain(nn.Linear(4, 5), nn.Linear(5, 6), nn.Sequential(nn.Flatten(), nn.Linear(18, 3)))
    x, y = torch.randn(4, 3, 4), torch.tensor([0, 1, 2, 0])
    rule = DeepSupervision(net, 3, x, total_steps=5)
    rule(net, x, y, F.cross_entropy)
    other = DeepSupervision(net, 3, x, total_steps=5)
    other.load_state_dict(rule.state_dict())
    assert other.step == 1
    assert all(torch.equal(a, b) for a, b in zip(rule.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(num_classes=1), "num_classes"),
        (dict(total_steps=0), "total_steps"),
        (dict(alpha=-0.1), "alpha"),
        (dict(alpha=(0.1, 0.2)), "alpha"),
        (dict(gamma=-1.0), "gamma"),
        (dict(decay="cosine"), "decay"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        DeepSupervision(chain(), **{"num_classes": 3, "example": batch()[0], "total_steps": 5} | settings)


def test_refused_models():
    x, y = batch()
    with pytest.raises(ValueError, match="at least 2"):
        DeepSupervision(nn.Sequential(nn.Linear(2, 2)), 2, torch.zeros(1, 2), total_steps=1)
    with pytest.raises(ValueError, match="whose blocks"):
        made(chain())(chain(), x, y, F.cross_entropy)
