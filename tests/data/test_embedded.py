"""What ships is what it says it is, checked against facts published elsewhere."""

import pickle
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from assay import data
from assay.data import embedded
from assay.data.formats import read_idx
from assay.data.sources import FASHION_DEBIAN

FILES = Path(str(resources.files(data))) / "files"


def test_fashion_begins_as_the_official_files_do():
    """The first ten labels of each official file, as its many users print them."""
    assert embedded.labelled("fashion-train")[1][:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert embedded.labelled("fashion-test")[1][:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_fashion_has_the_statistics_of_the_full_set():
    """Mean 0.2860 and standard deviation 0.3530 over 60,000 images are what everybody normalizes with.

    The mean of an image varies by about 0.15 from image to image, so that 12,000 of them know theirs to 0.0014.
    """
    images = embedded.labelled("fashion-train")[0] / 255
    assert images.mean() == pytest.approx(0.2860, abs=4 * 0.15 / np.sqrt(12_000))
    assert images.std() == pytest.approx(0.3530, abs=0.005)


def test_fashion_is_the_front_of_the_full_set_where_that_is_installed():
    for part, stem, count in (("train", "train", 12_000), ("test", "t10k", 3_000)):
        images, targets = embedded.labelled(f"fashion-{part}")
        assert images.shape == (count, 1, 28, 28)
        if FASHION_DEBIAN.is_dir():
            assert np.array_equal(read_idx(FASHION_DEBIAN / f"{stem}-images-idx3-ubyte.gz")[:count], images[:, 0])
            assert np.array_equal(read_idx(FASHION_DEBIAN / f"{stem}-labels-idx1-ubyte.gz")[:count], targets)


def test_digits_begin_with_the_zero_that_scikit_learn_prints():
    images, targets = embedded.labelled("digits-train")
    assert images[0, 0].tolist() == [
        [0, 0, 5, 13, 9, 1, 0, 0],
        [0, 0, 13, 15, 10, 15, 5, 0],
        [0, 3, 15, 2, 0, 11, 8, 0],
        [0, 4, 12, 0, 0, 8, 8, 0],
        [0, 5, 8, 0, 0, 9, 8, 0],
        [0, 4, 11, 0, 1, 12, 7, 0],
        [0, 2, 14, 5, 10, 12, 0, 0],
        [0, 0, 6, 13, 10, 0, 0, 0],
    ]
    assert targets[:10].tolist() == list(range(10))


def test_digits_have_the_class_counts_of_the_repository():
    both = np.concatenate([embedded.labelled("digits-train")[1], embedded.labelled("digits-test")[1]])
    assert np.bincount(both).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert len(both) == 1797


def test_files_are_plain_arrays_and_small():
    total = 0
    for path in FILES.iterdir():
        total += path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            for entry in archive.namelist():
                with archive.open(entry) as stream:
                    version = np.lib.format.read_magic(stream)
                    _, _, dtype = np.lib.format.read_array_header_1_0(stream)
                    assert (version, dtype) == ((1, 0), np.dtype("uint8"))
    assert total < 9_000_000


def test_a_pickle_among_the_files_is_not_opened(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    (tmp_path / "files").mkdir()
    np.savez(tmp_path / "files" / "bad.npz", images=np.array([Trap()], dtype=object))
    (tmp_path / "files" / "worse.npz").write_bytes(pickle.dumps(Trap()))
    monkeypatch.setattr(embedded.resources, "files", lambda _: tmp_path)
    for name in ("bad", "worse"):
        with pytest.raises(ValueError, match="allow_pickle"):
            embedded.arrays(name)


def test_arrays_are_read_once_and_locked():
    images = embedded.arrays("digits-train")["images"]
    assert embedded.arrays("digits-train")["images"] is images
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 1


def test_every_shipped_set_and_photograph_has_its_licence():
    text = (FILES.parent / "LICENSES.md").read_text(encoding="utf-8")
    for path in FILES.iterdir():
        assert f"`{path.name}`" in text
    for name in data.photos():
        assert f"| {name} |" in text
    for name in ("mnist", "cifar10", "cifar100", "svhn"):
        assert f"`{name}`" in text
