"""The few networks that claims share, written once.

Each is a plain function `(shape, num_classes, *, options) -> nn.Module`: the module takes (n, *shape) and returns
logits (n, num_classes). `build` finds one by name; `ClassTokenViT` is a class of its own. `decoder` is the one for
words: (n, t) integers to logits of the next word at each place, `StyleTransferNet`, `UNet` and `BiasFreeUNet` (without
constants) are from images to images, `LateFusion` is the one for several modalities, `BatchedMLP` many small
perceptrons trained at once. Initial weights come from torch's global generator.
"""

from .batched_mlp import BatchedMLP
from .bias_free_unet import BiasFreeUNet, ScaleNorm
from .build import build
from .class_token_vit import ClassTokenViT
from .classifiers import convnet, mlp, smallcnn
from .conv_lstm import ConvLSTMCell
from .decoder import decoder
from .late_fusion import LateFusion
from .resnet import resnet8
from .style_transfer import StyleTransferNet
from .tinyvit import tinyvit
from .unet import UNet

__all__ = [
    "BatchedMLP",
    "BiasFreeUNet",
    "ClassTokenViT",
    "ConvLSTMCell",
    "LateFusion",
    "ScaleNorm",
    "StyleTransferNet",
    "UNet",
    "build",
    "convnet",
    "decoder",
    "mlp",
    "resnet8",
    "smallcnn",
    "tinyvit",
]
