"""DiffROAR: an oracle, a random and a reversed attribution; masks by hand; whose attributions; refusals."""

import pytest
import torch
from torch import nn

from assay.data import Labelled
from assay.probes import DiffROAR, diff_roar, gradient_size, input_gradient


def nearest_mean(train):
    means = torch.stack([train.inputs[train.targets == k].flatten(1).mean(0) for k in (0, 1)])
    model = nn.Sequential(nn.Flatten(), nn.Linear(means.shape[1], 2))
    model[1].weight.data, model[1].bias.data = means, -(means**2).sum(1) / 2
    return model


def parts():
    """Four of forty pixels carry the label."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    images = torch.rand(400, 1, 5, 8, generator=g)
    images[:, 0, 2, :4] = 0.8 * labels[:, None] + 0.2 * images[:, 0, 2, :4]
    return Labelled(images[:200], labels[:200]), Labelled(images[200:], labels[200:])


def oracle(model, x, y):
    where = torch.zeros(len(x), 1, 5, 8)
    where[:, 0, 2, :4] = 1.0
    return where + 0.01 * torch.rand(where.shape, generator=torch.Generator().manual_seed(1))


def chance(model, x, y):
    return torch.rand(len(x), 1, 5, 8, generator=torch.Generator().manual_seed(len(x)))


def test_what_different_attributions_earn():
    train, test = parts()
    model = nearest_mean(train)
    fractions = (0.1, 0.3)
    found = diff_roar(model, train, test, nearest_mean, fractions, attribution=oracle)
    assert isinstance(found, DiffROAR)
    assert (found.top == 1).all()
    assert (found.bottom < 0.5 + 5 * 0.5 / 200**0.5).all()  # noise only
    assert torch.equal(found.difference, found.top - found.bottom)
    reverse = diff_roar(model, train, test, nearest_mean, fractions, attribution=lambda m, x, y: -oracle(m, x, y))
    torch.testing.assert_close(reverse.difference, -found.difference)
    random = diff_roar(model, train, test, nearest_mean, fractions, attribution=chance, batch_size=1000)
    assert random.difference.abs().max() < 5 * (2 * 0.25 / 200) ** 0.5


def test_masks_and_models_by_hand():
    """New models see exactly the ranked pixels; attributions are the first model's, of the true labels."""
    train, test = parts()
    model = nearest_mean(train)
    seen, asked = [], []

    def fit(data):
        seen.append(data.inputs)
        return nearest_mean(data)

    def attribution(m, x, y):
        asked.append((m, y))
        return gradient_size(m, x, y)

    diff_roar(model, train, test, fit, (0.25,), attribution=attribution, fill=0.5, batch_size=150)
    assert all(m is model for m, _ in asked)
    assert torch.equal(torch.cat([y for _, y in asked]), torch.cat([train.targets, test.targets]))
    order = input_gradient(model, train.inputs, train.targets).abs().flatten(1).argsort(descending=True, stable=True)
    for kept, chosen in zip(seen, (order[:, :10], order[:, 30:]), strict=True):
        expected = torch.full((200, 40), 0.5)
        expected.scatter_(1, chosen, train.inputs.flatten(1).gather(1, chosen))
        assert torch.equal(kept.flatten(1), expected)


def test_the_size_of_a_gradient():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    x = torch.rand(2, 3, 2, 2)
    expected = net[1].weight[1].view(3, 2, 2).abs().amax(0).detach()
    torch.testing.assert_close(gradient_size(net, x, torch.tensor([1, 1]))[1, 0], expected)


def test_refused():
    train, test = parts()
    model = nearest_mean(train)
    for fraction in (0.0, 1.2):
        with pytest.raises(ValueError, match=r"fractions must lie in \(0, 1\]"):
            diff_roar(model, train, test, nearest_mean, (fraction,))
    with pytest.raises(ValueError, match=r"maps of shape \(200, 1, 5, 8\): got \(200, 1, 5, 4\)"):
        diff_roar(model, train, test, nearest_mean, attribution=lambda m, x, y: x[..., :4])
