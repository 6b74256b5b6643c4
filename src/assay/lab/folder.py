"""Where a ledger's files lie: a local folder, an object store, or one packed file. Three ways to keep named bytes."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4


class StoreError(OSError):
    """A ledger cannot be read or written. The message is one line, fit for a terminal."""


@runtime_checkable
class Folder(Protocol):
    """Named bytes. A name is a relative path with forward slashes; what is written is there whole or not at all."""

    def names(self, prefix: str) -> Iterator[str]: ...
    def read(self, name: str) -> bytes: ...
    def write(self, name: str, data: bytes) -> None: ...


class LocalFolder:
    """A folder on this machine. Files are written under another name, flushed to disk and renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def names(self, prefix: str) -> Iterator[str]:
        start = self.root / prefix
        for folder, _, files in sorted(os.walk(start)):
            for file in sorted(files):
                if not file.endswith(".part"):
                    yield (Path(folder) / file).relative_to(self.root).as_posix()

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        target = self.root / name
        part = target.with_name(f"{target.name}.{uuid4().hex[:8]}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except OSError as error:
            part.unlink(missing_ok=True)
            free = _free(self.root)
            room = f" ({free // 2**20} MiB free)" if free is not None else ""
            raise StoreError(f"cannot write the ledger at {self.root}: {error.strerror or error}{room}") from error

    def set_aside(self, name: str) -> str:
        """Move a file that cannot be read out of the way, keeping it; returns where it went."""
        target = self.root / "set-aside" / f"{Path(name).name}.{uuid4().hex[:8]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.root / name, target)
        return str(target)


class RemoteFolder:
    """An object store behind any `fsspec` URL (`s3://`, `gs://`, `memory://`), whose puts are whole by nature."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise StoreError(f"cannot open the ledger at {url}: {error}") from None

    def __str__(self) -> str:
        return self.url

    def names(self, prefix: str) -> Iterator[str]:
        start = f"{self.root}/{prefix}".rstrip("/")
        if not self.files.exists(start):
            return
        self.files.invalidate_cache()
        for path in sorted(self.files.find(start)):
            yield str(path)[len(self.root) :].lstrip("/")

    def read(self, name: str) -> bytes:
        return bytes(self.files.cat_file(f"{self.root}/{name}"))

    def write(self, name: str, data: bytes) -> None:
        try:
            self.files.pipe_file(f"{self.root}/{name}", data)
        except OSError as error:
            raise StoreError(f"cannot write the ledger at {self.url}: {error}") from error


class PackedFolder:
    """One zip file with a ledger's layout. It can only be read; `write_pack` makes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: zipfile.ZipFile | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def archive(self) -> zipfile.ZipFile:
        if self._open is None:
            try:
                self._open = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as error:
                raise StoreError(f"cannot read the packed results {self.path}: {error}") from None
        return self._open

    def names(self, prefix: str) -> Iterator[str]:
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        yield from sorted(name for name in self.archive.namelist() if name.startswith(start))

    def read(self, name: str) -> bytes:
        return self.archive.read(name)

    def write(self, name: str, data: bytes) -> None:
        raise StoreError(f"{self.path} is a packed ledger, which cannot be written to")


def write_pack(path: Path, files: dict[str, bytes]) -> None:
    """Write a packed ledger whose bytes depend on the content alone, so that packing twice changes nothing."""
    part = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), files[name], zipfile.ZIP_DEFLATED, 9)
    os.replace(part, path)


def open_folder(where: str | Path) -> LocalFolder | RemoteFolder | PackedFolder:
    """The folder behind a path, a `.zip` or an `fsspec` URL."""
    text = str(where)
    if "://" in text and not text.startswith("file://"):
        return RemoteFolder(text)
    path = Path(text.removeprefix("file://")).expanduser()
    if path.suffix == ".zip":
        return PackedFolder(path)
    if path.exists() and not path.is_dir():
        raise StoreError(f"the ledger {path} is a file; it must be a folder, a .zip pack or a URL")
    return LocalFolder(path)


def _free(path: Path) -> int | None:
    usage: Any = None
    for each in (path, *path.parents):
        if each.exists():
            usage = shutil.disk_usage(each)
            break
    return int(usage.free) if usage else None
