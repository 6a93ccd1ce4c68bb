"""Kinds of hostile repositories: files of records that say what is not so, or are no such tables."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from registry.digests import canonical_json
from registry.hub.manifest.records import SHAPE as RECORDS
from tests.hub.hostile import Forgery, Row, kind, read_rows, write_rows


@kind("is malformed")
def parquet_bomb_of_long_runs(forgery: Forgery) -> None:
    """A million records of one long text, which take a few kilobytes as they lie."""
    rows = read_rows(forgery.files[forgery.paths("records")[-1]])[:1]
    table = pa.Table.from_pylist(rows, schema=RECORDS.schema)
    table = table.set_column(4, RECORDS.schema.field(4), pa.array(["x" * 1_000_000], pa.string()))
    out = io.BytesIO()
    many = pa.concat_tables([table] * 2_000)
    pq.write_table(many, out, store_schema=False, compression="zstd", use_dictionary=True)
    assert len(out.getvalue()) < 1_000_000
    forgery.write_records(out.getvalue())


def _record(change: Callable[[Row], object]) -> Callable[[Forgery], None]:
    """Change the record of the newest row, and write its file under its own digest."""

    def changed(forgery: Forgery) -> None:
        change(forgery.record_of(forgery.newest()))
        forgery.seal_records()

    return changed


def _content(row: Row, **changes: object) -> None:
    row["content"] = canonical_json(json.loads(row["content"]) | changes).decode()


@kind("has a text of another digest", update=True)
def text_of_another_digest(forgery: Forgery) -> None:
    _record(lambda row: _content(row, text="Another text than was encoded."))(forgery)


@kind("has a text of another digest")
def document_digest_that_is_not_of_its_text(forgery: Forgery) -> None:
    newest = forgery.newest()
    record = forgery.record_of(newest)
    record["document"] = newest["document"] = bytes(32)
    forgery.seal_records()


@kind("has a text that is not normalised")
def text_that_is_not_normalised(forgery: Forgery) -> None:
    _record(lambda row: _content(row, text="  outer spaces  "))(forgery)


@kind("has an augmentation of another digest")
def augmentation_digest_that_is_not_of_its_content(forgery: Forgery) -> None:
    _record(lambda row: row.update(augmentation=bytes(32)))(forgery)


@kind("has other counts of rewrites and pairs than it says")
def counts_of_pairs_that_are_wrong(forgery: Forgery) -> None:
    _record(lambda row: row.update(pairs=7))(forgery)


@kind("which the root has not")
def record_of_an_unknown_recipe(forgery: Forgery) -> None:
    _record(lambda row: row.update(recipe=b"\x11" * 32))(forgery)


@kind("bytes, and the manifest")
def record_of_another_size(forgery: Forgery) -> None:
    _record(lambda row: row.update(size_bytes=row["size_bytes"] + 1))(forgery)


@kind("parameters; its recipe makes")
def record_of_other_parameters(forgery: Forgery) -> None:
    _record(lambda row: row.update(parameters=1))(forgery)


@kind("which the manifest says are there", update=True)
def record_that_is_not_there(forgery: Forgery) -> None:
    newest = forgery.newest()
    forgery.records[newest["records"].hex()].remove(forgery.record_of(newest))
    forgery.seal_records()


@kind("its records are not in order")
def record_that_is_there_twice(forgery: Forgery) -> None:
    rows = read_rows(forgery.files[forgery.paths("records")[-1]])
    forgery.write_records(write_rows([rows[0], *rows], RECORDS))


@kind("has a name with control characters")
def control_characters_in_the_name_of_a_device(forgery: Forgery) -> None:
    _record(lambda row: row.update(device="cpu\x1b[2J"))(forgery)


@kind("has a loss that is not finite")
def loss_that_is_no_number(forgery: Forgery) -> None:
    _record(lambda row: row.update(last_loss=float("nan")))(forgery)


@kind("has a count out of range")
def negative_count(forgery: Forgery) -> None:
    _record(lambda row: row.update(tokens=-1))(forgery)


@kind("it is nested too deep")
def nesting_bomb_in_a_record(forgery: Forgery) -> None:
    _record(lambda row: row.update(content="[" * 100_000 + "]" * 100_000))(forgery)


@kind("is malformed: a content that is none")
def further_keys_in_a_record(forgery: Forgery) -> None:
    _record(lambda row: _content(row, path="../../etc/passwd"))(forgery)


@kind("has a payload that is none")
def payload_that_is_none(forgery: Forgery) -> None:
    _record(lambda row: _content(row, payload={"rewrites": [], "qa": [], "__class__": "os.system"}))(forgery)
