"""The numbers can be read back from the drawings, and agree with independent references."""

from __future__ import annotations

import base64
import math
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from markupsafe import Markup
from scipy import stats

from assay.report.curve import curves
from assay.report.drawing import bars, glance, mean_interval, row, rows
from assay.report.picture import colored, montage, picture, png, smaller
from assay.report.svg import Scale, element, scale_of

NUMBER = r"-?[\d.]+(?:e-?\d+)?"


def parsed(svg: Markup) -> ET.Element:
    return ET.fromstring(str(svg))


def inverse(note: str) -> tuple[Callable[[float], float], float]:
    """From a scale's note: position -> value, and by how much a coordinate rounded to 0.01 can be off, as a share."""
    kind, *numbers = note.split()
    low, high, start, end = map(float, numbers)
    if kind == "log":
        decades = math.log10(high / low)
        return lambda at: low * (high / low) ** ((at - start) / (end - start)), 10 ** (
            decades * 0.006 / abs(end - start)
        ) - 1
    return lambda at: low + (at - start) / (end - start) * (high - low), 0.006 / abs(end - start) * (high - low)


def place(mark: ET.Element) -> float:
    if "cx" in mark.attrib:
        return float(mark.attrib["cx"])
    return float(re.search(rf"translate\(({NUMBER})", mark.attrib["transform"])[1])  # type: ignore[index]


def test_dots_stand_at_their_values_and_bars_span_the_student_interval() -> None:
    rng = np.random.default_rng(3)
    data = {arm: dict(enumerate(rng.normal(0.3 * k, 0.21, 6))) for k, arm in enumerate(("cmd", "pca", "dmd"))}
    tree = parsed(rows([row(arm, by) for arm, by in data.items()], "error"))
    value, exact = inverse(tree.find("g[@class='axis']").attrib["data-x"])  # type: ignore[union-attr]
    groups = {group.attrib["data-label"]: group for group in tree.findall("g[@data-label]")}
    assert list(groups) == list(data)
    for arm, by in data.items():
        dots = {int(m.attrib["data-seed"]): value(place(m)) for m in groups[arm].iter() if "data-seed" in m.attrib}
        assert dots == pytest.approx(by, abs=exact)
        sample = list(by.values())
        low, high = stats.t.interval(0.95, len(sample) - 1, np.mean(sample), stats.sem(sample))
        bar = next(m for m in groups[arm].iter() if m.attrib.get("class") == "span")
        ends = [value(float(at)) for at in re.findall(NUMBER, bar.attrib["d"])[0::2]]
        assert ends == pytest.approx([low, high], abs=exact)
        mean = next(m for m in groups[arm].iter() if m.attrib.get("class") == "mean")
        assert value(float(re.findall(NUMBER, mean.attrib["d"])[0])) == pytest.approx(np.mean(sample), abs=exact)


def test_a_forest_shows_where_zero_is_even_when_all_is_far_from_it() -> None:
    tree = parsed(rows([row("a - b", {0: 5.0, 1: 6.0})], "difference", zero=True))
    value, exact = inverse(tree.find("g[@class='axis']").attrib["data-x"])  # type: ignore[union-attr]
    line = next(m for m in tree.iter() if m.attrib.get("class") == "zero")
    assert value(float(re.findall(NUMBER, line.attrib["d"])[0])) == pytest.approx(0.0, abs=exact)


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    svg = rows([row("adam", {0: 1.0, 1: math.nan, 2: math.inf, 3: 2.0})], "loss")
    assert "adam (2 not finite)" in svg
    assert len([m for m in parsed(svg).iter() if "data-seed" in m.attrib]) == 2
    assert "nan" not in svg
    assert "nan" not in rows([row("adam", {0: math.nan})], "loss")


def test_arms_differ_by_shape_and_not_only_by_color() -> None:
    tree = parsed(rows([row(str(k), {0: float(k)}) for k in range(5)], "loss"))
    shapes = [m.attrib.get("d", m.tag) for m in tree.iter() if "data-seed" in m.attrib]
    assert len(set(shapes)) == 5


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    mean, low, high = mean_interval([2.5])
    assert (mean, math.isfinite(low), math.isfinite(high)) == (2.5, False, False)
    assert all(map(math.isnan, mean_interval([math.nan])))
    assert 'class="span"' not in rows([row("a", {0: 2.5})], "loss")


