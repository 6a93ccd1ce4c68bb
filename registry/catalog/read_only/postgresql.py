"""Queries on a PostgreSQL server in a transaction that is READ ONLY."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL

from registry.catalog import dialect
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

if TYPE_CHECKING:
    import psycopg

_HARMLESS = (
    "clock_timestamp",
    "gen_random_uuid",
    "pg_database_size",
    "pg_indexes_size",
    "pg_relation_size",
    "pg_sleep",
    "pg_table_size",
    "pg_total_relation_size",
    "random",
    "timeofday",
)
"""Functions that PostgreSQL marks as VOLATILE and that change nothing."""

_OWN_FAULTS = ("", "08", "40", "53", "57", "58")
"""Classes of codes that are no fault of the query; https://www.postgresql.org/docs/current/errcodes-appendix.html"""

_CURSOR = "pragreg"
_SETTINGS = (
    "SET standard_conforming_strings = on",
    "SET TIME ZONE 'UTC'",
    "SET jit = off",  # to compile a query takes longer than most of these take
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
)
_VOLATILE = """
SELECT DISTINCT CAST(proname AS text) FROM pg_catalog.pg_proc WHERE provolatile = 'v' AND proname = ANY(%s) ORDER BY 1
"""
_DECLARE = f'DECLARE "{_CURSOR}" CURSOR FOR '


@contextmanager
def open_postgresql(url: URL) -> Iterator[tuple[ReadOnly, str | None]]:
    """Connect, and yield the connection with the revision of the catalog in it."""
    engine = dialect.make_engine(url)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as pooled:
            connection = pooled.connection.driver_connection
            assert connection is not None
            for setting in _SETTINGS:
                connection.execute(setting)
            has_revision = connection.execute("SELECT 1 WHERE to_regclass('alembic_version') IS NOT NULL").fetchone()
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone() if has_revision else None
            reader = _Postgresql(connection)
            try:
                yield reader, None if found is None else str(found[0])
            finally:
                reader.close()
                pooled.invalidate()  # the connection goes, with its transaction and its settings
    finally:
        engine.dispose()


class _Postgresql:
    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection
        self._cursor: psycopg.Cursor[Row] | None = None

    def close(self) -> None:
        """Close what is left of the last query."""
        if self._cursor is not None:
            self._cursor.close()

    def query(self, text: str, parameters: Mapping[str, Any] | None = None, *, timeout_seconds: float) -> Result:
        import psycopg

        self.close()
        statement, values = checked_statement(text, parameters or {})
        clock = Clock(timeout_seconds)
        self._refuse_volatile(statement)
        given = [values[name] for name in statement.parameters]
        # EXPLAIN and SHOW cannot be declared as cursors; what they say is short.
        is_short = statement.first_word in ("explain", "show")
        cursor: psycopg.RawCursor[Row] | psycopg.RawServerCursor[Row]
        cursor = psycopg.RawCursor(self._connection) if is_short else psycopg.RawServerCursor(self._connection, _CURSOR)
        self._cursor = cursor
        with clock.running(), _postgresql_errors(statement, clock, prefix="" if is_short else _DECLARE):
            self._limit(clock)
            # Prepared, or declared: either way the server takes one statement only.
            cursor.execute(statement.numbered(), given, **({"prepare": True} if is_short else {}))
            columns = tuple(str(column.name) for column in cursor.description or ())
        return Result(columns, self._rows(cursor, statement, clock))

    def _rows(self, cursor: psycopg.Cursor[Row], statement: Statement, clock: Clock) -> Iterator[Row]:
        for size in batch_sizes():
            with clock.running(), _postgresql_errors(statement, clock):
                self._limit(clock)
                rows = cursor.fetchmany(size)
            for row in rows:
                yield tuple(map(plain_value, row))
            if len(rows) < size:
                return

    def _limit(self, clock: Clock) -> None:
        if clock.left_seconds <= 0:
            raise clock.error()
        milliseconds = min(max(1, int(clock.left_seconds * 1000)), 2**31 - 1)
        self._connection.execute(f"SET LOCAL statement_timeout = {milliseconds}")

    def _refuse_volatile(self, statement: Statement) -> None:
        if "&" in statement.text and 'u&"' in statement.text.lower():
            raise refused('names written as U&"..." are not taken')
        found = self._connection.execute(_VOLATILE, [sorted(statement.names - set(_HARMLESS))]).fetchall()
        if found:
            raise refused(f"the function {found[0][0]} may have effects")


@contextmanager
def _postgresql_errors(statement: Statement, clock: Clock, *, prefix: str = "") -> Iterator[None]:
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        state = error.sqlstate or ""
        message = error.diag.message_primary or str(error)
        if state == "57014":
            raise clock.error() from error
        if state in ("25006", "42501"):
            raise refused(message) from error
        if state[:2] in _OWN_FAULTS and not isinstance(error, psycopg.DataError):
            raise
        position = error.diag.statement_position
        offset = None if position is None else int(position) - 1 - len(prefix)
        detail = error.diag.message_hint
        message = message if not detail else f"{message} ({detail[0].lower()}{detail[1:].rstrip('.')})"
        found = statement.original_offset(offset) if offset is not None and offset >= 0 else None
        raise wrong_query(statement, message, found) from error
