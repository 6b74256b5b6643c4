"""LLS: the authors' numbers, isolation of blocks, the variants' limits, the basis, counting, what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.learn import LLS, BlockChain, lls_macs, periodic_basis
from assay.nn import smallcnn


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


# compute_LLS of github.com/mapolinario94/LLS-DNN, float32: waves((3, 4, 6, 6), .1), targets 1, 0, 2, act_size 2,
# temperature .7, label smoothing .1, cosine and square; then waves((3, 12), .2) with modulation (.5, -1, 2) and with
# the matrix waves((3, 3), .3), temperature 1.
OFFICIAL = {"cosine": 2.219308376312256, "square": 4.044566631317139}
OFFICIAL_M, OFFICIAL_MXM = 1.1660689115524292, 1.1706401109695435


def chain():
    torch.manual_seed(0)
    return BlockChain.of(smallcnn((1, 8, 8), 3, widths=(4, 6)))


def batch(n=6):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 3


@pytest.mark.parametrize("waveform", OFFICIAL)
def test_local_losses_are_the_authors(waveform):
    rule = LLS(chain(), 3, waveform=waveform, pool=2, temperature=0.7, label_smoothing=0.1)
    found = rule.local_loss(0, waves((3, 4, 6, 6), 0.1).float(), torch.tensor([1, 0, 2]))
    assert found.item() == pytest.approx(OFFICIAL[waveform], rel=1e-5)


def test_modulated_losses_are_the_authors():
    out, targets = waves((3, 12), 0.2).float(), torch.tensor([1, 0, 2])
    one = LLS(chain(), 3, variant="M")
    one.modulation[0].data = torch.tensor([0.5, -1.0, 2.0])
    assert one.local_loss(0, out, targets).item() == pytest.approx(OFFICIAL_M, rel=1e-5)
    many = LLS(chain(), 3, variant="MxM")
    many.modulation[0].data = waves((3, 3), 0.3).float()
    assert many.local_loss(0, out, targets).item() == pytest.approx(OFFICIAL_MXM, rel=1e-5)


def test_gradients_by_hand_in_double_precision():
    """Linear block: the slope of CE(B z/|z|, y) at z, through tanh, typed out."""
    net = BlockChain(nn.Sequential(nn.Linear(4, 7), nn.Tanh()), nn.Linear(7, 3)).double()
    x, y = waves((5, 4), 0.3), torch.tensor([0, 2, 1, 1, 0])
    LLS(net, 3, temperature=0.5)(net, x, y, F.cross_entropy)
    z = torch.tanh(x @ net[0][0].weight.detach().T + net[0][0].bias.detach())
    basis = torch.sin(torch.tensor([50.0, 281.0, 512.0])[:, None] * torch.arange(7)).double()
    length = z.norm(dim=1, keepdim=True)
    wrong = (torch.softmax(z / length @ basis.T / 0.5, 1) - F.one_hot(y, 3)) / 0.5 / 5
    slope = wrong @ basis
    slope = (slope - (slope * z).sum(1, keepdim=True) * z / length**2) / length
    torch.testing.assert_close(net[0][0].weight.grad, (slope * (1 - z**2)).T @ x, rtol=1e-9, atol=1e-12)
    error = (torch.softmax(net[1](z), 1) - F.one_hot(y, 3)) / 5
    torch.testing.assert_close(net[1].weight.grad, error.T @ z)


def test_no_gradient_crosses_a_block():
    net, (x, y) = chain(), batch()
    rule = LLS(net, 3)
    rule(net, x, y, F.cross_entropy)
    before = [p.grad.clone() for p in net[0].parameters()]
    net.zero_grad()
    net[1][0].weight.data.mul_(-3)
    net[2][2].weight.data.mul_(5)
    rule(net, x, y, F.cross_entropy)
    assert all(torch.equal(p.grad, g) for p, g in zip(net[0].parameters(), before, strict=True))


def test_variants_with_unit_modulation_are_plain():
    out = waves((3, 4, 6, 6), 0.1).float()
    plain = LLS(chain(), 3).similarities(0, out)
    one, many = LLS(chain(), 3, variant="M"), LLS(chain(), 3, variant="MxM")
    assert not torch.allclose(one.similarities(0, out), plain)  # they start near 0
    one.modulation[0].data.fill_(1.0)
    many.modulation[0].data = torch.eye(3)
    torch.testing.assert_close(one.similarities(0, out), plain)
    torch.testing.assert_close(many.similarities(0, out), plain)


@pytest.mark.parametrize(("variant", "count"), [("plain", 0), ("M", 2 * 3), ("MxM", 2 * 9)])
def test_what_is_learned_besides_the_network(variant, count):
    net, (x, y) = chain(), batch()
    rule = LLS(net, 3, variant=variant)
    assert sum(p.numel() for p in rule.parameters()) == count
    rule(net, x, y, F.cross_entropy)
    assert all(p.grad.abs().sum() > 0 for p in rule.parameters())
    assert all(p.grad is not None for p in net.parameters())
    again = LLS(net, 3, variant=variant)
    again.load_state_dict(rule.state_dict())
    for a, b in zip(rule.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_length_of_an_output_does_not_matter():
    rule, out = LLS(chain(), 3), waves((3, 4, 6, 6), 0.1).float()
    torch.testing.assert_close(rule.similarities(0, out), rule.similarities(0, 7 * out))


def test_basis_rows():
    basis = periodic_basis(10, 256)
    assert basis[3, 2].item() == pytest.approx(math.sin(2 * (50 + 3 * 462 / 9)), abs=1e-4)
    square = periodic_basis(10, 256, waveform="square")
    assert set(square.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(square, basis.sign())
    unit = F.normalize(basis, dim=1)
    off = (unit @ unit.T - torch.eye(10)).abs().max()
    assert off < 0.25  # ten waves of 256 entries are nearly orthogonal
    noise = periodic_basis(10, 4000, waveform="random", generator=torch.Generator().manual_seed(0))
    assert noise.std().item() == pytest.approx(basis.std().item(), abs=0.02)  # a wave's scale, for a fair comparison


def test_random_bases_differ_by_block_and_waves_do_not():
    net, (x, y) = chain(), batch()
    rule = LLS(net, 3, waveform="random", generator=torch.Generator().manual_seed(0))
    rule(net, x, y, F.cross_entropy)
    assert set(rule.bases) == {"0", "1"}
    waved = LLS(net, 3, pool=2)
    waved(net, x, y, F.cross_entropy)
    assert set(waved.bases) == {"16", "24"}


def test_vectors_and_tokens_are_pooled():
    rule = LLS(chain(), 3, vector_pool=5)
    vector = waves((2, 20), 0.1).float()
    torch.testing.assert_close(rule.similarities(0, vector), rule.similarities(0, vector.view(2, 5, 4).mean(2)))
    tokens = waves((2, 6, 5), 0.1).float()
    torch.testing.assert_close(rule.similarities(0, tokens), rule.similarities(0, tokens.mean(1)))


def test_counting_a_convolution():
    """8 x 8 images: 4 channels at 4 x 4, 6 at 2 x 2, then 3 classes."""
    macs = lls_macs(chain(), torch.rand(1, 1, 8, 8), 3, pool=2)
    assert macs == {
        "forward": 9 * 4 * 16 + 9 * 4 * 6 * 4 + 18.0,
        "backpropagation": 9 * 4 * 6 * 4 + 18.0,
        "lls": 2 * 3 * (4 * 4 + 6 * 4.0),
    }


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(num_classes=1), "num_classes"),
        (dict(variant="N"), "variant"),
        (dict(waveform="saw"), "waveform"),
        (dict(pool=0), "pool"),
        (dict(pool=(4, 2, 1)), "pool"),
        (dict(temperature=0.0), "temperature"),
        (dict(label_smoothing=1.0), "label_smoothing"),
    ],
)
def test_refused_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        LLS(chain(), **{"num_classes": 3} | settings)


def test_refused_bases_and_models():
    for settings, name in (
        (dict(num_classes=1, dim=4), "num_classes"),
        (dict(num_classes=5, dim=4), "dim"),
        (dict(num_classes=2, dim=4, waveform="saw"), "waveform"),
        (dict(num_classes=2, dim=4, low=9.0, high=9.0), "high"),
        (dict(num_classes=2, dim=4, low=1.0, high=1 + 2 * math.pi), "independent"),
    ):
        with pytest.raises(ValueError, match=name):
            periodic_basis(**settings)
    with pytest.raises(ValueError, match="at least 2"):
        LLS(nn.Sequential(nn.Linear(2, 2)), 2)
    net, (x, y) = chain(), batch()
    with pytest.raises(ValueError, match="dim"):
        LLS(net, 30)(net, x, y, F.cross_entropy)
    with pytest.raises(ValueError, match="whose blocks"):
        LLS(net, 3)(chain(), x, y, F.cross_entropy)
