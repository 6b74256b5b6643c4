"""`assay image transform`: a map of a picture that changes little when the light does."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from assay.cli import UsageProblem
from assay.cli.own_network import tensors, unet_sizes
from assay.cli.picture_files import Opened, check_targets, write_bytes
from assay.cli.picture_options import Wanted, opened_photo, writes_a_picture
from assay.cli.picture_work import Tile, Watch, plan, run_tiles

if TYPE_CHECKING:
    from torch import Tensor


class Kind(NamedTuple):
    """How a map (channels, h, w) is made of pixels (c, h, w), and how it is shown (shown, h, w).

    A pixel of it depends on `reach` pixels around, or on all (None); making it takes `bytes_per_pixel`.
    """

    make: Callable[[Tensor], Tensor]
    show: Callable[[Tensor], Tensor]
    channels: int
    shown: int
    reach: int | None
    bytes_per_pixel: int


METHODS = (
    "log-chromaticity",
    "census",
    "local-contrast",
    "self-quotient",
    "gradient-orientation",
    "phit-net",
)


@click.command("transform")
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(METHODS), default="local-contrast", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="A trained PhITNet, for phit-net: .safetensors.")
@click.option(
    "--sigma",
    type=click.FloatRange(0, 1000, min_open=True),
    default=3.0,
    show_default=True,
    help="Of the surroundings, in pixels: local-contrast, self-quotient.",
)
@click.option("--radius", type=click.IntRange(1, 15), default=2, show_default=True, help="Of the square: census.")
@click.option(
    "--alpha", type=click.FloatRange(0, 1), default=0.48, show_default=True, help="By the camera: log-chromaticity."
)
@writes_a_picture
def transform_command(
    photo: Path, wanted: Wanted, method: str, weights: Path | None, sigma: float, radius: int, alpha: float
) -> None:
    """A map of a picture that minds the light little, so that pictures of one scene under two lights can be compared.

    phit-net is the photo-consistent transform with weights that you trained; the other methods need none. Where --out
    ends in .npy it gets the numbers (channels, height, width); else a picture of them: local contrast and phit-net from
    -3 to 3 standard deviations, the self quotient from 0 to 2, log chromaticity from -1 to 1, of the census the share
    of neighbours that are brighter, of the gradient down as red and across as green.
    """
    opened = opened_photo(photo)
    kind = _kind(opened, method, weights, sigma, radius, alpha)
    numbers = wanted.out.suffix.lower() == ".npy"
    bits = _check(wanted, opened, numbers)
    channels = kind.channels if numbers else kind.shown
    parts = plan(
        opened,
        bytes_per_pixel=kind.bytes_per_pixel,
        out_channels=channels,
        memory=wanted.memory,
        halo=kind.reach,
        wider=1 if wanted.beside is None else 2,
    )
    picture = opened.read()

    def work(tile: Tile, _: Watch) -> Tensor:
        made = kind.make(tile.cut(picture.pixels))
        return made if numbers else kind.show(made)

    found = run_tiles(parts, (channels, *picture.pixels.shape[1:]), work, method)
    if numbers:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, found.numpy())
        wanted.tell([write_bytes(wanted.out, buffer.getvalue())], found, bits=32, method=method, tiles=len(parts))
    else:
        wanted.save(picture, picture.showing(found, bits=bits), method=method, tiles=len(parts))


def _kind(opened: Opened, method: str, weights: Path | None, sigma: float, radius: int, alpha: float) -> Kind:
    import torch

    from assay import imaging

    c = opened.channels
    if (method == "phit-net") != (weights is not None):
        raise UsageProblem("--weights and --method phit-net go together")
    if method == "phit-net":
        assert weights is not None
        return _phit(opened, weights)
    if method == "log-chromaticity":
        if c != 3:
            raise UsageProblem(f"PHOTO: {opened.path} is grey, and log-chromaticity is of colours")
        return Kind(lambda x: imaging.log_chromaticity(x, alpha), lambda x: (x + 1) / 2, 1, 1, 0, 40)
    if method == "census":
        near = (2 * radius + 1) ** 2
        return Kind(
            partial(imaging.census, radius=radius),
            lambda x: x.mean(0, keepdim=True),
            near - 1,
            1,
            radius,
            10 * near,
        )
    if method == "local-contrast":
        reach = 2 * max(1, round(3 * sigma))  # one blur within the other
        return Kind(lambda x: imaging.local_contrast_normalize(x, sigma), lambda x: x / 6 + 0.5, c, c, reach, 100 * c)
    if method == "self-quotient":
        reach = max(1, round(3 * sigma))
        return Kind(lambda x: imaging.self_quotient(x, sigma), lambda x: x / 2, c, c, reach, 85 * c)
    return Kind(imaging.gradient_orientation, lambda x: torch.cat([x, torch.zeros_like(x[:1])]) / 2 + 0.5, 2, 3, 1, 60)


def _phit(opened: Opened, weights: Path) -> Kind:
    """The network of a checkpoint, whose sizes are those of its tensors."""
    import torch

    from assay.imaging import PhITNet

    state = tensors(weights, option="--weights")
    try:
        channels, out, width, levels = unet_sizes(state)
        network = PhITNet(channels, out, width=width, levels=levels)
        network.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError, IndexError):
        raise UsageProblem(f"--weights: {weights} holds no assay.imaging.PhITNet") from None
    network.eval()
    if channels not in (1, opened.channels):
        raise UsageProblem(f"--weights: {weights} takes {channels} channels, and PHOTO has {opened.channels}")
    if min(opened.height, opened.width) < 2**levels:
        raise UsageProblem(f"PHOTO: {opened.path} must have sides of at least {2**levels} pixels for these weights")

    def make(x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = network((x.mean(0, keepdim=True) if channels < len(x) else x)[None])[0]
        return found

    shown = out if out in (1, 3) else 1

    def show(x: Tensor) -> Tensor:
        return (x if shown == out else x.mean(0, keepdim=True)) / 6 + 0.5

    return Kind(make, show, out, shown, None, 60 * width)


def _check(wanted: Wanted, opened: Opened, numbers: bool) -> int:
    if not numbers:
        return wanted.check(bits=opened.bits, alpha=opened.alpha)
    if wanted.beside is not None or wanted.bits is not None:
        raise UsageProblem("--out: a .npy has no --bits and no --beside")
    check_targets(("--out", wanted.out), force=wanted.force)
    return opened.bits
