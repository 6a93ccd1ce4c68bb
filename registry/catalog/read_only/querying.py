"""What querying shares on both databases: the check of a statement, the clock, plain values, the errors."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from typing import Any, Protocol

from registry.catalog.read_only.statements import Statement, line_and_column, parse_statement, pointed_at
from registry.catalog.views import VIEWS
from registry.errors import UsageError

READING_WORDS = ("select", "with", "values", "table", "show")
"""What a query may begin with; EXPLAIN may stand before it."""

_BATCHES = (1, 100, 1_000)
"""Rows asked for at once: one first, so that it comes as soon as there is one."""

_HINT = f"the views are {', '.join(sorted(VIEWS))}; docs/sql.md has their columns"

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a query gives: the names of its columns, and its rows as they come."""

    columns: tuple[str, ...]
    rows: Iterator[Row]


class ReadOnly(Protocol):
    """A connection that reads one unchanging state of the catalog."""

    def query(self, text: str, parameters: Mapping[str, Any] | None = None, *, timeout_seconds: float) -> Result:
        """Run one statement with its ``:name`` parameters; rows are read as they are asked for.

        Values are plain: texts, numbers, truth values, lists, objects, and moments in UTC (on SQLite, which has no
        type for moments, where the name of the column ends in ``_at``). ``timeout_seconds`` is what the database may
        work, however long the rows then wait to be read.

        Raises:
            UsageError: the query is wrong, may change something, or took too long; or a parameter lacks its value.
            StorageError: the catalog cannot be read.
        """


class Clock:
    """Counts the time in which the database works."""

    def __init__(self, timeout_seconds: float) -> None:
        """Begin with nothing used."""
        self.timeout_seconds = timeout_seconds
        self._used_seconds = 0.0
        self._started: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time within the ``with`` block."""
        self._started = time.monotonic()
        try:
            yield
        finally:
            self._used_seconds += time.monotonic() - self._started
            self._started = None

    @property
    def left_seconds(self) -> float:
        """What is left of the time; below 0 there is none."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self.timeout_seconds - self._used_seconds - running

    def error(self) -> UsageError:
        """Return the error for a query that took too long."""
        return UsageError(
            f"the query was stopped after {self.timeout_seconds:g} seconds",
            hint="ask for less, or give it longer with --timeout SECONDS",
        )


def checked_statement(text: str, parameters: Mapping[str, Any]) -> tuple[Statement, dict[str, Any]]:
    """Return the one statement that ``text`` is, and the values of its parameters.

    Raises:
        UsageError: it is none that reads, or there are several; or a parameter has no value, or a value no parameter.
    """
    statement = parse_statement(text)
    # What EXPLAIN explains counts: PostgreSQL runs EXPLAIN ANALYZE CREATE TABLE even where it is to read only.
    if statement.what not in READING_WORDS:
        raise UsageError(
            f"only queries that read are taken, and this one begins with {statement.what.upper()}",
            hint=f"begin with {', '.join(READING_WORDS).upper()} or EXPLAIN; other commands make changes",
        )
    missing = [name for name in statement.parameters if name not in parameters]
    if missing:
        raise UsageError(f"the query's :{missing[0]} has no value", hint=f"-p {missing[0]}=VALUE")
    unknown = sorted(parameters.keys() - set(statement.parameters))
    if unknown:
        named = ", ".join(f":{name}" for name in statement.parameters) or "no parameter"
        raise UsageError(f"the query has no :{unknown[0]}; it has {named}", hint=f"write :{unknown[0]} in the query")
    return statement, dict(parameters)


def batch_sizes() -> Iterator[int]:
    """Yield how many rows to ask for, without end."""
    yield from _BATCHES[:-1]
    while True:
        yield _BATCHES[-1]


def refused(why: str) -> UsageError:
    """Return the error for a query that does more than reading."""
    return UsageError(
        f"only queries that read the catalog are taken: {why}",
        hint="changes are made by pragreg's other commands",
    )


def wrong_query(statement: Statement, message: str, offset: int | None) -> UsageError:
    """Return the error for what the database says of a query, with the place in it at ``offset``, if that is known."""
    text = " ".join(message.split())
    if offset is None:
        return UsageError(f"the query is wrong: {text}", hint=_HINT)
    line, column = line_and_column(statement.text, offset)
    place = f"line {line}, column {column}"
    return UsageError(f"the query is wrong at {place}: {text}\n{pointed_at(statement.text, offset)}", hint=_HINT)


def plain_value(value: Any) -> Any:
    """Return what a driver gives as text, number, truth value, moment, list or object."""
    if value is None or isinstance(value, (str, int, float, list, dict)):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo is not None else value
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        return int(value) if isinstance(exponent, int) and exponent >= 0 else float(value)
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    return value.isoformat() if isinstance(value, (date, clock)) else str(value)