@pytest.mark.parametrize("logarithmic", [False, True])
def test_curves_and_bands_are_the_means_and_intervals_at_every_step(logarithmic: bool) -> None:
    rng = np.random.default_rng(5)
    steps = np.arange(1, 21)
    data = {
        arm: np.exp(-steps / (2.0 + k) if logarithmic else -steps / 50) * (1 + 0.1 * rng.random((5, 20)))
        for k, arm in enumerate(("cmd", "sgd"))
    }
    tree = parsed(curves(data, "loss"))
    across = next(g.attrib["data-x"] for g in tree.iter() if "data-x" in g.attrib)
    up = next(g.attrib["data-y"] for g in tree.iter() if "data-y" in g.attrib)
    assert up.startswith("log" if logarithmic else "linear")
    (x, x_exact), (y, y_exact) = inverse(across), inverse(up)
    error = {"rel": y_exact} if logarithmic else {"abs": y_exact}
    for arm, values in data.items():
        group = next(g for g in tree.iter() if g.attrib.get("data-label") == arm)
        line = next(m for m in group if "line" in m.attrib["class"])
        numbers = [float(each) for each in re.findall(NUMBER, line.attrib["d"])]
        assert [x(at) for at in numbers[0::2]] == pytest.approx(steps, abs=x_exact)
        assert [y(at) for at in numbers[1::2]] == pytest.approx(values.mean(axis=0), **error)
        band = next(m for m in group if m.attrib["class"] == "band")
        edges = [y(float(at)) for at in re.findall(NUMBER, band.attrib["d"])[1::2]]
        low, high = stats.t.interval(0.95, 4, values.mean(axis=0), stats.sem(values, axis=0))
        assert edges == pytest.approx([*high, *low[::-1]], **error)


def test_curves_of_different_length_keep_the_steps_that_each_has() -> None:
    short = np.array([[3.0, 2.0, math.nan, math.nan], [3.2, 2.2, 1.2, math.nan]])
    tree = parsed(curves({"cut": short, "whole": np.arange(4.0)}, "loss"))
    lines = {
        g.attrib["data-label"]: next(m for m in g if "line" in m.attrib["class"]).attrib["d"]
        for g in tree.iter()
        if "curve" in g.attrib.get("class", "")
    }
    assert lines["cut"].count(" ") == 3
    assert lines["whole"].count(" ") == 4
    assert "nan" not in curves({"lost": np.full(3, math.nan)}, "loss")


def test_a_long_curve_is_thinned_to_its_ends() -> None:
    tree = parsed(curves({"a": np.linspace(1, 2, 100_000)}, "loss"))
    line = next(m for g in tree.iter("g") for m in g if m.attrib["class"] == "line l0")
    value, exact = inverse(next(g.attrib["data-x"] for g in tree.iter() if "data-x" in g.attrib))
    numbers = [float(each) for each in re.findall(NUMBER, line.attrib["d"])]
    assert len(numbers) <= 2 * 240
    assert [value(numbers[0]), value(numbers[-2])] == pytest.approx([1, 100_000], abs=exact)


@pytest.mark.parametrize(("mean", "low", "high"), [(0.02, 0.01, 0.03), (-3.0, -5.0, -1.0), (0.1, -0.4, 0.6)])
def test_the_interval_in_one_line_has_zero_in_the_middle(mean: float, low: float, high: float) -> None:
    tree = parsed(glance(mean, low, high, "holds"))
    zero, bar, dot = tree[0].attrib["d"], tree[1].attrib["d"], float(tree[2].attrib["cx"])
    assert zero.startswith("M60 ")
    left, right = (float(re.search(rf"{letter}({NUMBER})", bar)[1]) for letter in "MH")  # type: ignore[index]
    assert 0 <= left <= right <= 120
    ratios = [(at - 60) / (dot - 60) for at in (left, right)]
    assert ratios == pytest.approx([low / mean, high / mean], abs=0.12 / abs(dot - 60) * max(1, abs(low / mean)))
    assert glance(math.nan, 0, 1, "holds") == glance(1.0, -math.inf, math.inf, "undecided") == ""


