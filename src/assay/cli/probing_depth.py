"""`assay probe depth-sampling`: where in a scene of your own a budget of depth samples is spent best."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.options import json_option
from assay.cli.own_network import tensors, unet_sizes
from assay.cli.picture_files import Opened, Picture, open_picture, write_bytes, write_picture
from assay.cli.picture_options import check_folder, force_option, memory_option
from assay.cli.picture_work import bar, plan

if TYPE_CHECKING:
    from torch import Tensor

    from assay.report import Section

FILES = ["report.html", "samples.png", "samples.csv", "importance.png"]
REPEATS = 10
"""Random patterns whose errors are averaged."""
MEASURES = ("rmse", "mae", "rel")


@click.command("depth-sampling")
@click.argument("photo", type=click.Path(path_type=Path))
@click.argument("depth", type=click.Path(path_type=Path))
@click.option("--budget", default="1%", show_default=True, help="Samples: a number, or a share of the pixels.")
@click.option(
    "--unit",
    type=click.FloatRange(0, min_open=True),
    default=0.001,
    show_default=True,
    help="Meters in one step of a depth picture; a .npy is in meters.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="A trained ImportanceNet that sees PHOTO alone.")
@click.option("--error", type=click.Choice(["rmse", "rel"]), default="rmse", show_default=True, help="To be small.")
@click.option("--method", type=click.Choice(["linear", "nearest"]), default="linear", show_default=True)
@click.option(
    "--draws", type=click.IntRange(min=1), default=100, show_default=True, help="Random patterns to learn from."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is random.")
@click.option("--out", type=click.Path(path_type=Path), default="depth-report", show_default=True, help="Folder.")
@memory_option
@force_option
@json_option
def depth_sampling_command(
    photo: Path,
    depth: Path,
    budget: str,
    unit: float,
    weights: Path | None,
    error: str,
    method: str,
    draws: int,
    seed: int,
    out: Path,
    memory: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Where a budget of depth samples should lie, and the error beside samples at random, on a grid, by superpixel.

    DEPTH is the whole depth of PHOTO: a grey picture (0 is unknown) or a .npy (h, w). Samples lie where depth completed
    from random samples is wrong, so they know the answer, as far as one can get; --weights lets a network that sees
    PHOTO alone say where. Writes OUT/report.html, samples.png, samples.csv (row and column of each), importance.png.
    """
    import torch

    from assay import imaging

    opened = open_picture(photo, "PHOTO")
    height, width = opened.height, opened.width
    samples = _budget(budget, height * width)
    check_folder(out, FILES, force)
    plan(opened, bytes_per_pixel=400, out_channels=1, memory=memory, halo=None)
    rgb = opened.read().pixels.expand(3, -1, -1)
    truth = _depth(depth, unit, opened)
    valid = truth > 0
    if int(valid.sum()) < samples:
        raise UsageProblem(f"DEPTH: {depth} is known at {int(valid.sum())} pixels, fewer than the budget of {samples}")
    generator = torch.Generator().manual_seed(seed)

    def complete(mask: Tensor, values: Tensor, _: Tensor | None = None) -> Tensor:
        return imaging.complete_depth(mask, values, method=method)

    if weights is None:
        q = torch.zeros_like(truth)
        with bar("importance") as watch:
            for number in range(draws):
                q += imaging.importance_map(
                    truth, complete, samples, error=error, draws=1, valid=valid, generator=generator
                )
                watch((number + 1) / draws)
        q /= draws
    else:
        q = torch.where(valid, _predicted(weights, rgb), 0.0)
    patterns = {
        "by importance": [imaging.gaussian_sampling(q, samples, generator=generator)],
        "superpixels": [imaging.superpixel_pattern(rgb, samples, generator=generator)],
        "grid": [imaging.grid_pattern(height, width, samples, generator=generator)],
        "random": [imaging.random_pattern(height, width, samples, generator=generator) for _ in range(REPEATS)],
    }
    errors = {
        name: _errors([complete(mask & valid, truth) for mask in masks], truth, valid)
        for name, masks in patterns.items()
    }
    mask = patterns["by importance"][0]
    out.mkdir(exist_ok=True)
    _write(out, mask, q)
    source = "the errors of random samples" if weights is None else weights.name
    sections = _sections(photo, samples, rgb, truth, q, mask, errors, source)
    from assay.report import write_probe_report

    page = write_probe_report(out / FILES[0], f"Where to measure depth in {photo.name}", sections)
    written = [str(page), *(str(out / name) for name in FILES[1:])]
    if as_json:
        echo_json({"samples": samples, "pixels": height * width, "errors": errors, "written": written})
        return
    click.echo(f"{samples} samples of {height * width} pixels; error of the depth completed from them:")
    for name, found in errors.items():
        click.echo(f"  {name:14} rmse {found['rmse']:.4g} m, mae {found['mae']:.4g} m, relative {found['rel']:.2%}")
    click.echo("written: " + ", ".join(written))


