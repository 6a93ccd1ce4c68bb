"""Tables of exactly one shape as Parquet: written the same way every time, read without believing anything."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from registry.errors import IntegrityError
from registry.hub.manifest.footers import Bounds, rewritten, schema_of

_COMPRESSION = "zstd"
_LEVEL = 9
_PAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Shape:
    """The only shape that tables of one kind have.

    ``texts`` and ``repeated`` are columns (by their paths in Parquet) whose values are laid down once each, those of
    texts also in memory; ``numbers`` are integers that are written as differences. All others are plain: so nothing in
    a small file can stand for much text. ``most_bytes``, and ``most_values`` of a column, bound what a file unpacks to.
    """

    schema: pa.Schema
    texts: frozenset[str]
    repeated: frozenset[str]
    numbers: frozenset[str]
    row_group_rows: int
    most_bytes: int
    most_values: int

    @cached_property
    def bounds(self) -> Bounds:
        """The same in the words of Parquet, taken from a file without rows."""
        empty = _encoded(self.schema.empty_table(), self)
        return Bounds(schema_of(empty), self.texts | self.repeated, self.numbers, self.most_bytes, self.most_values)


def write_table(table: pa.Table, shape: Shape) -> bytes:
    """Return a Parquet file; the same table gives the same bytes under one version of pyarrow.

    Raises:
        IntegrityError: nobody could read it back: it would unpack to more than the shape allows.
    """
    data = _encoded(table, shape)
    try:
        rewritten(data, shape.bounds, rows=table.num_rows)
    except ValueError as error:
        raise malformed("a file that was to be written", error) from error
    return data


def _encoded(table: pa.Table, shape: Shape) -> bytes:
    out = io.BytesIO()
    pq.write_table(
        table,
        out,
        row_group_size=shape.row_group_rows,
        version="2.6",
        data_page_version="1.0",
        data_page_size=_PAGE_BYTES,
        dictionary_pagesize_limit=_PAGE_BYTES,
        use_dictionary=sorted(shape.texts | shape.repeated),
        column_encoding={name: "DELTA_BINARY_PACKED" for name in sorted(shape.numbers)},
        compression=_COMPRESSION,
        compression_level=_LEVEL if _COMPRESSION == "zstd" else None,
        write_statistics=False,
        store_schema=False,
    )
    return out.getvalue()


def read_tables(data: bytes | memoryview, shape: Shape, *, what: str, rows: int | None) -> Iterator[pa.Table]:
    """Yield a file's row groups, each as a table of one chunk a column.

    Raises:
        IntegrityError: it is not a Parquet file of this shape, or not of ``rows`` rows, or would unpack to more than
            the shape allows; or pyarrow cannot read it, for whatever reason.
    """
    # pyarrow raises what it likes (ArrowInvalid, OSError, MemoryError, OverflowError, ...): all is one to a reader.
    try:
        sound, counts = rewritten(data, shape.bounds, rows=rows)
        file = pq.ParquetFile(
            pa.BufferReader(pa.py_buffer(sound)), read_dictionary=sorted(shape.texts), pre_buffer=False
        )
    except Exception as error:
        raise malformed(what, error) from error
    for group, count in enumerate(counts):
        try:
            table = file.read_row_group(group, use_threads=False).combine_chunks()
            table.validate(full=True)
            if table.num_rows != count:
                raise ValueError(f"{table.num_rows} rows instead of {count}")
        except Exception as error:
            raise malformed(what, error) from error
        yield table


def malformed(what: str, error: Exception | str) -> IntegrityError:
    """Return the error that says of a file why it is malformed, in one line."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return IntegrityError(f"{what} is malformed: {reason}")
