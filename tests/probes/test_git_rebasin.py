"""Git Re-Basin: the authors' algorithm typed out, brute force, planted permutations, and what is refused."""

import copy
import itertools

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional as F

from assay.data import Labelled
from assay.nn import mlp, resnet8, smallcnn
from assay.probes import (
    PermutationSpec,
    activation_matching,
    barrier,
    inverse,
    merge_many,
    straight_through_matching,
    weight_matching,
)

SHAPE = (1, 8, 8)
MAKERS = {
    "mlp": lambda: mlp(SHAPE, 3, widths=(9, 7)),
    "smallcnn": lambda: smallcnn(SHAPE, 3, widths=(5, 6)),
    "resnet8": lambda: resnet8(SHAPE, 3, widths=(4, 5, 6)),
}


def pair(name, dtype=torch.float64):
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(MAKERS[name]().to(dtype))
        for p in models[-1].parameters():
            p.data.add_(0.2 * torch.randn_like(p))
    x = torch.rand(20, *SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(5))
    return *models, PermutationSpec.of(models[0], x), x


def inner(spec, a, b, permutations):
    moved = spec.apply(permutations, b)
    return sum((p * q).sum().item() for p, q in zip(a.parameters(), moved.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MAKERS)
def test_a_planted_permutation_is_found(name, dtype):
    a, _, spec, _ = pair(name, dtype)
    planted = spec.random(a, torch.Generator().manual_seed(3))
    b = spec.apply(planted, a)
    x = torch.randn(200, *SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(6))  # no unit sleeps through
    for found in (weight_matching(a, b, spec), activation_matching(a, b, spec, x, correlation=True)):
        for key, p in inverse(planted).items():
            assert torch.equal(found[key], p), key
    moved = spec.apply(weight_matching(a, b, spec), b)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), moved.parameters(), strict=True))


def naive_weight_matching(a, b, sweeps, orders):
    """Algorithm 1 for a perceptron of two hidden layers: loops, matrices, no shared code."""
    wa, wb = ([m[1].weight, m[1].bias, m[3].weight, m[3].bias, m[5].weight] for m in (a, b))
    n, m = len(wa[1]), len(wa[3])
    P, Q = torch.eye(n, dtype=torch.float64), torch.eye(m, dtype=torch.float64)
    for sweep in range(sweeps):
        before = (P.clone(), Q.clone())
        for which in orders[sweep]:
            if which == 0:
                gram = wa[0] @ wb[0].T + torch.outer(wa[1], wb[1]) + wa[2].T @ Q @ wb[2]
            else:
                gram = wa[2] @ P @ wb[2].T + torch.outer(wa[3], wb[3]) + wa[4].T @ wb[4]
            rows, columns = linear_sum_assignment(gram.detach().numpy(), maximize=True)
            new = torch.zeros_like(gram)
            new[rows, columns] = 1
            P, Q = (new, Q) if which == 0 else (P, new)
        if torch.equal(P, before[0]) and torch.equal(Q, before[1]):
            break
    return P.argmax(1), Q.argmax(1)


def test_it_is_the_papers_algorithm():
    a, b, spec, _ = pair("mlp")
    generator = torch.Generator().manual_seed(7)
    orders = [torch.randperm(2, generator=generator).tolist() for _ in range(100)]
    expected = naive_weight_matching(a, b, 100, orders)
    found = weight_matching(a, b, spec, generator=torch.Generator().manual_seed(7))
    assert torch.equal(found["1"], expected[0])
    assert torch.equal(found["3"], expected[1])
    one_layer_alone = linear_sum_assignment((a[1].weight @ b[1].weight.T).detach().numpy(), maximize=True)[1]
    assert not torch.equal(found["1"], torch.from_numpy(one_layer_alone))  # outgoing weights and biases count


def test_one_hidden_layer_reaches_the_best_of_all():
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double() for _ in range(2))
    spec = PermutationSpec.of(a, torch.rand(2, 4).double())
    best = max(inner(spec, a, b, {"0": torch.tensor(p)}) for p in itertools.permutations(range(5)))
    assert inner(spec, a, b, weight_matching(a, b, spec)) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_no_sweep_loses(name):
    a, b, spec, _ = pair(name)
    values = [inner(spec, a, b, spec.identity(a))]
    for sweeps in range(1, 6):
        found = weight_matching(a, b, spec, max_iter=sweeps, generator=torch.Generator().manual_seed(0))
        values.append(inner(spec, a, b, found))
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(values))
    assert values[1] > values[0]
    again = weight_matching(a, b, spec, init=found)
    assert inner(spec, a, b, again) >= values[-1] - 1e-9


def test_a_permutation_on_both_axes_of_a_tensor_never_loses():
    class Stream(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.square, self.out = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = self.into(x)
            return self.out(x + torch.tanh(self.square(x)))

    torch.manual_seed(0)
    a, b = Stream().double(), Stream().double()
    spec = PermutationSpec.of(a, torch.rand(2, 3).double())
    assert spec.axes["square.weight"] == ("into", "into")
    values = [inner(spec, a, b, weight_matching(a, b, spec, max_iter=n)) for n in (1, 2, 3, 10)]
    assert values[0] >= inner(spec, a, b, spec.identity(a))
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(values))
    planted = {"into": torch.tensor([4, 0, 5, 2, 1, 3])}
    assert torch.equal(weight_matching(a, spec.apply(planted, a), spec)["into"], inverse(planted)["into"])


