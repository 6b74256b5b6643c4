"""Verdicts: each rule of judging on trials worked out by hand, and what no data may do."""

import math
import re

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.lab.criterion import all_of, at_least, at_most, close, higher, identical, lower, monotone, ratio
from assay.lab.record import Registration
from assay.lab.statistics import POCOCK_P, bootstrap_t, paired_t
from assay.lab.verdict import ArmOutcome, difference, judge, p_value, summary, weakest

ARMS = ("a", "b")
BETTER = higher("m", "a", than="b")


def trials(a, b, measure="m"):
    """Seeds 0, 1, ...: what arm a and arm b measured; a status in place of a number is a trial without measures."""

    def outcome(value):
        return ArmOutcome(value, {}) if isinstance(value, str) else ArmOutcome("ok", {measure: value})

    return {seed: {"a": outcome(x), "b": outcome(y)} for seed, (x, y) in enumerate(zip(a, b, strict=True))}


def judged(criterion, outcomes, *, n=None, arms=ARMS, size="laptop", **options):
    seeds = range(len(outcomes) if n is None else n)
    return judge(criterion, outcomes, arms=arms, seeds=seeds, size=size, **options)


OURS = [0.91, 0.93, 0.90, 0.95, 0.92]
THEIRS = [0.88, 0.91, 0.89, 0.90, 0.90]


def test_holds_with_the_paired_interval():
    verdict = judged(BETTER, trials(OURS, THEIRS))
    (part,) = verdict.parts
    expected = scipy.stats.ttest_rel(OURS, THEIRS)
    interval = expected.confidence_interval(0.95)
    assert (verdict.outcome, part.outcome) == ("holds", "holds")
    assert (part.low, part.high) == pytest.approx((interval.low, interval.high))
    assert part.p_value == pytest.approx(expected.pvalue)
    assert list(part.margins) == [0, 1, 2, 3, 4]
    assert part.margins[3] == pytest.approx(0.05)
    assert (verdict.seeds, verdict.level, verdict.tags, verdict.missing) == ((0, 1, 2, 3, 4), 0.95, (), {})
    assert verdict.reason == "the interval lies above 0"
    assert p_value(verdict) == part.p_value


def test_fails_and_undecided():
    assert judged(BETTER, trials(THEIRS, OURS)).outcome == "fails"
    assert judged(BETTER, trials(THEIRS, OURS)).reason == "the interval lies below 0"
    undecided = judged(BETTER, trials([1.0, 2.0, 3.0, 4.0, 5.0], [1.5, 1.0, 3.5, 3.0, 5.1]))
    assert undecided.outcome == "undecided"
    assert undecided.reason == "the interval contains 0"


@pytest.mark.parametrize("t", [2.70, 2.85])
def test_the_threshold_is_the_two_sided_one(t):
    """t(4) at two-sided 95 % is 2.776; one-sided it would be 2.132, with 5 degrees of freedom 2.571."""
    spread = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    error = spread.std(ddof=1) / math.sqrt(5)
    verdict = judged(BETTER, trials(spread + t * error, np.zeros(5)))
    assert verdict.outcome == ("holds" if t > 2.7764 else "undecided")


def test_missing_and_crashed_trials_leave_it_undecided():
    outcomes = trials([*OURS, "timeout", 0.9], [*THEIRS, 0.8, "timeout"])
    del outcomes[1]["b"]
    verdict = judged(BETTER, outcomes, n=9)
    assert verdict.outcome == "undecided"
    assert verdict.missing == {"not run": 5, "timeout": 2}
    assert verdict.reason == "7 of 18 trials missing: 5 not run, 2 timeout"
    assert verdict.seeds == (0, 2, 3, 4)
    assert list(verdict.parts[0].margins) == [0, 2, 3, 4]
    assert verdict.parts[0].outcome == "undecided"
    assert math.isnan(p_value(verdict))
    only = judged(BETTER, trials([*OURS, "timeout"], [*THEIRS, 0.8]))
    assert only.reason == "1 of 12 trials missing: timeout"
    assert summary(only) == "undecided  1 of 12 trials missing: timeout"


