"""A language made from a formula: frequent and rare words, and a grammar two words deep."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .split import Labelled


def zipf(vocabulary: int, exponent: float = 1.1) -> Float[Tensor, " vocabulary"]:
    r"""Word frequencies by rank: $p_j \propto j^{-s}$, $j = 1, 2, \dots$ (Zipf, 1935).

    Args:
        vocabulary: words, at least 1.
        exponent: $s$, 0 or more; 0 makes all words equally frequent.

    Raises:
        ValueError: for a vocabulary below 1 or a negative exponent.

    Example:
        >>> zipf(3, 1.0).tolist()  # 1, 1/2 and 1/3, over 11/6
        [0.5454..., 0.2727..., 0.1818...]
    """
    if vocabulary < 1:
        raise ValueError(f"vocabulary must be at least 1: got {vocabulary}")
    if not exponent >= 0:
        raise ValueError(f"exponent must not be negative: got {exponent}")
    weights = torch.arange(1, vocabulary + 1, dtype=torch.float64) ** -exponent
    return weights / weights.sum()


def markov_language(
    count: int,
    length: int,
    *,
    vocabulary: int = 512,
    exponent: float = 1.1,
    successors: int = 4,
    grammar: float = 0.75,
    generator: torch.Generator | None = None,
) -> Labelled:
    r"""Sentences of a second-order Markov chain whose words follow Zipf's law.

    $$P(x_t = j \mid x_{t-2}, x_{t-1}) = (1 - \gamma)\, p_j
      + \frac{\gamma}{k} \sum_{r=1}^{k} [\,j = s_r(x_{t-2}, x_{t-1})\,]$$

    with $p$ as `zipf` says and each successor $s_r$ of each pair of words drawn once from $p$, so that the words of the
    sentences are about as frequent as $p$ says too. The language (all $s_r$) is drawn first and the sentences after it:
    the same generator gives a longer list of sentences of the same language, of which parts may be held out.

    Args:
        count: sentences, at least 1; independent of each other, the first two words of each drawn from $p$.
        length: words an example, at least 1.
        vocabulary: words, at least 1.
        exponent: of Zipf's law, 0 or more.
        successors: $k$ a pair of words, at least 1; they may coincide.
        grammar: $\gamma$, the share of words that the grammar chooses, in [0, 1].
        generator: where the language and the sentences come from.

    Returns:
        inputs (count, length) int64 in 0 .. vocabulary - 1, and targets of the same shape: the word that comes next.

    Raises:
        ValueError: for anything out of range.

    Example:
        >>> text = markov_language(5, 8, vocabulary=20, generator=torch.Generator().manual_seed(0))
        >>> text.inputs.shape, torch.equal(text.inputs[:, 1:], text.targets[:, :-1])
        (torch.Size([5, 8]), True)
    """
    for name, value in (("count", count), ("length", length), ("successors", successors)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1: got {value}")
    if not 0 <= grammar <= 1:
        raise ValueError(f"grammar must lie in [0, 1]: got {grammar}")
    frequency = zipf(vocabulary, exponent)

    def draw(number: int) -> Tensor:
        return torch.multinomial(frequency, number, replacement=True, generator=generator)

    table = draw(vocabulary * vocabulary * successors).view(vocabulary, vocabulary, successors)
    words = torch.empty(count, length + 1, dtype=torch.long)
    before, last = draw(count), draw(count)
    words[:, 0] = last
    for t in range(1, length + 1):
        chosen = table[before, last, torch.randint(successors, (count,), generator=generator)]
        free = torch.rand(count, generator=generator) >= grammar
        before, last = last, torch.where(free, draw(count), chosen)
        words[:, t] = last
    return Labelled(words[:, :-1].contiguous(), words[:, 1:].contiguous())
