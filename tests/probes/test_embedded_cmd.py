"""Embedding against a transcription of the rule, and the projection against brute force."""

import math

import numpy as np
import pytest
import torch

from assay.probes import EmbeddedCMD, FrozenWeights

OPTIONS = {"num_modes": 3, "num_samples": 60, "warmup": 8, "window": 4, "percent": 10}


def naive(wavy, modes, *, warmup, window, percent, relative=False):
    """Which weights are embedded when, and the weights at the end of each epoch, for scripted training.

    Within an epoch the training sets every weight to its script, so that only overwriting shows.
    """
    index, mode = modes.reference_index.numpy(), modes.mode.numpy()
    size = wavy.shape[1]

    def lines(epochs):
        pairs = [np.polyfit(wavy[:epochs, index[mode[i]]], wavy[:epochs, i], 1) for i in range(size)]
        return np.array(pairs).T

    old_a, old_b = lines(warmup)
    embedded: dict[int, tuple[float, float]] = {}
    ends = []
    for epoch in range(1, len(wavy) + 1):
        if epoch > warmup and (epoch - warmup) % window == 0:
            a, b = lines(epoch)
            free = [i for i in range(size) if i not in embedded and i not in index]
            change = {i: math.sqrt((a[i] - old_a[i]) ** 2 + (b[i] - old_b[i]) ** 2) for i in free}
            count = math.ceil((size - len(embedded) if relative else size) * percent / 100)
            for i in sorted(free, key=change.get)[:count]:
                embedded[i] = (a[i], b[i])
            old_a, old_b = a, b
        weights = wavy[epoch - 1].copy()
        for i, (a_i, b_i) in embedded.items():
            weights[i] = a_i * weights[index[mode[i]]] + b_i
        ends.append((weights, sorted(embedded)))
    return ends


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("percent", [10, 12.5, 60])
def test_epoch_ties_against_a_naive_transcription(scripted, wavy, percent, relative):
    model = scripted(60, torch.float64)
    options = OPTIONS | {"percent": percent, "relative": relative}
    cmd = EmbeddedCMD(model, **options)
    ours = []
    for row in torch.from_numpy(wavy):
        cmd.on_epoch(model.put(row))
        ours.append((model.vector().numpy(), cmd.embedded.nonzero()[:, 0].tolist()))
    rule = {name: options[name] for name in ("warmup", "window", "percent", "relative")}
    for (weights, embedded), (expected, indices) in zip(ours, naive(wavy, cmd.modes, **rule), strict=True):
        assert embedded == indices
        np.testing.assert_allclose(weights, expected, atol=1e-9)
    assert cmd.embedded_fraction == len(ours[-1][1]) / 60 > 0


def test_ten_percent_every_window_until_only_references_are_left(scripted, wavy):
    model = scripted(60, torch.float64)
    cmd = EmbeddedCMD(model, **OPTIONS)
    counts = []
    for row in torch.from_numpy(np.concatenate([wavy, wavy[::-1], wavy])):
        cmd.on_epoch(model.put(row))
        counts.append(int(cmd.embedded.sum()))
    assert counts[:8] == [0] * 8
    assert counts[11::4][:4] == [6, 12, 18, 24]
    assert counts[-1] == 60 - 3
    assert not cmd.embedded[cmd.modes.reference_index.long()].any()


def test_embedded_lines_are_frozen_for_good_others_go_on(scripted, wavy):
    model = scripted(60, torch.float64)
    cmd = EmbeddedCMD(model, **OPTIONS)
    for row in torch.from_numpy(wavy[:12]):
        cmd.on_epoch(model.put(row))
    before, held = cmd.modes, cmd.embedded.clone()
    for row in torch.from_numpy(wavy[12:15]):
        cmd.on_epoch(model.put(row))
    after = cmd.modes
    assert held.sum() == 6
    assert torch.equal(after.scale[held], before.scale[held])
    assert torch.equal(after.offset[held], before.offset[held])
    free = ~held
    free[after.reference_index.long()] = False
    assert (after.scale[free] != before.scale[free]).all()


