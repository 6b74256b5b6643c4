"""Probes: what a training run did, seen from its weights.

A probe watches through callbacks, ``on_epoch(model)`` and ``on_step(model)``, and is as callable on anybody's own
model and loop. `Trajectory` is where the probes of a run meet: whatever was recorded once can be described by `CMD`,
`DMD` and `SnapshotPCA`, each with the same ``relative_error``.

- `record`, `Trajectory`: the path of the weights, in memory or in a growing file; `checkpoints` reads a folder.
- `CMD`, `Modes`: correlation mode decomposition and what it finds; `OnlineCMD`, `EmbeddedCMD` while training goes on,
  and `FrozenWeights`, the opponent of the latter.
- `DMD`, `SnapshotPCA`: linear dynamics and linear subspace of the same snapshots.
- `exponent_histogram`: where numbers lie on the scale of powers of two.
- `active_neurons`: how many hidden units are at work, by layer.
- `softmax_collapse`, `nlm_alignment`: whether a fitted network's softmax has saturated, and its gradient only scales.
- `illumination_invariance`: whether what a network says of a world depends on how it is lit.
- `input_gradient`, `input_x_gradient`, `integrated_gradients`, `smooth_grad`, `grad_cam`: where a classifier looks;
  `magnitude` makes a map of what has a sign, `activation_gradients` gives what maps of layers are made of.
- `full_gradients`, `full_grad`: what the input and every bias contribute to a logit, exactly; and as a map.
- `norm_grad`: a map from any layers, by what each place adds to the gradient of a weight; `meta_saliency` makes a map
  tell classes apart, `class_sensitivity` says how far it does.
- `diff_roar`: whether what a map ranks high teaches a new model more than what it ranks low; `gradient_size`, the map
  that it was made for.
- `LayerMasking`: a trained network that sees part of an image; `paint` and `fill_from_neighbours`, other ways of
  removing; `lime_image`, an explanation by removing.
- `pointing_game`, `pixel_perturbation`, `remove_and_retrain`: how such maps are judged; `salient` and `unmask` take the
  pixels that they rank highest or lowest.
- `directional_sharpness`, `compare_directions`: the loss along the ways that optimizers take from one point.
"""

from assay.probes import checkpoints
from assay.probes.active_neurons import active_neurons
from assay.probes.attribution_tests import pixel_perturbation, pointing_game, remove_and_retrain, salient, unmask
from assay.probes.cmd import CMD
from assay.probes.diffroar import DiffROAR, diff_roar, gradient_size
from assay.probes.directional_sharpness import Direction, compare_directions, directional_sharpness
from assay.probes.dmd import DMD
from assay.probes.embedded_cmd import EmbeddedCMD, FrozenWeights
from assay.probes.exponent_histogram import ExponentHistogram, exponent_histogram
from assay.probes.fullgrad import FullGradients, full_grad, full_gradients
from assay.probes.illumination_invariance import Invariance, illumination_invariance
from assay.probes.layer_masking import LayerMasking, fill_from_neighbours, paint
from assay.probes.lime import lime_image
from assay.probes.modes import Modes
from assay.probes.normgrad import class_sensitivity, meta_saliency, norm_grad
from assay.probes.online_cmd import OnlineCMD
from assay.probes.saliency import (
    activation_gradients,
    grad_cam,
    input_gradient,
    input_x_gradient,
    integrated_gradients,
    magnitude,
    smooth_grad,
)
from assay.probes.snapshot_pca import SnapshotPCA
from assay.probes.softmax_collapse import nlm_alignment, softmax_collapse
from assay.probes.trajectory import Trajectory, record

__all__ = [
    "CMD",
    "DMD",
    "DiffROAR",
    "Direction",
    "EmbeddedCMD",
    "ExponentHistogram",
    "FrozenWeights",
    "FullGradients",
    "Invariance",
    "LayerMasking",
    "Modes",
    "OnlineCMD",
    "SnapshotPCA",
    "Trajectory",
    "activation_gradients",
    "active_neurons",
    "checkpoints",
    "class_sensitivity",
    "compare_directions",
    "diff_roar",
    "directional_sharpness",
    "exponent_histogram",
    "fill_from_neighbours",
    "full_grad",
    "full_gradients",
    "grad_cam",
    "gradient_size",
    "illumination_invariance",
    "input_gradient",
    "input_x_gradient",
    "integrated_gradients",
    "lime_image",
    "magnitude",
    "meta_saliency",
    "nlm_alignment",
    "norm_grad",
    "paint",
    "pixel_perturbation",
    "pointing_game",
    "record",
    "remove_and_retrain",
    "salient",
    "smooth_grad",
    "softmax_collapse",
    "unmask",
]
