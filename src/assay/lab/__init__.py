"""The laboratory: claims, trials, the ledger and verdicts. It knows nothing of any method.

    from assay.lab import claim, higher          declare a claim (see `claim`)
    from assay.lab import run                    run claims from Python: run("cmd", seeds=5).verdicts
    from assay.lab import papers, search         the catalogue

What runs trials is imported when it is first asked for, so that listing papers stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from assay.lab.folder import StoreError
    from assay.lab.inline import InlineExecutor
    from assay.lab.ledger import Ledger
    from assay.lab.record import Record, Verdict
    from assay.lab.runner import Events, RunReport, run
    from assay.lab.study import Study, results
    from assay.lab.trial import Diverged

_LATER = {
    "StoreError": "folder",
    "InlineExecutor": "inline",
    "Ledger": "ledger",
    "Record": "record",
    "Verdict": "record",
    "Events": "runner",
    "RunReport": "runner",
    "run": "runner",
    "Study": "study",
    "results": "study",
    "Diverged": "trial",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)


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
