"""The packs that a deep verify found sound, noted as it goes, so that an interrupted one can be resumed."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import IO

from registry.store.files import StoredPack

PROGRESS_FILE = "verify-progress.jsonl"

Mark = tuple[str, int, float | None]


class CheckedPacks:
    """Notes of a run in the registry home: digest, size and time of change of every pack that is sound.

    A home that cannot be written is verified without notes.
    """

    def __init__(self, home_path: Path, *, resume: bool) -> None:
        """Read the notes of an interrupted run if it is to be resumed, and begin new ones otherwise."""
        self._path = home_path / PROGRESS_FILE
        self._marks = self._read() if resume else set()
        self._file: IO[str] | None = None
        with suppress(OSError):
            self._file = self._path.open("a" if resume else "w", encoding="utf-8")

    def has(self, pack: StoredPack) -> bool:
        """Return whether a pack was found sound and has not been touched since."""
        return _mark(pack) in self._marks

    def add(self, pack: StoredPack) -> None:
        """Note that a pack is sound."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(_mark(pack)) + "\n")
            self._file.flush()
        except OSError:  # a full disk: what is lost is only that it need not be read again
            self.close()

    def close(self) -> None:
        """Leave the notes for another run."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def remove(self) -> None:
        """Forget the notes, because the run is finished."""
        self.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _read(self) -> set[Mark]:
        marks: set[Mark] = set()
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return marks
        for line in lines:
            with suppress(ValueError, TypeError):  # the last line of a killed run may be cut off
                digest, size_bytes, modified_at = json.loads(line)
                marks.add((digest, size_bytes, modified_at))
        return marks


def _mark(pack: StoredPack) -> Mark:
    return pack.digest, pack.size_bytes, pack.modified_at
