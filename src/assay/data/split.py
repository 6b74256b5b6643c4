"""Training, validation and test parts of a labelled set, drawn by seed, and mini-batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from .embedded import Array
from .sources import Part, Source, source


class Labelled(NamedTuple):
    """Examples: `inputs` (n, ...) and `targets` (n, ...), row for row.

    For the image sets: inputs (n, c, h, w) float32 in [0, 1], targets (n,) int64.
    """

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Split:
    """What `load` returns: three disjoint parts and what the labels mean.

    Args:
        train: to learn from.
        test: to judge by, once.
        validation: to choose by; empty unless asked for.
        num_classes: how many labels there are.
        shape: channels, height, width of an image.
        classes: names of the labels, in order.
    """

    train: Labelled
    test: Labelled
    validation: Labelled
    num_classes: int
    shape: tuple[int, int, int]
    classes: tuple[str, ...]


def load(
    name: str,
    *,
    train: int | None = None,
    validation: int = 0,
    test: int | None = None,
    seed: int = 0,
    validate: bool = False,
) -> Split:
    """A labelled image set, split by seed.

    The training pool is put in an order drawn from `seed`; `train` examples are taken from its front and `validation`
    from its back, so that a larger request contains the smaller one. The order begins with one example of every class,
    so no class is ever absent from `train`. The test part is always the first `test` examples of the published test
    set, whatever the seed.

    `digits` (8 x 8; 1,437 + 360 examples, the test writers being others) and 12,000 + 3,000 images of `fashion` ship
    with the package. A request for `fashion` that these can meet gets the very same images whether or not the full set
    (60,000 + 10,000) is installed. `mnist`, `cifar10`, `cifar100` and `svhn` are downloaded on first use.

    Args:
        name: `digits`, `fashion`, `mnist`, `cifar10`, `cifar100` or `svhn`.
        train: examples to learn from, at least one a class; None for all that the validation part leaves (for
            `fashion`: of those that ship).
        validation: examples held out from the training pool, 0 or more.
        test: examples of the test set, 0 or more; None for all (for `fashion`: all that ship).
        seed: of the order of the training pool, 0 or more.
        validate: for tuning. True hands back the last tenth of what would have been `train` as `test`, and does not
            read the real test data at all; the argument `test` is then checked but not used.

    Raises:
        ValueError: for an unknown name, counts out of range, a `train` too small to hold every class.
        assay.data.Unavailable: when the data are not here and cannot be downloaded; the message says what to do.

    Example:
        >>> split = load("fashion", train=1_000, validation=200, test=500, seed=3)
        >>> split.train.inputs.shape, split.validation.targets.shape, split.test.targets[:4].tolist()
        (torch.Size([1000, 1, 28, 28]), torch.Size([200]), [9, 2, 1, 1])
        >>> split.classes[split.test.targets[0]]
        'Ankle boot'
        >>> tuning = load("fashion", train=1_000, seed=3, validate=True)
        >>> len(tuning.train.targets), len(tuning.test.targets)
        (900, 100)
        >>> torch.equal(tuning.train.inputs, split.train.inputs[:900])
        True
    """
    it = source(name)
    _check_counts(it, name, train, validation, test, seed)
    images, targets = it.read("train", None if train is None else train + validation)
    _check_pool("train + validation", name, len(targets), validation + (train or 0))
    order = _order(targets, seed)
    count = len(order) - validation if train is None else train
    held = count // 10 if validate else 0
    if count - held < len(it.classes):
        raise ValueError(
            f"train must be at least {len(it.classes)}, one example a class of {name}"
            f"{', after a tenth is held out' if validate else ''}: got {count - held}"
        )
    if validate and held == 0:
        raise ValueError(f"train must be at least 10 for validate=True to hold out a tenth: got {count}")
    learn = _take(it, images, targets, order[: count - held])
    choose = _take(it, images, targets, order[len(order) - validation :])
    judge = _take(it, images, targets, order[count - held : count]) if validate else _test(it, name, test)
    return Split(learn, judge, choose, len(it.classes), it.shape, it.classes)


def _test(it: Source, name: str, count: int | None) -> Labelled:
    part: Part = "test"
    if count == 0:
        empty = np.empty((0, *it.shape), np.uint8), np.empty(0, np.uint8)
        return _take(it, *empty, np.arange(0))
    images, targets = it.read(part, count)
    _check_pool("test", name, len(targets), count or 0)
    return _take(it, images, targets, np.arange(len(targets) if count is None else count))


def _order(targets: Array, seed: int) -> NDArray[np.int64]:
    """A permutation drawn from `seed`, with the first example of every class moved to its front."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(targets), generator=generator).numpy()
    first = np.sort(np.unique(targets[order], return_index=True)[1])
    return np.concatenate([order[first], np.delete(order, first)])


