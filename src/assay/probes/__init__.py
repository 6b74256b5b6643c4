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
- `CueTest`: which of several cues that say the same a classifier follows; `basin_retention`, whether it stays with it.
- `illumination_invariance`: whether what a network says of a world depends on how it is lit.
- `directional_sharpness`, `compare_directions`: the loss along the ways that optimizers take from one point.
- `interpolate`, `losses_along`, `barrier`, `Barrier`: the straight line between two networks; `refresh_batch_norm`.
- `predicted_barrier`, `layerwise_barrier`, `predicted_layerwise_barrier`: barriers from curvature, and layer by layer;
  `fork`: runs that share their first steps.
- `PermutationSpec`: permutations of hidden units that change nothing, found from a forward pass; `weight_matching`,
  `activation_matching`, `straight_through_matching`, `merge_many`: those that bring networks together.
- `Starlight`, `star_barriers`, `star_samples`: a network that lines of low loss join to all others.
- `straight_path`, `StraightPath`, `largest_rise`: from a network's first weights to its last; `path_residuals`,
  `path_plane`, `PathPlane`: how far training strayed from that line.
- `record_activations`, `stream_activations`, `watched`: what named layers put out, over data or in one pass.
- `unit_samples`, `unit_correlation`, `UnitCorrelation`: how alike units of two networks are; `assign_units`,
  `best_buddies`, `cocluster_units`: which go with which; `k_means` beneath the last.
- `sparse_prediction`, `units_needed`, `rotated_units`: one network's units made of another's, and a control for it.
- `patch_basis`, `energy_profile`: what a first layer listens to; `linear_cnn_profile`, `fit_time`: what theory says it
  does; `filter_whiteness`.
- `zoo_tables`, `mine_rosetta`, `RosettaDictionary`: units that every model of a zoo has, by `MapCorrelation`;
  `rosetta_inversion`: from an image to a generator through them.
- `MultifacetedVisualization`: a picture for each kind of thing a unit fires for, `maximize_activation` from
  `facet_starts` in `Octave`s; `tv_denoise`; `tsne`, `tsne_gradient`, `neighbour_probabilities`.
- `NeuralCollapse`, `collapse_geometry`, `distance_to`, `UnconstrainedFeatures`: which frame features and classifier
  form, and which one theory predicts for the sizes of the classes.
- `randomize`, `fit_curve`, `interpolating_network`: data with their sense taken out, how soon they are fitted, and the
  two-layer network that fits any.
- `Telescope`, `TelescopingSmoother`, `effective_parameters`: training as a sum of first-order changes, and the weights
  that a network puts on its targets; `BoostedTrees`, whose weights are known too.
- `SecondOrderLens`, `principal_directions`, `mean_ablate`, `describe_direction`: what neurons of a vision transformer
  do, at once and through later attention heads.
- `JacobianBasis`, `model_disagreement`, `psnr_curve`, `blind_denoiser_loss`, `denoiser_samples`: what a denoiser has
  learned, the basis in which it shrinks, and whether two of them are one function.
- `Branched`, `branch_specialization`, `branch_solution`: parallel branches, how far they become experts, and what the
  linearized network says they would.
- `data_scaling`, `fit_scaling`, `extrapolate`: scores by the number of training examples, and the laws they follow.
- `tangent`: the derivative of a network's outputs by its weights: Jacobian, kernel, products with a direction.
- `spectrum_summary`: bulk and outliers of a Hessian's spectrum.
- `RandomSubspace`, `RandomProjection`, `intrinsic_dimension`: training in a few random directions, and how few do.
- `maximal_learning_rate`: the largest rate at which a new network begins to learn; `slow_input_layer`, `power_law_fit`.
- `OpposingSignals`, `matched_groups`, `sharpness`: examples that pull against each other; `opposing_toy`.
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

