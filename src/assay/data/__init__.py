"""Real data that are there without the internet, standard data that are not, and data made from formulas.

Labelled sets come from `load`, as a `Split` of `Labelled` parts; whatever makes examples returns a `Labelled`:

    class Labelled(NamedTuple):
        inputs: Tensor      # (n, ...)
        targets: Tensor     # (n, ...)

and whatever learns takes one (`assay.train.fit`) or walks it with `batches`. Pictures come from `photos`, as a dict of
(c, h, w) tensors in [0, 1], split by picture by `photo_split`, under another light by `relight`, and from `patches` of
them; planted truths from `blobs`, `spirals`, `moons`, `sinusoids`, `linear_regression`, `friedman`,
`piecewise_constant_signal`, `piecewise_constant_image`, `low_rank`; sentences from `markov_language`, whose words
follow `zipf`; pairs that belong together from `paired_halves`; sums modulo a number from `modular_arithmetic`; faces
from `parametric_faces`; scenes with objects to be found from `dense_digits`; worlds of spheres and boxes, with their
depth, from `scenes.render`, and in motion from `moving_scenes`; walks in a maze from `PointMaze`.
Randomness comes from a seed (`load`) or a `torch.Generator` (the rest).
The licence of everything that ships is in `LICENSES.md` beside this file.
"""

from . import scenes
from .dense_digits import Scenes, dense_digits
from .friedman import friedman
from .generators import (
    blobs,
    linear_regression,
    low_rank,
    moons,
    piecewise_constant_image,
    piecewise_constant_signal,
    sinusoids,
    spirals,
)
from .language import markov_language, zipf
from .modular_arithmetic import modular_arithmetic
from .moving_scenes import Clips, moving_scene, moving_scenes
from .paired_halves import paired_halves
from .parametric_faces import Faces, parametric_faces
from .photo_split import photo_split
from .photos import patches, photos
from .point_maze import PointMaze, Transitions
from .relight import relight
from .remote import Unavailable
from .split import Labelled, Split, batches, load

__all__ = [
    "Clips",
    "Faces",
    "Labelled",
    "PointMaze",
    "Scenes",
    "Split",
    "Transitions",
    "Unavailable",
    "batches",
    "blobs",
    "dense_digits",
    "friedman",
    "linear_regression",
    "load",
    "low_rank",
    "markov_language",
    "modular_arithmetic",
    "moons",
    "moving_scene",
    "moving_scenes",
    "paired_halves",
    "parametric_faces",
    "patches",
    "photo_split",
    "photos",
    "piecewise_constant_image",
    "piecewise_constant_signal",
    "relight",
    "scenes",
    "sinusoids",
    "spirals",
    "zipf",
]
