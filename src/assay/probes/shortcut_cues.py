"""Which of several cues that say the same a classifier follows, and whether it stays with it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay.curvature import filter_normalized_direction
from assay.curvature.hessian import evaluating
from assay.data import Labelled
from assay.data.sprites import sprites

CUES = ("color", "shape", "scale", "orientation")


class CueTest:
    """Train where all cues predict the label, test where they disagree (WCST-ML, after a card-sorting test).

    On the diagonal each cue alone is enough for all of the accuracy. Off it, cues are independent: the accuracy against
    a cue tells how far a model follows that one. Who follows one only scores 1 there, and 1 in 3 elsewhere.

    Args:
        num_classes: 3, as cues have three values.
        cue_names: what the columns are called, four different names.

    Scimeca et al., 2021 (arXiv:2110.03095), section 3; images of `assay.data.sprites`.

    Raises:
        ValueError: for another number of classes, names that are not four different ones; from the methods, for a cue
            of another name and counts below 1.

    Example:
        >>> test = CueTest()
        >>> images, labels = test.diagonal(50, generator=torch.Generator().manual_seed(0))
        >>> bool((images.amax(dim=(2, 3)).argmax(1) == labels).all())  # colour says it
        True
        >>> class Color(nn.Module):
        ...     def forward(self, x):
        ...         return x.sum(dim=(2, 3))
        >>> scores = test.score(Color(), 300, generator=torch.Generator().manual_seed(0))
        >>> scores["color"], scores["shape"] < 0.5
        (1.0, True)
    """

    def __init__(self, num_classes: int = 3, cue_names: Sequence[str] = CUES) -> None:
        if num_classes != 3:
            raise ValueError(f"num_classes must be 3, as the cues of sprites have three values: got {num_classes}")
        if len(cue_names) != 4 or len(set(cue_names)) != 4:
            raise ValueError(f"cue_names must be four different names: got {tuple(cue_names)}")
        self.num_classes, self.cue_names = num_classes, tuple(cue_names)

    def diagonal(self, n: int, generator: torch.Generator | None = None) -> Labelled:
        """n images (n, 3, 32, 32) whose cues all equal their label."""
        labels = torch.randint(3, (n,), generator=generator)
        images, _ = sprites(n, cues=labels[:, None].expand(n, 4), generator=generator)
        return Labelled(images, labels)

    def off_diagonal(self, n: int, generator: torch.Generator | None = None) -> Labelled:
        """n images with cues that are independent and uniform; the targets are the cues, (n, 4)."""
        return Labelled(*sprites(n, generator=generator))

    def biased(self, n: int, cue: str, generator: torch.Generator | None = None) -> Labelled:
        """n images with independent cues, labelled by one of them."""
        if cue not in self.cue_names:
            raise ValueError(f"cue must be one of {', '.join(self.cue_names)}: got {cue!r}")
        images, cues = sprites(n, generator=generator)
        return Labelled(images, cues[:, self.cue_names.index(cue)])

    def score(
        self, model: nn.Module, n: int = 2000, *, generator: torch.Generator | None = None, batch_size: int = 500
    ) -> dict[str, float]:
        """The accuracy against each cue on n images off the diagonal.

        Args:
            model: images (n, 3, 32, 32) -> logits (n, 3); used in evaluation mode and left as it was.
            n: at least 1.
            generator: where the images come from.
            batch_size: images a forward pass, at least 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1: got {batch_size}")
        images, cues = self.off_diagonal(n, generator)
        with torch.no_grad(), evaluating(model):
            said = torch.cat([_said(model(part)) for part in images.split(batch_size)])
        right = (said[:, None] == cues).double().mean(0)
        return dict(zip(self.cue_names, right.tolist(), strict=True))


def basin_retention(
    model: nn.Module,
    retrain: Callable[[nn.Module], Any],
    score: Callable[[nn.Module], Mapping[str, float]],
    *,
    radius: float,
    draws: int = 4,
    generator: torch.Generator | None = None,
) -> float:
    r"""The share of perturbed and retrained copies whose best score is for what the model's best was for.

    Each copy starts at $\theta + r d$, with d as long as the weights, filter by filter.

    Args:
        model: the solution; left as it was.
        retrain: trains a copy in place, on data that allow several kinds of solution.
        score: model -> how far it is of each kind, such as `CueTest().score`.
        radius: r, 0 or more.
        draws: copies, at least 1.
        generator: where the directions come from; None is torch's global generator.

    After Scimeca et al., 2021 (arXiv:2110.03095), section 4.

    Differs from the paper: it judges how abundant a kind of solution is by the paths that training takes; this measures
    by perturbation.

    Raises:
        ValueError: for a radius or a count out of range, no scores.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(line.weight, 0.2)
        >>> sign = lambda net: {"up": net.weight.item(), "down": -net.weight.item()}
        >>> basin_retention(line, lambda net: None, sign, radius=0.5, draws=20)  # too near to change sides
        1.0
        >>> share = basin_retention(line, lambda net: None, sign, radius=2.0, draws=20)
        >>> 0 < share < 1
        True
    """
    if not 0 <= radius < math.inf:
        raise ValueError(f"radius must be 0 or more and finite: got {radius}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1: got {draws}")
    kind = _best(score(model))
    kept = 0
    for _ in range(draws):
        other = copy.deepcopy(model)
        weights = [p for p in other.parameters() if p.requires_grad]
        with torch.no_grad():
            torch._foreach_add_(weights, filter_normalized_direction(model, generator=generator), alpha=radius)
        retrain(other)
        kept += _best(score(other)) == kind
    return kept / draws


def _said(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] != 3:
        raise ValueError(f"model must return logits (n, 3): got {tuple(logits.shape)}")
    return logits.argmax(1)


def _best(scores: Mapping[str, float]) -> str:
    if not scores:
        raise ValueError("score must return a number for each kind: got none")
    return max(scores, key=lambda name: scores[name])
