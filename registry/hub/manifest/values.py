"""Digests between their hexadecimal text and Parquet's 32 bytes, a whole column at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

_DIGEST = pa.binary(32)


def digest_array(digests: Sequence[str | None]) -> pa.Array:
    """Return a column of digests.

    Raises:
        ValueError: a text is no digest.
    """
    values = [None if digest is None else bytes.fromhex(digest) for digest in digests]
    if any(value is not None and len(value) != 32 for value in values):
        raise ValueError("a text that is no digest")
    return pa.array(values, _DIGEST)


def digests_of(column: Any) -> list[str]:
    """Return the digests of a column without nulls."""
    begin = 32 * column.offset
    text = bytes(column.buffers()[1][begin : begin + 32 * len(column)]).hex()
    return [text[at : at + 64] for at in range(0, len(text), 64)]


def optional_digests_of(column: Any) -> list[str | None]:
    """Return the digests of a column, None for null; equal ones are one object."""
    known: dict[bytes | None, str | None] = {None: None}
    found = []
    for value in column.to_pylist():
        if value not in known:
            known[value] = value.hex()
        found.append(known[value])
    return found