def brute_force_projection(step, scale, label, index, held):
    """Orthogonal projection of the step on the span of one direction a mode and of the free weights' axes."""
    size, tied = len(step), set(held) | set(index)
    directions = [np.eye(size)[i] for i in range(size) if i not in tied]
    for m, r in enumerate(index):
        direction = np.eye(size)[r]
        for i in held:
            if label[i] == m:
                direction[i] = scale[i]
        directions.append(direction)
    basis = np.stack(directions, axis=1)
    return basis @ np.linalg.lstsq(basis, step, rcond=None)[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_project_is_the_orthogonal_projection_of_every_step(scripted, wavy, dtype):
    model = scripted(60, dtype)
    cmd = EmbeddedCMD(model, **(OPTIONS | {"percent": 40, "tie": "project"}))
    for row in torch.from_numpy(wavy[:12]):
        cmd.on_epoch(model.put(row))
    assert cmd.embedded_fraction == 0.4
    modes, held = cmd.modes, cmd.embedded.nonzero()[:, 0].tolist()
    label, index = modes.mode.tolist(), modes.reference_index.tolist()
    eps = torch.finfo(dtype).eps
    for k in range(5):
        before = model.vector().double()
        step = 0.05 * torch.sin(torch.arange(60.0, dtype=torch.float64) * (1.7 + k) + k)
        model.put(before + step)
        taken = (model.vector().double() - before).numpy()
        cmd.on_step(model)
        expected = before.numpy() + brute_force_projection(taken, modes.scale.numpy(), label, index, held)
        largest = 1 + float(modes.scale.abs().max())
        np.testing.assert_allclose(model.vector(), expected, atol=100 * largest * eps)
        line = modes.scale * model.vector()[[index[m] for m in label]] + modes.offset
        np.testing.assert_allclose(model.vector()[held], line[held], atol=20 * largest * eps)


def test_projection_divides_by_the_squared_slopes(scripted, wavy):
    """A step of the embedded weights alone moves the reference by sum a dw / (1 + sum a^2), not by sum a dw."""
    model = scripted(60, torch.float64)
    cmd = EmbeddedCMD(model, **(OPTIONS | {"num_modes": 1, "percent": 40, "tie": "project"}))
    for row in torch.from_numpy(wavy[:12]):
        cmd.on_epoch(model.put(row))
    reference, a, held = int(cmd.modes.reference_index), cmd.modes.scale, cmd.embedded
    before = model.vector()
    model.put(torch.where(held, before + 0.01, before))
    cmd.on_step(model)
    moved = float(model.vector()[reference] - before[reference])
    assert moved == pytest.approx(float(0.01 * a[held].sum() / (1 + a[held].square().sum())), abs=1e-14)


def test_free_weights_step_freely_under_project(scripted, wavy):
    model = scripted(60, torch.float32)
    cmd = EmbeddedCMD(model, **(OPTIONS | {"tie": "project"}))
    for row in torch.from_numpy(wavy[:12]):
        cmd.on_epoch(model.put(row))
    free = ~cmd.embedded
    free[cmd.modes.reference_index.long()] = False
    target = model.vector() + 0.1
    model.put(target)
    cmd.on_step(model)
    assert torch.equal(model.vector()[free], target[free])


def test_on_step_does_nothing_when_tied_by_epoch_or_before_any_embedding(scripted, wavy):
    for tie, epochs in (("epoch", 12), ("project", 9)):
        model = scripted(60, torch.float64)
        cmd = EmbeddedCMD(model, **(OPTIONS | {"tie": tie}))
        for row in torch.from_numpy(wavy[:epochs]):
            cmd.on_epoch(model.put(row))
        row = torch.from_numpy(wavy[20])
        cmd.on_step(model.put(row))
        assert torch.equal(model.vector(), row)


def test_project_without_on_step_is_noticed(scripted, wavy):
    model = scripted(60, torch.float64)
    cmd = EmbeddedCMD(model, **(OPTIONS | {"tie": "project"}))
    for row in torch.from_numpy(wavy[:12]):
        cmd.on_epoch(model.put(row))
    with pytest.raises(RuntimeError, match="needs on_step"):
        cmd.on_epoch(model.put(torch.from_numpy(wavy[12])))


def test_frozen_weights_are_chosen_alike_and_stay(scripted, wavy):
    model, other = scripted(60, torch.float64), scripted(60, torch.float64)
    frozen, cmd = FrozenWeights(model, **OPTIONS), EmbeddedCMD(other, **OPTIONS)
    since: dict[int, float] = {}
    for epoch, row in enumerate(torch.from_numpy(wavy), start=1):
        frozen.on_step(model.put(row))
        for i, value in since.items():
            assert float(model.vector()[i]) == value
        frozen.on_epoch(model)
        cmd.on_epoch(other.put(row))
        assert torch.equal(frozen.embedded, cmd.embedded) or epoch > 12  # later lines see other paths
        assert frozen.embedded_fraction == cmd.embedded_fraction
        for i in frozen.embedded.nonzero()[:, 0].tolist():
            since.setdefault(i, float(row[i]))
        assert torch.equal(model.vector()[~frozen.embedded], row[~frozen.embedded])
    assert len(since) == 24
    assert not torch.equal(model.vector(), other.vector())


def test_frozen_weights_come_back_at_the_end_of_an_epoch_without_on_step(scripted, wavy):
    model = scripted(60, torch.float64)
    frozen = FrozenWeights(model, **OPTIONS)
    held = []
    for row in torch.from_numpy(wavy[:18]):
        frozen.on_epoch(model.put(row))
        held.append(frozen.embedded.clone())
    first, second = held[11], held[15] & ~held[11]
    assert first.sum() == second.sum() == 6
    assert torch.equal(model.vector()[first], torch.from_numpy(wavy[11])[first])
    assert torch.equal(model.vector()[second], torch.from_numpy(wavy[15])[second])


@pytest.mark.parametrize("kind", [EmbeddedCMD, FrozenWeights])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"percent": 0}, r"percent must be in \(0, 100\], got 0"),
        ({"percent": 100.5}, r"percent must be in \(0, 100\], got 100.5"),
        ({"percent": float("nan")}, r"percent must be in \(0, 100\], got nan"),
        ({"window": 0}, "window must be at least 1 epoch, got 0"),
        ({"warmup": 2}, "warmup must be at least 3, got 2"),
    ],
)
def test_refused_arguments(scripted, kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(scripted(60), **(OPTIONS | change))
