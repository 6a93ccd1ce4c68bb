"""One file of a source, wherever it lies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import IO

from registry.documents.formats import Format

Opener = Callable[[], AbstractContextManager[IO[bytes]]]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to read: its URI, its format (None: its first bytes tell) and how it is opened."""

    uri: str
    format: Format | None
    opener: Opener = field(repr=False, compare=False)
