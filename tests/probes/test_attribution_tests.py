"""Tests of attributions: by loops, limits in which all agree, ties, what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from assay.data import Labelled
from assay.probes import pixel_perturbation, pointing_game, remove_and_retrain, salient, unmask


def waves(shape, phase):
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)).double()).view(shape)


X, MAPS = waves((5, 2, 6, 7), 0.1), waves((5, 1, 6, 7), 0.4)


def network(bias=0.3):
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(60, 4)).double()
    for number, p in enumerate(net.parameters()):
        p.data = waves(tuple(p.shape), bias * number)
    return net


def test_pointing_by_loops():
    objects = torch.rand(5, 1, 6, 7, generator=torch.Generator().manual_seed(0)) > 0.7
    for tolerance in (0, 1, 2):
        expected = []
        for image in range(5):
            i, j = np.unravel_index(MAPS[image, 0].argmax().item(), (6, 7))
            near = [
                objects[image, 0, a, b].item()
                for a in range(max(0, i - tolerance), min(6, i + tolerance + 1))
                for b in range(max(0, j - tolerance), min(7, j + tolerance + 1))
            ]
            expected.append(float(any(near)))
        assert pointing_game(MAPS, objects, tolerance=tolerance).tolist() == expected
    assert 0 < pointing_game(MAPS, objects).mean() < 1


def test_a_constant_map_points_at_random():
    objects = waves((5, 1, 6, 7), 0.9) > 0.4
    found = pointing_game(torch.zeros_like(MAPS), objects)
    torch.testing.assert_close(found, objects.double().mean((1, 2, 3)))
    assert pointing_game(objects.double(), objects).tolist() == [1.0] * 5


def test_salient_by_sorting():
    for fraction in (0.0, 0.1, 0.37, 1.0):
        count = round(fraction * 42)
        top, bottom = salient(MAPS, fraction), salient(MAPS, fraction, "bottom")
        for image in range(5):
            values = np.sort(MAPS[image].flatten().numpy())
            np.testing.assert_array_equal(np.sort(MAPS[image][top[image]].numpy()), values[42 - count :])
            np.testing.assert_array_equal(np.sort(MAPS[image][bottom[image]].numpy()), values[:count])


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 0.3, 1.0])
def test_top_and_bottom_part_the_image(fraction):
    ties = (3 * MAPS).round()
    assert torch.equal(salient(ties, fraction), ~salient(ties, 1 - fraction, "bottom"))
    top = unmask(X, ties, fraction, fill=0.0)
    torch.testing.assert_close(top + unmask(X, ties, 1 - fraction, "bottom", fill=0.0), X)


def test_pixel_perturbation_by_loops():
    net, fill = network().eval(), waves((2, 1, 1), 0.6)
    fractions, targets = [0.1, 0.5, 0.9], torch.tensor([3, 0, 1, 1, 2])
    for remove in ("least", "most"):
        expected = np.zeros((5, 3))
        for image in range(5):
            order = MAPS[image].flatten().argsort(descending=remove == "most").tolist()
            whole = net(X[image : image + 1])[0, targets[image]].item()
            for number, fraction in enumerate(fractions):
                left = X[image].clone()
                for place in order[: round(42 * fraction)]:
                    left[:, place // 7, place % 7] = fill[:, 0, 0]
                expected[image, number] = abs(net(left[None])[0, targets[image]].item() - whole) / abs(whole)
        options = dict(fill=fill, remove=remove, targets=targets)
        for batch_size in (2, 100):
            found = pixel_perturbation(net, X, MAPS, fractions, batch_size=batch_size, **options)
            np.testing.assert_allclose(found.numpy(), expected.mean(0), rtol=1e-9)


def test_limits_of_pixel_perturbation():
    net = network()
    assert not pixel_perturbation(net, X, MAPS, [0.0, 0.2, 1.0], fill=X).any()  # filled with what was there
    one, other = (pixel_perturbation(net, X, maps, [0.0, 1.0], fill=0.0) for maps in (MAPS, -MAPS))
    torch.testing.assert_close(one, other)
    assert one[0] == 0
    assert one[1] > 0
    predicted = net.eval()(X).argmax(1)
    torch.testing.assert_close(
        pixel_perturbation(net.train(), X, MAPS, [0.3], fill=0.0),
        pixel_perturbation(net, X, MAPS, [0.3], fill=0.0, targets=predicted),
    )
    assert net.training
    assert net[3].training


def nearest_mean(train):
    means = torch.stack([train.inputs[train.targets == k].flatten(1).mean(0) for k in (0, 1)])
    model = nn.Sequential(nn.Flatten(), nn.Linear(means.shape[1], 2))
    model[1].weight.data, model[1].bias.data = means, -(means**2).sum(1) / 2
    return model


def test_removing_the_signal_leaves_chance():
    """One pixel tells the classes apart; a map that knows it costs all, one that does not costs nothing."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    images = 0.1 * torch.rand(200, 1, 4, 4, generator=generator)
    images[:, 0, 1, 2] += labels
    train, test = (Labelled(images[part], labels[part]) for part in (slice(0, 100), slice(100, 200)))
    right = torch.zeros(100, 1, 4, 4)
    right[:, 0, 1, 2] = 1.0
    wrong = 1 - right
    seen = []

    def fit(data):
        seen.append(data.inputs)
        return nearest_mean(data)

    found = remove_and_retrain(train, test, right, right, [0.0, 1 / 16], fit, fill=0.5)
    assert found[0] == 1
    assert found[1] < 0.5 + 5 * 0.5 / 10
    assert torch.equal(seen[0], train.inputs)
    assert (seen[1][:, 0, 1, 2] == 0.5).all()
    assert (seen[1] != 0.5).sum() == 100 * 15
    assert remove_and_retrain(train, test, wrong, wrong, [0.5], fit, fill=0.5)[0] == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: salient(MAPS, 1.2), r"fraction must lie in \[0, 1\]: got 1.2"),
        (lambda: salient(MAPS, math.nan), "fraction"),
        (lambda: unmask(X, MAPS, 0.5, "best"), "which must be 'top' or 'bottom': got 'best'"),
        (lambda: salient(MAPS * math.nan, 0.5), "saliency must be numbers"),
        (lambda: pointing_game(MAPS / 0, MAPS > 0), "maps must be finite"),
        (lambda: pointing_game(MAPS, MAPS > 0, tolerance=-1), "tolerance must not be negative"),
        (lambda: pixel_perturbation(network(), X, MAPS, [0.1], fill=0.0, remove="all"), "remove must be 'least'"),
        (lambda: pixel_perturbation(network(), X, MAPS, [0.1], fill=0.0, targets=torch.arange(5)), "targets must lie"),
        (lambda: pixel_perturbation(nn.Flatten(), 0 * X, MAPS, [0.1], fill=0.0), "logits other than 0"),
    ],
)
def test_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
