"""The cosine between a rule's gradient and backpropagation's, and what looking must leave as it was."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.data import Labelled
from assay.learn import Alignment, DeepSupervision, DirectFeedbackAlignment, backpropagation, gradient_cosine
from assay.nn import smallcnn
from assay.train import fit


def batch(n=12):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.randint(3, (n,), generator=generator)


def noisy(model, inputs, targets, loss):
    """Backpropagation, and a known push beside it."""
    value = backpropagation(model, inputs, targets, loss)
    for p in model.parameters():
        p.grad += torch.randn_like(p)
    return value


def test_against_numpy():
    torch.manual_seed(0)
    net, (x, y) = smallcnn((1, 8, 8), 3, widths=(3, 4)), batch()
    torch.manual_seed(7)
    found = gradient_cosine(net, noisy, x, y, F.cross_entropy)
    F.cross_entropy(net(x), y).backward()
    exact = {name: p.grad.double() for name, p in net.named_parameters()}
    torch.manual_seed(7)
    moved = {name: p.grad.double() + torch.randn_like(p) for name, p in net.named_parameters()}
    for name in exact:
        a, b = moved[name].flatten().numpy(), exact[name].flatten().numpy()
        assert found[name] == pytest.approx(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b), abs=1e-5)
    a, b = (torch.cat([g.flatten() for g in each.values()]).numpy() for each in (moved, exact))
    assert found[""] == pytest.approx(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b), abs=1e-5)


def test_looking_changes_nothing():
    torch.manual_seed(0)
    net, (x, y) = smallcnn((1, 8, 8), 3, widths=(3, 4)), batch()
    rule = DeepSupervision(net, 3, x, total_steps=10)
    rule(net, x, y, F.cross_entropy)
    before = [p.grad.clone() for p in [*net.parameters(), *rule.parameters()]]
    statistics = net[1].running_mean.clone()
    torch.manual_seed(3)
    expected = torch.randn(1)
    torch.manual_seed(3)
    gradient_cosine(net, rule, x, y, F.cross_entropy)
    gradient_cosine(net, noisy, x, y, F.cross_entropy)
    assert torch.equal(torch.randn(1), expected)
    assert torch.equal(net[1].running_mean, statistics)
    assert rule.step == 1
    for p, grad in zip([*net.parameters(), *rule.parameters()], before, strict=True):
        assert torch.equal(p.grad, grad)


def test_a_generator_of_the_rule_is_put_back():
    net, (x, y) = smallcnn((1, 8, 8), 3, widths=(3, 4)), batch()
    rules = [DirectFeedbackAlignment(net, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    gradient_cosine(net, rules[0], x, y, F.cross_entropy)  # draws its matrices, for the look only
    for rule in rules:
        rule(net, x, y, F.cross_entropy)
    assert torch.equal(rules[0].feedback["shared"], rules[1].feedback["shared"])


def test_a_rule_that_raises_leaves_the_gradients():
    net, (x, y) = smallcnn((1, 8, 8), 3, widths=(3,)), batch()
    backpropagation(net, x, y, F.cross_entropy)
    before = net[0].weight.grad.clone()

    def broken(model, inputs, targets, loss):
        model[0].weight.grad = torch.zeros_like(before)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        gradient_cosine(net, broken, x, y, F.cross_entropy)
    assert torch.equal(net[0].weight.grad, before)


def test_no_gradient_has_no_angle():
    net, (x, y) = smallcnn((1, 8, 8), 3, widths=(3,)), batch()

    def last_only(model, inputs, targets, loss):
        value = loss(model(inputs), targets)
        model[-1].weight.grad = torch.autograd.grad(value, model[-1].weight)[0]
        return value

    found = gradient_cosine(net, last_only, x, y, F.cross_entropy)
    assert math.isnan(found["0.weight"])
    assert found["5.weight"] == pytest.approx(1)
    assert 0 < found[""] < 1


def test_the_probe_along_a_run():
    torch.manual_seed(0)
    net, (x, y) = smallcnn((1, 8, 8), 3, widths=(3,)), batch(40)
    probe = Alignment(noisy, x[:10], y[:10], F.cross_entropy, every=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    fit(net, Labelled(x, y), optimizer, epochs=2, batch_size=10, rule=noisy, probes=[probe])
    assert probe.steps == [2, 4, 6, 8]
    assert probe.curve() == [each[""] for each in probe.cosines]
    assert len(probe.curve("0.weight")) == 4
    with pytest.raises(ValueError, match="every"):
        Alignment(noisy, x, y, F.cross_entropy, every=0)


def test_backpropagation_is_backward():
    net = nn.Linear(3, 2)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    value = backpropagation(net, x, y, F.cross_entropy)
    grads = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
    assert value.item() == F.cross_entropy(net(x), y).item()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True))
