"""Matching of units: numpy, all permutations, scikit-learn's clusters; properties; what is refused."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from assay.probes import (
    UnitCorrelation,
    assign_units,
    best_buddies,
    cocluster_units,
    k_means,
    unit_correlation,
    unit_samples,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_samples_are_positions_with_channels_last():
    maps = noise(3, 2, 5, 4)
    expected = [maps[n, :, i, j] for n in range(3) for i in range(1, 4) for j in range(1, 3)]
    assert torch.equal(unit_samples(maps, border=1), torch.stack(expected))
    assert torch.equal(unit_samples(maps[:, :, 0, 0]), maps[:, :, 0, 0])
    assert unit_samples(noise(2, 3, 4)).shape == (8, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_correlation_is_numpys(dtype):
    """Also far from 0, where sums of squares in one pass would lose everything, and in any batches."""
    a, b = (noise(200, 5) + 1e4).to(dtype), (noise(200, 3, seed=1) + noise(200, 5)[:, :3] - 300).to(dtype)
    expected = np.corrcoef(a.double().T, b.double().T)[:5, 5:]
    np.testing.assert_allclose(unit_correlation(a, b), expected, atol=1e-10)
    for sizes in ([1, 99, 100], [7, 193]):
        both = UnitCorrelation()
        for x, y in zip(a.split(sizes), b.split(sizes), strict=True):
            both.update(x, y)
        np.testing.assert_allclose(both.value(), expected, atol=1e-10)


def test_sign_and_scale():
    a = noise(50, 4)
    torch.testing.assert_close(unit_correlation(a, -a).diagonal(), -torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(unit_correlation(a, 3 * a + 7), unit_correlation(a, a))


def test_dead_units_have_no_correlation():
    a, b = noise(50, 3), noise(50, 3, seed=1)
    a[:, 1] = 0.1
    b[:, 2] *= 1e-8
    both = UnitCorrelation()
    both.update(a, b)
    assert [each.tolist() for each in both.dead_units()] == [[False, True, False], [False, False, True]]
    assert both.value()[1].abs().max() == 0
    assert both.value()[:, 2].abs().max() == 0
    everything = UnitCorrelation(dead=0)
    everything.update(noise(50, 3), b)
    assert everything.value()[0, 2].abs() > 1e-3


def test_matching_is_the_best_of_all_permutations():
    score = noise(6, 6)
    best = max(permutations(range(6)), key=lambda p: sum(score[i, j] for i, j in enumerate(p)))
    found = assign_units(score)
    assert found.partner.tolist() == list(best)
    torch.testing.assert_close(found.score, score[torch.arange(6), torch.tensor(best)])
    greedy = assign_units(score, method="each_best")
    assert greedy.partner.tolist() == score.argmax(1).tolist()
    assert greedy.score.sum() > found.score.sum()  # each row's best is another matching here


def test_matching_of_networks_of_different_widths():
    score = noise(5, 3)
    found = assign_units(score)
    best = max(
        (
            (sum(score[i, j] for i, j in zip(p, range(3), strict=True)).item(), p)
            for c in combinations(range(5), 3)
            for p in permutations(c)
        ),
    )[1]
    assert [found.partner.tolist().index(j) for j in range(3)] == list(best)
    assert (found.partner == -1).sum() == 2
    assert found.score.isnan().tolist() == (found.partner == -1).tolist()
    assert sorted(assign_units(score.T).partner.tolist()) == sorted(best)


def test_a_shuffled_copy_is_found():
    a, order = noise(100, 8), torch.randperm(8, generator=generator())
    for method in ("one_to_one", "each_best"):
        found = assign_units(unit_correlation(a, a[:, order]), method=method)
        assert order[found.partner].tolist() == list(range(8))
        torch.testing.assert_close(found.score, torch.ones(8, dtype=torch.float64))


def test_buddies_by_the_definition():
    score = noise(9, 6)
    for k in (1, 3, 20):
        expected = {}
        for i in range(9):
            j = int(score[i].argmax())
            if i in sorted(range(9), key=lambda r: -score[r, j].item())[:k]:
                expected[i] = j
        assert best_buddies(score, k) == expected
    mutual = best_buddies(score)
    backward = best_buddies(score.T.contiguous())
    assert mutual == {i: j for j, i in backward.items()}
    assert len(best_buddies(score, 20)) == 9 > len(best_buddies(score, 3)) > len(mutual)


def blocks():
    """Three blocks of 4 x 3, 2 x 5 and 3 x 2, shuffled, with a little between them."""
    rows, columns = torch.tensor([0] * 4 + [1] * 2 + [2] * 3), torch.tensor([0] * 3 + [1] * 5 + [2] * 2)
    score = torch.where(rows[:, None] == columns, 0.8, 0.05) + 0.04 * noise(9, 10)
    one, two = torch.randperm(9, generator=generator(2)), torch.randperm(10, generator=generator(3))
    return score[one][:, two], rows[one], columns[two]


def test_clusters_are_the_blocks():
    """Where matching one to one cannot have them, as they are not square."""
    score, rows, columns = blocks()
    found, other = cocluster_units(score, 3, generator=generator())
    truth, labels = torch.cat([rows, columns]), torch.cat([found, other])
    assert torch.equal(truth[:, None] == truth, labels[:, None] == labels)


def test_the_embedding_is_that_of_the_normalized_graph():
    """The singular vectors are the eigenvectors of the whole bipartite graph: (u; v) / sqrt 2 of eigenvalue s."""
    score = blocks()[0].clamp_min(0)
    graph = torch.zeros(19, 19, dtype=torch.float64)
    graph[:9, 9:], graph[9:, :9] = score, score.T
    degree = graph.sum(1)
    values, vectors = torch.linalg.eigh(graph / torch.outer(degree, degree).sqrt())
    top = torch.nn.functional.normalize(vectors[:, -3:], dim=1)
    expected = k_means(top, 3, generator=generator())
    labels = torch.cat(cocluster_units(score, 3, generator=generator()))
    assert torch.equal(expected[:, None] == expected, labels[:, None] == labels)
    assert values[-1].item() == pytest.approx(1, abs=1e-12)


def test_k_means_finds_the_best_grouping_of_all():
    points = noise(9, 2)

    def cost(labels):
        return sum(
            ((points[labels == c] - points[labels == c].mean(0)) ** 2).sum().item()
            for c in range(3)
            if (labels == c).any()
        )

    grids = torch.cartesian_prod(*[torch.arange(3)] * 9)
    assert cost(k_means(points, 3, generator=generator())) == pytest.approx(min(map(cost, grids)), rel=1e-12)
    assert k_means(torch.ones(4, 2), 3).unique().numel() == 1


def test_same_seed_same_clusters():
    score = blocks()[0]
    one, two = (torch.cat(cocluster_units(score, 4, generator=generator(5))) for _ in range(2))
    assert torch.equal(one, two)


def test_what_is_refused():
    a = noise(5, 2)
    with pytest.raises(ValueError, match=r"activation must be \(n, c"):
        unit_samples(a[:, 0])
    for border in (-1, 2):
        with pytest.raises(ValueError, match="border must be at least 0"):
            unit_samples(noise(1, 2, 4, 9), border=border)
    for dead in (-0.1, 1.0):
        with pytest.raises(ValueError, match="dead must lie"):
            UnitCorrelation(dead=dead)
    with pytest.raises(ValueError, match="same s"):
        unit_correlation(a, noise(4, 2))
    with pytest.raises(ValueError, match="finite"):
        unit_correlation(a, a / 0)
    both = UnitCorrelation()
    with pytest.raises(ValueError, match="no samples"):
        both.value()
    both.update(a, a)
    with pytest.raises(ValueError, match=r"units of before, \(2, 2\)"):
        both.update(a, noise(5, 3))
    with pytest.raises(ValueError, match="method must be one of one_to_one, each_best: got 'greedy'"):
        assign_units(a, method="greedy")
    for call in (assign_units, best_buddies, lambda score: cocluster_units(score, 1)):
        with pytest.raises(ValueError, match="score must be a table"):
            call(a[:0])
        with pytest.raises(ValueError, match="score must be finite"):
            call(a / 0)
    with pytest.raises(ValueError, match="k must be at least 1: got 0"):
        best_buddies(a, 0)
    for clusters in (0, 3):
        with pytest.raises(ValueError, match=r"clusters must lie in 1..2"):
            cocluster_units(a, clusters)
    with pytest.raises(ValueError, match="positive entry"):
        cocluster_units(torch.tensor([[0.5, 0.2], [-0.1, -0.3]]), 2)
    with pytest.raises(ValueError, match=r"clusters must lie in 1..5"):
        k_means(a, 6)
