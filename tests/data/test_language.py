"""The language against its formula and its statistics."""

import math

import pytest
import torch

from assay import data


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_zipf_is_a_power_of_the_rank():
    p = data.zipf(200, 1.3)
    assert p.sum().item() == pytest.approx(1, rel=1e-12)
    assert math.log(p[9] / p[99]) / math.log(100 / 10) == pytest.approx(1.3, rel=1e-12)
    assert data.zipf(7, 0.0).tolist() == pytest.approx([1 / 7] * 7)


def conditional(text, vocabulary):
    """Counts of (two words, the next one), and the share of each next word after them."""
    a, b, c = text.inputs[:, :-1].flatten(), text.inputs[:, 1:].flatten(), text.targets[:, 1:].flatten()
    counts = torch.bincount((a * vocabulary + b) * vocabulary + c, minlength=vocabulary**3)
    counts = counts.view(vocabulary, vocabulary, vocabulary).double()
    return counts.sum(-1), counts / counts.sum(-1, keepdim=True)


def test_the_next_word_follows_from_two():
    """Every conditional frequency is a mixture of Zipf's law and at most k successors of weight gamma / k each."""
    v, gamma, k = 5, 0.6, 2
    text = data.markov_language(
        40_000, 20, vocabulary=v, exponent=0.8, successors=k, grammar=gamma, generator=seeded(1)
    )
    seen, share = conditional(text, v)
    assert seen.min() > 1_000
    grammar = (share - (1 - gamma) * data.zipf(v, 0.8)) * k / gamma  # how many of the k successors each word is
    error = 5 * 0.5 * k / gamma / seen.sqrt()
    assert ((grammar - grammar.round()).abs().amax(-1) < error).all()
    assert (grammar.round().sum(-1) == k).all()
    assert (grammar.round() >= 0).all()
    # Words two back matter: a first-order chain would have the same successors after every first word.
    assert (grammar.round()[0] != grammar.round()[1]).any()


def test_without_grammar_words_are_independent():
    v, n = 6, 50_000
    text = data.markov_language(n, 4, vocabulary=v, exponent=1.1, grammar=0.0, generator=seeded(2))
    p = data.zipf(v, 1.1)
    error = 5 * (p * (1 - p) / text.inputs.numel()).sqrt()
    assert ((torch.bincount(text.inputs.flatten(), minlength=v) / text.inputs.numel() - p).abs() < error).all()
    seen, share = conditional(text, v)
    assert ((share - p).abs() < 6 * (p * (1 - p) / seen[..., None]).sqrt()).all()


def test_words_are_about_as_frequent_as_zipf_says():
    text = data.markov_language(2_000, 32, vocabulary=512, generator=seeded(3))
    frequency = torch.bincount(text.inputs.flatten(), minlength=512) / text.inputs.numel()
    p = data.zipf(512, 1.1)
    head, tail = slice(0, 10), slice(256, 512)
    assert frequency[head].sum().item() == pytest.approx(p[head].sum().item(), abs=0.05)
    assert frequency[tail].sum().item() == pytest.approx(p[tail].sum().item(), abs=0.02)


def test_targets_are_the_next_words_and_seeds_decide():
    one, same, other = (data.markov_language(7, 9, vocabulary=30, generator=seeded(s)) for s in (5, 5, 6))
    assert torch.equal(one.inputs[:, 1:], one.targets[:, :-1])
    assert torch.equal(one.inputs, same.inputs)
    assert torch.equal(one.targets, same.targets)
    assert not torch.equal(one.inputs, other.inputs)
    assert one.inputs.dtype == one.targets.dtype == torch.int64
    assert 0 <= one.inputs.min() <= one.targets.max() < 30


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"count": 0}, "count"),
        ({"length": 0}, "length"),
        ({"vocabulary": 0}, "vocabulary"),
        ({"exponent": -0.1}, "exponent"),
        ({"exponent": math.nan}, "exponent"),
        ({"successors": 0}, "successors"),
        ({"grammar": 1.1}, "grammar"),
        ({"grammar": -0.1}, "grammar"),
    ],
)
def test_refused(options, name):
    with pytest.raises(ValueError, match=name):
        data.markov_language(**({"count": 2, "length": 3, "vocabulary": 4} | options))
