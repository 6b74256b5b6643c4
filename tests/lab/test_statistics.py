"""Intervals and error rates, against scipy.stats, naive transcriptions and simulation.

Simulations have fixed seeds, and tolerances of four standard errors of a share, `4 sqrt(p (1 - p) / draws)`. They run
without the type checks, which would take most of the time.
"""

import math

import jaxtyping
import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given
from hypothesis import strategies as st

from assay.lab.statistics import (
    POCOCK_LOOKS,
    POCOCK_P,
    benjamini_hochberg,
    bootstrap_t,
    collapse_bound,
    expected_false,
    looking_error,
    paired_t,
    pocock_level,
    rule_of_three,
)

OURS = np.array([0.8123, 0.8270, 0.7991, 0.8405, 0.8336, 0.8219, 0.8102])
THEIRS = np.array([0.8040, 0.8301, 0.7855, 0.8290, 0.8277, 0.8123, 0.8066])


@pytest.fixture
def unchecked():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


simulation = pytest.mark.usefixtures("unchecked")


def share_tolerance(share, draws):
    return 4.0 * math.sqrt(share * (1.0 - share) / draws)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 1.0 - POCOCK_P])
@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_paired_t_against_scipy(n, level):
    reference = scipy.stats.ttest_rel(OURS[:n], THEIRS[:n])
    expected = reference.confidence_interval(level)
    interval = paired_t(OURS[:n] - THEIRS[:n], level)
    assert interval.mean == pytest.approx(np.mean(OURS[:n] - THEIRS[:n]), rel=1e-12)
    assert interval.low == pytest.approx(expected.low, rel=1e-9)
    assert interval.high == pytest.approx(expected.high, rel=1e-9)
    assert interval.p_value == pytest.approx(reference.pvalue, rel=1e-9)


def test_pairing_matters():
    """These arms differ clearly seed by seed, and not at all when the seeds are forgotten."""
    assert paired_t(OURS - THEIRS).sign == 1
    assert scipy.stats.ttest_ind(OURS, THEIRS).pvalue > 0.3


def test_sign_and_p_agree():
    rng = np.random.default_rng(3)
    for _ in range(300):
        interval = paired_t(rng.normal(0.8, 1.0, 5))
        assert (interval.sign != 0) == (interval.p_value < 0.05)


def test_zero_variance():
    for value, p in ((0.1, 0.0), (-0.1, 0.0), (0.0, 1.0)):
        for interval in (paired_t([value] * 11), bootstrap_t([value] * 11)):
            assert (interval.mean, interval.low, interval.high) == (value, value, value)
            assert interval.sign == (value > 0) - (value < 0)
        assert paired_t([value] * 11).p_value == p


def test_one_margin_bounds_nothing():
    interval = paired_t([3.0])
    assert (interval.low, interval.high, interval.sign) == (-math.inf, math.inf, 0)
    assert math.isnan(interval.p_value)


def test_extreme_scales():
    for scale in (1e-300, 1e300):
        interval = paired_t([1.0 * scale, 2.0 * scale, 3.0 * scale])
        assert interval.low == pytest.approx((2.0 - 4.302652729911275 / math.sqrt(3.0)) * scale)


margins = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=12)


