"""A fixed network whose activations losses compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.data.remote import Download

KINDS = ("trained", "random", "vgg16", "vgg19")
SMALL = (16, 32, 64)
"""Channels of the three convolutions of the small network."""

VGG = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions in each of the five blocks; their channels are 64, 128, 256, 512, 512."""

VGG16 = Download(
    "vgg16",
    ("https://download.pytorch.org/models/",),
    {"vgg16-397923af.pth": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"},
)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the colours that the VGG networks were trained on."""


class FrozenFeatures(nn.Module):
    r"""Activations $\phi_j(x)$ of a fixed convolutional network at its layers $j$, differentiable in the image alone.

    Its weights never get gradients, and there is nothing in it that training mode would change.

    Args:
        kind: "trained": three 3 x 3 convolutions (16, 32, 64 channels), each with a ReLU, and a 2 x 2 mean between
            them; trained to tell nine photographs and four rotations apart (`tools/train_frozen_features.py`), it ships
            with the package. "random": the same network with He's random weights (seed 0), the control. "vgg16",
            "vgg19": the ImageNet networks.
        weights: for "vgg16" and "vgg19": a state dict in torchvision's layout, or the path of one (`.safetensors`, or
            `.pth`, which is read as tensors only). None downloads that of "vgg16" once; "vgg19" needs a file.

    Called with images (n, 3, h, w) in [0, 1] and the names of layers, or None for all; gives {name: (n, c, h', w')}.
    Nothing after the deepest layer asked for is computed. Names are `layers`: `relu1`, `relu2`, `relu3` for the small
    network, `relu1_1` to `relu5_3` (or `relu5_4`) for VGG.

    The paper: Johnson, Alahi, Fei-Fei (2016, arXiv:1603.08155), section 3.2, where it is called the loss network.

    Raises:
        ValueError: for an unknown kind or layer, weights that do not fit, images too small or not of three channels.
        assay.data.Unavailable: when weights are to be downloaded and cannot be had.

    Example:
        >>> network = FrozenFeatures()
        >>> found = network(torch.rand(2, 3, 48, 48), ["relu2", "relu3"])
        >>> [(name, tuple(each.shape)) for name, each in found.items()]
        [('relu2', (2, 32, 24, 24)), ('relu3', (2, 64, 12, 12))]
        >>> sum(p.numel() for p in network.parameters()), any(p.requires_grad for p in network.parameters())
        (23584, False)
    """

    def __init__(self, kind: str = "trained", *, weights: str | Path | Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}: got {kind!r}")
        if weights is not None and kind not in VGG:
            raise ValueError(
                f"weights must be None for kind={kind!r}, whose weights ship or are drawn: got {weights!r}"
            )
        self.kind = kind
        steps, self.layers = _vgg(VGG[kind]) if kind in VGG else _small()
        self.steps = nn.ModuleList(steps)
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("std", torch.ones(1, 3, 1, 1))
        if kind in VGG:
            self._load_vgg(weights)
        elif kind == "random":
            self._draw()
            self._normalize(_shipped())
        else:
            self._load_small(_shipped())
        self.requires_grad_(False)

    def forward(
        self, images: Float[Tensor, "n 3 h w"], layers: Sequence[str] | None = None
    ) -> dict[str, Float[Tensor, "n _ _ _"]]:
        wanted = check_layers(self, self.layers if layers is None else layers)
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (n, 3, h, w): got {tuple(images.shape)}")
        last = max(self.layers.index(name) for name in wanted)
        halvings = sum(isinstance(step, nn.MaxPool2d | nn.AvgPool2d) for step in self._upto(last))
        if min(images.shape[2:]) < 2**halvings:
            raise ValueError(f"images must have at least {2**halvings} pixels a side: got {tuple(images.shape[2:])}")
        found = {}
        hidden = (images - self.mean) / self.std
        names = iter(self.layers)
        for step in self._upto(last):
            hidden = step(hidden)
            if isinstance(step, nn.ReLU):
                name = next(names)
                if name in wanted:
                    found[name] = hidden
        return {name: found[name] for name in wanted}

    def _upto(self, last: int) -> list[nn.Module]:
        """The steps up to and with the ReLU of the layer number `last`."""
        ends = [i for i, step in enumerate(self.steps) if isinstance(step, nn.ReLU)]
        return list(self.steps)[: ends[last] + 1]

    def _convolutions(self) -> list[nn.Conv2d]:
        return [step for step in self.steps if isinstance(step, nn.Conv2d)]

    def _load_small(self, stored: Mapping[str, Tensor]) -> None:
        for number, convolution in enumerate(self._convolutions(), 1):
            convolution.weight.data.copy_(stored[f"conv{number}.weight"])
            convolution.bias.data.copy_(stored[f"conv{number}.bias"])
        self._normalize(stored)

    def _normalize(self, stored: Mapping[str, Tensor]) -> None:
        self.mean.copy_(stored["mean"].view(1, 3, 1, 1))
        self.std.copy_(stored["std"].view(1, 3, 1, 1))

    def _draw(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for convolution in self._convolutions():
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(convolution.bias)

    def _load_vgg(self, weights: str | Path | Mapping[str, Tensor] | None) -> None:
        if weights is None:
            if self.kind != "vgg16":
                raise ValueError(f"weights must be a state dict or the path of one for kind={self.kind!r}: got None")
            weights = VGG16.fetch("vgg16-397923af.pth")
        stored = weights if isinstance(weights, Mapping) else _read(Path(weights))
        for number, step in enumerate(self.steps):
            if not isinstance(step, nn.Conv2d):
                continue
            for name, parameter in (("weight", step.weight), ("bias", step.bias)):
                key = f"features.{number}.{name}"
                if key not in stored or stored[key].shape != parameter.shape:
                    there = tuple(stored[key].shape) if key in stored else "nothing"
                    raise ValueError(f"weights must hold {key} of shape {tuple(parameter.shape)}: got {there}")
                parameter.data.copy_(stored[key])
        for name, values in zip(("mean", "std"), IMAGENET, strict=True):
            getattr(self, name).copy_(torch.tensor(values).view(1, 3, 1, 1))


def check_layers(features: nn.Module, layers: Sequence[str]) -> tuple[str, ...]:
    """`layers`, if the network has all of them."""
    known = features.layers
    if isinstance(layers, str) or not layers:
        raise ValueError(f"layers must be a sequence of at least one of {', '.join(known)}: got {layers!r}")
    for name in layers:
        if name not in known:
            raise ValueError(f"layers must be among {', '.join(known)}: got {name!r}")
    return tuple(layers)


def _small() -> tuple[list[nn.Module], tuple[str, ...]]:
    steps: list[nn.Module] = []
    for before, after in zip((3, *SMALL[:-1]), SMALL, strict=True):
        if steps:
            steps.append(nn.AvgPool2d(2))
        steps += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return steps, tuple(f"relu{i + 1}" for i in range(len(SMALL)))


def _vgg(blocks: Sequence[int]) -> tuple[list[nn.Module], tuple[str, ...]]:
    steps: list[nn.Module] = []
    names, before = [], 3
    for block, (count, after) in enumerate(zip(blocks, (64, 128, 256, 512, 512), strict=True), 1):
        if steps:
            steps.append(nn.MaxPool2d(2))
        for number in range(1, count + 1):
            steps += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            names.append(f"relu{block}_{number}")
            before = after
    return steps, tuple(names)


def _shipped() -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(resources.files(__package__).joinpath("frozen_features.safetensors").read_bytes())


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"weights must be the path of a file: got {path}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
