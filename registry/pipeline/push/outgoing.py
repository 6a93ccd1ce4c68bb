"""The folder of a push: packs that are composed for it, until they are sent.

    hub/outgoing/PID-xxxx.lock      held locked while that push runs
    hub/outgoing/PID-xxxx/          its files

What a killed push left is removed by the next one, since the kernel takes the lock back.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from registry.digests import short
from registry.errors import IntegrityError, StorageError
from registry.records import AdapterLocation, Pack
from registry.settings import Home
from registry.store.packs import header_of

OUTGOING_FOLDER = "outgoing"
_LOCK = ".lock"
_READ_AT_ONCE = 64

Read = Callable[[Sequence[str]], Mapping[str, memoryview]]
"""Returns adapters by digest, checked."""


@dataclass(frozen=True, slots=True)
class Part:
    """An adapter that goes into a pack."""

    adapter_digest: str
    size_bytes: int


class Outgoing:
    """The folder of one push, from ``with`` to its end."""

    def __init__(self, home: Home) -> None:
        """Take the home; nothing is made before it is entered."""
        self._root = home.hub_path / OUTGOING_FOLDER
        self._folder = self._root
        self._descriptor: int | None = None

    def __enter__(self) -> Outgoing:
        """Remove what killed pushes left, and make the folder."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            for lock in self._root.glob(f"*{_LOCK}"):
                _remove_unless_locked(lock)
            self._descriptor, self._folder = _make(self._root)
        except OSError as error:
            raise _storage_error(self._root, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.with_suffix(_LOCK).unlink(missing_ok=True)
        if self._descriptor is not None:
            os.close(self._descriptor)

    def hold(self, pack: Path) -> Path | None:
        """Return a path of a pack that stays when gc or a build deletes it; None if it is gone already.

        It is a second name of the same file. Where the file system has none, it is the path itself.
        """
        held = self._folder / pack.name
        with suppress(FileExistsError):
            try:
                os.link(pack, held)
            except FileNotFoundError:
                return None
            except OSError:
                return pack
        return held

    def copy(self, digest: str, chunks: Iterable[bytes]) -> Path:
        """Write a pack that lies on another machine into the folder.

        Raises:
            IntegrityError: its bytes have another digest.
            StorageError: it cannot be written.
        """
        path = self._folder / f"{digest}.safetensors"
        if self._write(path, chunks)[0] != digest:
            path.unlink()
            raise IntegrityError(f"the pack {short(digest)} has other bytes than its digest says")
        return path

    def compose(self, parts: Sequence[Part], read: Read) -> tuple[Path, Pack]:
        """Write adapters, in this order, as a new pack into the folder.

        Raises:
            IntegrityError: an adapter has another size than the catalog says, or ``read`` finds it damaged.
            StorageError: it cannot be written.
        """
        header = header_of(planned(parts))
        partial = self._folder / "composing"
        digest, size_bytes = self._write(partial, _contents(header, parts, read))
        path = partial.rename(self._folder / f"{digest}.safetensors")
        return path, _located(parts, digest, size_bytes, len(header))

    def _write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> tuple[str, int]:
        found = hashlib.sha256()
        size_bytes = 0
        try:
            with path.open("wb") as file:
                for chunk in chunks:
                    found.update(chunk)
                    size_bytes += file.write(chunk)
        except OSError as error:
            raise _storage_error(self._folder, error) from error
        return found.hexdigest(), size_bytes


def planned(parts: Sequence[Part]) -> Pack:
    """Return the pack that ``compose`` would make, but for its digest, which only its bytes can tell."""
    body = sum(part.size_bytes for part in parts)
    empty = Pack("", 0, tuple(AdapterLocation(part.adapter_digest, "", 0, part.size_bytes) for part in parts))
    header_bytes = len(header_of(empty))
    return _located(parts, "", header_bytes + body, header_bytes)


def _located(parts: Sequence[Part], digest: str, size_bytes: int, begin: int) -> Pack:
    locations = []
    for part in parts:
        locations.append(AdapterLocation(part.adapter_digest, digest, begin, part.size_bytes))
        begin += part.size_bytes
    return Pack(digest, size_bytes, tuple(locations))


def _contents(header: bytes, parts: Sequence[Part], read: Read) -> Iterator[bytes | memoryview]:
    yield header
    for begin in range(0, len(parts), _READ_AT_ONCE):
        batch = parts[begin : begin + _READ_AT_ONCE]
        data = read([part.adapter_digest for part in batch])
        for part in batch:
            view = data[part.adapter_digest]
            if len(view) != part.size_bytes:
                raise IntegrityError(f"the adapter {short(part.adapter_digest)} has not the size that the catalog says")
            yield view


def _make(root: Path) -> tuple[int, Path]:
    # Until the lock is held, its file may be taken for a killed push's and removed.
    while True:
        lock = root / f"{os.getpid()}-{secrets.token_hex(8)}{_LOCK}"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            folder = lock.with_suffix("")
            folder.mkdir()
            return descriptor, folder
        os.close(descriptor)


def _remove_unless_locked(lock: Path) -> None:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
    except OSError:  # its push runs, or the file system has no locks
        pass
    finally:
        os.close(descriptor)


def _storage_error(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"a pack cannot be prepared in {folder}: {error.strerror or error}",
        hint="make room there, or see who may write there; then the same push again",
    )
