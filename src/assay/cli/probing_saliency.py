"""`assay probe saliency`: where a classifier of your own looks in a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.options import json_option
from assay.cli.own_network import network

if TYPE_CHECKING:
    from torch import Tensor, nn

REMOVED = (0.05, 0.1, 0.2)


@click.command("saliency")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--model", "built", metavar="MODULE:FUNCTION", required=True, help="What builds the network.")
@click.option("--weights", type=click.Path(path_type=Path), help="Its weights, a .safetensors file.")
@click.option("--target", type=click.IntRange(min=0), help="The class asked about; the predicted one if not given.")
@click.option("--layer", help="Module for Grad-CAM; the last one whose output is an image if not given.")
@click.option("--size", type=click.IntRange(min=1), help="Height and width the picture is brought to.")
@click.option("--gray", is_flag=True, help="One channel, not three.")
@click.option("--mean", default="0", show_default=True, help="Subtracted: a number, or one a channel with commas.")
@click.option("--std", default="1", show_default=True, help="Divided by: a number, or one a channel with commas.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of SmoothGrad's noise.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default="saliency.html", show_default=True)
@json_option
def saliency_command(
    image: Path,
    built: str,
    weights: Path | None,
    target: int | None,
    layer: str | None,
    size: int | None,
    gray: bool,
    mean: str,
    std: str,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Maps of where a classifier looks in a picture, and how far each can be trusted.

    IMAGE is a picture (.png, .jpg and what else Pillow reads; or .npy with numbers (c, h, w) in [0, 1]).
    MODULE:FUNCTION is found from the current folder and called without arguments. Writes one page.
    """
    import torch

    from assay.probes.scores import checked_targets, evaluated
    from assay.report import write_probe_report

    model = network(built, weights)
    shown = _picture(image, size, gray)
    shift, scale = (_numbers(name, text, len(shown)) for name, text in (("--mean", mean), ("--std", std)))
    if bool((scale <= 0).any()):
        raise UsageProblem(f"--std must be positive: got {std}")
    x = ((shown - shift) / scale)[None]
    try:
        with evaluated(model), torch.no_grad():
            logits = model(x)
            wanted = checked_targets(logits, None if target is None else torch.tensor([target]))
        maps, notes = _maps(model, x, wanted, layer, scale.mean().item(), seed)
        changes = _changes(model, x, wanted, maps, seed)
    except (ValueError, RuntimeError) as error:
        raise UsageProblem(f"{built}: {str(error).splitlines()[0]}") from None
    page = write_probe_report(
        out, f"Where {built} looks in {image.name}", _sections(shown, logits[0], int(wanted), maps, notes, changes)
    )
    summary = {
        "class": int(wanted),
        "probability": logits.softmax(1)[0, int(wanted)].item(),
        "changes": changes,
        "notes": notes,
        "report": str(page),
    }
    if as_json:
        echo_json(summary)
        return
    click.echo(f"class {summary['class']}, probability {summary['probability']:.1%}")
    for name, values in changes.items():
        click.echo(f"  {values[1]:7.1%} change of its logit without the tenth of the pixels least in  {name}")
    for note in notes:
        click.echo(note)
    click.echo(f"report: {page}")


def _picture(path: Path, size: int | None, gray: bool) -> Tensor:
    """(c, h, w) in [0, 1]."""
    import numpy as np
    import torch

    if not path.is_file():
        raise UsageProblem(f"IMAGE: {path} is no file")
    if path.suffix == ".npy":
        values = torch.from_numpy(np.load(path, allow_pickle=False)).float()
        if values.ndim != 3 or not bool(((values >= 0) & (values <= 1)).all()):
            raise UsageProblem(f"IMAGE: {path} must hold numbers (c, h, w) in [0, 1]: got {tuple(values.shape)}")
        values = values.mean(0, keepdim=True) if gray else values
    else:
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError:
            raise UsageProblem(
                "IMAGE: pictures are read with Pillow, `pip install 'assay[pictures]'`; or give a .npy"
            ) from None
        try:
            with Image.open(path) as opened:
                pixels = np.array(opened.convert("L" if gray else "RGB"))
        except (UnidentifiedImageError, OSError):
            raise UsageProblem(f"IMAGE: {path} is no picture that Pillow reads") from None
        values = torch.from_numpy(pixels).float().div(255)
        values = values[None] if gray else values.permute(2, 0, 1)
    if size is not None:
        values = torch.nn.functional.interpolate(values[None], size=(size, size), mode="bilinear", antialias=True)[0]
    return values.clamp(0, 1)


