"""Parquet files that would hurt who reads them: refused before anything is decoded, and without harm."""

from __future__ import annotations

import io
import random
import resource
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from registry.digests import sha256_hex
from registry.errors import IntegrityError
from registry.hub.manifest import columns, footers, thrift
from registry.hub.manifest.columns import Shape, read_tables
from registry.hub.manifest.records import read_records, write_records
from registry.hub.manifest.shards import SHAPE, read_shard, write_shard
from registry.published import FileRef, ShardEntry
from tests.hub.manifests import members, record

ROWS = 50


def read(data: bytes, rows: int = ROWS) -> None:
    read_shard(data, ShardEntry(FileRef(sha256_hex(data), len(data)), rows), number=0, bits=0)


def table() -> pa.Table:
    return next(read_tables(write_shard(members(ROWS))[0], SHAPE, what="it", rows=ROWS))


def written(found: pa.Table, **options: Any) -> bytes:
    """A file as a stranger writes it: as pyarrow does by default but for ``options``."""
    out = io.BytesIO()
    ours: dict[str, Any] = {
        "compression": "zstd",
        "store_schema": False,
        "write_statistics": False,
        "use_dictionary": sorted(SHAPE.texts | SHAPE.repeated),
        "column_encoding": {name: "DELTA_BINARY_PACKED" for name in sorted(SHAPE.numbers)},
    }
    pq.write_table(found, out, **(ours | options))
    return out.getvalue()


def replaced(found: pa.Table, name: str, values: Any) -> pa.Table:
    at = found.schema.get_field_index(name)
    return found.set_column(at, found.schema.field(at).with_type(values.type), values)


def test_a_file_of_another_writer_with_the_same_shape_is_read() -> None:
    read(written(table()))
    read(written(table(), compression="none", data_page_size=100))