def _take(it: Source, images: Array, targets: Array, rows: NDArray[np.int64]) -> Labelled:
    """The given rows as tensors; bytes become float32 by one division each."""
    inputs = torch.from_numpy(images[rows]).float().div_(it.white)
    return Labelled(inputs, torch.from_numpy(targets[rows].astype(np.int64)))


def _check_counts(it: Source, name: str, train: int | None, validation: int, test: int | None, seed: int) -> None:
    for argument, value in (("train", train), ("validation", validation), ("test", test), ("seed", seed)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{argument} must be a whole number: got {value!r}")
        if value < 0:
            raise ValueError(f"{argument} must not be negative: got {value}")
    _check_pool("train + validation", name, it.train, (train or 0) + validation)
    _check_pool("test", name, it.test, test or 0)


def _check_pool(argument: str, name: str, there: int, asked: int) -> None:
    if asked > there:
        raise ValueError(f"{argument} must be at most {there:,}, all that {name} has: got {asked:,}")


def batches(
    labelled: Labelled,
    batch_size: int,
    *,
    generator: torch.Generator | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
) -> Iterator[tuple[Shaped[Tensor, "b ..."], Shaped[Tensor, "b ..."]]]:
    """One pass over the examples in mini-batches.

    Args:
        labelled: the examples.
        batch_size: examples a batch, at least 1; the last batch holds what is left.
        generator: where the order comes from, drawn once at the first batch; None is torch's global generator. The same
            CPU generator gives the same order whatever device the examples are on.
        shuffle: False keeps the order and then yields views, no copies.
        drop_last: leave out a last batch that is not full.

    Raises:
        ValueError: for a batch size below 1, or inputs and targets of different lengths.

    Example:
        >>> ten = Labelled(torch.arange(10.0), torch.arange(10))
        >>> [targets.tolist() for _, targets in batches(ten, 4, shuffle=False)]
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        >>> shuffled = batches(ten, 4, generator=torch.Generator().manual_seed(0), drop_last=True)
        >>> [targets.tolist() for _, targets in shuffled]
        [[4, 1, 7, 5], [3, 9, 0, 8]]
    """
    inputs, targets = labelled
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1: got {batch_size}")
    if len(inputs) != len(targets):
        raise ValueError(
            f"labelled must have as many targets as inputs: got {len(inputs)} inputs, {len(targets)} targets"
        )
    return _batches(inputs, targets, batch_size, generator, shuffle, drop_last)


def _batches(
    inputs: Tensor, targets: Tensor, size: int, generator: torch.Generator | None, shuffle: bool, drop_last: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    count = len(inputs) - len(inputs) % size if drop_last else len(inputs)
    if not shuffle:
        for start in range(0, count, size):
            yield inputs[start : min(start + size, count)], targets[start : min(start + size, count)]
        return
    device = "cpu" if generator is None else generator.device
    order = torch.randperm(len(inputs), generator=generator, device=device).to(inputs.device)
    for start in range(0, count, size):
        rows = order[start : min(start + size, count)]
        yield inputs.index_select(0, rows), targets.index_select(0, rows)
