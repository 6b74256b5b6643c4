"""`assay image`: pictures of every kind are read and written as what they are, and worked on as the library does."""

import json
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pyvips
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from assay.cli import UsageProblem, picture_work
from assay.cli.picture_files import Picture, beside, open_picture, write_picture
from assay.cli.picture_work import certified, plan, run_tiles, tiles
from assay.imaging import (
    A2TV,
    AdaptiveTensor,
    NonlinearSpectrum,
    PhITNet,
    census,
    gradient_orientation,
    local_contrast_normalize,
    log_chromaticity,
    rof,
    self_quotient,
    tv_flow_2d,
)

HEIGHT, WIDTH = 11, 14
TURNED = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.T,
    6: lambda stored: stored[::-1].T,
    7: lambda stored: stored[::-1, ::-1].T,
    8: lambda stored: stored.T[::-1],
}


def samples(channels, bits, seed=0, shape=(HEIGHT, WIDTH)):
    """Random numbers over the whole range of a sample, (h, w, c)."""
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**bits, (*shape, channels)).astype(kind)


def png_bytes(pixels):
    """A PNG by the letter of its specification, rows unfiltered."""
    height, width, channels = pixels.shape
    bits = 8 * pixels.itemsize
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = pixels.astype(f">u{pixels.itemsize}").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def tiff_bytes(pixels, *, orientation=1, pages=1):
    """A little-endian TIFF by the letter of its specification, not compressed."""
    height, width, channels = pixels.shape
    data = pixels.astype(f"<u{pixels.itemsize}").tobytes()
    data += b"\0" * (len(data) % 2)
    bits = struct.pack(f"<{channels}H", *[8 * pixels.itemsize] * channels)
    bits += b"\0" * (len(bits) % 4)
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, channels, 8 + len(data) if channels > 2 else struct.unpack("<I", bits[:4])[0]),
        (259, 3, 1, 1),
        (262, 3, 1, 2 if channels > 2 else 1),
        (273, 4, 1, 8),
        (274, 3, 1, orientation),
        (277, 3, 1, channels),
        (278, 3, 1, height),
        (279, 4, 1, pixels.nbytes),
    ]
    if channels in (2, 4):
        tags.append((338, 3, 1, 2))  # the last channel is alpha
    first = 8 + len(data) + len(bits)
    size = 2 + 12 * len(tags) + 4
    blocks = [
        struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        + struct.pack("<I", first + (page + 1) * size if page + 1 < pages else 0)
        for page in range(pages)
    ]
    return struct.pack("<2sHI", b"II", 42, first) + data + bits + b"".join(blocks)


def pixels_of(path):
    """(c, h, w) as whole numbers, by another reader where there is one."""
    image = pyvips.Image.new_from_buffer(path.read_bytes(), "")
    found = np.moveaxis(image.numpy().reshape(image.height, image.width, -1), 2, 0)
    if image.format == "uchar":
        other = np.array(shown(path))
        assert np.array_equal(found, np.moveaxis(other.reshape(*other.shape[:2], -1), 2, 0))
    return found


def shown(path):
    """A picture as Pillow reads it, its file closed."""
    with Image.open(path) as image:
        image.load()
        return image