def _budget(text: str, pixels: int) -> int:
    try:
        found = round(float(text[:-1]) / 100 * pixels) if text.endswith("%") else int(text)
    except (ValueError, OverflowError):
        raise UsageProblem(f"--budget takes a number of samples or a share such as 1%, not {text!r}") from None
    if not 1 <= found <= pixels:
        raise UsageProblem(f"--budget must lie in 1 to {pixels}, the pixels there are: got {text} = {found}")
    return found


def _depth(path: Path, unit: float, photo: Opened) -> Tensor:
    """(h, w) in meters, 0 where it is not known."""
    import numpy as np
    import torch

    if path.suffix.lower() == ".npy":
        if not path.is_file():
            raise UsageProblem(f"DEPTH: {path} is no file")
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            raise UsageProblem(f"DEPTH: {path} holds no array") from None
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise UsageProblem(f"DEPTH: {path} must hold numbers (h, w): got {array.dtype} {array.shape}")
        found = torch.from_numpy(array.astype(np.float32))
    else:
        opened = open_picture(path, "DEPTH")
        if opened.channels != 1:
            raise UsageProblem(f"DEPTH: {path} must be grey, or a .npy: it is in colour")
        picture = opened.read()
        found = picture.pixels[0].mul(2**picture.bits - 1).round_().mul_(unit)
    if found.shape != (photo.height, photo.width):
        sizes = f"{photo.width} x {photo.height} pixels: got {found.shape[1]} x {found.shape[0]}"
        raise UsageProblem(f"DEPTH: {path} must have the size of PHOTO, {sizes}")
    return torch.where(found.isfinite() & (found > 0), found, 0.0)


def _predicted(weights: Path, rgb: Tensor) -> Tensor:
    from assay.imaging import ImportanceNet

    state = tensors(weights, option="--weights")
    try:
        channels, _, width, levels = unet_sizes(state)
        network = ImportanceNet(channels, width=width, levels=levels)
        network.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError, IndexError):
        raise UsageProblem(f"--weights: {weights} holds no assay.imaging.ImportanceNet") from None
    if channels != len(rgb) or min(rgb.shape[1:]) < 2**levels:
        size = f"sides of at least {2**levels} pixels and {channels} channels"
        raise UsageProblem(f"--weights: {weights} takes {size}: got {tuple(rgb.shape)}")
    found: Tensor = network.eval().predict(rgb)
    return found


def _errors(completed: list[Tensor], truth: Tensor, valid: Tensor) -> dict[str, float]:
    """The mean of each measure over patterns of one kind."""
    from assay.imaging import depth_errors

    found = [depth_errors(each, truth, valid=valid) for each in completed]
    return {name: sum(each[name] for each in found) / len(found) for name in MEASURES}


def _write(out: Path, mask: Tensor, q: Tensor) -> None:
    write_picture(out / FILES[1], Picture(mask[None].float()))
    lines = io.StringIO()
    lines.write("row,column\n")
    lines.writelines(f"{row},{column}\n" for row, column in mask.nonzero().tolist())
    write_bytes(out / FILES[2], lines.getvalue().encode())
    write_picture(out / FILES[3], Picture((q / q.max().clamp_min(1e-30)).sqrt()[None], bits=16))


def _sections(
    photo: Path,
    samples: int,
    rgb: Tensor,
    truth: Tensor,
    q: Tensor,
    mask: Tensor,
    errors: dict[str, dict[str, float]],
    source: str,
) -> list[Section]:
    from assay.report import Section, Table
    from assay.report.picture import picture

    best, usual = errors["by importance"]["rmse"], errors["random"]["rmse"]
    high = float(q.sqrt().max()) or 1.0
    pictures: list[tuple[Any, str]] = [
        (rgb, "the photograph"),
        (truth / float(truth.max()), "its depth, far is bright, unknown black"),
        (q.sqrt() / high, "how wrong depth is, at each pixel"),
        (mask.float(), "the samples"),
    ]
    return [
        Section(
            "What was found",
            f"With {samples} samples of {photo.name} where {source} say, completed depth is off by {best:.4g} m (root"
            f" mean square); with as many at random, by {usual:.4g} m, a mean over {REPEATS} patterns. Samples where"
            " the depth is not known give nothing, and only pixels where it is known are judged.",
            table=Table(
                ("samples", "rmse, m", "mae, m", "relative"),
                [
                    (name, f"{found['rmse']:.4g}", f"{found['mae']:.4g}", f"{found['rel']:.2%}")
                    for name, found in errors.items()
                ],
            ),
        ),
        Section(
            "Where they lie",
            "A coarse grid of a twentieth of the samples, then the most important pixel again and again, its"
            " surroundings held back each time.",
            drawing=[picture(each.numpy(), title, low=0.0, high=1.0) for each, title in pictures],
        ),
    ]
