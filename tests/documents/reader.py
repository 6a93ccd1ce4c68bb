"""Reads sources to the end, and shows what came in a few words."""

from __future__ import annotations

from pathlib import Path

from registry.documents import ReadOptions, read_documents
from registry.records import PlacedDocument, Skipped


class Reader:
    """Sources are named relative to ``folder``, which is the working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, content: str | bytes) -> str:
        """Write a file and return its name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def read(self, *sources: str, options: ReadOptions | None = None) -> list[PlacedDocument]:
        return list(read_documents(sources, options or ReadOptions()))

    def read_content(self, name: str, content: str | bytes, options: ReadOptions | None = None) -> list[PlacedDocument]:
        return self.read(self.write(name, content), options=options)

    def read_skipping(self, *sources: str) -> tuple[list[PlacedDocument], list[Skipped]]:
        skipped: list[Skipped] = []
        return list(read_documents(sources, ReadOptions(), skip_invalid=True, on_skip=skipped.append)), skipped


def shown(documents: list[PlacedDocument]) -> list[tuple[str, str]]:
    """Title and text of every document."""
    return [(placed.document.title, placed.document.text) for placed in documents]


def places(documents: list[PlacedDocument]) -> list[tuple[str, int, str | None]]:
    """Source, number and record identifier of every document."""
    return [(placed.place.source_uri, placed.place.ordinal, placed.place.record_id) for placed in documents]