def test_bars_are_as_long_as_their_values() -> None:
    tree = parsed(bars({"conv": 0.3, "fc": 0.1, "lost": math.nan, "back": -0.1}, "error"))
    value, exact = inverse(next(g.attrib["data-x"] for g in tree.iter() if "data-x" in g.attrib))
    found = {
        m.attrib["data-label"]: (value(float(m.attrib["x"])), value(float(m.attrib["x"]) + float(m.attrib["width"])))
        for m in tree.iter("rect")
    }
    assert found.keys() == {"conv", "fc", "back"}
    assert found["conv"] == pytest.approx((0.0, 0.3), abs=2 * exact)
    assert found["back"] == pytest.approx((-0.1, 0.0), abs=2 * exact)


@pytest.mark.parametrize(
    "scale", [Scale(-3.7, 12.1, 10, 300), Scale(1e-7, 250.0, 300, 10, "log"), Scale(2e6, 9e6, 0, 1)]
)
def test_scales_invert_and_their_ticks_are_round_and_inside(scale: Scale) -> None:
    for value in np.linspace(scale.low, scale.high, 7):
        assert scale.value(scale(float(value))) == pytest.approx(value, rel=1e-9, abs=1e-9)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    for value, label in ticks:
        assert scale.low <= value <= scale.high
        assert float(label.replace("\u2212", "-")) == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("values", [[5.0, 5.0], [0.0], [], [math.nan], [1e-300, 2e-300]])
def test_a_scale_of_few_or_equal_values_is_not_empty(values: list[float]) -> None:
    scale = scale_of(values, 0, 100)
    assert scale.high > scale.low
    assert scale.ticks()


def test_elements_escape_text_and_attributes() -> None:
    assert str(element("text", "<b>&", label='"><script>')) == (
        '<text label="&quot;&gt;&lt;script&gt;">&lt;b&gt;&amp;</text>'
    )
    hostile = '<script>"]]>'
    for svg in (
        rows([row(hostile, {0: 1.0})], hostile, name=hostile),
        curves({hostile: np.arange(3.0)}, hostile, name=hostile),
        bars({hostile: 1.0}, hostile, name=hostile),
        picture(np.eye(3), hostile),
    ):
        assert "script" not in {node.tag for node in parsed(svg).iter()}
        assert hostile in "".join(parsed(svg).itertext())


def decoded(data: bytes) -> np.ndarray:
    """A PNG of 8 bits without filters, read by the letter of the specification."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length]) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + length
    width, height, depth, color = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, list(chunks)) == (8, [b"IHDR", b"IDAT", b"IEND"])
    channels = {0: 1, 2: 3}[color]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape((height, width) if channels == 1 else (height, width, 3))


@pytest.mark.parametrize("shape", [(5, 7), (4, 6, 3), (1, 1)])
def test_png_keeps_every_pixel(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert (decoded(png(pixels)) == pixels).all()


def test_a_picture_holds_its_array() -> None:
    array = np.random.default_rng(1).random((3, 6, 5))
    html = parsed(picture(array, "photo"))
    source = html.find("img").attrib["src"]  # type: ignore[union-attr]
    pixels = decoded(base64.b64decode(source.removeprefix("data:image/png;base64,")))
    assert np.abs(pixels / 255 - np.moveaxis(array, 0, -1)).max() <= 0.5 / 255 + 1e-12


def test_stacks_become_montages_and_large_arrays_block_means() -> None:
    stack = np.arange(2 * 2 * 3, dtype=float).reshape(2, 2, 3)
    sheet = montage(stack)
    assert sheet.shape == (2, 7)
    assert (sheet[:, :3] == stack[0]).all()
    assert (sheet[:, 4:] == stack[1]).all()
    assert np.isnan(sheet[:, 3]).all()
    large = np.random.default_rng(2).random((8, 6))
    assert smaller(large, 4) == pytest.approx(large.reshape(4, 2, 3, 2).mean(axis=(1, 3)))


def test_two_sided_colors_put_zero_in_the_lightest_place_and_mirror_around_it() -> None:
    image = colored(np.array([[-2.0, -1.0, 0.0, 1.0, 2.0, math.nan]]), -2.0, 2.0)[0].astype(int)
    lightness = image @ np.array([0.2126, 0.7152, 0.0722])
    assert lightness[:5].argmax() == 2
    assert image[0][2] > image[0][0]
    assert image[4][0] > image[4][2]
    assert (image[5] == 128).all()
    ladder = colored(np.linspace(1, 9, 9)[None], 1.0, 9.0)[0].astype(int) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(ladder) > 0).all()


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2, 2), (0, 4)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="array: shape"):
        picture(np.zeros(shape), "no")
