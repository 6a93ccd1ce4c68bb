"""Packs in a folder of this machine, read through memory maps."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from registry.store.files import (
    CHUNK_BYTES,
    FIRST_CHUNK_BYTES,
    PARTIAL,
    QUARANTINE,
    SUFFIX,
    PartialFile,
    StoredPack,
    digest_in_quarantine,
    digest_of_name,
    quarantine_path,
    relative_path,
    storage_error,
    write_chunks,
)
from registry.store.headers import Bytes

_BLOCK_BYTES = 4096


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
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            partial, descriptor = self._open_partial()
            try:
                digest, size_bytes = write_chunks(descriptor, chunks)
                path = self._root / relative_path(digest)
                path.parent.mkdir(exist_ok=True)
                partial.replace(path)
            finally:
                os.close(descriptor)
                partial.unlink(missing_ok=True)
            for folder in (path.parent, self._root, self._root.parent):
                sync_folder(folder)
        except OSError as error:
            raise storage_error("a pack cannot be written to", str(self._root), error) from error
        self.forget(digest)
        return digest, size_bytes

    def take(self, source: Path, digest: str) -> None:
        """Sync, rename, sync the folders; from another file system it is copied, and then removed there."""
        path = self._root / relative_path(digest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sync_file(source)
            try:
                source.replace(path)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with source.open("rb") as file:
                    self.write(iter(lambda: file.read(CHUNK_BYTES), b""))
                source.unlink()
            for folder in (path.parent, self._root, self._root.parent):
                sync_folder(folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error("a pack cannot be moved to", str(self._root), error) from error
        self.forget(digest)

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
            wanted = FIRST_CHUNK_BYTES
            while chunk := file.read(wanted):
                yield chunk
                wanted = CHUNK_BYTES

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

    def is_bare(self) -> bool:
        """Return whether the folder is missing or has not even an empty folder in it."""
        return not self._root.is_dir() or next(self._root.iterdir(), None) is None

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

    def quarantine(self, digest: str) -> str:
        """Rename the file, and sync the folders."""
        self.forget(digest)
        source = self._root / relative_path(digest)
        free = (path for number in count(1) if not (path := self._root / quarantine_path(digest, number)).exists())
        try:
            target = next(free)
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
            for folder in (target.parent, source.parent, self._root):
                sync_folder(folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error("a pack cannot be put into quarantine in", str(self._root), error) from error
        return str(target)

    def quarantined(self) -> Iterator[StoredPack]:
        """Yield the files in quarantine, in order of their names."""
        for path in sorted(self._root.glob(f"{QUARANTINE}/*{SUFFIX}")):
            if (digest := digest_in_quarantine(path.name)) is not None:
                with _reading(self._root):
                    status = path.stat()
                yield StoredPack(digest, status.st_size, status.st_mtime)

    def contents(self, digest: str) -> memoryview:
        """Read the whole file into memory; a map of a bad disk would kill whoever touches it."""
        with _reading(self._root):
            return _read_leniently(self._root / relative_path(digest))

    def quarantined_contents(self, digest: str) -> Iterator[memoryview]:
        """Yield the bytes of each such file, in order of their numbers."""
        for number in count(1):
            path = self._root / quarantine_path(digest, number)
            if not path.exists():
                return
            with _reading(self._root):
                content = _read_leniently(path)
            yield content

    def partials(self) -> Iterator[PartialFile]:
        """Yield the partial files that no one holds locked, in order of their names."""
        for path in sorted(self._root.glob(f"*{PARTIAL}")):
            with _reading(self._root), _unless_written(path) as status:
                if status is not None:
                    yield path.name, status.st_size, status.st_mtime

    def clean_partials(self, older_than_seconds: float) -> int:
        """Remove partial files that no one holds locked or has written to for that long."""
        removed = 0
        try:
            for path in self._root.glob(f"*{PARTIAL}"):
                with _unless_written(path) as status:
                    if status is not None and time.time() - status.st_mtime >= older_than_seconds:
                        path.unlink()
                        removed += 1
        except OSError as error:
            raise storage_error("a partial file cannot be removed from", str(self._root), error) from error
        return removed

    def path_of(self, digest: str) -> str:
        """Return the file's path."""
        return str(self._root / relative_path(digest))

    def forget(self, digest: str) -> None:
        """Unmap the file, so that the next read opens what then has its name."""
        with self._lock:
            self._maps.pop(digest, None)

    def close(self) -> None:
        """Unmap every file; views that were handed out keep theirs."""
        with self._lock:
            self._maps.clear()

    def _open_partial(self) -> tuple[Path, int]:
        # The lock tells the file from a killed writer's. Until it is held, the file may be taken for one and removed.
        while True:
            path = self._root / f"{os.getpid()}-{secrets.token_hex(8)}{PARTIAL}"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
            os.close(descriptor)

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
def _unless_written(path: Path) -> Iterator[os.stat_result | None]:
    """Lock a partial file for the time of a block and give its status; None if its writer lives or just finished."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        except OSError:  # a file system without locks: only its age says whether it is written
            pass
        # Its writer may have renamed it between the opening and the lock.
        yield os.fstat(descriptor) if path.exists() else None
    finally:
        os.close(descriptor)


@contextmanager
def _reading(root: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error("a pack cannot be read from", str(root), error) from error


def _read_leniently(path: Path) -> memoryview:
    with path.open("rb", buffering=0) as file:
        data = bytearray(os.fstat(file.fileno()).st_size)
        view = memoryview(data)
        for start in range(0, len(data), CHUNK_BYTES):
            _fill(file.fileno(), view[start : start + CHUNK_BYTES], start)
    return view.toreadonly()


def _fill(descriptor: int, view: memoryview, offset: int) -> None:
    """Read into ``view`` from ``offset`` of a file; a block that the disk does not give stays as it is."""
    done = 0
    try:
        while done < len(view) and (size := os.preadv(descriptor, [view[done:]], offset + done)):
            done += size
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        if len(view) > _BLOCK_BYTES:
            for start in range(0, len(view), _BLOCK_BYTES):
                _fill(descriptor, view[start : start + _BLOCK_BYTES], offset + start)


def sync_file(path: Path) -> None:
    """Have the bytes of a file on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where its file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(descriptor)
