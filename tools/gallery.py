"""Draws the pictures of docs/gallery.md: runs the code of the page, section by section, and draws what it made.

    python tools/gallery.py [NAME ...]

A section is drawn if it shows ``gallery/NAME.png``, by the function here that bears that name; all of the code is run,
as sections build on each other. To add one: write it on the page, and a function here that takes the names that the
page has made and returns a figure. Needs matplotlib (the extra `gallery`).
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

PAGE = Path(__file__).parents[1] / "docs/gallery.md"
WIDE = 7.2
COLORS = ("#1f5fa8", "#d1691e", "#3a8a5f", "#8a4f9e", "#7a7a7a")
DRAWN: dict[str, Callable[[Any], Figure]] = {}


class Made:
    """The names that the page has made, as attributes."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.__dict__ = names


def drawn(function: Callable[[Any], Figure]) -> Callable[[Any], Figure]:
    DRAWN[function.__name__.replace("_", "-")] = function
    return function


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    return plt.subplots(rows, columns, figsize=(WIDE, height), layout="constrained", **options)


def pictures(rows: list[list[Any]], labels: list[str], height: float, maps: list[str]) -> Figure:
    """A grid of images, a label before each row."""
    figure, axes = panels(len(rows), len(rows[0]), height, squeeze=False)
    for row, label, colors, line in zip(rows, labels, maps, axes, strict=True):
        for image, axis in zip(row, line, strict=True):
            axis.imshow(torch.as_tensor(image).detach().squeeze(), cmap=colors)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


@drawn
def cmd(made: Any) -> Figure:
    modes, weights = made.modes, made.walk.weights
    figure, axes = panels(1, modes.num_modes, 2.1, sharey=True)
    for m, axis in enumerate(axes):
        members = ((modes.mode == m) & (modes.scale.abs() > 0)).nonzero()[:, 0]
        chosen = members[torch.randperm(len(members), generator=torch.Generator().manual_seed(0))[:60]]
        reference = modes.reference[m]
        scaled = (weights[:, chosen] - modes.offset[chosen]) / modes.scale[chosen]
        spread = reference.std()
        axis.plot((scaled - reference.mean()) / spread, color=COLORS[m], alpha=0.15, lw=0.6)
        axis.plot((reference - reference.mean()) / spread, color="black", lw=1.8)
        axis.set_title(f"{len(members) / modes.mode.numel():.0%} of weights", fontsize=8)
        axis.set_ylim(-4, 4)
        axis.set_xlabel("epoch")
    axes[0].set_ylabel("weight, standardized")
    return figure


@drawn
def straight_path(made: Any) -> Figure:
    figure, (left, right) = panels(1, 2, 2.6)
    left.plot(made.straight.ts, made.straight.losses, color=COLORS[0])
    for t, name in ((0, "start"), (1, "end")):
        left.axvline(t, color="gray", lw=0.6, ls=":")
        left.text(t + 0.03, 0.5, name, transform=left.get_xaxis_transform(), color="gray")
    left.set(xlabel="place on the line", ylabel="training loss", yscale="log")
    drawing = right.contourf(made.plane.x, made.plane.y, made.plane.losses.T.log10(), 14, cmap="viridis")
    figure.colorbar(drawing, ax=right, label="log10 loss")
    right.plot(made.along, made.away, color="white", marker="o", ms=2, lw=1)
    right.set(xlabel="along the line", ylabel="distance from it")
    return figure


@drawn
def git_rebasin(made: Any) -> Figure:
    figure, axis = panels(1, 1, 2.5)
    axis.plot(made.naive.ts, made.naive.losses, color=COLORS[1], label="as they are")
    axis.plot(made.rebased.ts, made.rebased.losses, color=COLORS[0], label="second one permuted")
    axis.set(xlabel="from the first network (0) to the second (1)", ylabel="training loss", ylim=(0, None))
    axis.legend()
    return figure