def test_missing_trials_of_a_claim_run_together_count_once():
    outcomes = trials([*OURS, "crashed"], [*THEIRS, "crashed"])
    assert judged(BETTER, outcomes, n=8, together=True).reason == "3 of 8 trials missing: 1 crashed, 2 not run"


def test_a_missing_arm_that_the_criterion_does_not_read():
    assert judged(BETTER, trials(OURS, THEIRS), arms=("a", "b", "shown")).outcome == "undecided"


def test_no_trial_and_smoke_give_no_verdict():
    verdict = judged(BETTER, {}, n=5)
    assert (verdict.outcome, verdict.reason) == (None, "no trial has been run")
    assert judged(BETTER, {}).outcome is None
    assert judged(BETTER, {9: trials(OURS, THEIRS)[0]}, n=5).outcome is None
    smoke = judged(BETTER, trials(OURS, THEIRS), size="smoke")
    assert (smoke.outcome, smoke.reason) == (None, "the smoke size never gives a verdict")
    assert smoke.parts[0].outcome == "undecided"
    assert smoke.parts[0].mean == pytest.approx(0.026)
    assert smoke.tags == ()
    assert judged(BETTER, trials(["crashed"], [1.0]), size="smoke").outcome is None
    assert math.isnan(p_value(smoke))
    assert summary(smoke) == "no verdict  the smoke size never gives a verdict"


def test_all_crashed_is_undecided_not_empty():
    verdict = judged(BETTER, trials(["crashed"] * 3, ["error"] * 3))
    assert verdict.outcome == "undecided"
    assert verdict.reason == "6 of 6 trials missing: 3 crashed, 3 error"
    assert verdict.seeds == ()
    assert math.isnan(verdict.collapse_bound)


def test_other_seeds_and_arms_are_ignored():
    outcomes = trials(OURS, THEIRS)
    more = {**outcomes, 7: {"a": ArmOutcome("ok", {"m": -50.0}), "b": ArmOutcome("crashed", {})}}
    more[0] = {**more[0], "old": ArmOutcome("diverged", {"m": -1e9})}
    assert repr(judged(BETTER, more, n=5)) == repr(judged(BETTER, outcomes))


def test_thin_and_one_seed():
    assert judged(BETTER, trials(OURS[:4], THEIRS[:4])).tags == ("thin",)
    one = judged(BETTER, trials(OURS[:1], THEIRS[:1]))
    assert (one.outcome, one.reason) == ("undecided", "one seed decides nothing")
    assert summary(one) == "undecided  one seed decides nothing"
    assert math.isnan(p_value(one))


def test_deterministic_claims():
    def outcome(a, b, n=5):
        return judged(BETTER, trials([a] * n, [b] * n)).outcome

    assert [outcome(0.3, 0.1), outcome(0.1, 0.3), outcome(0.2, 0.2)] == ["holds", "fails", "undecided"]
    assert outcome(0.3, 0.1, n=12) == "holds"
    assert outcome(0.3, 0.1, n=2) == "holds"
    assert judged(at_least("m", 0.3, arm="a"), trials([0.1 + 0.2] * 5, [0.0] * 5)).outcome == "undecided"


def test_nan_is_never_a_verdict():
    for value in (math.nan, math.inf, -math.inf):
        for a, b in (([*OURS[:4], value], THEIRS), (OURS, [*THEIRS[:4], value])):
            verdict = judged(BETTER, trials(a, b))
            assert verdict.outcome == "undecided"
            assert verdict.reason.startswith("seed 4: the margin of m: a > b is ")
            assert math.isnan(verdict.parts[0].low)
    broken_part = all_of(at_most("m", 0.5, arm="a"), ratio("m", "a", to="b", at_least=0.1))
    assert judged(broken_part, trials(OURS, [*THEIRS[:4], 0.0])).outcome == "undecided"  # though the first part fails


