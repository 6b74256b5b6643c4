"""Criteria: margins against hand-computed numbers, their words, refusals, and reading them from source."""

import ast
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.lab import criterion as module
from assay.lab.criterion import (
    Criterion,
    MarginError,
    all_of,
    at_least,
    at_most,
    close,
    higher,
    identical,
    lower,
    monotone,
    ratio,
)
from assay.lab.declaration import evaluate

RESULTS = {
    "ours": {"score": 2.5, "curve": np.array([1.0, 1.75, 3.5, 3.75]), "image": np.arange(6.0).reshape(2, 3)},
    "theirs": {"score": 0.625, "curve": np.array([3.0, 2.0, 0.5]), "image": np.arange(6.0).reshape(2, 3) + 0.125},
}

# criterion, margin worked out by hand, words, direction
CASES = [
    (higher("score", "ours", than="theirs"), 1.875, "score: ours > theirs", "max"),
    (higher("score", "ours", than="theirs", by=0.5), 1.375, "score: ours > theirs + 0.5", "max"),
    (higher("score", "ours", than="theirs", by=-0.005), 1.88, "score: ours > theirs - 0.005", "max"),
    (lower("score", "ours", than="theirs"), -1.875, "score: ours < theirs", "min"),
    (lower("score", "ours", than="theirs", by=0.25), -2.125, "score: ours < theirs - 0.25", "min"),
    (lower("score", "ours", than="theirs", by=-3), 1.125, "score: ours < theirs + 3", "min"),
    (at_least("score", 2, arm="ours"), 0.5, "score: ours >= 2", "max"),
    (at_most("score", 2.25, arm="ours"), -0.25, "score: ours <= 2.25", "min"),
    (ratio("score", "theirs", to="ours", at_most=0.5), math.log(2.0), "score: theirs / ours <= 0.5", "min"),
    (ratio("score", "ours", to="theirs", at_least=2), math.log(2.0), "score: ours / theirs >= 2", "max"),
    (ratio("score", "ours", to="theirs", at_most=2.0), -math.log(2.0), "score: ours / theirs <= 2", "min"),
    (close("score", "ours", to="theirs", within=2.0), 0.125, "score: ours within 2 of theirs", None),
    (close("score", "theirs", to="ours", within=1.0), -0.875, "score: theirs within 1 of ours", None),
    (monotone("curve", arm="ours"), 0.25, "curve: ours rises throughout", None),
    (monotone("curve", arm="ours", by=0.5), -0.25, "curve: ours rises throughout by more than 0.5 a step", None),
    (monotone("curve", arm="theirs", increasing=False), 1.0, "curve: theirs falls throughout", None),
    (monotone("curve", arm="theirs"), -1.5, "curve: theirs rises throughout", None),
    (identical("image", "ours", to="theirs"), -1.0, "image: ours identical to theirs", None),
    (identical("image", "ours", to="theirs", atol=0.125), 1.0, "image: ours identical to theirs within 0.125", None),
    (identical("image", "ours", to="theirs", atol=0.124), -1.0, "image: ours identical to theirs within 0.124", None),
    (identical("score", "ours", to="theirs"), -1.0, "score: ours identical to theirs", None),
]


@pytest.mark.parametrize(("criterion", "margin", "text", "direction"), CASES, ids=[case[2] for case in CASES])
def test_margin_and_words(criterion, margin, text, direction):
    assert criterion.margin(RESULTS) == pytest.approx(margin, abs=1e-12)
    assert criterion.text == text
    assert criterion.direction == direction
    assert isinstance(criterion, Criterion)


def test_close_is_two_one_sided_margins():
    below, above = close("score", "ours", to="theirs", within=2.0).parts()
    assert (below.margin(RESULTS), above.margin(RESULTS)) == (3.875, 0.125)
    assert (below.text, above.text) == ("score: ours > theirs - 2", "score: ours < theirs + 2")
    assert below.direction is None
    assert above.direction is None
    assert below.parts() == (below,)


def test_all_of():
    one, two = higher("a", "x", than="y"), at_most("b", 1, arm="z")
    both = all_of(one, all_of(two, close("a", "x", to="z", within=1)))
    assert both.parts()[:2] == (one, two)
    assert len(both.parts()) == 4
    assert both.needs() == {("x", "a"), ("y", "a"), ("z", "b"), ("z", "a")}
    assert both.measures() == ("a", "b")
    assert both.text == "all of: a: x > y; all of: b: z <= 1; a: x within 1 of z"
    assert both.direction is None
    assert all_of(one).text == one.text
    assert all_of(one, at_least("a", 0, arm="x")).direction == "max"
    assert all_of(one, at_least("b", 0, arm="x")).direction is None
    assert both.margin({"x": {"a": 3.0}, "y": {"a": 1.0}, "z": {"a": 2.5, "b": -1.0}}) == 0.5
    assert math.isnan(both.margin({"x": {"a": 3.0}, "y": {"a": 1.0}, "z": {"a": 2.5, "b": math.nan}}))


