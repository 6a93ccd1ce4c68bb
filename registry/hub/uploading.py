"""Files on their way to the Hub: operations of the client whose bytes are checked first and counted as they go."""

from __future__ import annotations

import io
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from registry.digests import short
from registry.errors import IntegrityError, StorageError
from registry.progress import FileProgress, Progress

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

THREADS = 4
"""How many files are sent, and hashed, at once."""

_STEP_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to send: its ``path`` in the repository, where it comes from, and the sha256 that it must have."""

    path: str
    source: Path | bytes
    digest: str | None

    @property
    def size_bytes(self) -> int:
        """The size of the file.

        Raises:
            StorageError: it cannot be read.
        """
        if isinstance(self.source, bytes):
            return len(self.source)
        try:
            return self.source.stat().st_size
        except OSError as error:
            raise unreadable(self.source, error) from error


class Meter:
    """How much of a file was sent, told to a progress in steps of a megabyte."""

    def __init__(self, name: str, size_bytes: int, progress: Progress) -> None:
        """Tell nothing yet: the file's bar appears with its first byte."""
        self._name = name
        self._size_bytes = size_bytes
        self._progress = progress
        self._file: FileProgress | None = None
        self._told_bytes = 0
        self._is_done = False
        self._lock = threading.Lock()

    def move_to(self, position: int) -> None:
        """Tell that the file is sent up to ``position``; lower than before where it has to be sent again."""
        with self._lock:
            if self._is_done or (position < self._size_bytes and abs(position - self._told_bytes) < _STEP_BYTES):
                return
            if self._file is None:
                self._file = self._progress.file(self._name, self._size_bytes)
            self._file.advance(position - self._told_bytes)
            self._told_bytes = position

    def done(self) -> None:
        """Tell that all of the file is on the server, whether it was sent or was there."""
        self.move_to(self._size_bytes)
        with self._lock:
            if self._file is not None and not self._is_done:
                self._file.done()
            self._is_done = True


def meters(files: Sequence[NewFile], progress: Progress) -> dict[str, Meter]:
    """Begin the step of uploading, and return a meter for each file by its path."""
    sizes = {file.path: file.size_bytes for file in files}
    if sizes:
        progress.start("uploading", sum(sizes.values()), unit="bytes")
    return {path: Meter(path.rpartition("/")[2], size_bytes, progress) for path, size_bytes in sizes.items()}


@contextmanager
def operations(
    files: Sequence[NewFile],
    metered: Mapping[str, Meter],
    hashes: dict[str, bytes],
    *,
    with_xet: bool,
    check: Callable[[], None],
) -> Iterator[list[CommitOperationAdd]]:
    """Give new operations of the client for files whose sha256 is what it must be, to use in the block.

    ``hashes`` keeps by path what was hashed already, so that no file is hashed twice. ``check`` is called before every
    read and raises to end it.

    Raises:
        IntegrityError: a file has another digest than it must have.
        StorageError: one cannot be read.
    """

    def hashed(file: NewFile) -> CommitOperationAdd:
        check()
        return _operation(file, hashes)

    with ThreadPoolExecutor(THREADS) as pool:
        added = list(pool.map(hashed, files))
    times = Counter(operation.upload_info.sha256 for operation in added)
    readers = []
    try:
        for file, operation in zip(files, added, strict=True):
            # The client tells nobody how far it is; what it reads from does. But Xet reads files by itself, and the
            # same content under two names is read by two threads, from the operation of either.
            if not with_xet and times[operation.upload_info.sha256] == 1:
                readers.append(_Reader(_opened(file), metered[file.path], check))
                operation.path_or_fileobj = readers[-1]
        yield added
        for file in files:
            metered[file.path].done()
    finally:
        for reader in readers:
            reader.close()


def is_xet_used(endpoint: str) -> bool:
    """Say whether files are sent by Xet: to the Hub itself, where the client can. Every other endpoint knows LFS."""
    from huggingface_hub import constants

    is_hub = endpoint == "https://huggingface.co"
    return is_hub and not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


def unreadable(path: Path, error: OSError) -> StorageError:
    """Return the error for a file that cannot be read."""
    return StorageError(f"{path} cannot be read: {error.strerror or error}", hint="run: pragreg verify")


class _Reader(io.BufferedReader):
    """A file that tells how far it was read."""

    def __init__(self, raw: io.RawIOBase, meter: Meter, check: Callable[[], None]) -> None:
        super().__init__(raw)
        self._meter = meter
        self._check = check

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        data = super().read(-1 if size is None else size)
        self._meter.move_to(self.tell())
        return data


def _operation(file: NewFile, hashes: dict[str, bytes]) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    try:
        operation = CommitOperationAdd(path_in_repo=file.path, path_or_fileobj=source_of(file))
        if file.path in hashes:
            operation.upload_info.sha256 = hashes[file.path]
        digest = hashes[file.path] = operation.upload_info.sha256
    except OSError as error:
        raise unreadable(Path(os.fsdecode(error.filename or file.path)), error) from error
    if file.digest is not None and digest.hex() != file.digest:
        raise IntegrityError(
            f"{file.path} was to be sent, but {file.source if isinstance(file.source, Path) else 'it'} "
            f"has the sha256 {short(digest.hex())}..., not {short(file.digest)}...",
            hint="run: pragreg verify",
        )
    return operation


def source_of(file: NewFile) -> str | bytes:
    """Return what the client takes for a file's source."""
    return file.source if isinstance(file.source, bytes) else str(file.source)


def _opened(file: NewFile) -> io.RawIOBase:
    if isinstance(file.source, bytes):
        return io.BytesIO(file.source)  # type: ignore[return-value] # a buffered reader reads it as any other
    try:
        return io.FileIO(file.source)
    except OSError as error:
        raise unreadable(file.source, error) from error
