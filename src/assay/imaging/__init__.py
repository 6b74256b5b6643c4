"""Imaging: inverse problems, flows and restoration.

Papers meet on three small protocols, and any solver takes any operator and any regularizer:

- a forward operator A: `A(x)` is what a camera would measure, `A.adjoint(y)` its transpose, `shape_in` and `shape_out`
  the sizes without the batch (`ForwardOperator`; `check_adjoint` puts it to the test). Images are (batch, channel,
  height, width) in [0, 1]; noise is no part of A: y = A(x) + noise is written out where data are made;
- a regularizer J: `value(x)` and `prox(x, t)` (`Regularizer`; `TotalVariation` is one);
- a solver: a function of y, A and what else it needs, that returns a `Solution` with its certificate. A restoration
  network is one more solver.

The ground: `gradient`, `divergence` and `total_variation` in one and two dimensions, and `rof`, which stops at a
duality gap.

Methods:

- `tv_flow`: the whole total-variation flow of a signal, exactly; a `TVFlow` knows every time, the spectrum, filters and
  Koopman eigenfunctions. `tv_prox` is its state at one time, for batches and with derivatives; `tv_flow_2d` steps
  through the flow of an image.
- `NonlinearSpectrum`: the parts of a signal by the time at which a flow extinguishes them.
- `A2TV`: total variation measured through a `MatrixField`, which `AdaptiveTensor` makes of the `structure_tensor` of
  a guide: value, proximal map, flow, and how nearly a shape is an eigenfunction.
- `linear_decay_modes`: the same parts from snapshots alone, as `DecayModes`; `DMD` and `rescale_time` for comparison.
- `PhITNet`: a map of an image in which matching does not mind the light; `match_template` matches.
- Classical maps to the same end: `census`, `gradient_orientation`, `local_contrast_normalize`, `log_chromaticity`,
  `self_quotient`.
- `importance_map`, `ImportanceNet`, `gaussian_sampling`: where to measure depth; `random_pattern`, `grid_pattern` and
  `superpixel_pattern` beside it, `complete_depth` and `depth_errors` to judge.
"""

from assay.imaging.a2tv import A2TV
from assay.imaging.adaptive_depth_sampling import ImportanceNet, gaussian_sampling, importance_map
from assay.imaging.adaptive_tensor import AdaptiveTensor, MatrixField
from assay.imaging.depth_completion import complete_depth, depth_errors
from assay.imaging.depth_patterns import grid_pattern, random_pattern, superpixel_pattern
from assay.imaging.dmd import DMD, rescale_time
from assay.imaging.dual import rof
from assay.imaging.light_invariants import (
    census,
    gradient_orientation,
    local_contrast_normalize,
    log_chromaticity,
    self_quotient,
)
from assay.imaging.linear_decay import DecayModes, linear_decay_modes
from assay.imaging.ops import divergence, gradient, total_variation
from assay.imaging.phit_net import PhITNet
from assay.imaging.protocols import ForwardOperator, Regularizer, Solution, check_adjoint
from assay.imaging.regularizers import TotalVariation
from assay.imaging.spectral import NonlinearSpectrum
from assay.imaging.structure_tensor import structure_tensor
from assay.imaging.template_matching import Match, match_template
from assay.imaging.tv_flow import TVFlow, tv_flow
from assay.imaging.tv_flow_2d import tv_flow_2d
from assay.imaging.tv_prox import tv_prox

__all__ = [
    "A2TV",
    "DMD",
    "AdaptiveTensor",
    "DecayModes",
    "ForwardOperator",
    "ImportanceNet",
    "Match",
    "MatrixField",
    "NonlinearSpectrum",
    "PhITNet",
    "Regularizer",
    "Solution",
    "TVFlow",
    "TotalVariation",
    "census",
    "check_adjoint",
    "complete_depth",
    "depth_errors",
    "divergence",
    "gaussian_sampling",
    "gradient",
    "gradient_orientation",
    "grid_pattern",
    "importance_map",
    "linear_decay_modes",
    "local_contrast_normalize",
    "log_chromaticity",
    "match_template",
    "random_pattern",
    "rescale_time",
    "rof",
    "self_quotient",
    "structure_tensor",
    "superpixel_pattern",
    "total_variation",
    "tv_flow",
    "tv_flow_2d",
    "tv_prox",
]
