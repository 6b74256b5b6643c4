"""Real data that are there without the internet, standard data that are not, and data made from formulas.

Labelled sets come from `load`, as a `Split` of `Labelled` parts; whatever makes examples returns a `Labelled`:

    class Labelled(NamedTuple):
        inputs: Tensor      # (n, ...)
        targets: Tensor     # (n, ...)

and whatever learns takes one (`assay.train.fit`) or walks it with `batches`. Pictures come from `photos`, as a dict of
(c, h, w) tensors in [0, 1], split by picture by `photo_split`, and from `patches` of them; planted truths from `blobs`,
`spirals`, `moons`, `sinusoids`, `linear_regression`, `friedman`, `piecewise_constant_signal`,
`piecewise_constant_image`, `low_rank`; sentences from `markov_language`, whose words follow `zipf`; pairs that belong
together from `paired_halves`; polygons and textures to be told apart from `cartoons_and_textures`; images of a known
regularity from `c_alpha_images`; sums modulo a number from `modular_arithmetic`; faces from `parametric_faces`; scenes
with objects to be found from `dense_digits`, with one object and its outline from `pasted_items`, with a block that
means nothing from `block_images`; points with one coordinate to look at from `signal_coordinates`; shapes with cues
that agree or not from `sprites`; all patterns of twelve bits, and a rule of them, from `twelve_bits`; worlds of spheres
and boxes, with their depth, from `scenes.render`, and in motion from `moving_scenes`; walks in a maze from `PointMaze`.
Curves by arc length are in `curves`.
Randomness comes from a seed (`load`) or a `torch.Generator` (the rest).
The licence of everything that ships is in `LICENSES.md` beside this file.
"""

from . import curves, scenes
from .block_images import BlockImages, SignalCoordinates, block_images, signal_coordinates
from .c_alpha_images import c_alpha_images
from .cartoon_texture import cartoons_and_textures
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
from .pasted_items import PastedItems, pasted_items
from .photo_split import photo_split
from .photos import patches, photos
from .point_maze import PointMaze, Transitions
from .relight import relight
from .remote import Unavailable
from .split import Labelled, Split, batches, load
from .sprites import sprites
from .twelve_bits import Patterns, twelve_bits

__all__ = [
    "BlockImages",
    "Clips",
    "Faces",
    "Labelled",
    "PastedItems",
    "Patterns",
    "PointMaze",
    "Scenes",
    "SignalCoordinates",
    "Split",
    "Transitions",
    "Unavailable",
    "batches",
    "blobs",
    "block_images",
    "c_alpha_images",
    "cartoons_and_textures",
    "curves",
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
    "pasted_items",
    "patches",
    "photo_split",
    "photos",
    "piecewise_constant_image",
    "piecewise_constant_signal",
    "relight",
    "scenes",
    "signal_coordinates",
    "sinusoids",
    "spirals",
    "sprites",
    "twelve_bits",
    "zipf",
]
