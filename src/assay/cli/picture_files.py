"""Pictures of the user's own: PNG, JPEG and TIFF, 8 or 16 bits, grey or colour, read as numbers and written back."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from assay.cli import UsageProblem

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES: dict[str, dict[str, Any]] = {
    ".png": {},
    ".jpg": {"Q": 95},
    ".jpeg": {"Q": 95},
    ".tif": {"compression": "deflate", "predictor": "horizontal"},
    ".tiff": {"compression": "deflate", "predictor": "horizontal"},
}
"""What can be written, and with which options of the encoder."""
STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How files of the formats that are read begin."""
BITS = {"uchar": 8, "ushort": 16}
COLOURS = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb16": 3}
BYTES_HELD = 16
"""A sample of a picture while it is read, kept and written: two floats, and the bytes of either end."""


@dataclass(frozen=True)
class Picture:
    """`pixels` (c, h, w) in [0, 1], c being 1 or 3; `alpha` (1, h, w) or None; bits of a sample; its colour profile."""

    pixels: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    profile: bytes | None = None

    def showing(self, pixels: Tensor, *, bits: int | None = None) -> Picture:
        """Other pixels under the same alpha; the profile stays where the number of channels does."""
        kept = self.profile if len(pixels) == len(self.pixels) else None
        return replace(self, pixels=pixels, bits=bits or self.bits, profile=kept)


@dataclass(frozen=True)
class Opened:
    """A picture of which only the head has been read."""

    path: Path
    image: Any
    channels: int
    bits: int

    @property
    def height(self) -> int:
        return int(self.image.height)

    @property
    def width(self) -> int:
        return int(self.image.width)

    @property
    def alpha(self) -> bool:
        return int(self.image.bands) > self.channels

    def read(self) -> Picture:
        """All of it, upright.

        Raises:
            UsageProblem: the file is damaged.
        """
        import numpy as np
        import torch

        vips = _vips()
        try:
            samples = self.image.numpy().reshape(self.height, self.width, -1)
        except vips.Error as error:
            raise UsageProblem(f"{self.path} is damaged: {_line(error)}") from None
        values = torch.from_numpy(np.moveaxis(samples, 2, 0).astype(np.float32)).div_(2**self.bits - 1)
        pixels, alpha = values[: self.channels], values[self.channels :]
        has_profile = "icc-profile-data" in self.image.get_fields()
        profile = bytes(self.image.get("icc-profile-data")) if has_profile else None
        return Picture(pixels, alpha if len(alpha) else None, self.bits, profile)


def open_picture(path: Path, name: str) -> Opened:
    """Look at the head of a file; EXIF orientation is applied.

    Args:
        path: the file.
        name: what messages call it.

    Raises:
        UsageProblem: it is not there, or no picture that can be read.
    """
    if not path.is_file():
        raise UsageProblem(f"{name}: {path} is no file")
    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith(STARTS):
        raise UsageProblem(f"{name}: {path} is no PNG, JPEG or TIFF")
    vips = _vips()
    try:
        source = vips.Source.new_from_file(str(path))
        image = vips.Image.new_from_source(source, "", fail_on="truncated")
        pages = int(image.get("n-pages")) if "n-pages" in image.get_fields() else 1
        image = image.autorot()
    except vips.Error as error:
        raise UsageProblem(f"{name}: {path} cannot be read: {_line(error)}") from None
    if pages > 1:
        raise UsageProblem(f"{name}: {path} has {pages} pages; a picture has one")
    if image.format not in BITS or image.interpretation not in COLOURS:
        kind = f"{image.interpretation} of type {image.format}"
        raise UsageProblem(f"{name}: {path} holds {kind}; grey or RGB with 8 or 16 bits is read")
    channels = COLOURS[image.interpretation]
    if image.bands - channels not in (0, 1):
        raise UsageProblem(f"{name}: {path} has {image.bands} channels; grey or RGB, with or without alpha, is read")
    return Opened(path, image, channels, BITS[image.format])


def check_targets(*targets: tuple[str, Path | None], force: bool) -> None:
    """Refuse, before any work is done, files that cannot be written or are there already.

    Raises:
        UsageProblem: by the name of the option.
    """
    met: set[Path] = set()
    for name, path in targets:
        if path is None:
            continue
        if path.is_dir() or (path.exists() and not force):
            raise UsageProblem(f"{name}: {path} exists already" + ("" if path.is_dir() else "; --force overwrites it"))
        if not path.parent.is_dir():
            raise UsageProblem(f"{name}: there is no folder {path.parent}")
        if path.resolve() in met:
            raise UsageProblem(f"{name}: {path} is named twice")
        met.add(path.resolve())


def check_format(name: str, path: Path | None, *, bits: int, alpha: bool) -> None:
    """Refuse a suffix that is none, or one that cannot hold the picture."""
    if path is None:
        return
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageProblem(f"{name}: {path} must end in {', '.join(SUFFIXES)}")
    if suffix in (".jpg", ".jpeg") and (alpha or bits > 8):
        what = "an alpha channel" if alpha else "16 bits; --bits 8 makes it 8"
        raise UsageProblem(f"{name}: a JPEG cannot hold {what}" + ("; write a .png or .tif" if alpha else ""))


def write_picture(path: Path, picture: Picture) -> Path:
    """Encode it by the suffix, rounding to its bits, and put the file in its place whole.

    Raises:
        UsageProblem: it could not be written; what was there before is there still.
    """
    import numpy as np
    import torch

    vips = _vips()
    values = picture.pixels if picture.alpha is None else torch.cat([picture.pixels, picture.alpha])
    top, kind = (255, np.uint8) if picture.bits == 8 else (65535, np.uint16)
    samples = (values.clamp(0, 1) * top).round_().permute(1, 2, 0).numpy().astype(kind)
    grey, colour = ("b-w", "srgb") if picture.bits == 8 else ("grey16", "rgb16")
    image = vips.Image.new_from_array(np.ascontiguousarray(samples))
    image = image.copy(interpretation=colour if len(picture.pixels) == 3 else grey)
    if picture.profile is not None:
        image.set_type(vips.GValue.blob_type, "icc-profile-data", picture.profile)
    suffix = path.suffix.lower()
    try:
        data = image.write_to_buffer(suffix, **SUFFIXES[suffix])
    except vips.Error as error:
        raise UsageProblem(f"cannot encode {path}: {_line(error)}") from None
    return write_bytes(path, data)


def write_bytes(path: Path, data: bytes) -> Path:
    """A file that is there whole or not at all."""
    part = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageProblem(f"cannot write {path}: {error.strerror or error}") from None
    return path


def beside(one: Picture, other: Picture) -> Picture:
    """Both pictures side by side with a white line between; a grey one becomes grey in colour beside a coloured one."""
    import torch

    channels = max(len(one.pixels), len(other.pixels))
    gap = max(2, one.pixels.shape[2] // 100)
    line = torch.ones(channels, one.pixels.shape[1], gap)
    left, right = (each.pixels.expand(channels, -1, -1) for each in (one, other))
    alpha = None
    if one.alpha is not None:
        alpha = torch.cat([one.alpha, torch.ones(1, *line.shape[1:]), one.alpha], 2)
    profile = one.profile if channels == len(one.pixels) else None
    return Picture(torch.cat([left, line, right], 2), alpha, other.bits, profile)


def _vips() -> Any:
    try:
        import pyvips
    except (ImportError, OSError):
        raise UsageProblem("pictures are read and written with libvips: `pip install 'assay[image]'`") from None
    return pyvips


def _line(error: Exception) -> str:
    return " ".join(str(getattr(error, "detail", error)).split()) or type(error).__name__
