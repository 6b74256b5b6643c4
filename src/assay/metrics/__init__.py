"""Measures of quality, each a plain function of tensors that returns a float.

Classification: `accuracy`, `calibration_error`. Images: `psnr`.
"""

from .classification import accuracy, calibration_error
from .psnr import psnr

__all__ = ["accuracy", "calibration_error", "psnr"]