def test_a_measure_that_did_not_come_back_is_named():
    verdict = judged(higher("psnr", "a", than="b"), trials(OURS, THEIRS))
    assert verdict.outcome == "undecided"
    assert verdict.reason == "seed 0: arm 'a' did not return 'psnr'; it returned: m"


def test_all_of_holds_when_each_does_and_fails_when_any_does():
    spread = [0.3, -0.2, 0.1, -0.1, 0.2]
    unsure = at_least("m", 0.92, arm="a")
    sure, wrong = at_least("m", 0.5, arm="a"), at_most("m", 0.5, arm="a")
    outcomes = trials(OURS, spread)
    assert judged(all_of(sure, at_most("m", 1.5, arm="a")), outcomes).outcome == "holds"
    assert judged(all_of(sure, unsure), outcomes).outcome == "undecided"
    assert judged(all_of(sure, wrong), outcomes).outcome == "fails"
    verdict = judged(all_of(unsure, sure, wrong), outcomes)
    assert verdict.outcome == "fails"
    assert verdict.reason == "the interval lies below 0 (m: a <= 0.5)"
    assert [part.outcome for part in verdict.parts] == ["undecided", "holds", "fails"]
    assert weakest(verdict) == verdict.parts[2]
    assert p_value(verdict) == pytest.approx(3 * verdict.parts[2].p_value)
    held = judged(all_of(sure, BETTER), trials(OURS, THEIRS))
    assert held.reason == "every interval lies above 0"
    assert weakest(held) == held.parts[1]
    assert p_value(held) == held.parts[1].p_value
    open_one = judged(all_of(sure, unsure), outcomes)
    assert open_one.reason == "the interval contains 0 (m: a >= 0.92)"
    assert weakest(open_one) == open_one.parts[1]


def test_close_needs_both_sides():
    near = trials([1.0, 1.1, 0.9, 1.05, 0.95], [1.02, 1.05, 0.93, 1.0, 1.0])
    assert judged(close("m", "a", to="b", within=0.2), near).outcome == "holds"
    assert judged(close("m", "a", to="b", within=0.001), near).outcome == "undecided"
    far = trials([3.0, 3.1, 2.9, 3.05, 2.95], [1.0, 1.05, 0.93, 1.0, 1.0])
    for criterion in (close("m", "a", to="b", within=0.2), close("m", "b", to="a", within=0.2)):
        assert judged(criterion, far).outcome == "fails"


def test_arrays():
    curves = [np.array([0.0, 1.0, 2.0 + seed]) for seed in range(5)]
    assert judged(monotone("m", arm="a"), trials(curves, curves)).outcome == "holds"
    assert judged(monotone("m", arm="a", increasing=False), trials(curves, curves)).outcome == "fails"
    assert judged(identical("m", "a", to="b"), trials(curves, curves)).outcome == "holds"
    assert judged(identical("m", "a", to="b"), trials(curves, curves[::-1])).outcome != "holds"
    assert judged(BETTER, trials(curves, curves)).outcome == "undecided"


def disagreeing(n):
    """Margins with a t interval below 0 and a bootstrap-t interval that contains it: skewed towards 0 and beyond."""
    rng = np.random.default_rng(0)
    while True:
        sample = rng.lognormal(size=n) - 2.2
        if paired_t(sample).sign == -1 and bootstrap_t(sample).sign == 0:
            return sample


def test_from_8_seeds_on_the_bootstrap_must_agree():
    sample = disagreeing(8)
    verdict = judged(at_least("m", 0.0, arm="a"), trials(sample, np.zeros(8)))
    assert verdict.outcome == "undecided"
    assert verdict.parts[0].high < 0.0
    assert verdict.reason.startswith("the bootstrap-t interval [")
    seven = disagreeing(7)
    assert judged(at_least("m", 0.0, arm="a"), trials(seven, np.zeros(7))).outcome == "fails"
    # it can only take a verdict away
    unsure = np.linspace(-1.0, 1.2, 8)
    assert judged(at_least("m", 0.0, arm="a"), trials(unsure, np.zeros(8))).outcome == "undecided"


