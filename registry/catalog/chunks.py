"""Cutting long streams into pieces that fit a statement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

KEYS = 1_000
"""Keys in one IN list: SQLite takes 32,766 parameters a statement, and longer lists are not faster."""


def chunked(items: Iterable[T], size: int = KEYS) -> Iterator[list[T]]:
    """Yield ``items`` in lists of ``size``, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
