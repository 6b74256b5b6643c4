"""Correlation mode decomposition against naive transcriptions, closed forms and the official code's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.cluster import hierarchy

from assay.probes import CMD, SnapshotPCA, Trajectory, chunks, record
from assay.probes.cmd import assign, clusters, correlations, draw_samples, references
from assay.probes.layout import Layout

HIGH_WATER = Path("/proc/self/clear_refs")
METHODS = ("complete", "single", "average", "ward")


def naive_cmd(weights, samples, num_modes):
    """The algorithm of the paper, step by step, in float64 and without haste. weights: (T, N)."""
    correlation = np.abs(np.corrcoef(weights[:, samples].T))
    tree = hierarchy.linkage(correlation, method="complete", metric="euclidean")
    labels = hierarchy.fcluster(tree, num_modes, criterion="maxclust")
    chosen = []
    for label in sorted(set(labels), key=lambda label: -np.sum(labels == label)):
        members = [k for k in range(len(samples)) if labels[k] == label]
        closeness = [(round(np.mean([correlation[k, j] for j in members]), 12), correlation[k].mean()) for k in members]
        chosen.append(samples[members[closeness.index(max(closeness))]])
    modes, scale, offset = [], [], []
    for i in range(weights.shape[1]):
        against = [abs(np.corrcoef(weights[:, i], weights[:, r])[0, 1]) for r in chosen]
        modes.append(int(np.argmax(against)))
        a, b = np.polyfit(weights[:, chosen[modes[-1]]], weights[:, i], 1)
        scale.append(a)
        offset.append(b)
    return chosen, np.array(modes), np.array(scale), np.array(offset)


@pytest.mark.parametrize("num_modes", [1, 2, 4])
def test_against_a_naive_transcription(wavy, num_modes):
    samples = list(range(0, 60, 2))
    chosen, modes, scale, offset = naive_cmd(wavy, samples, num_modes)
    ours = CMD(num_modes).fit(Trajectory.from_weights(torch.from_numpy(wavy)), samples=torch.tensor(samples))
    assert sorted(ours.reference_index.tolist()) == sorted(chosen)
    same = [chosen.index(r) for r in ours.reference_index.tolist()]  # clusters of one size may come in any order
    assert [same[m] for m in ours.mode.tolist()] == modes.tolist()
    np.testing.assert_allclose(ours.scale, scale, atol=1e-12)
    np.testing.assert_allclose(ours.offset, offset, atol=1e-12)


def test_against_the_official_code(wavy):
    """Literal results of basic_cmd(wavy.T, list(range(0, 60, 2)), 0, 25, 2) of github.com/rbetser/CMD (3a0f2a0)."""
    ours = CMD(2).fit(Trajectory.from_weights(torch.from_numpy(wavy)), samples=torch.arange(0, 60, 2))
    assert ours.reference_index.tolist() == [18, 56]
    assert ours.mode.tolist() == [0, 0, 1] * 20
    a = [-7.08082, 1.04239, 0.96951, 5.18204, 1.87994, -1.10562, -0.45483, -3.84066, 0.72218, -4.476, 3.63395, 0.20972]
    b = [-0.56259, 0.42337, 0.01292, 0.41990, 0.55102, -0.58529, -0.03319, -0.35075, -0.06062, -0.40671, 0.82531]
    np.testing.assert_allclose(ours.scale[:12], a, atol=6e-6)
    np.testing.assert_allclose(ours.offset[:11], b, atol=6e-6)
    assert float(ours.scale.abs().sum()) == pytest.approx(154.57527, abs=1e-4)
    assert float(ours.offset.abs().sum()) == pytest.approx(21.400225, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planted_modes_are_recovered(planted, dtype):
    weights, labels, _, _ = planted()
    modes = CMD(num_modes=4, num_samples=100, generator=torch.Generator().manual_seed(1)).fit(
        Trajectory.from_weights(weights.to(dtype))
    )
    of_mode = labels[modes.reference_index.long()]
    assert sorted(of_mode.tolist()) == [0, 1, 2, 3]
    assert torch.equal(of_mode[modes.mode.long()], labels)
    assert modes.relative_error() < 1e-6
    assert modes.relative_error(Trajectory.from_weights(weights.to(dtype))) < 1e-6
    for i in range(0, 400, 37):
        r = int(modes.reference_index[int(modes.mode[i])])
        a, b = np.polyfit(weights[:, r].numpy(), weights[:, i].numpy(), 1)
        assert float(modes.scale[i]) == pytest.approx(a, rel=2e-5)
        assert float(modes.offset[i]) == pytest.approx(b, abs=2e-5 * max(1, abs(a)))


def test_weights_that_move_by_a_thousandth_around_a_third_are_not_lost_in_float32(planted):
    """Sums of raw products w r in float32 would leave nothing of it: 1e-3 of 0.3 squared is below its resolution."""
    weights, labels, _, _ = planted(size=200)
    small = (0.3 + 1e-3 * (weights / weights.std())).float()
    modes = CMD(num_modes=4, num_samples=80, generator=torch.Generator().manual_seed(0)).fit(
        Trajectory.from_weights(small)
    )
    swing = (weights - weights.mean(0)).abs().amax(0) / weights.std()
    visible = swing > 0.05  # the others move by less than float32 can tell
    assert torch.equal(labels[modes.reference_index.long()][modes.mode.long()][visible], labels[visible])
    exact = CMD(num_modes=4).fit(Trajectory.from_weights(small.double()), samples=modes.reference_index.long())
    np.testing.assert_allclose(modes.scale[visible], exact.scale[visible], rtol=1e-4)
    assert modes.relative_error() == pytest.approx(exact.relative_error(), abs=1e-6)


def test_anti_correlated_weights_share_a_mode():
    """The one line in which CMD differs from clustering of correlations: |C|, in clusters and in assignment."""
    t = torch.linspace(0, 5, 40, dtype=torch.float64)
    profiles = torch.stack([t.sin(), (2.3 * t).cos()], dim=1)
    labels = torch.arange(40) % 2
    signs = 1.0 - 2.0 * (torch.arange(40) % 3 == 0)
    noise = 0.01 * torch.sin(torch.outer(7.1 * t, torch.arange(1.0, 41).double()))
    weights = profiles[:, labels] * signs * torch.linspace(0.5, 2, 40) + noise
    modes = CMD(num_modes=2, num_samples=40).fit(Trajectory.from_weights(weights))
    assert modes.num_modes == 2
    assert torch.equal(labels[modes.reference_index.long()][modes.mode.long()], labels)
    assert (modes.correlation.sign() == signs * signs[modes.reference_index.long()][modes.mode.long()]).all()
    assert (modes.scale.sign() == modes.correlation.sign()).all()
    plain = hierarchy.fcluster(hierarchy.linkage(np.corrcoef(weights.T), "complete"), 2, "maxclust")
    assert len({(int(label), int(cluster)) for label, cluster in zip(labels, plain, strict=True)}) > 2


def test_assignment_uses_absolute_correlation_with_fixed_references():
    t = torch.linspace(0, 5, 40, dtype=torch.float64)
    weights = torch.stack([t.sin(), t.cos(), -t.sin() + 0.2 * t.cos(), -t.cos() + 0.2 * t.sin()], dim=1)
    modes = assign(Trajectory.from_weights(weights), torch.tensor([0, 1]), weights[:, :2].T.contiguous(), range(40))
    assert modes.mode.tolist() == [0, 1, 0, 1]
    assert modes.correlation[2] < -0.9


def test_correlation_is_numpys_and_zero_for_constants(wavy):
    wavy[:, 7] = 0.25
    ours = correlations(torch.from_numpy(wavy))
    keep = [i for i in range(60) if i != 7]
    np.testing.assert_allclose(ours[keep][:, keep], np.corrcoef(wavy[:, keep].T), atol=1e-13)
    assert torch.count_nonzero(ours[7]) == torch.count_nonzero(ours[:, 7]) == 0


@pytest.mark.parametrize("num_modes", [1, 3, 7])
def test_clusters_are_scipys_on_absolute_rows(wavy, num_modes):
    correlation = correlations(torch.from_numpy(wavy))
    ours = clusters(correlation, num_modes)
    distance = hierarchy.distance.pdist(np.abs(np.corrcoef(wavy.T)), "euclidean")
    theirs = hierarchy.fcluster(hierarchy.linkage(distance, "complete"), num_modes, "maxclust")
    assert len(set(zip(ours.tolist(), theirs.tolist(), strict=True))) == len(set(theirs)) == ours.max() + 1


def test_linkage_is_complete_where_others_would_differ():
    paths = torch.randn(8, 60, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    distance = hierarchy.distance.pdist(np.abs(np.corrcoef(paths.T)), "euclidean")

    def partition(labels):
        return {frozenset(np.flatnonzero(np.asarray(labels) == label).tolist()) for label in set(labels)}

    cuts = {m: partition(hierarchy.fcluster(hierarchy.linkage(distance, m), 5, "maxclust")) for m in METHODS}
    assert len({frozenset(cut) for cut in cuts.values()}) == len(METHODS)
    assert partition(clusters(correlations(paths), 5).tolist()) == cuts["complete"]


def test_cut_by_distance_takes_half_of_the_largest(wavy):
    correlation = correlations(torch.from_numpy(wavy))
    distance = hierarchy.distance.pdist(np.abs(np.corrcoef(wavy.T)))
    theirs = hierarchy.fcluster(hierarchy.linkage(distance, "complete"), distance.max() / 2, "distance")
    assert int(clusters(correlation, 1, cut="distance").max()) + 1 == len(set(theirs)) > 1
    assert CMD(1, 60, cut="distance").fit(Trajectory.from_weights(torch.from_numpy(wavy))).num_modes == len(set(theirs))


def test_reference_is_closest_to_its_own_cluster_not_to_everybody():
    """Row 3 has the largest mean |C| of all five, but row 1 is the middle of its own cluster."""
    correlation = torch.tensor(
        [
            [1.00, 0.95, 0.80, 0.70, 0.00],
            [0.95, 1.00, 0.96, 0.10, 0.10],
            [0.80, 0.96, 1.00, 0.20, 0.05],
            [0.70, 0.10, 0.20, 1.00, 0.97],
            [0.00, 0.10, 0.05, 0.97, 1.00],
        ],
        dtype=torch.float64,
    )
    assert clusters(correlation, 2).unique(return_counts=True)[1].tolist() in ([3, 2], [2, 3])
    assert references(correlation, 2).tolist() == [1, 3]
    assert references(-correlation, 2).tolist() == [1, 3]


def test_relative_error_is_the_closed_form_and_the_residual(wavy):
    trajectory = Trajectory.from_weights(torch.from_numpy(wavy), {"a": slice(0, 13), "b": slice(13, 60)})
    modes = CMD(3, 60).fit(trajectory)
    variance, rho = wavy.var(0), modes.correlation.numpy()
    closed = (variance * (1 - rho**2)).sum() / variance.sum()
    model = np.stack([modes.reconstruct(t).numpy() for t in range(25)])
    residual = ((wavy - model) ** 2).sum() / ((wavy - wavy.mean(0)) ** 2).sum()
    assert closed == pytest.approx(residual, abs=1e-12)
    assert modes.relative_error() == pytest.approx(closed, abs=1e-12)
    assert modes.relative_error(trajectory) == pytest.approx(residual, abs=1e-12)
    for name, part in {"a": slice(0, 13), "b": slice(13, 60)}.items():
        missed = ((wavy - model)[:, part] ** 2).sum() / ((wavy - wavy.mean(0))[:, part] ** 2).sum()
        assert modes.errors_by_layer()[name] == pytest.approx(missed, abs=1e-12)
        assert modes.errors_by_layer(trajectory)[name] == pytest.approx(missed, abs=1e-12)


@pytest.mark.parametrize("num_modes", [1, 2, 3, 5, 9])
def test_never_better_than_principal_components_of_the_same_number(wavy, num_modes):
    """Eckart-Young: the lines span at most M centred directions."""
    trajectory = Trajectory.from_weights(torch.from_numpy(wavy))
    error = CMD(num_modes, 60).fit(trajectory).relative_error()
    assert error >= SnapshotPCA(num_modes).fit(trajectory).relative_error()
    assert error < 1


def test_references_are_their_own_lines_and_constants_go_to_mode_0(planted):
    weights, _, _, _ = planted(size=60)
    weights[:, 11] = -2.5
    weights[:, 30] = weights[:, 31]
    modes = CMD(num_modes=4, num_samples=60).fit(Trajectory.from_weights(weights.float()))
    for m, r in enumerate(modes.reference_index.tolist()):
        assert (int(modes.mode[r]), float(modes.scale[r]), float(modes.offset[r])) == (m, 1.0, 0.0)
        assert torch.equal(modes.reference[m], weights[:, r].float())
    assert (int(modes.mode[11]), float(modes.scale[11]), float(modes.offset[11])) == (0, 0.0, -2.5)
    assert float(modes.correlation[11]) == 0
    assert 11 not in modes.reference_index
    assert modes.mode_shares.sum() == 1


def test_a_reference_belongs_to_itself_even_beside_its_mirror_image():
    """Of two references that are lines in each other, |corr| alone would give both to the first mode."""
    path = torch.tensor([0.1, 0.7, 0.3, 0.9, 0.2], dtype=torch.float64)
    weights = torch.stack([path, 1 - 2 * path, 3 * path], dim=1)
    modes = assign(Trajectory.from_weights(weights), torch.tensor([0, 1]), weights[:, :2].T.contiguous(), range(5))
    assert modes.mode.tolist()[:2] == [0, 1]
    assert (modes.scale.tolist()[:2], modes.offset.tolist()[:2]) == ([1, 1], [0, 0])
    assert torch.equal(modes.reconstruct(3)[:2], weights[3, :2])


def test_permuting_weights_permutes_the_result(wavy):
    samples = torch.arange(0, 60, 2)
    order = torch.from_numpy(np.argsort(np.sin(np.arange(60) * 5.7)))
    plain = CMD(3).fit(Trajectory.from_weights(torch.from_numpy(wavy)), samples=samples)
    where = order.argsort()
    moved = CMD(3).fit(Trajectory.from_weights(torch.from_numpy(wavy)[:, order]), samples=where[samples])
    assert torch.equal(order[moved.reference_index], plain.reference_index)
    assert torch.equal(moved.mode, plain.mode[order])
    torch.testing.assert_close(moved.scale, plain.scale[order], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("num_modes", [3, 7, 12])
def test_ties_in_clusters_of_two_do_not_depend_on_the_order(wavy, num_modes):
    order = torch.from_numpy(np.argsort(np.cos(np.arange(60) * 3.1)))
    plain = CMD(num_modes, 60).fit(Trajectory.from_weights(torch.from_numpy(wavy)))
    moved = CMD(num_modes, 60).fit(Trajectory.from_weights(torch.from_numpy(wavy)[:, order]))
    assert torch.equal(order[moved.reference_index], plain.reference_index)


def test_scaling_and_shifting_weights_scales_the_lines(wavy):
    i = torch.arange(60.0, dtype=torch.float64)
    alpha, beta = (1.3 + (2.7 * i).sin()) * (1 - 2 * (i % 2)), 3 * (1.9 * i).cos()
    plain = CMD(3, 60).fit(Trajectory.from_weights(torch.from_numpy(wavy)))
    other = CMD(3, 60).fit(Trajectory.from_weights(alpha * torch.from_numpy(wavy) + beta))
    assert torch.equal(other.mode, plain.mode)
    assert torch.equal(other.reference_index, plain.reference_index)
    of_reference = alpha[plain.reference_index][plain.mode.long()]
    torch.testing.assert_close(other.scale, plain.scale * alpha / of_reference, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 7, 59, 60, 1000])
def test_chunk_size_never_changes_the_result(wavy, tmp_path, monkeypatch, chunk):
    whole = CMD(3, 60).fit(Trajectory.from_weights(torch.from_numpy(wavy)))
    trajectory = Trajectory.create(tmp_path / "w", Layout(("a",), ((60,),)), dtype=torch.float64)
    for row in torch.from_numpy(wavy):
        trajectory.append_vector(row)
    monkeypatch.setattr(chunks, "TILE", 11)
    parts = CMD(3, 60, chunk=chunk).fit(trajectory)
    assert torch.equal(parts.reference_index, whole.reference_index)
    assert torch.equal(parts.mode, whole.mode)
    torch.testing.assert_close(parts.scale, whole.scale, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(parts.offset, whole.offset, rtol=1e-13, atol=1e-14)
    assert parts.relative_error(trajectory, chunk=chunk) == pytest.approx(whole.relative_error(), abs=1e-13)


def test_start_and_stride_use_those_snapshots_only(wavy):
    samples = torch.arange(60)
    some = CMD(3, start=4, stride=3).fit(Trajectory.from_weights(torch.from_numpy(wavy)), samples=samples)
    same = CMD(3).fit(Trajectory.from_weights(torch.from_numpy(wavy[4::3].copy())), samples=samples)
    for name in ("scale", "offset", "mode", "reference", "correlation"):
        assert torch.equal(getattr(some, name), getattr(same, name))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_any_product(planted, dtype):
    weights = planted()[0].to(dtype)
    samples = torch.arange(0, 400, 3)
    narrow = CMD(4).fit(Trajectory.from_weights(weights), samples=samples)
    wide = CMD(4).fit(Trajectory.from_weights(weights.float()), samples=samples)
    assert narrow.scale.dtype == torch.float32
    for name in ("scale", "offset", "mode", "reference", "correlation"):
        assert torch.equal(getattr(narrow, name), getattr(wide, name))


def test_memory_does_not_grow_to_the_size_of_the_trajectory(tmp_path):
    size, epochs = 1_000_000, 40
    trajectory = Trajectory.create(tmp_path / "w", Layout(("a",), ((size,),)))
    slope, noise = torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    for t in range(epochs):
        trajectory.append_vector((0.3 * t**0.5 * slope).add_(noise.roll(t), alpha=0.1))

    def water(mark):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(mark)).split()[1]) / 1024

    if not HIGH_WATER.exists():  # only Linux keeps the high-water mark of memory
        return
    HIGH_WATER.write_text("5")
    before = water("VmRSS")
    modes = CMD(2, 50, chunk=2**14).fit(trajectory)
    assert modes.relative_error(trajectory, chunk=2**14) < 1
    numbers = 8 * size * 4 / 2**20  # five results a weight, two of them twice for the second error, one row's mapping
    assert water("VmHWM") - before < numbers + 20  # MiB; the file has 153


class TestSampling:
    layout = Layout(("big", "middle", "small", "tiny"), ((9000,), (800,), (150,), (3,)))

    def counts(self, drawn):
        return [int(((drawn >= s.start) & (drawn < s.stop)).sum()) for s in self.layout.layers.values()]

    def test_balanced_gives_half_to_layers_alike_and_half_by_size(self):
        drawn = draw_samples(self.layout, 400, generator=torch.Generator().manual_seed(0))
        assert len(drawn.unique()) == 400
        big, middle, small, tiny = self.counts(drawn)
        assert tiny == 3  # 50 + 0, but it has only 3
        assert (big, middle) == (50 + 180, 50 + 16)
        assert small == 400 - big - middle - tiny  # the remainder goes to a layer with room
        assert small >= 50 + 3

    def test_uniform_when_half_of_them_are_fewer_than_layers(self):
        drawn = draw_samples(self.layout, 7, generator=torch.Generator().manual_seed(2))
        alike = draw_samples(self.layout, 7, "uniform", generator=torch.Generator().manual_seed(2))
        assert torch.equal(drawn, alike)
        big = sum(
            self.counts(draw_samples(self.layout, 200, "uniform", torch.Generator().manual_seed(s)))[0]
            for s in range(20)
        )
        expected = 4000 * 9000 / 9953
        assert abs(big - expected) < 4 * (4000 * 0.904 * 0.096) ** 0.5

    def test_never_more_than_there_are(self):
        assert torch.equal(draw_samples(self.layout, 20_000), torch.arange(9953))

    def test_same_generator_same_draw(self):
        draws = [draw_samples(self.layout, 300, generator=torch.Generator().manual_seed(s)) for s in (4, 4, 5)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])

    def test_every_weight_of_a_layer_is_as_likely(self):
        layout = Layout(("a",), ((50,),))
        hits = torch.zeros(50)
        generator = torch.Generator().manual_seed(0)
        for _ in range(2000):
            hits[draw_samples(layout, 5, generator=generator)] += 1
        assert (hits - 200).abs().max() < 5 * (2000 * 0.1 * 0.9) ** 0.5


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_modes": 0}, "num_modes must be at least 1, got 0"),
            ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
            ({"chunk": 0}, "chunk must be at least 1 column, got 0"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            CMD(**arguments)

    def test_snapshots(self, wavy):
        trajectory = Trajectory.from_weights(torch.from_numpy(wavy))
        with pytest.raises(ValueError, match="at least 3 snapshots, got 2"):
            CMD().fit(Trajectory.from_weights(torch.from_numpy(wavy[:2])))
        with pytest.raises(ValueError, match="at least 3 snapshots, got 2"):
            CMD(start=23).fit(trajectory)
        with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
            CMD(stride=0).fit(trajectory)
        with pytest.raises(ValueError, match="start must be at least 0, got -1"):
            CMD(start=-1).fit(trajectory)

    def test_more_modes_than_samples_that_move(self, wavy):
        wavy[:, 3:] = 1.0
        with pytest.raises(ValueError, match="num_modes must be at most the 3 sampled weights that move, got 4"):
            CMD(4).fit(Trajectory.from_weights(torch.from_numpy(wavy)))

    def test_samples(self, wavy):
        for wrong in ([0, 60], [-1, 2], [1, 1, 2]):
            with pytest.raises(ValueError, match=r"samples must be different indices in \[0, 60\)"):
                CMD(1).fit(Trajectory.from_weights(torch.from_numpy(wavy)), samples=torch.tensor(wrong))

    @pytest.mark.parametrize("where", [(4, 20), (17, 59)])
    def test_non_finite_weights_by_layer_and_epoch(self, wavy, where):
        wavy[where] = np.nan
        trajectory = Trajectory.from_weights(torch.from_numpy(wavy), {"a": slice(0, 30), "b": slice(30, 60)})
        layer = "a" if where[1] < 30 else "b"
        for samples in (torch.arange(60), torch.arange(10)):  # among the samples, and only met later
            with pytest.raises(ValueError, match=f"finite, got nan in '{layer}' at epoch {where[0]}"):
                CMD(2).fit(trajectory, samples=samples)

    def test_weights_too_large_to_square(self, wavy):
        with pytest.raises(ValueError, match="below about 1e18"):
            CMD(2).fit(Trajectory.from_weights(torch.from_numpy(wavy * 1e30).float()))


def test_records_of_a_model_know_its_layers():
    model = torch.nn.Linear(4, 3)
    trajectory = record(model)
    for _ in range(5):
        for p in model.parameters():
            p.data.add_(torch.randn_like(p))
        trajectory.append(model)
    modes = CMD(2).fit(trajectory)
    assert modes.layers == {"weight": slice(0, 12), "bias": slice(12, 15)}
    modes.write(model, 2)
    torch.testing.assert_close(model.bias.data, modes.reconstruct(2)[12:])
