"""Shards of repositories kept on disk by digest, so that a pull fetches only those that changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from registry.digests import sha256_hex, short
from registry.errors import IntegrityError, StorageError
from registry.hub.manifest.shards import read_shard
from registry.published import Member, ShardEntry

Fetch = Callable[[ShardEntry, Path], None]
"""Writes the file of an entry to a path that does not exist yet."""

_SUFFIX = ".parquet"


class Mirror:
    """A folder of shards. Safe to share between threads and processes; all of it can be fetched again."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, made when the first shard comes."""
        self._folder = folder

    def bring(self, entry: ShardEntry, fetch: Fetch) -> bool:
        """Have a shard's file here, and return whether it had to be fetched.

        Raises:
            IntegrityError: what was fetched is not the file that ``entry`` names; nothing is kept.
            StorageError: it cannot be written.
        """
        if self._read(entry) is not None:
            return False
        self._fetch(entry, fetch)
        return True

    def shard(self, entry: ShardEntry, number: int, bits: int, fetch: Fetch) -> list[Member]:
        """Return the rows of a shard, fetched if it is not here.

        Raises:
            IntegrityError: it is malformed; it is not kept then.
            StorageError: it cannot be written.
        """
        data = self._read(entry) or self._fetch(entry, fetch)
        try:
            return read_shard(data, entry, number=number, bits=bits)
        except IntegrityError:
            self._path(entry).unlink(missing_ok=True)
            raise

    def keep(self, entry: ShardEntry, data: bytes) -> None:
        """Keep a shard that was just written.

        Raises:
            IntegrityError: the bytes are another shard's.
            StorageError: it cannot be written.
        """
        if sha256_hex(data) != entry.file.digest:
            raise IntegrityError(f"the shard {short(entry.file.digest)} was to be kept with bytes of another digest")
        self._write(entry, lambda path: path.write_bytes(data))

    def prune(self, entries: Iterable[ShardEntry | None]) -> int:
        """Delete all shards but these, and return how many; one that is being fetched stays."""
        kept = {self._path(entry).name for entry in entries if entry}
        gone = [path for path in self._folder.glob(f"[0-9a-f]*{_SUFFIX}") if path.name not in kept]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

    def _path(self, entry: ShardEntry) -> Path:
        return self._folder / f"{entry.file.digest}{_SUFFIX}"

    def _read(self, entry: ShardEntry) -> bytes | None:
        """Return a shard's bytes if they are here and sound."""
        with suppress(OSError), self._path(entry).open("rb") as file:
            data = file.read(entry.file.size_bytes + 1)
            if len(data) == entry.file.size_bytes and sha256_hex(data) == entry.file.digest:
                return data
        return None

    def _fetch(self, entry: ShardEntry, fetch: Fetch) -> bytes:
        self._write(entry, lambda path: fetch(entry, path))
        data = self._read(entry)
        if data is None:
            self._path(entry).unlink(missing_ok=True)
            raise IntegrityError(f"the shard {short(entry.file.digest)} arrived with bytes of another digest")
        return data

    def _write(self, entry: ShardEntry, write: Callable[[Path], object]) -> None:
        """Have a file written beside, and put it in place as a whole."""
        partial = self._folder / f".{entry.file.digest}.{uuid4().hex}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write(partial)
            os.replace(partial, self._path(entry))
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be written: {error.strerror}") from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
