"""`assay probe hessian`: the curvature of a trained network's loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli import UsageProblem, echo_json
from assay.cli.options import json_option
from assay.cli.own_network import examples, network

if TYPE_CHECKING:
    from assay.curvature import Eigen, SpectralDensity, Trace
    from assay.report import Section

LOSSES = ("cross_entropy", "mse_loss", "binary_cross_entropy_with_logits")


@click.command("hessian")
@click.option("--model", "source", metavar="MODULE:FUNCTION", required=True, help="Makes the network; no arguments.")
@click.option("--weights", type=click.Path(path_type=Path), help="A checkpoint of it; as made if not given.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="inputs and targets, .safetensors or .npz")
@click.option("--loss", type=click.Choice(LOSSES), default=LOSSES[0], show_default=True, help="Mean over the examples.")
@click.option("--top", "count", type=click.IntRange(min=1), default=10, show_default=True, help="Largest eigenvalues.")
@click.option("--steps", type=click.IntRange(min=1), default=80, show_default=True, help="Lanczos steps a probe.")
@click.option("--probes", type=click.IntRange(min=2), default=4, show_default=True, help="Of the density.")
@click.option("--trace-probes", type=click.IntRange(min=2), default=30, show_default=True, help="Of the trace.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Examples at a time, to save memory.")
@click.option("--double", is_flag=True, help="In double precision.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the probes.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="hessian-report", show_default=True)
@json_option
def hessian_command(
    source: str,
    weights: Path | None,
    data: Path,
    loss: str,
    count: int,
    steps: int,
    probes: int,
    trace_probes: int,
    batch_size: int | None,
    double: bool,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Largest eigenvalues, trace and spectral density of a loss's Hessian.

    MODULE:FUNCTION is imported from this folder or the installed packages and called without arguments. Writes
    OUT/report.html.
    """
    import torch
    from torch.nn import functional as F

    from assay.curvature import Hessian, hutchinson_trace, spectral_density, top_eigenvalues
    from assay.report import write_probe_report

    model = network(source, weights)
    inputs, targets = examples(data)
    if double:
        model, inputs = model.double(), inputs.double()
        targets = targets.double() if targets.is_floating_point() else targets
    try:
        operator = Hessian(model, getattr(F, loss), inputs, targets, batch_size=batch_size)
        dtype = operator.parameters[0].dtype
        settings: dict[str, Any] = dict(generator=torch.Generator().manual_seed(seed), dtype=dtype)
        count = min(count, operator.size)
        top = top_eigenvalues(operator.matvec, operator.size, count, **settings)
        trace = hutchinson_trace(operator.matvec, operator.size, num_probes=trace_probes, **settings)
        density = spectral_density(operator.matvec, operator.size, steps=steps, num_probes=probes, **settings)
    except (ValueError, RuntimeError, IndexError) as error:
        raise UsageProblem(f"the loss has no Hessian on these data: {error}") from None
    sections = _sections(source, data, len(inputs), operator.size, top, trace, density)
    page = write_probe_report(out / "report.html", f"Curvature of {source}", sections)
    summary = {
        "weights": operator.size,
        "examples": len(inputs),
        "top_eigenvalues": top.values.tolist(),
        "errors": top.errors.tolist(),
        "trace": [trace.value, trace.low, trace.high],
        "smallest_node": density.nodes.min().item(),
        "near_zero": list(_near_zero(density)),
        "products": operator.products,
        "report": str(page),
    }
    if as_json:
        echo_json(summary)
        return
    share, error = _near_zero(density)
    click.echo(f"{operator.size:,} weights, {len(inputs):,} examples, {operator.products} products with the Hessian")
    click.echo(f"largest eigenvalues: {', '.join(f'{value:.4g}' for value in top.values.tolist())}")
    click.echo(f"trace: {trace.value:.4g}, 95 % within {trace.low:.4g} to {trace.high:.4g}")
    click.echo(f"within a thousandth of the largest around 0: {share:.1%} of the eigenvalues, give or take {error:.1%}")
    click.echo(f"report: {page}")


def _near_zero(density: SpectralDensity) -> tuple[float, float]:
    edge = 1e-3 * density.nodes.abs().max().item()
    return density.share(-edge, edge)


def _sections(
    source: str, data: Path, examples: int, size: int, top: Eigen, trace: Trace, density: SpectralDensity
) -> list[Section]:
    """What the report says and shows."""
    import numpy as np

    from assay.report import Section, Table
    from assay.report.curve import curves

    share, error = _near_zero(density)
    low, high = density.nodes.min().item(), density.nodes.max().item()
    # Two rows one error below and above the mean, whose band at this level is just that.
    band = np.stack([(density.density + sign * density.error).numpy() for sign in (-1, 1)])
    inside = band[:, (density.grid >= low) & (density.grid <= high)]
    largest = top.values[0].item()
    stable = f"Gradient descent is stable up to the rate 2 / {largest:.4g} = {2 / largest:.3g}." if largest > 0 else ""
    values = zip(top.values.tolist(), top.errors.tolist(), strict=True)
    return [
        Section(
            "What was found",
            f"The loss of {source} on {examples:,} examples of {data.name}, as a function of {size:,} weights."
            f" The trace of its Hessian is {trace.value:.4g}, 95 % within {trace.low:.4g} to {trace.high:.4g};"
            f" {share:.1%} of the eigenvalues (give or take {error:.1%}) lie within a thousandth of the largest of 0.",
        ),
        Section(
            "Largest eigenvalues",
            f"With an estimate of what is left of each one's error. {stable}",
            table=Table(
                ("number", "eigenvalue", "error"),
                [(str(number), f"{value:.6g}", f"{left:.1g}") for number, (value, left) in enumerate(values, 1)],
            ),
        ),
        Section(
            "Spectral density",
            f"From {low:.4g} to {high:.4g}, by stochastic Lanczos quadrature from {len(density.nodes)} probes, smoothed"
            f" by a Gaussian of width {density.width:.2g}; the band is one standard error over the probes.",
            drawing=curves({"density": inside}, "Density of the eigenvalues", name="place", log=True, level=0.5),
        ),
    ]
