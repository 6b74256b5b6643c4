"""The labelled sets by name: what is in each, and how its training and its test part are read."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from . import remote
from .embedded import Array, labelled
from .formats import read_cifar, read_idx, read_svhn

Part = Literal["train", "test"]
Read = Callable[[Part, int | None], tuple[Array, Array]]

FASHION_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package `dataset-fashion-mnist` puts the full set."""


@dataclass(frozen=True)
class Source:
    """One labelled image set.

    Args:
        classes: their names, by label.
        shape: channels, height, width.
        white: the byte that means 1.0.
        train: examples in the published training part.
        test: examples in the published test part.
        read: (part, count) -> images (n, c, h, w) and labels (n,), uint8; n is at least `count`, or as many as are
            there at no cost when `count` is None. The images it gives for a count do not depend on what is installed.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    white: int
    train: int
    test: int
    read: Read


def source(name: str) -> Source:
    """The set called `name`.

    Raises:
        ValueError: for a name that is not there, with the nearest right spelling.

    Example:
        >>> source("cifar10").shape
        (3, 32, 32)
        >>> source("fashon")
        Traceback (most recent call last):
        ValueError: name: no data set 'fashon'; nearest is 'fashion'; there are digits, fashion, mnist, cifar10, ...
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(str(name).lower(), SOURCES, n=1)
        hint = f"; nearest is {near[0]!r}" if near else ""
        raise ValueError(f"name: no data set {name!r}{hint}; there are {', '.join(SOURCES)}")
    return SOURCES[name]


def _digits(part: Part, count: int | None) -> tuple[Array, Array]:
    return labelled(f"digits-{part}")


def _fashion(part: Part, count: int | None) -> tuple[Array, Array]:
    """What ships, unless more is asked for; then the full set, which must begin with what ships."""
    images, targets = labelled(f"fashion-{part}")
    if count is None or count <= len(targets):
        return images, targets
    stem = {"train": "train", "test": "t10k"}[part]
    files = [f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz"]
    folders = [remote.cache_folder("fashion"), FASHION_DEBIAN]
    folder = next((each for each in folders if all((each / file).is_file() for file in files)), None)
    if folder is None:
        try:
            paths = [remote.FASHION.fetch(file) for file in files]
        except remote.Unavailable as error:
            raise remote.Unavailable(
                f"{part}: {count:,} Fashion-MNIST images were asked for and {len(targets):,} ship with the package. "
                f"Ask for at most {len(targets):,}, or install the Debian package dataset-fashion-mnist. {error}"
            ) from error
    else:
        paths = [folder / file for file in files]
    full_images, full_targets = read_idx(paths[0])[:, None], read_idx(paths[1])
    shipped = len(targets)
    if not (np.array_equal(full_images[:shipped], images) and np.array_equal(full_targets[:shipped], targets)):
        raise ValueError(
            f"{paths[0]} and {paths[1].name} are not Fashion-MNIST: they differ from its first {shipped:,} images"
        )
    return full_images, full_targets


def _mnist(part: Part, count: int | None) -> tuple[Array, Array]:
    stem = {"train": "train", "test": "t10k"}[part]
    images = read_idx(remote.MNIST.fetch(f"{stem}-images-idx3-ubyte.gz"))
    return images[:, None], read_idx(remote.MNIST.fetch(f"{stem}-labels-idx1-ubyte.gz"))


def _cifar10(part: Part, count: int | None) -> tuple[Array, Array]:
    members = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}[part]
    return read_cifar(remote.CIFAR10.fetch("cifar-10-binary.tar.gz"), members, label_bytes=1)


def _cifar100(part: Part, count: int | None) -> tuple[Array, Array]:
    return read_cifar(remote.CIFAR100.fetch("cifar-100-binary.tar.gz"), [f"{part}.bin"], label_bytes=2)


def _svhn(part: Part, count: int | None) -> tuple[Array, Array]:
    return read_svhn(remote.SVHN.fetch(f"{part}_32x32.mat"))


TEN = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = (
    *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy"),
    *("bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock"),
    *("cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish"),
    *("forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion"),
    *("lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange"),
    *("orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine"),
    *("possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk"),
    *("skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank"),
    *("telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale"),
    *("willow_tree", "wolf", "woman", "worm"),
)

SOURCES: dict[str, Source] = {
    "digits": Source(TEN, (1, 8, 8), 16, 1_437, 360, _digits),
    "fashion": Source(CLOTHES, (1, 28, 28), 255, 60_000, 10_000, _fashion),
    "mnist": Source(TEN, (1, 28, 28), 255, 60_000, 10_000, _mnist),
    "cifar10": Source(CIFAR10, (3, 32, 32), 255, 50_000, 10_000, _cifar10),
    "cifar100": Source(CIFAR100, (3, 32, 32), 255, 50_000, 10_000, _cifar100),
    "svhn": Source(TEN, (3, 32, 32), 255, 73_257, 26_032, _svhn),
}
