"""A bounded cache of folders that several processes share; the least recently used go first.

    lock            held exclusively while it is decided what stays, never while a folder is written
    users/NAME      one for each process, locked as long as it lives: the digests of the folders that it was given
    making/NAME-X   folders that are being written
    kept/DIGEST     folders that are whole; the time of change is that of the last use

A folder is not deleted while a process that was given it lives. vLLM keeps the path of every adapter that it ever
loaded, reads it again when its own memory of adapters was full meanwhile, and ends its engine where nothing is there.
All locks are the kernel's, which takes them back however a process ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from registry.errors import StorageError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ROOM = (
    "give PRAGREG_VLLM_CACHE_BYTES or PRAGREG_VLLM_CACHE_FOLDERS more room, or start the engine anew: it keeps every "
    "folder that it was given for as long as it lives"
)


@dataclass
class _User:
    """This process's file in ``users``, and what is in it; the file is open, and so locked, to the process's end."""

    name: str
    descriptor: int
    digests: set[str] = field(default_factory=set)

    def add(self, digest: str) -> None:
        if digest not in self.digests:
            os.write(self.descriptor, f"{digest}\n".encode())
            self.digests.add(digest)


class FolderCache:
    """Folders by digest. Safe to share between threads, and beside other processes with the same folder and bounds.

    ``most_bytes`` and ``most_folders`` bound what is kept; what is being written comes on top.
    """

    def __init__(self, folder: Path, *, most_bytes: int, most_folders: int) -> None:
        """Use ``folder``, which is made if it is missing.

        Raises:
            StorageError: it cannot be made or written.
        """
        self._folder = folder.expanduser().absolute()
        self._most_bytes, self._most_folders = most_bytes, most_folders
        self._user: _User | None = None
        with self._failing_well():
            for name in ("users", "making", "kept"):
                (self._folder / name).mkdir(parents=True, exist_ok=True)
            os.close(_locked(self._folder / "lock"))

    def take(self, digest: str, write: Callable[[Path], None]) -> Path:
        """Return the folder of a digest, which stays to the end of this process; a missing one is written first.

        ``write`` fills an empty folder. Two that miss the same digest at once both write; one's work is thrown away.

        Raises:
            StorageError: the disk is full, or there is no room beside folders that living processes use.
            ValueError: the digest is none.
        """
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no digest")
        kept = self._folder / "kept" / digest
        with self._failing_well():
            with self._deciding() as user:
                if kept.is_dir():
                    return self._used(kept, user)
            making = Path(tempfile.mkdtemp(prefix=f"{user.name}-", dir=self._folder / "making"))
            try:
                write(making)
                size_bytes = _synced(making)
                with self._deciding() as user:
                    if not kept.is_dir():
                        self._make_room(size_bytes)
                        making.chmod(0o755)  # mkdtemp's is for its owner alone
                        making.rename(kept)
                    return self._used(kept, user)
            finally:
                shutil.rmtree(making, ignore_errors=True)

    def _used(self, kept: Path, user: _User) -> Path:
        user.add(kept.name)
        os.utime(kept)
        return kept

    @contextmanager
    def _deciding(self) -> Iterator[_User]:
        """Hold the lock for the time of a block; yields this process's entry among the users."""
        descriptor = _locked(self._folder / "lock")
        try:
            if self._user is None:
                name = f"{os.getpid()}-{os.urandom(8).hex()}"
                self._user = _User(name, _locked(self._folder / "users" / name))
            yield self._user
        finally:
            os.close(descriptor)

    def _make_room(self, size_bytes: int) -> None:
        """Delete the least recently used folders, until one more of this size fits."""
        in_use = self._in_use()
        folders = sorted((path.stat().st_mtime_ns, _size(path), path) for path in (self._folder / "kept").iterdir())
        total, count = sum(size for _, size, _ in folders) + size_bytes, len(folders) + 1
        for _, size, path in folders:
            if total <= self._most_bytes and count <= self._most_folders:
                return
            if path.name not in in_use:
                shutil.rmtree(path)
                total, count = total - size, count - 1
        if total > self._most_bytes or count > self._most_folders:
            raise StorageError(
                f"{self._folder} has no room for a merged adapter of {size_bytes:,} bytes beside the "
                f"{count - 1} that running engines use ({total - size_bytes:,} bytes)",
                hint=_ROOM,
            )

    def _in_use(self) -> set[str]:
        """Return the digests that living processes use; what dead ones left is deleted."""
        digests: set[str] = set()
        living: set[str] = set()
        for file in (self._folder / "users").iterdir():
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
            except BlockingIOError:
                living.add(file.name)
                digests.update(file.read_text(encoding="ascii").split())
            finally:
                os.close(descriptor)
        for path in (self._folder / "making").iterdir():
            if "-".join(path.name.split("-")[:2]) not in living:
                shutil.rmtree(path, ignore_errors=True)
        return digests

    @contextmanager
    def _failing_well(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"the cache of merged adapters {self._folder} cannot be used: {error.strerror or error}",
                hint="free some disk space, or set PRAGREG_VLLM_CACHE to a folder that this user may write",
            ) from error


def _locked(file: Path) -> int:
    """Open a file, made if it is missing, lock it and return its descriptor; closing that frees it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _synced(folder: Path) -> int:
    """Bring a folder's files to the disk and return their size in bytes."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return _size(folder)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
