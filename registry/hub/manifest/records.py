"""Files of records: texts, augmentations and training metadata, append-only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from registry.digests import canonical_json, sha256_hex, short
from registry.errors import IntegrityError, StorageError
from registry.hub.manifest.columns import Shape, malformed, read_tables, write_table
from registry.hub.manifest.limits import (
    RECORDS_FILE_BYTES,
    RECORDS_LIMIT_BYTES,
    RECORDS_LIMIT_ROWS,
)
from registry.hub.manifest.record_checks import (
    COUNTS,
    EPOCH,
    FLOATS,
    NAMES,
    OF_TRAINING,
    check_record,
    is_name,
    record_key,
    value_of,
)
from registry.hub.manifest.strict_json import parse
from registry.hub.manifest.values import digest_array, digests_of
from registry.published import AnsweredRequest, FileRef, MemberRecord
from registry.records import Training

_ROW_GROUP_ROWS = 8192
_MOST_PARTS = 1_000_000
_MICROSECOND = timedelta(microseconds=1)

_REQUEST = pa.struct(
    [
        pa.field("digest", pa.binary(32), nullable=False),
        pa.field("dropped_pairs", pa.int64(), nullable=False),
        pa.field("dropped_rewrites", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("elapsed_seconds", pa.float64(), nullable=False),
    ]
)
_REQUESTS = pa.list_(pa.field("element", _REQUEST, nullable=False))
_DIGESTS = ("document", "augmentation", "adapter", "recipe")

SHAPE = Shape(
    schema=pa.schema(
        [
            *(pa.field(name, pa.binary(32), nullable=False) for name in _DIGESTS),
            pa.field("content", pa.string()),  # null: withheld
            *(pa.field(name, pa.string(), nullable=False) for name in (*NAMES, "library_versions")),
            *(pa.field(name, pa.int64(), nullable=False) for name in COUNTS),
            *(pa.field(name, pa.float64(), nullable=False) for name in FLOATS),
            pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field("requests", _REQUESTS, nullable=False),
        ]
    ),
    texts=frozenset({*NAMES, "library_versions"}),
    repeated=frozenset({"recipe", *COUNTS, "requests.list.element.digest"}),
    numbers=frozenset({"created_at"}),
    row_group_rows=_ROW_GROUP_ROWS,
    most_bytes=2 * RECORDS_LIMIT_BYTES,
    most_values=RECORDS_LIMIT_ROWS,
)


def in_files(records: Iterable[MemberRecord]) -> Iterator[list[MemberRecord]]:
    """Yield records in lists, each for one file of about ``RECORDS_FILE_BYTES`` of text."""
    chosen: list[MemberRecord] = []
    size_bytes = 0
    for record in records:
        if chosen and (size_bytes > RECORDS_FILE_BYTES or len(chosen) == RECORDS_LIMIT_ROWS):
            yield chosen
            chosen, size_bytes = [], 0
        chosen.append(record)
        size_bytes += _size_bytes(record)
    if chosen:
        yield chosen


def write_records(records: Sequence[MemberRecord]) -> bytes:
    """Return a file of records; they are sorted by document and adapter.

    Raises:
        IntegrityError: they could not be read back.
    """
    rows = [_in_order(record) for record in sorted(records, key=record_key)]
    for before, record in zip([None, *rows], rows, strict=False):
        check_record(before, record, what="a file of records that was to be written")
    columns = [
        digest_array([record.document_digest for record in rows]),
        digest_array([record.augmentation_digest for record in rows]),
        digest_array([record.adapter_digest for record in rows]),
        digest_array([record.recipe_digest for record in rows]),
        pa.array([_content_text(record) for record in rows], pa.string()),
        *(pa.array([value_of(record, name) for record in rows], pa.string()) for name in NAMES),
        pa.array([canonical_json(record.training.library_versions).decode() for record in rows], pa.string()),
        *(pa.array([value_of(record, name) for record in rows], pa.int64()) for name in COUNTS),
        *(pa.array([value_of(record, name) for record in rows], pa.float64()) for name in FLOATS),
        pa.array([(record.created_at - EPOCH) // _MICROSECOND for record in rows], pa.timestamp("us", tz="UTC")),
        _request_array(rows),
    ]
    data = write_table(pa.Table.from_arrays(columns, schema=SHAPE.schema), SHAPE)
    if len(data) > RECORDS_LIMIT_BYTES:
        raise IntegrityError(f"a document and its augmentation are too large for a file of records: {len(data)} bytes")
    return data


def read_records(data: bytes | Path, ref: FileRef) -> Iterator[MemberRecord]:
    """Yield the records of a file, in order of document and adapter; digests of texts are computed anew.

    Raises:
        IntegrityError: it is not the file that ``ref`` names, or malformed in any way.
        StorageError: it cannot be read.
    """
    what = f"the file of records {short(ref.digest)}"
    contents = data if isinstance(data, bytes) else _contents(data, ref)
    if len(contents) != ref.size_bytes or sha256_hex(contents) != ref.digest:
        raise IntegrityError(f"{what} arrived with bytes of another digest")
    before: MemberRecord | None = None
    for table in read_tables(contents, SHAPE, what=what, rows=None):
        records = _records(table)
        while True:
            try:
                record = next(records, None)
            except (ValueError, TypeError, ArithmeticError, MemoryError, pa.ArrowException) as error:
                raise malformed(what, error) from error
            if record is None:
                break
            check_record(before, record, what=what)
            yield record
            before = record


def _contents(path: Path, ref: FileRef) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(ref.size_bytes + 1)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def _in_order(record: MemberRecord) -> MemberRecord:
    requests = tuple(sorted(record.requests, key=lambda request: request.request_digest))
    return record if requests == record.requests else replace(record, requests=requests)


def _size_bytes(record: MemberRecord) -> int:
    texts = len(record.title or "") + len(record.text or "")
    payload = record.payload or {}
    rewrites = sum(len(rewrite) for rewrite in payload.get("rewrites", ()))
    pairs = sum(len(value or "") for pair in payload.get("qa", ()) for value in pair.values())
    return texts + rewrites + pairs + 512


def _request_array(rows: Sequence[MemberRecord]) -> pa.Array:
    requests = [request for record in rows for request in record.requests]
    ends = [0]
    for record in rows:
        ends.append(ends[-1] + len(record.requests))
    children = [
        digest_array([request.request_digest for request in requests]),
        *(pa.array([getattr(request, field.name) for request in requests], field.type) for field in list(_REQUEST)[1:]),
    ]
    structs = pa.StructArray.from_arrays(children, fields=list(_REQUEST))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), structs, type=_REQUESTS)


def _records(table: pa.Table) -> Iterator[MemberRecord]:
    column = {name: table.column(name).combine_chunks() for name in table.column_names}
    digests = [digests_of(column[name]) for name in _DIGESTS]
    moments = column["created_at"].cast(pa.int64()).to_pylist()
    values = {name: column[name].to_pylist() for name in (*COUNTS, *FLOATS)}
    values |= {name: _texts(column[name]) for name in (*NAMES, "library_versions")}
    contents, requests = column["content"], _requests(column["requests"])
    libraries = {text: _library_versions(text) for text in set(values["library_versions"])}
    for at in range(table.num_rows):
        row = {name: entries[at] for name, entries in values.items()}
        versions = libraries[row.pop("library_versions")]
        training = Training(**{name: row.pop(name) for name in OF_TRAINING}, library_versions=versions)
        document, augmentation, adapter, recipe = (entries[at] for entries in digests)
        title, text, payload = _content(contents[at].as_py())
        yield MemberRecord(
            document_digest=document,
            augmentation_digest=augmentation,
            adapter_digest=adapter,
            recipe_digest=recipe,
            title=title,
            text=text,
            payload=payload,
            requests=requests[at],
            training=training,
            created_at=EPOCH + moments[at] * _MICROSECOND,
            **row,
        )


def _texts(column: Any) -> list[str]:
    known = column.dictionary.to_pylist()
    return [known[at] for at in column.indices.to_pylist()]


def _requests(lists: Any) -> list[tuple[AnsweredRequest, ...]]:
    structs = lists.flatten()
    numbers = (structs.field(field.name).to_pylist() for field in list(_REQUEST)[1:])
    requests = [AnsweredRequest(*row) for row in zip(digests_of(structs.field("digest")), *numbers, strict=True)]
    ends = lists.offsets.to_pylist()
    return [tuple(requests[begin - ends[0] : end - ends[0]]) for begin, end in pairwise(ends)]


def _library_versions(text: str) -> dict[str, str]:
    versions = parse(text.encode(), most_parts=1000)
    if type(versions) is not dict or not all(is_name(key) and is_name(value) for key, value in versions.items()):
        raise ValueError("versions of libraries that are none")
    return versions


def _content_text(record: MemberRecord) -> str | None:
    """Return title, text and augmentation as one text: they share their words, and so compress together."""
    if record.text is None:
        return None
    content = {"title": record.title, "text": record.text, "payload": record.payload}
    return canonical_json(content).decode()


def _content(written: str | None) -> tuple[str | None, str | None, Mapping[str, Any] | None]:
    if written is None:
        return None, None, None
    content = parse(written.encode(), most_parts=_MOST_PARTS)
    if not isinstance(content, dict) or content.keys() != {"title", "text", "payload"}:
        raise ValueError("a content that is none")
    title, text, payload = content["title"], content["text"], content["payload"]
    if type(title) is not str or type(text) is not str:
        raise ValueError("a title or text that is none")
    return title, text, payload
