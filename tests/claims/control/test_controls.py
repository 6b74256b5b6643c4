"""The controls, judged by the very code that judges papers: none may hold."""

import pytest

from assay.claims.control import controls
from assay.lab import papers
from assay.lab.trial import Trial, execute
from assay.lab.verdict import ArmOutcome, judge

paper = papers()["controls"]
QUICK = {"train": 200, "test": 200, "epochs": 4}


def verdict(outline, size, seeds, settings):
    outcomes = {seed: {} for seed in range(seeds)}
    for seed in range(seeds):
        for arms in [outline.arms] if outline.together else [(arm,) for arm in outline.arms]:
            trial = Trial(paper.module, paper.key, outline.id, arms, seed, settings, outline.together, False, "digest")
            finished = execute(trial)
            assert finished.status in ("ok", "diverged"), finished.error
            outcomes[seed] |= {arm: ArmOutcome(finished.status, finished.results[arm]) for arm in arms}
    return judge(outline.holds, outcomes, arms=outline.arms, seeds=range(seeds), size=size)


@pytest.mark.parametrize("outline", paper.claims, ids=lambda outline: outline.id)
def test_no_control_holds(outline):
    assert outline.control
    assert verdict(outline, "laptop", outline.seeds, outline.settings("laptop", QUICK)).outcome in (
        "fails",
        "undecided",
    )


@pytest.mark.parametrize("outline", paper.claims, ids=lambda outline: outline.id)
def test_smoke_size(outline):
    assert verdict(outline, "smoke", 1, outline.settings("smoke")).outcome is None


def test_the_arms_of_the_same_method_differ_by_chance_alone():
    """Each arm has its own random numbers, and those of no other trial."""
    arms = [(arm, seed) for arm in ("first", "second") for seed in range(3)]
    results = [controls.same_method_twice(arm, seed, train=100, epochs=1)["test_accuracy"] for arm, seed in arms]
    assert len(set(results)) > 3
    again = [controls.same_method_twice(arm, seed, train=100, epochs=1)["test_accuracy"] for arm, seed in arms]
    assert again == results


def test_sabotage_is_really_done():
    """Each broken arm does worse than the sound one by far: the break is there, and it is what is measured."""
    for claim, broken, sound in (
        (controls.flipped_sign, "flipped", "sgd"),
        (controls.zeroed_velocity, "zeroed", "momentum"),
        (controls.dealt_labels, "dealt", "true"),
    ):
        assert claim(broken, 0)["test_accuracy"] < claim(sound, 0)["test_accuracy"] - 0.1
    for claim, broken in ((controls.permuted_modes, "permuted"), (controls.ignored_signs, "unsigned")):
        errors = claim((broken, "cmd"), 0, train=200)
        assert errors[broken]["relative_error"] > 2 * errors["cmd"]["relative_error"]
