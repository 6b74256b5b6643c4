"""Plans: seeds against textbook numbers, power against simulation, time by hand."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from assay.lab.planning import plan, power_of_t, seeds_needed


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_for_cohens_effects(effect, seeds):
    """Matched pairs, two-sided 5 %, power 0.8: the numbers of G*Power 3.1 and of Cohen's tables."""
    assert seeds_needed(effect, 1.0) == seeds
    assert seeds_needed(-3.0 * effect, 3.0) == seeds


@pytest.mark.parametrize(("effect", "power", "seeds"), [(0.5, 0.9, 44), (0.5, 0.95, 54)])
def test_seeds_for_more_power(effect, power, seeds):
    assert seeds_needed(effect, 1.0, power=power) == seeds


@pytest.mark.parametrize(("effect", "seeds"), [(1.5, 4), (1.0, 7), (0.5, 30)])
def test_power_by_simulation(effect, seeds):
    draws = 20_000
    samples = np.random.default_rng(seeds).normal(effect, 1.0, (draws, seeds))
    low = scipy.stats.ttest_1samp(samples, 0.0, axis=1).confidence_interval(0.95).low
    power = power_of_t(effect, 1.0, seeds)
    assert np.mean(low > 0.0) == pytest.approx(power, abs=4.0 * math.sqrt(power * (1.0 - power) / draws))


@given(effect=st.floats(0.15, 4.0), power=st.floats(0.3, 0.97))
def test_the_seeds_are_the_fewest(effect, power):
    seeds = seeds_needed(effect, 1.0, power)
    assert power_of_t(effect, 1.0, seeds) >= power
    assert seeds == 2 or power_of_t(effect, 1.0, seeds - 1) < power


def test_power_corners():
    assert power_of_t(1.0, 0.0, 2) == 1.0
    assert power_of_t(1.0, 1e-12, 5) == pytest.approx(1.0)
    assert power_of_t(1.0, 1.0, 1) == 0.0
    assert power_of_t(0.0, 1.0, 10) == pytest.approx(0.025)
    assert power_of_t(1e-9, 1.0, 10) == pytest.approx(0.025, abs=1e-6)
    assert seeds_needed(0.01, 1.0) is None
    assert seeds_needed(0.0, 0.0) is None
    assert seeds_needed(0.5, 1.0, max_seeds=33) is None
    assert seeds_needed(0.5, 1.0, max_seeds=34) == 34


PILOT = [0.9, 1.4, 0.1, 1.2, 0.4]  # mean 0.8, s = sqrt(1.18 / 4) = 0.54314: an effect of 1.473


def test_plan_of_one_part():
    found = plan({"a > b": PILOT}, seconds_per_trial=90, arms=3, slots=4)
    assert (found.expected, found.seeds, found.pilot_seeds) == ("holds", 6, 5)
    assert found.seeds == seeds_needed(np.mean(PILOT), np.std(PILOT, ddof=1))
    assert found.minutes == pytest.approx(math.ceil(18 / 4) * 1.5)
    assert found.minutes_more == pytest.approx(1.5)
    assert found.seeds_by_part == {"a > b": 6}
    assert found.text.startswith("6 seeds, 8 min on this machine: then 'holds' is seen in 80 %")
    assert plan({"a > b": PILOT}, 90.0, 1, 4).minutes == pytest.approx(3.0)


def test_plan_of_a_looser_level_needs_fewer_seeds():
    strict = plan({"a > b": PILOT}, 1.0, 2, 2, level=0.9799).seeds
    assert (
        strict
        > plan({"a > b": PILOT}, 1.0, 2, 2, level=0.95).seeds
        > plan({"a > b": PILOT}, 1.0, 2, 2, level=0.5).seeds
    )


def test_parts_have_to_be_seen_together():
    """Two parts of the same effect each need power 0.9 for 0.8 together; a clear second part costs nothing."""
    twice = plan({"one": PILOT, "two": PILOT}, 1.0, 2, 2)
    assert twice.seeds == seeds_needed(np.mean(PILOT), np.std(PILOT, ddof=1), power=0.9) == 8
    assert twice.seeds_by_part == {"one": 6, "two": 6}
    clear = plan({"one": PILOT, "two": [9.0, 9.1, 9.0, 8.9, 9.0]}, 1.0, 2, 2)
    assert clear.seeds == 6


def test_a_claim_expected_to_fail():
    """One part in the wrong is enough, and the clearest one decides."""
    bad = [-margin for margin in PILOT]
    faint = [margin / 1.0 + 0.7 for margin in bad]
    found = plan({"good": [5.0, 5.1, 4.9, 5.0, 5.0], "bad": bad, "faint": faint}, 1.0, 2, 2)
    assert (found.expected, found.seeds) == ("fails", 6)
    assert "'fails' is seen" in found.text


def test_deterministic_and_hopeless_pilots():
    assert plan({"same": [0.5, 0.5, 0.5]}, 1.0, 2, 2).seeds == 2
    assert plan({"same": [0.5, 0.5, 0.5]}, 1.0, 2, 2).minutes_more == 0.0
    hopeless = plan({"tie": [1.0, -1.0, 0.5, -0.5]}, 1.0, 2, 2, max_seeds=200)
    assert (hopeless.seeds, hopeless.minutes, hopeless.minutes_more) == (None, None, None)
    assert hopeless.text.startswith("more than 200 seeds: ")


@pytest.mark.parametrize(("minutes", "words"), [(0.5, "30 s"), (30.0, "30 min"), (150.0, "2.5 h")])
def test_durations_in_words(minutes, words):
    assert f", {words} on this machine" in plan({"a": PILOT}, minutes * 10.0, 1, 1).text


def test_refused():
    good = {"margins_by_part": {"a": PILOT}, "seconds_per_trial": 1.0, "arms": 2, "slots": 2}
    for change, message in (
        ({"margins_by_part": {}}, "margins_by_part must hold parts"),
        ({"margins_by_part": {"a": [1.0]}}, "margins_by_part must hold parts"),
        ({"margins_by_part": {"a": PILOT, "b": PILOT[1:]}}, "margins_by_part must hold parts"),
        ({"margins_by_part": {"a": [1.0, math.nan]}}, "margins must be finite"),
        ({"seconds_per_trial": -1.0}, "seconds_per_trial must be at least 0, got -1.0"),
        ({"seconds_per_trial": math.nan}, "seconds_per_trial must be at least 0"),
        ({"arms": 0}, "arms must be at least 1, got 0"),
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"power": 1.0}, "power must be between 0 and 1, got 1.0"),
        ({"level": 95.0}, "level must be between 0 and 1, got 95.0"),
        ({"max_seeds": 1}, "max_seeds must be at least 2, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            plan(**{**good, **change})
    with pytest.raises(ValueError, match="deviation at least 0"):
        power_of_t(1.0, -1.0, 5)
