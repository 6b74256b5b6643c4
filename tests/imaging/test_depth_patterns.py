"""Patterns of samples: exact counts, the lattice by loops, clusters that follow colours, what is refused."""

import pytest
import torch

from assay.imaging import grid_pattern, random_pattern, superpixel_pattern
from assay.imaging.depth_patterns import _lab


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("budget", [1, 2, 7, 40, 119, 120])
def test_every_pattern_has_exactly_its_budget(budget):
    rgb = torch.rand(3, 10, 12, generator=seeded())
    for mask in (
        random_pattern(10, 12, budget, generator=seeded()),
        grid_pattern(10, 12, budget, generator=seeded()),
        superpixel_pattern(rgb, budget, generator=seeded()),
    ):
        assert mask.shape == (10, 12)
        assert mask.dtype == torch.bool
        assert mask.sum() == budget


def test_random_patterns_are_uniform_over_what_is_allowed():
    allowed = torch.ones(3, 4, dtype=torch.bool)
    allowed[1] = False
    generator = seeded()
    share = sum(random_pattern(3, 4, 2, valid=allowed, generator=generator).double() for _ in range(4000)) / 4000
    assert (share[1] == 0).all()
    # Each of 8 pixels in a quarter of the masks; four standard errors.
    assert (share[[0, 2]] - 0.25).abs().max() < 4 * (0.25 * 0.75 / 4000) ** 0.5


@pytest.mark.parametrize(("h", "w", "budget"), [(76, 128, 97), (20, 31, 25), (9, 9, 9)])
def test_the_lattice_by_loops(h, w, budget):
    """As in the authors' code: pitch, counts, first point, rounding to even."""
    d = (h * w / budget) ** 0.5
    rows, cols = int(h / d + 0.5), int(w / d + 0.5)
    expected = torch.zeros(h, w, dtype=torch.bool)
    for i in range(rows):
        for j in range(cols):
            expected[round((h - d * (rows - 1)) / 2 + d * i), round((w - d * (cols - 1)) / 2 + d * j)] = True
    assert torch.equal(grid_pattern(h, w, budget, exact=False), expected)
    both = grid_pattern(h, w, budget, generator=seeded()) & expected
    assert both.sum() == min(budget, int(expected.sum()))  # the least is added or dropped


def test_lab_of_primary_colours():
    """Literal values of CIE Lab under D65, as every table has them."""
    colors = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1, 1], [0, 0, 0]]).T[:, :, None]
    expected = torch.tensor(
        [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [100.0, 0, 0], [0, 0, 0]]
    )
    torch.testing.assert_close(_lab(colors)[:, :, 0].T.float(), expected, rtol=0, atol=0.02)


def test_superpixels_by_loops():
    """Every pixel in turn chooses among the centers round its cell of the lattice, ten times; then middle pixels."""
    h, w, rows, cols = 12, 16, 3, 4
    rgb = torch.rand(3, 3, 4, generator=seeded(4)).repeat_interleave(5, 1)[:, 1:13].repeat_interleave(5, 2)[:, :, 3:19]
    pitch = (h * w / (rows * cols)) ** 0.5
    lab = _lab(rgb)
    cells = {(y, x): (y * rows // h, x * cols // w) for y in range(h) for x in range(w)}
    label = dict(cells)
    for _ in range(10):
        centers = {}
        for cell in set(label.values()):
            own = [place for place, each in label.items() if each == cell]
            color = sum(lab[:, y, x] for y, x in own) / len(own)
            centers[cell] = (color, sum(y for y, _ in own) / len(own), sum(x for _, x in own) / len(own))
        for (y, x), (r, c) in cells.items():
            near = [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (r + i, c + j) in centers]

            def apart(cell, y=y, x=x, centers=centers):
                color, v, u = centers[cell]
                return float((lab[:, y, x] - color).square().sum()) + (20 / pitch) ** 2 * ((y - v) ** 2 + (x - u) ** 2)

            label[y, x] = min(near, key=apart)
    expected = torch.zeros(h, w, dtype=torch.bool)
    for cell in set(label.values()):
        own = [place for place, each in label.items() if each == cell]
        v, u = sum(y for y, _ in own) / len(own), sum(x for _, x in own) / len(own)
        expected[min(own, key=lambda place: (place[0] - v) ** 2 + (place[1] - u) ** 2)] = True
    assert len(set(label.values())) == 12
    found = superpixel_pattern(rgb, 12)
    assert torch.equal(found, expected)
    assert not torch.equal(found, grid_pattern(h, w, 12))
    assert any(label[place] != cells[place] for place in cells)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: random_pattern(3, 4, 0), "budget"),
        (lambda: random_pattern(3, 4, 13), "budget"),
        (lambda: random_pattern(3, 4, 2, valid=torch.zeros(3, 4)), "budget"),
        (lambda: random_pattern(3, 4, 2, valid=torch.ones(4, 3)), "valid"),
        (lambda: grid_pattern(3, 4, 13), "budget"),
        (lambda: superpixel_pattern(torch.rand(3, 4, 4), 0), "budget"),
        (lambda: superpixel_pattern(torch.rand(2, 4, 4), 3), "three"),
    ],
)
def test_what_is_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make()
