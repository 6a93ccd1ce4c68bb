"""How an edit of a passage is shown: sentence by sentence, since a passage is often one long line."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.records import Document

_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")


def unified_lines(old: Document, new: Document, old_name: str, new_name: str) -> list[str]:
    """Return the lines of a unified diff of two documents, titles first."""
    return list(difflib.unified_diff(_lines(old), _lines(new), old_name, new_name, lineterm=""))


def _lines(document: Document) -> list[str]:
    sentences = [part for part in _END.split(document.text) if part]
    return [document.title, *sentences] if document.title else sentences
