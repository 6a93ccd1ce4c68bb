"""Temporary files: what is not to be used before all of it has been read waits in one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator

from registry.errors import StorageError
from registry.records import Document, Place, PlacedDocument

_MEMORY_BYTES = 256 * 1024


class Spool:
    """Bytes to be written once and then read; what is larger than a limit lies in a temporary file until closed."""

    def __init__(self, what: str, *, memory_bytes: int = 4 * 1024 * 1024) -> None:
        """Make an empty one; ``what`` is kept in it, for messages."""
        self.file = tempfile.SpooledTemporaryFile(max_size=memory_bytes)  # noqa: SIM115
        self._what = what

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            StorageError: the temporary file cannot be written.
        """
        try:
            self.file.write(data)
        except OSError as error:
            raise StorageError(
                f"no temporary copy of {self._what} can be written to {tempfile.gettempdir()}: {error.strerror}",
                hint="set TMPDIR to a folder with more space",
            ) from error

    def __enter__(self) -> Spool:
        """Return the spool itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget the bytes."""
        self.file.close()


def all_or_none(documents: Iterator[PlacedDocument]) -> Iterator[PlacedDocument]:
    """Yield ``documents`` once the last one has been read, so that an error before it keeps all of them out.

    Raises:
        StorageError: they do not fit into the folder for temporary files.
    """
    with Spool("the documents", memory_bytes=_MEMORY_BYTES) as spool:
        for item in documents:
            document, place = item.document, item.place
            record = [document.digest, document.title, document.text, *_fields(place)]
            spool.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        spool.file.seek(0)
        for line in spool.file:
            digest, title, text, *place_fields = json.loads(line)
            yield PlacedDocument(Document(digest, title, text), Place(*place_fields))


def _fields(place: Place) -> tuple[str, int, str | None]:
    return place.source_uri, place.ordinal, place.record_id
