"""O-DICE: the authors' numbers, the conjugates, orthogonality, a chain solved exactly, what is refused."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from assay.learn import GaussianPolicy, OrthogonalDICE, dual_of_divergence, orthogonal_combine


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


class Imitator(nn.Module):
    """A normal policy of unit variance around a linear map, as in the recipe."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2, dtype=torch.float64)
        self.linear.weight.data, self.linear.bias.data = waves((2, 3), 0.5), waves((2,), 0.6)

    def forward(self, s):
        return self.linear(s)

    def log_prob(self, s, a):
        return torch.distributions.Normal(self(s), 1.0).log_prob(a).sum(1)


# odice.py of github.com/maoliyuan/ODICE-Pytorch (wandb stubbed), float64: V = Linear 3-5, tanh, Linear 5-1, waves of
# phase .1 to .4, policy as Imitator; Lambda .7, eta .5, both learning rates .05, beta .1; three updates on the batches
# of `moved`. (first weights of V's first layer, bias of its last, slow copy's first biases, policy's first weights.)
OFFICIAL = {
    ("orthogonal", "chi2"): (
        [0.17669998354608926, 0.5826925533879324, 0.8487940407056322],
        0.523026724907079,
        [0.22291792060079732, 0.8078895537728213],
        [0.3426711023809608, 0.8104147310119924, 0.8334272639885415],
    ),
    ("true", "chi2"): (
        [0.1352800335409355, 0.7687152742493768, 1.1145906731631008],
        0.24022350479832272,
        [0.1716889583430725, 0.7561378792505041],
        [0.3385836019132885, 0.8082111219376622, 0.83523600766894],
    ),
    ("semi", "kl"): (
        [0.19787551399433426, 0.7979958192901809, 0.899148884633354],
        0.2500926400439853,
        [0.1714688785058169, 0.7566205637197537],
        [0.33147914454809474, 0.7916918883172741, 0.8137048306210466],
    ),
    ("orthogonal", "kl"): (
        [0.1686017376445677, 0.7700782481506087, 0.893524592780031],
        0.2499975846040174,
        [0.17121033263665014, 0.7564255172211857],
        [0.3315757068995499, 0.7916965473309953, 0.8135936606216569],
    ),
}


def moved(**settings):
    value = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    for p, phase in zip(value.parameters(), (0.1, 0.2, 0.3, 0.4), strict=True):
        p.data = waves(p.shape, phase)
    dice = OrthogonalDICE(value, Imitator(), lam=0.7, eta=0.5, value_lr=0.05, policy_lr=0.05, polyak=0.1, **settings)
    for t in range(3):
        s, s2, a = waves((6, 3), 0.7 + t), waves((6, 3), 0.9 + t), waves((6, 2), 1.1 + t)
        seen = dice.update_batch(s, a, s2, waves((6,), 1.3 + t), torch.tensor([0, 0, 1, 0, 0, 1]).bool())
    return dice, seen


@pytest.mark.parametrize(("update", "f"), OFFICIAL)
def test_three_updates_are_the_authors(update, f):
    dice, _ = moved(update=update, f=f)
    weights, bias, slow, policy = OFFICIAL[update, f]
    np.testing.assert_allclose(dice.value[0].weight.detach().flatten()[:3], weights, rtol=1e-7)
    assert dice.value[2].bias.item() == pytest.approx(bias, rel=1e-7)
    np.testing.assert_allclose(dice.slow[0].bias[:2], slow, rtol=1e-7)
    np.testing.assert_allclose(dice.policy.linear.weight.detach().flatten()[:3], policy, rtol=1e-7)