from assay.probes import checkpoints, tangent
from assay.probes.activations import record_activations, stream_activations, watched
from assay.probes.active_neurons import active_neurons
from assay.probes.adaptive_mutual_information import (
    InformationPlane,
    binned_information,
    compression,
    entropy_bins,
    kde_information,
)
from assay.probes.attribution_tests import pixel_perturbation, pointing_game, remove_and_retrain, salient, unmask
from assay.probes.boosted_trees import BoostedTrees
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
from assay.probes.branch_specialization import Branched, Specialization, branch_solution, branch_specialization
from assay.probes.cmd import CMD
from assay.probes.convergent_learning import (
    SparsePrediction,
    UnitsNeeded,
    rotated_units,
    sparse_prediction,
    units_needed,
)
from assay.probes.data_scaling import Law, Scaling, data_scaling, extrapolate, fit_scaling
from assay.probes.diffroar import DiffROAR, diff_roar, gradient_size
from assay.probes.directional_sharpness import Direction, compare_directions, directional_sharpness
from assay.probes.dmd import DMD
from assay.probes.embedded_cmd import EmbeddedCMD, FrozenWeights
from assay.probes.exponent_histogram import ExponentHistogram, exponent_histogram
from assay.probes.first_layer_energy import (
    FittedTime,
    PatchBasis,
    energy_profile,
    filter_whiteness,
    fit_time,
    linear_cnn_profile,
    patch_basis,
)
from assay.probes.fullgrad import FullGradients, full_grad, full_gradients
from assay.probes.git_rebasin import activation_matching, merge_many, straight_through_matching, weight_matching
from assay.probes.harmonic_denoisers import (
    Disagreement,
    JacobianBasis,
    blind_denoiser_loss,
    denoiser_samples,
    model_disagreement,
    psnr_curve,
)
from assay.probes.hessian_spectrum import SpectrumSummary, spectrum_summary
from assay.probes.illumination_invariance import Invariance, illumination_invariance
from assay.probes.intrinsic_dimension import IntrinsicDimension, intrinsic_dimension
from assay.probes.layer_masking import LayerMasking, fill_from_neighbours, paint
from assay.probes.lime import lime_image
from assay.probes.linear_mode_connectivity import (
    fork,
    layerwise_barrier,
    predicted_barrier,
    predicted_layerwise_barrier,
)
from assay.probes.linear_regions import (
    RegionCount,
    activation_pattern,
    boundary_distance,
    expected_density_first_layer,
    regions_along_curve,
    regions_along_segment,
)
from assay.probes.local_linear import AffineMap, jacobian, local_affine
from assay.probes.matching import (
    Assignment,
    UnitCorrelation,
    assign_units,
    best_buddies,
    cocluster_units,
    k_means,
    unit_correlation,
    unit_samples,
)
from assay.probes.maximal_initial_learning_rate import (
    MaximalLearningRate,
    PowerLaw,
    maximal_learning_rate,
    power_law_fit,
    slow_input_layer,
)
from assay.probes.modes import Modes
from assay.probes.multifaceted_visualization import (
    MultifacetedVisualization,
    Octave,
    facet_starts,
    maximize_activation,
    tv_denoise,
)
from assay.probes.neural_collapse import (
    Collapse,
    Geometry,
    NeuralCollapse,
    UnconstrainedFeatures,
    collapse_geometry,
    distance_to,
)
from assay.probes.nonlinear_advantage import (
    LinearizableReLU,
    average_path_length,
    linearity_penalty,
    linearize_relus,
    nonlinear_fraction,
    snap,
)
from assay.probes.normgrad import class_sensitivity, meta_saliency, norm_grad
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
from assay.probes.permutation import PermutationSpec, compose, inverse
from assay.probes.random_projection import RandomProjection
from assay.probes.random_subspace import RandomSubspace
from assay.probes.rethinking_generalization import (
    Curve,
    InterpolatingNetwork,
    fit_curve,
    interpolating_network,
    randomize,
)
from assay.probes.rosetta_inversion import Inversion, rosetta_inversion
from assay.probes.rosetta_neurons import (
    MapCorrelation,
    Member,
    RosettaDictionary,
    Tables,
    Unit,
    map_correlation,
    mine_rosetta,
    token_maps,
    zoo_tables,
)
from assay.probes.saliency import (
    activation_gradients,
    grad_cam,
    input_gradient,
    input_x_gradient,
    integrated_gradients,
    magnitude,
    smooth_grad,
)
from assay.probes.second_order_lens import (
    Directions,
    SecondOrderLens,
    describe_direction,
    mean_ablate,
    principal_directions,
)
from assay.probes.shortcut_cues import CueTest, basin_retention
from assay.probes.snapshot_pca import SnapshotPCA
from assay.probes.softmax_collapse import nlm_alignment, softmax_collapse
from assay.probes.star_domain import Starlight, star_barriers, star_samples
from assay.probes.straight_path import PathPlane, StraightPath, largest_rise, path_plane, path_residuals, straight_path
from assay.probes.telescoping_model import Telescope, TelescopingSmoother, effective_parameters
from assay.probes.trajectory import Trajectory, record
from assay.probes.tsne import neighbour_probabilities, tsne, tsne_gradient

