"""Each generator against its formula, its planted truth and its statistics."""

import math

import pytest
import torch

from assay import data


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_blobs_have_the_planted_means_and_spread():
    centers = torch.tensor([[0.0, 5.0, 1.0], [9.0, -3.0, 2.0]], dtype=torch.float64)
    n, std = 40_000, 0.7
    points = data.blobs(n, centers, std=std, generator=seeded())
    assert (points.targets == 0).double().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(n))
    for label in (0, 1):
        mine = points.inputs[points.targets == label]
        error = std / math.sqrt(len(mine))
        torch.testing.assert_close(mine.mean(0), centers[label], rtol=0, atol=5 * error)
        torch.testing.assert_close(mine.std(0), torch.full((3,), std).double(), rtol=0, atol=5 * error / math.sqrt(2))


@pytest.mark.parametrize(("arms", "turns"), [(2, 1.0), (3, 0.7), (1, 2.0)])
def test_spirals_wind_with_the_radius(arms, turns):
    points = data.spirals(5_000, arms=arms, turns=turns, generator=seeded())
    x, y = points.inputs.double().T
    radius = torch.sqrt(x**2 + y**2)
    turned = torch.atan2(y, x) / (2 * math.pi) - turns * radius - points.targets / arms
    assert (turned - turned.round()).abs().mul(radius).max() < 1e-6  # arc length; whole turns are no difference
    assert set(points.targets.tolist()) == set(range(arms))
    # Spread evenly over the disc: the mean square radius is one half.
    assert radius.square().mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / 5_000))


def test_moons_are_half_circles_about_two_centres():
    points = data.moons(2_000, generator=seeded())
    for label, centre, side in ((0, (0.0, 0.0), 1), (1, (1.0, 0.5), -1)):
        offset = points.inputs[points.targets == label].double() - torch.tensor(centre)
        torch.testing.assert_close(offset.norm(dim=1), torch.ones(len(offset)).double(), rtol=0, atol=1e-6)
        assert (side * offset[:, 1] > -1e-6).all()
        assert offset[:, 0].min() < -0.9 < 0.9 < offset[:, 0].max()


@pytest.mark.parametrize("make", [data.spirals, data.moons])
def test_noise_is_added_to_what_would_have_been(make):
    clean, noisy = (make(20_000, noise=noise, generator=seeded(3)) for noise in (0.0, 0.2))
    assert torch.equal(clean.targets, noisy.targets)
    error = noisy.inputs - clean.inputs
    assert error.std().item() == pytest.approx(0.2, abs=5 * 0.2 / math.sqrt(2 * error.numel()))


def test_sinusoids_are_their_frequency_at_a_phase():
    frequencies = torch.tensor([1.5, 4.0, 7.25], dtype=torch.float64)
    waves = data.sinusoids(30, 64, frequencies, generator=seeded())
    for wave, label in zip(waves.inputs, waves.targets, strict=True):
        angle = [2 * math.pi * frequencies[label].item() * t / 64 for t in range(64)]
        basis = torch.tensor([[math.sin(a), math.cos(a)] for a in angle], dtype=torch.float64)
        fit = torch.linalg.lstsq(basis, wave[:, None]).solution
        assert fit.norm().item() == pytest.approx(1.0, abs=1e-12)
        torch.testing.assert_close(basis @ fit, wave[:, None], rtol=0, atol=1e-12)
    phases = torch.atan2(waves.inputs[:, 0], torch.ones(30))
    assert len(phases.unique()) == 30


def test_linear_regression_is_recovered_within_its_standard_error():
    truth, n, noise = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64), 20_000, 0.3
    x, y = data.linear_regression(n, truth, noise=noise, generator=seeded())
    found = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    torch.testing.assert_close(found, truth, rtol=0, atol=5 * noise / math.sqrt(n))
    assert (y - x @ truth).std().item() == pytest.approx(noise, abs=5 * noise / math.sqrt(2 * n))


@pytest.mark.parametrize(("length", "pieces"), [(1, 1), (10, 10), (100, 7), (50, 1)])
def test_signals_have_exactly_so_many_pieces(length, pieces):
    for seed in range(10):
        signal = data.piecewise_constant_signal(length, pieces, generator=seeded(seed))
        assert signal.shape == (length,)
        assert int((signal.diff() != 0).sum()) == pieces - 1
        assert 0 <= signal.min() <= signal.max() < 1


def test_jumps_of_signals_are_equally_likely_everywhere():
    places = torch.zeros(9)
    for seed in range(900):
        places += data.piecewise_constant_signal(10, 3, generator=seeded(seed)).diff() != 0
    assert (places - 200).abs().max() < 5 * math.sqrt(900 * 2 / 9 * 7 / 9)


