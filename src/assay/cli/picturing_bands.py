"""`assay image bands` and `assay image mix`: a picture taken apart by scale, and put together again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.options import json_option
from assay.cli.picture_files import Picture, write_bytes, write_picture
from assay.cli.picture_options import (
    Wanted,
    check_folder,
    force_option,
    memory_option,
    opened_photo,
    separate_option,
    tol_option,
    without_memory,
)
from assay.cli.picture_work import bar, plan
from assay.cli.picturing_tv import flow

if TYPE_CHECKING:
    from torch import Tensor

    from assay.imaging import NonlinearSpectrum

FILE = "bands.safetensors"


@click.command("bands")
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--bands", "count", type=click.IntRange(1, 32), default=4, show_default=True, help="How many.")
@click.option(
    "--first", type=click.FloatRange(0, min_open=True), default=0.02, show_default=True, help="Where times begin."
)
@click.option(
    "--until",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Where the last band ends: a disc of contrast h and radius r pixels lives at t = h r / 2.",
)
@click.option("--steps", type=click.IntRange(1, 64), default=3, show_default=True, help="Of the flow, in each band.")
@separate_option
@tol_option
@memory_option
@force_option
@json_option
def bands_command(
    photo: Path,
    out: Path,
    count: int,
    first: float,
    until: float,
    steps: int,
    separate: bool,
    tol: float,
    memory: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Take a picture apart by the size and contrast of what is in it.

    Bands are what the total-variation flow extinguishes between times that grow by a factor from band to band; the
    first holds the finest texture. The residual is what is left. OUT gets band-1.png and so on with mid grey for zero,
    residual.png, and bands.safetensors with the numbers, whose sum is the picture; `assay image mix` weighs them.
    """
    opened = opened_photo(photo)
    if first >= until:
        raise UsageProblem(f"--first must lie below --until: got {first} and {until}")
    names = [*(f"band-{number}.png" for number in range(1, count + 1)), "residual.png", FILE]
    check_folder(out, names, force)
    per_pixel = opened.channels * (75 + 4 * 4 * (count * steps + 3))
    plan(opened, bytes_per_pixel=per_pixel, out_channels=opened.channels, memory=memory, halo=None)
    picture = opened.read()
    ratio = (until / first) ** (1 / (count * steps))
    times = [0.0, *(first * ratio**number for number in range(count * steps + 2))]
    spectrum = _decomposed(picture.pixels, times, opened.channels == 3 and not separate, tol)
    edges = [first * ratio ** (number * steps) for number in range(count + 1)]
    # Times are in the middle of what they stand for, but the first band and the last take what lies at their ends.
    cuts = [0.0, *(edge * ratio**0.5 for edge in edges[1:])]
    bands = [spectrum.band(begin, end) for begin, end in pairwise(cuts)]
    out.mkdir(exist_ok=True)
    whites = _write(out, names, picture, bands, spectrum.residual)
    told: list[dict[str, Any]] = [
        {"band": number + 1, "t": [begin, end], "deviation": float(band.std()), "white": white}
        for number, (band, white, (begin, end)) in enumerate(zip(bands, whites, pairwise(edges), strict=True))
    ]
    if as_json:
        written = [str(out / name) for name in names]
        echo_json({"bands": told, "residual": float(spectrum.residual.std()), "written": written})
        return
    for each in told:
        begin, end = each["t"]
        click.echo(
            f"band {each['band']}: t = {begin:.3g} to {end:.3g}, standard deviation {each['deviation']:.4f},"
            f" white is {each['white']:+.3f}"
        )
    click.echo(f"residual: standard deviation {spectrum.residual.std():.4f}\n{out}: {', '.join(names)}")


@click.command("mix")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--gain", "gains", required=True, help="One a band, then the residual's: 0,1,2,1 with commas.")
@without_memory
def mix_command(folder: Path, wanted: Wanted, gains: str) -> None:
    """Put the bands of a picture together again, each with a gain.

    FOLDER is what `assay image bands` wrote. A gain of 0 leaves a band out, 2 doubles it; where one fewer is given than
    there are parts, the residual's is 1.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / FILE).is_file():
        raise UsageProblem(f"FOLDER: there is no file {folder / FILE}")
    try:
        found = load_file(folder / FILE)
    except SafetensorError:
        found = {}
    if not {"bands", "residual", "bits"} <= set(found):
        raise UsageProblem(f"FOLDER: {folder / FILE} was not written by assay image bands")
    bands, residual = found["bands"], found["residual"]
    weights = _gains(gains, len(bands))
    profile = bytes(found["profile"].numpy()) if "profile" in found else None
    before = Picture(bands.sum(0) + residual, found.get("alpha"), int(found["bits"]), profile)
    bits = wanted.check(bits=before.bits, alpha=before.alpha is not None)
    made = sum((gain * part for gain, part in zip(weights, [*bands, residual], strict=True)), 0 * residual)
    wanted.save(before, before.showing(made, bits=bits))


def _decomposed(f: Tensor, times: list[float], coupled: bool, tol: float) -> NonlinearSpectrum:
    """The spectrum from the states of the flow at these times."""
    import torch

    from assay.imaging import NonlinearSpectrum

    with bar("total-variation flow") as watch:
        states = flow(f, times[1:], coupled=coupled, tol=tol, watch=watch)
    return NonlinearSpectrum.from_snapshots(torch.stack([f, *states]), torch.tensor(times).to(f))


def _write(out: Path, names: list[str], picture: Picture, bands: list[Tensor], residual: Tensor) -> list[float]:
    """All files; what white stands for in the picture of each band."""
    import torch
    from safetensors.torch import save

    whites = []
    for name, band in zip(names, bands, strict=False):
        white = float(band.abs().max()) or 1.0
        write_picture(out / name, picture.showing(0.5 + band / (2 * white)))
        whites.append(white)
    write_picture(out / names[-2], picture.showing(residual))
    kept = {"bands": torch.stack(bands), "residual": residual.contiguous(), "bits": torch.tensor(picture.bits)}
    if picture.alpha is not None:
        kept["alpha"] = picture.alpha.contiguous()
    if picture.profile is not None:
        kept["profile"] = torch.frombuffer(bytearray(picture.profile), dtype=torch.uint8)
    write_bytes(out / names[-1], save(kept))
    return whites


def _gains(text: str, bands: int) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageProblem(f"--gain takes numbers with commas between them, not {text!r}") from None
    if len(found) not in (bands, bands + 1):
        raise UsageProblem(f"--gain takes a number for each of {bands} bands, and the residual's: got {len(found)}")
    if not all(abs(each) < float("inf") for each in found):
        raise UsageProblem(f"--gain must be finite: got {text}")
    return found if len(found) > bands else [*found, 1.0]
