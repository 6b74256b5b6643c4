"""Readers of files that come from elsewhere: right, and suspicious."""

import gzip
import io
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from assay.data.formats import read_cifar, read_idx, read_svhn


def write(folder, content):
    path = folder / "file"
    path.write_bytes(content)
    return path


def header(*shape, kind=8):
    return bytes([0, 0, kind, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (300, 1, 2), (0, 3)])
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_idx_in_any_number_of_dimensions(tmp_path, shape, pack):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = read_idx(write(tmp_path, pack(header(*shape) + values.tobytes())))
    assert found.shape == shape
    assert np.array_equal(found, values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0", "not an IDX file"),
        (b"<html>not found</html>", "not an IDX file"),
        (header(2, kind=13) + b"12345678", "not an IDX file of unsigned bytes"),
        (header(2, 3) + b"12345", "should hold 18 bytes .* it holds 17"),
        (header(2, 3) + b"1234567", "should hold 18 bytes .* it holds 19"),
        (header(2**31, 2**31) + b"1", "should hold 4,611,686,018,427,387,916 bytes"),
        (header(2, 3)[:6], "should hold"),
        (gzip.compress(header(2) + b"12", mtime=0)[:-6], "damaged gzip"),
        (b"\x1f\x8bnothing of the sort", "damaged gzip"),
    ],
)
def test_idx_refuses(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_idx(write(tmp_path, content))


def archive(members, kind=tarfile.REGTYPE):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as out:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(content), "/etc/hostname"
            out.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def test_cifar_takes_the_members_in_the_order_asked_for(tmp_path):
    one, two = bytes([3]) + bytes(3072), bytes([5]) + bytes([1]) * 3072
    path = write(tmp_path, archive({"d/b.bin": two, "d/a.bin": one}))
    images, labels = read_cifar(path, ["a.bin", "b.bin"], label_bytes=1)
    assert labels.tolist() == [3, 5]
    assert images[:, 0, 0, 0].tolist() == [0, 1]


def test_cifar_planes_are_red_green_blue(tmp_path):
    record = bytes([9]) + bytes([10]) * 1024 + bytes([20]) * 1024 + bytes(range(256)) * 4
    images, _ = read_cifar(write(tmp_path, archive({"a.bin": record})), ["a.bin"], label_bytes=1)
    assert images.shape == (1, 3, 32, 32)
    assert images[0, :2, 5, 7].tolist() == [10, 20]
    assert images[0, 2, 1, :4].tolist() == [32, 33, 34, 35]


def test_cifar_refuses(tmp_path):
    good = bytes(3073)
    with pytest.raises(ValueError, match=r"lacks b\.bin"):
        read_cifar(write(tmp_path, archive({"a.bin": good})), ["a.bin", "b.bin"], label_bytes=1)
    with pytest.raises(ValueError, match="no multiple of 3074 bytes: it has 3,073"):
        read_cifar(write(tmp_path, archive({"a.bin": good})), ["a.bin"], label_bytes=2)
    with pytest.raises(ValueError, match="no multiple of 3073 bytes: it has 0"):
        read_cifar(write(tmp_path, archive({"a.bin": b""})), ["a.bin"], label_bytes=1)
    for broken in (b"nothing of the sort", archive({"a.bin": good})[:-30]):
        with pytest.raises(ValueError, match="damaged archive"):
            read_cifar(write(tmp_path, broken), ["a.bin"], label_bytes=1)


def test_cifar_extracts_nothing_and_follows_no_link(tmp_path):
    path = write(tmp_path, archive({"../a.bin": b""}, kind=tarfile.SYMTYPE))
    with pytest.raises(ValueError, match=r"lacks a\.bin|damaged"):
        read_cifar(path, ["a.bin"], label_bytes=1)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def mat(**arrays):
    stream = io.BytesIO()
    savemat(stream, arrays)
    return stream.getvalue()


def test_svhn_calls_ten_zero_and_turns_the_axes(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    images, labels = read_svhn(write(tmp_path, mat(X=x, y=np.array([[10], [1], [9], [10]], dtype=np.uint8))))
    assert labels.tolist() == [0, 1, 9, 0]
    for n in range(4):
        for c in range(3):
            assert np.array_equal(images[n, c], x[:, :, c, n])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a cropped SVHN file"),
        (b"nothing of the sort" * 20, "not a cropped SVHN file"),
        (mat(X=np.zeros((32, 32, 3, 2), np.uint8)), "not a cropped SVHN file"),
        (mat(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.ones((3, 1))), r"should hold uint8 images \(32, 32, 3, 3\)"),
        (mat(X=np.zeros((32, 32, 3, 2)), y=np.ones((2, 1))), "should hold uint8 images .* got float64"),
    ],
)
def test_svhn_refuses(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_svhn(write(tmp_path, content))
