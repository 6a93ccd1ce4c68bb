"""Queries on an SQLite file that is opened to be read only."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from registry.catalog.dialect import LOCK_SECONDS
from registry.catalog.read_only.querying import (
    Clock,
    ReadOnly,
    Result,
    Row,
    batch_sizes,
    checked_statement,
    plain_value,
    refused,
    wrong_query,
)
from registry.catalog.read_only.statements import Statement
from registry.errors import UsageError

_READING_PRAGMAS = (
    *("database_list", "foreign_key_list", "index_info", "index_list", "index_xinfo"),
    *("table_info", "table_list", "table_xinfo"),
)
_REFUSED_FUNCTIONS = ("load_extension", "fts3_tokenizer", "readfile", "writefile", "edit")
_OWN_FAULTS = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT),
    *(sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_PERM),
)
"""Codes that are no fault of the query."""

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?")
_MATHEMATICS: dict[str, Callable[[float], float]] = {"floor": math.floor, "ln": math.log, "exp": math.exp}
"""What the reports need of it."""
_STEPS_BETWEEN_CHECKS = 20_000


@contextmanager
def open_sqlite(file: Path) -> Iterator[tuple[ReadOnly, str | None]]:
    """Open the file, and yield the connection with the revision of the catalog in it."""
    uri = f"file:{quote(str(file.absolute()))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=LOCK_SECONDS)
    try:
        # As on PostgreSQL, not for ASCII alone.
        for name, function in (("lower", str.lower), ("upper", str.upper)):
            connection.create_function(name, 1, _on_text(function), deterministic=True)
        known = {str(row[0]) for row in connection.execute("SELECT name FROM pragma_function_list")}
        for name in _MATHEMATICS.keys() - known:  # SQLite may be built without
            connection.create_function(name, 1, _on_number(_MATHEMATICS[name]), deterministic=True)
        connection.execute("PRAGMA query_only=ON")
        connection.execute("BEGIN")
        has_revision = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone() if has_revision else None
        # Tables that are functions declare themselves when they are first named, which the authorizer would refuse.
        for table in (*(f"pragma_{name}" for name in _READING_PRAGMAS), "json_each", "json_tree"):
            connection.execute(f"SELECT 1 FROM {table} LIMIT 0").close()
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_authorizer(_authorize)
        yield _Sqlite(connection), None if found is None else str(found[0])
    finally:
        connection.close()


def _on_text(function: Callable[[str], str]) -> Callable[[object], str | None]:
    return lambda value: None if value is None else function(str(value))


def _on_number(function: Callable[[float], float]) -> Callable[[float | None], float | None]:
    return lambda value: None if value is None else float(function(value))


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _view: str | None) -> int:
    allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
    allowed = allowed or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _REFUSED_FUNCTIONS)
    allowed = allowed or (action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _READING_PRAGMAS)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


class _Sqlite:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def query(self, text: str, parameters: Mapping[str, Any] | None = None, *, timeout_seconds: float) -> Result:
        statement, values = checked_statement(text, parameters or {})
        clock = Clock(timeout_seconds)
        self._connection.set_progress_handler(lambda: clock.left_seconds < 0, _STEPS_BETWEEN_CHECKS)
        with _sqlite_errors(statement, clock), clock.running():
            cursor = self._connection.execute(statement.text, values)
        columns = tuple(str(column[0]) for column in cursor.description or ())
        return Result(columns, self._rows(cursor, statement, clock))

    def _rows(self, cursor: sqlite3.Cursor, statement: Statement, clock: Clock) -> Iterator[Row]:
        moments = [str(column[0]).endswith("_at") for column in cursor.description or ()]
        for size in batch_sizes():
            with _sqlite_errors(statement, clock), clock.running():
                rows = cursor.fetchmany(size)
            for row in rows:
                yield tuple(
                    _moment(value) if moment else plain_value(value) for moment, value in zip(moments, row, strict=True)
                )
            if len(rows) < size:
                return


def _moment(value: Any) -> Any:
    """Return a moment as PostgreSQL gives it, for SQLite keeps it as text, in UTC."""
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return plain_value(value)


@contextmanager
def _sqlite_errors(statement: Statement, clock: Clock) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _OWN_FAULTS:
            raise
        if code == sqlite3.SQLITE_INTERRUPT:
            if clock.left_seconds > 0:
                # A signal came while SQLite asked for the time, and SQLite keeps what its handler raised to itself.
                raise KeyboardInterrupt from error
            raise clock.error() from error
        if code in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY) or "not authorized" in str(error):
            raise refused(str(error)) from error
        raise wrong_query(statement, str(error), _mentioned(statement.text, str(error))) from error
    except OverflowError as error:
        raise UsageError(f"a number is too large for the database: {error}", hint="give at most 2**63 - 1") from error


def _mentioned(text: str, message: str) -> int | None:
    """Return where the name that SQLite complains of stands in the query, if that is certain."""
    for opening, closing in (('near "', '":'), ("no such column: ", ""), ("no such table: ", ""), ("function: ", "")):
        _, found, rest = message.partition(opening)
        if found:
            name = rest[: rest.rfind(closing)] if closing else rest
            return text.find(name) if name and text.count(name) == 1 else None
    return None
