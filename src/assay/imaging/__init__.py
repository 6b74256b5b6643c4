"""Imaging: inverse problems, flows and restoration.

- `PhITNet`: a map of an image in which matching does not mind the light; `match_template` matches.
- Classical maps to the same end: `census`, `gradient_orientation`, `local_contrast_normalize`, `log_chromaticity`,
  `self_quotient`.
"""

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
    "Match",
    "PhITNet",
    "census",
    "gradient_orientation",
    "local_contrast_normalize",
    "log_chromaticity",
    "match_template",
    "self_quotient",
]