@pytest.mark.parametrize("case", CASES, ids=[case[2] for case in CASES])
def test_needs_is_what_the_margin_reads(case):
    """Each needed value is missed when absent, and nothing else is read."""
    criterion = case[0]
    only = {arm: {} for arm in RESULTS}
    for arm, measure in criterion.needs():
        only[arm][measure] = RESULTS[arm][measure]
    assert criterion.margin(only) == criterion.margin(RESULTS)
    for arm, measure in criterion.needs():
        rest = {name: {m: v for m, v in values.items() if (name, m) != (arm, measure)} for name, values in only.items()}
        with pytest.raises(MarginError, match=f"arm '{arm}' did not return '{measure}'"):
            criterion.margin(rest)
    assert criterion.measures() == tuple({measure for _, measure in criterion.needs()})


@pytest.mark.parametrize("case", CASES, ids=[case[2] for case in CASES])
def test_nan_gives_nan(case):
    criterion = case[0]
    for arm, measure in criterion.needs():
        broken = {name: dict(values) for name, values in RESULTS.items()}
        value = np.array(broken[arm][measure], dtype=float)
        value.flat[-1] = math.nan
        broken[arm][measure] = value if value.ndim else float(value)
        assert math.isnan(criterion.margin(broken))


def test_infinite_values():
    results = {
        "a": {"m": math.inf, "c": np.array([0.0, math.inf])},
        "b": {"m": math.inf, "c": np.array([0.0, math.inf])},
    }
    assert math.isnan(higher("m", "a", than="b").margin(results))
    assert math.isnan(ratio("m", "a", to="b", at_most=1).margin(results))
    assert at_most("m", 1, arm="a").margin(results) == -math.inf
    assert identical("c", "a", to="b").margin(results) == 1.0
    assert identical("c", "a", to="b", atol=0.5).margin(results) == 1.0


def test_ratio_of_what_is_not_positive_is_nan():
    for one, other in ((0.0, 1.0), (1.0, 0.0), (-1.0, -2.0)):
        assert math.isnan(ratio("m", "a", to="b", at_most=1).margin({"a": {"m": one}, "b": {"m": other}}))


def test_messages_name_what_there_is():
    with pytest.raises(MarginError, match=r"^arm 'ours' did not return 'psnr'; it returned: score, curve, image$"):
        at_least("psnr", 1, arm="ours").margin(RESULTS)
    with pytest.raises(MarginError, match=r"^no results of arm 'third'; there are those of: ours, theirs$"):
        at_least("score", 1, arm="third").margin(RESULTS)
    with pytest.raises(KeyError, match=r"'curve' of arm 'ours' must be a real number, got float64 of shape \(4,\)"):
        at_least("curve", 1, arm="ours").margin(RESULTS)
    with pytest.raises(MarginError, match="'m' of arm 'a' must be a real number, got str"):
        at_least("m", 1, arm="a").margin({"a": {"m": "high"}})
    with pytest.raises(MarginError, match="1-D array of at least 2 numbers"):
        monotone("image", arm="ours").margin(RESULTS)
    with pytest.raises(MarginError, match="1-D array of at least 2 numbers"):
        monotone("m", arm="a").margin({"a": {"m": [1.0]}})
    with pytest.raises(MarginError, match="must be numbers"):
        identical("m", "a", to="b").margin({"a": {"m": np.array(["x"])}, "b": {"m": 1.0}})


def test_number_types():
    for value in (3, True, np.float32(3), np.int64(3), np.array(3.0)):
        assert at_least("m", 0, arm="a").margin({"a": {"m": value}}) == float(value)


def test_identical_compares_shapes_and_kinds():
    def margin(one, other, **options):
        return identical("m", "a", to="b", **options).margin({"a": {"m": one}, "b": {"m": other}})

    assert margin(np.zeros((2, 3)), np.zeros((3, 2))) == -1.0
    assert margin(np.zeros(1), np.zeros(2)) == -1.0
    assert margin(np.array([True, False]), np.array([True, False]), atol=0.5) == 1.0
    assert margin(np.array([0], np.uint8), np.array([1], np.uint8), atol=0.5) == -1.0
    assert margin(np.array([1], np.uint8), np.array([0], np.uint8), atol=1) == 1.0
    assert margin(2**60, 2**60 + 1) == -1.0


