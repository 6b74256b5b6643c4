"""The ledger: finished trials as plain files, one JSON each and its arrays beside it.

trials/<paper>/<claim>/<digest>.json      one trial; its name is the digest of what it ran
trials/<paper>/<claim>/<digest>.npz       the arrays it returned, if any
code/<digest>.json                        which code a trial depended on, file by file
provenance/<digest>.json                  the machine, versions and revision a trial ran with
plans/<paper>/<claim>/<digest>.json       how many seeds were asked for, and with which looks
set-aside/                                files that could not be read, kept
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from assay.lab.folder import LocalFolder, PackedFolder, RemoteFolder, StoreError, open_folder
from assay.lab.identity import Code, digest
from assay.lab.record import Measures, Record, Registration

LARGEST = 64 * 2**20
STATUSES = ("ok", "error", "crashed", "timeout", "out-of-memory", "diverged")


class LedgerWarning(UserWarning):
    """A file of the ledger could not be read and was set aside."""


class Ledger:
    """Finished trials in a folder, an object store or a pack.

    Args:
        where: a folder, made on the first write; a `.zip` made by `assay pack`; or an `fsspec` URL.

    Raises:
        StoreError: the place cannot be a ledger; from `write` and `check`, it cannot be written to.
    """

    def __init__(self, where: str | Path) -> None:
        self.folder: LocalFolder | RemoteFolder | PackedFolder = open_folder(where)
        self._written: set[str] = set()

    def __str__(self) -> str:
        return str(self.folder)

    def check(self) -> None:
        """Refuse a place that cannot be written to, before any trial has been run for it."""
        self.folder.write("README.txt", README)

    def read(self, paper: str, claim: str, identity: str, *, arrays: bool = False) -> Record | None:
        """The trial with this digest, or None."""
        name = f"trials/{paper}/{claim}/{identity}.json"
        try:
            data = self.folder.read(name)
        except (FileNotFoundError, KeyError):
            return None
        return self._parse(name, data, arrays)

    def records(self, paper: str | None = None, claim: str | None = None, *, arrays: bool = False) -> Iterator[Record]:
        """All readable trials, of one paper or claim if named. `arrays=False` leaves arrays out of the results."""
        prefix = "/".join(("trials", *(each for each in (paper, claim) if each)))
        for name in list(self.folder.names(prefix)):
            if name.endswith(".json"):
                try:
                    data = self.folder.read(name)
                except (FileNotFoundError, KeyError):
                    continue  # another driver has just replaced or set it aside
                record = self._parse(name, data, arrays)
                if record is not None:
                    yield record

    def write(self, record: Record) -> None:
        """Keep a trial. Its arrays are written first: a trial whose JSON is there is there whole."""
        stem = f"trials/{record.paper}/{record.claim}/{record.digest}"
        numbers: dict[str, dict[str, Any]] = {}
        arrays: dict[str, Any] = {}
        for arm, measures in record.results.items():
            numbers[arm] = {}
            for name, value in measures.items():
                if isinstance(value, int | float):
                    numbers[arm][name] = value if math.isfinite(value) else {"float": repr(float(value))}
                else:
                    key = f"{len(arrays):04d}"
                    arrays[key] = value
                    numbers[arm][name] = {"array": key, "shape": list(value.shape)}
        if arrays:
            import numpy as np

            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)
            self.folder.write(f"{stem}.npz", buffer.getvalue())
        body = asdict(replace(record, results={})) | {"results": numbers, "format": 1}
        self.folder.write(f"{stem}.json", _json(body))

    def write_code(self, code: Code) -> str:
        return self._write_once("code", dict(sorted(code.files.items())))

    def write_provenance(self, facts: Mapping[str, Any]) -> str:
        return self._write_once("provenance", dict(facts))

    def code(self, identity: str) -> Code | None:
        """Which files, with which content, the code with this digest was made of."""
        found = self._load(f"code/{identity}.json")
        return Code({str(key): str(value) for key, value in found.items()}) if found is not None else None

    def provenance(self, identity: str) -> dict[str, Any]:
        """The machine and versions with this digest; empty if they are not there."""
        return self._load(f"provenance/{identity}.json") or {}

    def write_plan(self, paper: str, claim: str, plan: Mapping[str, Any]) -> None:
        """Note how many seeds a claim is asked for at some settings, and with which looks."""
        name = f"plans/{paper}/{claim}/{digest(plan['settings'])}.json"
        if self._load(name) != json.loads(_json(dict(plan))):
            self.folder.write(name, _json(dict(plan)))

    def plan(self, paper: str, claim: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        return self._load(f"plans/{paper}/{claim}/{digest(settings)}.json") or {}

    def plans(self, paper: str, claim: str) -> list[dict[str, Any]]:
        """All plans of a claim: one for each size or set of settings that was asked for."""
        loaded = (self._load(name) for name in list(self.folder.names(f"plans/{paper}/{claim}")))
        return [plan for plan in loaded if plan and isinstance(plan.get("settings"), dict)]

    def _write_once(self, kind: str, value: dict[str, Any]) -> str:
        identity = digest(value)
        name = f"{kind}/{identity}.json"
        if name not in self._written:
            if self._load(name) is None:
                self.folder.write(name, _json(value))
            self._written.add(name)
        return identity

    def _load(self, name: str) -> dict[str, Any] | None:
        try:
            value = json.loads(self.folder.read(name))
        except (FileNotFoundError, KeyError, UnicodeDecodeError, json.JSONDecodeError):
            return None
        return value if isinstance(value, dict) else None

    def _parse(self, name: str, data: bytes, arrays: bool) -> Record | None:
        try:
            return self._record(name, data, arrays)
        except Exception as error:  # whatever a hostile or torn file provokes, the other trials stay readable
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        where = "left where it is"
        if isinstance(self.folder, LocalFolder):
            with contextlib.suppress(OSError):
                where = f"set aside as {self.folder.set_aside(name)}"
        warnings.warn(f"{self}/{name} is not a readable trial ({reason}); {where}", LedgerWarning, stacklevel=3)
        return None

    def _record(self, name: str, data: bytes, arrays: bool) -> Record:
        if len(data) > LARGEST:
            raise ValueError(f"{len(data)} bytes is more than a trial ever takes")
        body = json.loads(data)
        if body.pop("format") != 1:
            raise ValueError("made by a newer version")
        registration = body.pop("registration")
        results = body.pop("results")
        record = Record(
            **{**body, "arms": tuple(body["arms"])},
            registration=Registration(registration["says"], tuple(registration["arms"]), registration["holds"]),
            results={},
        )
        _check(record, name)
        return replace(record, results=self._results(name, results, arrays))

    def _results(self, name: str, results: Mapping[str, Any], arrays: bool) -> dict[str, Measures]:
        stored: Any = None
        found: dict[str, Measures] = {}
        for arm, measures in results.items():
            found[arm] = {}
            for measure, value in measures.items():
                if isinstance(value, int | float):
                    found[arm][measure] = float(value)
                elif "float" in value:
                    found[arm][measure] = float(value["float"])
                elif arrays:
                    if stored is None:
                        import numpy as np

                        data = self.folder.read(name.removesuffix("json") + "npz")
                        stored = np.load(io.BytesIO(data), allow_pickle=False)
                    found[arm][measure] = stored[value["array"]]
        return found


def identity_of(
    paper: str, claim: str, arms: tuple[str, ...], seed: int, settings: Mapping[str, Any], code: str, purpose: str
) -> str:
    """The name of a trial: a digest of what is run."""
    return digest([paper, claim, list(arms), seed, dict(settings), code, purpose])


def _check(record: Record, name: str) -> None:
    texts = (record.paper, record.claim, record.size, record.error, record.code, record.provenance, record.started)
    numbers = (record.wall_seconds, record.cpu_seconds, record.peak_bytes)
    if not all(isinstance(each, str) for each in (*texts, *record.arms)):
        raise TypeError("a text field holds something else")
    if not all(isinstance(each, int | float) for each in numbers) or type(record.seed) is not int:
        raise TypeError("a number field holds something else")
    if record.status not in STATUSES:
        raise ValueError(f"unknown status {record.status!r}")
    expected = identity_of(
        record.paper, record.claim, record.arms, record.seed, record.settings, record.code, record.purpose
    )
    if record.digest != expected or name != f"trials/{record.paper}/{record.claim}/{expected}.json":
        raise ValueError("its name is not the digest of what it says it ran")


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


README = b"""This folder is a ledger of `assay`: one JSON file for each trial under trials/, its arrays beside it.
Files never change once written. To merge two ledgers, copy one over the other.
"""

__all__ = ["Ledger", "LedgerWarning", "StoreError", "identity_of"]
