"""Batched perceptrons: each is its single counterpart, before, during and after training."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.nn import BatchedMLP


def networks(**options):
    return BatchedMLP(4, (5, 7, 3, 2), generator=torch.Generator().manual_seed(0), **options).double()


def batch(n=30):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 5, generator=generator).double(), torch.randint(2, (n,), generator=generator)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_each_is_the_perceptron_by_hand(activation):
    many, (x, _) = networks(activation=activation), batch()
    for number in range(4):
        h = x
        for layer in (0, 2, 4):
            h = h @ many[layer].weight[number].T + many[layer].bias[number, 0]
            h = h if layer == 4 else activation()(h)
        torch.testing.assert_close(many(x)[number], h)
        torch.testing.assert_close(many.single(number)(x), h)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_training_together_is_training_alone(kind):
    many, (x, y) = networks(), batch()
    alone = [many.single(number) for number in range(4)]
    optimizer = kind(many.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(many(x).flatten(0, 1), y.repeat(4), reduction="sum").div(len(y)).backward()
        optimizer.step()
    for number, network in enumerate(alone):
        own = kind(network.parameters(), lr=0.05)
        for _ in range(20):
            own.zero_grad()
            F.cross_entropy(network(x), y).backward()
            own.step()
        torch.testing.assert_close(many(x)[number], network(x), rtol=1e-6, atol=1e-8)


def test_no_network_sees_another():
    many, (x, _) = networks(), batch()
    many(x)[2].sum().backward()
    for p in many.parameters():
        assert [bool(g.abs().sum() > 0) for g in p.grad] == [False, False, True, False]


def test_slices_are_plain_sequences():
    many, (x, _) = networks(), batch()
    torch.testing.assert_close(many[2:](many[:2](x.expand(4, -1, -1))), many(x))
    assert many[-1] is many[4]


def test_own_inputs_for_each():
    many, (x, _) = networks(), batch()
    own = torch.stack([x + k for k in range(4)])
    torch.testing.assert_close(many(own)[3], many.single(3)(x + 3))


def test_weights_are_drawn_as_those_of_linear_layers():
    layer = BatchedMLP(300, (16, 8), generator=torch.Generator().manual_seed(0))[0]
    for tensor in (layer.weight, layer.bias):  # uniform on +-1/4: the largest of n is within a few 1/n of the end
        assert 0.249 < tensor.max() <= 0.25
        assert -0.25 <= tensor.min() < -0.249
        assert tensor.var().item() == pytest.approx(1 / 48, rel=0.05)
    again = BatchedMLP(300, (16, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again[0].weight, layer.weight)


def test_what_is_refused():
    for count, widths, name in ((0, (3, 2), "widths"), (2, (3,), "widths must be inputs"), (2, (3, 0), "widths")):
        with pytest.raises(ValueError, match=name):
            BatchedMLP(count, widths)
    many = networks()
    for shape in ((6, 4), (3, 6, 5), (4, 6, 4)):
        with pytest.raises(ValueError, match=r"inputs must be \(n, 5\) or \(4, n, 5\)"):
            many(torch.zeros(*shape).double())
    with pytest.raises(ValueError, match="number"):
        many.single(4)
