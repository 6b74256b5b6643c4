"""The search in a box, on objectives whose worst point is known."""

import math

import pytest
import torch

from assay.losses import worst_case


def test_a_linear_objective_is_worst_in_a_corner():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, 4, generator=generator)
    x = torch.rand(2, 3, 4, generator=generator)
    for start in (False, True):
        found = worst_case(lambda x: (w * x).sum((1, 2)), x, eps=0.3, steps=10, random_start=start, generator=generator)
        torch.testing.assert_close(found, (x + 0.3 * w.sign()).clamp(0, 1))
    free = worst_case(lambda x: (w * x).sum((1, 2)), x, eps=0.3, bounds=None)
    torch.testing.assert_close(free, x + 0.3 * w.sign())


def test_steps_are_signs_and_stay_in_the_box():
    x = torch.tensor([[0.5, 0.5]])
    objective = lambda x: 10 * x[:, 0] - 0.1 * x[:, 1]  # noqa: E731
    found = worst_case(objective, x, eps=0.2, steps=2, step_size=0.05, random_start=False)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.4]]))
    assert not found.requires_grad


def test_a_start_at_random_leaves_a_place_without_a_slope():
    x = torch.full((1, 2), 0.5)
    objective = lambda y: (y - x).square().sum(1)  # noqa: E731
    assert torch.equal(worst_case(objective, x, eps=0.1, random_start=False), x)
    found = worst_case(objective, x, eps=0.1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((found - x).abs(), torch.full((1, 2), 0.1))
    again = worst_case(objective, x, eps=0.1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, again)


def test_no_radius_or_no_steps():
    x = torch.rand(2, 3)
    assert torch.equal(worst_case(lambda x: x.sum(1), x, eps=0.0), x)
    started = worst_case(lambda x: x.sum(1), x, eps=0.1, steps=0)
    assert 0 < (started - x).abs().max() <= 0.1 + 1e-6


def test_what_is_refused():
    x = torch.rand(2, 3)
    for name, value in (("eps", -0.1), ("eps", math.nan), ("steps", -1), ("step_size", 0.0)):
        with pytest.raises(ValueError, match=name):
            worst_case(lambda x: x.sum(1), x, **{"eps": 0.1, name: value})
    with pytest.raises(ValueError, match="bounds must be a range"):
        worst_case(lambda x: x.sum(1), x, eps=0.1, bounds=(1.0, 1.0))
    with pytest.raises(ValueError, match="x must lie within bounds"):
        worst_case(lambda x: x.sum(1), x + 1, eps=0.1)
    with pytest.raises(ValueError, match=r"objective must give \(2,\): got \(\)"):
        worst_case(lambda x: x.sum(), x, eps=0.1)
