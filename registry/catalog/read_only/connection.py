"""Queries by people and by reports, on a connection that can change nothing; rows stream.

What holds on SQLite: the file is opened with ``mode=ro`` and ``query_only``; an authorizer lets a statement read tables
and call functions, and nothing else (no ATTACH, no PRAGMA that sets anything, no extension is loaded).

What holds on PostgreSQL: one statement in a transaction that is READ ONLY and is rolled back, sent by the protocol that
takes no second one. Only SELECT, WITH, VALUES, TABLE, SHOW and EXPLAIN are taken, so there is no SET, COPY, DO or CALL;
functions that the server marks as VOLATILE are refused but for a few harmless ones, since among them are all that reach
files, other sessions, settings or other SQL (pg_read_file, lo_export, set_config, pg_terminate_backend, query_to_xml).

What remains possible: to read all that the role may read, which for a superuser are the server's settings and the
password hashes of roles too; and to take a processor for as long as the timeout lets it. Where that matters, let people
query with a role of their own that may only SELECT from the views.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from registry.catalog import dialect
from registry.catalog.failures import translated
from registry.catalog.read_only.postgresql import open_postgresql
from registry.catalog.read_only.querying import READING_WORDS, ReadOnly, Result, Row
from registry.catalog.read_only.sqlite import open_sqlite
from registry.catalog.revisions import refuse_other_schema

__all__ = ["READING_WORDS", "ReadOnly", "Result", "Row", "open_read_only"]


@contextmanager
def open_read_only(url: str) -> Iterator[ReadOnly]:
    """Open the catalog at ``url`` for queries.

    Raises:
        HomeError: there is no catalog, or its schema is older or newer than this program's.
        StorageError: the database cannot be reached or read.
    """
    parsed = dialect.parse_url(url)
    name = dialect.safe_url(parsed)
    file = dialect.sqlite_file(parsed)
    if file is not None and not file.exists():
        refuse_other_schema(None, name)
    opened = open_sqlite(file) if file is not None else open_postgresql(parsed)
    with translated(name), opened as (connection, revision):
        refuse_other_schema(revision, name)
        yield connection
