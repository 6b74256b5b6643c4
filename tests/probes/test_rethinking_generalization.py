"""Randomized data by what each kind keeps, the exact network against a plain solve, curves against a run by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from assay.data import Labelled
from assay.probes import fit_curve, interpolating_network, randomize
from assay.train import accuracy, fit


def examples(n=400, channels=3):
    g = torch.Generator().manual_seed(5)
    return Labelled(torch.rand(n, channels, 4, 5, generator=g), torch.arange(n) % 7)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_labels_are_uniform_and_forget_the_old_ones():
    """Counts of a 7 x 7 table of old and new labels: chi-squared below its 1 - 1e-6 quantile for 48 degrees."""
    data = examples(7_000)
    found = randomize(data, "labels", generator=seeded())
    assert torch.equal(found.inputs, data.inputs)
    table = np.zeros((7, 7))
    np.add.at(table, (data.targets.numpy(), found.targets.numpy()), 1)
    assert ((table - 7_000 / 49) ** 2 / (7_000 / 49)).sum() < 110
    assert int(randomize(data, "labels", num_classes=12, generator=seeded()).targets.max()) == 11


def test_partial_runs_from_nothing_to_all_labels():
    data = examples(7_000)
    assert torch.equal(randomize(data, "partial", p=0.0, generator=seeded()).targets, data.targets)
    everything = randomize(data, "labels", generator=seeded()).targets
    assert torch.equal(randomize(data, "partial", p=1.0, generator=seeded()).targets, everything)
    half = randomize(data, "partial", p=0.4, generator=seeded()).targets
    assert bool(((half == data.targets) | (half == everything)).all())
    expected = 0.4 * 6 / 7  # a new label is the old one in one case of seven
    assert (
        abs((half != data.targets).double().mean().item() - expected) < 5 * (expected * (1 - expected) / 7_000) ** 0.5
    )


def test_shuffled_pixels_are_one_permutation_of_places():
    data = examples()
    found = randomize(data, "shuffled_pixels", generator=seeded())
    before, after = data.inputs.flatten(2), found.inputs.flatten(2)
    order = torch.stack([(before == after[:, :, j : j + 1]).all(0).all(0).nonzero()[0, 0] for j in range(20)])
    assert order.sort().values.tolist() == list(range(20))
    assert order.tolist() != list(range(20))
    assert torch.equal(before[:, :, order], after)


def test_random_pixels_have_their_own_order_each():
    data = examples()
    found = randomize(data, "random_pixels", generator=seeded())
    before, after = data.inputs.flatten(2), found.inputs.flatten(2)
    assert torch.equal(before.sort(2).values, after.sort(2).values)
    places = torch.stack([(after[:, 0] == before[:, 0, j : j + 1]).int().argmax(1) for j in range(20)], 1)
    assert torch.equal(after.gather(2, places[:, None].expand(-1, 3, -1)), before)  # channels move together
    assert len(places.unique(dim=0)) == len(places)
    stay = (places == torch.arange(20)).double().mean().item()
    assert abs(stay - 1 / 20) < 5 * (1 / 20 / 8_000) ** 0.5
    flat = Labelled(data.inputs[:, 0].flatten(1), data.targets)
    assert torch.equal(
        randomize(flat, "random_pixels", generator=seeded()).inputs.sort(1).values, flat.inputs.sort(1)[0]
    )


def test_gaussian_has_the_datas_two_moments():
    data = examples(2_000)
    found = randomize(data, "gaussian", generator=seeded()).inputs
    count, std = found.numel(), data.inputs.std().item()
    assert abs(found.mean().item() - data.inputs.mean().item()) < 5 * std / count**0.5
    assert found.std().item() == pytest.approx(std, rel=5 / (2 * count) ** 0.5)
    fourth = ((found - found.mean()) / found.std()).pow(4).mean().item()
    assert abs(fourth - 3) < 5 * (24 / count) ** 0.5  # uniform pixels have 1.8


@pytest.mark.parametrize("kind", ["labels", "partial", "shuffled_pixels", "random_pixels", "gaussian"])
def test_the_same_generator_gives_the_same_data(kind):
    data = examples()
    one, other, another = (randomize(data, kind, p=0.5, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.targets, other.targets)
    assert not (torch.equal(one.inputs, another.inputs) and torch.equal(one.targets, another.targets))
    assert one.inputs.shape == data.inputs.shape


@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 1), (50, 5), (200, 2)])
def test_the_network_of_2n_plus_d_weights_is_exact(n, d):
    x = torch.randn(n, d, generator=seeded(1))
    y = torch.randn(n, generator=seeded(2), dtype=torch.float64)
    net = interpolating_network(x, y, generator=seeded(3))
    assert sum(p.numel() for p in net.parameters()) == 2 * n + d
    a, b = net.direction.detach().numpy(), net.thresholds.detach().numpy()
    z = x.double().numpy() @ a
    matrix = np.maximum(z[:, None] - b, 0)  # unsorted rows: a full solve, not a triangular one
    assert np.abs(net(x).detach().numpy() - y.numpy()).max() <= 1e-9 * np.abs(y.numpy()).max()
    if n > 1:
        np.testing.assert_allclose(np.linalg.solve(matrix, y.numpy()), net.weights.detach().numpy(), rtol=1e-6)
        ranked = np.sort(z)
        assert b[0] < ranked[0]
        assert ((ranked[:-1] < b[1:]) & (b[1:] < ranked[1:])).all()


def test_equal_points_with_equal_values_count_once():
    x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [1.0, 2.0]])
    net = interpolating_network(x, torch.tensor([5.0, -1.0, 5.0]), generator=seeded())
    assert sum(p.numel() for p in net.parameters()) == 2 * 2 + 2
    torch.testing.assert_close(net(x).detach(), torch.tensor([5.0, -1.0, 5.0]).double())


def test_a_curve_is_the_run_by_hand_cut_off_at_the_target():
    data = Labelled(torch.randn(60, 4, generator=seeded()), torch.arange(60) % 3)

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Dropout(0.2), nn.Linear(40, 3))

    def sgd(params):
        return torch.optim.SGD(params, lr=0.3, momentum=0.9)

    curve = fit_curve(make, data, sgd, max_epochs=200, target=0.7, test=data, batch_size=16, generator=seeded(4))
    model, expected = make(), []
    fit(
        model, data, sgd(model.parameters()), epochs=len(curve.train_accuracy), batch_size=16, generator=seeded(4),
        on_epoch=lambda m: expected.append(accuracy(m, data)),
    )  # fmt: skip
    assert curve.train_accuracy.tolist() == pytest.approx(expected)
    assert curve.epochs_to_target == len(expected)
    assert expected[-1] >= 0.7 > max(expected[:-1])
    assert curve.test_accuracy == pytest.approx(expected[-1])
    short = fit_curve(make, data, sgd, max_epochs=2, batch_size=16, generator=seeded(4))
    assert (len(short.train_accuracy), short.epochs_to_target, short.test_accuracy) == (2, None, None)


def test_what_is_refused():
    data = examples(4)
    with pytest.raises(ValueError, match=r"kind must be one of labels, .*: got 'noise'"):
        randomize(data, "noise")
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\]: got 1.5"):
        randomize(data, "partial", p=1.5)
    with pytest.raises(ValueError, match="at least 1: got 0 targets"):
        randomize(Labelled(data.inputs[:0], data.targets[:0]))
    with pytest.raises(ValueError, match="num_classes must be above every label: got 2 and a label 3"):
        randomize(data, num_classes=2)
    with pytest.raises(ValueError, match="one value a point"):
        interpolating_network(torch.ones(2, 3), torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="n at least 1"):
        interpolating_network(torch.ones(0, 3), torch.ones(0))
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3,\)"):
        interpolating_network(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(ValueError, match="finite"):
        interpolating_network(torch.full((2, 3), torch.inf), torch.ones(2))
    with pytest.raises(ValueError, match="distinct places"):
        interpolating_network(torch.tensor([[1.0, 0.0], [1.0, 1e-300]], dtype=torch.float64), torch.tensor([1.0, 2.0]))
    for arguments, match in ((dict(max_epochs=0), "max_epochs"), (dict(max_epochs=1, target=2.0), "target must lie")):
        with pytest.raises(ValueError, match=match):
            fit_curve(lambda: nn.Linear(1, 2), data, torch.optim.SGD, **arguments)
