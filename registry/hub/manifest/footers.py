"""Parquet files that pyarrow can be given: pages that were looked at, under a footer that is our own.

A stranger's footer and page headers say how much a page unpacks to, how many values it has and where it lies, and a
decoder believes them: a file of a few bytes may ask for all memory, and some ends a process with an abort. So both are
read here first. Only pages lie in a file, end to end, each in the encoding that its column has, and all together within
bounds; and the footer that pyarrow reads is written anew from what was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.hub.manifest import thrift

MAGIC = b"PAR1"
MOST_FOOTER_BYTES = 1024 * 1024
MOST_ROW_GROUPS = 1024

_PLAIN, _PLAIN_DICTIONARY, _RLE, _DELTA, _RLE_DICTIONARY = 0, 2, 3, 5, 8
_INDEXED = {_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY}
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_UNPACKED, _ZSTD = 0, 6
_MOST_HEADER_BYTES = 256
_MOST_PAGES = 100_000
_CREATED_BY = b"pragreg"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column: its path, Parquet's number of its type, and whether it is flat, with a value (or null) a row."""

    path: tuple[bytes, ...]
    type: int
    is_flat: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """What files of one shape may hold. ``schema`` are its elements, as Thrift has them.

    ``indexed`` are columns (by path, with dots) that may have a dictionary, ``numbers`` those that may be differences;
    all others are plain. ``most_values`` is a column's, ``most_bytes`` the whole file's when it is unpacked.
    """

    schema: tuple[Mapping[int, Any], ...]
    indexed: frozenset[str]
    numbers: frozenset[str]
    most_bytes: int
    most_values: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A column of a row group, as its pages say."""

    codec: int
    begin: int
    end: int
    has_dictionary: bool
    first_data_page: int
    values: int
    unpacked_bytes: int
    pages: int


def schema_of(data: bytes) -> tuple[Mapping[int, Any], ...]:
    """Return the schema of a file of our own, for ``Bounds``."""
    footer, _ = thrift.read_struct(memoryview(data)[_footer_begin(memoryview(data)) : -8], 0)
    return tuple(_element(element) for element in _structs(footer, 2))


def rewritten(data: bytes | memoryview, bounds: Bounds, *, rows: int | None) -> tuple[bytes, list[int]]:
    """Return the file with a footer of our own, and how many rows its groups have.

    Raises:
        ValueError: it is not a Parquet file of this shape and within these bounds, or not of ``rows`` rows.
    """
    view = memoryview(data)
    begin = _footer_begin(view)
    footer, _ = thrift.read_struct(view[begin:-8], 0)
    if tuple(map(_element, _structs(footer, 2))) != bounds.schema:
        raise ValueError("columns other than manifests have")
    if _structs(footer, 5, optional=True):
        raise ValueError("key-value metadata, which manifests have not")
    groups = _structs(footer, 4)
    counts = [_number(group, 3) for group in groups]
    total = _number(footer, 3)
    if total != sum(counts) or (rows is not None and rows != total):
        raise ValueError(f"{total} rows instead of {sum(counts) if rows is None else rows}")
    if len(groups) > MOST_ROW_GROUPS:
        raise ValueError(f"{len(groups)} row groups")
    leaves = _leaves(bounds.schema)
    chunks = _chunks(view[:begin], groups, leaves, bounds)
    made = _footer(bounds.schema, leaves, counts, chunks)
    return b"".join((view[:begin], made, len(made).to_bytes(4, "little"), MAGIC)), counts


def _footer_begin(view: memoryview) -> int:
    if len(view) < 12 or view[:4] != MAGIC or view[-4:] != MAGIC:
        raise ValueError("it is no Parquet file")
    size_bytes = int.from_bytes(view[-8:-4], "little")
    if not 0 < size_bytes <= min(MOST_FOOTER_BYTES, len(view) - 12):
        raise ValueError(f"a footer of {size_bytes} bytes")
    return len(view) - 8 - size_bytes


def _element(element: thrift.Struct) -> Mapping[int, Any]:
    """Return what counts of an element of a schema: type, length, repetition, name, children, converted type."""
    return {number: element[number] for number in range(1, 7) if number in element}


def _leaves(schema: tuple[Mapping[int, Any], ...]) -> list[Leaf]:
    """Return the columns of a schema, whose elements come in the order of a walk through the tree."""
    elements = iter(schema[1:])

    def below(path: tuple[bytes, ...], count: int) -> Iterator[Leaf]:
        for _ in range(count):
            element = next(elements)
            here = (*path, element[4])
            if element.get(5):
                yield from below(here, element[5])
            else:
                yield Leaf(here, element[1], is_flat=len(here) == 1)

    return list(below((), schema[0][5]))


def _chunks(view: memoryview, groups: list[thrift.Struct], leaves: list[Leaf], bounds: Bounds) -> list[list[_Chunk]]:
    """Return what all pages say of themselves; there is nothing but pages.

    Raises:
        ValueError: one is not allowed, or all together would unpack to too much.
    """
    position, unpacked_bytes, pages = len(MAGIC), 0, 0
    values = [0] * len(leaves)
    found = []
    for group in groups:
        columns = _structs(group, 1)
        if len(columns) != len(leaves):
            raise ValueError("a row group without all columns")
        chunks = []
        for number, (column, leaf) in enumerate(zip(columns, leaves, strict=True)):
            chunk = _chunk(view, position, column, leaf, bounds, most_bytes=bounds.most_bytes - unpacked_bytes)
            unpacked_bytes += chunk.unpacked_bytes
            pages += chunk.pages
            values[number] += chunk.values
            if values[number] > bounds.most_values:
                raise ValueError(f"more than {bounds.most_values} values in the column {b'.'.join(leaf.path).decode()}")
            if pages > _MOST_PAGES:
                raise ValueError(f"more than {_MOST_PAGES} pages")
            if leaf.is_flat and chunk.values != group[3]:
                raise ValueError("a column of other rows than its row group")
            chunks.append(chunk)
            position = chunk.end
        found.append(chunks)
    if position != len(view):
        raise ValueError("bytes that belong to no column")
    return found


def _chunk(
    view: memoryview, position: int, column: thrift.Struct, leaf: Leaf, bounds: Bounds, *, most_bytes: int
) -> _Chunk:
    about = column.get(3)
    if not isinstance(about, dict) or not {1, 8, 9}.isdisjoint(column):
        raise ValueError("a column in another file, or an encrypted one")
    path = b".".join(leaf.path).decode()
    begin = min(_number(about, 9), _number(about, 11) if about.get(11) is not None else _number(about, 9))
    end = begin + _number(about, 7)
    codec = _number(about, 4)
    if begin != position or not begin < end <= len(view):
        raise ValueError(f"a column {path} that does not lie where it belongs")
    if codec not in (_UNPACKED, _ZSTD) or _number(about, 1) != leaf.type or about.get(3) != list(leaf.path):
        raise ValueError(f"a column {path} of another type or compression")
    has_dictionary, first, values, unpacked_bytes, pages = False, begin, 0, 0, 0
    while position < end and pages <= _MOST_PAGES:
        pages += 1
        kind, size_bytes, counted, next_position = _page(view[:end], position, path, bounds)
        if kind == _DICTIONARY_PAGE:
            if position != begin:
                raise ValueError(f"a column {path} with a dictionary that does not come first")
            has_dictionary, first = True, next_position
        else:
            values += counted
        unpacked_bytes += size_bytes
        if unpacked_bytes > most_bytes:
            raise ValueError(f"more than {bounds.most_bytes} bytes when it is unpacked")
        if max(counted, values) > bounds.most_values:
            raise ValueError(f"more than {bounds.most_values} values in the column {path}")
        position = next_position
    if values != _number(about, 5):
        raise ValueError(f"a column {path} of another number of values than its pages have")
    return _Chunk(codec, begin, end, has_dictionary, first, values, unpacked_bytes, pages)


def _page(view: memoryview, at: int, path: str, bounds: Bounds) -> tuple[int, int, int, int]:
    """Return a page's kind, its size in bytes when it is unpacked, how many values it has, and where it ends."""
    header, begin = thrift.read_struct(view[: at + _MOST_HEADER_BYTES], at)
    kind, unpacked_bytes, packed_bytes = (_number(header, field) for field in (1, 2, 3))
    is_data = kind == _DATA_PAGE
    about = header.get(5 if is_data else 7)
    if kind not in (_DATA_PAGE, _DICTIONARY_PAGE) or not isinstance(about, dict) or len(header.keys() - {4}) != 4:
        raise ValueError(f"a page of kind {kind} in the column {path}")
    encoding = _number(about, 2)
    if is_data:
        if about.get(3) != _RLE or about.get(4) != _RLE or about.get(5):
            raise ValueError(f"a page of the column {path} with statistics, or with levels of another encoding")
        # Nothing in a small file may stand for much text, so what has a length of its own is plain, or in a dictionary.
        allowed = _INDEXED if path in bounds.indexed else {_PLAIN, _DELTA} if path in bounds.numbers else {_PLAIN}
    else:
        allowed = {_PLAIN, _PLAIN_DICTIONARY} if path in bounds.indexed else set()
    if encoding not in allowed:
        raise ValueError(f"a page of the column {path} in encoding {encoding}")
    if packed_bytes > len(view) - begin:
        raise ValueError(f"a page that goes beyond the column {path}")
    return kind, unpacked_bytes, _number(about, 1), begin + packed_bytes


