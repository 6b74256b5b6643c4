"""`assay probe`: look into checkpoints of your own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.options import json_option
from assay.cli.probing_depth import depth_sampling_command
from assay.cli.probing_hessian import hessian_command
from assay.cli.probing_path import path_command
from assay.cli.probing_saliency import saliency_command

if TYPE_CHECKING:
    from assay.probes import Modes, Trajectory
    from assay.report import Section


@click.group("probe")
def probe_command() -> None:
    """Look into your own checkpoints: what a training run did, seen from its weights."""


probe_command.add_command(path_command)
probe_command.add_command(hessian_command)
probe_command.add_command(saliency_command)
probe_command.add_command(depth_sampling_command)


@probe_command.command("cmd")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--modes", "num_modes", type=click.IntRange(min=1), default=10, show_default=True, help="How many modes.")
@click.option("--samples", type=click.IntRange(min=2), default=1000, show_default=True, help="Weights to cluster.")
@click.option("--pattern", default="*", show_default=True, help="Only files whose names match, e.g. 'epoch-*.pt'.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the sampling.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="cmd-report", show_default=True)
@click.option("--smoothed", type=click.Path(dir_okay=False, path_type=Path), help="Save the smoothed network here.")
@json_option
def cmd_command(
    folder: Path, num_modes: int, samples: int, pattern: str, seed: int, out: Path, smoothed: Path | None, as_json: bool
) -> None:
    """Correlation mode decomposition of a run, from a folder of its checkpoints.

    FOLDER holds at least three checkpoints (.safetensors, .pt or .pth with weights only, .npz), one a file, in the
    natural order of their names. Writes OUT/report.html and OUT/modes.safetensors; --smoothed also writes the network
    that the modes rebuild, as a checkpoint like the last one.
    """
    import torch

    from assay.probes import CMD, SnapshotPCA, checkpoints
    from assay.report import write_probe_report

    if not folder.is_dir():
        raise UsageProblem(f"FOLDER: {folder} is no folder of checkpoints")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            trajectory = checkpoints.read(folder, Path(scratch) / "trajectory", pattern=pattern)
            modes = CMD(num_modes, samples, generator=torch.Generator().manual_seed(seed)).fit(trajectory)
        except ValueError as error:
            raise UsageProblem(str(error)) from None
        rivals = {f"PCA, {rank}": _pca_error(SnapshotPCA, rank, trajectory) for rank in (1, 2)}
        out.mkdir(parents=True, exist_ok=True)
        modes.save(out / "modes.safetensors")
        files = checkpoints.find(folder, pattern)
        page = write_probe_report(
            out / "report.html",
            f"Correlation modes of {folder.name}",
            _sections(folder, files, trajectory, modes, rivals),
        )
        if smoothed is not None:
            checkpoints.write(smoothed, modes, like=files[-1])
    summary = {
        "snapshots": len(files),
        "weights": trajectory.size,
        "modes": modes.num_modes,
        "relative_error": modes.relative_error(),
        "mode_shares": modes.mode_shares.tolist(),
        "errors_by_layer": modes.errors_by_layer(),
        "report": str(page),
        "saved": [str(out / "modes.safetensors"), *([str(smoothed)] if smoothed else [])],
    }
    if as_json:
        echo_json(summary)
        return
    click.echo(
        f"{summary['modes']} modes describe {summary['weights']:,} weights over {summary['snapshots']} checkpoints;"
        f" {1 - modes.relative_error():.1%} of their movement is explained"
    )
    for name, left in sorted(modes.errors_by_layer().items(), key=lambda each: -each[1])[:5]:
        click.echo(f"  {left:7.1%} unexplained  {name}")
    click.echo(f"report: {page}\nmodes:  {out / 'modes.safetensors'}")
    if smoothed is not None:
        click.echo(f"smoothed network: {smoothed}")


def _pca_error(kind: Any, rank: int, trajectory: Trajectory) -> float:
    return float(kind(min(rank, len(trajectory) - 1)).fit(trajectory).relative_error(trajectory))


def _sections(
    folder: Path, files: list[Path], trajectory: Trajectory, modes: Modes, rivals: dict[str, float]
) -> list[Section]:
    """What the report says and shows."""
    from assay.report import Section, Table
    from assay.report.curve import curves
    from assay.report.drawing import bars
    from assay.report.picture import picture

    left = modes.relative_error()
    shares = modes.mode_shares.tolist()
    names = list(modes.layers)
    paths = modes.reference.double()
    spread = (paths - paths.mean(1, keepdim=True)) / paths.std(1, keepdim=True)
    references = [
        [str(number), trajectory.layout.layer_at(int(index)), f"{share:.1%}"]
        for number, (index, share) in enumerate(zip(modes.reference_index.tolist(), shares, strict=True))
    ]
    by_layer = modes.errors_by_layer()
    sizes = {name: part.stop - part.start for name, part in modes.layers.items()}
    return [
        Section(
            "What was found",
            f"{len(files)} checkpoints of {folder.name}, from {files[0].name} to {files[-1].name}, hold"
            f" {trajectory.size:,} weights in {len(names)} tensors. {modes.num_modes} modes leave {left:.2%} of their"
            " movement unexplained: every weight is modelled as a scale times the path of its mode's reference weight"
            f" plus an offset, {modes.bytes_per_weight} bytes a weight.",
            table=Table(
                ("model", "numbers a weight", "unexplained"),
                [
                    (f"CMD, {modes.num_modes} modes", "2 and a label", f"{left:.2%}"),
                    *(
                        (f"{name} component(s)", str(int(name[-1]) + 1), f"{value:.2%}")
                        for name, value in rivals.items()
                    ),
                ],
            ),
        ),
        Section(
            "The modes",
            "How each mode's reference weight moved, in its own standard deviations, and how many weights follow it.",
            table=Table(("mode", "reference weight in", "share of all weights"), references),
            drawing=[
                curves({f"mode {i}": row[None].numpy() for i, row in enumerate(spread[:8])}, "Paths of the references"),
                bars({f"mode {i}": share for i, share in enumerate(shares)}, "Share of all weights"),
            ],
        ),
        Section(
            "Layers",
            "What the modes leave unexplained in each tensor, and which share of each tensor (a column) follows which"
            " mode (a row).",
            table=Table(
                ("tensor", "weights", "unexplained"),
                [(name, f"{sizes[name]:,}", f"{by_layer[name]:.2%}") for name in names],
            ),
            drawing=[
                bars(by_layer, "Unexplained movement"),
                picture(modes.layer_shares.numpy(), "Modes (rows) by tensors (columns)", low=0.0, high=1.0),
            ],
        ),
    ]
