"""What `assay doctor` looks at: one function a subject, each giving a line or several."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from uuid import uuid4

from assay.lab.catalogue import papers
from assay.lab.claim import ClaimError
from assay.lab.folder import LocalFolder, PackedFolder, StoreError, open_folder
from assay.lab.ledger import Ledger

State = Literal["ok", "note", "problem"]

TORCH = (2, 6)
GIB = 2**30
EXTRAS = {
    "ray": ("ray", "clusters, `assay run --on`"),
    "tensorboard": ("tensorboard", "`--mirror tensorboard`"),
    "mlflow": ("mlflow", "`--mirror mlflow`"),
    "wandb": ("wandb", "`--mirror wandb`"),
    "skimage": ("photos", "further photographs"),
    "PIL": ("pictures", "pictures of your own, `assay probe saliency`"),
}
"""Module -> the extra that installs it, and what it is for."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` says what to do, where there is something to do."""

    name: str
    state: State
    text: str
    remedy: str = ""


def diagnose(store: str) -> list[Finding]:
    """Everything there is to say about this installation and a ledger."""
    found = []
    for check in (_python, _torch, _machine, _compiler, lambda: _ledger(store), _data, _extras, _papers):
        found += _guarded(check)
    return found


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds; that it fails is a finding too."""
    try:
        return list(check())
    except Exception as error:
        name = getattr(check, "__name__", "check").strip("_<>")
        return [Finding(name, "problem", _named(error), "this should not happen: please report it")]


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", "problem", f"cannot be imported: {_line(error)}", "pip install torch")
        return
    version = tuple(int(each) for each in re.findall(r"\d+", torch.__version__)[:2])
    if version < TORCH:
        yield Finding("torch", "problem", torch.__version__, f"install torch {TORCH[0]}.{TORCH[1]} or newer")
    else:
        yield Finding("torch", "ok", torch.__version__)
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    cores = os.cpu_count() or 1
    text = f"{torch.get_num_threads()} threads on {cores} cores, BLAS {blas[1] if blas else 'unknown'}"
    if torch.get_num_threads() > cores:
        yield Finding("threads", "note", text, "more threads than cores slow torch down: lower OMP_NUM_THREADS")
    else:
        yield Finding("threads", "ok", f"{text}; trials take as many as `assay run --threads` says")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Finding("accelerator", "ok", names)
    else:
        yield Finding("accelerator", "note", "none that torch can use", "laptop size needs none; paper size does")


def _machine() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{os.cpu_count()} cores, {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB memory free"
    busy = psutil.getloadavg()[0] / (os.cpu_count() or 1)
    if memory.available < GIB:
        yield Finding("machine", "problem", text, "a trial takes up to 1 GiB: close other programs")
    elif busy > 0.75:
        text += f", busy to {busy:.0%}"
        yield Finding("machine", "note", text, "claims about time want an idle machine")
    else:
        yield Finding("machine", "ok", text)


def _compiler() -> Iterator[Finding]:
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "cl"):
        if name and (path := shutil.which(name)):
            yield Finding("compiler", "ok", f"{path}, for torch.compile")
            return
    yield Finding("compiler", "note", "no C++ compiler; nothing here needs one", "torch.compile does: install g++")


def _ledger(store: str) -> Iterator[Finding]:
    """Whether a run could write to the ledger; a local one that is not there yet is not made."""
    try:
        folder = open_folder(store)
        if isinstance(folder, PackedFolder):
            yield Finding(
                "ledger", "problem", f"{store} is a pack, which is read-only", "give --store a folder or a URL"
            )
            return
        if not isinstance(folder, LocalFolder):
            Ledger(store).check()
            yield Finding("ledger", "ok", f"{store} can be written to")
            return
        nearest = next(each for each in (folder.root.absolute(), *folder.root.absolute().parents) if each.exists())
        probe = nearest / f".assay-{uuid4().hex[:8]}.part"
        try:
            probe.write_bytes(b"assay")
        finally:
            probe.unlink(missing_ok=True)
    except (OSError, StoreError) as error:
        yield Finding("ledger", "problem", f"{store}: {_line(error)}", "give --store a place you may write to")
        return
    free = shutil.disk_usage(nearest).free
    text = f"{store} can be written to, {free / GIB:.1f} GiB free" + ("" if folder.root.exists() else "; not there yet")
    if free < GIB:
        yield Finding("ledger", "problem", text, "make room on this disk, or give --store another place")
    else:
        yield Finding("ledger", "ok", text)


def _data() -> Iterator[Finding]:
    from assay.data import embedded, remote, sources

    names = ("digits-train", "digits-test", "fashion-train", "fashion-test", "photos")
    broken = []
    for name in names:
        try:
            embedded.arrays(name)
        except Exception as error:
            broken.append(f"{name}: {_line(error)}")
    if broken:
        yield Finding("shipped data", "problem", "; ".join(broken), "install assay again")
    else:
        yield Finding("shipped data", "ok", ", ".join(names))
    downloads = {each.name: each for each in vars(remote).values() if isinstance(each, remote.Download)}
    there: list[str] = []
    absent: list[str] = []
    for name in sources.SOURCES:
        if name not in downloads:
            continue
        folders = [remote.cache_folder(name)] + ([sources.FASHION_DEBIAN] if name == "fashion" else [])
        found = any(all((folder / file).is_file() for file in downloads[name].checksums) for folder in folders)
        (there if found else absent).append(name)
    text = f"here: {', '.join(there) or 'none'}; not here: {', '.join(absent) or 'none'}"
    remedy = f"fetched on first use into {remote.cache_folder('')}; ASSAY_DATA and ASSAY_MIRROR change where and whence"
    yield Finding("full data sets", "note" if absent else "ok", text, remedy if absent else "")


def _extras() -> Iterator[Finding]:
    for module, (extra, purpose) in EXTRAS.items():
        if find_spec(module) is not None:
            yield Finding(f"extra {extra}", "ok", f"for {purpose}")
        else:
            yield Finding(f"extra {extra}", "note", f"not installed; for {purpose}", f'pip install "assay[{extra}]"')


def _papers() -> Iterator[Finding]:
    """Whether the catalogue can be read and every claim file and part imported."""
    try:
        known = papers()
    except ClaimError as error:
        yield Finding("papers", "problem", _line(error), "mend or uninstall the package it belongs to")
        return
    broken, claims = [], 0
    for paper in known.values():
        try:
            claims += len(paper.claims)
            if Path(paper.module.path).exists():
                paper.module.load()
            for part in paper.parts:
                module, _, name = part.rpartition(".")
                getattr(importlib.import_module(module), name)
        except Exception as error:
            broken.append(Finding("papers", "problem", f"{paper.key}: {_named(error)}", f"see {paper.module.path}"))
    yield from broken
    if not broken:
        text = f"{len(known)} in the catalogue, with {claims} claims; every part and claim file can be imported"
        yield Finding("papers", "ok", text)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {_line(error)}"
