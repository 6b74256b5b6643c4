"""The feed: an entry a verdict, a new one when a verdict changes, identifiers that stay."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ATOM = "{http://www.w3.org/2005/Atom}"
Make = dict[str, Any]


def feed(folder: Path) -> ET.Element:
    return ET.fromstring((folder / "feed.xml").read_bytes())


def entries(folder: Path) -> list[dict[str, str]]:
    fields = ("id", "title", "updated", "summary")
    return [
        {field: entry.findtext(ATOM + field, "") for field in fields} for entry in feed(folder).findall(ATOM + "entry")
    ]


def shelf_with(make: Make, effect: float, started: str, key: str = "beta") -> Any:
    shelf = make["Shelf"]()
    claim = make["outline"](key)
    records = make["effect_trials"](claim, effect, 5, np.random.default_rng(0), started=started)
    shelf.know(claim, records, range(5))
    shelf.papers.append(make["SomePaper"](key, claims=(claim,)))
    return shelf


def test_every_verdict_has_an_entry_dated_by_its_newest_trial(wall: Path) -> None:
    found = {entry["id"]: entry for entry in entries(wall.parent)}
    assert found["urn:assay:beta:more_accurate"]["title"] == "Holds: beta/more_accurate"
    assert found["urn:assay:beta:more_accurate"]["updated"] == "2024-05-01T00:00:00Z"
    assert found["urn:assay:alpha:describes_the_run"]["updated"] == "2025-11-03T10:05:00Z"
    assert "urn:assay:alpha:costs_less" not in found
    root = feed(wall.parent)
    assert root.findtext(ATOM + "updated") == max(entry["updated"] for entry in found.values())
    assert root.findtext(ATOM + "id") == "urn:assay:wall"
    updated = [entry["updated"] for entry in entries(wall.parent)]
    assert updated == sorted(updated, reverse=True)


def test_entries_link_to_their_claims(wall: Path) -> None:
    for link in feed(wall.parent).findall(f"{ATOM}entry/{ATOM}link"):
        page, anchor = link.attrib["href"].split("#")
        assert f'id="{anchor}"' in (wall.parent / page).read_text()


def test_hostile_text_stays_text(wall: Path, make: Make) -> None:
    raw = (wall.parent / "feed.xml").read_text()
    assert "<script" not in raw
    assert "\x0b" not in raw
    shown = make["hostile"]().replace("\x0b", "\ufffd")
    assert any(shown in entry["summary"] for entry in entries(wall.parent))


def test_a_changed_verdict_gets_an_entry_of_its_own(make: Make, tmp_path: Path) -> None:
    shelf_with(make, 0.0, "2025-01-01T00:00:00+00:00").write(tmp_path)
    assert [entry["id"] for entry in entries(tmp_path)] == ["urn:assay:beta:more_accurate"]
    later = shelf_with(make, 6.0, "2025-02-01T00:00:00+02:00")
    for _ in range(2):  # writing again adds nothing
        later.write(tmp_path)
        first, second = sorted(entries(tmp_path), key=lambda entry: entry["id"])
        assert first["id"] == "urn:assay:beta:more_accurate"
        assert first["title"] == "Holds: beta/more_accurate"
        assert second["id"] == "urn:assay:beta:more_accurate:change-1"
        assert second["title"] == "undecided → holds: beta/more_accurate"
        assert second["updated"] == "2025-01-31T22:00:00Z"
    shelf_with(make, -6.0, "2025-03-01T00:00:00+00:00").write(tmp_path)
    titles = {entry["title"] for entry in entries(tmp_path)}
    assert titles >= {"undecided → holds: beta/more_accurate", "holds → fails: beta/more_accurate"}
    assert len({entry["id"] for entry in entries(tmp_path)}) == 3


def test_a_verdict_that_went_away_keeps_its_history(make: Make, tmp_path: Path) -> None:
    shelf = shelf_with(make, 6.0, "2025-01-01T00:00:00+00:00")
    shelf.write(tmp_path)
    known, shelf.known = shelf.known, {}
    shelf.write(tmp_path)
    assert entries(tmp_path) == []
    shelf.known = known
    shelf.write(tmp_path)
    assert [entry["title"] for entry in entries(tmp_path)] == ["Holds: beta/more_accurate"]


def test_a_wall_without_verdicts_has_an_empty_feed(make: Make, tmp_path: Path) -> None:
    make["Shelf"]().write(tmp_path)
    assert entries(tmp_path) == []
    assert feed(tmp_path).findtext(ATOM + "updated") == "2025-11-05T08:00:00Z"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"verdicts": 3}',
        '{"verdicts": {"a/b": {"outcome": "<b>", "updated": "", "changes": []}}, "pages": []}',
        '{"verdicts": {}, "pages": 7}',
        "\ufffd\x00",
    ],
)
def test_an_unreadable_state_is_kept_aside(make: Make, tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.warns(UserWarning, match=r"state\.json cannot be read"):
        shelf_with(make, 6.0, "2025-01-01T00:00:00+00:00").write(tmp_path)
    assert (tmp_path / "state.broken").read_text() == text
    assert json.loads((tmp_path / "state.json").read_text())["verdicts"]["beta/more_accurate"]["outcome"] == "holds"


def test_pages_of_papers_that_are_gone_are_removed_and_nothing_else(make: Make, tmp_path: Path) -> None:
    wall = tmp_path / "wall"
    shelf_with(make, 6.0, "2025-01-01T00:00:00+00:00", "old").write(wall)
    (wall / "papers" / "mine.html").write_text("kept")
    (tmp_path / "precious.html").write_text("kept")
    state = json.loads((wall / "state.json").read_text())
    state["pages"] += ["../precious.html", "papers/../../precious.html", "index.html"]
    (wall / "state.json").write_text(json.dumps(state))
    shelf_with(make, 6.0, "2025-01-01T00:00:00+00:00", "new").write(wall)
    assert sorted(path.name for path in (wall / "papers").iterdir()) == ["mine.html", "new.html"]
    assert (tmp_path / "precious.html").exists()
    assert (wall / "index.html").exists()
