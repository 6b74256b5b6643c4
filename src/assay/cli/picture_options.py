"""What the commands on pictures have in common: their options, and how a picture is worked on, written and told of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.options import Bytes, json_option
from assay.cli.picture_files import Opened, Picture, beside, check_format, check_targets, open_picture, write_picture
from assay.cli.picture_work import Watch, plan, run_tiles

if TYPE_CHECKING:
    from torch import Tensor

Work = Callable[["Tensor", "Tensor | None", Watch], "Tensor"]
"""From the pixels of a tile, and those of a guide, to the result."""

memory_option = click.option("--memory", type=Bytes(), help="That may be used; 3/4 of what is free if not given.")
force_option = click.option("--force", is_flag=True, help="Overwrite what is there.")
OPTIONS = (
    click.option("--out", type=click.Path(path_type=Path), required=True, help="The picture to write."),
    click.option("--beside", type=click.Path(path_type=Path), help="Write before and after, side by side, here too."),
    click.option("--bits", type=click.Choice(["8", "16"]), help="Of what is written; as it was if not given."),
    force_option,
    json_option,
)
tol_option = click.option(
    "--tol",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=1e-5,
    show_default=True,
    help="Relative duality gap.",
)
separate_option = click.option("--separate", is_flag=True, help="Each colour channel by itself.")


@dataclass(frozen=True)
class Wanted:
    """Where a result goes, and what it may take."""

    out: Path
    beside: Path | None
    bits: str | None
    memory: int | None
    force: bool
    as_json: bool

    def check(self, *, bits: int, alpha: bool) -> int:
        """The bits of what is written, after a look at whether it can be.

        Args:
            bits: of what was read.
            alpha: whether there is an alpha channel.

        Raises:
            UsageProblem: it cannot.
        """
        bits = int(self.bits or bits)
        targets = (("--out", self.out), ("--beside", self.beside))
        check_targets(*targets, force=self.force)
        for name, path in targets:
            check_format(name, path, bits=bits, alpha=alpha)
        return bits

    def save(self, before: Picture, after: Picture, **facts: Any) -> None:
        """Write the picture, and both side by side if asked for; say so."""
        written = [write_picture(self.out, after)]
        if self.beside is not None:
            written.append(write_picture(self.beside, beside(before, after)))
        self.tell(written, after.pixels, bits=after.bits, **facts)

    def tell(self, written: list[Path], pixels: Tensor, *, bits: int, **facts: Any) -> None:
        """Say what was written."""
        height, width = pixels.shape[-2:]
        files = [str(path) for path in written]
        if self.as_json:
            echo_json({"width": width, "height": height, "bits": bits, **facts, "written": files})
            return
        tiled = f", in {facts['tiles']} tiles" if facts.get("tiles", 1) > 1 else ""
        click.echo(f"{width} x {height} pixels, {bits} bits{tiled}: {', '.join(files)}")


def without_memory(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `Wanted`, which it is called with as `wanted`, but for --memory."""

    @wraps(command)
    def call(*, out: Path, beside: Path | None, bits: str | None, force: bool, as_json: bool, **settings: Any) -> None:
        wanted = Wanted(out, beside, bits, settings.pop("memory", None), force, as_json)
        command(wanted=wanted, **settings)

    made: Callable[..., None] = call
    for option in reversed(OPTIONS):
        made = option(made)
    return made


def writes_a_picture(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `Wanted`, which it is called with as `wanted`."""
    return memory_option(without_memory(command))


def opened_photo(photo: Path) -> Opened:
    """The picture that a command is about, at least 2 x 2 pixels."""
    opened = open_picture(photo, "PHOTO")
    if min(opened.height, opened.width) < 2:
        raise UsageProblem(f"PHOTO: {photo} must be at least 2 x 2 pixels: got {opened.width} x {opened.height}")
    return opened


def check_folder(out: Path, names: list[str], force: bool) -> None:
    """Refuse a folder that cannot be made, or that holds one of these files already."""
    if out.exists() and not out.is_dir():
        raise UsageProblem(f"--out: {out} exists already and is no folder")
    there = [name for name in names if (out / name).exists()]
    if there and not force:
        raise UsageProblem(f"--out: {out / there[0]} exists already; --force overwrites it")
    if not out.absolute().parent.is_dir():
        raise UsageProblem(f"--out: there is no folder {out.parent}")


def restore(
    opened: Opened,
    wanted: Wanted,
    work: Work,
    *,
    label: str,
    bytes_per_pixel: int,
    halo: int,
    guide: Opened | None = None,
) -> None:
    """Check what can be checked, read, work tile by tile, write.

    Args:
        opened: the picture.
        wanted: where it goes.
        work: the method.
        label: stands before the bar.
        bytes_per_pixel: what the method needs for a pixel that it sees.
        halo: how many pixels around a tile it sees.
        guide: of the picture's size.
    """
    bits = wanted.check(bits=opened.bits, alpha=opened.alpha)
    parts = plan(
        opened,
        bytes_per_pixel=bytes_per_pixel,
        out_channels=opened.image.bands + (0 if guide is None else guide.image.bands),
        memory=wanted.memory,
        halo=halo,
        wider=1 if wanted.beside is None else 2,
    )
    picture = opened.read()
    steering = None if guide is None else guide.read().pixels
    pixels = run_tiles(
        parts,
        tuple(picture.pixels.shape),
        lambda tile, watch: work(tile.cut(picture.pixels), None if steering is None else tile.cut(steering), watch),
        label,
    )
    wanted.save(picture, picture.showing(pixels, bits=bits), tiles=len(parts))
