"""Rosetta neurons: units of one model that have a counterpart in every other model of a zoo."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from assay.probes.activations import evaluated, record_activations, watched
from assay.probes.matching import UnitCorrelation, best_buddies, unit_samples

Maps = Mapping[str, Tensor]


class Unit(NamedTuple):
    """A channel of a layer.

    Args:
        layer: name of the module.
        channel: number of the channel.
    """

    layer: str
    channel: int


class Member(NamedTuple):
    """A model of a zoo.

    Args:
        model: takes a batch of images (or, of a generator, of codes).
        layers: names of modules whose outputs are maps (n, c, h, w), or become so by `maps`.
        prepare: what is done to images before they go in: resizing, normalization.
        maps: what is done to each output; see `token_maps`.
    """

    model: nn.Module
    layers: Sequence[str]
    prepare: Callable[[Tensor], Tensor] = nn.Identity()
    maps: Callable[[Tensor], Tensor] = nn.Identity()


def token_maps(tokens: Float[Tensor, "n t d"], *, extra: int = 1) -> Float[Tensor, "n d s s"]:
    """Tokens of a vision transformer as maps: those in front that stand for no patch are dropped, the rest is a grid.

    Args:
        tokens: (n, t, d), with a square number of patches, row by row.
        extra: how many come before the first patch (a class token).

    Dravid et al., 2023 (arXiv:2306.09346), section 3.

    Raises:
        ValueError: for a number of patches that is not square.

    Example:
        >>> token_maps(torch.arange(5.0).view(1, 5, 1))
        tensor([[[[1., 2.],
                  [3., 4.]]]])
    """
    count = tokens.shape[1] - extra
    side = math.isqrt(max(count, 0))
    if extra < 0 or count < 1 or side**2 != count:
        raise ValueError(f"tokens must be a square number of patches after {extra}: got {count}")
    return tokens[:, extra:].transpose(1, 2).unflatten(2, (side, side))


class MapCorrelation:
    r"""Correlation of the maps of every unit of one model with those of every unit of another, batch by batch.

    Both maps of a pair are brought to the size of the larger one, bilinearly; then
    $r = \mathrm{corr}(a, b)$ over all images and positions. Memory is that of the table and one batch.

    Args:
        dead: units below this share of the largest standard deviation of their layer get 0.

    Dravid et al., 2023 (arXiv:2306.09346), equation 1.

    Differs from the paper: moments are accumulated over all images. The authors' code averages the correlations of
    batches, which depends on their size, and takes means before resizing.

    Raises:
        ValueError: for maps that are not (n, c, h, w), or of different images.

    Example:
        >>> a, b = torch.randn(6, 2, 4, 4), torch.randn(6, 3, 2, 2)
        >>> both = MapCorrelation()
        >>> both.update({"one": a}, {"up": F.interpolate(a, size=(8, 8), mode="bilinear"), "other": b})
        >>> both.value().shape, both.value()[:, :2].diagonal().round(decimals=6)    # each of `one` with itself, resized
        (torch.Size([2, 5]), tensor([1., 1.], dtype=torch.float64))
    """

    def __init__(self, *, dead: float = 1e-6) -> None:
        self.dead = dead
        self.pairs: dict[tuple[str, str], UnitCorrelation] = {}
        self.units: tuple[list[Unit], list[Unit]] = ([], [])

    def update(self, a: Maps, b: Maps) -> None:
        """Take a batch: maps of the same images in both models, by layer."""
        if not a or not b:
            raise ValueError("a and b must have at least one layer: got none")
        for name, maps in (*a.items(), *b.items()):
            if maps.ndim != 4:
                raise ValueError(f"maps must be (n, c, h, w): got {tuple(maps.shape)} of {name!r}")
        sizes = {len(maps) for maps in (*a.values(), *b.values())}
        if len(sizes) != 1:
            raise ValueError(f"a and b must be of the same images: got {sorted(sizes)}")
        self.units = tuple([Unit(n, c) for n, m in x.items() for c in range(m.shape[1])] for x in (a, b))  # type: ignore[assignment]
        resized: dict[tuple[int, str, int, int], Tensor] = {}

        def rows(side: int, name: str, maps: Tensor, size: tuple[int, int]) -> Tensor:
            key = (side, name, *size)
            if key not in resized:
                fits = tuple(maps.shape[2:]) == size
                resized[key] = unit_samples(maps if fits else F.interpolate(maps, size=size, mode="bilinear"))
            return resized[key]

        for one, x in a.items():
            for two, y in b.items():
                size = (max(x.shape[2], y.shape[2]), max(x.shape[3], y.shape[3]))
                pair = self.pairs.setdefault((one, two), UnitCorrelation(dead=self.dead))
                pair.update(rows(0, one, x, size), rows(1, two, y, size))

    def value(self) -> Float[Tensor, "P Q"]:
        """r, float64: all units of all layers of one model against all of the other, in the order of `units`."""
        if not self.pairs:
            raise ValueError("update must have been called: there are no maps yet")
        firsts, seconds = (list(dict.fromkeys(pair[side] for pair in self.pairs)) for side in (0, 1))
        return torch.cat([torch.cat([self.pairs[one, two].value() for two in seconds], 1) for one in firsts])


def map_correlation(a: Maps, b: Maps) -> Float[Tensor, "P Q"]:
    """`MapCorrelation` of maps that are all there: every unit of every layer of `a` against every one of `b`.

    Args:
        a: layer -> maps (n, c, h, w) of one model.
        b: of another, for the same images.

    Dravid et al., 2023 (arXiv:2306.09346), equation 1.

    Raises:
        ValueError: as `MapCorrelation` does.

    Example:
        >>> maps = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
        >>> map_correlation({"a": maps}, {"b": torch.cat([-maps, maps**2], 1)})
        tensor([[-1.0000,  0.9583]], dtype=torch.float64)
    """
    both = MapCorrelation()
    both.update(a, b)
    return both.value()


class Tables(NamedTuple):
    """What `zoo_tables` finds.

    Args:
        units: the anchor's, in the order of rows.
        others: name -> units of that model, in the order of columns.
        scores: name -> correlation of the anchor's units with that model's.
    """

    units: list[Unit]
    others: dict[str, list[Unit]]
    scores: dict[str, Float[Tensor, "P Q"]]


def zoo_tables(
    anchor: Member,
    others: Mapping[str, Member],
    inputs: Tensor,
    *,
    generative: bool = False,
    images: Tensor | None = None,
    batch_size: int = 100,
) -> Tables:
    """Correlation of an anchor's units with those of every other model, on the same images.

    Args:
        anchor: the model whose units are looked for in the others.
        others: name -> model; at least one.
        inputs: what the anchor takes: images, or of a generator codes.
        generative: the anchor's output is what the others are shown.
        images: what the others are shown instead, one for each input.
        batch_size: examples at a time.

    Dravid et al., 2023 (arXiv:2306.09346), section 3.

    Raises:
        ValueError: for an empty zoo, no inputs, images that are not as many as inputs.

    Example:
        >>> one = Member(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()), ["0"])
        >>> tables = zoo_tables(one, {"itself": one}, torch.randn(4, 1, 8, 8))
        >>> tables.scores["itself"].diagonal().round(decimals=6), tables.units[2]
        (tensor([1., 1., 1.], dtype=torch.float64), Unit(layer='0', channel=2))
    """
    if not others:
        raise ValueError("others must have at least one model: got none")
    if len(inputs) == 0 or batch_size < 1:
        raise ValueError(f"inputs and batch_size must be at least 1: got {len(inputs)} and {batch_size}")
    if images is not None and len(images) != len(inputs):
        raise ValueError(f"images must be as many as inputs, {len(inputs)}: got {len(images)}")
    gathered = {name: MapCorrelation() for name in others}
    for start in range(0, len(inputs), batch_size):
        part = inputs[start : start + batch_size]
        with evaluated(anchor.model), torch.no_grad(), watched(anchor.model, anchor.layers) as seen:
            out = anchor.model(anchor.prepare(part))
        own = {layer: anchor.maps(seen[layer]) for layer in anchor.layers}
        shown = (out if generative else part) if images is None else images[start : start + batch_size]
        for name, member in others.items():
            found = record_activations(member.model, member.layers, member.prepare(shown), batch_size=batch_size)
            gathered[name].update(own, {layer: member.maps(maps) for layer, maps in found.items()})
    units = next(iter(gathered.values())).units[0]
    return Tables(
        units, {name: g.units[1] for name, g in gathered.items()}, {name: g.value() for name, g in gathered.items()}
    )


@dataclass(frozen=True)
class RosettaDictionary:
    """Units that go together across models.

    Args:
        models: names of the other models.
        entries: the anchor's unit, and its counterpart in each other model in the order of `models`.
        scores: of the anchor's unit with each counterpart, (entries, models).
    """

    models: list[str]
    entries: list[tuple[Unit, ...]]
    scores: Float[Tensor, "e m"]

    def scores_on(self, tables: Tables) -> Float[Tensor, "e m"]:
        """The scores of the same entries on other images."""
        row = {unit: number for number, unit in enumerate(tables.units)}
        column = {name: {unit: number for number, unit in enumerate(tables.others[name])} for name in self.models}
        found = [
            [tables.scores[n][row[entry[0]], column[n][u]] for n, u in zip(self.models, entry[1:], strict=True)]
            for entry in self.entries
        ]
        return torch.tensor(found, dtype=torch.float64).view(len(self.entries), len(self.models))

    def save(self, path: str | Path) -> None:
        """Into one safetensors file, names in its header."""
        save_file({"scores": self.scores.contiguous()}, path, {"rosetta": json.dumps([self.models, self.entries])})

    @classmethod
    def load(cls, path: str | Path) -> RosettaDictionary:
        """What `save` wrote."""
        with safe_open(path, framework="pt") as file:
            models, entries = json.loads(file.metadata()["rosetta"])
            return cls(models, [tuple(Unit(*unit) for unit in entry) for entry in entries], file.get_tensor("scores"))


def mine_rosetta(tables: Tables, *, k: int = 5) -> RosettaDictionary:
    """The anchor's units that have a best buddy in every other model.

    There are always some, between untrained networks too: look at how many there are without training, and at their
    scores on other images.

    Args:
        tables: of `zoo_tables`.
        k: as in `best_buddies`; 1 asks for mutual nearest neighbours.

    Dravid et al., 2023 (arXiv:2306.09346), section 3.

    Raises:
        ValueError: for k below 1.

    Example:
        >>> units = [Unit("conv", 0), Unit("conv", 1)]
        >>> scores = {"x": torch.tensor([[0.9, 0.1], [0.2, 0.8]]), "y": torch.tensor([[0.1, 0.7], [0.0, 0.6]])}
        >>> found = mine_rosetta(Tables(units, {"x": units, "y": units}, scores), k=1)
        >>> found.entries     # unit 1 is not the best for what is its own best in y
        [(Unit(layer='conv', channel=0), Unit(layer='conv', channel=0), Unit(layer='conv', channel=1))]
    """
    buddies = {name: best_buddies(score, k) for name, score in tables.scores.items()}
    rows = [i for i in range(len(tables.units)) if all(i in each for each in buddies.values())]
    entries = [(tables.units[i], *(tables.others[n][buddies[n][i]] for n in buddies)) for i in rows]
    scores = [[tables.scores[n][i, buddies[n][i]] for n in buddies] for i in rows]
    return RosettaDictionary(
        list(buddies), entries, torch.tensor(scores, dtype=torch.float64).view(len(rows), len(buddies))
    )
