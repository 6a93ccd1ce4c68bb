"""What can be checked of an index without searching it: foremost the checksums behind the files of its segments.

Tantivy writes them but does not read them by itself. A file ends in a footer: JSON with the CRC-32 of all before it,
the JSON's length and a fixed number, four bytes each (little-endian). So a flipped bit anywhere in a segment is found,
at the speed of reading. The two files without a footer are JSON and small: a change there shows when the index is
opened, or in the documents that it then holds.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from contextlib import suppress
from pathlib import Path

from registry.index.folders import REWRITTEN, read_description

_MAGIC = 1337
_TAIL_BYTES = 8
_LARGEST_FOOTER_BYTES = 4096
_CHUNK_BYTES = 1024 * 1024

Seen = dict[tuple[int, int], str | None]
"""What was found in files by device and inode: versions of a corpus share their segments."""


def damaged_files(folder: Path, seen: Seen) -> dict[str, str]:
    """Return the files of an index that do not have their checksum, and what is wrong with each; adds to ``seen``.

    Raises:
        IntegrityError: the index is missing, or its description or a file's size is not right.
        StorageError: its description cannot be read.
    """
    found: dict[str, str] = {}
    for name in read_description(folder).files:
        if name in REWRITTEN:
            continue
        path = folder / name
        try:
            status = path.stat()
            key = (status.st_dev, status.st_ino)
            if key not in seen:
                seen[key] = _problem(path, status.st_size)
            problem = seen[key]
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
        if problem is not None:
            found[name] = problem
    return found


def _problem(path: Path, size_bytes: int) -> str | None:
    with path.open("rb") as file:
        file.seek(max(0, size_bytes - _TAIL_BYTES - _LARGEST_FOOTER_BYTES))
        end = file.read()
        length, magic = (int.from_bytes(end[begin:][:4], "little") for begin in (-8, -4))
        footer_bytes = length + _TAIL_BYTES
        if magic != _MAGIC or footer_bytes > len(end):
            return "has no checksum at its end"
        try:
            wanted = int(json.loads(end[-footer_bytes:-_TAIL_BYTES])["crc"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return "has a malformed checksum at its end"
        file.seek(0)
        checksum, left = 0, size_bytes - footer_bytes
        while left > 0 and (chunk := file.read(min(_CHUNK_BYTES, left))):
            checksum = zlib.crc32(chunk, checksum)
            left -= len(chunk)
    return None if checksum == wanted and not left else "does not have its checksum"


def size_bytes_of(folder: Path) -> int:
    """Return the bytes of all files in a folder and below it."""
    size_bytes = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone meanwhile
                size_bytes += (Path(place) / name).lstat().st_size
    return size_bytes


def is_being_built(corpus_folder: Path) -> bool:
    """Return whether a process is building an index in the folder of a corpus right now."""
    try:
        descriptor = os.open(corpus_folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
