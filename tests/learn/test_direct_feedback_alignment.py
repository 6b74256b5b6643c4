"""Direct feedback alignment: the authors' numbers, its limits, that alignment emerges, placement, what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.learn import BlockChain, DirectFeedbackAlignment, FeedbackPoint, gradient_cosine
from assay.nn import decoder, smallcnn


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


# TinyDFA of github.com/lightonai/dfa-scales-to-modern-deep-learning, float64: Linear 4-6, tanh, DFALayer, Linear 6-5,
# tanh, DFALayer, Linear 5-3 (no biases; weights waves of phase .1, .2, .3), DFA; feedback_matrix = waves((3, 6), .5);
# the batch of `reference`, cross-entropy. The first four entries of each weight's gradient.
OFFICIAL = [
    [-0.010043223261418486, 0.003449290120677455, 0.015319548462373912, 0.01998478378766812],
    [0.1584741249640116, -0.16206443366681605, 0.16369776606397185, -0.16595902628809311],
    [0.08549798369607502, 0.014209461873881835, -0.10387199621757656, 0.08339959938326183],
]


def reference():
    layers = [nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in ((4, 6), (6, 5), (5, 3))]
    for number, layer in enumerate(layers):
        layer.weight.data = waves(layer.weight.shape, 0.1 * (number + 1))
    net = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
    return net, waves((4, 4), 0.4), torch.tensor([0, 2, 1, 2])


def test_gradients_are_the_authors():
    net, x, y = reference()
    rule = DirectFeedbackAlignment(net)
    rule(net, x, y, F.cross_entropy)
    rule.feedback["shared"] = waves((3, 6), 0.5) / math.sqrt(6)
    net.zero_grad()
    rule(net, x, y, F.cross_entropy)
    for layer, expected in zip(net[::2], OFFICIAL, strict=True):
        np.testing.assert_allclose(layer.weight.grad.flatten()[:4], expected, rtol=1e-10)


def test_by_hand_with_matrices_of_their_own():
    net, x, y = reference()
    rule = DirectFeedbackAlignment(net, shared=False, scale=2.0, generator=torch.Generator().manual_seed(0))
    rule(net, x, y, F.cross_entropy)
    one, two = rule.feedback["0"].double(), rule.feedback["1"].double()
    assert (one.shape, two.shape) == ((3, 6), (3, 5))
    h1 = torch.tanh(x @ net[0].weight.T)
    h2 = torch.tanh(h1 @ net[2].weight.T)
    error = (torch.softmax(h2 @ net[4].weight.T, 1) - F.one_hot(y, 3)) / len(x)
    torch.testing.assert_close(net[0].weight.grad, ((error @ one) * (1 - h1**2)).T @ x)
    torch.testing.assert_close(net[2].weight.grad, ((error @ two) * (1 - h2**2)).T @ h1)
    torch.testing.assert_close(net[4].weight.grad, error.T @ h2)


def test_with_the_transposed_weights_it_is_backpropagation():
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = waves((5, 4), 0.1), torch.tensor([0, 2, 1, 2, 0])
    rule = DirectFeedbackAlignment(net)
    rule(net, x, y, F.cross_entropy)
    assert gradient_cosine(net, rule, x, y, F.cross_entropy)["0.weight"] < 0.99  # not by itself
    rule.feedback["shared"] = net[2].weight.detach().clone()
    found = gradient_cosine(net, rule, x, y, F.cross_entropy)
    assert all(cosine == pytest.approx(1) for cosine in found.values())


def test_the_readout_gets_its_true_gradient_and_the_loss_reaches_nothing_below():
    torch.manual_seed(0)
    net = smallcnn((1, 8, 8), 3, widths=(3, 4))
    x, y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    rule = DirectFeedbackAlignment(net)
    found = gradient_cosine(net, rule, x, y, F.cross_entropy)
    assert found["8.weight"] == pytest.approx(1)
    rule(net, x, y, F.cross_entropy)
    rule.feedback = {name: torch.zeros_like(matrix) for name, matrix in rule.feedback.items()}
    net.zero_grad()
    rule(net, x, y, F.cross_entropy)
    assert net[0].weight.grad.abs().max() == 0
    assert net[8].weight.grad.abs().max() > 0


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_feedback_is_drawn_once_and_restored(distribution):
    net, x, y = reference()
    rule = DirectFeedbackAlignment(net, distribution=distribution, generator=torch.Generator().manual_seed(1))
    rule(net, x, y, F.cross_entropy)
    matrix = rule.feedback["shared"].clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        rule(net, x, y, F.cross_entropy)
        optimizer.step()
    assert torch.equal(rule.feedback["shared"], matrix)
    again = DirectFeedbackAlignment(net, distribution=distribution, generator=torch.Generator().manual_seed(1))
    again(net, x, y, F.cross_entropy)
    assert torch.equal(again.feedback["shared"], matrix)
    other = DirectFeedbackAlignment(net, distribution=distribution)
    other.load_state_dict(rule.state_dict())
    other(net, x, y, F.cross_entropy)
    assert torch.equal(other.feedback["shared"], matrix)


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_feedback_has_the_length_of_the_scale(distribution):
    """A column of B is of mean square scale^2 / (3 d): the projected error hangs on the width of no layer."""
    net = nn.Sequential(nn.Linear(2, 4000), nn.Linear(4000, 50))
    rule = DirectFeedbackAlignment(
        net, distribution=distribution, scale=3.0, generator=torch.Generator().manual_seed(0)
    )
    rule(net, torch.ones(1, 2), torch.tensor([0]), F.cross_entropy)
    values = rule.feedback["shared"]
    assert values.square().mean().item() == pytest.approx(9 / 3 / 4000, rel=0.02)
    assert (values.abs().max() < 3 / math.sqrt(4000)) == (distribution == "uniform")


def test_alignment_emerges_on_a_linear_task():
    """Feedback alignment's theorem: the weights above turn towards the feedback; they start unrelated."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 5, bias=False))
    for p in net.parameters():
        nn.init.normal_(p, std=0.01, generator=generator)
    teacher = torch.randn(5, 10, generator=generator)
    x = torch.randn(200, 10, generator=generator)
    y = x @ teacher.T
    rule = DirectFeedbackAlignment(net, generator=generator)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    cosines = []
    for _ in range(200):
        cosines.append(gradient_cosine(net, rule, x, y, F.mse_loss)["0.weight"])
        optimizer.zero_grad()
        rule(net, x, y, F.mse_loss)
        optimizer.step()
    assert abs(cosines[0]) < 0.4
    assert cosines[-1] > 0.5