def test_without_eta_it_is_the_semi_gradient_and_with_it_not():
    ends = []
    for settings in (dict(update="orthogonal"), dict(update="semi")):
        value = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
        for p, phase in zip(value.parameters(), (0.1, 0.2, 0.3, 0.4), strict=True):
            p.data = waves(p.shape, phase)
        dice = OrthogonalDICE(value, Imitator(), eta=0.0, **settings)
        dice.value_gradients(waves((6, 3), 0.7), waves((6, 3), 0.9), waves((6,), 1.3), torch.zeros(6).bool())
        ends.append(torch.cat([p.grad.flatten() for p in value.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-15)
    assert not torch.allclose(moved()[0].value[0].weight, moved(update="semi")[0].value[0].weight)


@pytest.mark.parametrize("f", ["chi2", "kl"])
def test_conjugates_by_search(f):
    x = torch.linspace(0, 30, 300_001).double()
    cost = (x - 1).square() if f == "chi2" else torch.where(x > 0, x * x.clamp_min(1e-300).log(), 0.0)
    for y in (-5.0, -2.0, -1.9, 0.0, 0.7, 3.0):
        exact = (x * y - cost).max()
        assert dual_of_divergence(torch.tensor(y).double(), f).item() == pytest.approx(exact.item(), abs=1e-6)


def test_the_conjugate_is_smooth_where_it_bends():
    y = torch.tensor([-2 - 1e-6, -2.0, -2 + 1e-6], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(dual_of_divergence(y).sum(), y)
    assert slope.abs().max() < 1e-6


def test_combining():
    f = [waves((3, 2), 0.1), waves((4,), 0.2)]
    b = [waves((3, 2), 0.7), waves((4,), 0.9)]
    added = torch.cat([(g - a).flatten() for g, a in zip(orthogonal_combine(f, b), f, strict=True)])
    along = torch.cat([a.flatten() for a in f])
    assert abs(added @ along) < 1e-12
    assert added.norm() > 0.1
    # Over the concatenated vector: projecting tensor by tensor is another method.
    each = torch.cat(
        [
            (b_ - (a @ b_) / (a @ a) * a)
            for a, b_ in zip((x.flatten() for x in f), (x.flatten() for x in b), strict=True)
        ]
    )
    assert (each - added).norm() > 1e-2
    for a, g in zip(f, orthogonal_combine(f, [-3 * a for a in f]), strict=True):
        torch.testing.assert_close(g, a)
    for b_, g in zip(b, orthogonal_combine([0 * a for a in f], b), strict=True):
        torch.testing.assert_close(g, b_)


def chain():
    """Five states in a row, one way to go; reward at the end."""
    states = torch.arange(4)
    return states, states + 1, torch.tensor([0.0, 0.0, 0.0, 1.0]).double(), torch.tensor([False, False, False, True])


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(5, dtype=torch.float64))

    def forward(self, s):
        return self.values[s]


def test_true_gradient_on_a_table_is_the_convex_dual():
    """Against scipy's minimum of the objective over the table."""
    s, s2, r, done = chain()
    table = Table()
    dice = OrthogonalDICE(table, Imitator(), update="true", lam=0.6, discount=0.9)
    optimizer = torch.optim.LBFGS(table.parameters(), max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16)

    def closure():
        dice.value_gradients(s, s2, r, done)
        v = table.values.detach()
        y = r + 0.9 * (~done) * v[s2] - v[s]
        return 0.4 * v[s].mean() + 0.6 * dual_of_divergence(y).mean()

    optimizer.step(closure)

    def objective(v):
        y = r.numpy() + 0.9 * (~done).numpy() * v[1:] - v[:4]
        w = np.maximum(y / 2 + 1, 0)
        return 0.4 * v[:4].mean() + 0.6 * (y * w - (w - 1) ** 2).mean()

    best = scipy.optimize.minimize(objective, np.zeros(5), method="BFGS", options={"gtol": 1e-10})
    np.testing.assert_allclose(table.values.detach()[:4], best.x[:4], atol=1e-5)


def test_semi_gradient_on_a_table_rests_at_the_in_sample_optimum():
    """Each residual rests where lam f*'(y) = 1 - lam, so that V(s) = r + gamma V(s') - y."""
    s, s2, r, done = chain()
    table = Table()
    dice = OrthogonalDICE(table, Imitator(), update="semi", lam=0.6, discount=0.9, polyak=0.5)
    for _ in range(6000):
        dice.value_gradients(s, s2, r, done)
        with torch.no_grad():
            table.values -= 0.2 * table.values.grad
            dice.slow.values.lerp_(table.values, 0.5)
    y = 2 * (0.4 / 0.6 - 1)
    expected = [0.0] * 5
    for state in (3, 2, 1, 0):
        ahead = 1.0 if state == 3 else 0.9 * expected[state + 1]
        expected[state] = ahead - y
    np.testing.assert_allclose(table.values.detach()[:4], expected[:4], atol=1e-4)


def test_terminal_states_do_not_pass_values_back():
    s, s2, r, done = chain()
    table = Table()
    table.values.data[4] = 100.0
    dice = OrthogonalDICE(table, Imitator(), update="true")
    residual, _ = dice.value_gradients(s, s2, r, done)
    assert residual[3].item() == pytest.approx(1.0)
    assert table.values.grad[4] == 0


def test_weights():
    y = torch.tensor([-5.0, -1.0, 0.5, 300.0])
    value = nn.Linear(3, 1)
    assert OrthogonalDICE(value, Imitator()).weights(y).tolist() == [0.0, 0.0, 0.5, 100.0]
    assert OrthogonalDICE(value, Imitator(), weight="theory").weights(y).tolist() == [0.0, 0.5, 1.25, 100.0]
    assert OrthogonalDICE(value, Imitator(), f="kl", max_weight=2.0).weights(y)[2:].tolist() == pytest.approx(
        [math.exp(-0.5), 2.0]
    )


def test_what_is_told_and_the_state():
    dice, seen = moved(update="orthogonal")
    assert abs(seen["cosine_projected"]) < 1e-9
    assert -1 <= seen["cosine"] <= 1
    other, _ = moved(update="orthogonal")
    other.value[0].weight.data.zero_()
    other.load_state_dict(dice.state_dict())
    assert torch.equal(other.value[0].weight, dice.value[0].weight)


def test_gaussian_policy_is_a_density():
    policy = GaussianPolicy(nn.Linear(2, 1), 1, scale=0.3).double()
    policy.log_std.data.fill_(-1.0)
    s = torch.tensor([[0.4, -0.2]]).double()
    actions = torch.linspace(-3, 3, 6001).double()[:, None]
    density = policy.log_prob(s.expand(6001, 2), actions).exp()
    # In units of scale: over actions it integrates to the scale.
    assert (density.sum() * 0.001).item() == pytest.approx(0.3, rel=1e-6)
    assert actions[density.argmax()].item() == pytest.approx(policy(s).item(), abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(update="full"), "update"),
        (dict(f="js"), "f must"),
        (dict(weight="mine"), "weight"),
        (dict(lam=1.0), "lam"),
        (dict(eta=-1.0), "eta"),
        (dict(discount=1.0), "discount"),
        (dict(polyak=0.0), "polyak"),
        (dict(value_lr=0.0), "value_lr"),
        (dict(policy_lr=-1.0), "policy_lr"),
        (dict(max_weight=0.0), "max_weight"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        OrthogonalDICE(nn.Linear(3, 1), Imitator(), **settings)


def test_refused_calls():
    dice, _ = moved()
    with pytest.raises(ValueError, match="one or more"):
        dice.update_batch(
            waves((0, 3), 0.1), waves((0, 2), 0.1), waves((0, 3), 0.1), waves((0,), 0.1), torch.zeros(0).bool()
        )
    with pytest.raises(ValueError, match="shapes"):
        orthogonal_combine([waves((2,), 0.1)], [waves((3,), 0.1)])
    with pytest.raises(ValueError, match="eps"):
        orthogonal_combine([waves((2,), 0.1)], [waves((2,), 0.1)], eps=0.0)
    with pytest.raises(ValueError, match="f must"):
        dual_of_divergence(waves((2,), 0.1), "js")
    for settings, name in ((dict(actions=0), "actions"), (dict(actions=1, scale=0.0), "scale")):
        with pytest.raises(ValueError, match=name):
            GaussianPolicy(nn.Linear(2, 1), **settings)
