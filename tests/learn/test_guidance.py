"""Guidance: the objective typed out, its limits, the map of layers, an untouched guide, what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.data import Labelled
from assay.learn import Guidance, layer_map
from assay.learn.guidance import outputs_of
from assay.metrics import linear_cka
from assay.nn import mlp, smallcnn
from assay.train import fit


def networks():
    torch.manual_seed(0)
    return mlp((1, 8, 8), 3, widths=(9, 8, 7)), smallcnn((1, 8, 8), 3, widths=(4, 6))


def batch(n=24):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 3


def test_the_objective_typed_out():
    """Guide layers 0, 3, 8 of the network and 1, 3, 5, 7 of the target: round(i * 3 / 2) is 0, 2, 3."""
    net, guide = networks()
    x, y = batch()
    rule = Guidance(guide, alpha=0.6)
    value = rule(net, x, y, F.cross_entropy)
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    guide.eval()
    with torch.no_grad():
        one = guide[0](x)
        two = guide[3](guide[2](guide[1](one)))
        three = guide(x)
    a = net[1](net[0](x))
    c = net[5](net[4](net[3](net[2](a))))
    d = net[7](net[6](c))
    pairs = ((a, one), (c, two), (d, three))
    torch.testing.assert_close(value, F.cross_entropy(d, y).detach())
    (F.cross_entropy(d, y) + 0.6 * sum(1 - linear_cka(t, g) for t, g in pairs)).backward()
    for p, g in zip(net.parameters(), found, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)
    assert list(rule.alignment) == [("0", "1"), ("3", "5"), ("8", "7")]
    assert rule.alignment["0", "1"] == pytest.approx(linear_cka(a, one).item(), rel=1e-5)


@pytest.mark.parametrize("settings", [dict(alpha=0.0), dict(steps=0)])
def test_without_guidance_it_is_plain_training_bit_for_bit(settings):
    ends = []
    for guided in (True, False):
        net, guide = networks()
        rule = Guidance(guide, **settings) if guided else None
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        fit(net, Labelled(*batch()), optimizer, epochs=2, batch_size=8, rule=rule)
        ends.append([p.detach() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_guide_is_untouched_and_the_target_comes_nearer():
    net, guide = networks()
    guide.train()
    x, y = batch(48)
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    rule = Guidance(guide)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    alike = []
    for _ in range(30):
        optimizer.zero_grad()
        rule(net, x, y, F.cross_entropy)
        optimizer.step()
        alike.append(sum(rule.alignment.values()))
    assert all(torch.equal(before[name], value) for name, value in guide.state_dict().items())
    assert guide.training
    assert all(p.grad is None for p in guide.parameters())
    assert alike[-1] > alike[0] + 0.2
    assert not any(m._forward_hooks for m in [*net.modules(), *guide.modules()])


def test_guidance_ends_after_its_steps():
    net, guide = networks()
    rule = Guidance(guide, steps=2)
    x, y = batch()
    for _ in range(2):
        rule(net, x, y, F.cross_entropy)
    rule.alignment.clear()
    net.zero_grad()
    rule(net, x, y, F.cross_entropy)
    assert not rule.alignment
    exact = torch.autograd.grad(F.cross_entropy(net(x), y), net[1].weight)[0]
    torch.testing.assert_close(net[1].weight.grad, exact)
    other = Guidance(guide, steps=2)
    other.load_state_dict(rule.state_dict())
    assert other.step == 3


def test_noise_shows_the_guide_something_else():
    net, guide = networks()
    x, y = batch()
    plain, noisy = Guidance(guide), Guidance(guide, noise_inputs=True)
    plain(net, x, y, F.cross_entropy)
    noisy(net, x, y, F.cross_entropy)
    assert all(abs(plain.alignment[pair] - noisy.alignment[pair]) > 1e-3 for pair in plain.alignment)


def test_words_as_noise():
    words = nn.Sequential(nn.Embedding(7, 5), nn.Flatten(), nn.Linear(15, 3))
    guide = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 3))
    rule = Guidance(guide, noise_inputs=True)
    rule(words, torch.randint(7, (9, 3)), torch.arange(9) % 3, F.cross_entropy)
    assert list(rule.alignment) == [("2", "2")]


def test_dead_layers_are_counted():
    net, guide = networks()
    nn.init.zeros_(guide[0].weight)
    rule = Guidance(guide, guide_layers=["0"], target_layers=["1"])
    rule(net, *batch(), F.cross_entropy)
    assert rule.dead == 1
    assert rule.alignment == {("0", "1"): 0.0}
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_map_of_layers():
    """The authors' layer_supervision by hand, and both ends on both ends."""
    guide, target = [f"g{i}" for i in range(4)], [f"t{i}" for i in range(8)]
    assert [t for _, t in layer_map(guide, target)] == ["t0", "t2", "t5", "t7"]  # round(0, 2.33, 4.67, 7)
    assert layer_map(["g"], target) == [("g", "t0")]
    many = layer_map(target, guide)
    assert [g for _, g in many] == ["g0", "g0", "g1", "g1", "g2", "g2", "g3", "g3"]
    last = layer_map(target, guide, collisions="last")
    assert last == [("t1", "g0"), ("t3", "g1"), ("t5", "g2"), ("t7", "g3")]


def test_hooks_go_when_the_network_fails():
    net, _ = networks()
    with pytest.raises(RuntimeError), outputs_of(net, ["1"]):
        net(torch.rand(3, 5))
    assert not net[1]._forward_hooks


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(alpha=-1.0), "alpha"),
        (dict(steps=-1), "steps"),
        (dict(guide_layers=["9"]), "guide_layers"),
        (dict(guide_layers=[]), "guide_layers"),
        (dict(collisions="first"), "collisions"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        Guidance(networks()[1], **settings)


def test_refused_calls():
    net, guide = networks()
    x, y = batch()
    with pytest.raises(ValueError, match="at least 8"):
        Guidance(guide)(net, x[:7], y[:7], F.cross_entropy)
    with pytest.raises(ValueError, match="target_layers"):
        Guidance(guide, target_layers=["no"])(net, x, y, F.cross_entropy)
    with pytest.raises(ValueError, match="layers"):
        layer_map([], ["t"])

    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(64, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x.flatten(1))

    with pytest.raises(ValueError, match=r"target_layers.*'idle' did not"):
        Guidance(guide)(Aside(), x, y, F.cross_entropy)
