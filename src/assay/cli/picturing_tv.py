"""`assay image tv` and `assay image a2tv`: total-variation denoising of a picture, plain and steered."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli import UsageProblem
from assay.cli.picture_files import open_picture
from assay.cli.picture_options import Wanted, opened_photo, restore, separate_option, tol_option, writes_a_picture
from assay.cli.picture_work import Watch, certified

if TYPE_CHECKING:
    from torch import Tensor

    from assay.imaging import Solution

t_option = click.option(
    "--t",
    type=click.FloatRange(0, 100),
    default=0.1,
    show_default=True,
    help="How much; about the noise's standard deviation, white being 1.",
)


def halo(t: float) -> int:
    """Pixels that a tile sees around it.

    On photographs a tile then differs from the whole by at most half a grey level of 255 up to t = 0.3, and one at 1.

    >>> halo(0.1), halo(1.0)
    (39, 96)
    """
    return 32 + math.ceil(64 * t)


def flow(
    f: Tensor, times: list[float], *, isotropic: bool = True, coupled: bool, tol: float, watch: Watch
) -> list[Tensor]:
    """The states of the total-variation flow at some times, as `assay.imaging.tv_flow_2d` steps to them.

    The gap of every step is relative to the energy of the picture, not to that of the state before, which may be so
    flat that single precision ends before.
    """
    from assay.imaging import rof

    over = (-3, -2, -1) if coupled else (-2, -1)

    def energy(x: Tensor) -> Tensor:
        return (x - x.mean((-2, -1), keepdim=True)).square().sum(over)

    states: list[Tensor] = []
    dual: Tensor | None = None
    state, now, whole = f, 0.0, energy(f)
    for number, time in enumerate(times):
        left = energy(state)
        relaxed = tol * float((whole / left.clamp_min(1e-30))[left > 0].min()) if bool((left > 0).any()) else tol

        def solve(
            start: Tensor | None, iterations: int, f: Tensor = state, t: float = time - now, tol: float = relaxed
        ) -> Solution:
            kind: Any = dict(isotropic=isotropic, coupled=coupled)
            return rof(f, t, **kind, tol=tol, max_iterations=iterations, start=start)

        def told(share: float, number: int = number) -> None:
            watch((number + share) / len(times))

        found = certified(solve, dual, f.numel(), relaxed, told)
        state, dual, now = found.x, found.dual, time
        states.append(state)
    return states


@click.command("tv")
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(min=1), default=1, show_default=True, help="Of the flow up to t.")
@click.option("--anisotropic", is_flag=True, help="|dx| + |dy| for the length of the gradient.")
@t_option
@separate_option
@tol_option
@writes_a_picture
def tv_command(
    photo: Path, wanted: Wanted, t: float, steps: int, anisotropic: bool, separate: bool, tol: float
) -> None:
    """Remove noise and fine texture, keep edges: total variation.

    One step is the Rudin-Osher-Fatemi model, argmin t TV(u) + |u - f|^2 / 2; more steps follow the total-variation
    flow to time t. A picture too large for memory is done in tiles that see 32 + 64 t pixels around them.
    """
    opened = opened_photo(photo)
    coupled = opened.channels == 3 and not separate

    def work(f: Tensor, _: Tensor | None, watch: Watch) -> Tensor:
        times = [t * (step + 1) / steps for step in range(steps)]
        return flow(f, times, isotropic=not anisotropic, coupled=coupled, tol=tol, watch=watch)[-1]

    restore(opened, wanted, work, label="total variation", bytes_per_pixel=75 * opened.channels, halo=halo(t))


@click.command("a2tv")
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--guide", type=click.Path(path_type=Path), help="Picture of the same size whose edges are kept.")
@click.option(
    "--t",
    type=click.FloatRange(0, 100),
    default=0.1,
    show_default=True,
    help="How much; about the noise's standard deviation, 1.7 times that in colour.",
)
@click.option(
    "--a",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.3,
    show_default=True,
    help="Weight across edges; 1 is plain total variation.",
)
@click.option(
    "--contrast",
    type=click.FloatRange(0, min_open=True),
    help="Gradient of an edge. [t / 3, in colour t / 5.2; guide: 0.03]",
)
@click.option("--sigma", type=click.FloatRange(0, 100), help="Blur before gradients, pixels. [1.2; guide: 0.7]")
@click.option("--rho", type=click.FloatRange(0, 100), help="Blur after them. [1.5; guide: 1]")
@separate_option
@tol_option
@writes_a_picture
def a2tv_command(
    photo: Path,
    wanted: Wanted,
    guide: Path | None,
    t: float,
    a: float,
    contrast: float | None,
    sigma: float | None,
    rho: float | None,
    separate: bool,
    tol: float,
) -> None:
    """Remove noise along edges, not across: adaptive anisotropic total variation.

    Gradients count less across the edges of a guide, which is the picture itself unless another is given. Settings in
    brackets are for a noisy picture that guides itself, and for a clean guide. Large pictures are done in tiles, as by
    tv.
    """
    opened = opened_photo(photo)
    other = None if guide is None else open_picture(guide, "--guide")
    if other is not None and (other.height, other.width) != (opened.height, opened.width):
        sizes = f"{opened.width} x {opened.height} pixels: got {other.width} x {other.height}"
        raise UsageProblem(f"--guide: {guide} must have the size of PHOTO, {sizes}")
    coupled = opened.channels == 3 and not separate
    noise = t / 3**0.5 if coupled else t  # lengths over three channels are longer
    usual = (0.03, 0.7, 1.0) if other else (noise / 3 or 0.03, 1.2, 1.5)
    k, fine, wide = (
        value if given is None else given for given, value in zip((contrast, sigma, rho), usual, strict=True)
    )

    def work(f: Tensor, steering: Tensor | None, watch: Watch) -> Tensor:
        from assay.imaging import A2TV, AdaptiveTensor

        field = AdaptiveTensor(a, k, fine, wide)(f if steering is None else steering)
        functional = A2TV(field, coupled=coupled)

        def solve(start: Tensor | None, iterations: int) -> Solution:
            return functional.prox(f, t, tol=tol, max_iterations=iterations, z0=start)

        return certified(solve, None, f.numel(), tol, watch).x

    channels = max(opened.channels, other.channels if other else 0)
    around = halo(t) + math.ceil(4 * (fine + wide))
    restore(
        opened,
        wanted,
        work,
        label="adaptive total variation",
        bytes_per_pixel=110 + 60 * channels,
        halo=around,
        guide=other,
    )
