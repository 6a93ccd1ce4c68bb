"""Where pack files lie: the contract that a local folder (``local.py``) and any fsspec URL (``remote.py``) keep.

A pack is ``ab/<digest>.safetensors``, ``ab`` being the first two digits of its digest, so that a folder stays below
10,000 entries up to two million packs. What cannot be mended lies in ``quarantine/`` and is no pack any more.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from registry.errors import StorageError
from registry.store.headers import Bytes

SUFFIX = ".safetensors"
PARTIAL = ".partial"
QUARANTINE = "quarantine"
CHUNK_BYTES = 8 * 1024 * 1024
FIRST_CHUNK_BYTES = 64 * 1024
_NAME = re.compile(r"([0-9a-f]{64})\.safetensors")
_QUARANTINED = re.compile(r"([0-9a-f]{64})(-[0-9]+)?\.safetensors")


@dataclass(frozen=True, slots=True)
class StoredPack:
    """A pack as the storage lists it; ``modified_at`` is in seconds since 1970, None where the storage does not say."""

    digest: str
    size_bytes: int
    modified_at: float | None


PartialFile: TypeAlias = tuple[str, int, float | None]
"""The name, size in bytes and last change (in seconds since 1970) of a file that its writer did not finish."""


class PackFiles(Protocol):
    """Immutable files named by their sha256. Every method raises StorageError where the storage refuses.

    ``size`` and ``read`` raise FileNotFoundError for a pack that is not there.
    """

    def write(self, chunks: Iterable[Bytes]) -> tuple[str, int]:
        """Store the bytes of ``chunks`` whole or not at all; return their sha256 and size in bytes."""

    def take(self, source: Path, digest: str) -> None:
        """Move a whole file, whose bytes are known to have that digest, to where its pack lies; it survives a crash.

        Raises FileNotFoundError where the file is gone.
        """

    def read(self, digest: str, offset: int, size_bytes: int) -> memoryview:
        """Return the range, shorter where the file ends before it."""

    def size(self, digest: str) -> int:
        """Return the file's size in bytes."""

    def stream(self, digest: str) -> Iterator[bytes]:
        """Yield the file from the storage itself, past any map, in chunks; the first is a small one."""

    def delete(self, digest: str) -> bool:
        """Remove the file; return whether it was there."""

    def is_bare(self) -> bool:
        """Return whether there is nothing at all, as where a disk is not mounted."""

    def list(self) -> Iterator[StoredPack]:
        """Yield every pack, in order of digest."""

    def quarantine(self, digest: str) -> str:
        """Move the file to where it is no pack any more, over nothing that lies there; return its new place.

        Raises FileNotFoundError for a pack that is not there.
        """

    def quarantined(self) -> Iterator[StoredPack]:
        """Yield the files in quarantine; several may have had the same digest."""

    def contents(self, digest: str) -> memoryview:
        """Return all bytes of a file that may be damaged: zeros where the disk gives none.

        Raises FileNotFoundError for a pack that is not there.
        """

    def quarantined_contents(self, digest: str) -> Iterator[memoryview]:
        """Yield the bytes of every file in quarantine that had this digest, as ``contents`` does."""

    def partials(self) -> Iterator[PartialFile]:
        """Yield what killed writers left; files that are being written are left out."""

    def clean_partials(self, older_than_seconds: float) -> int:
        """Remove what killed writers left and was not touched since; return how many files."""

    def path_of(self, digest: str) -> str:
        """Return where the file lies, for people."""

    def forget(self, digest: str) -> None:
        """Let go of what is held open or cached of a pack."""

    def close(self) -> None:
        """Let go of everything."""


def relative_path(digest: str) -> str:
    """Return where a pack lies below the root."""
    return f"{digest[:2]}/{digest}{SUFFIX}"


def digest_of_name(name: str) -> str | None:
    """Return the digest that a file name stands for, None if it is no pack's."""
    match = _NAME.fullmatch(name)
    return match[1] if match else None


def quarantine_path(digest: str, number: int) -> str:
    """Return where the ``number``-th file of a digest in quarantine lies below the root, from 1."""
    return f"{QUARANTINE}/{digest}{f'-{number}' if number > 1 else ''}{SUFFIX}"


def digest_in_quarantine(name: str) -> str | None:
    """Return the digest that a file in quarantine had as a pack, None if it was none."""
    match = _QUARANTINED.fullmatch(name)
    return match[1] if match else None


def storage_error(action: str, where: str, error: OSError) -> StorageError:
    """Return the error to raise when the operating system or a remote storage refuses."""
    hint = None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space there, then run the command again: what was finished is kept"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = f"check who may write to {where}"
    return StorageError(f"{action} {where}: {error.strerror or error}", hint=hint)


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
