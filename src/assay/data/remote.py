"""Standard sets that do not ship: fetched once, checked against published checksums, kept in a cache folder.

Two environment variables steer it:

- `ASSAY_DATA`: the folder in which sets are kept, one sub-folder a set (default: the user's cache folder);
- `ASSAY_MIRROR`: a base address to fetch from instead of the official ones; `<mirror>/<set>/<file>` must exist.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 30.0
"""Seconds without an answer after which an address is given up."""


class Unavailable(RuntimeError):
    """A data set that is neither on this machine nor to be had now; the message says what to do."""


@dataclass(frozen=True)
class Download:
    """Files of one published set: where they are and what they must hash to.

    Args:
        name: the set, which is also its folder in the cache.
        bases: addresses that hold all the files, tried in order, each ending in `/`.
        checksums: file name -> hexadecimal SHA-256.
    """

    name: str
    bases: tuple[str, ...]
    checksums: Mapping[str, str]

    def fetch(self, file: str) -> Path:
        """The path of `file`, downloaded if it is not in the cache with the right checksum.

        Raises:
            Unavailable: when it is not there and cannot be had: no network, no such file, wrong checksum, full disk.
        """
        import pooch  # only here: it brings the network stack, which loading what ships does not need

        folder = cache_folder(self.name)
        checksum = self.checksums[file]
        reasons = []
        for base in self._addresses():
            try:
                found = pooch.retrieve(
                    base + file,
                    known_hash=f"sha256:{checksum}",
                    fname=file,
                    path=folder,
                    downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
                )
                return Path(found)
            except (OSError, ValueError) as error:
                reasons.append(f"{base}{file}: {_in_one_line(error)}")
        raise Unavailable(
            f"{self.name} is not on this machine and could not be fetched ({'; '.join(reasons)}). "
            f"Connect to the network, set ASSAY_MIRROR to an address that has {self.name}/{file}, "
            f"or put {file} (SHA-256 {checksum}) into {folder}."
        )

    def _addresses(self) -> tuple[str, ...]:
        mirror = os.environ.get("ASSAY_MIRROR")
        return (f"{mirror.rstrip('/')}/{self.name}/",) if mirror else self.bases


def cache_folder(name: str) -> Path:
    """Where the files of the set `name` are kept: `$ASSAY_DATA/<name>`, or a folder in the user's cache.

    Example:
        >>> import os
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, ASSAY_DATA="/big/disk"):
        ...     print(cache_folder("svhn").as_posix())
        /big/disk/svhn
    """
    if chosen := os.environ.get("ASSAY_DATA"):
        return Path(chosen) / name
    import pooch

    return Path(pooch.os_cache("assay")) / name


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


MNIST = Download(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)

FASHION = Download(
    "fashion",
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)

CIFAR10 = Download(
    "cifar10",
    ("https://www.cs.toronto.edu/~kriz/",),
    {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
)

CIFAR100 = Download(
    "cifar100",
    ("https://www.cs.toronto.edu/~kriz/",),
    {"cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"},
)

SVHN = Download(
    "svhn",
    ("http://ufldl.stanford.edu/housenumbers/",),
    {
        "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    },
)
