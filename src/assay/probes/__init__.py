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
- `directional_sharpness`, `compare_directions`: the loss along the ways that optimizers take from one point.
- `binned_information`, `kde_information`, `InformationPlane`, `compression`: what layers know of input and label, by
  bins (`entropy_bins`) or noise that adapt to their activity.
- `deviation_angle`, `adversarial_strength`, `tilt`, of a `LinearBoundary`: how near a linear classifier's boundary lies
  to its data, and that its angle to `nearest_centroid` decides it; `distance`, `nearest_adversarial`.
- `linearize_relus`, `LinearizableReLU`, `linearity_penalty`, `snap`, `nonlinear_fraction`, `average_path_length`:
  how much of a network's nonlinearity is needed, and what depth is left.
- `jacobian`, `local_affine`: the affine map that a network is near a point.
- `regions_along_curve`, `regions_along_segment`, `boundary_distance`, `activation_pattern`: the linear pieces of a ReLU
  network along a curve; `expected_density_first_layer`, how many a random first layer makes.
"""

from assay.probes import checkpoints
from assay.probes.active_neurons import active_neurons
from assay.probes.adaptive_mutual_information import (
    InformationPlane,
    binned_information,
    compression,
    entropy_bins,
    kde_information,
)
from assay.probes.boundary_tilting import (
    LinearBoundary,
    Strength,
    adversarial_strength,
    deviation_angle,
    distance,
    linear_boundary,
    nearest_adversarial,
    nearest_centroid,
    tilt,
)
from assay.probes.cmd import CMD
from assay.probes.directional_sharpness import Direction, compare_directions, directional_sharpness
from assay.probes.dmd import DMD
from assay.probes.embedded_cmd import EmbeddedCMD, FrozenWeights
from assay.probes.exponent_histogram import ExponentHistogram, exponent_histogram
from assay.probes.illumination_invariance import Invariance, illumination_invariance
from assay.probes.linear_regions import (
    RegionCount,
    activation_pattern,
    boundary_distance,
    expected_density_first_layer,
    regions_along_curve,
    regions_along_segment,
)
from assay.probes.local_linear import AffineMap, jacobian, local_affine
from assay.probes.modes import Modes
from assay.probes.nonlinear_advantage import (
    LinearizableReLU,
    average_path_length,
    linearity_penalty,
    linearize_relus,
    nonlinear_fraction,
    snap,
)
from assay.probes.online_cmd import OnlineCMD
from assay.probes.snapshot_pca import SnapshotPCA
from assay.probes.softmax_collapse import nlm_alignment, softmax_collapse
from assay.probes.trajectory import Trajectory, record

__all__ = [
    "CMD",
    "DMD",
    "AffineMap",
    "Direction",
    "EmbeddedCMD",
    "ExponentHistogram",
    "FrozenWeights",
    "InformationPlane",
    "Invariance",
    "LinearBoundary",
    "LinearizableReLU",
    "Modes",
    "OnlineCMD",
    "RegionCount",
    "SnapshotPCA",
    "Strength",
    "Trajectory",
    "activation_pattern",
    "active_neurons",
    "adversarial_strength",
    "average_path_length",
    "binned_information",
    "boundary_distance",
    "checkpoints",
    "compare_directions",
    "compression",
    "deviation_angle",
    "directional_sharpness",
    "distance",
    "entropy_bins",
    "expected_density_first_layer",
    "exponent_histogram",
    "illumination_invariance",
    "jacobian",
    "kde_information",
    "linear_boundary",
    "linearity_penalty",
    "linearize_relus",
    "local_affine",
    "nearest_adversarial",
    "nearest_centroid",
    "nlm_alignment",
    "nonlinear_fraction",
    "record",
    "regions_along_curve",
    "regions_along_segment",
    "snap",
    "softmax_collapse",
    "tilt",
]
