"""What runs on a node of a cluster: a local pool of one slot, and the claim file of the trial it is given."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from assay.lab.catalogue import ModuleRef
from assay.lab.identity import fingerprint
from assay.lab.ledger import identity_of
from assay.lab.pool import LocalPool
from assay.lab.trial import Finished, Trial


class Host:
    """What runs in an actor: a local pool of one slot, on the actor's node."""

    def __init__(self, timeout: float, memory: int | None) -> None:
        self.pool = LocalPool(1, timeout=timeout, memory=memory)
        self.folder: Path | None = None  # made when a claim file has to be put somewhere
        self.checked: dict[tuple[str, str, str], str] = {}

    def ready(self) -> None:
        """Answered as soon as the actor is up."""

    def run(self, trial: Trial, files: Mapping[str, bytes]) -> Finished:
        """Run a trial to its end, whatever that is.

        Args:
            trial: the trial, with the driver's path of its claim file.
            files: name -> content of the claim file and its neighbours, where it belongs to no package.
        """
        try:
            here = replace(trial, module=self._locate(trial.module, files))
            code = self._code(here)
        except Exception as error:
            return _refused(f"{type(error).__name__}: {error}")
        own = identity_of(trial.paper, trial.claim, trial.arms, trial.seed, trial.settings, code, trial.purpose)
        if own != trial.digest:
            return _refused(f"{trial.paper}/{trial.claim} has other code than the driver's; install the same version")
        self.pool.submit(here)
        ended = self.pool.next()
        assert ended is not None
        return ended[1]

    def stop(self) -> None:
        """Stop the trial with everything it has started; the actor is of no use afterwards."""
        self.pool.cancel()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _locate(self, module: ModuleRef, files: Mapping[str, bytes]) -> ModuleRef:
        """Where a claim file is on this node."""
        if not module.standalone:
            spec = importlib.util.find_spec(module.name)
            if spec is None or spec.origin is None:
                raise ModuleNotFoundError(f"no module {module.name}; install the package on every node")
            return replace(module, path=spec.origin)
        path = Path(module.path)
        if all(_holds(path.with_name(name), content) for name, content in files.items()):
            return module
        self.folder = self.folder or Path(tempfile.mkdtemp(prefix="assay-claims-"))
        folder = self.folder / hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return replace(module, path=str(folder / path.name))

    def _code(self, trial: Trial) -> str:
        """Digest of the code that a trial depends on, as it is on this node."""
        key = (trial.module.name, trial.module.path, trial.claim)
        if key not in self.checked:
            self.checked[key] = fingerprint(trial.module, trial.claim).digest
        return self.checked[key]


def sources(module: ModuleRef) -> dict[str, bytes]:
    """Name -> content of a claim file outside any package and of the neighbours that it or they import."""
    found: dict[str, bytes] = {}
    pending = [Path(module.path)] if module.standalone else []
    while pending:
        path = pending.pop()
        if path.name not in found and path.is_file():
            found[path.name] = path.read_bytes()
            pending += [path.with_name(f"{name}.py") for name in _imported(ast.parse(found[path.name]))]
    return found


def _imported(tree: ast.Module) -> Iterator[str]:
    """The first words of all modules that a syntax tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _refused(reason: str) -> Finished:
    return Finished("error", error=f"{reason} (node {socket.gethostname()})", started=time.time())
