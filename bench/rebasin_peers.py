"""What matching two networks' units costs, beside the authors' program and the package rebasin, and what it finds.

    python bench/rebasin_peers.py [--out docs/bench/rebasin.md] [--rounds 5] [--official FOLDER]

All get the same pairs of networks, trained apart for two epochs of 3,000 images of Fashion-MNIST. The objective is the
inner product of a's weights with those of the permuted b, in float64, and the barrier that of the training loss over
the mean of both ends. `--official` is the folder `src` of a clone of github.com/samuela/git-re-basin; its
`weight_matching.py` and `online_stats.py` are run as they are, on jax. Coordinate descent depends on the order of its
steps, so that the authors' program is run a second time with the order that ours has: then permutations can be
compared. Contenders take turns; a cell is a median of CPU time. A peer that is not there
is a named empty cell.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import assay.nn
from assay import data
from assay.lab.trial import tame_allocator
from assay.probes import (
    PermutationSpec,
    activation_matching,
    barrier,
    refresh_batch_norm,
    straight_through_matching,
    weight_matching,
)
from assay.probes.permutation import Permutations
from assay.train import evaluate, fit

Matched = tuple[Permutations | None, nn.Module]
"""The permutations, where the contender tells them, and the network with its units permuted."""


class Missing(Exception):
    """A peer that is not there."""


def pair(make: Callable[[], nn.Module], split: data.Split) -> tuple[nn.Module, nn.Module]:
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = make()
        fit(network, split.train, torch.optim.Adam(network.parameters(), lr=1e-3), epochs=2, seed=seed)
        networks.append(network.eval())
    return networks[0], networks[1]


def official(folder: Path | None, name: str) -> Any:
    """One file of the authors' program; the one function that it asks of its neighbours is made here."""
    if folder is None:
        raise Missing("no --official")
    try:
        jax = importlib.import_module("jax")
    except ImportError:
        raise Missing("jax is not installed") from None
    sys.modules["utils"] = types.ModuleType("utils")
    sys.modules["utils"].rngmix = lambda rng, x: jax.random.fold_in(rng, x)  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def authors(folder: Path | None, spec: PermutationSpec, a: nn.Module, b: nn.Module, same_order: bool) -> Permutations:
    module = official(folder, "weight_matching")
    jax = importlib.import_module("jax")
    theirs, given = parameters(spec, a), parameters(spec, b)
    axes = module.permutation_spec_from_axes_to_perm({name: spec.axes[name] for name in theirs})
    names = list(spec.places())
    if same_order:  # of the permutations, too
        axes = axes._replace(perm_to_axes={name: axes.perm_to_axes[name] for name in names})
        generator = torch.Generator().manual_seed(0)
        draw = lambda key, n: torch.randperm(n, generator=generator).tolist()  # noqa: E731
        module.random = types.SimpleNamespace(permutation=draw)
    found = module.weight_matching(jax.random.PRNGKey(0), axes, theirs, given, silent=True)
    return {name: torch.tensor([int(i) for i in p]) for name, p in found.items()}


def parameters(spec: PermutationSpec, model: nn.Module) -> dict[str, Any]:
    jnp = importlib.import_module("jax.numpy")
    return {name: jnp.asarray(p.detach().numpy()) for name, p in model.named_parameters() if any(spec.axes[name])}


def package(a: nn.Module, b: nn.Module, x: Tensor) -> nn.Module:
    try:
        module = importlib.import_module("rebasin")
    except ImportError:
        raise Missing("rebasin is not installed") from None
    moved = copy.deepcopy(b)
    module.PermutationCoordinateDescent(copy.deepcopy(a), moved, x[:2]).rebasin()
    return moved


def correlations(folder: Path | None, spec: PermutationSpec, a: nn.Module, b: nn.Module, x: Tensor) -> Permutations:
    """The authors' statistics of the activations, and one assignment a layer; a perceptron's."""
    online = official(folder, "online_stats")
    jnp, assign = importlib.import_module("jax.numpy"), importlib.import_module("scipy.optimize").linear_sum_assignment
    found = {}
    for name in spec.places():
        layers = int(name) + 2
        za, zb = (jnp.asarray(model[:layers](x).detach().numpy()) for model in (a, b))  # type: ignore[index]
        means = [online.OnlineMean.init(za.shape[1]).update(z).mean() for z in (za, zb)]
        both = online.OnlineCovariance.init(*means).update(za, zb)
        found[name] = torch.from_numpy(assign(both.pearson_correlation(), maximize=True)[1])
    return found


