"""The transformer against a transcription in loops and float64, and its limits."""

import math

import numpy as np
import pytest
import torch

from assay import nn
from assay.nn.tinyvit import Attention, TransformerBlock


def array(tensor):
    return tensor.detach().numpy()


def linear(x, layer):
    return x @ array(layer.weight).T + array(layer.bias)


def layer_norm(x, norm):
    out = np.empty_like(x)
    for i, row in enumerate(x):
        variance = sum((value - row.mean()) ** 2 for value in row) / len(row)
        out[i] = (row - row.mean()) / math.sqrt(variance + norm.eps) * array(norm.weight) + array(norm.bias)
    return out


def attention(x, layer):
    """One image: x (tokens, d). Softmax and sums by loops, head by head."""
    tokens, d = x.shape
    q, k, v = np.split(linear(x, layer.qkv), 3, axis=1)
    width = d // layer.heads
    joined = np.zeros((tokens, d))
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        for i in range(tokens):
            scores = [math.exp(float(q[i, part] @ k[j, part]) / math.sqrt(width)) for j in range(tokens)]
            for j in range(tokens):
                joined[i, part] += scores[j] / sum(scores) * v[j, part]
    return linear(joined, layer.out)


def gelu(x):
    return np.array([[0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in row] for row in x])


def block(x, layer):
    x = x + attention(layer_norm(x, layer.norm1), layer.attention)
    return x + linear(gelu(linear(layer_norm(x, layer.norm2), layer.up)), layer.down)


def generic(make, seed=0):
    torch.manual_seed(seed)
    module = make().double()
    for parameter in module.parameters():
        parameter.data.normal_(std=0.5)
    return module


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_a_softmax_over_tokens_in_each_head(heads):
    layer, x = generic(lambda: Attention(8, heads)), torch.randn(2, 5, 8, dtype=torch.float64)
    expected = np.stack([attention(array(each), layer) for each in x])
    np.testing.assert_allclose(array(layer(x)), expected, atol=1e-12)


def test_block_normalizes_before_both_branches():
    layer, x = generic(lambda: TransformerBlock(8, 2)), torch.randn(2, 5, 8, dtype=torch.float64)
    np.testing.assert_allclose(array(layer(x)), np.stack([block(array(each), layer) for each in x]), atol=1e-11)


def test_whole_network():
    network = generic(lambda: nn.tinyvit((2, 6, 4), 3, patch=2, d=8, depth=2, heads=2))
    x = torch.randn(3, 2, 6, 4, dtype=torch.float64)
    weight, bias = array(network.patches.weight), array(network.patches.bias)
    for image, logits in zip(array(x), array(network(x)), strict=True):
        cut = [image[:, i : i + 2, j : j + 2] for i in (0, 2, 4) for j in (0, 2)]
        tokens = np.array([[(w * patch).sum() + b for w, b in zip(weight, bias, strict=True)] for patch in cut])
        tokens = tokens + array(network.positions)[0]
        for layer in network.blocks:
            tokens = block(tokens, layer)
        expected = linear(layer_norm(tokens, network.norm).mean(axis=0)[None], network.head)[0]
        np.testing.assert_allclose(logits, expected, atol=1e-10)


def test_without_scores_attention_is_the_mean_of_the_values():
    layer, x = generic(lambda: Attention(6, 3)), torch.randn(2, 5, 6, dtype=torch.float64)
    layer.qkv.weight.data[:6] = 0.0
    layer.qkv.bias.data[:6] = 0.0
    values = x @ layer.qkv.weight[12:].T + layer.qkv.bias[12:]
    expected = layer.out(values.mean(dim=1, keepdim=True)).expand(-1, 5, -1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_with_silent_branches_a_block_is_the_identity():
    layer, x = generic(lambda: TransformerBlock(8, 2)), torch.randn(2, 5, 8, dtype=torch.float64)
    for last in (layer.attention.out, layer.down):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    assert torch.equal(layer(x), x)


def test_attention_commutes_with_permutations_and_positions_break_that():
    order = torch.tensor([3, 0, 4, 1, 2, 5])
    layer, x = generic(lambda: TransformerBlock(8, 2)), torch.randn(1, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=1e-12, atol=1e-12)
    network = generic(lambda: nn.tinyvit((1, 2, 12), 3, patch=2, d=8, depth=1, heads=2))
    image = torch.randn(1, 1, 2, 12, dtype=torch.float64)
    moved = image.reshape(1, 1, 2, 6, 2)[:, :, :, order].reshape(1, 1, 2, 12)
    assert not torch.allclose(network(moved), network(image))
    torch.nn.init.zeros_(network.positions)
    torch.testing.assert_close(network(moved), network(image), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 5}, "patch must divide height and width, 28 and 28: got 5"),
        ({"heads": 5}, "heads must divide d = 64: got 5"),
        ({"depth": 0}, "depth must be at least 1: got 0"),
        ({"d": 0}, "d must be at least 1: got 0"),
        ({"patch": 0}, "patch must be at least 1: got 0"),
        ({"heads": 0}, "heads must be at least 1: got 0"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        nn.tinyvit(**options)
