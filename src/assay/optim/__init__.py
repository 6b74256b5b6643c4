"""Optimizers, each a `torch.optim.Optimizer`, and what goes round one.

The protocol is torch's own: parameter groups, `state_dict`, schedulers, `step(closure=None)`. Three things are added:

- `needs_graph = True` on an optimizer says that its closure must leave gradients that can be differentiated again
  (`loss.backward(create_graph=True)`); `assay.train.fit` does so by itself.
- another paper's idea is a `Wrapper` around an optimizer, never a flag in one; wrappers go round each other.
- a `GradientWrapper` only has to say what becomes of the gradients before the wrapped optimizer sees them.

Methods:

- `AdaHessian`: Adam with the diagonal of the Hessian in place of the squared gradient.
- `CoordinateClipped`, `coordinate_clip`: the largest coordinates of gradients or updates cut to the size of the rest.
- `DiffGrad`: Adam with a step that shrinks, entry by entry, where the gradient stands still.
- `GradientNormalizedNewton`, `gradient_normalized_smoothness`: Newton steps with any `hessian_approximations` for
  functions of a vector (no torch optimizer: it minimizes by itself).
- `GradientNoise`, `annealed_std`: noise on the gradients, less and less of it.
- `IGNITE`: a learning rule for surrogates, with `surrogate_sharpness`, `gradient_norm_penalty`, `ascend_designs`.
- `MFAC`: gradients times the inverse Fisher of the last ones; `StaticInverseFisher`, `DynamicInverseFisher` and
  `obs_prune` are what it and pruning are made of.
- `MixedPrecision`, `LossScaler`, `round_to_half`, `rounded_layers`: half precision stored, single precision summed.
- `OrthoGrad`: gradients without their part along the weights, at full length.
- `SAM`: steps with the gradient of the worst neighbour; `perturbed` moves weights for a while.
- `LanczosLearningRate`, `lanczos_rate`, `polyak_rate`, `scale_learning_rate`: rates from spectra and batch sizes.
- `TrAct`, `tract_gradient`: a first layer whose weight gradient realises a step on its pre-activations, for any
  optimizer.
"""

from assay.optim import hessian_approximations
from assay.optim.adahessian import AdaHessian
from assay.optim.batch_hessian_learning_rates import (
    LanczosLearningRate,
    Rate,
    lanczos_rate,
    polyak_rate,
    scale_learning_rate,
)
from assay.optim.diffgrad import DiffGrad
from assay.optim.directional_sharpness import CoordinateClipped, coordinate_clip
from assay.optim.gradient_noise import GradientNoise, annealed_std
from assay.optim.gradient_normalized_smoothness import (
    GradientNormalizedNewton,
    NewtonResult,
    gradient_normalized_smoothness,
)
from assay.optim.ignite import IGNITE, ascend_designs, gradient_norm_penalty, surrogate_sharpness
from assay.optim.inverse_fisher import DynamicInverseFisher, StaticInverseFisher
from assay.optim.m_fac import MFAC, obs_prune
from assay.optim.mixed_precision import LossScaler, MixedPrecision, round_to_half, rounded_layers
from assay.optim.perturbed import perturbed
from assay.optim.sharpness_aware_vit import SAM
from assay.optim.softmax_collapse import OrthoGrad
from assay.optim.tract import TrAct, tract_gradient
from assay.optim.wrapper import GradientWrapper, Wrapper

__all__ = [
    "IGNITE",
    "MFAC",
    "SAM",
    "AdaHessian",
    "CoordinateClipped",
    "DiffGrad",
    "DynamicInverseFisher",
    "GradientNoise",
    "GradientNormalizedNewton",
    "GradientWrapper",
    "LanczosLearningRate",
    "LossScaler",
    "MixedPrecision",
    "NewtonResult",
    "OrthoGrad",
    "Rate",
    "StaticInverseFisher",
    "TrAct",
    "Wrapper",
    "annealed_std",
    "ascend_designs",
    "coordinate_clip",
    "gradient_norm_penalty",
    "gradient_normalized_smoothness",
    "hessian_approximations",
    "lanczos_rate",
    "obs_prune",
    "perturbed",
    "polyak_rate",
    "round_to_half",
    "rounded_layers",
    "scale_learning_rate",
    "surrogate_sharpness",
    "tract_gradient",
]
