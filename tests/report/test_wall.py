"""What stands on the wall, that its links lead somewhere, and that no text from data is markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from assay.lab.record import PartVerdict, Verdict
from assay.report import Section, Table, write_probe_report
from assay.report.drawing import bars
from assay.report.source import highlighted, part_source, plain
from assay.report.view import deciding, p_value
from assay.report.wall import static
from assay.report.wording import number, slug

Make = dict[str, Any]


class Page(HTMLParser):
    """The tags and the text of a page, read by a parser that is not ours."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


@pytest.fixture(scope="module")
def pages(wall: Path) -> dict[str, Page]:
    return {str(path.relative_to(wall.parent)): Page(path.read_text()) for path in wall.parent.rglob("*.html")}


def test_the_front_counts_verdicts_and_what_chance_would_give(pages: dict[str, Page]) -> None:
    text = pages["index.html"].text
    assert "2 hold 1 fail 3 undecided" in text
    assert "6 verdicts on 7 claims of 6 papers; 1 not run yet" in text
    assert "about 0.30 false verdicts" in text  # 6 verdicts at 5 %
    assert "3 of 3 BH decided verdicts survive" in text


def test_controls_stand_apart_and_count_nowhere(pages: dict[str, Page]) -> None:
    text = pages["index.html"].text
    above, _, below = text.partition("Claims built to be untrue")
    assert "1 of 1 control behaved" in above
    assert "An arm beats itself." not in above
    assert "An arm beats itself." in below
    assert "as it should be" in below
    assert "papers/control.html" in pages


def test_a_control_that_holds_is_called_out(make: Make, tmp_path: Path) -> None:
    shelf = make["Shelf"]()
    claim = make["outline"]("control", "sabotaged", control=True)
    shelf.know(claim, make["effect_trials"](claim, 8, 5, np.random.default_rng(0)), range(5))
    shelf.papers.append(make["SomePaper"]("control", claims=(claim,)))
    text = Page(shelf.write(tmp_path).read_text()).text
    assert "0 of 1 control behaved" in text
    assert "read the wall with care" in text
    assert "misbehaves" in text
    assert "0 verdicts" in text


def test_every_claim_has_one_mark_with_a_shape_of_its_own(pages: dict[str, Page], wall: Path) -> None:
    index = wall.read_text()
    glance = index[index.index('id="map"') : index.index('class="list"')]
    assert glance.count('href="#m-holds"') == 2
    assert glance.count('href="#m-fails"') == 1
    assert glance.count('href="#m-undecided"') == 3
    assert glance.count('href="#m-none"') == 2  # one not run, one paper without claims
    shapes = re.findall(r'<symbol id="m-\w+"[^>]*>(.*?)</symbol>', index)
    assert len(set(shapes)) == 4


def test_a_paper_page_says_all_there_is_to_say(pages: dict[str, Page]) -> None:
    page = pages["papers/alpha.html"]
    for expected in (
        "The Underlying Correlated Dynamics in Neural Training",
        "2022",
        "probes",
        "Every weight's path is scale times",
        "Ten modes describe a whole noisy training run",
        "Holds",
        "test_accuracy: cmd > pca - 0.005",
        "95% interval [",
        "ResNet-18: Online CMD 92.43",
        "ResNet-18 on CIFAR-10",
        "lr cmd 0.1 0.01, 0.05, 0.1",
        "lr pca 0.05",
        "epochs 2 30 160",
        "versions: torch 2.13.0",
        "seeds 0, 1, 2, 3, 4, 5",
        "peak memory 512 MB",
        "22 s median, 25 s longest",
        "No run collapsed in 6 seeds; that still allows a collapse in up to 39% of runs.",
        "1 of 8 trials missing: error",
        "RuntimeError: out of patience",
        "assay run alpha/describes_the_run",
        '"""Both arms see the same batches."""',
        "It costs less than a tenth of the training run.",
        "Not run",
    ):
        assert expected in page.text, expected
    assert "https://arxiv.org/abs/2006.00719" in page.values("href")


def test_numbers_are_those_of_the_trials(shelf: Any, pages: dict[str, Page]) -> None:
    claim = shelf.papers[0].claims[0]
    _, records = shelf.known[claim.key]
    sample = [r.results["pca"]["relative_error"] for r in records if "pca" in r.results]
    mean, spread = np.mean(sample), np.std(sample, ddof=1)
    ends = f"{number(min(sample), 4)} {number(max(sample), 4)}"
    expected = f"relative_error pca {number(float(mean), 4)} {number(float(spread), 2)} {ends} 6"
    assert expected in pages["papers/alpha.html"].text
    paired = [r.results["cmd"]["relative_error"] - sample[r.seed] for r in records if "cmd" in r.results]
    labels = [v for v in pages["papers/alpha.html"].values("aria-label") if "relative_error: paired differences" in v]
    assert f"cmd \u2212 pca: {number(float(np.mean(paired)))}" in labels[0]


