"""Importance maps by enumeration, patterns against the plain greedy loop, the network's target, what is refused."""

from itertools import combinations

import pytest
import torch

from assay.imaging import ImportanceNet, complete_depth, gaussian_sampling, grid_pattern, importance_map
from assay.imaging.adaptive_depth_sampling import _greedy


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def nearest(mask, values, _rgb):
    return complete_depth(mask, values, method="nearest")


@pytest.mark.parametrize("error", ["rmse", "rel"])
def test_the_map_of_a_step_by_enumeration(error):
    """All 66 pairs of a line of 12 pixels; 2,000 draws are right to five standard errors, found from the pairs."""
    line = torch.tensor([[2.0] * 5 + [6.0] * 7]).double()
    errors = []
    for pair in combinations(range(12), 2):
        mask = torch.zeros(1, 12, dtype=torch.bool)
        mask[0, list(pair)] = True
        off = nearest(mask, line, None) - line
        errors.append(off.square() if error == "rmse" else off.abs() / line)
    errors = torch.stack(errors)
    found = importance_map(line, nearest, 2, error=error, draws=2000, generator=seeded())
    tolerance = 5 * errors.std(0) / 2000**0.5
    assert ((found - errors.mean(0)).abs() <= tolerance + 1e-12).all()
    assert found[0, 4] > found[0, 0]  # high at the step


def test_what_is_not_valid_is_neither_sampled_nor_counted():
    depth = torch.rand(6, 6, generator=seeded()) + 1
    valid = torch.ones(6, 6, dtype=torch.bool)
    valid[:, :2] = False
    depth[:, :2] = -3
    seen, picture = torch.zeros(6, 6), torch.rand(3, 6, 6)

    def predictor(mask, values, rgb):
        seen.add_(mask)
        assert rgb is picture
        assert (values[~mask] == 0).all()
        return values

    found = importance_map(depth, predictor, 5, valid=valid, draws=40, rgb=picture, generator=seeded())
    assert seen[:, :2].sum() == 0
    assert found[:, :2].sum() == 0
    # P is right at samples and 0 elsewhere: Q is the squared depth times the share of masks without the pixel.
    torch.testing.assert_close(found[:, 2:], (depth.square() * (1 - seen / 40))[:, 2:])


def test_errors_of_ones_own_and_a_full_budget():
    depth = torch.rand(4, 5, generator=seeded()).double() + 1
    assert importance_map(depth, nearest, 20, draws=3).abs().max() == 0
    found = importance_map(depth, lambda m, v, r: v + 2, 20, draws=2, error=lambda p, t: (p - t).abs() ** 3)
    torch.testing.assert_close(found, torch.full_like(depth, 8.0))


@pytest.mark.parametrize("sigma", [0.0, 0.7, 1.5])
def test_patterns_against_the_plain_loop(sigma):
    """A padded copy, its argmax, and its window times 1 - a Gaussian, again and again."""
    q = torch.rand(17, 23, generator=seeded()).double()
    reach = round(2.5 * sigma)
    padded = torch.nn.functional.pad(q, (reach,) * 4)
    expected = torch.zeros(17, 23, dtype=torch.bool)
    for _ in range(40):
        y, x = divmod(int(padded.argmax()), padded.shape[1])
        expected[y - reach, x - reach] = True
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                r2 = torch.tensor(float(i * i + j * j)).double()
                held = 1 - torch.exp(-r2 / (2 * sigma**2)) if sigma else 0.0
                padded[y + i, x + j] *= held
    assert torch.equal(gaussian_sampling(q, 40, sigma=sigma, grid_share=0.0), expected)
    if sigma == 0:
        assert torch.equal(expected.flatten().nonzero()[:, 0].sort()[0], q.flatten().topk(40)[1].sort()[0])
    elif sigma > 1:
        assert not torch.equal(expected, gaussian_sampling(q, 40, sigma=0.0, grid_share=0.0))


def test_what_the_authors_code_gives():
    """`pick_max(q, 20 / 180, 1.0)` of github.com/tWXWbAdq/How-to-Guide-Adaptive-Depth-Sampling."""
    q = (torch.arange(12 * 15).double() * 1.7).sin().abs().view(12, 15)
    rows = [0, 0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 11, 11]
    columns = [1, 3, 12, 14, 8, 6, 10, 4, 0, 13, 11, 7, 5, 1, 14, 10, 8, 2, 4, 13]
    found = gaussian_sampling(q, 20, sigma=1.0, grid_share=0.0).nonzero().tolist()
    assert found == [list(each) for each in zip(rows, columns, strict=True)]


