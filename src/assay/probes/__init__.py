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
- `NeuralCollapse`, `collapse_geometry`, `distance_to`, `UnconstrainedFeatures`: which frame features and classifier
  form, and which one theory predicts for the sizes of the classes.
- `randomize`, `fit_curve`, `interpolating_network`: data with their sense taken out, how soon they are fitted, and the
  two-layer network that fits any.
- `Telescope`, `TelescopingSmoother`, `effective_parameters`: training as a sum of first-order changes, and the weights
  that a network puts on its targets; `BoostedTrees`, whose weights are known too.
- `Branched`, `branch_specialization`, `branch_solution`: parallel branches, how far they become experts, and what the
  linearized network says they would.
- `data_scaling`, `fit_scaling`, `extrapolate`: scores by the number of training examples, and the laws they follow.
- `tangent`: the derivative of a network's outputs by its weights: Jacobian, kernel, products with a direction.
"""

from assay.probes import checkpoints, tangent
from assay.probes.active_neurons import active_neurons
from assay.probes.boosted_trees import BoostedTrees
from assay.probes.branch_specialization import Branched, Specialization, branch_solution, branch_specialization
from assay.probes.cmd import CMD
from assay.probes.data_scaling import Law, Scaling, data_scaling, extrapolate, fit_scaling
from assay.probes.directional_sharpness import Direction, compare_directions, directional_sharpness
from assay.probes.dmd import DMD
from assay.probes.embedded_cmd import EmbeddedCMD, FrozenWeights
from assay.probes.exponent_histogram import ExponentHistogram, exponent_histogram
from assay.probes.illumination_invariance import Invariance, illumination_invariance
from assay.probes.modes import Modes
from assay.probes.neural_collapse import (
    Collapse,
    Geometry,
    NeuralCollapse,
    UnconstrainedFeatures,
    collapse_geometry,
    distance_to,
)
from assay.probes.online_cmd import OnlineCMD
from assay.probes.rethinking_generalization import (
    Curve,
    InterpolatingNetwork,
    fit_curve,
    interpolating_network,
    randomize,
)
from assay.probes.snapshot_pca import SnapshotPCA
from assay.probes.softmax_collapse import nlm_alignment, softmax_collapse
from assay.probes.telescoping_model import Telescope, TelescopingSmoother, effective_parameters
from assay.probes.trajectory import Trajectory, record

__all__ = [
    "CMD",
    "DMD",
    "BoostedTrees",
    "Branched",
    "Collapse",
    "Curve",
    "Direction",
    "EmbeddedCMD",
    "ExponentHistogram",
    "FrozenWeights",
    "Geometry",
    "InterpolatingNetwork",
    "Invariance",
    "Law",
    "Modes",
    "NeuralCollapse",
    "OnlineCMD",
    "Scaling",
    "SnapshotPCA",
    "Specialization",
    "Telescope",
    "TelescopingSmoother",
    "Trajectory",
    "UnconstrainedFeatures",
    "active_neurons",
    "branch_solution",
    "branch_specialization",
    "checkpoints",
    "collapse_geometry",
    "compare_directions",
    "data_scaling",
    "directional_sharpness",
    "distance_to",
    "effective_parameters",
    "exponent_histogram",
    "extrapolate",
    "fit_curve",
    "fit_scaling",
    "illumination_invariance",
    "interpolating_network",
    "nlm_alignment",
    "randomize",
    "record",
    "softmax_collapse",
    "tangent",
]
