"""Calibration: null claims through the code that judges real ones, against the rates that were promised.

Tolerances are four Monte-Carlo standard errors of a share. Types are checked once, in the small tests, and not in the
simulations: they judge thousands of claims, and the checks take ten times as long as the judging.
"""

import math

import jaxtyping
import numpy as np
import pytest

from assay.lab import calibration as module
from assay.lab.calibration import calibrate, table


@pytest.fixture
def unchecked():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


simulation = pytest.mark.usefixtures("unchecked")


def tolerance(share, claims):
    return 4.0 * math.sqrt(share * (1.0 - share) / claims)


def rng(seed):
    return np.random.default_rng(seed)


@simulation
@pytest.mark.parametrize(
    "settings",
    [
        {"seeds": 3},
        {"seeds": 5},
        {"seeds": 5, "criterion": "ratio"},
        {"seeds": 5, "criterion": "at_least"},
        {"seeds": 4, "level": 0.8},
        {"seeds": 5, "collapse_rate": 0.05},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_false_verdicts_are_what_was_promised(settings):
    """Gaussian noise, fewer than 8 seeds: Student's t is exact, and errs on either side alike."""
    claims = 2000
    found = calibrate(claims=claims, generator=rng(1), **settings)
    promised = 1.0 - settings.get("level", 0.95)
    assert found.false_verdicts == pytest.approx(promised, abs=tolerance(promised, claims))
    assert found.false_holds == pytest.approx(promised / 2, abs=tolerance(promised / 2, claims))
    assert found.false_fails == pytest.approx(promised / 2, abs=tolerance(promised / 2, claims))
    assert found.false_holds + found.false_fails + found.undecided == pytest.approx(1.0)


@simulation
@pytest.mark.parametrize("seeds", [8, 10, 20])
def test_with_the_bootstrap_agreeing_it_errs_less_often(seeds):
    claims = 1500
    wrong = calibrate(claims=claims, seeds=seeds, generator=rng(2)).false_verdicts
    assert 0.02 < wrong < 0.05 + tolerance(0.05, claims)


@simulation
def test_three_looks_stay_at_5_percent():
    claims = 1000
    looks = calibrate(claims=claims, looks=(5, 10, 20), generator=rng(3))
    assert 0.02 < looks.false_verdicts < 0.05 + tolerance(0.05, claims)
    assert (looks.looks, looks.seeds) == ((5, 10, 20), 20)
    # the same looks without the nominal level err about twice as often (12 % by Student's t alone)
    assert looks.false_verdicts < looked_without_correction(claims, rng(3)) - tolerance(0.05, claims)


def looked_without_correction(claims, generator):
    criterion = module._CRITERIA["higher"]
    decided = 0
    for _ in range(claims):
        trials = module._trials(20, 0.0, "gaussian", generator)
        decided += module._judged(criterion, trials, (5, 10, 20), None, 0.95) != "undecided"
    return decided / claims


@simulation
def test_claims_of_two_parts_rarely_hold_and_fail_by_either():
    """Independent measures: both hold by chance in 0.025**2, either fails in 1 - 0.975**2."""
    claims = 2000
    found = calibrate(claims=claims, seeds=5, criterion="all_of", generator=rng(4))
    assert found.false_holds <= 0.025**2 + tolerance(0.025**2, claims)
    either = 1.0 - 0.975**2
    assert found.false_fails == pytest.approx(either, abs=tolerance(either, claims))


@simulation
@pytest.mark.parametrize("noise", ["lognormal", "t3"])
def test_heavy_tails_on_both_arms_only_make_it_careful(noise):
    claims = 1500
    assert calibrate(claims=claims, noise=noise, generator=rng(5)).false_verdicts < 0.05 + tolerance(0.05, claims)


@simulation
def test_skewed_margins_of_one_arm_are_where_it_is_weak():
    """The known limit of a t interval, which the table is there to show: it errs on the side of the long tail."""
    found = calibrate(claims=1000, criterion="at_least", noise="lognormal", generator=rng(6))
    assert found.false_fails > 0.10
    assert found.false_holds < 0.02


@pytest.mark.parametrize("noise", ["gaussian", "lognormal", "t3", "uniform"])
def test_the_noise_has_mean_0(noise):
    draws = module._DRAWS[noise](rng(7), (200_000,))
    assert abs(draws.mean()) < 4.0 * draws.std() / math.sqrt(len(draws))


@simulation
def test_a_claim_with_something_in_it_is_found(monkeypatch):
    """The same code, with an effect of three standard deviations planted, decides nearly always and for the claim."""
    monkeypatch.setitem(
        module._CRITERIA, "higher", module.higher("score", "one", than="other", by=-3.0 * math.sqrt(2.0))
    )
    found = calibrate(claims=200, seeds=5)
    assert found.false_holds > 0.98
    assert found.false_fails == 0.0


def test_collapses_reach_the_judge():
    trials = module._trials(200, 0.25, "gaussian", rng(8))
    statuses = [outcome.status for arms in trials.values() for outcome in arms.values()]
    assert statuses.count("diverged") / 400 == pytest.approx(0.25, abs=tolerance(0.25, 400))


def test_reproducible_and_described():
    found = calibrate(claims=100, seeds=4, noise="uniform", generator=rng(9))
    assert found == calibrate(claims=100, seeds=4, noise="uniform", generator=rng(9))
    assert (found.claims, found.seeds, found.looks, found.noise, found.criterion) == (100, 4, None, "uniform", "higher")
    wrong = found.false_verdicts
    assert found.standard_error == pytest.approx(math.sqrt(wrong * (1 - wrong) / 100))


def test_table():
    rows = table((3, 5), criteria=("higher", "ratio"), noises=("gaussian", "t3"), claims=15, generator=rng(10))
    assert [(row.criterion, row.noise, row.seeds) for row in rows] == [
        (criterion, noise, n) for criterion in ("higher", "ratio") for noise in ("gaussian", "t3") for n in (3, 5)
    ]
    assert all(row.claims == 15 for row in rows)


def test_refused():
    with pytest.raises(ValueError, match="claims must be at least 1 and seeds at least 2"):
        calibrate(claims=0)
    with pytest.raises(ValueError, match="claims must be at least 1 and seeds at least 2"):
        calibrate(seeds=1)
    with pytest.raises(ValueError, match="collapse_rate must be from 0 to below 1"):
        calibrate(collapse_rate=1.0)
    with pytest.raises((ValueError, TypeError)):
        calibrate(noise="pink")
    with pytest.raises((ValueError, TypeError)):
        calibrate(criterion="lower")