def _footer(
    schema: tuple[Mapping[int, Any], ...], leaves: list[Leaf], counts: list[int], chunks: list[list[_Chunk]]
) -> bytes:
    elements = (
        thrift.struct((n, thrift.BINARY if n == 4 else thrift.I32, element[n]) for n in sorted(element))
        for element in schema
    )
    groups = (
        thrift.struct(
            [
                (1, thrift.LIST, thrift.sequence(thrift.STRUCT, map(_column, of_group, leaves))),
                (2, thrift.I64, sum(chunk.unpacked_bytes for chunk in of_group)),
                (3, thrift.I64, count),
            ]
        )
        for of_group, count in zip(chunks, counts, strict=True)
    )
    return thrift.struct(
        [
            (1, thrift.I32, 2),
            (2, thrift.LIST, thrift.sequence(thrift.STRUCT, elements)),
            (3, thrift.I64, sum(counts)),
            (4, thrift.LIST, thrift.sequence(thrift.STRUCT, groups)),
            (6, thrift.BINARY, _CREATED_BY),
        ]
    )


def _column(chunk: _Chunk, leaf: Leaf) -> bytes:
    dictionary = [(11, thrift.I64, chunk.begin)] if chunk.has_dictionary else []
    about = thrift.struct(
        [
            (1, thrift.I32, leaf.type),
            (2, thrift.LIST, thrift.sequence(thrift.I32, (_PLAIN, _RLE, _DELTA, _RLE_DICTIONARY))),
            (3, thrift.LIST, thrift.sequence(thrift.BINARY, leaf.path)),
            (4, thrift.I32, chunk.codec),
            (5, thrift.I64, chunk.values),
            (6, thrift.I64, chunk.unpacked_bytes),
            (7, thrift.I64, chunk.end - chunk.begin),
            (9, thrift.I64, chunk.first_data_page),
            *dictionary,
        ]
    )
    return thrift.struct([(2, thrift.I64, 0), (3, thrift.STRUCT, about)])


def _structs(struct: thrift.Struct, field: int, *, optional: bool = False) -> list[thrift.Struct]:
    value = struct.get(field)
    if value is None and optional:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"a footer without field {field}")
    return value  # type: ignore[return-value]


def _number(struct: thrift.Struct, field: int) -> int:
    value = struct.get(field)
    if type(value) is not int or value < 0:
        raise ValueError(f"a header without field {field}")
    return value
