"""Adapters that were read from repositories, kept in a folder of bounded size.

An adapter is a file ``ab/<digest>``. Whatever happens to the cache only costs fetching again: a file that cannot be
written is not kept, one that is damaged is removed, and several processes may use one folder.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from registry.digests import sha256_hex
from registry.store.headers import Bytes

PARTIAL = ".partial"
ROOM = 0.9
"""When the cache is full, the least recently used go until it is filled to this share, so that not every adapter that
comes has the whole folder looked through."""
_ABANDONED_SECONDS = 3600


class AdapterCache:
    """A folder of adapters by digest; those that were used least recently go first. Safe to share between threads."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Use ``folder``, which is made when the first adapter is kept, for at most so many bytes."""
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self._size_bytes: int | None = None

    def get(self, digest: str) -> memoryview | None:
        """Return an adapter's bytes, None if they are not here; hashed the first time that this process reads them."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if digest not in self._seen:
            if sha256_hex(data) != digest:
                with suppress(OSError):
                    path.unlink()
                return None
            self._seen.add(digest)
        with suppress(OSError):  # a folder that may only be read
            os.utime(path)
        return memoryview(data)

    def put(self, digest: str, data: Bytes) -> None:
        """Keep an adapter, whose bytes are known to have this digest, if there is room for it."""
        view = memoryview(data)
        if view.nbytes > self._limit_bytes:
            return
        path = self._path(digest)
        partial = path.with_name(f"{digest}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(view)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError:
            return
        with self._lock:
            # What other processes add is seen when the folder is looked through.
            if self._size_bytes is not None:
                self._size_bytes += view.nbytes
            if self._size_bytes is None or self._size_bytes > self._limit_bytes:
                self._size_bytes = self._make_room(path)

    def _make_room(self, newest: Path) -> int:
        """Remove what was used least recently if there is too much, but the ``newest``; return how many bytes stay."""
        files = self._files()
        size_bytes = sum(size for _, size, _ in files)
        if size_bytes <= self._limit_bytes:
            return size_bytes
        for _, size, path in sorted(files):
            if size_bytes <= self._limit_bytes * ROOM:
                break
            if path != newest:
                with suppress(OSError):
                    path.unlink()
                size_bytes -= size
        return size_bytes

    def _files(self) -> list[tuple[int, int, Path]]:
        """Return when each adapter was used last, its size and its path, and remove what killed processes left."""
        found = []
        for path in self._folder.glob("??/*"):
            with suppress(OSError):
                status = path.stat()
                if not path.name.endswith(PARTIAL):
                    found.append((status.st_mtime_ns, status.st_size, path))
                elif time.time() - status.st_mtime > _ABANDONED_SECONDS:
                    path.unlink()
        return found

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest
