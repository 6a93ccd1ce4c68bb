"""Kinds of hostile repositories: shards that say what is not so, or are no such tables."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from registry.hub.manifest.shards import SHAPE as SHARDS
from tests.hub.hostile import Forgery, Row, kind


def _row(change: Callable[[Row], object]) -> Callable[[Forgery], None]:
    """Change the newest row, and count everything anew."""

    def changed(forgery: Forgery) -> None:
        change(forgery.newest())
        forgery.seal_rows()

    return changed


@kind("where it would overlap another")
def adapter_that_overlaps_another(forgery: Forgery) -> None:
    rows = [row for row in forgery.rows if row["pack"] == forgery.newest()["pack"]]
    last = max(rows, key=lambda row: row["offset"])
    last["offset"] -= 64
    forgery.seal_rows()


@kind("where it would overlap another")
def adapter_in_the_place_of_another(forgery: Forgery) -> None:
    rows = [row for row in forgery.rows if row["pack"] == forgery.newest()["pack"]]
    rows.sort(key=lambda row: row["offset"])
    rows[1]["offset"] = rows[0]["offset"]
    forgery.seal_rows()


@kind("only one of the two has")
def adapters_exchanged_between_packs(forgery: Forgery) -> None:
    newest = forgery.newest()
    other = next(row for row in forgery.rows if row["from_version"] == 2 and row["pack"] != newest["pack"])
    for name in ("adapter", "size_bytes"):
        newest[name], other[name] = other[name], newest[name]
        mine, theirs = forgery.record_of(newest | {name: other[name]}), forgery.record_of(other | {name: newest[name]})
        mine[name], theirs[name] = theirs[name], mine[name]
    forgery.seal_records()


@kind("that does not lie in its pack")
def adapter_behind_the_end_of_its_pack(forgery: Forgery) -> None:
    _row(lambda row: row.update(offset=row["pack_bytes"] - 10))(forgery)


@kind("has a pack of 0 bytes")
def pack_of_no_bytes(forgery: Forgery) -> None:
    _row(lambda row: row.update(pack_bytes=0))(forgery)


@kind("has an adapter of 0 bytes")
def adapter_of_no_bytes(forgery: Forgery) -> None:
    _row(lambda row: row.update(size_bytes=0))(forgery)


@kind("has two sizes")
def pack_of_two_sizes(forgery: Forgery) -> None:
    _row(lambda row: row.update(pack_bytes=row["pack_bytes"] + 1))(forgery)


@kind("bytes; its adapters make", update=True)
def pack_that_is_said_to_be_larger(forgery: Forgery) -> None:
    pack = forgery.newest()["pack"]
    for row in forgery.rows:
        if row["pack"] == pack:
            row["pack_bytes"] += 8
    forgery.seal_rows()


@kind("without an offset, or an offset without a pack")
def adapter_without_a_place_in_its_pack(forgery: Forgery) -> None:
    _row(lambda row: row.update(offset=None))(forgery)


@kind("lacks 1 adapters, other than it says", update=True)
def adapter_that_is_in_no_pack(forgery: Forgery) -> None:
    _row(lambda row: row.update(pack=None, pack_bytes=None, offset=None))(forgery)


@kind("has two rows for version", update=True)
def two_rows_for_one_document_in_a_version(forgery: Forgery) -> None:
    forgery.rows.insert(forgery.rows.index(forgery.newest()), dict(forgery.newest()))
    forgery.seal_rows()


@kind("version 2 in the manifest of ada/notes has another digest than its members", first=False, update=True)
def history_that_is_told_in_another_way(forgery: Forgery) -> None:
    """Versions that were seen keep their digests and counts, but of their members something else is told."""
    digests = [version["digest"] for version in forgery.root["versions"]]
    for row in [row for row in forgery.rows if row["from_version"] == 2 and row["to_version"] is None]:
        forgery.rows.append(row | {"document": bytes(32), "line": bytes(32), "to_version": 3})
        row["from_version"] = 3
        break
    forgery.rows.sort(key=lambda row: (row["document"], row["from_version"]))
    forgery.seal_rows()
    for version, digest in zip(forgery.root["versions"], digests, strict=True):
        version["digest"] = digest
    forgery.write_root()


@kind("has a row that is not in order")
def rows_that_are_not_in_order(forgery: Forgery) -> None:
    forgery.rows.reverse()
    forgery.seal_rows()


@kind("is in versions after the 3th, the last")
def row_of_a_version_that_is_not_there(forgery: Forgery) -> None:
    _row(lambda row: row.update(to_version=99))(forgery)


@kind("has versions from 3 to 2")
def row_that_ends_before_it_begins(forgery: Forgery) -> None:
    _row(lambda row: row.update(to_version=2))(forgery)


@kind("which is no document of it")
def line_of_no_document(forgery: Forgery) -> None:
    _row(lambda row: row.update(line=b"\x77" * 32))(forgery)


@kind("has a source with control characters", update=True)
def control_characters_in_a_source(forgery: Forgery) -> None:
    _row(lambda row: row["places"][0].update(source="notes\x1b]0;owned\x07.txt"))(forgery)


@kind("has a source with control characters")
def writing_turned_around_in_a_source(forgery: Forgery) -> None:
    _row(lambda row: row["places"][0].update(source="notes/\u202etxt.exe"))(forgery)


@kind("has a record id with control characters")
def line_ends_in_a_record_id(forgery: Forgery) -> None:
    _row(lambda row: row["places"][0].update(record_id="1\r\n2"))(forgery)


@kind("has a place -1")
def negative_place(forgery: Forgery) -> None:
    _row(lambda row: row["places"][0].update(ordinal=-1))(forgery)


def _shard(change: Callable[[pa.Table], pa.Table], **settings: Any) -> Callable[[Forgery], None]:
    """Write the shard as another table, or with other settings than ours."""

    def changed(forgery: Forgery) -> None:
        table = change(pa.Table.from_pylist(forgery.rows, schema=SHARDS.schema))
        out = io.BytesIO()
        pq.write_table(table, out, **{"store_schema": False, "compression": "zstd", **settings})
        forgery.write_shard(out.getvalue(), len(forgery.rows))

    return changed


@kind("columns other than manifests have")
def further_columns(forgery: Forgery) -> None:
    _shard(lambda table: table.append_column("extra", pa.array(["x"] * table.num_rows)))(forgery)


@kind("columns other than manifests have")
def columns_of_other_types(forgery: Forgery) -> None:
    _shard(lambda table: table.set_column(2, "from_version", table.column(2).cast(pa.int64())))(forgery)


def _noted(**notes: str) -> Callable[[Forgery], None]:
    """Write the shard as ever, but with metadata in its footer."""

    def changed(forgery: Forgery) -> None:
        rows = forgery.rows
        sound = pq.ParquetFile(io.BytesIO(forgery.files[forgery.shard]))
        out = io.BytesIO()
        dictionaries = sorted(SHARDS.texts | SHARDS.repeated)
        with pq.ParquetWriter(out, SHARDS.schema, store_schema=False, use_dictionary=dictionaries) as writer:
            writer.write_table(sound.read())
            writer.add_key_value_metadata(notes)
        forgery.write_shard(out.getvalue(), len(rows))

    return changed


@kind("key-value metadata, which manifests have not")
def metadata_of_a_table(forgery: Forgery) -> None:
    _noted(pandas="\x80\x04cos")(forgery)


@kind("metadata, which manifests have not")
def arrow_schema_with_extension_types(forgery: Forgery) -> None:
    _shard(lambda table: table, store_schema=True)(forgery)


@kind("a footer of")
def five_megabytes_of_metadata_in_a_table(forgery: Forgery) -> None:
    _noted(x="y" * 5_000_000)(forgery)


@kind("is malformed: a page of")
def other_encodings(forgery: Forgery) -> None:
    _shard(lambda table: table, use_dictionary=False, data_page_version="2.0")(forgery)


@kind("rows instead of")
def parquet_bomb_of_repeated_rows(forgery: Forgery) -> None:
    rows = len(forgery.rows)
    _shard(lambda table: table.take([0] * 500_000))(forgery)
    forgery.root["shards"][0][2] = rows
    forgery.write_root()


@kind("is no Parquet file")
def shard_that_is_a_pickle(forgery: Forgery) -> None:
    forgery.write_shard(b"\x80\x04cos\nsystem\n." * 100, len(forgery.rows))