def test_a_flat_map_gives_points_apart():
    pattern = gaussian_sampling(torch.ones(40, 40), 64, sigma=5.0, grid_share=0.0).nonzero().double()
    apart = torch.cdist(pattern, pattern) + 99 * torch.eye(64)
    assert apart.min() > 0.5 * 5  # half the mean spacing of 64 in 40 x 40


def test_the_grid_and_the_frame():
    q = torch.rand(30, 30, generator=seeded())
    pattern = gaussian_sampling(q, 80, grid_share=0.2, margin=4, generator=seeded(3))
    grid = grid_pattern(30, 30, 16, generator=seeded(3))
    assert (pattern & grid).sum() == 16
    rest = pattern & ~grid
    assert rest.sum() == 64
    assert rest[4:26, 4:26].sum() == 64


def test_where_the_map_runs_out():
    q = torch.zeros(20, 20)
    q[5:7, 5:8] = 1
    pattern = gaussian_sampling(q, 50, sigma=1.0, grid_share=0.1, generator=seeded())
    assert pattern.sum() == 50
    assert pattern[5:7, 5:8].all()
    quarters = [pattern[:10, :10], pattern[:10, 10:], pattern[10:, :10], pattern[10:, 10:]]
    assert min(int(each.sum()) for each in quarters) >= 5  # a grid fills up
    assert gaussian_sampling(torch.zeros(5, 5), 25).all()


def test_the_default_sigma_and_what_is_given_is_left():
    q = torch.rand(30, 30, generator=seeded())
    kept = q.clone()
    default = gaussian_sampling(q, 36, grid_share=0.0)
    assert torch.equal(q, kept)
    assert torch.equal(default, gaussian_sampling(q, 36, sigma=1.5, grid_share=0.0))
    left = q.double().clone()
    assert torch.equal(_greedy(left, torch.zeros(30, 30, dtype=torch.bool), 36, 1.5), default)


def test_the_network_learns_a_power_and_gives_it_back():
    torch.manual_seed(0)
    rgb = torch.rand(3, 16, 16, generator=seeded())
    net = ImportanceNet(width=4, levels=2, power=0.5)
    net.fit([(rgb, torch.full((16, 16), 9.0))], steps=1)
    assert net.scale.item() == pytest.approx(3.0)
    with torch.no_grad():
        expected = (3 * net.net(rgb[None])[0, 0]).clamp_min(0).square()
    torch.testing.assert_close(net.predict(rgb), expected)
    losses = net.fit([(rgb, torch.full((16, 16), 9.0))], steps=60, lr=1e-2, generator=seeded())
    assert losses[-1] < 0.1 * losses[0]
    assert net.predict(rgb).min() >= 0


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda q: importance_map(q, nearest, 3, draws=0), "draws"),
        (lambda q: importance_map(q, nearest, 3, error="l1"), "error"),
        (lambda q: importance_map(-q, nearest, 3), "positive"),
        (lambda q: importance_map(q, nearest, 26), "budget"),
        (lambda q: importance_map(q, nearest, 3, valid=torch.ones(4, 5)), "valid"),
        (lambda q: gaussian_sampling(-q, 3), "q must"),
        (lambda q: gaussian_sampling(q / 0, 3), "q must"),
        (lambda q: gaussian_sampling(q, 0), "budget"),
        (lambda q: gaussian_sampling(q, 3, sigma=-1.0), "sigma"),
        (lambda q: gaussian_sampling(q, 3, grid_share=1.5), "grid_share"),
        (lambda q: gaussian_sampling(q, 3, margin=-1), "margin"),
        (lambda q: ImportanceNet(power=0.0), "power"),
        (lambda q: ImportanceNet().fit([]), "pairs"),
        (lambda q: ImportanceNet().fit([(torch.rand(3, 8, 8), -torch.ones(8, 8))]), "pairs"),
    ],
)
def test_what_is_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make(torch.rand(5, 5, generator=seeded()) + 0.1)