def as_tensor(values):
    return torch.from_numpy(np.moveaxis(values, 2, 0).astype(np.float32)) / np.iinfo(values.dtype).max


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_kind_of_picture(assay, tmp_path, suffix, channels, bits):
    """Read as it is, worked on as the library does, alpha and depth kept."""
    values = samples(channels, bits)
    (tmp_path / f"x{suffix}").write_bytes((png_bytes if suffix == ".png" else tiff_bytes)(values))
    done = assay("image", "tv", f"x{suffix}", "--out", f"y{suffix}", "--t", 0.2, "--json")
    told = json.loads(done.stdout)
    assert told == {"width": WIDTH, "height": HEIGHT, "bits": bits, "tiles": 1, "written": [f"y{suffix}"]}
    found = pixels_of(tmp_path / f"y{suffix}")
    colours = 3 if channels > 2 else 1
    f = as_tensor(values)[:colours]
    wanted = rof(f, 0.2, coupled=colours == 3, tol=1e-5).x.clamp(0, 1).mul(2**bits - 1).round()
    assert found.dtype == values.dtype
    assert np.array_equal(found[:colours], wanted.numpy())
    assert np.array_equal(found[colours:], np.moveaxis(values, 2, 0)[colours:])  # alpha as it was
    assert len(found) == channels


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg(assay, tmp_path, mode):
    Image.fromarray(samples(3, 8)).convert(mode).save(tmp_path / "x.jpg", quality=90)
    seen = np.array(shown(tmp_path / "x.jpg")).reshape(HEIGHT, WIDTH, -1)
    opened = open_picture(tmp_path / "x.jpg", "PHOTO")
    # Decoders may round differently.
    assert (opened.read().pixels - as_tensor(seen)).abs().max() < 2.5 / 255
    assay("image", "tv", "x.jpg", "--out", "y.jpeg", "--t", 0.5)
    with Image.open(tmp_path / "y.jpeg") as made:
        assert (made.format, made.mode, made.size) == ("JPEG", mode, (WIDTH, HEIGHT))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_orientation_is_applied(assay, tmp_path, suffix, orientation):
    """By the table of the EXIF standard, and the file written says nothing of turning any more."""
    shade = np.linspace(20, 220, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    if suffix == ".tif":
        (tmp_path / "x.tif").write_bytes(tiff_bytes(shade[:, :, None], orientation=orientation))
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(shade).save(tmp_path / f"x{suffix}", exif=exif, quality=100)
    assay("image", "tv", f"x{suffix}", "--out", "y.png", "--t", 0)
    made = shown(tmp_path / "y.png")
    wanted = TURNED[orientation](shade)
    assert made.size == wanted.shape[::-1]
    assert np.abs(np.array(made).astype(int) - wanted).max() <= (2 if suffix == ".jpg" else 0)
    assert made.getexif().get(0x0112, 1) == 1


def test_a_colour_profile_goes_along(assay, tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(samples(3, 8)).save(tmp_path / "x.png", icc_profile=profile)
    assay("image", "tv", "x.png", "--out", "y.jpg", "--beside", "z.tif")
    assert shown(tmp_path / "y.jpg").info["icc_profile"] == profile
    assert shown(tmp_path / "z.tif").info["icc_profile"] == profile


def test_palettes_and_single_bits_are_read(tmp_path):
    palette = Image.fromarray(samples(3, 8)).convert("P", palette=Image.Palette.ADAPTIVE, colors=5)
    palette.save(tmp_path / "p.png")
    seen = open_picture(tmp_path / "p.png", "PHOTO").read().pixels
    assert torch.equal(seen, as_tensor(np.array(palette.convert("RGB"))))
    line = Image.fromarray(samples(1, 8)[:, :, 0]).convert("1")
    line.save(tmp_path / "l.png")
    line.save(tmp_path / "l.tif")
    for name in ("l.png", "l.tif"):
        seen = open_picture(tmp_path / name, "PHOTO").read().pixels
        assert torch.equal(seen[0], torch.from_numpy(np.array(line)).float())


def test_bits_and_side_by_side(assay, tmp_path):
    values = samples(4, 16)
    (tmp_path / "x.png").write_bytes(png_bytes(values))
    done = assay("image", "tv", "x.png", "--out", "y.png", "--beside", "z.png", "--bits", 8)
    assert done.stdout == f"{WIDTH} x {HEIGHT} pixels, 8 bits: y.png, z.png\n"
    made, both = pixels_of(tmp_path / "y.png"), pixels_of(tmp_path / "z.png")
    before = (as_tensor(values) * 255).round().byte().numpy()
    assert made.dtype == np.uint8
    assert np.array_equal(both[:, :, :WIDTH], before)
    assert np.array_equal(both[:, :, WIDTH + 2 :], made)
    assert bool((both[:, :, WIDTH : WIDTH + 2] == 255).all())


def test_grey_beside_colour():
    one, other = (
        Picture(torch.rand(3, 4, 5), torch.rand(1, 4, 5), profile=b"rgb"),
        Picture(torch.rand(1, 4, 5), bits=16),
    )
    both = beside(one, other)
    assert both.pixels.shape == (3, 4, 12)
    assert torch.equal(both.pixels[:, :, 7:], other.pixels.expand(3, -1, -1))
    assert torch.equal(both.alpha[:, :, 7:], one.alpha)
    assert (both.bits, both.profile) == (16, b"rgb")
    assert beside(Picture(torch.rand(1, 4, 5), profile=b"grey"), other).profile == b"grey"
    assert beside(Picture(torch.rand(1, 4, 5), profile=b"grey"), Picture(torch.rand(3, 4, 5))).profile is None


def test_total_variation_as_the_library_does_it(assay, tmp_path):
    values = samples(3, 8)
    (tmp_path / "x.png").write_bytes(png_bytes(values))
    f = as_tensor(values)
    cases = {
        ("--anisotropic",): rof(f, 0.1, isotropic=False, coupled=True, tol=1e-5).x,
        ("--separate",): rof(f, 0.1, tol=1e-5).x,
        ("--tol", 1e-6, "--t", 0.3): rof(f, 0.3, coupled=True, tol=1e-6).x,
    }
    for words, wanted in cases.items():
        assay("image", "tv", "x.png", "--out", "y.png", "--force", *words)
        away = np.abs(pixels_of(tmp_path / "y.png") - (wanted.clamp(0, 1) * 255).numpy()).max()
        assert away <= 0.5001, words  # rounded to whole numbers


def test_the_flow_in_steps(assay, tmp_path):
    """Within what the gaps of three steps bound, which one step of the same length is not."""
    values = samples(3, 16, shape=(7, 9))
    (tmp_path / "x.png").write_bytes(png_bytes(values))
    f = as_tensor(values).double()
    flowed = tv_flow_2d(f, torch.tensor([0.06, 0.12, 0.18]), tol=1e-8, max_iterations=50_000)[-1]
    assay("image", "tv", "x.png", "--out", "y.png", "--steps", 3, "--separate", "--t", 0.18, "--tol", 1e-6)
    away = (torch.from_numpy(pixels_of(tmp_path / "y.png") / 65535) - flowed).square().sum((1, 2)).sqrt()
    bound = 3 * (1e-6 * (f - f.mean((1, 2), keepdim=True)).square().sum((1, 2))).sqrt()
    assert bool((away < bound).all())
    assert bool(((rof(f, 0.18, tol=1e-8, max_iterations=50_000).x - flowed).square().sum((1, 2)).sqrt() > bound).all())


def test_adaptive_total_variation_as_the_library_does_it(assay, tmp_path):
    values, guide = samples(3, 16), samples(1, 8, seed=1)
    (tmp_path / "x.png").write_bytes(png_bytes(values))
    (tmp_path / "g.png").write_bytes(png_bytes(guide))
    f, g = as_tensor(values), as_tensor(guide)
    cases = {
        (): A2TV(AdaptiveTensor(0.3, 0.1 / 3**1.5, 1.2, 1.5)(f), coupled=True).prox(f, 0.1, tol=1e-5).x,
        ("--separate",): A2TV(AdaptiveTensor(0.3, 0.1 / 3, 1.2, 1.5)(f)).prox(f, 0.1, tol=1e-5).x,
        ("--guide", "g.png"): A2TV(AdaptiveTensor(0.3)(g), coupled=True).prox(f, 0.1, tol=1e-5).x,
        ("--a", 0.5, "--contrast", 0.2, "--sigma", 0, "--rho", 2, "--separate", "--t", 0.2): A2TV(
            AdaptiveTensor(0.5, 0.2, 0.0, 2.0)(f)
        )
        .prox(f, 0.2, tol=1e-5)
        .x,
    }
    for words, wanted in cases.items():
        assay("image", "a2tv", "x.png", "--out", "y.png", "--force", *words)
        away = np.abs(pixels_of(tmp_path / "y.png") - (wanted.clamp(0, 1) * 65535).numpy()).max()
        assert away <= 0.51, words  # rounded to whole numbers, in single precision


def test_nothing_is_overwritten_unless_it_may_be(assay, tmp_path):
    (tmp_path / "x.png").write_bytes(png_bytes(samples(1, 8)))
    (tmp_path / "y.png").write_text("mine")
    assert "--out: y.png exists already; --force overwrites it" in refused(assay, "x.png", "--out", "y.png")
    assert "--out: x.png exists already" in refused(assay, "x.png", "--out", "x.png")
    assert "--beside: y.png exists" in refused(assay, "x.png", "--out", "z.png", "--beside", "y.png")
    assert (tmp_path / "y.png").read_text() == "mine"
    assert not (tmp_path / "z.png").exists()
    assay("image", "tv", "x.png", "--out", "y.png", "--force")
    assert pixels_of(tmp_path / "y.png").shape == (1, HEIGHT, WIDTH)
    (tmp_path / "dir.png").mkdir()
    assert "--out: dir.png exists already\n" in refused(assay, "x.png", "--out", "dir.png", "--force")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir.png", "x.png", "y.png"]  # nothing half written


def refused(assay, *words, command="tv"):
    return assay("image", command, *words, code=2).stderr


def test_what_is_no_picture(assay, tmp_path):
    whole = png_bytes(samples(3, 8, shape=(200, 200)))
    files = {
        "text.png": b"no picture",
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "head.png": whole[:20],
        "x.gif": b"GIF89a",
        "x.svg": b"<svg/>",
        "pages.tif": tiff_bytes(samples(1, 8), pages=3),
        "odd.tif": tiff_bytes(samples(3, 8))[:40],
        "thin.png": png_bytes(samples(1, 8, shape=(1, 9))),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    Image.fromarray(samples(4, 8), "CMYK").save(tmp_path / "ink.jpg")
    Image.fromarray(np.random.default_rng(0).random((4, 5)).astype(np.float32)).save(tmp_path / "float.tif")
    for name, message in (
        ("nowhere.png", "PHOTO: nowhere.png is no file"),
        (".", "PHOTO: . is no file"),
        ("text.png", "PHOTO: text.png is no PNG, JPEG or TIFF"),
        ("empty.png", "PHOTO: empty.png is no PNG, JPEG or TIFF"),
        ("x.gif", "x.gif is no PNG, JPEG or TIFF"),
        ("x.svg", "x.svg is no PNG, JPEG or TIFF"),
        ("cut.png", "cut.png is damaged"),
        ("head.png", "head.png cannot be read"),
        ("odd.tif", "odd.tif cannot be read"),
        ("pages.tif", "pages.tif has 3 pages; a picture has one"),
        ("ink.jpg", "ink.jpg holds cmyk of type uchar; grey or RGB with 8 or 16 bits is read"),
        ("float.tif", "float.tif holds b-w of type float"),
        ("thin.png", "thin.png must be at least 2 x 2 pixels: got 9 x 1"),
    ):
        assert message in refused(assay, name, "--out", "y.png"), name
        assert not (tmp_path / "y.png").exists()


def test_what_cannot_be_written(assay, tmp_path):
    (tmp_path / "x.png").write_bytes(png_bytes(samples(2, 8)))
    (tmp_path / "deep.png").write_bytes(png_bytes(samples(3, 16)))
    for words, message in (
        (("x.png", "--out", "y.gif"), "--out: y.gif must end in .png, .jpg"),
        (("x.png", "--out", "y"), "--out: y must end in"),
        (("x.png", "--out", "y.jpg"), "--out: a JPEG cannot hold an alpha channel; write a .png or .tif"),
        (("deep.png", "--out", "y.jpg"), "--out: a JPEG cannot hold 16 bits; --bits 8 makes it 8"),
        (("x.png", "--out", "no/y.png"), "--out: there is no folder no"),
        (("x.png", "--out", "y.png", "--beside", "y.png"), "--beside: y.png is named twice"),
    ):
        assert message in refused(assay, *words)
    assay("image", "tv", "deep.png", "--out", "y.jpg", "--bits", 8)


def test_guides_that_do_not_fit(assay, tmp_path):
    (tmp_path / "x.png").write_bytes(png_bytes(samples(1, 8)))
    (tmp_path / "g.png").write_bytes(png_bytes(samples(1, 8, shape=(5, 6))))
    words = ("x.png", "--out", "y.png", "--guide")
    assert f"PHOTO, {WIDTH} x {HEIGHT} pixels: got 6 x 5" in refused(assay, *words, "g.png", command="a2tv")
    assert "--guide: h.png is no file" in refused(assay, *words, "h.png", command="a2tv")


def test_without_the_library(assay, tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(png_bytes(samples(1, 8)))
    monkeypatch.setitem(sys.modules, "pyvips", None)
    assert "`pip install 'assay[image]'`" in refused(assay, "x.png", "--out", "y.png")


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "y.png").write_text("mine")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UsageProblem, match=r"cannot write .*y\.png: No space left on device"):
        write_picture(tmp_path / "y.png", Picture(torch.rand(1, 4, 5)))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_values_outside_are_clipped_and_rounded(tmp_path):
    write_picture(tmp_path / "y.png", Picture(torch.tensor([[[-1.0, 0.5, 2.0, 0.25]]]), bits=16))
    assert pixels_of(tmp_path / "y.png").tolist() == [[[0, 32768, 65535, 16384]]]


# -- tiles ------------------------------------------------------------------------------------------------------------


def test_tiles_cover_every_pixel_once():
    f = torch.arange(7 * 10.0).view(1, 7, 10)
    parts = tiles(7, 10, 4, 2)
    assert len(parts) == 6
    told = []
    whole = run_tiles(parts, (1, 7, 10), lambda tile, watch: told.append(tile.cut(f).shape) or 2 * tile.cut(f), "x")
    assert torch.equal(whole, 2 * f)
    assert told[0] == (1, 6, 6)
    assert told[1] == (1, 6, 8)  # seen from both sides


def test_a_picture_too_large_is_done_in_tiles(assay, tmp_path):
    """Which differ from the whole by less than a grey level of 255."""
    rows = torch.linspace(0, 12, 260)
    clean = 0.5 + 0.3 * torch.sin(rows[:, None]) * torch.sin(1.7 * rows) + 0.2 * (rows[:, None] > rows)
    noisy = clean + 0.1 * torch.randn(260, 260, generator=torch.Generator().manual_seed(0))
    write_picture(tmp_path / "x.png", Picture(noisy.clamp(0, 1)[None], bits=16))
    for command, memory in (("tv", "5M"), ("a2tv", "9M")):
        options = ("x.png", "--t", 0.2, "--tol", 1e-6)
        assay("image", command, *options, "--out", f"{command}-whole.png")
        done = assay("image", command, *options, "--out", f"{command}-tiles.png", "--memory", memory, "--json")
        assert json.loads(done.stdout)["tiles"] > 1
        one, many = (pixels_of(tmp_path / f"{command}-{kind}.png").astype(int) for kind in ("whole", "tiles"))
        assert 0 < np.abs(one - many).max() < 257


def test_a_picture_too_large_for_tiles_is_refused(assay, tmp_path):
    (tmp_path / "x.png").write_bytes(png_bytes(samples(3, 8, shape=(300, 400))))
    said = refused(assay, "x.png", "--out", "y.png", "--memory", "6M")
    assert "x.png: 400 x 300 pixels need about 31 MiB of memory, 6 MiB are allowed; in tiles about 8 MiB" in said
    opened = open_picture(tmp_path / "x.png", "PHOTO")
    with pytest.raises(UsageProblem, match="this method must see the whole picture"):
        plan(opened, bytes_per_pixel=300, out_channels=3, memory=6 << 20, halo=None)
    assert len(plan(opened, bytes_per_pixel=300, out_channels=3, memory=None, halo=None)) == 1


def test_a_picture_whose_head_lies_is_not_decoded(assay, tmp_path):
    """A head of 60,000 x 60,000 pixels is refused before a byte of them is asked for."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 16, 2, 0, 0, 0)
    good = png_bytes(samples(3, 16))
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (tmp_path / "bomb.png").write_bytes(good[:16] + head + crc + good[33:])
    assert "60000 x 60000 pixels need about" in refused(assay, "bomb.png", "--out", "y.png", "--memory", "1G")


# -- the bar, and solvers that are looked at --------------------------------------------------------------------------


def test_a_solver_is_started_where_it_was(monkeypatch):
    monkeypatch.setattr(picture_work, "SAMPLES", 1)
    f = torch.rand(20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    told, started = [], []

    def solve(start, iterations):
        started.append((start is None, iterations))
        return rof(f, 1.0, tol=1e-9, max_iterations=iterations, start=start)

    found = certified(solve, None, f.numel(), 1e-9, told.append)
    assert found.gap <= 1e-9
    assert started[:2] == [(True, 50), (False, 50)]
    assert told == sorted(told)
    assert 0 <= told[0] < told[-1] < 1
    whole = rof(f, 1.0, tol=1e-12, max_iterations=50_000).x
    energy = (f - f.mean()).square().sum() / 2
    assert (found.x - whole).norm() <= 2 * (2 * 1e-9 * energy) ** 0.5  # what a gap bounds, for either


def test_a_solver_that_does_not_arrive(monkeypatch):
    monkeypatch.setattr(picture_work, "MOST", 60)
    never = SimpleNamespace(x=None, dual=None, gap=0.5, iterations=50)
    with pytest.raises(UsageProblem, match=r"60 iterations leave a gap of 5.0e-01: give a larger --tol"):
        certified(lambda start, iterations: never, None, 10_000_000, 1e-4, lambda share: None)


def test_a_bar_on_a_terminal_alone(monkeypatch, capsys):
    with picture_work.bar("work") as watch:
        watch(0.5)
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with picture_work.bar("work") as watch:
        watch(0.5)
    assert "work" in capsys.readouterr().err


# -- bands ------------------------------------------------------------------------------------------------------------


def test_bands_are_those_of_the_spectrum_and_sum_to_the_picture(assay, tmp_path):
    values = samples(2, 16)
    (tmp_path / "x.png").write_bytes(png_bytes(values))
    options = ("--bands", 2, "--first", 0.05, "--until", 0.2, "--steps", 2, "--tol", 1e-6)
    told = json.loads(assay("image", "bands", "x.png", "--out", "parts", *options, "--json").stdout)
    f, alpha = as_tensor(values)[:1], as_tensor(values)[1:]
    times = torch.tensor([0.0, *(0.05 * 2 ** (k / 2) for k in range(6))], dtype=torch.float64)
    states = tv_flow_2d(f.double(), times, tol=1e-8, max_iterations=50_000)
    spectrum = NonlinearSpectrum.from_snapshots(states, times)
    wanted = torch.stack([spectrum.phi[:3].sum(0), spectrum.phi[3:].sum(0)])
    kept = load_file(tmp_path / "parts" / "bands.safetensors")
    step = (1e-6 * (f - f.mean()).square().sum()).sqrt()  # what the gap of a step bounds
    assert bool(((kept["bands"] - wanted).flatten(1).norm(dim=1) < step).all())
    assert wanted.flatten(1).norm(dim=1).min() > 100 * step
    assert torch.allclose(kept["bands"].sum(0) + kept["residual"], f, atol=1e-6)
    assert torch.equal(kept["alpha"], alpha)
    assert [round(edge, 6) for band in told["bands"] for edge in band["t"]] == [0.05, 0.1, 0.1, 0.2]
    for number, band in enumerate(told["bands"]):
        assert band["deviation"] == pytest.approx(kept["bands"][number].std().item(), rel=1e-5)
        assert band["white"] == pytest.approx(kept["bands"][number].abs().max().item(), rel=1e-5)
        made = pixels_of(tmp_path / "parts" / f"band-{number + 1}.png")
        shown_band = (made[0] / 65535 - 0.5) * 2 * band["white"]
        assert np.abs(shown_band - kept["bands"][number, 0].numpy()).max() < 1e-4
        assert np.array_equal(made[1], values[:, :, 1])
    made = pixels_of(tmp_path / "parts" / "residual.png")[0]
    assert np.abs(made / 65535 - kept["residual"][0].numpy()).max() < 1e-4
    assert sorted(told["written"]) == sorted(str(Path("parts") / path.name) for path in (tmp_path / "parts").iterdir())


def test_bands_are_mixed(assay, tmp_path):
    values = samples(4, 8)
    (tmp_path / "x.png").write_bytes(png_bytes(values))
    said = assay("image", "bands", "x.png", "--out", "parts", "--bands", 2, "--until", 0.1).stdout
    assert "band 1: t = 0.02 to 0.0447" in said
    assert said.endswith("parts: band-1.png, band-2.png, residual.png, bands.safetensors\n")
    assay("image", "mix", "parts", "--gain", "1,1", "--out", "same.png")
    assert np.array_equal(pixels_of(tmp_path / "same.png"), np.moveaxis(values, 2, 0))
    assay("image", "mix", "parts", "--gain", "0.5,0,-1", "--out", "other.png", "--bits", 16, "--beside", "both.png")
    kept = load_file(tmp_path / "parts" / "bands.safetensors")
    wanted = (0.5 * kept["bands"][0] - kept["residual"]).clamp(0, 1)
    made = pixels_of(tmp_path / "other.png")
    assert np.abs(made[:3] / 65535 - wanted.numpy()).max() < 1e-4
    assert pixels_of(tmp_path / "both.png").shape == (4, HEIGHT, 2 * WIDTH + 2)


def test_bands_that_cannot_be(assay, tmp_path):
    (tmp_path / "x.png").write_bytes(png_bytes(samples(1, 8)))
    (tmp_path / "file").write_text("mine")
    assay("image", "bands", "x.png", "--out", "parts", "--bands", 1, "--until", 0.1)
    save_file({"w": torch.zeros(1)}, tmp_path / "file.safetensors")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "bands.safetensors").write_text("no numbers")
    (tmp_path / "other").mkdir()
    save_file({"w": torch.zeros(1)}, tmp_path / "other" / "bands.safetensors")
    for command, words, message in (
        ("bands", ("x.png", "--out", "parts"), "--out: parts/band-1.png exists already; --force overwrites it"),
        ("bands", ("x.png", "--out", "file"), "--out: file exists already and is no folder"),
        ("bands", ("x.png", "--out", "no/parts"), "--out: there is no folder no"),
        ("bands", ("x.png", "--out", "p", "--first", 2), "--first must lie below --until: got 2.0 and 1.0"),
        ("bands", ("x.png", "--out", "p", "--memory", "1K"), "this method must see the whole picture"),
        (
            "mix",
            ("parts", "--out", "y.png", "--gain", "1,2,3"),
            "for each of 1 bands, and the residual's: got 3",
        ),
        ("mix", ("parts", "--out", "y.png", "--gain", "a"), "--gain takes numbers with commas between them, not 'a'"),
        ("mix", ("parts", "--out", "y.png", "--gain", "nan"), "--gain must be finite: got nan"),
        ("mix", ("nowhere", "--out", "y.png", "--gain", "1"), "FOLDER: there is no file nowhere/bands.safetensors"),
        ("mix", ("other", "--out", "y.png", "--gain", "1"), "was not written by assay image bands"),
        ("mix", ("text", "--out", "y.png", "--gain", "1"), "was not written by assay image bands"),
        ("mix", ("parts", "--out", "x.png", "--gain", "1"), "--out: x.png exists already"),
    ):
        assert message in refused(assay, *words, command=command), message
    assay("image", "bands", "x.png", "--out", "parts", "--force", "--bands", 1)


# -- transforms -------------------------------------------------------------------------------------------------------

MAPS = {
    ("log-chromaticity", "--alpha", 0.3): (lambda x: log_chromaticity(x, 0.3), lambda m: (m + 1) / 2),
    ("census", "--radius", 1): (lambda x: census(x, radius=1), lambda m: m.mean(0, keepdim=True)),
    ("local-contrast", "--sigma", 1.5): (lambda x: local_contrast_normalize(x, 1.5), lambda m: m / 6 + 0.5),
    ("self-quotient", "--sigma", 0.8): (lambda x: self_quotient(x, 0.8), lambda m: m / 2),
    ("gradient-orientation",): (
        gradient_orientation,
        lambda m: torch.stack([m[0] / 2 + 0.5, m[1] / 2 + 0.5, torch.full_like(m[0], 0.5)]),
    ),
}


@pytest.mark.parametrize("words", MAPS, ids=lambda words: words[0])
def test_maps_are_those_of_the_library(assay, tmp_path, words):
    """As numbers and as a picture; in tiles, they are the same."""
    values = samples(4, 16, shape=(60, 50))
    (tmp_path / "x.png").write_bytes(png_bytes(values))
    make, show = MAPS[words]
    wanted = make(as_tensor(values)[:3])
    assay("image", "transform", "x.png", "--method", *words, "--out", "y.npy")
    found = np.load(tmp_path / "y.npy")
    assert found.dtype == np.float32
    assert np.allclose(found, wanted, atol=1e-6)
    done = assay("image", "transform", "x.png", "--method", *words, "--out", "y.png", "--json")
    assert json.loads(done.stdout)["method"] == words[0]
    made = pixels_of(tmp_path / "y.png")
    assert np.abs(made[:-1] - show(wanted).clamp(0, 1).mul(65535).numpy()).max() < 0.6
    assert np.array_equal(made[-1], values[:, :, 3])
    memory = {"census": "350K", "local-contrast": "600K", "self-quotient": "350K"}.get(words[0], "220K")
    done = assay("image", "transform", "x.png", "--method", *words, "--out", "z.png", "--memory", memory, "--json")
    assert json.loads(done.stdout)["tiles"] > 1
    assert np.abs(pixels_of(tmp_path / "z.png").astype(int) - made).max() <= 1


@pytest.mark.parametrize(("channels", "out"), [(3, 1), (1, 1), (3, 2), (3, 3)])
def test_a_trained_photo_consistent_transform(assay, tmp_path, channels, out):
    torch.manual_seed(0)
    network = PhITNet(channels, out, width=4, levels=2)
    network(torch.rand(2, channels, 16, 16))  # batch norms have seen something
    network.eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    values = samples(3, 8)
    (tmp_path / "x.png").write_bytes(png_bytes(values))
    x = as_tensor(values) if channels == 3 else as_tensor(values).mean(0, keepdim=True)
    with torch.no_grad():
        wanted = network(x[None])[0]
    options = ("x.png", "--method", "phit-net", "--weights", "w.safetensors")
    assay("image", "transform", *options, "--out", "y.npy")
    assert np.allclose(np.load(tmp_path / "y.npy"), wanted, atol=1e-6)
    assay("image", "transform", *options, "--out", "y.png", "--beside", "z.png")
    shown_map = wanted.mean(0, keepdim=True) if out == 2 else wanted
    made = pixels_of(tmp_path / "y.png")
    assert np.abs(made - (shown_map / 6 + 0.5).clamp(0, 1).mul(255).numpy()).max() < 0.6
    assert pixels_of(tmp_path / "z.png").shape == (3, HEIGHT, 2 * WIDTH + 2)


def test_transforms_that_cannot_be(assay, tmp_path):
    (tmp_path / "x.png").write_bytes(png_bytes(samples(1, 8)))
    (tmp_path / "small.png").write_bytes(png_bytes(samples(3, 8, shape=(3, 9))))
    (tmp_path / "there.npy").write_text("mine")
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    save_file(PhITNet(3, width=2, levels=2).state_dict(), tmp_path / "w.safetensors")
    net = ("--method", "phit-net", "--weights")
    for words, message in (
        (("x.png", "--method", "log-chromaticity"), "PHOTO: x.png is grey, and log-chromaticity is of colours"),
        (("x.png", "--method", "phit-net"), "--weights and --method phit-net go together"),
        (("x.png", "--weights", "w.safetensors"), "--weights and --method phit-net go together"),
        (("x.png", *net, "no.safetensors"), "--weights: there is no file no.safetensors"),
        (("x.png", *net, "other.safetensors"), "--weights: other.safetensors holds no assay.imaging.PhITNet"),
        (("x.png", *net, "w.safetensors"), "w.safetensors takes 3 channels, and PHOTO has 1"),
        (("small.png", *net, "w.safetensors"), "small.png must have sides of at least 4 pixels for these weights"),
        (("small.png", "--memory", "1K"), "in tiles about"),
    ):
        assert message in refused(assay, *words, "--out", "y.png", command="transform"), message
    said = refused(assay, "x.png", "--out", "there.npy", command="transform")
    assert "--out: there.npy exists already; --force overwrites it" in said
    for option in (("--bits", 8), ("--beside", "z.png")):
        said = refused(assay, "x.png", "--out", "y.npy", *option, command="transform")
        assert "--out: a .npy has no --bits and no --beside" in said