@drawn
def linear_mode_connectivity(made: Any) -> Figure:
    figure, axis = panels(1, 1, 2.4)
    for k, (name, found) in enumerate((("measured", made.layerwise), ("foretold from the ends", made.foretold))):
        axis.bar([i + 0.38 * k for i in range(len(found))], found.values(), 0.36, color=COLORS[k], label=name)
    names = [*(f"layer {i + 1}" for i in range(len(found) - 1)), "all"]
    axis.set_xticks([i + 0.19 for i in range(len(found))], names)
    axis.axhline(0, color="gray", lw=0.6)
    axis.set_ylabel("barrier (nats)")
    axis.legend()
    return figure


@drawn
def star_domain(made: Any) -> Figure:
    figure, axis = panels(1, 1, 2.3)
    for k, (name, found) in enumerate(
        (("from the star", made.from_star), ("from an ordinary one", made.from_ordinary))
    ):
        axis.bar([i + 0.36 * k for i in range(len(found))], found, 0.34, color=COLORS[k], label=name)
    axis.set_xticks([i + 0.18 for i in range(len(made.from_star))], [f"network {i + 1}" for i in range(len(found))])
    axis.set_ylabel("barrier (nats)")
    axis.legend()
    return figure


@drawn
def intrinsic_dimension(made: Any) -> Figure:
    found = made.dimension
    figure, axis = panels(1, 1, 2.5)
    axis.semilogx(found.dims, found.scores, "-o", color=COLORS[0], label="in d directions")
    axis.axhline(made.full, color="gray", lw=0.8, label="all weights")
    axis.axhline(0.9 * made.full, color="gray", lw=0.8, ls="--", label="nine tenths of it")
    axis.axvline(found.dimension, color=COLORS[1], lw=1)
    axis.text(found.dimension * 1.05, 0.3, f"d = {found.dimension:.0f}", color=COLORS[1])
    axis.set(xlabel="d, directions", ylabel="test accuracy", ylim=(0, 1))
    axis.set_xticks(found.dims, [str(d) for d in found.dims])
    axis.minorticks_off()
    axis.legend(loc="upper left", bbox_to_anchor=(0, 0.8))
    return figure


@drawn
def hessian_spectrum(made: Any) -> Figure:
    figure, axes = panels(1, 2, 2.5, sharey=True)
    for axis, (name, values), color in zip(axes, made.spectra.items(), COLORS, strict=False):
        axis.plot(range(1, len(values) + 1), values.flip(0), ".", ms=3, color=color)
        axis.set_yscale("symlog", linthresh=1e-4)
        axis.set(title=name, xlabel="number")
        axis.axhline(0, color="gray", lw=0.5)
    axes[0].set_ylabel("eigenvalue")
    axes[1].text(
        0.97,
        0.95,
        f"{made.summary.num_outliers} outliers\n{made.summary.near_zero_fraction:.0%} near zero",
        transform=axes[1].transAxes,
        ha="right",
        va="top",
    )
    return figure


@drawn
def directional_sharpness(made: Any) -> Figure:
    figure, axis = panels(1, 1, 2.7)
    for k, (name, found) in enumerate(made.directions.items()):
        axis.semilogx(made.lengths, found.losses, color=COLORS[k], label=f"{name}: sharpness {found.sharpness:.2g}")
    axis.set(xlabel="length of the step", ylabel="training loss", ylim=(0, 1.6 * float(found.losses[0])))
    axis.legend()
    return figure


@drawn
def maximal_initial_learning_rate(made: Any) -> Figure:
    figure, axis = panels(1, 1, 2.4)
    for depth, found in made.rates.items():
        axis.plot([depth, depth], [found.lr, found.fails], color=COLORS[0], lw=6, solid_capstyle="butt")
        worked = [lr for lr, runs in found.tried if runs]
        failed = [lr for lr, runs in found.tried if not runs]
        axis.plot([depth] * len(worked), worked, "o", ms=3, color=COLORS[2], label="worked" if depth == 1 else None)
        axis.plot([depth] * len(failed), failed, "x", ms=4, color=COLORS[1], label="did not" if depth == 1 else None)
    axis.set(xlabel="hidden layers", ylabel="learning rate", yscale="log", xticks=list(made.rates))
    axis.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
    axis.minorticks_off()
    axis.legend()
    return figure