def test_feedback_points_in_any_model_and_tokens_of_their_own():
    """In a language model, a token's blocks hear of that token's error alone."""
    torch.manual_seed(0)
    model = decoder(vocabulary=11, context=6, d=8, depth=2, heads=2)
    model.blocks = nn.Sequential(model.blocks[0], FeedbackPoint(), model.blocks[1], FeedbackPoint())
    words = torch.randint(11, (3, 6))

    def loss(logits, targets):
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    rule = DirectFeedbackAlignment(model, batch_dims=(0, 1))
    targets = torch.randint(11, (3, 6))
    rule(model, words, targets, loss)
    assert rule.feedback["shared"].shape == (11, 8)
    assert all(p.grad is not None for p in model.parameters())
    # With only the first token's error, nothing of the last layer's MLP at later tokens is taught: its output weights'
    # gradient is a sum over tokens of error times activity, of rank 1 for each example then.
    model.zero_grad()
    targets[:, 1:] = -1
    rule(model, words[:1], targets[:1], loss)
    assert torch.linalg.matrix_rank(model.blocks[2].down.weight.grad, rtol=1e-4) == 1


def test_frozen_blocks_are_left():
    net, x, y = reference()
    net[0].weight.requires_grad_(False)
    DirectFeedbackAlignment(net)(net, x, y, F.cross_entropy)
    assert net[0].weight.grad is None
    assert net[2].weight.grad is not None


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(distribution="cauchy"), "distribution"),
        (dict(scale=0.0), "scale"),
        (dict(batch_dims=()), "batch_dims"),
        (dict(batch_dims=(1,)), "batch_dims"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        DirectFeedbackAlignment(reference()[0], **settings)


def test_refused_models():
    net, x, y = reference()
    with pytest.raises(ValueError, match="FeedbackPoint"):
        DirectFeedbackAlignment(nn.Linear(2, 2))
    rule = DirectFeedbackAlignment(net)
    with pytest.raises(ValueError, match="whose blocks"):
        rule(nn.Sequential(net, nn.Linear(3, 3).double()), x, y, F.cross_entropy)
    rule(net, x, y, F.cross_entropy)
    wide = nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 3)).double()
    other = DirectFeedbackAlignment(wide)
    other.load_state_dict(rule.state_dict())
    with pytest.raises(ValueError, match="keep their sizes"):
        other(wide, x, y, F.cross_entropy)
    with pytest.raises(ValueError, match="batch dimensions"):
        _flat(x)

    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.point, self.linear = FeedbackPoint(), nn.Linear(4, 3).double()

        def forward(self, x):
            return self.linear(x)

    skips = Skips()
    with pytest.raises(ValueError, match="every feedback point"):
        DirectFeedbackAlignment(skips)(skips, x, y, F.cross_entropy)


def _flat(x):
    """The output has other rows than the feedback point."""
    net = BlockChain(nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 2), nn.Flatten(0))).double()
    return DirectFeedbackAlignment(net)(net, x, torch.zeros(8).double(), lambda out, y: (out - y).square().mean())
