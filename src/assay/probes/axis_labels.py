"""Labels of the axes of tensors: which axes share a permutation, and which keep their order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Node:
    """The axes that share one permutation; `up` leads to the node that it was tied to, in blocks of `inner`."""

    up: Node | None = None
    inner: int = 1
    pinned: bool = False

    def find(self) -> tuple[Node, int]:
        node, inner = self, 1
        while node.up is not None:
            inner *= node.inner
            node = node.up
        return node, inner


@dataclass(frozen=True)
class Label:
    """What one axis is: entry i of the node's permutation moves `inner` neighbours of the axis at once."""

    node: Node = field(default_factory=Node)
    inner: int = 1

    def root(self) -> tuple[Node, int]:
        node, inner = self.node.find()
        return node, inner * self.inner

    def pin(self) -> None:
        self.node.find()[0].pinned = True

    @property
    def free(self) -> bool:
        return not self.node.find()[0].pinned


def pinned() -> Label:
    """An axis whose entries keep their order."""
    return Label(Node(pinned=True))


def tie(one: Label, other: Label) -> None:
    """Both axes, of equal length, take the same permutation from now on."""
    (a, inner_a), (b, inner_b) = one.root(), other.root()
    if a is b:
        if inner_a != inner_b:
            a.pinned = True
        return
    if inner_a > inner_b:
        (a, inner_a), (b, inner_b) = (b, inner_b), (a, inner_a)
    if inner_b % inner_a or a.pinned or b.pinned:
        a.pinned = b.pinned = True
        return
    a.up, a.inner = b, inner_b // inner_a  # the finer one moves in blocks


def tie_broadcast(
    labels: Sequence[Label], shape: tuple[int, ...], onto: Sequence[Label], full: tuple[int, ...]
) -> None:
    """Tie the axes of a tensor to those it is broadcast against; an axis of length 1 goes with any order."""
    for d in range(1, len(shape) + 1):
        if shape[-d] == full[-d] and shape[-d] > 1:
            tie(labels[-d], onto[-d])


def reshaped(labels: Sequence[Label], old: tuple[int, ...], new: tuple[int, ...]) -> list[Label]:
    """Labels after a view. An axis and the ones within it may be merged: (c, h, w) to c blocks of h w; and split again.

    >>> c = Label()
    >>> merged = reshaped([pinned(), c, pinned(), pinned()], (2, 3, 5, 7), (2, 105))
    >>> merged[1].node is c.node, merged[1].inner
    (True, 35)
    >>> split = reshaped(merged, (2, 105), (2, 3, 35))
    >>> split[1].node is c.node, split[1].inner, split[2].free
    (True, 1, False)
    """
    out = [pinned() for _ in new]
    if tuple(old) == tuple(new):
        return list(labels)
    before = [d for d, n in enumerate(old) if n != 1]
    after = [d for d, n in enumerate(new) if n != 1]
    i = j = 0
    while i < len(before) and j < len(after):
        sources, targets = [before[i]], [after[j]]
        i, j = i + 1, j + 1
        while (a := math.prod(old[d] for d in sources)) != (b := math.prod(new[d] for d in targets)):
            if a < b:
                sources.append(before[i])
                i += 1
            else:
                targets.append(after[j])
                j += 1
        first = labels[sources[0]]
        pin(labels[d] for d in sources[1:])
        inner = math.prod(old[d] for d in sources[1:])
        if not first.free:
            continue
        if len(targets) == 1:
            out[targets[0]] = Label(first.node, first.inner * inner)
            continue
        within = math.prod(new[d] for d in targets[1:])
        node, whole = first.root()
        if whole * inner % within == 0:
            out[targets[0]] = Label(node, whole * inner // within)
        else:
            first.pin()
    return out


def pin(labels: Iterable[Label]) -> None:
    """All of these axes keep the order of their entries."""
    for label in labels:
        label.pin()
