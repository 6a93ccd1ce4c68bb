"""What is remembered between runs in the folder of models, so that a cold query neither asks the network nor hashes.

Everything here can be lost: a missing, foreign or broken file only costs the work again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

RESOLUTIONS_FILE = "resolutions.json"
DIGESTS_FILE = "digests.json"


def recall(models_path: Path, file: str, key: str) -> Any:
    """Return what was remembered under ``key``, or None."""
    return _read(models_path / file).get(key)


def remember(models_path: Path, file: str, key: str, value: Any) -> None:
    """Keep a JSON value under ``key``; where the folder cannot be written nothing is kept.

    Two processes that write at once may lose one entry, never the file.
    """
    path = models_path / file
    partial = path.with_name(f"{file}.{os.getpid()}.partial")
    try:
        models_path.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({**_read(path), key: value}, indent=1, sort_keys=True), encoding="utf-8")
        partial.replace(path)
    except OSError:
        return


def file_digest(path: Path, models_path: Path) -> str:
    """Return the sha256 of a file; it is read only if its size or time of change (ns) is another than last time.

    Raises:
        OSError: the file cannot be read.
    """
    state = path.stat()
    key = str(path.resolve())
    known = recall(models_path, DIGESTS_FILE, key)
    if isinstance(known, list) and known[:2] == [state.st_size, state.st_mtime_ns] and len(known) == 3:
        return str(known[2])
    digest = hash_file(path)
    remember(models_path, DIGESTS_FILE, key, [state.st_size, state.st_mtime_ns, digest])
    return digest


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, read from beginning to end.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