@given(margins=margins, shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_paired_t_moves_with_its_margins(margins, shift, scale):
    before = paired_t(margins)
    after = paired_t([scale * margin + shift for margin in margins])
    size = 1e-10 * (scale * (1e3 + abs(before.high - before.low)) + abs(shift))
    assert after.low == pytest.approx(scale * before.low + shift, abs=size)
    assert after.high == pytest.approx(scale * before.high + shift, abs=size)


@given(margins=margins, seed=st.integers(0, 100))
@example(margins=[0.0, -0.0], seed=3)
def test_order_and_sign_of_margins(margins, seed):
    """Bit by bit the same in any order, and the mirror image when all margins change sign."""
    shuffled = np.random.default_rng(seed).permutation(margins)
    for interval_of in (paired_t, bootstrap_t):
        interval, mirrored = interval_of(margins), interval_of([-margin for margin in margins])
        assert repr(interval_of(shuffled)) == repr(interval)
        # a resample may have a millionth of the variance: its t is known to 1e-16 / 1e-12
        assert mirrored.low == pytest.approx(-interval.high, rel=1e-4, abs=1e-9)
        assert mirrored.high == pytest.approx(-interval.low, rel=1e-4, abs=1e-9)


@simulation
@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_covers_95_percent(n):
    draws = 6000
    rng = np.random.default_rng(n)
    intervals = [paired_t(rng.normal(1.0, 2.0, n)) for _ in range(draws)]
    covered = np.mean([interval.low < 1.0 < interval.high for interval in intervals])
    assert covered == pytest.approx(0.95, abs=share_tolerance(0.95, draws))


@pytest.mark.parametrize(("n", "share"), [(3, 0.75), (5, 0.83), (10, 0.90)])
def test_percentile_bootstrap_covers_too_little(n, share):
    """Why it never decides: what it calls 95 % is 75, 83 and 90 %."""
    draws, resamples = 3000, 800
    rng = np.random.default_rng(10 + n)
    covered = 0
    for _ in range(draws):
        sample = rng.standard_normal(n)
        low, high = np.quantile(sample[rng.integers(n, size=(resamples, n))].mean(axis=1), [0.025, 0.975])
        covered += low < 0.0 < high
    assert covered / draws == pytest.approx(
        share, abs=share_tolerance(share, draws) + 0.005
    )  # LAB's are whole percents


SKEWED = np.array([0.05, 0.11, 0.12, 0.2, 0.24, 0.31, 0.37, 0.52, 0.64, 0.9, 1.6, 2.9])


def naive_bootstrap_t(sample, level, resamples, rng):
    """As Efron and Tibshirani write it, one row a resample."""
    n, mean, error = len(sample), sample.mean(), sample.std(ddof=1) / math.sqrt(len(sample))
    drawn = sample[rng.integers(n, size=(resamples, n))]
    t = (drawn.mean(axis=1) - mean) / (drawn.std(axis=1, ddof=1) / math.sqrt(n))
    low, high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2])
    return mean - high * error, mean - low * error


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bootstrap_t_against_the_naive_one(level):
    rng = np.random.default_rng(7)
    batches = np.array([naive_bootstrap_t(SKEWED, level, 1000, rng) for _ in range(30)])
    ours = bootstrap_t(SKEWED, level)
    # standard error of our quantiles from 5,000 independent resamples, and of the mean of the naive batches
    error = batches.std(axis=0, ddof=1) * math.sqrt(1000 / 5000 + 1 / 30)
    assert abs(ours.low - batches.mean(axis=0)[0]) < 4.0 * error[0]
    assert abs(ours.high - batches.mean(axis=0)[1]) < 4.0 * error[1]
    # and it is neither the percentile nor the t interval
    assert ours.high > 2.0 * paired_t(SKEWED, level).high - ours.mean


@simulation
def test_bootstrap_t_covers_skewed_margins_better_than_t():
    draws, n, mean = 1000, 20, math.exp(0.5)
    rng = np.random.default_rng(11)
    samples = [rng.lognormal(size=n) for _ in range(draws)]
    above = [np.mean([interval(s).high < mean for s in samples]) for interval in (paired_t, bootstrap_t)]
    assert above[0] > 0.10  # 2.5 % was promised
    assert above[0] - above[1] > share_tolerance(above[0], draws)


def test_bootstrap_t_is_deterministic_and_refuses_few_resamples():
    assert repr(bootstrap_t(SKEWED)) == repr(bootstrap_t(SKEWED))
    assert repr(bootstrap_t(SKEWED, seed=1)) != repr(bootstrap_t(SKEWED))
    with pytest.raises(ValueError, match="at least 4999, got 4998"):
        bootstrap_t(SKEWED, resamples=4998)
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_t([1.0])


def test_bootstrap_t_with_degenerate_resamples():
    """A third of the resamples lack the odd one out and have no spread: the bound on that side is infinite, not NaN."""
    interval = bootstrap_t([0.01] * 9 + [0.02])
    assert interval.high == math.inf
    assert 0.0 < interval.low < 0.011
    assert interval.sign == 1
    opposite = bootstrap_t([-0.01] * 9 + [5.0])
    assert opposite.sign == 0


