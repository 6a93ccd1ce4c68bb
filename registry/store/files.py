"""Where pack files lie: a local folder here, any fsspec URL in ``remote.py``. Both keep one contract.

A pack is ``ab/<digest>.safetensors``, ``ab`` being the first two digits of its digest, so that a folder stays below
10,000 entries up to two million packs.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from registry.errors import StorageError
from registry.store.headers import Bytes

SUFFIX = ".safetensors"
PARTIAL = ".partial"
CHUNK_BYTES = 8 * 1024 * 1024
_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True, slots=True)
class StoredPack:
    """A pack as the storage lists it; ``modified_at`` is in seconds since 1970, None where the storage does not say."""

    digest: str
    size_bytes: int
    modified_at: float | None


class PackFiles(Protocol):
    """Immutable files named by their sha256. Every method raises StorageError where the storage refuses.

    ``size`` and ``read`` raise FileNotFoundError for a pack that is not there.
    """

    def write(self, chunks: Iterable[Bytes]) -> tuple[str, int]:
        """Store the bytes of ``chunks`` whole or not at all; return their sha256 and size in bytes."""

    def read(self, digest: str, offset: int, size_bytes: int) -> memoryview:
        """Return the range, shorter where the file ends before it."""

    def size(self, digest: str) -> int:
        """Return the file's size in bytes."""

    def stream(self, digest: str) -> Iterator[bytes]:
        """Yield the file from the storage itself, past any cache, in chunks."""

    def delete(self, digest: str) -> bool:
        """Remove the file; return whether it was there."""

    def list(self) -> Iterator[StoredPack]:
        """Yield every pack, in order of digest."""

    def clean_partials(self, older_than_seconds: float) -> int:
        """Remove what killed writers left and was not touched since; return how many files."""

    def forget(self, digest: str) -> None:
        """Let go of what is held open or cached of a pack."""

    def close(self) -> None:
        """Let go of everything."""


def relative_path(digest: str) -> str:
    """Return where a pack lies below the root."""
    return f"{digest[:2]}/{digest}{SUFFIX}"


def digest_of_name(name: str) -> str | None:
    """Return the digest that a file name stands for, None if it is no pack's."""
    return name.removesuffix(SUFFIX) if _NAME.fullmatch(name) else None


def storage_error(action: str, where: str, error: OSError) -> StorageError:
    """Return the error to raise when the operating system or a remote storage refuses."""
    hint = None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space there, then run the command again: what was finished is kept"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = f"check who may write to {where}"
    return StorageError(f"{action} {where}: {error.strerror or error}", hint=hint)


class LocalPackFiles:
    """Packs in a folder of this machine, read through memory maps of which the last used stay open."""

    def __init__(self, root: Path, *, open_maps: int) -> None:
        """Use ``root``, which is made when first written to; keep at most ``open_maps`` files mapped."""
        self._root = root
        self._open_maps = open_maps
        self._maps: OrderedDict[str, _Map] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, chunks: Iterable[Bytes]) -> tuple[str, int]:
        """Write beside, sync, rename, sync the folders; hash on the way."""
        partial = self._root / f"{os.getpid()}-{secrets.token_hex(8)}{PARTIAL}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                digest, size_bytes = write_chunks(descriptor, chunks)
                path = self._root / relative_path(digest)
                path.parent.mkdir(exist_ok=True)
                partial.replace(path)
            finally:
                os.close(descriptor)
                partial.unlink(missing_ok=True)
            for folder in (path.parent, self._root, self._root.parent):
                _sync_folder(folder)
        except OSError as error:
            raise storage_error("a pack cannot be written to", str(self._root), error) from error
        self.forget(digest)
        return digest, size_bytes

    def read(self, digest: str, offset: int, size_bytes: int) -> memoryview:
        """Return a read-only view of the mapped file; it stays valid after the pack is deleted."""
        return self._map(digest).range(offset, size_bytes)

    def size(self, digest: str) -> int:
        """Return the file's size in bytes."""
        with _reading(self._root):
            return (self._root / relative_path(digest)).stat().st_size

    def stream(self, digest: str) -> Iterator[bytes]:
        """Yield the file in chunks."""
        with _reading(self._root), (self._root / relative_path(digest)).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def delete(self, digest: str) -> bool:
        """Remove the file; views that were read before stay valid."""
        self.forget(digest)
        try:
            (self._root / relative_path(digest)).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error("a pack cannot be deleted from", str(self._root), error) from error
        return True

    def list(self) -> Iterator[StoredPack]:
        """Yield every pack, in order of digest."""
        for path in sorted(self._root.glob(f"[0-9a-f][0-9a-f]/*{SUFFIX}")):
            digest = digest_of_name(path.name)
            if digest is None or not digest.startswith(path.parent.name):
                continue
            try:
                with _reading(self._root):
                    status = path.stat()
            except FileNotFoundError:  # deleted meanwhile
                continue
            yield StoredPack(digest, status.st_size, status.st_mtime)

    def clean_partials(self, older_than_seconds: float) -> int:
        """Remove partial files that no one has written to for that long."""
        removed = 0
        for path in self._root.glob(f"*{PARTIAL}"):
            try:
                if time.time() - path.stat().st_mtime >= older_than_seconds:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # its writer finished meanwhile
                continue
            except OSError as error:
                raise storage_error("a partial file cannot be removed from", str(self._root), error) from error
        return removed

    def forget(self, digest: str) -> None:
        """Unmap the file, so that the next read opens what then has its name."""
        with self._lock:
            self._maps.pop(digest, None)

    def close(self) -> None:
        """Unmap every file; views that were handed out keep theirs."""
        with self._lock:
            self._maps.clear()

    def _map(self, digest: str) -> _Map:
        with self._lock:
            mapped = self._maps.get(digest)
            if mapped is None or mapped.has_other_size():
                with _reading(self._root):
                    mapped = self._maps[digest] = _Map(self._root / relative_path(digest))
            self._maps.move_to_end(digest)
            while len(self._maps) > self._open_maps:
                self._maps.popitem(last=False)
            return mapped


class _Map:
    """A mapped file. It is unmapped when the last view of it is gone, so forgetting one is always safe."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._size_bytes = os.fstat(file.fileno()).st_size
            # An empty file cannot be mapped.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._size_bytes else None
        self._view = memoryview(self._map or b"")

    def range(self, offset: int, size_bytes: int) -> memoryview:
        return self._view[offset : offset + size_bytes]

    def has_other_size(self) -> bool:
        # Touching a page behind the end of a file that was shortened would kill the process.
        return self._map is None or self._map.size() != self._size_bytes


@contextmanager
def _reading(root: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error("a pack cannot be read from", str(root), error) from error


def write_chunks(descriptor: int, chunks: Iterable[Bytes]) -> tuple[str, int]:
    """Write ``chunks`` to an open file and sync it; return their sha256 and size in bytes.

    Raises:
        OSError: the operating system refuses.
    """
    digest = hashlib.sha256()
    size_bytes = 0
    for chunk in chunks:
        digest.update(chunk)
        rest = memoryview(chunk)
        size_bytes += len(rest)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)
    return digest.hexdigest(), size_bytes


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(descriptor)
