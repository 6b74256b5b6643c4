"""The results that ship: readable, judged anew to what their summary says, and of claims that there are."""

import pytest

from assay.lab import Ledger, papers
from assay.lab.pack import best, shipped, summaries

SHIPPED = {paper.key: paper for paper in papers().values() if paper.pack.exists()}


def test_the_papers_that_have_been_run_ship_their_results():
    assert {"cmd", "controls"} <= set(SHIPPED)


@pytest.mark.parametrize("paper", SHIPPED.values(), ids=SHIPPED)
def test_what_ships_has_five_seeds_at_laptop_size(paper):
    """The first claim of a paper, its headline, is always among what ships."""
    known = summaries(paper)
    assert paper.claims[0].id in known
    assert set(known) <= {outline.id for outline in paper.claims}
    for entry in known.values():
        assert entry["size"] == "laptop"
        assert entry["seeds"] >= 5
        assert entry["verdict"] in ("holds", "fails", "undecided")


@pytest.mark.parametrize("paper", SHIPPED.values(), ids=SHIPPED)
def test_the_summary_is_what_its_trials_say(paper):
    for outline in paper.claims:
        if outline.id not in summaries(paper):
            continue
        _, found = best(paper, outline, shipped(paper))
        assert found.verdict.outcome == summaries(paper)[outline.id]["verdict"]
        assert not found.verdict.missing
        for part in found.verdict.parts:
            assert len(part.margins) == summaries(paper)[outline.id]["seeds"]


@pytest.mark.parametrize("paper", SHIPPED.values(), ids=SHIPPED)
def test_every_record_is_whole(paper):
    """Arrays load, and code and provenance are there: with warnings being errors, an unreadable file fails here."""
    ledger = Ledger(paper.pack)
    records = list(ledger.records(arrays=True))
    assert records
    for record in records:
        assert record.status in ("ok", "diverged")
        assert ledger.code(record.code) is not None
        assert ledger.provenance(record.provenance)["cores"] >= 1


def test_no_control_holds():
    verdicts = {identifier: entry["verdict"] for identifier, entry in summaries(SHIPPED["controls"]).items()}
    assert "holds" not in verdicts.values(), verdicts
