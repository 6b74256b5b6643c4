"""Imaging: inverse problems, flows and restoration.

- `PhITNet`: a map of an image in which matching does not mind the light; `match_template` matches.
- Classical maps to the same end: `census`, `gradient_orientation`, `local_contrast_normalize`, `log_chromaticity`,
  `self_quotient`.
- `importance_map`, `ImportanceNet`, `gaussian_sampling`: where to measure depth; `random_pattern`, `grid_pattern` and
  `superpixel_pattern` beside it, `complete_depth` and `depth_errors` to judge.
"""

from assay.imaging.adaptive_depth_sampling import ImportanceNet, gaussian_sampling, importance_map
from assay.imaging.depth_completion import complete_depth, depth_errors
from assay.imaging.depth_patterns import grid_pattern, random_pattern, superpixel_pattern
from assay.imaging.light_invariants import (
    census,
    gradient_orientation,
    local_contrast_normalize,
    log_chromaticity,
    self_quotient,
)
from assay.imaging.phit_net import PhITNet
from assay.imaging.template_matching import Match, match_template

__all__ = [
    "ImportanceNet",
    "Match",
    "PhITNet",
    "census",
    "complete_depth",
    "depth_errors",
    "gaussian_sampling",
    "gradient_orientation",
    "grid_pattern",
    "importance_map",
    "local_contrast_normalize",
    "log_chromaticity",
    "match_template",
    "random_pattern",
    "self_quotient",
    "superpixel_pattern",
]
