"""Whole tables as streams of plain rows, which are the same on both databases.

A plain row is a tuple of the columns in their order: numbers, text and None. A moment is the text that SQLite keeps of
it, in UTC and to the microsecond; JSON is the text as it was stored, since another spelling would be another payload;
a boolean is 0 or 1. Rows come in order of the primary key, text compared byte by byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from typing import Any, TypeAlias

from sqlalchemy import JSON, Boolean, Column, Connection, Float, String, Table, Text

from registry.catalog.chunks import chunked
from registry.catalog.models.base import UtcDateTime
from registry.errors import InputError

PlainRow: TypeAlias = tuple[Any, ...]

_ROWS = 1_000
"""Rows in memory at once: a document's texts may be long."""

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_MOMENT = "to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"


def read_rows(connection: Connection, table: Table) -> Generator[list[PlainRow], None, None]:
    """Yield all rows of a table by the thousand, within the connection's transaction.

    The driver is asked directly: SQLAlchemy's rows and types take most of the time otherwise.
    """
    is_postgresql = connection.dialect.name == "postgresql"
    columns = ", ".join(_read(column, is_postgresql) for column in table.columns)
    order = ", ".join(_order(column, is_postgresql) for column in table.primary_key)
    driver: Any = connection.connection.driver_connection
    # Only a cursor with a name stays on PostgreSQL's side; the other kind fetches everything.
    with closing(driver.cursor(name="pragreg_rows") if is_postgresql else driver.cursor()) as cursor:
        cursor.execute(f"SELECT {columns} FROM {table.name} ORDER BY {order}")
        while rows := cursor.fetchmany(_ROWS):
            yield rows


def write_rows(connection: Connection, table: Table, rows: Iterable[PlainRow]) -> None:
    """Insert rows as ``read_rows`` gave them, ids and all.

    Raises:
        InputError: a value cannot be kept by this database; the message names the table and the row.
    """
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    driver: Any = connection.connection.driver_connection
    with closing(driver.cursor()) as cursor:
        if connection.dialect.name == "postgresql":
            cursor.execute("SET LOCAL TimeZone = 'UTC'")
            with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                for row in rows:
                    if any(type(value) is str and "\x00" in value for value in row):
                        raise _unstorable(table, row, "a NUL character, which PostgreSQL keeps in no text")
                    copy.write_row(row)
            return
        insert = f"INSERT INTO {table.name} ({names}) VALUES ({', '.join('?' * len(table.columns))})"
        for chunk in chunked(rows, _ROWS):
            for row in chunk:
                if any(type(value) is float and math.isnan(value) for value in row):
                    raise _unstorable(table, row, "a number that is none (NaN), which SQLite does not keep")
            cursor.executemany(insert, chunk)


def encode_rows(rows: Sequence[PlainRow]) -> bytes:
    """Return the one encoding of rows that digests of tables are taken of: JSON, a row a line."""
    return "".join([_encode(row) + "\n" for row in rows]).encode()


def has_rows(connection: Connection, table: Table) -> bool:
    """Return whether there is anything in a table."""
    return bool(connection.exec_driver_sql(f"SELECT EXISTS (SELECT 1 FROM {table.name})").scalar())


def lock_tables(connection: Connection, tables: Iterable[Table]) -> None:
    """Let nobody else write to these tables until the transaction ends; SQLite's write lock does that already."""
    if connection.dialect.name == "postgresql":
        names = ", ".join(table.name for table in tables)
        connection.exec_driver_sql(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")


def settle_tables(connection: Connection, tables: Iterable[Table]) -> None:
    """Have PostgreSQL number new rows behind the inserted ones, and plan for so many; SQLite needs neither."""
    if connection.dialect.name != "postgresql":
        return
    for table in tables:
        if [column.name for column in table.primary_key] == ["id"]:
            connection.exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), coalesce(max(id), 1), "
                f"max(id) IS NOT NULL) FROM {table.name}"
            )
        connection.exec_driver_sql(f"ANALYZE {table.name}")


def _read(column: Column[Any], is_postgresql: bool) -> str:
    name = f'"{column.name}"'
    if not is_postgresql:
        return name
    if isinstance(column.type, UtcDateTime):
        return _MOMENT.format(name=name)
    if isinstance(column.type, JSON):
        return f"{name}::text"
    if isinstance(column.type, Boolean):
        return f"{name}::int"
    # SQLite knows no negative zero.
    return f"{name} + 0.0" if isinstance(column.type, Float) else name


def _order(column: Column[Any], is_postgresql: bool) -> str:
    is_text = isinstance(column.type, (String, Text))
    return f'"{column.name}" COLLATE "C"' if is_postgresql and is_text else f'"{column.name}"'


def _unstorable(table: Table, row: PlainRow, what: str) -> InputError:
    values = dict(zip((column.name for column in table.columns), row, strict=True))
    key = ", ".join(f"{column.name} {values[column.name]!r}" for column in table.primary_key)
    return InputError(
        f"the table {table.name} cannot be copied: its row of {key} holds {what}",
        hint="keep this catalog where it is, or build the corpora anew in the other",
    )
