"""Losses, each an `nn.Module` that takes what torch's own losses take, and the functions behind them.

A classification loss is called as `loss(logits (n, k, ...), targets (n, ...)) -> scalar`, or one value an example with
`reduction="none"`; it has `reduction`, and `weight`, `ignore_index` and `label_smoothing` where they have a meaning.
Losses between images take `(output, target)`, both (n, c, h, w). All work under autocast and `torch.compile`, and are
finite, with finite gradients, at logits of any finite size.

"""

from .arcface import ArcFace
from .cauchy_schwarz_bottleneck import CSIBLoss, conditional_cs_divergence, cs_divergence, cs_mutual_information
from .comp_sum_losses import (
    CompSumLoss,
    SmoothAdversarialCompSum,
    best_conditional_risk,
    comp_sum_bound,
    comp_sum_transform,
    conditional_risk,
    minimizability_gap,
)
from .contextual_loss import ContextualLoss, contextual_similarity, patch_features
from .distance_correlation import distance_correlation
from .dual_focal_loss import DualFocalLoss
from .fccov import BallOrder, FCCovLoss, ball_order, frechet_cumulative_covariance
from .focal_loss import FocalLoss, prior_bias, sigmoid_focal_loss
from .frozen_features import FrozenFeatures
from .kernels import gaussian_gram, median_bandwidth
from .metric_distances import metric_distances
from .ms_ssim_training import MSSSIMLoss, SSIMLoss
from .patch_triplet import PatchTripletLoss
from .perceptual_losses import (
    FeatureReconstructionLoss,
    GramStyleLoss,
    TotalVariation,
    gram_matrix,
    style_objective,
    stylize_by_optimization,
)
from .s3im import S3IM
from .sigmoid_loss import SigmoidContrastiveLoss, SoftmaxContrastiveLoss
from .squared_hinge import SquaredHinge
from .stablemax import StableMaxCrossEntropy, log_stablemax, stablemax
from .symface import SymFaceLoss, frontness, split_face
from .worst_case import worst_case

__all__ = [
    "S3IM",
    "ArcFace",
    "BallOrder",
    "CSIBLoss",
    "CompSumLoss",
    "ContextualLoss",
    "DualFocalLoss",
    "FCCovLoss",
    "FeatureReconstructionLoss",
    "FocalLoss",
    "FrozenFeatures",
    "GramStyleLoss",
    "MSSSIMLoss",
    "PatchTripletLoss",
    "SSIMLoss",
    "SigmoidContrastiveLoss",
    "SmoothAdversarialCompSum",
    "SoftmaxContrastiveLoss",
    "SquaredHinge",
    "StableMaxCrossEntropy",
    "SymFaceLoss",
    "TotalVariation",
    "ball_order",
    "best_conditional_risk",
    "comp_sum_bound",
    "comp_sum_transform",
    "conditional_cs_divergence",
    "conditional_risk",
    "contextual_similarity",
    "cs_divergence",
    "cs_mutual_information",
    "distance_correlation",
    "frechet_cumulative_covariance",
    "frontness",
    "gaussian_gram",
    "gram_matrix",
    "log_stablemax",
    "median_bandwidth",
    "metric_distances",
    "minimizability_gap",
    "patch_features",
    "prior_bias",
    "sigmoid_focal_loss",
    "split_face",
    "stablemax",
    "style_objective",
    "stylize_by_optimization",
    "worst_case",
]
