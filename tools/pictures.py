"""Makes the pictures of docs/pictures.md: the inputs, then what the commands on the page make of them.

    python tools/pictures.py

Prints the numbers that stand on the page.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from pathlib import Path

import pyvips
import torch

from assay.cli import main
from assay.cli.picture_files import Picture, open_picture, write_picture
from assay.data import photos, relight, scenes
from assay.metrics import psnr

PAGE = Path(__file__).parents[1] / "docs" / "pictures.md"
FIGURES = {
    "noise": ("noisy", "tv", "a2tv"),
    "bands": ("parts/band-1", "parts/band-2", "parts/band-3", "parts/band-4", "parts/residual"),
    "mixed": ("cat", "crisp", "painted"),
    "light": ("noon", "noon-log", "noon-local", "dusk", "dusk-log", "dusk-local"),
    "depth": ("scene", "far", "depth-report/importance", "depth-report/samples"),
}
COLUMNS = {"light": 3}
FARTHEST = 30.0
"""Of the scene's depth, in meters: farther is not known."""


def inputs() -> None:
    """What the page's commands read, in the current folder."""
    generator = torch.Generator().manual_seed(0)
    cat = photos("chelsea")["chelsea"]
    noisy = (cat + 0.1 * torch.randn(cat.shape, generator=generator)).clamp(0, 1)
    astronaut = photos("astronaut")["astronaut"]
    scene = scenes.random_scene(torch.Generator().manual_seed(3))
    shot = scenes.render(scene, scenes.Light(), scenes.Camera(size=(256, 256)))
    depth = torch.where(shot.depth < FARTHEST, shot.depth, 0)
    for name, pixels in {
        "cat": cat,
        "flash": cat,
        "noisy": noisy,
        "noon": relight(astronaut, 1.0, torch.Generator().manual_seed(1)),
        "dusk": relight(astronaut, 1.0, torch.Generator().manual_seed(5)),
        "scene": shot.rgb,
        "far": depth[None] / FARTHEST,
    }.items():
        write_picture(Path(f"{name}.png"), Picture(pixels))
    write_picture(Path("depth.png"), Picture((depth * 1000 / 65535)[None], bits=16))


def commands() -> list[list[str]]:
    """The words of each command on the page, in order."""
    lines = re.findall(r"^\$ assay (.*)$", PAGE.read_text(), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def pixels(name: str) -> torch.Tensor:
    return open_picture(Path(f"{name}.png"), name).read().pixels


def figure(name: str, parts: tuple[str, ...]) -> None:
    """Pictures in a row, or in two."""
    images = [pyvips.Image.new_from_file(f"{part}.png") for part in parts]
    images = [image.colourspace("srgb") for image in images]
    sheet = pyvips.Image.arrayjoin(images, across=COLUMNS.get(name, len(images)), shim=4, background=[255.0] * 3)
    folder = PAGE.with_suffix("")
    folder.mkdir(exist_ok=True)
    sheet.write_to_file(str(folder / f"{name}.jpg[Q=82,strip]"))


def make() -> None:
    inputs()
    for words in commands():
        print("$ assay", shlex.join(words))
        try:
            main(words)
        except SystemExit as ended:
            if ended.code:
                raise
    cat = pixels("cat")
    for name in ("noisy", "tv", "a2tv", "guided"):
        print(f"{name}: {psnr(pixels(name), cat):.1f} dB")
    for name, parts in FIGURES.items():
        figure(name, parts)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        make()
