"""Laws: exact ones are found again, lines against polyfit, powers against a finer search, nested sets, refusals."""

import numpy as np
import pytest
import torch
from torch import nn

from assay.probes import data_scaling, extrapolate, fit_scaling

SIZES = [100, 300, 1_000, 3_000, 10_000, 30_000]


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("log", (0.2, 0.13)),
        ("linear", (0.3, 2e-5)),
        ("power", (0.9, 3.0, 0.37)),
        ("power", (0.9, 0.4, 0.05)),
        ("power", (0.5, 800.0, 1.6)),
        ("constant", (0.4,)),
    ],
)
def test_exact_laws_are_recovered(kind, parameters):
    n = np.array(SIZES, dtype=float)
    scores = {
        "log": lambda a, b: a + b * np.log10(n),
        "linear": lambda a, b: a + b * n,
        "power": lambda c, k, g: c - k * n**-g,
        "constant": lambda a: a + 0 * n,
    }[kind](*parameters)
    law = fit_scaling(SIZES, scores.tolist(), kind)
    assert law.parameters == pytest.approx(parameters, rel=1e-6)
    np.testing.assert_allclose(law.predict(n), scores, rtol=1e-8)
    assert law.r2 == pytest.approx(0 if kind == "constant" else 1)
    assert extrapolate(SIZES, scores.tolist(), kind) < 1e-8


def noisy():
    n = np.array(SIZES, dtype=float)
    return 0.8 - 2 * n**-0.3 + 0.01 * np.random.default_rng(0).normal(size=6)


def test_lines_are_those_of_polyfit():
    s = noisy()
    for kind, column in (("log", np.log10(SIZES)), ("linear", np.array(SIZES, dtype=float))):
        slope, intercept = np.polyfit(column, s, 1)
        law = fit_scaling(SIZES, s.tolist(), kind)
        assert law.parameters == pytest.approx((intercept, slope), rel=1e-9)
        left = s - intercept - slope * column
        assert law.r2 == pytest.approx(1 - (left @ left) / ((s - s.mean()) @ (s - s.mean())), rel=1e-9)
        slope, intercept = np.polyfit(column[:-2], s[:-2], 1)
        expected = np.abs(intercept + slope * column[-2:] - s[-2:]).mean()
        assert extrapolate(SIZES, s.tolist(), kind, holdout=2) == pytest.approx(expected, rel=1e-9)


def test_no_power_is_nearer():
    s, n = noisy(), np.array(SIZES, dtype=float)
    law = fit_scaling(SIZES, s.tolist(), "power")
    own = ((law.predict(n) - s) ** 2).sum()
    for g in np.geomspace(0.002, 2, 3_000):
        matrix = np.stack([np.ones(6), n**-g], axis=1)
        left = s - matrix @ np.linalg.lstsq(matrix, s, rcond=None)[0]
        assert own <= left @ left + 1e-12


def test_sets_are_nested_and_draws_shared():
    seen = []

    def pretrain(n, generator):
        seen.append((torch.randperm(50, generator=generator)[:n].tolist(), torch.rand(1, generator=generator).item()))
        return nn.Linear(1, 1)

    scaling = data_scaling(pretrain, lambda net: 1.0, [1, 5, 20, 50], generator=torch.Generator().manual_seed(3))
    assert scaling.sizes == (1, 5, 20, 50)
    whole = seen[-1][0]
    assert all(rows == whole[: len(rows)] for rows, _ in seen)
    assert len({draw for _, draw in seen}) == 1


def test_what_is_refused():
    generator = torch.Generator()
    for sizes in ([1, 2, 3], [1, 2, 2, 3], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match="sizes must be 4 or more"):
            data_scaling(lambda n, g: nn.Linear(1, 1), lambda net: 0.0, sizes, generator=generator)
    with pytest.raises(ValueError, match="finite scores: got nan at 1 examples"):
        data_scaling(lambda n, g: nn.Linear(1, 1), lambda net: float("nan"), [1, 2, 3, 4], generator=generator)
    with pytest.raises(ValueError, match="kind must be one of"):
        fit_scaling([1, 2], [1.0, 2.0], "cubic")
    with pytest.raises(ValueError, match="sizes must be 3 or more"):
        fit_scaling([1, 2], [1.0, 2.0], "power")
    with pytest.raises(ValueError, match="scores must be finite and as many as sizes, 2"):
        fit_scaling([1, 2], [1.0])
    with pytest.raises(ValueError, match="scores must be finite"):
        fit_scaling([1, 2], [1.0, float("inf")])
    with pytest.raises(ValueError, match="holdout must be at least 1: got 0"):
        extrapolate([1, 2, 3], [1.0, 2.0, 3.0], holdout=0)