def test_images_are_cells_of_nearest_points():
    """Each level belongs to one point: any pixel nearer to it than to the others has its level. Redrawn naively."""
    size, pieces = 20, 6
    image = data.piecewise_constant_image(size, pieces, generator=seeded(5))
    again = seeded(5)
    points, levels = torch.rand(pieces, 2, generator=again).tolist(), torch.rand(pieces, generator=again).tolist()
    for i in range(size):
        for j in range(size):
            y, x = (i + 0.5) / size, (j + 0.5) / size
            nearest = min(range(pieces), key=lambda p: (points[p][0] - y) ** 2 + (points[p][1] - x) ** 2)
            assert image[0, i, j].item() == pytest.approx(levels[nearest], abs=1e-7)


def test_low_rank_has_the_planted_singular_values():
    planted = torch.tensor([7.0, 2.5, 0.1], dtype=torch.float64)
    matrix = data.low_rank(9, 5, planted, generator=seeded())
    expected = torch.cat([planted, torch.zeros(2, dtype=torch.float64)])
    torch.testing.assert_close(torch.linalg.svdvals(matrix), expected, rtol=0, atol=1e-12)
    noisy = data.low_rank(9, 5, planted, noise=0.3, generator=seeded()) - matrix
    assert noisy.std().item() == pytest.approx(0.3, abs=5 * 0.3 / math.sqrt(90))


def test_directions_of_low_rank_are_uniform():
    """Entries of a uniform direction in d dimensions have mean 0; QR without its signs fixed would be lopsided."""
    one = torch.ones(1, dtype=torch.float64)
    entries = torch.stack([data.low_rank(4, 1, one, generator=seeded(s))[:, 0] for s in range(600)])
    assert entries.mean(0).abs().max() < 5 * math.sqrt(0.25 / 600)


MAKERS = {
    "blobs": lambda g: data.blobs(5, torch.zeros(2, 3), generator=g).inputs,
    "spirals": lambda g: data.spirals(5, generator=g).inputs,
    "moons": lambda g: data.moons(5, generator=g).inputs,
    "sinusoids": lambda g: data.sinusoids(5, 8, torch.ones(2), generator=g).inputs,
    "linear_regression": lambda g: data.linear_regression(5, torch.ones(2), generator=g).inputs,
    "signal": lambda g: data.piecewise_constant_signal(9, 3, generator=g),
    "image": lambda g: data.piecewise_constant_image(9, 3, generator=g),
    "low_rank": lambda g: data.low_rank(4, 3, torch.ones(2), generator=g),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_generator_alone_makes_the_data(make):
    state = torch.get_rng_state()
    one, same, other = (make(seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(make(None), one)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.blobs(0, torch.zeros(1, 1)), "count must be at least 1: got 0"),
        (lambda: data.blobs(1, torch.zeros(0, 1)), "centers must be at least 1: got 0"),
        (lambda: data.blobs(1, torch.zeros(1, 1), std=-0.1), "std must not be negative: got -0.1"),
        (lambda: data.spirals(1, arms=0), "arms must be at least 1: got 0"),
        (lambda: data.spirals(1, turns=-1.0), "turns must not be negative: got -1"),
        (lambda: data.spirals(1, noise=math.nan), "noise must not be negative: got nan"),
        (lambda: data.moons(0), "count must be at least 1: got 0"),
        (lambda: data.moons(1, noise=-1.0), "noise must not be negative: got -1"),
        (lambda: data.sinusoids(1, 0, torch.ones(1)), "length must be at least 1: got 0"),
        (lambda: data.sinusoids(1, 1, torch.ones(0)), "frequencies must be at least 1: got 0"),
        (lambda: data.linear_regression(0, torch.ones(1)), "count must be at least 1: got 0"),
        (lambda: data.linear_regression(1, torch.ones(1), noise=-1.0), "noise must not be negative: got -1"),
        (lambda: data.piecewise_constant_signal(0, 1), "length must be at least 1: got 0"),
        (lambda: data.piecewise_constant_signal(3, 4), "pieces must be at most length = 3: got 4"),
        (lambda: data.piecewise_constant_image(4, 0), "pieces must be at least 1: got 0"),
        (lambda: data.low_rank(3, 2, torch.ones(3)), "singular_values must be at most 2 for 3 x 2: got 3"),
        (lambda: data.low_rank(3, 2, torch.ones(0)), "singular_values must be at least 1: got 0"),
        (lambda: data.low_rank(3, 2, torch.tensor([1.0, -1.0])), "singular_values must not be negative: got -1"),
    ],
)
def test_refused_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
