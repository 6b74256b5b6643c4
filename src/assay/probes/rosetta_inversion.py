"""From an image to a generator's code, through units that two models have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from assay.probes.activations import evaluated, record_activations, watched
from assay.probes.rosetta_neurons import Member, Unit


class Inversion(NamedTuple):
    """What `rosetta_inversion` finds for each target.

    Args:
        codes: of the best start.
        images: what the generator makes of them.
        similarity: of the units' maps, mean over pairs, in [-1, 1].
    """

    codes: Float[Tensor, "n ..."]
    images: Float[Tensor, "n c h w"]
    similarity: Float[Tensor, " n"]


def rosetta_inversion(
    generator: Member,
    model: Member,
    pairs: Sequence[tuple[Unit, Unit]],
    targets: Float[Tensor, "n c h w"],
    starts: Float[Tensor, "..."],
    samples: Float[Tensor, "..."],
    *,
    steps: int = 300,
    lr: float = 0.05,
) -> Inversion:
    r"""Codes whose images excite the generator's units where the targets excite their counterparts in another model.

    $\max_z \frac{1}{|P|} \sum_{(u, v) \in P} \cos\big(\tilde a_u(z), \tilde b_v(x)\big)$ over the positions of one
    image, both maps at the larger size and standardized, $\tilde a = (a - \mu) / \sigma$, with the mean and standard
    deviation of the unit over samples; by Adam from each start, of which the best counts. The target is seen through
    these units alone.

    Args:
        generator: takes codes; in evaluation mode meanwhile, its weights and their gradients left alone.
        model: takes images.
        pairs: a unit of the generator and its counterpart in the model; see `mine_rosetta`.
        targets: images, as the model is shown those of the generator.
        starts: (restarts, n, ...), codes.
        samples: (m, ...), codes over which units are standardized; two or more.
        steps: of Adam.
        lr: its learning rate.

    Dravid et al., 2023 (arXiv:2306.09346), section 4; without the additional image losses.

    Raises:
        ValueError: for no pairs, starts that do not fit the targets, fewer than two samples, steps below 1, a learning
            rate that is not positive.

    Example:
        >>> generator = torch.nn.Unflatten(1, (1, 2, 2))    # codes are images
        >>> own = Member(torch.nn.Sequential(generator), ["0"])
        >>> eye = Member(torch.nn.Sequential(torch.nn.Identity()), ["0"])
        >>> target = torch.tensor([[[[1.0, 0.0], [0.0, -1.0]]]])
        >>> samples = torch.tensor([[1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]])
        >>> start = torch.tensor([[[0.1, 0.2, -0.1, 0.1]]])
        >>> pair = [(Unit("0", 0), Unit("0", 0))]
        >>> found = rosetta_inversion(own, eye, pair, target, start, samples, steps=200)
        >>> (found.images / found.images.max()).round(decimals=1).abs(), round(found.similarity.item(), 2)
        (tensor([[[[1., 0.],
              [0., 1.]]]]), 1.0)
    """
    if not pairs:
        raise ValueError("pairs must have at least one pair of units: got none")
    if starts.ndim < 3 or len(starts) == 0 or starts.shape[1] != len(targets):
        raise ValueError(f"starts must be (restarts, {len(targets)}, ...): got {tuple(starts.shape)}")
    if len(samples) < 2:
        raise ValueError(f"samples must be two codes or more: got {len(samples)}")
    if steps < 1 or not lr > 0:
        raise ValueError(f"steps must be at least 1 and lr above 0: got {steps} and {lr}")
    with evaluated(generator.model), torch.no_grad():
        shown = generator.model(generator.prepare(samples))
    own = _chosen(generator, samples, [u for u, _ in pairs])
    theirs = _chosen(model, shown, [v for _, v in pairs])
    wanted = _chosen(model, targets, [v for _, v in pairs])
    scales = [[(maps.mean(), maps.std().clamp_min(1e-8)) for maps in side] for side in (own, theirs)]
    restarts = len(starts)
    goals = [
        ((maps - mean) / deviation).repeat(restarts, 1, 1)
        for maps, (mean, deviation) in zip(wanted, scales[1], strict=True)
    ]
    codes = starts.detach().flatten(0, 1).clone().requires_grad_()
    optimizer = torch.optim.Adam([codes], lr=lr)
    layers = list(dict.fromkeys(u.layer for u, _ in pairs))
    best, least = codes.detach().clone(), torch.full((len(codes),), -torch.inf, device=codes.device)
    with evaluated(generator.model), torch.enable_grad():
        for step in range(steps + 1):
            with watched(generator.model, layers) as seen:
                generator.model(generator.prepare(codes))
            maps = [generator.maps(seen[u.layer])[:, u.channel] for u, _ in pairs]
            alike = torch.stack(
                [
                    _cosine((m - mean) / deviation, goal)
                    for m, (mean, deviation), goal in zip(maps, scales[0], goals, strict=True)
                ]
            ).mean(0)
            better = alike.detach() > least
            least = torch.where(better, alike.detach(), least)
            best[better] = codes.detach()[better]
            if step < steps:
                (codes.grad,) = torch.autograd.grad(-alike.sum(), codes)
                optimizer.step()
    least = least.view(restarts, -1)
    chosen = best.view_as(starts)[least.argmax(0), torch.arange(len(targets), device=codes.device)]
    with evaluated(generator.model), torch.no_grad():
        return Inversion(chosen, generator.model(generator.prepare(chosen)), least.amax(0))


def _chosen(member: Member, inputs: Tensor, units: list[Unit]) -> list[Tensor]:
    """The maps (n, h, w) of each unit."""
    layers = list(dict.fromkeys(unit.layer for unit in units))
    found = record_activations(member.model, layers, member.prepare(inputs))
    return [member.maps(found[unit.layer])[:, unit.channel] for unit in units]


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    size = (max(one.shape[1], other.shape[1]), max(one.shape[2], other.shape[2]))
    rows = [
        (x if tuple(x.shape[1:]) == size else F.interpolate(x[:, None], size=size, mode="bilinear")[:, 0]).flatten(1)
        for x in (one, other)
    ]
    return F.cosine_similarity(*rows, dim=1)
