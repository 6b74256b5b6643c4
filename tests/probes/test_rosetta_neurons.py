"""Units common to models: numpy, the authors' formula, permuted copies; a file and back; what is refused."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.probes import (
    MapCorrelation,
    Member,
    RosettaDictionary,
    Unit,
    map_correlation,
    mine_rosetta,
    token_maps,
    zoo_tables,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flat(maps, size):
    return F.interpolate(maps, size=size, mode="bilinear").transpose(0, 1).flatten(1).numpy()


def test_it_is_numpys_correlation_of_resized_maps():
    """All layers of one against all of the other, whatever the batches."""
    a = {"x": noise(6, 2, 4, 4), "y": noise(6, 3, 2, 2, seed=1) + 5}
    b = {"u": noise(6, 2, 4, 4, seed=2) + a["x"], "v": noise(6, 4, 7, 3, seed=3)}
    expected = np.zeros((5, 6))
    for i, one in zip((0, 2), a.values(), strict=True):
        for j, two in zip((0, 2), b.values(), strict=True):
            size = tuple(max(s, t) for s, t in zip(one.shape[2:], two.shape[2:], strict=True))
            n, m = one.shape[1], two.shape[1]
            expected[i : i + n, j : j + m] = np.corrcoef(flat(one, size), flat(two, size))[:n, n:]
    np.testing.assert_allclose(map_correlation(a, b), expected, atol=1e-12)
    both = MapCorrelation()
    for part in (slice(0, 1), slice(1, 6)):
        both.update({n: m[part] for n, m in a.items()}, {n: m[part] for n, m in b.items()})
    np.testing.assert_allclose(both.value(), expected, atol=1e-12)
    assert both.units[0] == [Unit("x", 0), Unit("x", 1), Unit("y", 0), Unit("y", 1), Unit("y", 2)]


def test_the_authors_formula_where_it_is_the_same():
    """activ_match_gan of github.com/yossigandelsman/rosetta_neurons, typed out for one batch of maps of one size:
    standardized with eps 1e-5, then sum ab / sqrt(sum aa sum bb)."""
    a, b = noise(5, 3, 4, 4) * 3 + 1, noise(5, 2, 4, 4, seed=1) + noise(5, 3, 4, 4)[:, :2]
    one, two = ((x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), keepdim=True) + 1e-5) for x in (a, b))
    top = torch.einsum("aixy,ajxy->ij", one, two)
    scale = torch.einsum("i,j->ij", (one**2).sum((0, 2, 3)), (two**2).sum((0, 2, 3))).sqrt()
    torch.testing.assert_close(map_correlation({"": a}, {"": b}), top / scale)


def test_averages_of_batches_are_another_number():
    a, b = noise(6, 1, 2, 2), noise(6, 1, 2, 2, seed=1) + torch.arange(6.0).view(6, 1, 1, 1)
    parts = [map_correlation({"": a[i : i + 2]}, {"": b[i : i + 2]}) for i in (0, 2, 4)]
    assert (torch.stack(parts).mean() - map_correlation({"": a}, {"": b})).abs() > 0.02


def test_constant_maps_and_affine_changes():
    a, b = noise(4, 2, 3, 3), noise(4, 2, 6, 6, seed=1)
    scores = map_correlation({"": a}, {"": b})
    torch.testing.assert_close(map_correlation({"": 4 * a - 3}, {"": b}), scores)
    a[:, 0] = 0.3
    assert map_correlation({"": a}, {"": b})[0].abs().max() == 0


def convs(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), nn.ReLU()).double()


def shuffled(net, orders):
    """The same function with its channels in another order."""
    torch.manual_seed(0)
    other = convs()
    other[0].weight.data = net[0].weight[orders[0]].clone()
    other[0].bias.data = net[0].bias[orders[0]].clone()
    other[2].weight.data = net[2].weight[orders[1]][:, orders[0]].clone()
    other[2].bias.data = net[2].bias[orders[1]].clone()
    return other


def test_permuted_copies_are_found_in_every_model():
    net, x = convs(), noise(10, 1, 9, 9)
    orders = [torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([4, 2, 0, 1, 3])]
    zoo = {"same": Member(net, ["0", "2"]), "other": Member(shuffled(net, orders), ["0", "2"])}
    tables = zoo_tables(Member(net, ["0", "2"]), zoo, x, batch_size=3)
    found = mine_rosetta(tables, k=1)
    assert found.models == ["same", "other"]
    assert len(found.entries) == 11
    for one, same, other in found.entries:
        assert one == same
        order = orders[0] if one.layer == "0" else orders[1]
        assert other == (one.layer, order.tolist().index(one.channel))
    torch.testing.assert_close(found.scores, torch.ones(11, 2, dtype=torch.float64))
    again = zoo_tables(Member(net, ["0", "2"]), zoo, noise(10, 1, 9, 9, seed=4))
    torch.testing.assert_close(found.scores_on(again), torch.ones(11, 2, dtype=torch.float64))


def test_every_model_has_to_have_one():
    """By the definition: a unit is an entry where it is among the k best of its best in every model."""
    units = [Unit("a", i) for i in range(8)]
    from assay.probes.rosetta_neurons import Tables

    scores = {"x": noise(8, 8), "y": noise(8, 8, seed=1), "z": noise(8, 8, seed=2)}
    tables = Tables(units, dict.fromkeys(scores, units), scores)
    sizes = []
    for k in (1, 2, 5, 100):
        expected = []
        for i in range(8):
            best = [int(s[i].argmax()) for s in scores.values()]
            ranks = [(s[:, j] > s[i, j]).sum() for s, j in zip(scores.values(), best, strict=True)]
            if all(r < k for r in ranks):
                expected.append((units[i], *(units[j] for j in best)))
        found = mine_rosetta(tables, k=k)
        assert found.entries == expected
        assert found.scores.shape == (len(expected), 3)
        sizes.append(len(expected))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == 8


def test_a_generator_shows_what_it_makes():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 36), nn.Unflatten(1, (1, 6, 6)), nn.Tanh()).double()
    codes, eye = noise(8, 3), Member(nn.Sequential(nn.Identity()), ["0"])
    anchor = Member(generator, ["1"])
    own = zoo_tables(anchor, {"eye": eye}, codes, generative=True).scores["eye"]
    image = generator(codes).detach()
    torch.testing.assert_close(own, map_correlation({"": image.atanh()}, {"": image}))
    other = zoo_tables(anchor, {"eye": eye}, codes, generative=True, images=image.flip(0)).scores["eye"]
    torch.testing.assert_close(other, map_correlation({"": image.atanh()}, {"": image.flip(0)}))
    half = Member(nn.Sequential(nn.Identity()), ["0"], prepare=lambda x: x[:, :, ::2, ::2], maps=torch.square)
    found = zoo_tables(anchor, {"half": half}, codes, generative=True).scores["half"]
    torch.testing.assert_close(found, map_correlation({"": image.atanh()}, {"": image[:, :, ::2, ::2] ** 2}))


def test_models_are_left_as_they_were():
    net = convs().train()
    zoo_tables(Member(net, ["0"]), {"same": Member(net, ["2"])}, noise(2, 1, 9, 9))
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_a_file_and_back(tmp_path):
    found = RosettaDictionary(["x", "y"], [(Unit("a", 1), Unit("b.c", 2), Unit("", 0))], noise(1, 2))
    found.save(tmp_path / "dictionary.safetensors")
    back = RosettaDictionary.load(tmp_path / "dictionary.safetensors")
    assert (back.models, back.entries) == (found.models, found.entries)
    assert torch.equal(back.scores, found.scores)


def test_tokens():
    tokens = noise(2, 2 + 9, 4)
    maps = token_maps(tokens, extra=2)
    assert torch.equal(maps[1, 3, 2, 1], tokens[1, 2 + 7, 3])
    with pytest.raises(ValueError, match="square number of patches after 1: got 10"):
        token_maps(tokens)


def test_what_is_refused():
    a = {"": noise(3, 2, 4, 4)}
    with pytest.raises(ValueError, match="at least one layer"):
        map_correlation(a, {})
    with pytest.raises(ValueError, match=r"maps must be \(n, c, h, w\)"):
        map_correlation(a, {"": noise(3, 2)})
    with pytest.raises(ValueError, match=r"same images: got \[2, 3\]"):
        map_correlation(a, {"": noise(2, 2, 4, 4)})
    with pytest.raises(ValueError, match="no maps yet"):
        MapCorrelation().value()
    one = Member(convs(), ["0"])
    with pytest.raises(ValueError, match="others must have at least one model"):
        zoo_tables(one, {}, noise(2, 1, 9, 9))
    with pytest.raises(ValueError, match="inputs and batch_size must be at least 1"):
        zoo_tables(one, {"": one}, noise(0, 1, 9, 9))
    with pytest.raises(ValueError, match="images must be as many as inputs, 2: got 1"):
        zoo_tables(one, {"": one}, noise(2, 1, 9, 9), images=noise(1, 1, 9, 9))
    with pytest.raises(ValueError, match="k must be at least 1: got 0"):
        mine_rosetta(zoo_tables(one, {"": one}, noise(2, 1, 9, 9)), k=0)
