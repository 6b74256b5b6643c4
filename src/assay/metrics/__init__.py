"""Measures of quality, each a plain function of tensors.

Classification: `accuracy`, `calibration_error` and its kin, by bins of equal count (`adaptive_calibration_error`), by
class (`classwise_calibration_error`), in the worst bin (`maximum_calibration_error`), and with a sign
(`confidence_gap`). Images: `psnr`, `ssim`, `ms_ssim`, `gmsd`. All return a float but the last three, which return one
value an image, of which there is a gradient. Representations: `linear_cka`, a tensor of one number with a gradient.

Robustness: `pgd`, the inputs that a measure is then taken at.
"""

from .attacks import pgd
from .calibration import (
    adaptive_calibration_error,
    classwise_calibration_error,
    confidence_gap,
    maximum_calibration_error,
)
from .cka import linear_cka
from .classification import accuracy, calibration_error
from .gmsd import gmsd
from .psnr import psnr
from .ssim import ms_ssim, ssim

__all__ = [
    "accuracy",
    "adaptive_calibration_error",
    "calibration_error",
    "classwise_calibration_error",
    "confidence_gap",
    "gmsd",
    "linear_cka",
    "maximum_calibration_error",
    "ms_ssim",
    "pgd",
    "psnr",
    "ssim",
]