def test_rule_of_three_and_clopper_pearson():
    assert rule_of_three(10) == pytest.approx(0.2589, abs=5e-5)
    assert rule_of_three(10) == pytest.approx(1.0 - 0.05 ** (1 / 10), rel=1e-12)
    assert rule_of_three(300) == pytest.approx(3 / 300, rel=0.01)
    assert rule_of_three(10, 0.99) == pytest.approx(1.0 - 0.01 ** (1 / 10), rel=1e-12)
    for collapses in range(11):
        reference = scipy.stats.binomtest(collapses, 10).proportion_ci(0.90, "exact").high
        assert collapse_bound(collapses, 10) == pytest.approx(reference, rel=1e-6)
    assert collapse_bound(10, 10) == 1.0
    for collapses, trials in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="collapses must be from 0 to trials"):
            collapse_bound(collapses, trials)


BH_1995 = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719]
BH_1995 += [0.6528, 0.7590, 1.0000]


def test_benjamini_hochberg_on_the_papers_example():
    """Section 3.2 of the paper: of 15 comparisons the first four are kept at q = 0.05; Bonferroni keeps three."""
    assert benjamini_hochberg(BH_1995) == [True] * 4 + [False] * 11
    order = np.random.default_rng(0).permutation(15)
    assert benjamini_hochberg([BH_1995[i] for i in order]) == [bool(i < 4) for i in order]


@given(st.lists(st.floats(0.0, 1.0), max_size=20), st.floats(0.01, 0.5))
def test_benjamini_hochberg_against_scipy(p_values, q):
    adjusted = scipy.stats.false_discovery_control(p_values) if p_values else np.array([])
    if not np.any(np.isclose(adjusted, q)):
        assert benjamini_hochberg(p_values, q) == list(adjusted <= q)


def test_benjamini_hochberg_corners():
    assert benjamini_hochberg([]) == []
    assert benjamini_hochberg([math.nan, 0.04, math.nan]) == [False, True, False]
    assert benjamini_hochberg([0.024, 0.049]) == [True, True]
    with pytest.raises(ValueError, match="p_values must be from 0 to 1"):
        benjamini_hochberg([0.5, 1.5])
    with pytest.raises(ValueError, match="q must be between 0 and 1"):
        benjamini_hochberg([0.5], 0.0)


def test_expected_false():
    assert expected_false(40) == pytest.approx(2.0)
    assert expected_false(40, 0.9) == pytest.approx(4.0)
    assert expected_false(0) == 0.0
    with pytest.raises(ValueError, match="verdicts must be at least 0"):
        expected_false(-1)


def naive_looking_error(looks, p, draws, seed):
    samples = np.random.default_rng(seed).standard_normal((draws, max(looks)))
    smallest = np.min([scipy.stats.ttest_1samp(samples[:, :n], 0.0, axis=1).pvalue for n in looks], axis=0)
    return float(np.mean(smallest < p))


@pytest.mark.parametrize(
    ("looks", "p", "share"),
    [
        (POCOCK_LOOKS, POCOCK_P, 0.05),
        (POCOCK_LOOKS, 0.05, 0.12),
        (range(3, 21), 0.05, 0.23),
        ((20,), 0.05, 0.05),
    ],
    ids=["Pocock", "uncorrected", "peeking", "one look"],
)
def test_looking_errors_by_simulation(looks, p, share):
    draws = 20_000
    tolerance = share_tolerance(share, draws)
    assert naive_looking_error(looks, p, draws, 1) == pytest.approx(share, abs=tolerance)
    assert looking_error(looks, p, draws, np.random.default_rng(2)) == pytest.approx(share, abs=tolerance)


def test_pocock_level():
    assert pocock_level() == POCOCK_P == 0.0201
    assert pocock_level([5, 10, 20]) == POCOCK_P
    assert pocock_level((7,), 0.1) == 0.1
    assert pocock_level((5, 10, 20), 0.1) > 2 * POCOCK_P
    for looks in ((4, 8), (3, 4, 5, 6, 7)):
        p = pocock_level(looks)
        assert 0.05 / len(looks) < p < 0.05  # between Bonferroni and no correction
        share = naive_looking_error(looks, p, 10_000, 5)
        assert share == pytest.approx(0.05, abs=share_tolerance(0.05, 10_000))
    for looks in ((), (1, 5), (5, 5), (10, 5)):
        with pytest.raises(ValueError, match="looks must be growing numbers of seeds from 2 on"):
            pocock_level(looks)


@pytest.mark.parametrize("interval_of", [paired_t, bootstrap_t])
def test_refused(interval_of):
    with pytest.raises(ValueError, match="margins must be finite"):
        interval_of([0.1, math.nan])
    with pytest.raises(ValueError, match="margins must not be empty"):
        interval_of([])
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            interval_of([0.1, 0.2], level)