def objective(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return float(sum((p.detach().double() * q.detach().double()).sum() for p, q in pairs))


def compared(title: str, make: Callable[[], nn.Module], rounds: int, folder: Path | None) -> list[str]:
    split = data.load("fashion", train=3_000, seed=0)
    a, b = pair(make, split)
    x, y = split.train.inputs[:2000], split.train.targets[:2000]
    seen, part = data.Labelled(x, y), x[:400]
    judged = data.Labelled(x[:1000], y[:1000])
    spec = PermutationSpec.of(a, x)
    named = lambda found: (found, spec.apply(found, b))  # noqa: E731
    seeded = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    contenders: dict[str, Callable[[], Matched]] = {
        "assay `weight_matching`": lambda: named(weight_matching(a, b, spec, generator=seeded())),
        "assay, finding the units first": lambda: named(
            weight_matching(a, b, PermutationSpec.of(a, x), generator=seeded())
        ),
        "authors' `weight_matching`": lambda: named(authors(folder, spec, a, b, False)),
        "authors', in our order": lambda: named(authors(folder, spec, a, b, True)),
        "rebasin `PermutationCoordinateDescent`": lambda: (None, package(a, b, x)),
        "assay `activation_matching`, correlations": lambda: named(
            activation_matching(a, b, spec, x, correlation=True)
        ),
        "authors' correlations": lambda: named(correlations(folder, spec, a, b, x)),
        "assay `straight_through_matching`": lambda: named(
            straight_through_matching(a, b, spec, seen, F.cross_entropy, generator=seeded())
        ),
    }
    if not title.startswith("MLP"):
        del contenders["authors' correlations"]
    times: dict[str, list[float]] = {name: [] for name in contenders}
    results: dict[str, Matched] = {"as they are": (None, b)}
    reasons: dict[str, str] = {}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            if name in reasons:
                continue
            begin = time.process_time()
            try:
                results[name] = contender()
            except Missing as missing:
                reasons[name] = f"({missing})"
                continue
            except Exception as error:
                reasons[name] = f"(fails: {type(error).__name__}: {' '.join(str(error).split())[:80]})"
                continue
            if turn:  # the first round is not counted
                times[name].append(1e3 * (time.process_time() - begin))
    first = statistics.median(times["assay `weight_matching`"])
    mine = results["assay `weight_matching`"][0]
    refresh = (lambda model: refresh_batch_norm(model, part)) if any(True for _ in a.buffers()) else None
    rows = []
    for name in ("as they are", *contenders):
        if name in reasons:
            rows.append(f"| {name} | {reasons[name]} | | | | |")
            continue
        found, moved = results[name]
        same = (
            "" if found is None or mine is None else f"{sum(torch.equal(found[k], mine[k]) for k in mine)}/{len(mine)}"
        )
        wide = barrier(
            a, moved, lambda model: evaluate(model, judged, F.cross_entropy), points=5, baseline="mean", refresh=refresh
        )
        spent = statistics.median(times[name]) if name in times else None
        cells = ["", ""] if spent is None else [f"{spent:.0f}", f"{spent / first:.2f}"]
        rows.append(f"| {name} | {' | '.join(cells)} | {objective(a, moved):.4f} | {same} | {wide.height:.4f} |")
        print(rows[-1], flush=True)
    size = sum(p.numel() for p in a.parameters())
    head = [
        "| | CPU ms | of ours | objective | permutations as ours | barrier |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return [f"### {title}, {size:,} weights", "", *head, *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the tables here instead of printing them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--official", type=Path, help="src of a clone of github.com/samuela/git-re-basin")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.threads == 1:  # jax reads it when it is imported
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    tame_allocator()
    tables = [
        compared(
            "MLP 784-512-512-512-10", lambda: assay.nn.mlp(widths=(512, 512, 512)), options.rounds, options.official
        ),
        compared("Residual network of 8 layers", assay.nn.resnet8, options.rounds, options.official),
    ]
    text = f"""# What matching the units of two networks costs

Written by `python bench/rebasin_peers.py --out docs/bench/rebasin.md`; {platform.machine()},
{options.threads} thread(s), torch {torch.__version__}, {", ".join(versions())}.
The objective is the inner product of all weights; larger is better. Compare within a table only.

{chr(10).join(tables[0])}

{chr(10).join(tables[1])}
"""
    if options.out:
        options.out.write_text(text)
    else:
        print(text)


def versions() -> list[str]:
    found = []
    for name in ("jax", "scipy", "rebasin"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return found


if __name__ == "__main__":
    main()
