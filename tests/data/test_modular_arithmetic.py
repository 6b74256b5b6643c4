"""All pairs, each once, rightly labelled, and split as asked."""

import pytest
import torch

from assay.data import modular_arithmetic


@pytest.mark.parametrize(
    ("op", "truth"), [("add", lambda a, b: a + b), ("subtract", lambda a, b: a - b), ("multiply", lambda a, b: a * b)]
)
def test_every_pair_is_there_once_with_its_result(op, truth):
    parts = modular_arithmetic(7, op=op, train_fraction=0.4, generator=torch.Generator().manual_seed(1))
    assert [len(part.targets) for part in parts] == [20, 29]
    inputs = torch.cat([part.inputs for part in parts])
    assert inputs.sum(1).eq(2).all()
    a, b = inputs.unflatten(1, (2, 7)).argmax(2).T
    assert sorted((7 * a + b).tolist()) == list(range(49))
    assert torch.equal(torch.cat([part.targets for part in parts]), truth(a, b) % 7)


def test_the_split_is_the_generators():
    drawn = [modular_arithmetic(5, generator=torch.Generator().manual_seed(seed))[0].inputs for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_what_is_refused():
    with pytest.raises(ValueError, match="p must be"):
        modular_arithmetic(1)
    with pytest.raises(ValueError, match="'add', 'subtract', 'multiply': got 'power'"):
        modular_arithmetic(5, op="power")
    for fraction in (0.0, 1.0, 1e-3, 0.999, float("nan")):
        with pytest.raises(ValueError, match="train_fraction"):
            modular_arithmetic(5, train_fraction=fraction)
