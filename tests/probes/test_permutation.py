"""Permutation specs: found for many kinds of networks, functions kept in double precision, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.nn import convnet, mlp, resnet8, smallcnn, tinyvit
from assay.probes import PermutationSpec, axes, compose, inverse

SHAPE = (1, 12, 12)


class Various(nn.Module):
    """What the shared networks have not: layer and group norm, one filter a channel, a gate, sums of two branches."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3)
        self.each = nn.Conv2d(6, 6, 3, groups=6)
        self.norm = nn.GroupNorm(1, 6)
        self.gate = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.rand(6, 1, 1) + 0.5)
        self.wide = nn.Linear(6 * 16, 10)
        self.layer_norm = nn.LayerNorm(10)
        self.last = nn.Linear(10, 3)

    def forward(self, x):
        x = self.norm(self.each(self.first(x)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None] * self.scale + self.scale
        x = F.avg_pool2d(F.gelu(x), 2)
        x = self.layer_norm(torch.tanh(self.wide(x.reshape(len(x), -1))))
        return self.last(x) + x.mean(1, keepdim=True)


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.inner, self.last = (nn.Linear(*s) for s in ((144, 4), (144, 4), (8, 5), (5, 2)))

    def forward(self, x):
        x = x.flatten(1)
        return self.last(torch.relu(self.inner(torch.cat([self.left(x), self.right(x)], 1))))


NETWORKS = {
    "mlp": (lambda: mlp(SHAPE, 3, widths=(7, 5)), {"1": 7, "3": 5}),
    "smallcnn": (lambda: smallcnn(SHAPE, 3, widths=(4, 5)), {"0": 4, "3": 5}),
    "convnet": (lambda: convnet(SHAPE, 3, widths=(4, 5, 6)), {"0": 4, "3": 5, "7": 6}),
    "resnet8": (
        lambda: resnet8(SHAPE, 3, widths=(4, 5, 6)),
        {"0": 4, "3.conv1": 4, "4.conv1": 5, "4.conv2": 5, "5.conv1": 6, "5.conv2": 6},
    ),
    "tinyvit": (lambda: tinyvit(SHAPE, 3, patch=4, d=8, depth=1, heads=2), {"positions": 8, "blocks.0.up": 32}),
    "various": (Various, {"scale": 6, "wide": 10}),
    "concatenated": (Concatenated, {"inner": 5}),
}


def made(name):
    torch.manual_seed(0)
    model = NETWORKS[name][0]().double()
    x = torch.rand(5, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        for p in model.parameters():  # no ones, no zeros
            p.add_(0.1 * torch.rand_like(p))
        model(x)  # running statistics of their own
    return model, x


@pytest.mark.parametrize("name", NETWORKS)
def test_permuted_networks_compute_the_same(name):
    model, x = made(name)
    modes = [m.training for m in model.modules()]
    spec = PermutationSpec.of(model, x)
    assert spec.sizes(model) == NETWORKS[name][1]
    assert [m.training for m in model.modules()] == modes
    permuted = spec.apply(spec.random(model, torch.Generator().manual_seed(1)), model)
    differing = [
        n for (n, p), q in zip(model.named_parameters(), permuted.parameters(), strict=True) if not torch.equal(p, q)
    ]
    assert len(differing) >= 2
    torch.testing.assert_close(permuted.eval()(x), model.eval()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_permutation_is_needed_and_every_axis(name):
    """Leaving one tensor out of a permutation changes the function: the spec ties what belongs together, no more."""
    model, x = made(name)
    spec = PermutationSpec.of(model, x)
    out = model.eval()(x)
    for permutation, size in spec.sizes(model).items():
        turned = {permutation: torch.roll(torch.arange(size), 1)}
        for tensor, axis, _ in spec.places()[permutation]:
            axes_ = {
                n: tuple(None if (n, d) == (tensor, axis) else label for d, label in enumerate(row))
                for n, row in spec.axes.items()
            }
            other = PermutationSpec(axes_).apply(turned, model).eval()(x)
            assert (other - out).abs().max() > 1e-9, (permutation, tensor, axis)


def test_the_group_of_permutations():
    model, x = made("resnet8")
    spec = PermutationSpec.of(model, x)
    p, q = (spec.random(model, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    one, both = spec.apply(compose(p, q), model), spec.apply(q, spec.apply(p, model))
    back = spec.apply(inverse(p), spec.apply(p, model))
    for a, b, c, d in zip(*(m.state_dict().values() for m in (one, both, back, model)), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(c, d)
    same = spec.apply(spec.identity(model), model)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), model.parameters(), strict=True))
    assert not torch.equal(compose(p, q)["0"], compose(q, p)["0"])


def test_rows_and_columns_by_hand():
    model, _ = made("mlp")
    spec = PermutationSpec.of(model, torch.rand(2, *SHAPE).double())
    p = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    new = spec.apply({"1": p}, model)
    matrix = torch.eye(7, dtype=torch.float64)[p]
    torch.testing.assert_close(new[1].weight, matrix @ model[1].weight)
    torch.testing.assert_close(new[1].bias, matrix @ model[1].bias)
    torch.testing.assert_close(new[3].weight, model[3].weight @ matrix.T)
    assert torch.equal(new[5].weight, model[5].weight)


def test_a_residual_block_shares_the_stream():
    model, x = made("resnet8")
    found = PermutationSpec.of(model, x).axes
    assert found["3.conv1.weight"] == ("3.conv1", "0", None, None)
    assert found["3.conv2.weight"] == ("0", "3.conv1", None, None)
    assert found["4.shortcut.0.weight"] == ("4.conv2", "0", None, None)
    assert found["4.norm2.running_var"] == found["4.shortcut.1.bias"] == ("4.conv2",)
    assert found["8.weight"] == (None, "5.conv2")


def test_a_forward_pass_that_was_misread_is_noticed(monkeypatch):
    class Ordered(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](x).cumsum(1))

    model = Ordered(nn.Linear(3, 4), nn.Linear(4, 2))
    assert PermutationSpec.of(model, torch.rand(2, 3)).sizes(model) == {}  # the order of a cumulated sum matters
    monkeypatch.setattr(axes, "RESHAPING", axes.RESHAPING | {"cumsum"})
    with pytest.raises(ValueError, match="could not be read"):
        PermutationSpec.of(model, torch.rand(2, 3))


def test_what_is_refused():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    good = {"0.weight": ("h", None), "0.bias": ("h",), "2.weight": (None, "h"), "2.bias": (None,)}
    spec = PermutationSpec(good)
    assert spec.sizes(model) == {"h": 3}
    for changed, message in (
        ({"0.weight": (None, "h")}, "equally long"),
        ({"2.weight": (None, "h*2")}, "equally long"),
        ({"2.weight": ("h",)}, "must name the 2 axes of '2.weight'"),
        ({"3.weight": ("h",)}, "which the model has not"),
    ):
        with pytest.raises(ValueError, match=message):
            PermutationSpec(good | changed).sizes(model)
    with pytest.raises(ValueError, match=r"'2\.bias' is not in it"):
        PermutationSpec({name: row for name, row in good.items() if name != "2.bias"}).sizes(model)
    for label in ("h*0", "h*x", "*3"):
        with pytest.raises(ValueError, match=r"axes of '0\.bias'"):
            PermutationSpec({"0.bias": (label,)})
    with pytest.raises(ValueError, match="got 'g'"):
        spec.apply({"g": torch.arange(3)}, model)
    for wrong in ([0, 1], [0, 1, 1], [1, 2, 3]):
        with pytest.raises(ValueError, match="each number below 3 once"):
            spec.apply({"h": torch.tensor(wrong)}, model)
    with pytest.raises(ValueError, match="then must have"):
        compose({"h": torch.arange(3)}, {})
    with pytest.raises(ValueError, match="must give a tensor"):
        PermutationSpec.of(nn.LSTM(2, 2), torch.rand(2, 1, 2))
