"""The language model against a transcription in loops and float64, its causality, and its limits."""

import math

import numpy as np
import pytest
import torch

from assay import nn
from assay.nn.decoder import CausalAttention


def array(tensor):
    return tensor.detach().numpy()


def linear(x, layer):
    return x @ array(layer.weight).T + (0 if layer.bias is None else array(layer.bias))


def layer_norm(x, norm):
    out = np.empty_like(x)
    for i, row in enumerate(x):
        variance = sum((value - row.mean()) ** 2 for value in row) / len(row)
        out[i] = (row - row.mean()) / math.sqrt(variance + norm.eps) * array(norm.weight) + array(norm.bias)
    return out


def attention(x, layer):
    """One row of words: x (tokens, d). Token i sees tokens 0 to i."""
    tokens, d = x.shape
    q, k, v = np.split(linear(x, layer.qkv), 3, axis=1)
    width = d // layer.heads
    joined = np.zeros((tokens, d))
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        for i in range(tokens):
            scores = [math.exp(float(q[i, part] @ k[j, part]) / math.sqrt(width)) for j in range(i + 1)]
            for j in range(i + 1):
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


def test_transcription():
    model = generic(lambda: nn.decoder(11, 6, d=8, depth=2, heads=2))
    words = torch.tensor([[3, 0, 10, 3, 7], [1, 1, 9, 2, 4]])
    for row, logits in zip(words, model(words), strict=True):
        x = array(model.words.weight)[row] + array(model.positions)[: len(row)]
        for layer in model.blocks:
            x = block(x, layer)
        np.testing.assert_allclose(array(logits), linear(layer_norm(x, model.norm), model.head), rtol=1e-9, atol=1e-10)


def test_no_word_sees_a_later_one():
    """In the logits and in their derivatives; earlier words are seen."""
    model = generic(lambda: nn.decoder(11, 6, d=8, depth=2, heads=2))
    words = torch.tensor([[3, 0, 10, 3, 7, 5]])
    for place in range(6):
        other = words.clone()
        other[0, place] = 9
        changed = (model(words) != model(other)).any(-1)[0].tolist()
        assert changed == [later >= place for later in range(6)]


def test_the_first_token_attends_to_itself_alone():
    layer = generic(lambda: CausalAttention(6, 3))
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    value = layer.qkv(x)[:, 0, 12:]
    torch.testing.assert_close(layer(x)[:, 0], layer.out(value), rtol=1e-12, atol=1e-12)


def test_second_derivatives_exist():
    model = generic(lambda: nn.decoder(5, 4, d=4, depth=1, heads=2))
    loss = torch.nn.functional.cross_entropy(model(torch.tensor([[1, 4, 0]])).flatten(0, 1), torch.tensor([4, 0, 2]))
    grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    square = sum((g**2).sum() for g in grads)
    assert all(g.isfinite().all() for g in torch.autograd.grad(square, list(model.parameters())))


def test_it_starts_as_a_uniform_guess_and_small():
    torch.manual_seed(0)
    model = nn.decoder()
    assert sum(p.numel() for p in model.parameters()) == 2 * 512 * 64 + 32 * 64 + 2 * (12 * 64**2 + 13 * 64) + 2 * 64
    assert model.words.weight.std().item() == pytest.approx(0.02, rel=0.05)
    logits = model(torch.randint(512, (4, 32)))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(512, (128,)))
    assert loss.item() == pytest.approx(math.log(512), abs=0.5)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"vocabulary": 0}, "vocabulary"),
        ({"context": 0}, "context"),
        ({"d": 0}, "d must"),
        ({"depth": 0}, "depth"),
        ({"heads": 0}, "heads"),
        ({"heads": 3}, "heads"),
    ],
)
def test_refused(options, name):
    with pytest.raises(ValueError, match=name):
        nn.decoder(**({"vocabulary": 5, "context": 4, "d": 8, "depth": 1, "heads": 2} | options))


def test_rows_longer_than_the_context_are_refused():
    with pytest.raises(ValueError, match="at most 4"):
        nn.decoder(5, 4, d=4, depth=1, heads=1)(torch.zeros(1, 5, dtype=torch.long))