def test_looks_ask_for_the_nominal_level():
    """t(4) at p = 0.05 is 2.776, at p = 0.0201 it is 3.743."""
    spread = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    error = spread.std(ddof=1) / math.sqrt(5)
    between, beyond = (trials(spread + t * error, np.zeros(5)) for t in (3.70, 3.78))
    assert judged(BETTER, between).outcome == "holds"
    assert judged(BETTER, between, looks=(5, 10, 20)).outcome == "undecided"
    assert judged(BETTER, beyond, looks=(5, 10, 20)).outcome == "holds"
    assert judged(BETTER, beyond, looks=(5, 10, 20)).level == pytest.approx(1.0 - POCOCK_P)
    assert " at 97.99 %, 5 seeds" in summary(judged(BETTER, beyond, looks=(5, 10, 20)))
    assert judged(BETTER, beyond, looks=(5,)).level == pytest.approx(0.95)
    six = judged(BETTER, trials([*spread, 0.0], [-1.0] * 6), looks=(5, 10, 20))
    assert six.level == pytest.approx(1.0 - POCOCK_P)


def test_a_diverged_arm_gets_the_worst_value_seen():
    a, b = [0.9, 0.8, "diverged", 0.7, 0.85], [0.5, 0.6, 0.55, "diverged", 0.4]
    verdict = judged(BETTER, trials(a, b))
    assert list(verdict.parts[0].margins.values()) == pytest.approx([0.4, 0.2, 0.4 - 0.55, 0.7 - 0.4, 0.45])
    assert verdict.collapses == {"a": 1, "b": 1}
    assert verdict.collapse_bound == pytest.approx(scipy.stats.binomtest(1, 5).proportion_ci(0.9, "exact").high)
    smaller = judged(lower("m", "a", than="b"), trials(a, b))
    assert list(smaller.parts[0].margins.values()) == pytest.approx([-0.4, -0.2, 0.55 - 0.9, 0.9 - 0.7, -0.45])
    logs = judged(ratio("m", "a", to="b", at_most=2.0), trials(a, b))
    assert logs.parts[0].margins[2] == pytest.approx(math.log(2.0) - math.log(0.9 / 0.55))
    assert logs.parts[0].unit == "log ratio"
    assert judged(at_most("m", 1.0, arm="a"), trials(a, b)).parts[0].margins[2] == pytest.approx(0.1)
    assert judged(at_least("m", 0.0, arm="a"), trials(a, b)).parts[0].margins[2] == pytest.approx(0.4)


def test_each_part_has_its_own_worst():
    outcomes = trials([0.9, "diverged", 0.8], [0.5, 0.6, 0.4])
    verdict = judged(all_of(at_least("m", 0.0, arm="a"), at_most("m", 0.0, arm="a")), outcomes)
    assert [part.margins[1] for part in verdict.parts] == pytest.approx([0.4, -0.9])


def test_what_a_diverged_arm_left_behind_is_seen_but_not_used():
    outcomes = trials([0.9, 0.8, 0.7], [0.5, 0.6, 0.4])
    outcomes[1]["a"] = ArmOutcome("diverged", {"m": 0.1, "loss": math.inf})
    outcomes[2]["a"] = ArmOutcome("diverged", {"m": math.nan})
    assert list(judged(BETTER, outcomes).parts[0].margins.values()) == pytest.approx([0.4, 0.1 - 0.6, 0.1 - 0.4])


def test_divergence_without_a_worst_value_is_undecided():
    curve = np.array([0.0, 1.0])
    for criterion, a, b in (
        (close("m", "a", to="b", within=9), [0.9, 0.8, 0.7], [0.5, 0.6, "diverged"]),
        (monotone("m", arm="a"), [curve, curve, "diverged"], [curve] * 3),
        (identical("m", "a", to="b"), [1.0, 1.0, "diverged"], [1.0] * 3),
        (BETTER, ["diverged"] * 3, ["diverged"] * 3),
        (BETTER, [1.0, math.nan, "diverged"], ["diverged", math.nan, math.inf]),
    ):
        verdict = judged(criterion, trials(a, b))
        assert verdict.outcome == "undecided"
        assert math.isnan(verdict.parts[0].mean)
        assert re.search(r"seed \d: [ab] diverged, and there is no worst m to give it|is nan", verdict.reason)


