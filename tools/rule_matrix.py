"""Which learning rule goes with which network and which optimizer: every cell is a short training run.

    python tools/rule_matrix.py            # prints the tables
    python tools/rule_matrix.py --write    # and puts them into docs/learning_rules.md, between the marks

A mark says that the loss on the training batch fell in thirty steps, a number why there is no such run.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import nn

from assay import learn, optim
from assay.data import Labelled, load
from assay.nn import LateFusion, convnet, mlp, resnet8, smallcnn, tinyvit
from assay.train import fit

DOCS = Path(__file__).parents[1] / "docs" / "learning_rules.md"
SHAPE, CLASSES, STEPS = (1, 8, 8), 10, 30
OWN = {
    "EquilibriumPropagation": "EquilibriumNet",
    "ARL": "LateFusion",
    "OGM": "LateFusion",
}


class Tokens(nn.Module):
    """The patches of a transformer with their positions: its first block."""

    def __init__(self, vit):
        super().__init__()
        self.patches, self.positions = vit.patches, vit.positions

    def forward(self, images):
        return self.patches(images).flatten(2).transpose(1, 2) + self.positions


class Readout(nn.Module):
    """The norm, the mean over tokens and the head of a transformer: its last block."""

    def __init__(self, vit):
        super().__init__()
        self.norm, self.head = vit.norm, vit.head

    def forward(self, tokens):
        return self.head(self.norm(tokens).mean(1))


def vit():
    return tinyvit(SHAPE, CLASSES, patch=4, d=16, depth=2, heads=2)


def vit_chain():
    whole = vit()
    return learn.BlockChain(Tokens(whole), *whole.blocks, Readout(whole))


def halves():
    return LateFusion([nn.Linear(32, 16), nn.Linear(32, 16)], [16, 16], CLASSES, shapes=[(32,), (32,)])


NETWORKS = {
    "mlp": lambda: mlp(SHAPE, CLASSES, widths=(32, 32)),
    "convnet": lambda: convnet(SHAPE, CLASSES, widths=(8, 8, 16)),
    "smallcnn": lambda: smallcnn(SHAPE, CLASSES, widths=(8, 16)),
    "resnet8": lambda: resnet8(SHAPE, CLASSES, widths=(4, 8, 8)),
    "tinyvit": vit,
    "tinyvit as a chain": vit_chain,
    "EquilibriumNet": lambda: learn.EquilibriumNet((64, 24, 16), CLASSES, angle=45.0, steps=30, tracked=15),
    "LateFusion": halves,
}
RULES = {
    "backpropagation": lambda model, x: learn.backpropagation,
    "DirectFeedbackAlignment": lambda model, x: learn.DirectFeedbackAlignment(model),
    "LLS": lambda model, x: learn.LLS(model, CLASSES, pool=2),
    "ScalableForwardForward": lambda model, x: learn.ScalableForwardForward(model, CLASSES, x, objective="softmax"),
    "ForwardGradient, local": lambda model, x: learn.ForwardGradient(model, num_classes=CLASSES, example=x),
    "ForwardGradient, noise": lambda model, x: learn.ForwardGradient(model, guess="gaussian", space="activity"),
    "DeepSupervision": lambda model, x: learn.DeepSupervision(model, CLASSES, x, total_steps=STEPS),
    "Guidance": lambda model, x: learn.Guidance(mlp(SHAPE, CLASSES, widths=(16,))),
    "EquilibriumPropagation": lambda model, x: learn.EquilibriumPropagation(free_steps=30, nudge_steps=15),
    "ARL": lambda model, x: learn.ARL(warmup=0),
    "OGM": lambda model, x: learn.OGM(),
}
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=3e-3),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=3e-3),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
    "DiffGrad": lambda p: optim.DiffGrad(p, lr=3e-3),
    "AdaHessian": lambda p: optim.AdaHessian(p, lr=0.01),
    "SAM": lambda p: optim.SAM(torch.optim.Adam(p, lr=3e-3), rho=0.01),
    "MFAC": lambda p: optim.MFAC(p, lr=1e-3, damp=1e-3, window=8),
    "OrthoGrad": lambda p: optim.OrthoGrad(torch.optim.AdamW(p, lr=3e-3, weight_decay=0.0)),
    "GradientNoise": lambda p: optim.GradientNoise(torch.optim.Adam(p, lr=3e-3), eta=1e-4),
    "CoordinateClipped": lambda p: optim.CoordinateClipped(torch.optim.Adam(p, lr=3e-3)),
}


def cell(rule_name: str, network: str, optimizer: str = "Adam") -> tuple[float, str]:
    """(the loss at the end over that at the start, why there is none)."""
    torch.manual_seed(0)
    part = Labelled(*(each[:64] for each in load("digits").train))
    if network == "LateFusion":
        part = Labelled(part.inputs.flatten(1), part.targets)
    model = NETWORKS[network]()
    try:
        rule = RULES[rule_name](model, part.inputs[:2])
        parameters = [*model.parameters(), *getattr(rule, "parameters", list)()]
        history = fit(
            model,
            part,
            OPTIMIZERS[optimizer](parameters),
            epochs=STEPS,
            batch_size=64,
            rule=None if rule_name == "backpropagation" else rule,
        )
    except (TypeError, ValueError) as refusal:
        return math.nan, str(refusal).split(":")[0].split("; ")[0]
    return float(history.loss[-1] / history.loss[0]), ""


def table(rows: list[str], columns: list[str], run) -> tuple[list[str], list[str]]:
    """Lines of a table, and the reasons its notes stand for."""
    reasons: list[str] = []
    lines = [f"| | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for row in rows:
        cells = []
        for column in columns:
            fell, reason = run(row, column)
            if reason:
                if reason not in reasons:
                    reasons.append(reason)
                cells.append(f"({reasons.index(reason) + 1})")
            else:
                cells.append("✓" if fell < 1 else "rises")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines, [f"{number + 1}. {reason}" for number, reason in enumerate(reasons)]


def networks() -> str:
    """Rules by networks, with Adam."""
    lines, reasons = table(list(RULES), list(NETWORKS), lambda rule, network: cell(rule, network))
    return "\n".join([*lines, "", *reasons])


def optimizers() -> str:
    """Rules by optimizers, on the multilayer perceptron or on the one network a rule is made for."""
    lines, reasons = table(list(RULES), list(OPTIMIZERS), lambda rule, name: cell(rule, OWN.get(rule, "mlp"), name))
    return "\n".join([*lines, "", *reasons])


def written(text: str, name: str, body: str) -> str:
    """The text with `body` between its marks called `name`."""
    start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    before, rest = text.split(start)
    return f"{before}{start}\n\n{body}\n\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/learning_rules.md")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    tables = {"networks": networks(), "optimizers": optimizers()}
    for body in tables.values():
        print(body, end="\n\n")
    if wanted.write:
        text = DOCS.read_text()
        for name, body in tables.items():
            text = written(text, name, body)
        DOCS.write_text(text)
