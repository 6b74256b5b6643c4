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
- `interpolate`, `losses_along`, `barrier`, `Barrier`: the straight line between two networks; `refresh_batch_norm`.
- `directional_sharpness`, `compare_directions`: the loss along the ways that optimizers take from one point.
- `spectrum_summary`: bulk and outliers of a Hessian's spectrum.
- `RandomSubspace`, `RandomProjection`, `intrinsic_dimension`: training in a few random directions, and how few do.
- `maximal_learning_rate`: the largest rate at which a new network begins to learn; `slow_input_layer`, `power_law_fit`.
- `OpposingSignals`, `matched_groups`, `sharpness`: examples that pull against each other; `opposing_toy`.
"""

from assay.probes import checkpoints
from assay.probes.active_neurons import active_neurons
from assay.probes.cmd import CMD
from assay.probes.directional_sharpness import Direction, compare_directions, directional_sharpness
from assay.probes.dmd import DMD
from assay.probes.embedded_cmd import EmbeddedCMD, FrozenWeights
from assay.probes.exponent_histogram import ExponentHistogram, exponent_histogram
from assay.probes.hessian_spectrum import SpectrumSummary, spectrum_summary
from assay.probes.illumination_invariance import Invariance, illumination_invariance
from assay.probes.intrinsic_dimension import IntrinsicDimension, intrinsic_dimension
from assay.probes.maximal_initial_learning_rate import (
    MaximalLearningRate,
    PowerLaw,
    maximal_learning_rate,
    power_law_fit,
    slow_input_layer,
)
from assay.probes.modes import Modes
from assay.probes.online_cmd import OnlineCMD
from assay.probes.opposing_signals import (
    Groups,
    OpposingSignals,
    TwoLayerLinear,
    matched_groups,
    opposing_toy,
    sharpness,
)
from assay.probes.path import Barrier, barrier, interpolate, losses_along, refresh_batch_norm
from assay.probes.random_projection import RandomProjection
from assay.probes.random_subspace import RandomSubspace
from assay.probes.snapshot_pca import SnapshotPCA
from assay.probes.softmax_collapse import nlm_alignment, softmax_collapse
from assay.probes.trajectory import Trajectory, record

__all__ = [
    "CMD",
    "DMD",
    "Barrier",
    "Direction",
    "EmbeddedCMD",
    "ExponentHistogram",
    "FrozenWeights",
    "Groups",
    "IntrinsicDimension",
    "Invariance",
    "MaximalLearningRate",
    "Modes",
    "OnlineCMD",
    "OpposingSignals",
    "PowerLaw",
    "RandomProjection",
    "RandomSubspace",
    "SnapshotPCA",
    "SpectrumSummary",
    "Trajectory",
    "TwoLayerLinear",
    "active_neurons",
    "barrier",
    "checkpoints",
    "compare_directions",
    "directional_sharpness",
    "exponent_histogram",
    "illumination_invariance",
    "interpolate",
    "intrinsic_dimension",
    "losses_along",
    "matched_groups",
    "maximal_learning_rate",
    "nlm_alignment",
    "opposing_toy",
    "power_law_fit",
    "record",
    "refresh_batch_norm",
    "sharpness",
    "slow_input_layer",
    "softmax_collapse",
    "spectrum_summary",
]
