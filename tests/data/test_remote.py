"""Downloads against a real server on this machine, with small files in the official formats."""

import gzip
import hashlib
import io
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from scipy.io import savemat

from assay.data import Unavailable, embedded, load, remote, sources

NOWHERE = "http://127.0.0.1:9/"
"""The discard port: nothing listens there."""

PARTS = {"train": 40, "test": 20}
STEMS = {"train": "train", "test": "t10k"}


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def server(tmp_path):
    """A folder served over HTTP; `.asked` lists the paths that were asked for."""
    root = tmp_path / "served"
    root.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root))
    httpd.asked, httpd.root = [], root
    httpd.address = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no way out."""
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("ASSAY_MIRROR", raising=False)
    monkeypatch.setattr(sources, "FASHION_DEBIAN", tmp_path / "not installed")
    for name in ("MNIST", "FASHION", "CIFAR10", "CIFAR100", "SVHN"):
        monkeypatch.setattr(remote, name, replace(getattr(remote, name), bases=(NOWHERE,)))
    return tmp_path / "cache"


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def tar(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"some-folder/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def images(n, shape, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def labels(n, classes):
    return (np.arange(n) * 7 % classes).astype(np.uint8)


def mnist():
    files, truth = {}, {}
    for seed, (part, n) in enumerate(PARTS.items()):
        truth[part] = images(n, (28, 28), seed), labels(n, 10)
        files[f"{STEMS[part]}-images-idx3-ubyte.gz"] = gzip.compress(idx(truth[part][0]))
        files[f"{STEMS[part]}-labels-idx1-ubyte.gz"] = gzip.compress(idx(truth[part][1]))
        truth[part] = truth[part][0][:, None], truth[part][1]
    return files, truth


def cifar10():
    truth = {part: (images(n, (3, 32, 32), seed), labels(n, 10)) for seed, (part, n) in enumerate(PARTS.items())}
    records = {p: [bytes([y]) + x.tobytes() for x, y in zip(*truth[p], strict=True)] for p in PARTS}
    members = {f"data_batch_{i + 1}.bin": b"".join(records["train"][8 * i : 8 * i + 8]) for i in range(5)}
    return {
        "cifar-10-binary.tar.gz": tar(members | {"test_batch.bin": b"".join(records["test"]), "readme": b"hello"})
    }, truth


def cifar100():
    truth = {
        p: (images(n, (3, 32, 32), s), labels(n, 100)) for s, (p, n) in enumerate({"train": 100, "test": 20}.items())
    }
    coarse = 77  # the first of the two labels, which must not be taken
    members = {
        f"{p}.bin": b"".join(bytes([coarse, y]) + x.tobytes() for x, y in zip(*truth[p], strict=True)) for p in PARTS
    }
    return {"cifar-100-binary.tar.gz": tar(members)}, truth


def svhn():
    files, truth = {}, {}
    for seed, (part, n) in enumerate(PARTS.items()):
        x, y = images(n, (3, 32, 32), seed), labels(n, 10)
        stream = io.BytesIO()
        named_from_one = np.where(y == 0, 10, y).astype(np.uint8)[:, None]
        savemat(stream, {"X": np.transpose(x, (2, 3, 1, 0)), "y": named_from_one})
        files[f"{part}_32x32.mat"], truth[part] = stream.getvalue(), (x, y)
    return files, truth


SETS = {"mnist": mnist, "cifar10": cifar10, "cifar100": cifar100, "svhn": svhn}


def publish(server, monkeypatch, name, files, *, checksums=True):
    """Serve `files` as the official address of `name`, with their own checksums if so asked."""
    (server.root / name).mkdir(exist_ok=True)
    for file, content in files.items():
        (server.root / name / file).write_bytes(content)
    official = getattr(remote, name.upper())
    sums = (
        {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        if checksums
        else official.checksums
    )
    assert set(sums) == set(official.checksums)
    monkeypatch.setattr(remote, name.upper(), replace(official, bases=(f"{server.address}/{name}/",), checksums=sums))


@pytest.mark.parametrize("name", SETS)
def test_images_and_labels_arrive_as_published(server, monkeypatch, name):
    files, truth = SETS[name]()
    publish(server, monkeypatch, name, files)
    split = load(name)
    x, y = truth["test"]
    np.testing.assert_allclose(split.test.inputs.numpy(), x / 255.0, rtol=1e-7, atol=0)
    assert split.test.targets.tolist() == y.tolist()
    x, y = truth["train"]
    assert len(split.train.targets) == len(y)
    place = {image.tobytes(): label for image, label in zip(x, y, strict=True)}
    for image, label in zip(split.train.inputs, split.train.targets, strict=True):
        assert place[(image.double() * 255).round().byte().numpy().tobytes()] == label
    assert split.shape == split.train.inputs.shape[1:]
    assert split.num_classes == len(split.classes) == len(set(split.classes))


@pytest.mark.parametrize("name", SETS)
def test_a_second_load_asks_nobody(server, monkeypatch, name):
    publish(server, monkeypatch, name, SETS[name]()[0])
    first = load(name)
    asked = list(server.asked)
    second = load(name)
    assert server.asked == asked != []
    assert torch.equal(first.train.inputs, second.train.inputs)


@pytest.mark.parametrize("name", ["mnist", "svhn"])
def test_validate_fetches_no_test_file(server, monkeypatch, name):
    publish(server, monkeypatch, name, SETS[name]()[0])
    for path in (server.root / name).iterdir():
        if path.name.startswith(("t10k", "test")):
            path.unlink()
    assert len(load(name, validate=True).test.targets) == 4
    with pytest.raises(Unavailable, match="404"):
        load(name)


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server, monkeypatch, cache):
    publish(server, monkeypatch, "svhn", svhn()[0], checksums=False)
    with pytest.raises(Unavailable, match=r"(?s)svhn is not on this machine.*train_32x32\.mat.*hash.*ASSAY_MIRROR"):
        load("svhn")
    assert not list(cache.rglob("*.mat"))


def test_a_damaged_file_in_the_cache_is_fetched_again(server, monkeypatch, cache):
    publish(server, monkeypatch, "svhn", svhn()[0])
    load("svhn")
    (cache / "svhn" / "train_32x32.mat").write_bytes(b"half of it")
    assert len(load("svhn").train.targets) == 40


def test_without_a_network_the_message_says_what_to_do(cache):
    with pytest.raises(Unavailable) as caught:
        load("cifar10")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "cifar10 is not on this machine and could not be fetched",
        "Connect to the network",
        "set ASSAY_MIRROR to an address that has cifar10/cifar-10-binary.tar.gz",
        "put cifar-10-binary.tar.gz (SHA-256 c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd)",
        str(cache / "cifar10"),
    ):
        assert part in message


def test_the_second_address_is_tried_when_the_first_is_down(server, monkeypatch):
    publish(server, monkeypatch, "mnist", mnist()[0])
    there = remote.MNIST.bases
    monkeypatch.setattr(remote, "MNIST", replace(remote.MNIST, bases=(NOWHERE, *there)))
    assert len(load("mnist").train.targets) == 40


def test_a_mirror_replaces_the_official_addresses(server, monkeypatch):
    publish(server, monkeypatch, "svhn", svhn()[0])
    monkeypatch.setattr(remote, "SVHN", replace(remote.SVHN, bases=(NOWHERE,)))
    monkeypatch.setenv("ASSAY_MIRROR", server.address + "/")
    assert len(load("svhn").train.targets) == 40
    assert "/svhn/train_32x32.mat" in server.asked


def test_the_cache_folder_can_hold_nothing(server, monkeypatch, tmp_path):
    publish(server, monkeypatch, "svhn", svhn()[0])
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path / "a file"))
    with pytest.raises(Unavailable, match="svhn is not on this machine and could not be fetched"):
        load("svhn")


@pytest.mark.parametrize("name", ["fashion", "mnist", "cifar10", "cifar100", "svhn"])
def test_checksums_are_sha256_of_distinct_files(name):
    sums = list(getattr(remote, name.upper()).checksums.values())
    assert all(len(s) == 64 and set(s) <= set("0123456789abcdef") for s in sums)
    assert len(set(sums)) == len(sums)


# Fashion-MNIST beyond what ships. The fake full set is what ships and 200 (50) more.


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full") / "fashion"
    folder.mkdir()
    for part, more in (("train", 200), ("test", 50)):
        x, y = embedded.labelled(f"fashion-{part}")
        x, y = np.concatenate([x[:, 0], images(more, (28, 28), 0)]), np.concatenate([y, labels(more, 10)])
        (folder / f"{STEMS[part]}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x), 1))
        (folder / f"{STEMS[part]}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y), 1))
    return folder


REQUESTS = [{}, {"train": 8_000, "validation": 1_000, "test": 500}, {"train": 12_000, "test": 3_000, "seed": 5}]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_that_fits_is_the_same_with_and_without_the_full_set(monkeypatch, full, request_):
    without = load("fashion", **request_)
    monkeypatch.setenv("ASSAY_DATA", str(full.parent))
    cached = load("fashion", **request_)
    monkeypatch.setattr(sources, "FASHION_DEBIAN", full)
    monkeypatch.setenv("ASSAY_DATA", "/nowhere")
    installed = load("fashion", **request_)
    for other in (cached, installed):
        for part in ("train", "validation", "test"):
            for one, two in zip(getattr(without, part), getattr(other, part), strict=True):
                assert torch.equal(one, two)


@pytest.mark.parametrize("place", ["cache", "debian"])
def test_a_request_that_does_not_fit_draws_from_the_full_set(monkeypatch, full, place):
    if place == "cache":
        monkeypatch.setenv("ASSAY_DATA", str(full.parent))
    else:
        monkeypatch.setattr(sources, "FASHION_DEBIAN", full)
    split = load("fashion", train=12_100, validation=100, test=3_050)
    assert [len(part.targets) for part in (split.train, split.validation, split.test)] == [12_100, 100, 3_050]
    assert torch.equal(split.test.inputs[:3_000], load("fashion").test.inputs)
    drawn = {image.numpy().tobytes() for part in (split.train, split.validation) for image in part.inputs}
    extra = images(200, (28, 28), 0)[:, None]
    assert all((torch.from_numpy(image).float() / 255).numpy().tobytes() in drawn for image in extra)
    with pytest.raises(ValueError, match="at most 12,200, all that fashion has: got 12,201"):
        load("fashion", train=12_201)


def test_more_than_ships_and_nothing_to_be_had():
    with pytest.raises(Unavailable) as caught:
        load("fashion", train=20_000)
    message = str(caught.value)
    assert "train: 20,000 Fashion-MNIST images were asked for and 12,000 ship" in message
    assert "Ask for at most 12,000, or install the Debian package dataset-fashion-mnist" in message
    with pytest.raises(Unavailable, match="test: 3,001 Fashion-MNIST images were asked for and 3,000 ship"):
        load("fashion", test=3_001)
    with pytest.raises(ValueError, match=r"train \+ validation must be at most 60,000"):
        load("fashion", train=60_001)


@pytest.mark.parametrize("wrong", ["images", "labels"])
def test_another_set_in_the_place_of_the_full_one_is_refused(full, tmp_path, wrong):
    folder = tmp_path / "cache" / "fashion"
    folder.mkdir(parents=True)
    for path in full.iterdir():
        content = bytearray(gzip.decompress(path.read_bytes()))
        if wrong in path.name:
            content[-250 * 784 if wrong == "images" else -250] ^= 1  # in what should be the shipped part
        (folder / path.name).write_bytes(content)
    with pytest.raises(ValueError, match="are not Fashion-MNIST: they differ from its first 12,000 images"):
        load("fashion", train=12_100)
