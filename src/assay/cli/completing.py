"""What the shell may complete: paper keys and claim ids. Nothing here imports torch, and nothing here ever raises."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def complete_target(ctx: click.Context | None, param: click.Parameter | None, incomplete: str) -> list[CompletionItem]:
    """`KEY` and, once there is a slash or only one key is left, `KEY/CLAIM`; files when it looks like a path.

    >>> [item.value for item in complete_target(None, None, "cmd/few")]
    ['cmd/few_modes_model_the_run']
    """
    from assay.lab.catalogue import papers
    from assay.lab.claim import ClaimError

    if incomplete.startswith((".", "/", "~")):
        return [CompletionItem(incomplete, type="file")]
    try:
        known = papers()
        key, slash, _ = incomplete.partition("/")
        matching = (
            [known[key]] if slash and key in known else [p for p in known.values() if p.key.startswith(incomplete)]
        )
        items = [] if slash else [CompletionItem(paper.key, help=paper.title) for paper in matching]
        if len(matching) == 1:
            (paper,) = matching
            claims = [CompletionItem(outline.key, help=outline.says) for outline in paper.claims]
            items += [item for item in claims if item.value.startswith(incomplete)]
    except (ClaimError, OSError, SyntaxError):
        return []  # a broken claim file is told of when a command is run, not while it is typed
    return items


def complete_subject(ctx: click.Context | None, param: click.Parameter | None, incomplete: str) -> list[CompletionItem]:
    """Subjects that have papers.

    >>> [item.value for item in complete_subject(None, None, "prob")]
    ['probes']
    """
    from assay.lab.catalogue import papers
    from assay.lab.claim import ClaimError

    try:
        subjects = sorted({paper.subject for paper in papers().values()})
    except (ClaimError, OSError):
        return []
    return [CompletionItem(subject) for subject in subjects if subject.startswith(incomplete)]
