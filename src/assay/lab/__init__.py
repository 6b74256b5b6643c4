"""The laboratory: claims, trials, the ledger and verdicts. It knows nothing of any method.

from assay.lab import claim, higher          declare a claim (see `claim`)
from assay.lab import run                    run claims from Python: run("cmd", seeds=5).verdicts
from assay.lab import papers, search         the catalogue
"""

from assay.lab.catalogue import Paper, find, papers, search
from assay.lab.claim import Claim, ClaimError, ClaimOutline, Tune, claim
from assay.lab.criterion import (
    Criterion,
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
from assay.lab.folder import StoreError
from assay.lab.inline import InlineExecutor
from assay.lab.ledger import Ledger
from assay.lab.record import Record, Verdict
from assay.lab.runner import Events, RunReport, run
from assay.lab.study import Study, results
from assay.lab.trial import Diverged

__all__ = [
    "Claim",
    "ClaimError",
    "ClaimOutline",
    "Criterion",
    "Diverged",
    "Events",
    "InlineExecutor",
    "Ledger",
    "Paper",
    "Record",
    "RunReport",
    "StoreError",
    "Study",
    "Tune",
    "Verdict",
    "all_of",
    "at_least",
    "at_most",
    "claim",
    "close",
    "find",
    "higher",
    "identical",
    "lower",
    "monotone",
    "papers",
    "ratio",
    "results",
    "run",
    "search",
]