def test_divergence_may_withhold_the_verdict():
    a, b = [*OURS, "diverged"], [*THEIRS, 0.9]
    assert judged(BETTER, trials(a, b), on_divergence="worst").outcome == "undecided"
    verdict = judged(BETTER, trials(a, b), on_divergence="undecided")
    assert (verdict.outcome, verdict.reason) == ("undecided", "diverged: a in 1 of 6 seeds")
    elsewhere = trials([5.0] * 6, [*THEIRS, "diverged"])
    assert judged(at_least("m", 0, arm="a"), elsewhere, on_divergence="undecided").outcome == "undecided"
    assert judged(at_least("m", 0, arm="a"), elsewhere).outcome == "holds"


def test_collapse_bound():
    assert judged(BETTER, trials([1.0] * 10, [0.0] * 10)).collapse_bound == pytest.approx(0.2589, abs=5e-5)
    assert judged(BETTER, trials(OURS, THEIRS)).collapses == {}
    two = trials([*OURS, "diverged", "diverged"], [*THEIRS, "diverged", 0.8])
    verdict = judged(BETTER, two)
    assert verdict.collapses == {"a": 2, "b": 1}
    assert verdict.collapse_bound == pytest.approx(scipy.stats.binomtest(2, 7).proportion_ci(0.9, "exact").high)


def test_amended():
    old = Registration("A is better.", ("a", "b"), "m: a > b")
    new = Registration("A is not worse.", ("a", "b", "c"), "m: a > b - 0.1")
    same = judged(BETTER, trials(OURS, THEIRS), registration=old, registered=old)
    assert (same.tags, same.amended) == ((), "")
    verdict = judged(BETTER, trials(OURS[:3], THEIRS[:3]), registration=new, registered=old)
    assert verdict.outcome == "undecided"
    assert verdict.tags == ("thin", "amended")
    assert verdict.amended == (
        'says: "A is better." -> "A is not worse."; arms: a, b -> a, b, c; holds: m: a > b -> m: a > b - 0.1'
    )
    assert judged(BETTER, trials(OURS, THEIRS), registration=new, registered=old).outcome == "holds"
    assert judged(BETTER, {}, registration=new, registered=old).tags == ("amended",)
    assert judged(BETTER, trials(OURS, THEIRS), registration=new).tags == ()
    assert difference(old, old) == ""


def test_summary():
    positive = at_least("m", 0.0, arm="a")

    def text(*values, criterion=positive):
        return summary(judged(criterion, trials(list(values), [0.0] * len(values))))

    # mean 0.012, s = 0.0064420, half the interval 2.7764 s / sqrt(5) = 0.0079989
    assert text(0.004, 0.008, 0.012, 0.0155, 0.0205) == "holds  +0.012 [0.004, 0.020] at 95 %, 5 seeds"
    assert text(-120.0, -150.0, -160.0, -130.0, -140.0) == "fails  -140 [-160, -120] at 95 %, 5 seeds"
    assert text(0.25, 0.25, 0.25) == "holds  +0.25 [0.25, 0.25] at 95 %, 3 seeds (thin)"
    both = all_of(at_least("m", 0.0, arm="a"), at_least("m", -9.0, arm="a"))
    assert text(1.0, 1.5, 2.0, 2.5, 3.0, criterion=both) == ("holds  +2.0 [1.0, 3.0] at 95 %, 5 seeds, m: a >= 0")
    factor = ratio("m", "a", to="b", at_most=1.0)
    values = trials([1.0, 1.2, 1.1], [2.0, 2.5, 2.1])
    assert " log ratio at 95 %, 3 seeds (thin)" in summary(judged(factor, values))


