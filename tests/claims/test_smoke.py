"""Every claim that ships runs at smoke size, and returns what its criterion reads."""

import math

import numpy as np
import pytest

from assay.lab import InlineExecutor, Study, papers
from assay.lab.study import results  # noqa: F401 (imports the judge before the first claim is timed)

CLAIMS = [(paper, outline) for paper in papers().values() for outline in paper.claims]


@pytest.mark.parametrize(("paper", "outline"), CLAIMS, ids=[outline.key for _, outline in CLAIMS])
def test_claim_runs_at_smoke_size(paper, outline):
    study = Study.of(paper, outline, "smoke")
    executor = InlineExecutor()
    found = {}
    for trial in study.trials(range(1)):
        executor.submit(trial)
        _, finished = executor.next()
        assert finished.status == "ok", finished.error
        found |= finished.results
    assert set(found) == set(outline.arms)
    for arm, measures in found.items():
        for name, value in measures.items():
            assert np.isfinite(value).all(), f"{name} of {arm} is {value}"
    for part in outline.holds.parts():
        assert math.isfinite(part.margin(found))