@drawn
def opposing_signals(made: Any) -> Figure:
    figure, (upper, lower) = panels(2, 1, 3.6, sharex=True)
    for group, name, color in zip(made.swing, ("large feature > 0", "< 0"), COLORS, strict=False):
        upper.plot(group, color=color, lw=0.9, label=name)
    upper.plot(made.swing.mean(0), color="black", lw=1.4, label="all")
    upper.set(ylabel="loss")
    upper.legend(ncols=3)
    lower.plot(*zip(*made.sharp, strict=True), color=COLORS[2])
    lower.axhline(2 / made.lr, color="gray", ls="--", lw=0.8)
    lower.text(400, 2 / made.lr, "2 / learning rate", color="gray", va="bottom", ha="right")
    lower.set(xlabel="step", ylabel="sharpness")
    return figure


@drawn
def telescoping_model(made: Any) -> Figure:
    figure, axis = panels(1, 1, 2.4)
    for k, name in enumerate(("sum of steps", "one linearization")):
        axis.plot([gap[k] for gap in made.gaps], color=COLORS[k], label=name)
    axis.set(xlabel="step", ylabel="error, of the outputs", yscale="log")
    axis.legend()
    return figure


@drawn
def convergent_learning(made: Any) -> Figure:
    order = made.partners.score.argsort(descending=True)
    matched = made.alike[order][:, made.partners.partner[order]]
    figure = plt.figure(figsize=(WIDE, 2.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    axis = left.subplots()
    drawing = axis.imshow(matched, cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set(xlabel="unit of the second network", ylabel="unit of the first", xticks=[], yticks=[])
    left.colorbar(drawing, ax=axis, label="correlation")
    axes = right.subplots(2, 5)
    for column, unit in enumerate(order[:5].tolist()):
        for line, network, u in ((0, made.sees, unit), (1, made.also, int(made.partners.partner[unit]))):
            weight = network[0].weight[u, 0].detach()
            axes[line, column].imshow(weight, cmap="RdBu_r", vmin=-weight.abs().max(), vmax=weight.abs().max())
            axes[line, column].set(xticks=[], yticks=[])
        axes[0, column].set_title(f"{made.partners.score[unit]:.2f}", fontsize=8)
    axes[0, 0].set_ylabel("first")
    axes[1, 0].set_ylabel("second")
    return figure


@drawn
def first_layer_energy(made: Any) -> Figure:
    figure, axis = panels(1, 1, 2.5)
    places = range(1, len(made.patches.singular) + 1)
    for k, (name, profile) in enumerate(made.energy.items()):
        axis.plot(places, profile, "-o", ms=4, color=COLORS[k], label=name)
    label = f"formula at its best time (correlation {made.fitted.correlation:.2f})"
    axis.plot(places, made.fitted.profile, "--", color="black", label=label)
    axis.set(xlabel="principal component of patches, largest first", ylabel="energy", ylim=(0, 1.1))
    axis.legend()
    return figure


@drawn
def rosetta_neurons(made: Any) -> Figure:
    best = made.rosetta.scores.min(1).values.argsort(descending=True)[:2].tolist()
    shown = made.fashion.test.inputs[:7]
    networks = {"anchor": made.sees, **{name: member.model for name, member in made.zoo.items()}}
    rows, labels = [list(shown)], ["image"]
    for entry in best:
        for (name, network), unit in zip(networks.items(), made.rosetta.entries[entry], strict=True):
            maps = made.probes.record_activations(network, [unit.layer], shown)[unit.layer][:, unit.channel]
            rows.append(list(maps))
            labels.append(f"{name}\nlayer {unit.layer}, {unit.channel}")
    return pictures(rows, labels, 6.2, ["gray", *["magma"] * (len(rows) - 1)])


@drawn
def multifaceted_visualization(made: Any) -> Figure:
    return pictures(
        [list(made.kinds), list(made.facets)], ["mean of\na kind", "what fires\nthe class"], 3.4, ["gray"] * 2
    )


@drawn
def neural_collapse(made: Any) -> Figure:
    figure, (left, middle, right) = panels(1, 3, 2.3, width_ratios=(1.5, 1, 1))
    bars = {"formula": made.told.norms_w, "found": made.collapsed.norms_w}
    for k, (name, lengths) in enumerate(bars.items()):
        left.bar([i + 0.4 * k for i in range(4)], lengths, 0.38, color=COLORS[k], label=name)
    left.set(xlabel="examples in the class", ylabel="length of its row")
    left.set_xticks([i + 0.2 for i in range(4)], [str(count) for count in made.counts])
    left.legend()
    for axis, found, name in ((middle, made.loose, "before"), (right, made.collapsed, "at the optimum")):
        lengths = found.gram_h.diagonal().sqrt()
        drawing = axis.imshow(found.gram_h / lengths / lengths[:, None], cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set(title=f"{name}\nNC1 = {found.nc1:.1g}", xticks=[], yticks=[])
    figure.colorbar(drawing, ax=(middle, right), label="cosine", shrink=0.8)
    return figure


@drawn
def branch_specialization(made: Any) -> Figure:
    figure, axes = panels(1, 3, 2.4)
    for k, (axis, (name, found)) in enumerate(zip(axes, made.specialized.items(), strict=False)):
        reach = found.covariance.abs().max()
        axis.imshow(found.covariance, cmap="RdBu_r", vmin=-reach, vmax=reach)
        axis.set(title=f"{name}\nscore {found.score:.2f}", xticks=[], yticks=[], xlabel="covariance of branches")
        axes[2].bar([i + 0.4 * k for i in range(4)], found.importance, 0.38, color=COLORS[k], label=name)
    axes[2].set(ylabel="importance", xlabel="branch", ylim=(0, 1.35))
    axes[2].set_xticks([i + 0.2 for i in range(4)], ["1", "2", "3", "4"])
    axes[2].legend()
    return figure


@drawn
def nonlinear_advantage(made: Any) -> Figure:
    figure, (left, right) = panels(1, 2, 2.4)
    share, right_share, length = zip(*made.bent, strict=True)
    left.plot(share, color=COLORS[0], label="nonlinear units")
    left.plot(right_share, color=COLORS[1], label="test accuracy")
    left.set(xlabel="epoch", ylabel="share", ylim=(0, 1.02))
    left.legend(loc="lower left")
    bending = [k for k, each in enumerate(share) if each < 1]
    right.plot([length[k] for k in bending], [right_share[k] for k in bending], "-o", ms=3, color=COLORS[2])
    right.invert_xaxis()
    right.set(xlabel="nonlinear units on a path, on average", ylabel="test accuracy", ylim=(0, 1))
    return figure


@drawn
def fullgrad(made: Any) -> Figure:
    rows = [list(made.views), list(made.gradients), list(made.fullgrads)]
    return pictures(rows, ["image", "input\ngradient", "FullGrad"], 4.2, ["gray", "magma", "magma"])


@drawn
def normgrad(made: Any) -> Figure:
    rows = [list(made.views), *(list(found) for found in made.normgrads.values())]
    return pictures(rows, ["image", *made.normgrads], 6.6, ["gray", *["magma"] * len(made.normgrads)])


@drawn
def layer_masking(made: Any) -> Figure:
    figure, axis = panels(1, 1, 2.4)
    for k, (name, found) in enumerate(made.kept.items()):
        axis.plot(*zip(*found, strict=True), "-o", ms=4, color=COLORS[k], label=name)
    axis.set(xlabel="share of the background's squares removed", ylabel="answers kept", ylim=(0, 1.02))
    axis.legend()
    return figure


@drawn
def diffroar(made: Any) -> Figure:
    figure = plt.figure(figsize=(WIDE, 2.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.3, 1))
    axis = left.subplots()
    for name, found, color in (("highest ranked", made.roar.top, 0), ("lowest ranked", made.roar.bottom, 1)):
        axis.plot((0.1, 0.2, 0.4, 0.6), found, "-o", ms=4, color=COLORS[color], label=name)
    axis.set(xlabel="share of pixels left", ylabel="test accuracy", ylim=(0, 1))
    axis.legend()
    axes = right.subplots(2, 3)
    for image, place in zip(made.left, axes.flat, strict=True):
        place.imshow(image[0], cmap="gray")
        place.set(xticks=[], yticks=[])
    right.suptitle("the 40 % ranked highest", fontsize=8)
    return figure


@drawn
def shortcut_cues(made: Any) -> Figure:
    figure = plt.figure(figsize=(WIDE, 2.4), layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.subplots(2, 3)
    for label in range(3):
        chosen = made.cues.inputs[made.cues.targets == label][:2]
        for row, image in enumerate(chosen):
            axes[row, label].imshow(image.permute(1, 2, 0))
            axes[row, label].set(xticks=[], yticks=[])
        axes[0, label].set_title(f"class {label}", fontsize=8)
    axis = right.subplots()
    axis.barh(list(made.taken), list(made.taken.values()), color=COLORS[0])
    axis.axvline(1 / 3, color="gray", ls="--", lw=0.8)
    axis.text(0.35, 1, "chance", color="gray", va="center")
    axis.invert_yaxis()
    axis.set(xlabel="accuracy against the cue", xlim=(0, 1))
    return figure


@drawn
def rethinking_generalization(made: Any) -> Figure:
    figure, (left, right) = panels(1, 2, 2.6, width_ratios=(1.6, 1))
    for k, (name, curve) in enumerate(made.curves.items()):
        left.plot(range(1, len(curve.train_accuracy) + 1), curve.train_accuracy, color=COLORS[k], label=name)
        right.barh(name, curve.test_accuracy, color=COLORS[k])
    left.set(xlabel="epoch", ylabel="training accuracy", ylim=(0, 1.03))
    right.invert_yaxis()
    right.axvline(0.1, color="gray", ls="--", lw=0.8)
    right.set(xlabel="test accuracy", xlim=(0, 1))
    return figure


@drawn
def data_scaling(made: Any) -> Figure:
    figure, axis = panels(1, 1, 2.4)
    axis.semilogx(made.scaling.sizes, made.scaling.scores, "o", color="black", label="measured")
    sizes = torch.logspace(1.4, 3.6, 50)
    for k, (kind, law) in enumerate(made.laws.items()):
        axis.semilogx(sizes, law.predict(sizes.tolist()), color=COLORS[k], label=f"{kind}, R2 = {law.r2:.3f}")
    axis.set(xlabel="training images", ylabel="test accuracy")
    axis.legend()
    return figure


@drawn
def linear_regions(made: Any) -> Figure:
    figure, axis = panels(1, 1, 3.4)
    _, region = torch.unique(made.patterns, dim=0, return_inverse=True)
    shuffled = torch.randperm(int(region.max()) + 1, generator=torch.Generator().manual_seed(3))[region]
    axis.imshow(
        shuffled.view(300, 300).T,
        origin="lower",
        extent=(-1.5, 1.5, -1.5, 1.5),
        cmap="Pastel1",
        interpolation="nearest",
    )
    whole = made.ring(torch.linspace(0, 2 * torch.pi, 400))
    points = made.ring(made.crossed.positions)
    axis.plot(*whole.T, color="black", lw=1)
    axis.plot(*points.T, "o", color=COLORS[1], ms=4)
    axis.set(title=f"{made.crossed.regions} pieces on the circle, {made.crossed.neurons} units", xticks=[], yticks=[])
    return figure


@drawn
def adaptive_mutual_information(made: Any) -> Figure:
    found = made.plane_of.curves
    figure, axes = panels(1, 3, 2.6, sharey=True, sharex=True)
    for layer, axis in enumerate(axes):
        points = axis.scatter(
            found[:, layer, 0], found[:, layer, 1], c=range(1, 2 * len(found), 2), s=9, cmap="viridis"
        )
        axis.plot(found[:, layer, 0], found[:, layer, 1], color="gray", lw=0.4, zorder=0)
        axis.set(title=f"hidden layer {layer + 1}", xlabel="I(T;X) in bits")
    axes[0].set_ylabel("I(T;Y) in bits")
    figure.colorbar(points, ax=axes, label="epoch")
    return figure


@drawn
def boundary_tilting(made: Any) -> Figure:
    figure = plt.figure(figsize=(WIDE, 2.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.4, 1))
    axis, degrees = left.subplots(), list(made.tilted)
    axis.plot(degrees, [made.tilted[d][0] for d in degrees], color=COLORS[0])
    axis.set(xlabel="tilt in degrees", ylim=(0, 1.03))
    axis.set_ylabel("accuracy", color=COLORS[0])
    other = axis.twinx()
    other.semilogy(degrees, [made.tilted[d][1] for d in degrees], color=COLORS[1])
    other.set_ylabel("adversarial strength", color=COLORS[1])
    axes = right.subplots(1, 3)
    one = made.x[made.y == 0][:1]
    for place, angle in zip(axes, (None, 0, 80), strict=True):
        image = one if angle is None else made.probes.nearest_adversarial(made.tilted[angle][2], one)
        place.imshow(image.view(8, 8), cmap="gray", vmin=0, vmax=1)
        place.set(xticks=[], yticks=[])
        place.set_title("a three" if angle is None else f"an 'eight'\nat {angle} degrees", fontsize=8)
    return figure


@drawn
def harmonic_denoisers(made: Any) -> Figure:
    figure = plt.figure(figsize=(WIDE, 2.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    with torch.no_grad():
        denoised = made.noisy - made.unet(made.noisy)
    axes = left.subplots(2, 2)
    for axis, title, image in zip(
        axes.flat, ("clean", "noisy", "denoised"), (made.clean, made.noisy, denoised), strict=False
    ):
        axis.imshow(image[0, 0], cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=8)
    axes[1, 1].plot(range(1, 61), made.shrinkage.eigenvalues[:60].detach(), color=COLORS[0])
    axes[1, 1].set(xlabel="number", ylim=(0, None))
    axes[1, 1].set_title("eigenvalues", fontsize=8)
    for number, axis in enumerate(right.subplots(3, 6).flat):
        vector = made.shrinkage.eigenvectors[number].detach()
        axis.imshow(vector, cmap="RdBu", vmin=-vector.abs().max(), vmax=vector.abs().max())
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{number + 1}", fontsize=7, pad=2)
    return figure


@drawn
def second_order_lens(made: Any) -> Figure:
    figure = plt.figure(figsize=(WIDE, 2.9), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1.2, 1, 1))
    axis = left.subplots()
    ordered = made.lengths.sort(0, descending=True).values
    for neuron in ordered[0].argsort(descending=True)[:20].tolist():
        axis.plot(torch.arange(1, len(ordered) + 1) / len(ordered), ordered[:, neuron], color="gray", lw=0.5)
    axis.plot(torch.arange(1, len(ordered) + 1) / len(ordered), ordered[:, made.strongest], color=COLORS[0])
    axis.set(xlabel="share of images", ylabel="length of the effect", xscale="log")
    places = made.lengths[:, made.strongest].topk(9).indices.tolist()
    for place, axis in zip(places, middle.subplots(3, 3).flat, strict=True):
        axis.imshow(made.fashion.test.inputs[place, 0], cmap="gray")
        axis.set(xticks=[], yticks=[])
    middle.suptitle("where it is longest", fontsize=8)
    axis = right.subplots()
    names, weights = [name for _, name in made.words], [weight for weight, _ in made.words]
    axis.barh(names[::-1], weights[::-1], color=COLORS[0])
    axis.axvline(0, color="gray", lw=0.5)
    axis.set_title("its direction in classes", fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="draw these alone")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    matplotlib.use("Agg")
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
    folder, names = PAGE.parent / "gallery", {"__name__": "gallery"}
    folder.mkdir(exist_ok=True)
    for section in re.split(r"^(?=##)", PAGE.read_text(), flags=re.MULTILINE):
        begin, title = time.perf_counter(), section.partition("\n")[0]
        for block in re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            exec(compile(block, title, "exec"), names)
        for name in re.findall(r"\(gallery/([\w-]+)\.png\)", section):
            if not options.names or name in options.names:
                figure = DRAWN[name](Made(names))
                figure.savefig(folder / f"{name}.png", dpi=120, metadata={"Software": None})
                plt.close(figure)
        print(f"{time.perf_counter() - begin:6.1f} s  {title}", flush=True)


if __name__ == "__main__":
    main()