@pytest.mark.parametrize("correlation", [False, True])
def test_activations_by_hand(correlation):
    a, b, spec, x = pair("mlp")
    found = activation_matching(a, b, spec, x, correlation=correlation, batch_size=7)
    za, zb = (F.relu(model[1](x.flatten(1))) for model in (a, b))
    for key, (one, other) in {"1": (za, zb), "3": (F.relu(a[3](za)), F.relu(b[3](zb)))}.items():
        if correlation:
            both = torch.cat([one, other], 1).T
            gram = torch.corrcoef(both)[: one.shape[1], one.shape[1] :].nan_to_num()
        else:
            gram = one.T @ other
        value = gram.detach()[torch.arange(len(gram)), found[key]].sum().item()
        best = linear_sum_assignment(gram.detach().numpy(), maximize=True)
        assert value == pytest.approx(gram.detach().numpy()[best].sum(), rel=1e-9)
    assert not any(m._forward_pre_hooks for m in (*a.modules(), *b.modules()))


def test_channels_are_compared_over_all_places():
    a, b, spec, x = pair("smallcnn")
    found = activation_matching(a, b, spec, x)["0"]
    with torch.no_grad():
        za, zb = (m.eval()[:3](x).transpose(0, 1).flatten(1) for m in (a, b))
    best = linear_sum_assignment((za @ zb.T).numpy(), maximize=True)[1]
    assert found.tolist() == best.tolist()


def test_straight_through_by_hand():
    """Two steps typed out: matching, the midpoint's gradient halved, momentum, the least loss."""
    a, b, spec, x = pair("mlp")
    y = torch.arange(20) % 3
    settings = dict(lr=100.0, momentum=0.9, epochs=3, batch_size=20)
    found = straight_through_matching(
        a, b, spec, Labelled(x, y), F.cross_entropy, generator=torch.Generator().manual_seed(4), **settings
    )
    generator = torch.Generator().manual_seed(4)
    free, speed, init, tried = copy.deepcopy(a), None, None, []
    for _ in range(3):
        torch.randperm(20, generator=generator)  # the order within a batch of all does not matter
        init = weight_matching(free, b, spec, init=init, generator=generator)
        middle = copy.deepcopy(a)
        moved = spec.apply(init, b)
        for p, q in zip(middle.parameters(), moved.parameters(), strict=True):
            p.data = (p.data + q.data) / 2
        loss = F.cross_entropy(middle(x), y)
        tried.append((loss.item(), init))
        grads = [g / 2 for g in torch.autograd.grad(loss, list(middle.parameters()))]
        speed = grads if speed is None else [0.9 * v + g for v, g in zip(speed, grads, strict=True)]
        for p, v in zip(free.parameters(), speed, strict=True):
            p.data.sub_(100.0 * v)
    best = min(tried, key=lambda each: each[0])[1]
    assert all(torch.equal(found[key], best[key]) for key in best)
    assert len({round(loss, 9) for loss, _ in tried}) > 1  # it did try others
    assert all(p.grad is None for m in (a, b) for p in m.parameters())


def test_merging_permuted_copies_gives_the_network_back():
    a, _, spec, x = pair("resnet8")
    a.eval()
    copies = [spec.apply(spec.random(a, torch.Generator().manual_seed(s)), a) for s in range(4)]
    before = [[p.clone() for p in m.parameters()] for m in copies]
    merged = merge_many(copies, spec, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(merged(x), a(x), rtol=1e-9, atol=1e-9)
    for model, saved in zip(copies, before, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), saved, strict=True))


def test_matching_lowers_the_barrier():
    a, _, spec, x = pair("mlp")
    target = a(x).detach()
    b = spec.apply(spec.random(a, torch.Generator().manual_seed(3)), a)

    def loss(model):
        return F.mse_loss(model(x), target).item()

    assert barrier(a, b, loss, points=5, baseline="mean").height > 1e-2
    moved = spec.apply(weight_matching(a, b, spec), b)
    assert barrier(a, moved, loss, points=5, baseline="mean").height < 1e-20


def test_what_is_refused():
    a, b, spec, x = pair("mlp")
    other = mlp(SHAPE, 3, widths=(9, 6)).double()
    points = Labelled(x, torch.arange(20) % 3)
    with pytest.raises(ValueError, match="same shapes"):
        weight_matching(a, other, spec)
    with pytest.raises(ValueError, match="not in it"):
        weight_matching(resnet8(SHAPE, 3), resnet8(SHAPE, 3), spec)
    with pytest.raises(ValueError, match="max_iter must be at least 1: got 0"):
        weight_matching(a, b, spec, max_iter=0)
    with pytest.raises(ValueError, match="inputs must have at least one"):
        activation_matching(a, b, spec, x[:0])
    alone = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Flatten(0))
    axes = {"0.weight": ("h", None), "0.bias": ("h",), "1.weight": ("h",), "1.bias": ("h",)}
    with pytest.raises(ValueError, match="'h' must be of units that"):
        activation_matching(alone, alone, PermutationSpec(axes), torch.rand(2, 3))
    for settings in (dict(lr=0.0), dict(momentum=1.0), dict(epochs=0)):
        with pytest.raises(ValueError, match=next(iter(settings))):
            straight_through_matching(a, b, spec, points, F.cross_entropy, **settings)
    with pytest.raises(ValueError, match="loss must be finite"):
        straight_through_matching(a, b, spec, points, lambda out, _: out.sum() * float("nan"))
    with pytest.raises(ValueError, match="models must be two or more: got 1"):
        merge_many([a], spec)
    with pytest.raises(ValueError, match="max_iter"):
        merge_many([a, b], spec, max_iter=0)
