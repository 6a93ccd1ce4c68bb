"""Thrift's compact protocol, as far as Parquet's headers and footers need it; every reader raises ValueError."""

from __future__ import annotations

from collections.abc import Iterable

Value = int | bytes | bool | list["Value"] | dict[int, "Value"] | None
Struct = dict[int, Value]

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
_TRUE, _FALSE, _BYTE, _I16, _DOUBLE = 1, 2, 3, 4, 7
_MOST_DEPTH = 8


def read_struct(data: memoryview, at: int, depth: int = 0) -> tuple[Struct, int]:
    """Return a struct's values by field number, and where it ends.

    Floating-point numbers are left out; nothing that Parquet's headers say is one.

    Raises:
        ValueError: it is malformed, cut off, or nested too deep.
    """
    if depth > _MOST_DEPTH:
        raise ValueError("it is nested too deep")
    values: Struct = {}
    field = 0
    while True:
        first, at = _byte(data, at)
        if first == 0:
            return values, at
        kind, step = first & 15, first >> 4
        if step:
            field += step
        else:
            field, at = _zigzag(data, at)
        if field in values:
            raise ValueError(f"it has the field {field} twice")
        values[field], at = _value(data, at, kind, depth)


def _value(data: memoryview, at: int, kind: int, depth: int) -> tuple[Value, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind == _BYTE:
        return _byte(data, at)
    if kind in (_I16, I32, I64):
        return _zigzag(data, at)
    if kind == _DOUBLE:
        return None, _end(data, at, 8)
    if kind == BINARY:
        size, at = _varint(data, at)
        end = _end(data, at, size)
        return bytes(data[at:end]), end
    if kind == LIST:
        return _list(data, at, depth)
    if kind == STRUCT:
        return read_struct(data, at, depth + 1)
    raise ValueError(f"it has a value of kind {kind}")


def _list(data: memoryview, at: int, depth: int) -> tuple[Value, int]:
    first, at = _byte(data, at)
    count, kind = first >> 4, first & 15
    if count == 15:
        count, at = _varint(data, at)
    _end(data, at, count)  # every entry has a byte at least
    entries: list[Value] = []
    for _ in range(count):
        # Booleans, which are their own kind as fields, have a byte in lists.
        entry, at = _byte(data, at) if kind in (_TRUE, _FALSE) else _value(data, at, kind, depth + 1)
        entries.append(entry)
    return entries, at


def _zigzag(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, at = _byte(data, at)
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("it has a number of more than 64 bits")


def _byte(data: memoryview, at: int) -> tuple[int, int]:
    return data[at : _end(data, at, 1)][0], at + 1


def _end(data: memoryview, at: int, size: int) -> int:
    if size > len(data) - at:
        raise ValueError("it is cut off")
    return at + size


def struct(fields: Iterable[tuple[int, int, int | bytes]]) -> bytes:
    """Return the bytes of a struct; fields are number, kind and value, that of lists and structs their own bytes."""
    out, last = bytearray(), 0
    for number, kind, value in fields:
        out.append((number - last) << 4 | kind)
        last = number
        if isinstance(value, int):
            out += _written(value << 1 if value >= 0 else (-value << 1) - 1)
        else:
            out += (_written(len(value)) if kind == BINARY else b"") + value
    return bytes(out) + b"\0"


def sequence(kind: int, entries: Iterable[int | bytes]) -> bytes:
    """Return the bytes of a list of integers, texts or structs (given as their own bytes)."""
    written = [
        _written(entry << 1) if isinstance(entry, int) else (_written(len(entry)) if kind == BINARY else b"") + entry
        for entry in entries
    ]
    return bytes([0xF0 | kind]) + _written(len(written)) + b"".join(written)


def _written(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
