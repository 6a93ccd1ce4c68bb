"""Shards: the members of a repository as Parquet files, by the first bits of their documents' digests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

from registry.digests import sha256_hex, short
from registry.errors import IntegrityError
from registry.hub.manifest.columns import Shape, malformed, read_tables, write_table
from registry.hub.manifest.limits import (
    MOST_BITS,
    MOST_VERSIONS,
    PACK_LIMIT_BYTES,
    RECORDS_LIMIT_BYTES,
    SHARD_LIMIT_BYTES,
    SHARD_LIMIT_ROWS,
    SHARD_ROWS,
)
from registry.hub.manifest.text import is_plain
from registry.hub.manifest.values import digest_array, digests_of, optional_digests_of
from registry.published import FileRef, Member, ShardEntry
from registry.records import Place

_PLACE = pa.struct(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("record_id", pa.string()),
    ]
)
_PLACES = pa.list_(pa.field("element", _PLACE, nullable=False))
SHAPE = Shape(
    schema=pa.schema(
        [
            pa.field("document", pa.binary(32), nullable=False),
            pa.field("adapter", pa.binary(32), nullable=False),
            pa.field("from_version", pa.int32(), nullable=False),
            pa.field("to_version", pa.int32()),
            pa.field("line", pa.binary(32)),  # null: the document itself
            pa.field("shares_line", pa.bool_(), nullable=False),
            pa.field("size_bytes", pa.int64(), nullable=False),
            pa.field("pack", pa.binary(32)),
            pa.field("pack_bytes", pa.int64()),
            pa.field("offset", pa.int64()),
            pa.field("records", pa.binary(32), nullable=False),
            pa.field("records_bytes", pa.int64(), nullable=False),
            pa.field("places", _PLACES, nullable=False),
        ]
    ),
    texts=frozenset({"places.list.element.source"}),
    repeated=frozenset({"from_version", "to_version", "size_bytes", "pack", "pack_bytes", "records", "records_bytes"}),
    numbers=frozenset({"offset", "places.list.element.ordinal"}),
    row_group_rows=SHARD_LIMIT_ROWS,
    most_bytes=2 * SHARD_LIMIT_BYTES,
    most_values=SHARD_LIMIT_ROWS,
)


def bits_for(rows: int) -> int:
    """Return the smallest number of bits (at most ``MOST_BITS``) that leaves ``SHARD_ROWS`` a shard, or fewer."""
    bits = 0
    while bits < MOST_BITS and rows > SHARD_ROWS << bits:
        bits += 1
    return bits


def shard_number(document_digest: str, bits: int) -> int:
    """Return the number of the shard that a document's rows are in: the first ``bits`` bits of its digest."""
    return int(document_digest[:4], 16) >> (16 - bits)


def write_shard(members: Sequence[Member]) -> tuple[bytes, ShardEntry]:
    """Return a shard's file and its entry for the root; the same rows give the same bytes under one pyarrow.

    Rows come in order of document and version, places in order of source and ordinal.

    Raises:
        IntegrityError: the rows could not be read back, such as unsorted ones, or a URI with control characters.
    """
    _check_rows(members, what="a shard that was to be written")
    columns = [
        digest_array([member.document_digest for member in members]),
        digest_array([member.adapter_digest for member in members]),
        pa.array([member.from_version for member in members], pa.int32()),
        pa.array([member.to_version for member in members], pa.int32()),
        digest_array([None if m.line == m.document_digest else m.line for m in members]),
        pa.array([member.shares_line for member in members], pa.bool_()),
        pa.array([member.size_bytes for member in members], pa.int64()),
        digest_array([member.pack.digest if member.pack else None for member in members]),
        pa.array([member.pack.size_bytes if member.pack else None for member in members], pa.int64()),
        pa.array([member.offset for member in members], pa.int64()),
        digest_array([member.records.digest for member in members]),
        pa.array([member.records.size_bytes for member in members], pa.int64()),
        _place_array(members),
    ]
    data = write_table(pa.Table.from_arrays(columns, schema=SHAPE.schema), SHAPE)
    return data, ShardEntry(FileRef(sha256_hex(data), len(data)), len(members))


def read_shard(data: bytes, entry: ShardEntry, *, number: int, bits: int) -> list[Member]:
    """Return the rows of a shard's file.

    Raises:
        IntegrityError: it is not the file that ``entry`` names, or malformed in any way.
    """
    what = f"the shard {short(entry.file.digest)} of the manifest"
    if len(data) != entry.file.size_bytes or sha256_hex(data) != entry.file.digest:
        raise IntegrityError(f"{what} arrived with bytes of another digest")
    try:
        tables = read_tables(data, SHAPE, what=what, rows=entry.rows)
        members = [member for table in tables for member in _members(table)]
    except (ValueError, TypeError, ArithmeticError, MemoryError, pa.ArrowException) as error:
        raise malformed(what, error) from error
    _check_rows(members, what=what)
    for member in (members[0], members[-1]) if members else ():
        if shard_number(member.document_digest, bits) != number:
            raise malformed(what, f"it has the document {short(member.document_digest)} of another shard")
    return members


