"""What the claims about CMD measure with, and the experiments they share."""

import numpy as np
import pytest
import torch

from assay import data
from assay.claims.probes import cmd
from assay.probes import EmbeddedCMD, FrozenWeights


def test_coverage_counts_pairs_of_modes_and_layers():
    # two modes, three layers; the third layer is too small to count, mode 1 all but misses layer 0
    counts = torch.tensor([[595.0, 100.0, 9.0], [5.0, 300.0, 1.0]], dtype=torch.float64)
    # mode 0 has 704/1010 of the weights: needs 6.97 % of a layer, has 99.2 % and 25 %;
    # mode 1 needs 3.03 %, has 0.83 % and 75 %
    assert cmd.coverage(counts) == pytest.approx(3 / 4)
    tiny = torch.tensor([[100.0, 100_000.0], [900.0, 0.0], [0.0, 100_000.0]], dtype=torch.float64)
    # mode 1 has 0.45 % of the weights and is left out; mode 0 has 49.8 % and 10 % of layer 0; mode 2 nothing of layer 0
    assert cmd.coverage(tiny) == pytest.approx(3 / 4)


def test_nmi_against_scikit_learn_s_numbers():
    # sklearn.metrics.normalized_mutual_info_score([0,0,1,1,2,2,2,0], [0,1,1,1,0,0,1,0]) of scikit-learn 1.9.1
    first, second = [0, 0, 1, 1, 2, 2, 2, 0], [0, 1, 1, 1, 0, 0, 1, 0]
    counts = torch.zeros(3, 2, dtype=torch.float64)
    for i, j in zip(first, second, strict=True):
        counts[i, j] += 1
    joint = counts.numpy() / 8
    mutual = sum(p * np.log(p / joint[i].sum() / joint[:, j].sum()) for (i, j), p in np.ndenumerate(joint) if p)
    entropy = lambda p: -np.sum(p * np.log(p))  # noqa: E731
    expected = mutual / ((entropy(joint.sum(1)) + entropy(joint.sum(0))) / 2)
    assert cmd.normalized_mutual_information(counts) == pytest.approx(expected, rel=1e-12)
    assert cmd.normalized_mutual_information(torch.eye(4, dtype=torch.float64)) == pytest.approx(1.0)
    independent = torch.outer(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([3.0, 1.0])).double()
    assert cmd.normalized_mutual_information(independent) == pytest.approx(0.0, abs=1e-12)


def test_moving_average_is_the_weighted_sum():
    rows = torch.randn(6, 3, dtype=torch.float64)
    weights = np.array([0.8**5] + [0.2 * 0.8 ** (5 - t) for t in range(1, 6)])
    expected = (torch.from_numpy(weights)[:, None] * rows).sum(0)
    torch.testing.assert_close(cmd.moving_average(rows.clone(), 0.8), expected)


def test_planted_modes_are_what_they_are_called(tmp_path):
    trajectory, label = cmd.planted(tmp_path / "t", 4_000, 30, 3, 0.3, seed=1)
    weights = trajectory.weights.double()
    assert weights.shape == (30, 4_000)
    moved = weights - weights.mean(0)
    for mode in range(3):
        members = moved[:, label == mode]
        principal = torch.linalg.svd(members, full_matrices=False).S
        share = principal[0] ** 2 / (principal**2).sum()
        assert share == pytest.approx(1 / (1 + 0.3**2), abs=0.02)  # signal 1, noise 0.3 of it
    assert cmd.agreement(label, label) == 1.0
    assert cmd.agreement((label + 1) % 3, label) == 1.0  # names do not matter
    mixed = label.clone()
    mixed[:400] = (mixed[:400] + 1) % 3
    assert cmd.agreement(mixed, label) == pytest.approx(0.9)


def test_every_client_gets_examples_and_each_example_one_client():
    examples = data.load("digits").train
    parts = cmd.share_out(examples, 7, 0.5, seed=0)
    assert sum(len(part.targets) for part in parts) == len(examples.targets)
    assert min(len(part.targets) for part in parts) >= 2
    together = torch.cat([part.inputs for part in parts]).flatten(1).sum(1).sort().values
    torch.testing.assert_close(together, examples.inputs.flatten(1).sum(1).sort().values)
    spread = cmd.share_out(examples, 7, 1000.0, seed=0)
    uneven = np.std([len(part.targets) for part in parts])
    assert uneven > 3 * np.std([len(part.targets) for part in spread])  # a small concentration gives unequal clients


def federate(held, cost, rounds=5):
    split = data.load("digits", train=200, test=100)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    parts = cmd.share_out(split.train, 3, 1.0, seed=0)
    held = held and held(network, 2, 100, warmup=3, window=1, percent=20.0)
    sent, curve = cmd.federated(network, parts, split, held, cost, rounds=rounds, lr=0.1, batch_size=16, seed=0)
    return sent, curve, held, network


def test_bytes_of_federated_averaging_are_counted_up_and_down():
    sent, _, _, _ = federate(None, 0)
    np.testing.assert_array_equal(sent, 3 * 2 * 4 * 650 * np.arange(1, 6))
    sent, _, held, _ = federate(EmbeddedCMD, 9)
    newly = 130  # 20 % of 650, at the ends of rounds 4 and 5
    whole = 3 * 2 * 4 * 650
    expected = np.cumsum([whole, whole, whole, whole + 3 * 9 * newly, whole - 3 * 2 * 4 * newly + 3 * 9 * newly])
    np.testing.assert_array_equal(sent, expected)
    assert held.embedded_fraction == pytest.approx(0.4)
    frozen, _, _, _ = federate(FrozenWeights, 0)
    assert frozen[-1] == expected[-1] - 2 * 3 * 9 * newly


def test_federated_averaging_is_the_weighted_mean_of_the_clients():
    """One round by hand: every client starts from the same weights; the average is by number of examples."""
    split = data.load("digits", train=200, test=100)
    parts = cmd.share_out(split.train, 3, 1.0, seed=0)
    _, _, _, network = federate(None, 0, rounds=1)
    average = torch.zeros(650, dtype=torch.float64)
    for client, part in enumerate(parts):
        torch.manual_seed(0)
        own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(client)
        for inputs, targets in data.batches(part, 16, generator=generator):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(own(inputs), targets).backward()
            optimizer.step()
        vector = torch.nn.utils.parameters_to_vector(own.parameters()).detach().double()
        average += len(part.targets) / 200 * vector
    found = torch.nn.utils.parameters_to_vector(network.parameters()).detach().double()
    torch.testing.assert_close(found, average, atol=1e-6, rtol=1e-5)
