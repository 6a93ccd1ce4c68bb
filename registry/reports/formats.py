"""Rows as CSV, JSON Lines, Markdown and Parquet, as they come; the values are as they are, without units or cuts."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from registry.catalog.views import Column
from registry.errors import UsageError

TEXT_FORMATS = ("csv", "json", "markdown")
FORMATS = ("table", *TEXT_FORMATS, "parquet")
"""How rows may be written; a table is the command line's own."""

_GROUP_ROWS = 65_536
"""Rows of a Parquet row group, which are held in memory together."""

Row = Sequence[Any]


def text_lines(names: Sequence[str], rows: Iterable[Row], style: str) -> Iterator[str]:
    """Yield the lines of one of ``TEXT_FORMATS``, each with its end; JSON has no line of names."""
    unique = unique_names(names)
    if style == "csv":
        yield _csv_line(unique)
        for row in rows:
            yield _csv_line([_as_text(value) for value in row])
    elif style == "json":
        for row in rows:
            plain = {name: _as_json(value) for name, value in zip(unique, row, strict=True)}
            yield json.dumps(plain, ensure_ascii=False, default=str) + "\n"
    else:
        yield _markdown_line(unique)
        yield _markdown_line(["---"] * len(unique))
        for row in rows:
            yield _markdown_line([_as_text(value) for value in row])


def unique_names(names: Sequence[str]) -> list[str]:
    """Return ``names`` with a number behind those that stand a second time."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique


def write_parquet(
    path: Path, names: Sequence[str], rows: Iterable[Row], columns: Sequence[Column] | None = None
) -> None:
    """Write rows to a Parquet file; the kinds of ``columns`` are its types, or what the first rows show.

    Raises:
        UsageError: a column has values of several kinds.
    """
    import pyarrow
    from pyarrow import parquet

    kinds = {
        "text": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
        "moment": pyarrow.timestamp("us", tz="UTC"),
    }
    unique = unique_names(names)
    fields = None if columns is None else [kinds[column.kind] for column in columns]
    remaining = iter(rows)
    writer = None
    try:
        while (group := list(islice(remaining, _GROUP_ROWS))) or writer is None:
            values = [[_as_cell(row[index]) for row in group] for index in range(len(unique))]
            if fields is None:
                found = [_inferred(pyarrow, name, column) for name, column in zip(unique, values, strict=True)]
                fields = [pyarrow.string() if pyarrow.types.is_null(kind) else kind for kind in found]
            arrays = [
                _array(pyarrow, name, column, kind) for name, column, kind in zip(unique, values, fields, strict=True)
            ]
            table = pyarrow.Table.from_arrays(arrays, names=unique)
            if writer is None:
                writer = parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _inferred(pyarrow: Any, name: str, values: list[Any]) -> Any:
    try:
        return pyarrow.array(values).type
    except pyarrow.ArrowException as error:
        raise _mixed(name) from error


def _array(pyarrow: Any, name: str, values: list[Any], kind: Any) -> Any:
    try:
        return pyarrow.array(values, type=kind)
    except pyarrow.ArrowException as error:
        raise _mixed(name) from error


def _mixed(name: str) -> UsageError:
    return UsageError(
        f"the column {name} has values of several kinds, and Parquet takes one",
        hint=f"CAST({name} AS text) in the query",
    )


def _csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _markdown_line(cells: Sequence[str]) -> str:
    shown = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return f"| {' | '.join(shown)} |\n"


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else str(value)


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_cell(value: Any) -> Any:
    return _as_text(value) if isinstance(value, (list, dict)) else value