__all__ = [
    "CMD",
    "DMD",
    "AffineMap",
    "Assignment",
    "Barrier",
    "BoostedTrees",
    "Branched",
    "Collapse",
    "CueTest",
    "Curve",
    "DiffROAR",
    "Direction",
    "Directions",
    "Disagreement",
    "EmbeddedCMD",
    "ExponentHistogram",
    "FittedTime",
    "FrozenWeights",
    "FullGradients",
    "Geometry",
    "Groups",
    "InformationPlane",
    "InterpolatingNetwork",
    "IntrinsicDimension",
    "Invariance",
    "Inversion",
    "JacobianBasis",
    "Law",
    "LayerMasking",
    "LinearBoundary",
    "LinearizableReLU",
    "MapCorrelation",
    "MaximalLearningRate",
    "Member",
    "Modes",
    "MultifacetedVisualization",
    "NeuralCollapse",
    "Octave",
    "OnlineCMD",
    "OpposingSignals",
    "PatchBasis",
    "PathPlane",
    "PermutationSpec",
    "PowerLaw",
    "RandomProjection",
    "RandomSubspace",
    "RegionCount",
    "RosettaDictionary",
    "Scaling",
    "SecondOrderLens",
    "SnapshotPCA",
    "SparsePrediction",
    "Specialization",
    "SpectrumSummary",
    "Starlight",
    "StraightPath",
    "Strength",
    "Tables",
    "Telescope",
    "TelescopingSmoother",
    "Trajectory",
    "TwoLayerLinear",
    "UnconstrainedFeatures",
    "Unit",
    "UnitCorrelation",
    "UnitsNeeded",
    "activation_gradients",
    "activation_matching",
    "activation_pattern",
    "active_neurons",
    "adversarial_strength",
    "assign_units",
    "average_path_length",
    "barrier",
    "basin_retention",
    "best_buddies",
    "binned_information",
    "blind_denoiser_loss",
    "boundary_distance",
    "branch_solution",
    "branch_specialization",
    "checkpoints",
    "class_sensitivity",
    "cocluster_units",
    "collapse_geometry",
    "compare_directions",
    "compose",
    "compression",
    "data_scaling",
    "denoiser_samples",
    "describe_direction",
    "deviation_angle",
    "diff_roar",
    "directional_sharpness",
    "distance",
    "distance_to",
    "effective_parameters",
    "energy_profile",
    "entropy_bins",
    "expected_density_first_layer",
    "exponent_histogram",
    "extrapolate",
    "facet_starts",
    "fill_from_neighbours",
    "filter_whiteness",
    "fit_curve",
    "fit_scaling",
    "fit_time",
    "fork",
    "full_grad",
    "full_gradients",
    "grad_cam",
    "gradient_size",
    "illumination_invariance",
    "input_gradient",
    "input_x_gradient",
    "integrated_gradients",
    "interpolate",
    "interpolating_network",
    "intrinsic_dimension",
    "inverse",
    "jacobian",
    "k_means",
    "kde_information",
    "largest_rise",
    "layerwise_barrier",
    "lime_image",
    "linear_boundary",
    "linear_cnn_profile",
    "linearity_penalty",
    "linearize_relus",
    "local_affine",
    "losses_along",
    "magnitude",
    "map_correlation",
    "matched_groups",
    "maximal_learning_rate",
    "maximize_activation",
    "mean_ablate",
    "merge_many",
    "meta_saliency",
    "mine_rosetta",
    "model_disagreement",
    "nearest_adversarial",
    "nearest_centroid",
    "neighbour_probabilities",
    "nlm_alignment",
    "nonlinear_fraction",
    "norm_grad",
    "opposing_toy",
    "paint",
    "patch_basis",
    "path_plane",
    "path_residuals",
    "pixel_perturbation",
    "pointing_game",
    "power_law_fit",
    "predicted_barrier",
    "predicted_layerwise_barrier",
    "principal_directions",
    "psnr_curve",
    "randomize",
    "record",
    "record_activations",
    "refresh_batch_norm",
    "regions_along_curve",
    "regions_along_segment",
    "remove_and_retrain",
    "rosetta_inversion",
    "rotated_units",
    "salient",
    "sharpness",
    "slow_input_layer",
    "smooth_grad",
    "snap",
    "softmax_collapse",
    "sparse_prediction",
    "spectrum_summary",
    "star_barriers",
    "star_samples",
    "straight_path",
    "straight_through_matching",
    "stream_activations",
    "tangent",
    "tilt",
    "token_maps",
    "tsne",
    "tsne_gradient",
    "tv_denoise",
    "unit_correlation",
    "unit_samples",
    "units_needed",
    "unmask",
    "watched",
    "weight_matching",
    "zoo_tables",
]