FILES: list[tuple[str, Callable[[], bytes], str]] = [
    ("nothing", lambda: b"", "no Parquet file"),
    ("text", lambda: b"PAR1 and some words PAR1", "a footer of"),
    ("a pickle", lambda: b"\x80\x04\x95cposix\nsystem\n.", "no Parquet file"),
    ("a footer beyond the file", lambda: b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1", "a footer of"),
    ("a footer that is not there", lambda: b"PAR1" + bytes(8) + b"PAR1", "a footer of"),
    ("a footer of 2 MB", lambda: b"PAR1" + bytes(2**21) + (2**21).to_bytes(4, "little") + b"PAR1", "a footer of"),
    ("pandas' metadata", lambda: _refooted(lambda f: f.update({5: [{1: b"pandas", 2: b"{}"}]})), "key-value metadata"),
    ("an Arrow schema", lambda: written(table(), store_schema=True), "key-value metadata"),
    ("a column more", lambda: written(table().append_column("x", pa.array(range(ROWS)))), "columns other than"),
    ("a column less", lambda: written(table().drop_columns(["line"])), "columns other than"),
    ("columns in another order", lambda: written(table().select(table().column_names[::-1])), "columns other than"),
    (
        "a column of another type",
        lambda: written(replaced(table(), "from_version", pa.array([1] * ROWS, pa.int64()))),
        "columns other than",
    ),
    ("nulls where none may be", lambda: written(_with_nulls()), "columns other than"),
    ("another compression", lambda: written(table(), compression="gzip"), "another type or compression"),
    ("statistics in pages", lambda: written(table(), write_statistics=True), "statistics"),
    ("pages of version 2", lambda: written(table(), data_page_version="2.0"), "a page of kind 3"),
    ("bytes between pages", lambda: _between(b"\x00" * 7), "malformed"),
    ("several row groups, one of them empty of columns", lambda: _without_columns(), "without all columns"),
    ("text that stands in a dictionary", lambda: written(table(), use_dictionary=["line"]), "in encoding"),
    (
        "text that is told by its beginning",
        lambda: written(
            table(),
            use_dictionary=False,
            column_encoding={"places.list.element.record_id": "DELTA_BYTE_ARRAY"},
        ),
        "record_id in encoding 7",
    ),
]


def _with_nulls() -> pa.Table:
    found = table()
    schema = pa.schema([field.with_nullable(True) for field in found.schema])
    values = pa.array([None, *found.column("size_bytes").to_pylist()[1:]], pa.int64())
    return found.cast(schema).set_column(6, schema.field(6), values)


def _between(some: bytes) -> bytes:
    data = write_shard(members(ROWS))[0]
    return data[:4] + some + data[4:]


def _without_columns() -> bytes:
    return _refooted(lambda footer: footer[4].append({1: [], 2: 0, 3: 0}))


@pytest.mark.parametrize(("make", "says"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_file_of_another_shape_is_refused(make: Callable[[], bytes], says: str) -> None:
    with pytest.raises(IntegrityError, match=r"^the shard [0-9a-f]{12} of the manifest is malformed: ") as caught:
        read(make())
    assert says in caught.value.message


def _spelt(value: Any) -> bytes:
    """A Thrift value as its own bytes, integers aside."""
    if isinstance(value, dict):
        return thrift.struct(
            (n, _kind(v), v if isinstance(v, int | bytes) else _spelt(v)) for n, v in sorted(value.items())
        )
    kind = _kind(value[0]) if value else thrift.STRUCT
    return thrift.sequence(kind, (v if isinstance(v, int | bytes) else _spelt(v) for v in value))


def _kind(value: Any) -> int:
    kinds = {int: thrift.I64, bytes: thrift.BINARY, list: thrift.LIST, dict: thrift.STRUCT}
    return kinds[type(value)]


def _refooted(change: Callable[[dict[int, Any]], None]) -> bytes:
    """A sound shard under a footer that lies."""
    data = write_shard(members(ROWS))[0]
    begin = footers._footer_begin(memoryview(data))
    footer: Any = thrift.read_struct(memoryview(data)[begin:-8], 0)[0]
    change(footer)
    made = _spelt(footer)
    return data[:begin] + made + len(made).to_bytes(4, "little") + b"PAR1"


def _column(footer: dict[int, Any], at: int = 0) -> Any:
    return footer[4][0][1][at][3]


LIES: list[tuple[str, Callable[[dict[int, Any]], Any], str]] = [
    ("more rows", lambda f: f.update({3: 10**9}), "rows instead of"),
    ("more rows in the group", lambda f: f[4][0].update({3: 10**9}), "rows instead of"),
    ("more rows everywhere", lambda f: (f.update({3: 51}), f[4][0].update({3: 51})), "51 rows instead of 50"),
    ("more values", lambda f: _column(f).update({5: 10**12}), "another number of values"),
    ("a column elsewhere", lambda f: _column(f).update({9: 100}), "does not lie where it belongs"),
    ("a column before all", lambda f: _column(f).update({9: 0}), "does not lie where it belongs"),
    ("a column that overlaps", lambda f: _column(f, 1).update({9: 4}), "does not lie where it belongs"),
    ("a column beyond the file", lambda f: _column(f, 14).update({7: 10**12}), "does not lie where it belongs"),
    ("a column that is shorter", lambda f: _column(f).update({7: 100}), "goes beyond the column"),
    ("a dictionary elsewhere", lambda f: _column(f, 2).update({11: 4}), "does not lie where it belongs"),
    ("another codec", lambda f: _column(f).update({4: 3}), "another type or compression"),
    ("a codec that is none", lambda f: _column(f).update({4: 99}), "another type or compression"),
    ("another type", lambda f: _column(f).update({1: 6}), "another type or compression"),
    ("another path", lambda f: _column(f).update({3: [b"adapter"]}), "another type or compression"),
    ("a file elsewhere", lambda f: f[4][0][1][0].update({1: b"/etc/passwd"}), "another file"),
    ("a row group twice", lambda f: f[4].append(f[4][0]), "rows instead of"),
    ("2,000 row groups", lambda f: f[4].extend({1: [], 2: 0, 3: 0} for _ in range(2000)), "2001 row groups"),
    ("no schema", lambda f: f.pop(2), "a footer without field 2"),
    ("nested for ever", lambda f: f.update({15: _nested()}), "nested too deep"),
]


def _nested() -> dict[int, Any]:
    found: dict[int, Any] = {}
    for _ in range(200):
        found = {1: found}
    return found


@pytest.mark.parametrize(("change", "says"), [case[1:] for case in LIES], ids=[case[0] for case in LIES])
def test_a_footer_that_lies_is_refused(change: Callable[[dict[int, Any]], Any], says: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        read(_refooted(change))
    assert says in caught.value.message


def test_what_else_a_footer_says_never_reaches_the_decoder() -> None:
    # Lengths of histograms that contradict the schema end pyarrow 26 with an abort.
    def change(footer: dict[int, Any]) -> None:
        for column in footer[4][0][1]:
            column[3] |= {16: {1: 5, 2: [1] * 7, 3: [1] * 9}, 12: {1: b"x" * 100, 3: 10**15}}

    read(_refooted(change))


BOMB_SHAPE = Shape(
    schema=pa.schema([pa.field("name", pa.string(), nullable=False)]),
    texts=frozenset({"name"}),
    repeated=frozenset(),
    numbers=frozenset(),
    row_group_rows=2**20,
    most_bytes=2**23,
    most_values=2**20,
)


def test_a_text_for_a_million_rows_is_one_text_here() -> None:
    text = "x" * 2**21
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 2**20, pa.int32()), pa.array([text]))
    data = columns._encoded(
        pa.Table.from_arrays([column], schema=pa.schema([pa.field("name", column.type, nullable=False)])), BOMB_SHAPE
    )
    assert len(data) < 10_000  # for 2 TB of text
    (found,) = read_tables(data, BOMB_SHAPE, what="it", rows=2**20)
    assert found.column("name").chunk(0).dictionary.to_pylist() == [text]


@pytest.mark.parametrize("size_bytes", [2**24, 2**26])
def test_a_page_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(size_bytes: int) -> None:
    data = columns._encoded(pa.table({"name": ["x" * size_bytes]}, schema=BOMB_SHAPE.schema), BOMB_SHAPE)
    assert len(data) < size_bytes / 1000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(IntegrityError, match="when it is unpacked"):
        list(read_tables(data, BOMB_SHAPE, what="it", rows=1))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # kB


def test_a_page_header_that_lies_about_its_size_is_refused() -> None:
    data = bytearray(columns._encoded(pa.table({"name": ["x" * 1000]}, schema=BOMB_SHAPE.schema), BOMB_SHAPE))
    header, _ = thrift.read_struct(memoryview(data), 4)
    spelt = thrift.struct([(1, 5, 1), (2, 5, header[2])])[2:4]  # the number as it stands there
    at = data.index(spelt, 4)
    data[at : at + 2] = thrift.struct([(1, 5, 1), (2, 5, 17)])[2:3] + b"\x00"
    with pytest.raises(IntegrityError, match="is malformed"):
        list(read_tables(bytes(data), BOMB_SHAPE, what="it", rows=1))


def test_too_many_values_are_refused_before_they_are_decoded() -> None:
    nulls = pa.table({"name": pa.nulls(2**21, pa.string())})
    shape = Shape(nulls.schema, frozenset({"name"}), frozenset(), frozenset(), 2**22, 2**23, 2**20)
    data = columns._encoded(nulls, shape)
    assert len(data) < 5_000
    with pytest.raises(IntegrityError, match="more than 1048576 values"):
        list(read_tables(data, shape, what="it", rows=None))


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_random_damage_is_always_an_integrity_error(compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_COMPRESSION", compression)
    shard, (records, entry) = write_shard(members(30)), (write_records([record(n) for n in range(20)]), 30)
    draw = random.Random(compression)
    refused = 0
    for _ in range(250):
        data = bytearray(draw.choice((shard[0], records)))
        is_shard = data == shard[0]
        for _ in range(draw.choice((1, 1, 2, 3))):
            at = draw.choice((draw.randrange(len(data)), len(data) - 1 - draw.randrange(1500)))
            some = draw.choice((bytes([data[at] ^ 1 << draw.randrange(8)]), b"\xff\xff\xff\x7f", b"\xff" * 4, bytes(4)))
            data[at : at + len(some)] = some
        ref = FileRef(sha256_hex(data), len(data))
        try:
            if is_shard:
                read_shard(bytes(data), ShardEntry(ref, entry), number=0, bits=0)
            else:
                list(read_records(bytes(data), ref))
        except IntegrityError:
            refused += 1
    assert refused > 125