def test_a_tie_in_decimals_is_a_tie():
    """0.4 - 0.3 - 0.1 is 2.8e-17 in binary; no claim holds by that."""
    assert higher("m", "a", than="b", by=0.1).margin({"a": {"m": 0.4}, "b": {"m": 0.3}}) == 0.0
    assert at_least("m", 0.3, arm="a").margin({"a": {"m": 0.1 + 0.2}}) == 0.0
    assert monotone("m", arm="a").margin({"a": {"m": np.array([0.1 + 0.2, 0.3])}}) == 0.0
    assert higher("m", "a", than="b").margin({"a": {"m": 0.3 + 1e-14}, "b": {"m": 0.3}}) > 0.0


@given(one=st.floats(-1e6, 1e6), other=st.floats(-1e6, 1e6), by=st.floats(-1e3, 1e3), shift=st.floats(-1e3, 1e3))
def test_antisymmetry_and_shift(one, other, by, shift):
    results = {"a": {"m": one}, "b": {"m": other}}
    margin = higher("m", "a", than="b", by=by).margin(results)
    assert margin == -higher("m", "b", than="a", by=-by).margin(results)
    assert margin == -lower("m", "a", than="b", by=-by).margin(results)
    scale = abs(one) + abs(other) + abs(by) + abs(shift)
    moved = higher("m", "a", than="b", by=by + shift).margin(results)
    assert moved == pytest.approx(margin - shift, abs=1e-14 * scale)


@given(top=st.floats(1e-6, 1e6), bottom=st.floats(1e-6, 1e6), bound=st.floats(1e-3, 1e3), scale=st.floats(1e-3, 1e3))
def test_ratio_is_scale_free_and_reciprocal(top, bottom, bound, scale):
    results = {"a": {"m": top}, "b": {"m": bottom}}
    margin = ratio("m", "a", to="b", at_most=bound).margin(results)
    assert margin == pytest.approx(math.log(bound * bottom / top), abs=1e-13)
    larger = {"a": {"m": top * scale}, "b": {"m": bottom * scale}}
    assert ratio("m", "a", to="b", at_most=bound).margin(larger) == pytest.approx(margin, abs=1e-13)
    assert ratio("m", "b", to="a", at_least=1 / bound).margin(results) == pytest.approx(margin, abs=1e-13)


