"""A whole file from the Hub: goes on where it stopped, also in another process, and is hashed in the same pass."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.digests import short
from registry.errors import IntegrityError, StorageError
from registry.hub.answers import READ_BYTES, Answer
from registry.hub.connection import Connection
from registry.hub.refusals import Asked, RefusedError
from registry.hub.retrying import PassingError

PROGRESS_BYTES = 1024 * 1024
"""An attempt that brought so much counts as none that failed."""

_LOCK_POLL_SECONDS = 0.1
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_SIZE = re.compile(r"bytes \*/(\d+)")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def download(
    connection: Connection,
    asked: Asked,
    url: str,
    into: Path,
    expected: tuple[str, int],
    on_bytes: Callable[[int], None],
    on_chunk: Callable[[memoryview], None] | None,
) -> None:
    """Bring the file at ``url`` into ``into``; ``expected`` are its sha256 and size. See ``Hub.download``."""
    digest, size_bytes = expected
    with _locked(into, connection) as file:
        arriving = _Arriving(asked, file, into, size_bytes, on_bytes, on_chunk)
        try:
            arriving.take_present(connection.check)
            patience = connection.patience(asked)
            while arriving.have < size_bytes:
                before = arriving.have
                try:
                    _fetch(connection, asked, url, arriving)
                except PassingError as error:
                    if arriving.have - before >= PROGRESS_BYTES:
                        patience.renew()
                    patience.failed(error)
            if arriving.digest != digest:
                raise IntegrityError(
                    f"{asked.failed}: it arrived damaged, with the sha256 {short(arriving.digest)}...",
                    hint="run the same command again to fetch it anew",
                )
        except IntegrityError:
            into.unlink(missing_ok=True)
            on_bytes(-arriving.have)
            raise


def content_range(answer: Answer) -> tuple[int, int, int | None]:
    """Return first and last byte of a partial answer, and the size of the whole where it is told.

    Raises:
        PassingError: the answer does not say it.
    """
    found = _RANGE.fullmatch(answer.headers.get("content-range", ""))
    if found is None:
        raise PassingError("the server does not say which part of the file it sends")
    return int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])


class _Arriving:
    """A file that arrives: what is there of it is written, hashed and told."""

    def __init__(
        self,
        asked: Asked,
        file: io.FileIO,
        path: Path,
        size_bytes: int,
        on_bytes: Callable[[int], None],
        on_chunk: Callable[[memoryview], None] | None,
    ) -> None:
        self.have = 0
        self.size_bytes = size_bytes
        self._asked = asked
        self._file = file
        self._path = path
        self._sha256 = hashlib.sha256()
        self._on_bytes = on_bytes
        self._on_chunk = on_chunk

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    def take_present(self, check: Callable[[], None]) -> None:
        """Hash what an earlier run left; what is longer than the file can be is no part of it."""
        if os.fstat(self._file.fileno()).st_size > self.size_bytes:
            self._file.truncate(0)
        buffer = memoryview(bytearray(READ_BYTES))
        self._file.seek(0)
        while read_bytes := self._file.readinto(buffer):
            check()
            self._tell(buffer[:read_bytes])

    def take(self, data: memoryview) -> None:
        """Add what comes next.

        Raises:
            IntegrityError: it is more than the file has.
            StorageError: it cannot be written.
        """
        if self.have + len(data) > self.size_bytes:
            raise self.of_other_size("more bytes")
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            if error.errno in _FULL:
                message, hint = f"the disk is full: {self._path} cannot be written", "make room, then try again"
                raise StorageError(message, hint=f"{hint}; what has arrived is kept") from error
            raise _unwritable(self._path, error) from error
        finally:
            # A part that was written is part of the file to go on from.
            self._tell(data[:written])

    def of_other_size(self, told: str) -> IntegrityError:
        """Return the error for a file of which the server has ``told`` bytes, as words."""
        return IntegrityError(
            f"{self._asked.failed}: it has {told}, not the {self.size_bytes} bytes that it should have",
            hint="tell the publisher; nothing of it was used",
        )

    def _tell(self, data: memoryview) -> None:
        self._sha256.update(data)
        self.have += len(data)
        self._on_bytes(len(data))
        if self._on_chunk is not None:
            self._on_chunk(data)


def _fetch(connection: Connection, asked: Asked, url: str, arriving: _Arriving) -> None:
    """Take the rest of the file, or as much of it as comes by one request."""
    headers = {"range": f"bytes={arriving.have}-"} if arriving.have else {}
    try:
        with connection.open("GET", url, asked, headers=headers) as answer:
            skip = _begin(answer, arriving)
            for chunk in answer.chunks():
                view = memoryview(chunk)[skip:]
                skip = max(0, skip - len(chunk))
                if view:
                    arriving.take(view)
    except RefusedError as error:
        if error.status != 416:
            raise
        told = _SIZE.fullmatch(error.headers.get("content-range", ""))
        if told is not None and int(told[1]) != arriving.size_bytes:
            raise arriving.of_other_size(f"{int(told[1])} bytes") from None
        raise PassingError("the server refuses to send the rest of the file") from None
    if arriving.have < arriving.size_bytes:
        raise PassingError("the file ends too early")


def _begin(answer: Answer, arriving: _Arriving) -> int:
    """Return how many bytes of the answer are there already: all that is, where the server knows no ranges."""
    if answer.status != 206:
        size_bytes, begin = answer.length, 0
    else:
        begin, _, size_bytes = content_range(answer)
        if begin != arriving.have:
            raise PassingError("the server sends another part of the file than it was asked for")
        if size_bytes is not None and size_bytes < arriving.size_bytes:
            raise arriving.of_other_size(f"{size_bytes} bytes")
    if size_bytes is not None and size_bytes > arriving.size_bytes:
        raise arriving.of_other_size(f"{size_bytes} bytes")
    return arriving.have - begin


@contextmanager
def _locked(path: Path, connection: Connection) -> Iterator[io.FileIO]:
    """Open a file to read and append, and hold it; wait while another process or thread does."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _unwritable(path, error) from error
        with file:
            while not _lock(file):
                connection.pause(_LOCK_POLL_SECONDS)
            if _is_at(file, path):
                yield file
                return


def _lock(file: io.FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _is_at(file: io.FileIO, path: Path) -> bool:
    """Say whether the file is still the one of that name: who held it before may have moved or deleted it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} cannot be written: {error.strerror or error}", hint="check who may write there")