def test_each_kind_of_value_has_its_drawing(pages: dict[str, Page]) -> None:
    page = pages["papers/alpha.html"]
    titles = [attrs.get("aria-label") or "" for tag, attrs in page.tags if tag == "svg"]
    assert any(title.startswith("test_accuracy. cmd:") for title in titles)
    assert any(title.startswith("loss. Curves over 30 steps") for title in titles)
    assert any(title.startswith("Margins of: relative_error: cmd < dmd") for title in titles)
    pictures = [attrs["alt"] or "" for tag, attrs in page.tags if tag == "img"]
    assert len([alt for alt in pictures if alt.startswith("correlation")]) == 3
    assert len([alt for alt in pictures if alt.startswith("reconstruction")]) == 3


def test_all_internal_links_lead_somewhere(wall: Path, pages: dict[str, Page]) -> None:
    checked = 0
    for name, page in pages.items():
        for link in page.values("href") + page.values("src"):
            if link.startswith(("https://arxiv.org/", "https://doi.org/", "data:image/")):
                continue
            assert not re.match(r"[a-z]+:", link), link
            target, _, fragment = link.partition("#")
            path = (wall.parent / name).parent / unquote(target) if target else wall.parent / name
            assert path.is_file(), f"{name}: {link}"
            if fragment and "=" not in fragment:
                assert fragment in pages[str(path.resolve().relative_to(wall.parent.resolve()))].values("id"), link
            checked += 1
    assert checked > 100