REFUSED = [
    (lambda: higher("m", "a", than="a"), ValueError, "than must name another arm than 'a'"),
    (lambda: ratio("m", "a", to="a", at_most=1), ValueError, "to must name another arm"),
    (lambda: close("m", "a", to="a", within=1), ValueError, "to must name another arm"),
    (lambda: identical("m", "a", to="a"), ValueError, "to must name another arm"),
    (lambda: higher("", "a", than="b"), ValueError, "measure must be a name"),
    (lambda: higher("m", " a", than="b"), ValueError, "arm must be a name"),
    (lambda: higher("m", "a", than=["b"]), TypeError, "than must be a name"),
    (lambda: lower("m", "a", than="b", by=math.nan), ValueError, "by must be finite, got nan"),
    (lambda: lower("m", "a", than="b", by="0.1"), TypeError, "by must be a number, got '0.1'"),
    (lambda: lower("m", "a", than="b", by=True), TypeError, "by must be a number, got True"),
    (lambda: at_least("m", math.inf, arm="a"), ValueError, "value must be finite, got inf"),
    (lambda: at_most("m", None, arm="a"), TypeError, "value must be a number, got None"),
    (lambda: ratio("m", "a", to="b"), ValueError, "exactly one of at_most and at_least"),
    (lambda: ratio("m", "a", to="b", at_most=1, at_least=1), ValueError, "exactly one of at_most and at_least"),
    (lambda: ratio("m", "a", to="b", at_most=0), ValueError, "at_most must be finite and above 0, got 0"),
    (lambda: ratio("m", "a", to="b", at_least=-1), ValueError, "at_least must be finite and above 0, got -1"),
    (lambda: close("m", "a", to="b", within=0), ValueError, "within must be finite and above 0, got 0"),
    (lambda: identical("m", "a", to="b", atol=-1), ValueError, "atol must be finite and at least 0, got -1"),
    (lambda: monotone("m", arm="a", by=math.inf), ValueError, "by must be finite, got inf"),
    (lambda: monotone("m", arm="a", increasing=1), TypeError, "increasing must be True or False, got 1"),
    (lambda: all_of(), ValueError, "at least one criterion"),
    (lambda: all_of(higher("m", "a", than="b"), "m"), TypeError, "all_of takes criteria"),
    (lambda: higher("m", "a", "b"), TypeError, ""),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_refused(make, error, message):
    """Where the run checks types, a wrong type may be refused by the check, which is a TypeError as well."""
    with pytest.raises(error, match=None if error is TypeError else message):
        make()


def test_frozen_and_comparable():
    criterion = higher("m", "a", than="b")
    with pytest.raises(AttributeError):
        criterion.by = 1.0
    assert criterion == higher("m", "a", than="b", by=0)
    assert criterion != lower("m", "a", than="b")
    assert len({criterion, higher("m", "a", than="b"), all_of(criterion), all_of(criterion)}) == 2


CONSTANTS = {"ARMS": ["a", "b", "c"], "BEST": "a", "MARGIN": 0.02, "FEW": [at_most("m", 1, arm="a")]}
READABLE = [
    'higher("m", "a", than="b")',
    'lab.higher("m", BEST, than="b", by=-MARGIN / 2)',
    'assay.lab.lower("m", "a", than="b", by=2 * (MARGIN + 1) - 3)',
    'at_least("m", +0.9, arm="a")',
    'all_of(at_most("m", 1e3, arm="a"), *[at_least("m", 0, arm="b"), at_least("m", 0, arm="c")])',
    'all_of(*FEW, close("m", "a", to="b", within=0.1))',
    'monotone("m", arm="a", increasing=False)',
    'ratio("m", "a", to="b", at_most=0.5, at_least=None)',
    'identical("m", *("a",), to="b")',
]


@pytest.mark.parametrize("source", READABLE)
def test_evaluate_reads_what_python_reads(source):
    names = {**module.CRITERIA, **CONSTANTS, "lab": module}
    source_here = source.replace("assay.lab.", "lab.")
    assert evaluate(ast.parse(source, mode="eval").body, CONSTANTS) == eval(source_here, names)


UNREADABLE = [
    ("ARMS[0]", "`ARMS.0.` is not allowed"),
    ('higher("m", ARMS[0], than="b")', "not allowed"),
    ('__import__("os").system("true")', "not allowed"),
    ('open("x")', "not allowed"),
    ('"x".higher("m")', "not allowed"),
    ('lab().higher("m", "a", than="b")', "not allowed"),
    ('higher(f"{BEST}", "a", than="b")', "not allowed"),
    ('higher("m", "a", than="b") if BEST else 1', "not allowed"),
    ('all_of(*[at_least("m", 0, arm=arm) for arm in ARMS])', "not allowed"),
    ('higher("m", "a", than="b", by=2 ** 3)', "not allowed"),
    ('higher(b"m", "a", than="b")', "not allowed"),
    ('higher("m", "a", than=other)', "'other' is not a constant of this file"),
    ('higher("m", "a", **{"than": "b"})', r"`\*\*` is not allowed"),
    ('higher("m", "a", than="b", by="x" * 3)', "on numbers only, got 'x'"),
    ('higher("m", "a", than="b", by=True + 1)', "on numbers only, got True"),
    ('higher("m", "a", than="b", by=1 / 0)', "division by zero"),
    ('higher("m", "a", than="b", by=-BEST)', "on numbers only"),
    ('all_of(*"ab")', "only a list or a tuple can be starred"),
    ('{"a": 1}', "expected a criterion"),
    ("1", "expected a criterion"),
    ('higher("m", "a")', "than"),
    ('higher("m", "a", than="a")', "than must name another arm"),
    ('higher("m", "a", than="b", margin=1)', "margin"),
]


@pytest.mark.parametrize(("source", "message"), UNREADABLE)
def test_evaluate_refuses_with_the_line(source, message):
    tree = ast.parse(f"\n\nholds = {source}").body[0]
    with pytest.raises(ValueError, match=f"(?s)^line 3: .*{message}"):
        evaluate(tree.value, CONSTANTS)


def test_nothing_heavy_is_imported():
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('criterion', {module.__file__!r})\n"
        "found = importlib.util.module_from_spec(spec); sys.modules['criterion'] = found\n"
        "spec.loader.exec_module(found)\n"
        "found.higher('m', 'a', than='b').margin({'a': {'m': 1.0}, 'b': {'m': 0.0}})\n"
        "print(sorted({'numpy', 'scipy', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
