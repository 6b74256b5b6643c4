"""Starlight: one network that straight lines of low loss join to all others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from assay.probes.git_rebasin import weight_matching
from assay.probes.path import Refresh, barrier, interpolate
from assay.probes.permutation import PermutationSpec, tensors_of

SAMPLINGS = ("uniform", "beta", "middle")


class Starlight:
    r"""The objective of a network that straight lines of low loss join to all others, its anchors.

    $\min_s\ E_{i,\,t \sim U(0,1)}\, L\big((1 - t)\,s + t\,\pi_i(a_i)\big)$

    A learning rule for `assay.train.fit`, and a callback: `fit(star, data, optimizer, rule=starlight, on_epoch=
    starlight.align)`. Each batch takes one random anchor and one t; the gradient goes to the star alone, $1 - t$ times
    that of the network in between. `align` permutes every anchor anew to match the star as it is.

    Args:
        star: what is trained, from a fresh initialisation as a rule.
        anchors: trained networks of the same shape, one or more; copies are kept, aligned to the star at once.
        spec: which axes go together.
        sampling: of t: `"uniform"`; `"beta"`, Beta(2, 2); `"middle"`, always 1/2.
        star_weight: $\mu \ge 0$; the objective becomes $(L + \mu\, L(s)) / (1 + \mu)$.
        align: whether anchors are permuted at all.
        generator: of anchors, t and the order of weight matching.

    Sonthalia et al., 2024 (arXiv:2403.07968), section 3, algorithm 1; the other samplings and `star_weight` are those
    of the authors' code.

    In training mode the network in between normalizes with the statistics of the batch; the running ones of the star
    are not touched: estimate them anew with `assay.probes.refresh_batch_norm`.

    Raises:
        ValueError: for no anchors, anchors or a spec that do not fit the star, an unknown sampling, a negative weight;
            when called as a rule, for another model.

    Example:
        >>> star, anchor = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> star.weight.data, anchor.weight.data = torch.tensor([[3.0]]), torch.tensor([[1.0]])
        >>> starlight = Starlight(star, [anchor], PermutationSpec.of(star, torch.ones(2, 1)), sampling="middle")
        >>> value = starlight.loss(torch.ones(1, 1), torch.zeros(1, 1), nn.functional.mse_loss)
        >>> value.backward()
        >>> value.item(), star.weight.grad.item()    # w = 2: w^2, and half of 2 w
        (4.0, 2.0)
    """

    def __init__(
        self,
        star: nn.Module,
        anchors: Sequence[nn.Module],
        spec: PermutationSpec,
        *,
        sampling: str = "uniform",
        star_weight: float = 0.0,
        align: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        if not anchors:
            raise ValueError("anchors must be one network or more: got none")
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}: got {sampling!r}")
        if not 0 <= star_weight < float("inf"):
            raise ValueError(f"star_weight must be 0 or more, and finite: got {star_weight}")
        spec.sizes(star)
        shapes = {name: t.shape for name, t in tensors_of(star).items()}
        for number, anchor in enumerate(anchors):
            if {name: t.shape for name, t in tensors_of(anchor).items()} != shapes:
                raise ValueError(f"anchors must have the tensors of the star: anchor {number} has others")
        self.star, self.spec, self.sampling, self.star_weight = star, spec, sampling, star_weight
        self.aligned, self.generator = align, generator
        self.anchors = [copy.deepcopy(anchor) for anchor in anchors]
        self.align()

    def align(self, model: nn.Module | None = None) -> None:
        """Permute every anchor to match the star's present weights; nothing where `align` is False.

        Args:
            model: not looked at; there so that this can be a callback of a training loop.
        """
        if not self.aligned:
            return
        for number, anchor in enumerate(self.anchors):
            found = weight_matching(self.star, anchor, self.spec, generator=self.generator)
            self.anchors[number] = self.spec.apply(found, anchor)

    def loss(self, inputs: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, ""]:
        """The objective for one batch, one anchor and one t; it can be differentiated in the star's parameters."""
        number = int(torch.randint(len(self.anchors), (), generator=self.generator))
        return self._at(number, self._t(), inputs, targets, loss)

    def __call__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """As a learning rule: fills the star's gradients."""
        if model is not self.star:
            raise ValueError(f"model must be the star that this was made for: got another {type(model).__name__}")
        value = self.loss(inputs, targets, loss)
        value.backward()
        return value.detach()

    def _t(self) -> float:
        if self.sampling == "middle":
            return 0.5
        if self.sampling == "uniform":
            return torch.rand((), generator=self.generator).item()
        return torch.rand(3, generator=self.generator).median().item()  # the middle one of three is Beta(2, 2)

    def _at(
        self, number: int, t: float, inputs: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        anchor = dict(self.anchors[number].named_parameters())
        between = {name: (1 - t) * p + t * anchor[name].detach() for name, p in self.star.named_parameters()}
        between |= {name: buffer.clone() for name, buffer in self.star.named_buffers()}
        value = loss(functional_call(self.star, between, (inputs,)), targets)
        if self.star_weight > 0:
            value = (value + self.star_weight * loss(self.star(inputs), targets)) / (1 + self.star_weight)
        return value


def star_samples(
    star: nn.Module, models: Sequence[nn.Module], num: int, *, generator: torch.Generator | None = None
) -> Iterator[nn.Module]:
    r"""Networks drawn from a star domain: $(1 - t)\,s + t\,\theta_i$ with i and t ~ U(0, 1) at random.

    Averaging their predictions is the paper's Bayesian model average.

    Args:
        star: the centre.
        models: networks aligned to it, such as `Starlight.anchors`; one or more.
        num: how many to draw, 0 or more.
        generator: of i and t.

    The paper: section 4.3.

    Raises:
        ValueError: for no models, a negative number, models of other shapes.

    Example:
        >>> star, end = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> star.weight.data, end.weight.data = torch.tensor([[2.0]]), torch.tensor([[3.0]])
        >>> drawn = [m.weight.item() for m in star_samples(star, [end], 100)]
        >>> bool(2 <= min(drawn) < 2.2 and 2.8 < max(drawn) <= 3)
        True
    """
    if not models:
        raise ValueError("models must be one network or more: got none")
    if num < 0:
        raise ValueError(f"num must not be negative: got {num}")
    for _ in range(num):
        number = int(torch.randint(len(models), (), generator=generator))
        yield interpolate(star, models[number], torch.rand((), generator=generator).item())


def star_barriers(
    star: nn.Module,
    held_out: Sequence[nn.Module],
    loss: Callable[[nn.Module], float],
    spec: PermutationSpec,
    *,
    points: int = 21,
    refresh: Refresh | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " n"]:
    """The barrier from a centre to each of several networks, each first aligned to it.

    To be asked of networks that were no anchors, and of an ordinary network in the star's place to compare with.

    Args:
        star: the centre.
        held_out: n networks, one or more.
        loss: as for `assay.probes.barrier`.
        spec: which axes go together.
        points: of each line, at least 3.
        refresh: as for `assay.probes.barrier`.
        generator: of the order of weight matching.

    Raises:
        ValueError: for no networks, or as `weight_matching` and `barrier` say.

    Example:
        >>> star = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> spec = PermutationSpec.of(star, torch.ones(2, 1))
        >>> turned = spec.apply({"0": torch.tensor([2, 0, 1])}, star)
        >>> star_barriers(star, [star, turned], lambda model: model(torch.ones(1, 1)).item() ** 2, spec)
        tensor([0., 0.], dtype=torch.float64)
    """
    if not held_out:
        raise ValueError("held_out must be one network or more: got none")
    heights = []
    for model in held_out:
        moved = spec.apply(weight_matching(star, model, spec, generator=generator), model)
        heights.append(barrier(star, moved, loss, points=points, refresh=refresh).height)
    return torch.tensor(heights, dtype=torch.float64)
