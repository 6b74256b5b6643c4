"""What was read from files that have not changed since, so that listing hundreds of papers parses none of them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

FORMAT = 1


class FileCache:
    """JSON-able values computed from files, kept until a file's size or time of change differ.

    Args:
        path: where they are kept between calls. A cache that cannot be read or written is no error: it is then as if it
            were empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = False
        self._entries: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            found = json.loads(path.read_bytes())
            if found["format"] == FORMAT and isinstance(found["entries"], dict):
                self._entries = found["entries"]

    def get(self, file: Path, kind: str, compute: Callable[[], Any]) -> Any:
        """The value of this kind for a file: remembered, or computed now."""
        stat = file.stat()
        stamp = [stat.st_mtime_ns, stat.st_size]
        key = f"{kind}:{file}"
        entry = self._entries.get(key)
        if isinstance(entry, list) and len(entry) == 2 and entry[0] == stamp:
            return entry[1]
        value = compute()
        self._entries[key] = [stamp, value]
        self._changed = True
        return value

    def save(self) -> None:
        """Write what is new, whole or not at all."""
        if not self._changed:
            return
        part = self.path.with_name(f"{self.path.name}.{uuid4().hex[:8]}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({"format": FORMAT, "entries": self._entries}))
            os.replace(part, self.path)
            self._changed = False
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


@cache
def shared() -> FileCache:
    """The cache of this user, in the place the system has for such, or in the folder that `ASSAY_CACHE` names."""
    import platformdirs

    from assay import __version__

    folder = Path(os.environ.get("ASSAY_CACHE") or platformdirs.user_cache_path("assay"))
    return FileCache(folder / f"catalogue-{__version__}.json")
