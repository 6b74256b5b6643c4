"""Claims: what a declaration may say, and what is refused."""

import pytest

from assay.lab import ClaimError, Tune, claim, higher
from assay.lab.claim import coerce

HOLDS = higher("score", "a", than="b")


def declare(function=None, **changes):
    def runs(arm, seed, *, epochs=3, lr=0.1, name="x", flag=False, widths=(1, 2), limit=None, validate=False):
        return {"score": 1.0}

    settings = dict(says="A is better.", arms=("a", "b"), holds=HOLDS) | changes
    return claim("paper", **settings)(function or runs).claim.outline


def test_sizes_are_full_settings():
    outline = declare(smoke=dict(epochs=1), paper=dict(epochs=100, name="y"))
    assert list(outline.sizes) == ["smoke", "laptop", "paper"]
    assert outline.sizes["smoke"] == outline.sizes["laptop"] | {"epochs": 1}
    assert outline.sizes["paper"] == outline.sizes["laptop"] | {"epochs": 100, "name": "y"}
    assert outline.size_of(outline.sizes["paper"]) == "paper"
    assert outline.size_of(outline.settings(overrides={"epochs": 7})) == "custom"
    assert declare().seeds == 5


def test_overrides_take_the_type_of_the_default():
    settings = declare().settings(
        overrides={"epochs": "10", "lr": "1", "flag": "yes", "widths": "[3, 4]", "limit": "2.5", "name": "12"}
    )
    assert settings["epochs"] == 10
    assert type(settings["epochs"]) is int
    assert settings["lr"] == 1.0
    assert type(settings["lr"]) is float
    assert settings["flag"] is True
    assert settings["widths"] == (3, 4)
    assert settings["limit"] == 2.5
    assert settings["name"] == "12"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epochs": "ten"}, "epochs takes a whole number, not 'ten'"),
        ({"epochs": "1.5"}, "epochs takes a whole number, not 1.5"),
        ({"epochs": True}, "epochs takes a whole number, not True"),
        ({"flag": "perhaps"}, "flag takes true or false, not 'perhaps'"),
        ({"flag": 1}, "flag takes true or false, not 1"),
        ({"lr": "fast"}, "lr takes a number, not 'fast'"),
        ({"epoch": 1}, "has no setting 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_wrong_overrides_are_refused_by_name(overrides, message):
    with pytest.raises(ClaimError) as caught:
        declare().settings(overrides=overrides)
    assert message in str(caught.value)


def test_unknown_size_is_refused():
    with pytest.raises(ClaimError, match="size 'paper' is not one of laptop"):
        declare().settings("paper")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(says=" "), "says is empty"),
        (dict(arms=()), "must name at least one arm"),
        (dict(arms=("a", "b", "a")), "each once"),
        (dict(arms=("a", "c")), "holds names the arm 'b'"),
        (dict(smoke=dict(epoch=1)), "smoke sets 'epoch'; did you mean 'epochs'"),
        (dict(exclusive=True), "add together=True"),
        (dict(on_divergence="ignore"), "must be 'worst' or 'undecided'"),
        (dict(seeds=0), "must be at least 1"),
        (dict(tune={"lrr": [1]}), "tune= sets 'lrr'"),
        (dict(tune={"lr": {"a": [1.0]}}), "must give a grid to each"),
        (dict(tune={"lr": {"a": [1.0], "b": [1.0, 2.0]}}), "equally many values"),
        (dict(tune={"lr": [1.0]}, together=True), "Tune(arm=...)"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ClaimError) as caught:
        declare(**changes)
    assert message in str(caught.value)


def test_tuning_needs_a_way_to_keep_the_test_data_out():
    def blind(arm, seed, *, lr=0.1):
        return {"score": 1.0}

    with pytest.raises(ClaimError, match="validate=False"):
        declare(blind, tune=Tune({"lr": [0.1, 1.0]}))


def test_settings_must_be_keywords_with_defaults():
    def positional(arm, seed, epochs=3):
        return {}

    def bare(arm, seed, *, epochs):
        return {}

    for function in (positional, bare):
        with pytest.raises(ClaimError, match="keyword-only argument with a default"):
            declare(function)


def test_the_function_stays_a_function():
    @claim("paper", says="A is better.", arms=("a", "b"), holds=HOLDS)
    def runs(arm, seed, *, epochs=3):
        return {"score": epochs * 2.0}

    assert runs("a", 0) == {"score": 6.0}
    assert runs("a", 0, epochs=1) == {"score": 2.0}


def test_lists_keep_the_type_of_the_default():
    assert coerce((1, 2), [0], where="x") == [1, 2]
    assert coerce("(1,)", (), where="x") == (1,)
    with pytest.raises(ClaimError, match="takes a tuple"):
        coerce("3", (1,), where="x")
