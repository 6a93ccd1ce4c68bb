"""Copying a whole catalog from one database to another, and checking that it arrived."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Connection, Table, select
from sqlalchemy.exc import DBAPIError

from registry.catalog import dialect, schema
from registry.catalog.builds import IsAlive
from registry.catalog.engine import open_catalog
from registry.catalog.failures import reason_of, translated
from registry.catalog.models import Base, BuildRow, CorpusRow
from registry.catalog.transfer.bulk import (
    PlainRow,
    encode_rows,
    has_rows,
    lock_tables,
    read_rows,
    settle_tables,
    write_rows,
)
from registry.errors import BusyError, HomeError, IntegrityError
from registry.progress import Progress

TABLES: tuple[Table, ...] = tuple(Base.metadata.sorted_tables)
"""Every table, those that others refer to first."""


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """A table as it lies in both catalogs: its rows and their sha256, and how long copying and checking took."""

    table: str
    rows: int
    digest: str
    elapsed_seconds: float


@dataclass(frozen=True, slots=True)
class CatalogCopy:
    """What was copied from where to where; URLs are without passwords."""

    source: str
    target: str
    tables: tuple[CopiedTable, ...]
    elapsed_seconds: float


@dataclass
class _Digest:
    """Counts and hashes the rows that pass."""

    rows: int = 0
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, rows: list[PlainRow]) -> None:
        self.rows += len(rows)
        self.sha256.update(encode_rows(rows))

    @property
    def result(self) -> tuple[int, str]:
        return self.rows, self.sha256.hexdigest()


def copy_catalog(source: str, target: str, progress: Progress, *, is_alive: IsAlive | None = None) -> CatalogCopy:
    """Copy all rows of the catalog at the URL ``source`` to the one at ``target``, which is made if it is not there.

    One state of the source is read, and the target gets all of it or nothing; both are hashed, table by table. Where
    ``is_alive`` is given, a build that may still run is refused: its process would go on writing to the source.

    Raises:
        HomeError: the source is no catalog of this schema; or the target is of another, or has rows.
        BusyError: a build is running.
        InputError: the target cannot keep a value; the message names the table and the row.
        IntegrityError: what arrived is not what was sent, or a row of the source refers to one that is not there.
        StorageError: a database cannot be reached, read or written.
    """
    start = time.perf_counter()
    with open_catalog(source) as origin:  # before anything is made at the target
        read_from = origin.safe_url
    if schema.current(target) is None:
        schema.upgrade(target)
    with open_catalog(target) as destination:
        written_to = destination.safe_url
    with _transaction(source, writes=False) as old, _transaction(target, writes=True) as new:
        if is_alive is not None:
            _refuse_running_builds(old, is_alive)
        lock_tables(new, TABLES)
        _refuse_rows(new, written_to)
        tables = tuple(_copy_table(old, new, table, progress) for table in TABLES)
        settle_tables(new, TABLES)
    progress.done()
    return CatalogCopy(read_from, written_to, tables, time.perf_counter() - start)


def _copy_table(old: Connection, new: Connection, table: Table, progress: Progress) -> CopiedTable:
    start = time.perf_counter()
    sent, arrived = _Digest(), _Digest()
    progress.start(f"copying {table.name}")

    def rows(chunks: Iterable[list[PlainRow]]) -> Iterator[PlainRow]:
        # The source's state does not change within its transaction: a second reading would give the same.
        for chunk in chunks:
            sent.add(chunk)
            yield from chunk
            progress.advance(len(chunk))

    with _naming(table), closing(read_rows(old, table)) as reading:
        write_rows(new, table, rows(reading))
    with closing(read_rows(new, table)) as reading:
        for chunk in reading:
            arrived.add(chunk)
    if sent.result != arrived.result:
        raise IntegrityError(
            f"the table {table.name} did not arrive as it was: {sent.rows} rows were sent and {arrived.rows} came, "
            f"with another sha256",
            hint="nothing was kept; try again, and report it if it happens twice",
        )
    return CopiedTable(table.name, sent.rows, sent.sha256.hexdigest(), time.perf_counter() - start)


@contextmanager
def _transaction(url: str, *, writes: bool) -> Iterator[Connection]:
    parsed = dialect.parse_url(url)
    engine = dialect.make_engine(parsed)
    try:
        kind = dialect.writer(engine) if writes else dialect.reader(engine)
        with translated(dialect.safe_url(parsed)), kind.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _naming(table: Table) -> Iterator[None]:
    """Say of which table a row is that breaks a rule of the target."""
    try:
        yield
    except Exception as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if {"IntegrityError", "DataError"} & {kind.__name__ for kind in type(cause).__mro__} and not isinstance(
            cause, IntegrityError
        ):
            raise IntegrityError(
                f"the table {table.name} cannot be copied, a row of it is not as it must be: {reason_of(cause)}",
                hint="pragreg verify shows what is wrong in the catalog that is copied",
            ) from error
        raise


def _refuse_rows(connection: Connection, name: str) -> None:
    filled = [table.name for table in TABLES if has_rows(connection, table)]
    if filled:
        more = f" and {len(filled) - 3} more" if len(filled) > 3 else ""
        raise HomeError(
            f"the catalog {name} is not empty: there are rows in {', '.join(filled[:3])}{more}",
            hint="copy to a database that is new or has an empty catalog",
        )


def _refuse_running_builds(connection: Connection, is_alive: IsAlive) -> None:
    query = select(CorpusRow.name, BuildRow.id, BuildRow.who, BuildRow.host, BuildRow.pid, BuildRow.started_at).join(
        CorpusRow, CorpusRow.id == BuildRow.corpus_id
    )
    for corpus, number, who, host, pid, started_at in connection.execute(query.where(BuildRow.status == "running")):
        if is_alive(host, pid, started_at):
            raise BusyError(
                f"corpus {corpus!r} is being built: build {number} by {who} on {host}, process {pid}, since "
                f"{started_at:%Y-%m-%d %H:%M:%S} UTC; it would go on writing to the catalog that is copied",
                hint=f"wait for it to end; if that process is gone: pragreg build SOURCE... --corpus {corpus} "
                f"--take-over",
            )