def test_refused():
    outcomes = trials(OURS, THEIRS)
    with pytest.raises(ValueError, match="the criterion reads arm 'c'; the claim has: a, b"):
        judged(at_least("m", 1, arm="c"), outcomes)
    with pytest.raises(ValueError, match="seeds must be different"):
        judge(BETTER, outcomes, arms=ARMS, seeds=[0, 1, 1], size="laptop")
    with pytest.raises((ValueError, TypeError)):
        judged(BETTER, outcomes, on_divergence="best")
    with pytest.raises((ValueError, TypeError)):
        ArmOutcome("fine", {})


number = st.floats(-100.0, 100.0).map(lambda x: round(x, 2))
seedwise = st.lists(st.tuples(number, number), min_size=2, max_size=10)


@settings(max_examples=60)
@given(pairs=seedwise, seed=st.integers(0, 1000))
def test_the_order_of_seeds_changes_nothing(pairs, seed):
    order = np.random.default_rng(seed).permutation(len(pairs))
    verdict = judged(BETTER, trials(*zip(*pairs, strict=True)))
    shuffled = judged(BETTER, trials(*zip(*[pairs[i] for i in order], strict=True)))
    for one, other in zip(verdict.parts, shuffled.parts, strict=True):
        assert (one.outcome, one.mean, one.low, one.high) == (other.outcome, other.mean, other.low, other.high)
    assert verdict.outcome == shuffled.outcome


@settings(max_examples=60)
@given(pairs=seedwise, where=st.integers(0, 10), status=st.sampled_from(["timeout", "crashed", "error", "not run"]))
def test_a_missing_trial_never_leaves_a_verdict(pairs, where, status):
    outcomes = trials(*zip(*pairs, strict=True))
    hit = where % (len(pairs) + 1)
    outcomes[hit] = dict(outcomes.get(hit, {"b": ArmOutcome("ok", {"m": 0.0})}))
    if status == "not run":
        outcomes[hit].pop("a", None)
    else:
        outcomes[hit]["a"] = ArmOutcome(status, {})
    verdict = judged(BETTER, outcomes)
    assert verdict.outcome == "undecided"
    assert all(part.outcome == "undecided" for part in verdict.parts)
    assert verdict.missing == {status: 1}


@settings(max_examples=60)
@given(pairs=seedwise, scale=st.sampled_from([0.125, 3.0, 1000.0]), shift=number)
def test_units_change_nothing(pairs, scale, shift):
    """Scaling both arms, or shifting both, leaves the verdict of a comparison as it was."""
    verdict = judged(BETTER, trials(*zip(*pairs, strict=True)))
    moved = [(scale * x + shift, scale * y + shift) for x, y in pairs]
    if min(abs(verdict.parts[0].low), abs(verdict.parts[0].high)) > 1e-6:
        assert judged(BETTER, trials(*zip(*moved, strict=True))).outcome == verdict.outcome


@settings(max_examples=60)
@given(pairs=seedwise)
def test_the_opposite_claim_has_the_opposite_verdict(pairs):
    opposite = {"holds": "fails", "fails": "holds", "undecided": "undecided"}
    outcomes = trials(*zip(*pairs, strict=True))
    verdict = judged(BETTER, outcomes)
    assert judged(higher("m", "b", than="a"), outcomes).outcome == opposite[verdict.outcome]
    assert judged(lower("m", "a", than="b"), outcomes).outcome == opposite[verdict.outcome]


@settings(max_examples=60)
@given(pairs=seedwise, gift=st.floats(0.0, 50.0))
def test_a_gift_to_every_seed_never_hurts(pairs, gift):
    rank = {"fails": 0, "undecided": 1, "holds": 2}
    before = judged(BETTER, trials(*zip(*pairs, strict=True)))
    after = judged(BETTER, trials(*zip(*[(x + gift, y) for x, y in pairs], strict=True)))
    if min(abs(before.parts[0].low), abs(before.parts[0].high)) > 1e-9:
        assert rank[after.outcome] >= rank[before.outcome]
