"""`assay probe path`: the straight line between two trained networks, before and after their units are matched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.options import json_option
from assay.cli.own_network import examples, network

if TYPE_CHECKING:
    from torch import nn

    from assay.probes import Barrier
    from assay.report import Section

LOSSES = ("cross_entropy", "mse_loss", "binary_cross_entropy_with_logits")


@click.command("path")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--model", "source", metavar="MODULE:FUNCTION", required=True, help="Makes the network; no arguments.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="inputs and targets, .safetensors or .npz")
@click.option("--loss", type=click.Choice(LOSSES), default=LOSSES[0], show_default=True, help="Mean over the examples.")
@click.option("--points", type=click.IntRange(min=3), default=21, show_default=True, help="Of the line.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the matching.")
@click.option("--matched", type=click.Path(dir_okay=False, path_type=Path), help="Save SECOND, permuted, here.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="path-report", show_default=True)
@json_option
def path_command(
    first: Path,
    second: Path,
    source: str,
    data: Path,
    loss: str,
    points: int,
    seed: int,
    matched: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Loss barrier between two checkpoints, and what is left of it once hidden units are matched.

    FIRST and SECOND are checkpoints of the network that MODULE:FUNCTION makes (.safetensors, .pt or .pth with weights
    only, .npz). Statistics of batch normalization are estimated anew along the line. Writes OUT/report.html.
    """
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional as F

    from assay.data import Labelled
    from assay.probes import PermutationSpec, barrier, refresh_batch_norm, weight_matching
    from assay.report import write_probe_report
    from assay.train import evaluate

    a, b = (network(source, file, option=name) for name, file in (("FIRST", first), ("SECOND", second)))
    seen = Labelled(*examples(data))
    measure = getattr(F, loss)

    def line(other: nn.Module) -> Barrier:
        return barrier(
            a,
            other,
            lambda model: evaluate(model, seen, measure),
            points=points,
            refresh=lambda model: refresh_batch_norm(model, seen.inputs),
        )

    try:
        spec = PermutationSpec.of(a, seen.inputs)
        moved = spec.apply(weight_matching(a, b, spec, generator=torch.Generator().manual_seed(seed)), b)
        lines = {"as they are": line(b), "units matched": line(moved)}
    except (ValueError, RuntimeError, IndexError, FloatingPointError) as error:
        raise UsageProblem(f"no line between {first.name} and {second.name}: {error}") from None
    sizes = spec.sizes(a)
    sections = _sections(first, second, source, data, len(seen.inputs), lines, sizes)
    page = write_probe_report(out / "report.html", f"From {first.name} to {second.name}", sections)
    if matched is not None:
        save_file({name: tensor.contiguous() for name, tensor in moved.state_dict().items()}, matched)
    before, after = lines.values()
    summary = {
        "barrier": before.height,
        "barrier_matched": after.height,
        "losses": before.losses.tolist(),
        "losses_matched": after.losses.tolist(),
        "permutations": sizes,
        "report": str(page),
        "saved": [str(matched)] if matched else [],
    }
    if as_json:
        echo_json(summary)
        return
    click.echo(f"barrier as they are: {before.height:.4g}, at t = {before.argmax:.2f}")
    click.echo(f"with units matched:  {after.height:.4g}, at t = {after.argmax:.2f}")
    click.echo(f"report: {page}" + (f"\nmatched: {matched}" if matched else ""))


def _sections(
    first: Path,
    second: Path,
    source: str,
    data: Path,
    examples: int,
    lines: dict[str, Barrier],
    sizes: dict[str, int],
) -> list[Section]:
    """What the report says and shows."""
    from assay.report import Section, Table
    from assay.report.curve import curves

    before, after = lines.values()
    return [
        Section(
            "What was found",
            f"On the straight line from {first.name} to {second.name}, two networks of {source}, the loss on"
            f" {examples:,} examples of {data.name} rises {before.height:.4g} above the chord between its ends; once"
            f" the hidden units of {second.name} are permuted to match, {after.height:.4g}.",
            table=Table(
                ("line", "barrier", "at t", "loss at the ends", "loss in the middle"),
                [
                    (
                        name,
                        f"{found.height:.4g}",
                        f"{found.argmax:.2f}",
                        f"{found.losses[0].item():.4g}, {found.losses[-1].item():.4g}",
                        f"{found.losses[len(found.losses) // 2].item():.4g}",
                    )
                    for name, found in lines.items()
                ],
            ),
            drawing=curves({name: found.losses[None].numpy() for name, found in lines.items()}, "Loss", name="point"),
        ),
        Section(
            "Permutations",
            "Units that are permuted together, as one forward pass of the network shows them, by weight matching.",
            table=Table(("named after", "units"), [(name, str(size)) for name, size in sizes.items()]),
        ),
    ]
