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
- `linear_decay_modes`: the same parts from snapshots alone, as `DecayModes`; `DMD` and `rescale_time` for comparison.
"""

from assay.imaging.dmd import DMD, rescale_time
from assay.imaging.dual import rof
from assay.imaging.linear_decay import DecayModes, linear_decay_modes
from assay.imaging.ops import divergence, gradient, total_variation
from assay.imaging.protocols import ForwardOperator, Regularizer, Solution, check_adjoint
from assay.imaging.regularizers import TotalVariation
from assay.imaging.spectral import NonlinearSpectrum
from assay.imaging.tv_flow import TVFlow, tv_flow
from assay.imaging.tv_flow_2d import tv_flow_2d
from assay.imaging.tv_prox import tv_prox

__all__ = [
    "DMD",
    "DecayModes",
    "ForwardOperator",
    "NonlinearSpectrum",
    "Regularizer",
    "Solution",
    "TVFlow",
    "TotalVariation",
    "check_adjoint",
    "divergence",
    "gradient",
    "linear_decay_modes",
    "rescale_time",
    "rof",
    "total_variation",
    "tv_flow",
    "tv_flow_2d",
    "tv_prox",
]
