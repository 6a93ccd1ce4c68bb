"""The header of a safetensors file, written and read without believing a byte of it.

A file is 8 bytes with the length n of the header (little-endian), n bytes of JSON padded with spaces to a multiple of
8, and the tensors' bytes without gaps. safetensors' own reader accepts duplicate keys and needs 1.3 GB for a 58 MB
header, so files from elsewhere are checked here first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from registry.errors import IntegrityError

Bytes = bytes | bytearray | memoryview
LENGTH_BYTES = 8
ITEM_BYTES = {"F32": 4, "BF16": 2, "U8": 1}
FOREIGN_ITEM_BYTES = {**ITEM_BYTES, "F16": 2}
"""What files made elsewhere may hold too."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: its bytes lie at ``begin:end``, counted from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header; ``entries`` are in the order in which they lie and cover ``body_bytes`` without gaps."""

    metadata: Mapping[str, str]
    entries: tuple[Entry, ...]

    @property
    def body_bytes(self) -> int:
        """The number of bytes that follow the header."""
        return self.entries[-1].end if self.entries else 0


def build_header(metadata: Mapping[str, str], tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Return length, JSON and padding for ``tensors`` (name, dtype as safetensors spells it, shape) in this order."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin = 0
    for name, dtype, shape in tensors:
        end = begin + prod(shape) * ITEM_BYTES[dtype]
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def header_size(start: Bytes, *, limit: int, what: str) -> int:
    """Return how many bytes the header takes, its 8 bytes of length included.

    Raises:
        IntegrityError: ``start`` has fewer than 8 bytes, or the header is larger than ``limit`` bytes.
    """
    if len(start) < LENGTH_BYTES:
        raise IntegrityError(f"{what} is no safetensors file: it has only {len(start)} bytes")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > limit:
        raise IntegrityError(f"{what} claims a header of {length} bytes; at most {limit} are accepted")
    return LENGTH_BYTES + length


def parse_header(data: Bytes, *, what: str, item_bytes: Mapping[str, int] = ITEM_BYTES) -> Header:
    """Parse a whole header (length, JSON, padding) and check that its tensors lie one after another.

    ``item_bytes`` has the dtypes that are accepted, with the bytes of a number.

    Raises:
        IntegrityError: it is cut off, not JSON, has a key twice, an unknown dtype, a shape that does not fit its
            range, or ranges with gaps or overlaps.
    """
    if len(data) < LENGTH_BYTES or len(data) != LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little"):
        raise IntegrityError(f"{what} is cut off inside its header")
    try:
        fields = json.loads(bytes(data[LENGTH_BYTES:]), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} has a malformed header: {error}") from error
    if not isinstance(fields, dict):
        raise IntegrityError(f"{what} has a malformed header: it is no JSON object")
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise IntegrityError(f"{what} has malformed metadata: only text is allowed")
    entries = sorted(
        (_entry(name, field, what, item_bytes) for name, field in fields.items()), key=lambda e: (e.begin, e.end)
    )
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise IntegrityError(f"{what} has a gap or an overlap before the tensor {entry.name!r}")
        position = entry.end
    return Header(metadata=metadata, entries=tuple(entries))


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"the key {name!r} occurs twice")
        fields[name] = value
    return fields


def _entry(name: str, field: Any, what: str, item_bytes: Mapping[str, int]) -> Entry:
    malformed = IntegrityError(f"{what} has a malformed entry for the tensor {name!r}")
    if not isinstance(field, dict) or set(field) != {"dtype", "shape", "data_offsets"}:
        raise malformed
    dtype, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    if not isinstance(dtype, str) or dtype not in item_bytes:
        raise IntegrityError(f"{what} has the tensor {name!r} of dtype {dtype!r}; known are {', '.join(item_bytes)}")
    if not _sizes(shape, at_most=4) or not _sizes(offsets, at_most=2) or len(offsets) != 2:
        raise malformed
    if offsets[1] - offsets[0] != prod(shape) * item_bytes[dtype]:
        raise IntegrityError(f"{what} has the tensor {name!r} whose shape does not fit its bytes")
    return Entry(name=name, dtype=dtype, shape=tuple(shape), begin=offsets[0], end=offsets[1])


def _sizes(values: Any, *, at_most: int) -> bool:
    if not isinstance(values, list) or len(values) > at_most:
        return False
    return all(type(value) is int and 0 <= value < 2**48 for value in values)
