"""OrthoGrad against its formula, the authors' code, and what it promises."""

import pytest
import torch

from assay.optim import OrthoGrad


def numbers(*shape, phase):
    """Generic values without a random generator: the recipe of the authors' numbers below."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (torch.sin(1.7 * i + phase) + 0.3 * torch.cos(0.37 * i * i + phase)).reshape(shape)


# OrthoGrad(params, torch.optim.SGD, lr=0.1, momentum=0.9) of github.com/LucasPrietoAl/
# grokking-at-the-edge-of-numerical-stability (orthograd.py): three steps from numbers(2, 3, phase=0.2), with gradients
# numbers(2, 3, phase=t), t = 1, 2, 3.
OFFICIAL = [
    [-0.03320410681479458, 1.4455988345688966, 0.20407674736138154],
    [-1.4609092981045457, 0.4834911139077906, 0.7705977018704752],
]


def test_three_steps_are_the_authors():
    weight = torch.nn.Parameter(numbers(2, 3, phase=0.2))
    optimizer = OrthoGrad(torch.optim.SGD([weight], lr=0.1, momentum=0.9))
    for t in (1.0, 2.0, 3.0):
        weight.grad = numbers(2, 3, phase=t)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor(OFFICIAL, dtype=torch.float64), rtol=1e-12, atol=0)


def seen(weights, gradients):
    """What the wrapped optimizer is given."""
    parameters = [torch.nn.Parameter(w.clone()) for w in weights]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    OrthoGrad(torch.optim.SGD(parameters, lr=0.0)).step()
    return [p.grad for p in parameters]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_tensor_on_its_own_is_across_and_as_long(dtype):
    weights = [numbers(4, 3, phase=0.1).to(dtype), numbers(5, phase=0.4).to(dtype)]
    gradients = [numbers(4, 3, phase=1.3).to(dtype), 1e-4 * numbers(5, phase=2.0).to(dtype)]
    eps = torch.finfo(dtype).eps
    for w, g, found in zip(weights, gradients, seen(weights, gradients), strict=True):
        assert abs((w * found).sum()) <= 16 * eps * w.norm() * g.norm()
        torch.testing.assert_close(found.norm(), g.norm())
        by_hand = g - (w * g).sum() / (w * w).sum() * w
        torch.testing.assert_close(found, by_hand * g.norm() / by_hand.norm())


def test_the_gradient_itself_is_another():
    """The ancestor: what it takes away is there to be taken away, and a plain step would scale the weights."""
    w, g = numbers(4, 3, phase=0.1), numbers(4, 3, phase=1.3)
    assert abs((w * g).sum()) > 0.1 * w.norm() * g.norm()
    (found,) = seen([w], [g])
    assert (found - g).norm() > 0.1 * g.norm()


def test_where_there_is_nothing_across_or_along():
    zero, one, parallel, tiny = (
        torch.zeros(3),
        torch.tensor([2.0]),
        torch.tensor([1.0, 3.0, 7.0]),
        torch.full((2,), 1e-25),
    )
    gradients = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([5.0]), 0.3 * parallel, torch.tensor([1.0, -1.0])]
    found = seen([zero, one, parallel, tiny], gradients)
    assert torch.equal(found[0], gradients[0])  # no weights: no direction to leave out
    assert torch.equal(found[1], torch.zeros(1))  # one entry: nothing across
    assert torch.equal(found[2], torch.zeros(3))  # not rounding, blown up
    torch.testing.assert_close(found[3], gradients[3])
    assert torch.equal(seen([parallel], [torch.zeros(3)])[0], torch.zeros(3))


def test_outputs_of_a_homogeneous_network_are_not_scaled():
    """To first order no layer grows along itself; a plain gradient makes it so."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 4, bias=False)]
    network = torch.nn.Sequential(*layers)
    x, y = torch.randn(20, 6), torch.randint(4, (20,))
    growth = {}
    for name in ("plain", "across"):
        network.zero_grad()
        torch.nn.functional.cross_entropy(10 * network(x), y).backward()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        (optimizer if name == "plain" else OrthoGrad(optimizer)).step()
        growth[name] = [
            abs((p * p.grad).sum()).item() / (p.norm() * p.grad.norm()).item() for p in network.parameters()
        ]
    assert max(growth["across"]) < 1e-5
    assert max(growth["plain"]) > 0.02


def test_what_is_refused():
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    weight.grad = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(TypeError, match="must be real for OrthoGrad"):
        OrthoGrad(torch.optim.SGD([weight], lr=0.1)).step()