def _numbers(name: str, text: str, channels: int) -> Tensor:
    import torch

    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageProblem(f"{name} takes numbers with commas between them, not {text!r}") from None
    if len(found) not in (1, channels):
        raise UsageProblem(f"{name} takes one number or {channels}, one a channel: got {len(found)}")
    return torch.tensor(found).view(-1, 1, 1)


def _maps(
    model: nn.Module, x: Tensor, wanted: Tensor, layer: str | None, scale: float, seed: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Maps (1, 1, h, w) by name, and what could not be drawn."""
    import torch

    from assay import probes

    generator = torch.Generator().manual_seed(seed)
    maps = {
        "gradient": probes.magnitude(probes.input_gradient(model, x, wanted)),
        "integrated gradients": probes.magnitude(probes.integrated_gradients(model, x, wanted)),
        "SmoothGrad": probes.magnitude(probes.smooth_grad(model, x, wanted, sigma=0.15 / scale, generator=generator)),
    }
    notes = []
    layers = [layer] if layer else _images_inside(model, x)[-1:]
    for name in layers:
        maps[f"Grad-CAM at {name}"] = probes.grad_cam(model, x, wanted, name)
        maps[f"NormGrad at {name}"] = probes.norm_grad(model, x, wanted, name)
    if not layers:
        notes.append("no Grad-CAM: no module has an image as its output")
    try:
        maps["FullGrad"] = probes.full_grad(model, x, wanted)
    except ValueError as error:
        notes.append(f"no FullGrad: {error}")
    return maps, notes


def _images_inside(model: nn.Module, x: Tensor) -> list[str]:
    """Modules whose output has more than one place, in the order in which they are run, of those that run once."""
    import torch

    from assay.probes.scores import evaluated

    met: dict[str, int] = {}

    def meet(name: str, out: Any) -> None:
        if isinstance(out, torch.Tensor) and out.ndim == 4 and min(out.shape[2:]) > 1:
            met[name] = met.pop(name, 0) + 1

    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: meet(name, out))
        for name, module in model.named_modules()
        if next(module.children(), None) is None
    ]
    try:
        with evaluated(model), torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, times in met.items() if times == 1]


def _changes(model: nn.Module, x: Tensor, wanted: Tensor, maps: dict[str, Tensor], seed: int) -> dict[str, list[float]]:
    """How much the logit changes when each map's least salient pixels become the picture's mean."""
    import torch

    from assay.probes import pixel_perturbation

    chance = torch.rand(1, 1, *x.shape[2:], generator=torch.Generator().manual_seed(seed))
    fill = x.mean(dim=(2, 3), keepdim=True)
    return {
        name: pixel_perturbation(model, x, ranks, REMOVED, fill=fill, targets=wanted).tolist()
        for name, ranks in {**maps, "random pixels": chance}.items()
    }


def _sections(
    shown: Tensor,
    logits: Tensor,
    wanted: int,
    maps: dict[str, Tensor],
    notes: list[str],
    changes: dict[str, list[float]],
) -> list[Any]:
    from assay.report import Section, Table
    from assay.report.picture import picture

    share = logits.softmax(0)
    best = share.topk(min(5, len(share))).indices.tolist()
    rows = [(str(k), f"{logits[k].item():.3f}", f"{share[k].item():.1%}") for k in dict.fromkeys([wanted, *best])]
    pictures = [picture(shown.squeeze(0).numpy(), "the picture", low=0.0, high=1.0)]
    for name, values in maps.items():
        spread = values[0, 0] - values.min()
        pictures.append(picture((spread / spread.max().clamp(min=1e-30)).numpy(), name, low=0.0, high=1.0))
    columns = ("map", *(f"least {fraction:.0%} removed" for fraction in REMOVED))
    return [
        Section(
            "What it says",
            f"The maps are about class {wanted}.",
            table=Table(("class", "logit", "probability"), rows),
        ),
        Section("Where it looks", "Each map from its smallest value (black) to its largest (white).", drawing=pictures),
        Section(
            "How far to trust them",
            "By how much of its size the logit changes when the pixels that a map ranks lowest become the mean of the"
            " picture. A map that is right about them changes it less than random pixels do.\n\n" + "\n\n".join(notes),
            table=Table(columns, [(name, *(f"{value:.1%}" for value in each)) for name, each in changes.items()]),
        ),
    ]