def _place_array(members: Sequence[Member]) -> pa.Array:
    places = [place for member in members for place in member.places]
    ends = [0]
    for member in members:
        ends.append(ends[-1] + len(member.places))
    children = [
        pa.array([place.source_uri for place in places], pa.string()),
        pa.array([place.ordinal for place in places], pa.int64()),
        pa.array([place.record_id for place in places], pa.string()),
    ]
    structs = pa.StructArray.from_arrays(children, fields=list(_PLACE))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), structs, type=_PLACES)


def _members(table: pa.Table) -> Iterator[Member]:
    column = {name: table.column(name).combine_chunks() for name in table.column_names}
    documents = digests_of(column["document"])
    lines = optional_digests_of(column["line"])
    rows = zip(
        documents,
        digests_of(column["adapter"]),
        column["from_version"].to_pylist(),
        column["to_version"].to_pylist(),
        (line or document for line, document in zip(lines, documents, strict=True)),
        column["shares_line"].to_pylist(),
        _places(column["places"]),
        column["size_bytes"].to_pylist(),
        _files(column["pack"], column["pack_bytes"]),
        column["offset"].to_pylist(),
        _files(column["records"], column["records_bytes"]),
        strict=True,
    )
    for row in rows:
        yield Member(*row)


def _files(digests: pa.Array, sizes: pa.Array) -> Iterator[FileRef | None]:
    known: dict[tuple[str | None, int | None], FileRef | None] = {(None, None): None}
    for key in zip(optional_digests_of(digests), sizes.to_pylist(), strict=True):
        if key not in known:
            digest, size_bytes = key
            if digest is None or size_bytes is None:
                raise ValueError("a file without a size, or a size without a file")
            known[key] = FileRef(digest, size_bytes)
        yield known[key]


def _places(lists: Any) -> Iterator[tuple[Place, ...]]:
    """Yield the places of every row; a source's text is one object, however many rows name it."""
    structs = lists.flatten()
    source = structs.field("source")
    uris = source.dictionary.to_pylist()
    places = [
        Place(uris[at], ordinal, record_id)
        for at, ordinal, record_id in zip(
            source.indices.to_pylist(),
            structs.field("ordinal").to_pylist(),
            structs.field("record_id").to_pylist(),
            strict=True,
        )
    ]
    ends = lists.offsets.to_pylist()
    start = ends[0]
    for begin, end in pairwise(ends):
        yield tuple(places[begin - start : end - start])


def _check_rows(members: Sequence[Member], *, what: str) -> None:
    """Check what must hold of every row, and of rows beside each other.

    Raises:
        IntegrityError: something does not hold; the message names the document.
    """
    uris: set[str] = set()
    before: Member | None = None
    for member in members:
        problem = _row_problem(member) or _order_problem(before, member) or _place_problem(member, uris)
        if problem:
            raise malformed(what, f"the document {short(member.document_digest)} has {problem}")
        before = member


def _row_problem(member: Member) -> str | None:
    end, pack, offset = member.to_version, member.pack, member.offset
    if not 0 < member.from_version <= MOST_VERSIONS or (end is not None and not member.from_version < end):
        return f"versions from {member.from_version} to {end}"
    if not 0 < member.size_bytes <= PACK_LIMIT_BYTES:
        return f"an adapter of {member.size_bytes} bytes"
    if (pack is None) != (offset is None):
        return "a pack without an offset, or an offset without a pack"
    if pack is not None and offset is not None:
        if not 0 < pack.size_bytes <= PACK_LIMIT_BYTES:
            return f"a pack of {pack.size_bytes} bytes"
        if offset < 8 or offset + member.size_bytes > pack.size_bytes:
            return f"an adapter at byte {offset} that does not lie in its pack"
    if not 0 < member.records.size_bytes <= RECORDS_LIMIT_BYTES:
        return f"a file of records of {member.records.size_bytes} bytes"
    return None


def _order_problem(before: Member | None, member: Member) -> str | None:
    if before is None or before.document_digest < member.document_digest:
        return None
    if before.document_digest > member.document_digest:
        return "a row that is not in order"
    if before.to_version is None or before.to_version > member.from_version:
        return f"two rows for version {member.from_version}"
    return None


def _place_problem(member: Member, sound_uris: set[str]) -> str | None:
    last: tuple[str, int] | None = None
    for place in member.places:
        if place.source_uri not in sound_uris:
            if not place.source_uri or not is_plain(place.source_uri):
                return "a source with control characters, or too long a one"
            sound_uris.add(place.source_uri)
        if place.record_id is not None and not is_plain(place.record_id):
            return "a record id with control characters, or too long a one"
        if place.ordinal < 0:
            return f"a place {place.ordinal}"
        here = (place.source_uri, place.ordinal)
        if last is not None and last >= here:
            return "places that are not in order"
        last = here
    return None
