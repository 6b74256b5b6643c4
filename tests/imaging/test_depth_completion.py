"""Interpolation of samples against brute force and planes, errors by hand, what is refused."""

import pytest
import torch

from assay.imaging import complete_depth, depth_errors, random_pattern


def samples(seed=0, h=9, w=11, budget=12):
    generator = torch.Generator().manual_seed(seed)
    return random_pattern(h, w, budget, generator=generator), 1 + torch.rand(h, w, generator=generator).double()


def test_nearest_by_brute_force():
    mask, depth = samples()
    found = complete_depth(mask, depth, method="nearest")
    at = mask.nonzero()
    for y in range(9):
        for x in range(11):
            apart = (at - torch.tensor([y, x])).square().sum(1)
            ties = at[apart == apart.min()]
            assert found[y, x] in depth[ties[:, 0], ties[:, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_is_exact_on_planes_inside_the_hull(dtype):
    mask, _ = samples()
    y, x = torch.meshgrid(torch.arange(9), torch.arange(11), indexing="ij")
    plane = (3 + 0.5 * y - 0.2 * x).to(dtype)
    mask[[0, 0, 8, 8], [0, 10, 0, 10]] = True
    found = complete_depth(mask, torch.where(mask, plane, 77.0))
    assert found.dtype == dtype
    torch.testing.assert_close(found, plane)


def test_samples_are_kept_and_the_outside_is_the_nearest():
    mask, depth = samples()
    for method in ("nearest", "linear"):
        torch.testing.assert_close(complete_depth(mask, depth, method=method)[mask], depth[mask])
    few = torch.zeros(6, 6, dtype=torch.bool)
    few[[1, 1, 3], [1, 3, 1]] = True
    nearest, linear = (complete_depth(few, depth[:6, :6], method=method) for method in ("nearest", "linear"))
    outside = torch.ones(6, 6, dtype=torch.bool)
    outside[[1, 1, 1, 2, 2, 3], [1, 2, 3, 1, 2, 1]] = False
    assert torch.equal(nearest[outside], linear[outside])
    assert linear[2, 2].item() == pytest.approx(((depth[1, 3] + depth[3, 1]) / 2).item())  # the middle of a side
    assert linear[2, 2] != nearest[2, 2]


def test_samples_on_a_line():
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, [0, 2, 4]] = True
    depth = torch.rand(4, 5).double() + 1
    assert torch.equal(complete_depth(mask, depth), complete_depth(mask, depth, method="nearest"))


def test_errors_by_hand():
    predicted, truth = torch.tensor([[2.0, 6.0, 33.0, 5.0]]).double(), torch.tensor([[4.0, 5.0, 20.0, -1.0]]).double()
    found = depth_errors(predicted, truth, valid=torch.tensor([[True, True, True, False]]))
    assert found["rmse"] == pytest.approx(((4 + 1 + 169) / 3) ** 0.5)
    assert found["mae"] == pytest.approx(16 / 3)
    assert found["rel"] == pytest.approx((0.5 + 0.2 + 0.65) / 3)
    assert found["tukey"] == pytest.approx((1 - 0.96**3 + 1 - 0.99**3 + 1) / 3)
    assert found["psnr"] == pytest.approx(10 * torch.tensor(1e4 * 3 / 174).log10().item(), rel=1e-6)


def test_what_is_refused():
    mask, depth = samples()
    for call, name in (
        (lambda: complete_depth(mask[1:], depth), "mask"),
        (lambda: complete_depth(mask & False, depth), "sample"),
        (lambda: complete_depth(mask, depth, method="cubic"), "method"),
        (lambda: depth_errors(depth, -depth), "positive"),
        (lambda: depth_errors(depth, depth, valid=mask & False), "valid"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