def test_identifiers_are_unique_within_a_page(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        found = page.values("id")
        assert len(found) == len(set(found)), name


def test_text_from_data_is_never_markup(pages: dict[str, Page], make: Make) -> None:
    shown = " ".join(make["hostile"]().split())
    assert pages["papers/hostile.html"].text.count(shown) >= 8
    for name, page in pages.items():
        scripts = [attrs for tag, attrs in page.tags if tag == "script"]
        assert [attrs.get("src", "").removeprefix("../") for attrs in scripts] == ["static/wall.js"], name  # type: ignore[union-attr]
        for tag, attrs in page.tags:
            assert not any(key.startswith("on") or key == "style" for key in attrs), (name, tag, attrs)
            assert tag not in ("style", "iframe", "object", "embed", "base"), name
            for link in ("href", "src", "action"):
                assert not (attrs.get(link) or "").strip().lower().startswith(("javascript:", "vbscript:")), name


def test_a_policy_forbids_everything_that_the_wall_does_not_need(pages: dict[str, Page]) -> None:
    for page in pages.values():
        policy = next(
            a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy == (
            "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        )


def test_hostile_keys_stay_in_their_folder(make: Make, tmp_path: Path) -> None:
    shelf = make["Shelf"]()
    claim = make["outline"]("../../escape", "a/b")
    shelf.papers.append(make["SomePaper"]("../../escape", claims=(claim,)))
    shelf.write(tmp_path / "wall")
    assert [path.name for path in tmp_path.iterdir()] == ["wall"]
    assert (tmp_path / "wall" / "papers" / f"{slug('../../escape')}.html").is_file()


def test_settings_of_no_named_size_are_shown_and_put_in_the_command(make: Make, tmp_path: Path) -> None:
    shelf = make["Shelf"]()
    claim = make["outline"]("beta")
    settings = {"train": 123, "lr": 1e-3}
    records = make["effect_trials"](claim, 6, 5, np.random.default_rng(0), settings=settings, size="custom")
    shelf.known[claim.key] = (make["judged"](claim, records, range(5), "custom"), records)
    shelf.papers.append(make["SomePaper"]("beta", claims=(claim,)))
    text = Page((shelf.write(tmp_path).parent / "papers" / "beta.html").read_text()).text
    assert "assay run beta/more_accurate --set train=123 Copy" in text
    assert "setting custom laptop smoke train 123 8000 64" in text


def test_amended_stale_thin_and_collapsed_are_said(make: Make, tmp_path: Path) -> None:
    shelf = make["Shelf"]()
    claim = make["outline"]("beta")
    records = make["effect_trials"](claim, 6, 3, np.random.default_rng(0))
    verdict = replace(
        make["judged"](claim, records, range(3)),
        amended="- says: better\n+ says: no worse", stale="assay/optim/adam.py changed",
        collapses={"adam": 2}, collapse_bound=0.5,
    )  # fmt: skip
    shelf.known[claim.key] = (verdict, records)
    shelf.papers.append(make["SomePaper"]("beta", claims=(claim,)))
    index = shelf.write(tmp_path)
    text = Page((index.parent / "papers" / "beta.html").read_text()).text
    assert "- says: better + says: no worse" in text
    assert "assay/optim/adam.py changed" in text
    assert (
        "Collapsed runs: adam 2; a collapsed run counts with the worst value seen. Up to 50% of runs may collapse."
        in text
    )
    assert all(tag in Page(index.read_text()).text for tag in ("thin", "amended", "stale"))


def part(outcome: str, mean: float, low: float, high: float, p: float) -> PartVerdict:
    return PartVerdict(outcome, outcome, {0: mean}, mean, low, high, p)  # type: ignore[arg-type]


def test_the_part_that_decides_is_the_one_shown() -> None:
    sure, close_call = part("holds", 3.0, 2.0, 4.0, 0.001), part("holds", 0.5, 0.1, 0.9, 0.03)
    bad = part("fails", -2.0, -3.0, -1.0, 0.01)
    held = Verdict("holds", "", "laptop", (0,), 0.95, (sure, close_call))
    failed = Verdict("fails", "", "laptop", (0,), 0.95, (sure, bad, close_call))
    assert deciding(held) is close_call
    assert deciding(failed) is bad
    assert p_value(held) == 0.03
    assert p_value(failed) == pytest.approx(0.03)  # the smallest of three chances to fail
    assert np.isnan(p_value(Verdict(None, "", "smoke", (0,), 0.95, (sure,))))


def test_marks_follow_benjamini_and_hochberg(make: Make, tmp_path: Path) -> None:
    shelf = make["Shelf"]()
    values = [0.0001, 0.012, 0.02, 0.04, 0.9, 0.8]
    for index, p in enumerate(values):
        claim = make["outline"](f"paper{index}")
        outcome = "holds" if p < 0.05 and p != 0.012 else "undecided"  # a small p alone decides nothing
        shelf.known[claim.key] = (Verdict(outcome, "", "laptop", (0, 1), 0.95, (part(outcome, 1.0, 0.5, 1.5, p),)), [])
        shelf.papers.append(make["SomePaper"](claim.paper, claims=(claim,)))
    ranked = sorted(values)
    expected = max(k for k in range(1, 7) if ranked[k - 1] <= k * 0.05 / 6)
    text = Page(shelf.write(tmp_path).read_text()).text
    assert expected == 3
    assert f"{expected - 1} of 3 BH" in text


def test_332_papers_with_five_claims_fit_in_three_megabytes(large_wall: Path) -> None:
    assert large_wall.stat().st_size < 3_000_000
    assert large_wall.read_text().count("<article") == 332
    assert len(list((large_wall.parent / "papers").iterdir())) == 332
    assert max(path.stat().st_size for path in (large_wall.parent / "papers").iterdir()) < 200_000


def test_own_script_is_small() -> None:
    assert len(static("wall.js").encode()) < 10_000


def luminance(color: str) -> float:
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colors_have_the_contrast_that_wcag_asks_for(mode: int) -> None:
    found = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", static("wall.css"))
    colors = {name: pair[mode] for name, *pair in found}
    for ground in ("paper", "sheet", "wash"):
        for name in ("ink", "soft", "gold", "holds", "fails", "undecided", *(f"s{k}" for k in range(8))):
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
        assert contrast(colors["edge"], colors[ground]) >= 3, ground  # borders of controls


def test_parts_are_found_without_importing_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "outside"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "inner" / "__init__.py").write_text("from outside.inner.one import Method\n")
    (package / "inner" / "one.py").write_text('"""One."""\n\n\nclass Method:\n    pass\n')
    (package / "inner" / "torn.py").write_text("def broken(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = part_source("outside.inner.Method")
    assert found is not None
    assert (found.module, found.line) == ("outside.inner.one", 4)
    whole = part_source("outside.inner.one")
    assert whole is not None
    assert (whole.module, whole.line) == ("outside.inner.one", 1)
    for missing in ("outside.inner.Nothing", "outside.inner.torn", "nowhere.at.all", "../etc", "", "outside"):
        assert missing == "outside" or part_source(missing) is None


def test_code_is_shown_as_written(wall: Path) -> None:
    text = "x = '<script>'  # &amp; <b>\n\n\ndef f():\n    return \"]]>\"\n"
    assert plain(highlighted(text, "L")) == text
    page = (wall.parent / "code" / "assay.report.drawing.html").read_text()
    link = re.search(r"code/assay\.report\.drawing\.html#(L-\d+)", (wall.parent / "papers" / "alpha.html").read_text())
    assert link is not None
    line = re.search(rf'<span id="{link[1]}">(.*)', page)
    assert line is not None
    assert plain(line[1]).startswith("def rows(")


def test_a_probe_report_is_one_file_that_asks_for_nothing(tmp_path: Path, make: Make) -> None:
    hostile = make["hostile"]()
    sections = [
        Section(hostile, f"{hostile}\n\nSecond paragraph.", Table([hostile, "error"], [[hostile, "0.1"]])),
        Section("Errors by layer", drawing=bars({"conv1": 0.2, hostile: 0.4}, "relative error")),
    ]
    path = write_probe_report(tmp_path / "new" / "report.html", hostile, sections, generated="2025-11-05")
    page = Page(path.read_text())
    assert page.text.count(" ".join(hostile.split())) >= 5
    assert "Second paragraph." in page.text
    assert "5 November 2025" in page.text
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "iframe")]
    assert set(page.values("href")) <= {"data:,"}
    assert page.values("src") == []


def test_a_probe_report_refuses_what_is_no_drawing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 columns"):
        Table(["a", "b"], [["1"]])
    with pytest.raises(TypeError, match="drawing"):
        write_probe_report(tmp_path / "r.html", "t", [Section("x", drawing=["<svg/>"])])  # type: ignore[list-item]
