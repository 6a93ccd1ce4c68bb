"""The few things in which SQLite and PostgreSQL differ; everything else in the catalog is the same SQL.

SQLite runs in WAL mode (set once, by the migration that makes the file), so readers never wait for a writer. A
commit is synced to the disk (``synchronous=FULL``): the catalog is what makes a pack or an augmentation count, and a
build commits once for a group of adapters, so the sync costs milliseconds against seconds of training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from sqlalchemy import URL, Column, Connection, Dialect, Engine, Table, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, StatementError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry

from registry.catalog.chunks import chunked
from registry.catalog.names import SQLITE, sqlite_path
from registry.errors import HomeError
from registry.masking import MASK, keep_secret

LOCK_SECONDS = 30
"""How long a writer waits for another one before it gives up with BusyError."""

BULK = {"synchronize_session": False}
"""Options of statements that change many rows: without, SQLAlchemy reads back every key that they touched."""

_SECRET_PARAMETERS = ("password", "sslpassword")
_PLAIN_PARAMETERS = (
    *(
        "application_name",
        "client_encoding",
        "connect_timeout",
        "dbname",
        "host",
        "hostaddr",
        "port",
        "service",
        "user",
    ),
    *("sslcert", "sslkey", "sslmode", "sslrootcert", "target_session_attrs"),
)
"""What may be shown of a URL's options: of a misspelled one nobody knows whether it is a password."""
_SCHEMA_LOCK = 0x70726167  # any fixed number; it names the lock under which PostgreSQL schemas are changed
_INSERT_ROWS = 2_000

MARKS = {"sqlite": "?", "postgresql": "%s"}
"""How a value is left open in the text of a statement, by the name of the dialect."""


def parse_url(text: str) -> URL:
    """Return the database that ``text`` names: ``sqlite:///PATH`` or ``postgresql://user:password@host/name``.

    Raises:
        HomeError: it names no database that the catalog can live in.
    """
    hint = "give sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE in pragreg.toml, [catalog] url"
    path = sqlite_path(text)
    if path is not None:
        if path and path != ":memory:":
            return URL.create("sqlite+pysqlite", database=path)
        raise HomeError("the catalog needs a file, but its url names none", hint=hint)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The text is not repeated: what cannot be parsed may hold a password that cannot be masked.
        raise HomeError("the catalog's url cannot be understood", hint=hint) from None
    if url.host and "@" in url.host:
        # Neither here: what stands before the last @ is the rest of a password.
        raise HomeError("the catalog's url has several @; in a password it is written %40", hint=hint)
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise HomeError(f"the catalog cannot live in {safe_url(url)}", hint=hint)
    keep_secret(url.password)
    for value in (url.query.get(parameter, ()) for parameter in _SECRET_PARAMETERS):
        keep_secret(*((value,) if isinstance(value, str) else value))
    if find_spec("psycopg") is None:
        raise HomeError("a catalog on PostgreSQL needs the driver psycopg", hint='pip install "pragreg[postgres]"')
    return url.set(drivername="postgresql+psycopg")


def safe_url(url: URL) -> str:
    """Return the URL for people to read: as they write it, with passwords masked."""
    if url.get_backend_name() == "sqlite":
        return f"{SQLITE}{url.database or ''}"
    hidden = {name: MASK for name in url.query if name not in _PLAIN_PARAMETERS}
    shown = url.update_query_dict(hidden).set(drivername=url.get_backend_name())
    return shown.render_as_string(hide_password=True).replace(quote_plus(MASK), MASK)


def sqlite_file(url: URL) -> Path | None:
    """Return the file of an SQLite catalog, None for PostgreSQL."""
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def make_engine(url: URL, *, for_migration: bool = False) -> Engine:
    """Return an engine; connections of ``writer(engine)`` take the write lock when a transaction begins.

    ``for_migration`` leaves SQLite's foreign keys off, since altering a table there means rebuilding it, and turns
    the file to WAL.
    """
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": LOCK_SECONDS})
        event.listen(engine, "connect", _prepare_migrating_sqlite if for_migration else _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    defaults = {"connect_timeout": 10, "application_name": "pragreg"}
    engine = create_engine(
        url,
        pool_pre_ping=True,  # a build trains for hours between two commits
        connect_args={name: value for name, value in defaults.items() if name not in url.query},
    )
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def writer(engine: Engine) -> Engine:
    """Return the engine for transactions that write."""
    return engine.execution_options(pragreg_writes=True)


def reader(engine: Engine) -> Engine:
    """Return the engine for transactions that only read, each of them one unchanging snapshot."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine


def end_reading(session: Session) -> None:
    """End the transaction of a session of ``reader``, where that is better than having it undone.

    After a rollback psycopg forgets the statements that it has prepared, so that each would be planned anew.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.commit()


def scratch(engine: Engine) -> Engine:
    """Return the engine for transactions that make temporary tables, see one unchanging snapshot and are undone."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="REPEATABLE READ")
    return engine.execution_options(pragreg_scratch=True)


def insert_new(session: Session, model: type[DeclarativeBase], rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert the rows of which no unique key is taken yet, and leave the others as they are.

    All have the same columns; what they lack gets the database's own default. The driver is given them directly:
    binding each by itself, as SQLAlchemy does, takes most of the time.
    """
    table = model.__table__
    assert isinstance(table, Table)
    connection = session.connection()
    dialect = connection.dialect
    for chunk in chunked(rows, _INSERT_ROWS):
        columns = [table.c[name] for name in chunk[0]]
        values = [_bound(column, [row[column.name] for row in chunk], dialect) for column in columns]
        names = ", ".join(f'"{column.name}"' for column in columns)
        marks = ", ".join([MARKS[dialect.name]] * len(columns))
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        connection.exec_driver_sql(statement, list(zip(*values, strict=True)))


def mark(session: Session) -> str:
    """Return how a value is left open in a statement for ``driver_rows``."""
    return MARKS[session.get_bind().dialect.name]


def driver_rows(session: Session, statement: str, values: Sequence[str | int]) -> Iterable[Sequence[Any]]:
    """Run the text of a statement in the session's transaction and return its rows, as the driver reads them.

    For what every question waits for: SQLAlchemy takes several times as long to hand over a few rows as the database to
    find them. Drivers prepare a statement once for as long as its text stays the same.
    """
    driver: Any = session.connection().connection.driver_connection
    rows: Iterable[Sequence[Any]] = driver.execute(statement, values)
    return rows


def _bound(column: Column[Any], values: list[Any], dialect: Dialect) -> list[Any]:
    """Return values of a column as the driver takes them."""
    process = column.type.dialect_impl(dialect).bind_processor(dialect)
    if process is None:
        return values
    try:
        # Rows of one moment share it.
        bound = {id(value): process(value) for value in {id(value): value for value in values}.values()}
    except (TypeError, ValueError) as error:  # as SQLAlchemy tells it
        raise StatementError(f"{column}: {error}", None, None, error) from error
    return [bound[id(value)] for value in values]


def refresh_statistics(session: Session, *models: type[DeclarativeBase] | Table) -> None:
    """Tell PostgreSQL's planner about rows inserted in this transaction; SQLite plans well without."""
    if session.get_bind().dialect.name == "postgresql":
        for model in models:
            name = model.name if isinstance(model, Table) else model.__tablename__
            session.connection().exec_driver_sql(f"ANALYZE {name}")


def lock_schema(connection: Connection) -> None:
    """Let only one process change the schema; SQLite's write lock does that already."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")


def lock_packs(session: Session) -> None:
    """Let nobody add or forget a pack until this transaction ends; SQLite's write lock does that already.

    Call it first, before the transaction holds anything that another may wait for.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.connection().exec_driver_sql("LOCK TABLE packs IN SHARE ROW EXCLUSIVE MODE")


def lock_builds_and_packs(session: Session) -> None:
    """Let no build begin or end, and nobody add or forget a pack, until this transaction ends; as ``lock_packs``."""
    if session.get_bind().dialect.name == "postgresql":
        session.connection().exec_driver_sql("LOCK TABLE builds, packs IN SHARE ROW EXCLUSIVE MODE")


def lock_api_keys(session: Session) -> None:
    """Let nobody add or revoke an API key until this transaction ends; SQLite's write lock does that already."""
    if session.get_bind().dialect.name == "postgresql":
        session.connection().exec_driver_sql("LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE")


def encoding(connection: Connection) -> str:
    """Return how the database keeps text; a new SQLite file is always UTF-8."""
    if connection.dialect.name == "postgresql":
        return str(connection.exec_driver_sql("SHOW server_encoding").scalar_one())
    return "UTF8"


def dangling_rows(connection: Connection) -> list[str]:
    """Return the tables with rows whose foreign keys point nowhere, after a migration with SQLite's checks off."""
    if connection.dialect.name == "sqlite":
        return sorted({str(row[0]) for row in connection.exec_driver_sql("PRAGMA foreign_key_check")})
    return []


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver's own transaction handling begins too late for BEGIN IMMEDIATE and commits around DDL.
    connection.isolation_level = None
    # SQLite's own lower() knows ASCII only; titles do not.
    connection.create_function("lower", 1, lambda value: None if value is None else str(value).lower())
    # Up to 256 MiB of pages are kept: digests fall anywhere in an index, and a million of them take 90 MB.
    for pragma in ("foreign_keys=ON", "synchronous=FULL", "cache_size=-262144", "journal_size_limit=67108864"):
        connection.execute(f"PRAGMA {pragma}")


def _prepare_migrating_sqlite(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    _prepare_sqlite(connection, entry)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=OFF")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    writes = options.get("pragreg_writes", False)
    # Temporary tables are written to as well, but lock nothing.
    query_only = "OFF" if writes or options.get("pragreg_scratch") else "ON"
    if connection.info.get("query_only") != query_only:
        connection.exec_driver_sql(f"PRAGMA query_only={query_only}")
        connection.info["query_only"] = query_only
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("pragreg_writes", False):
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
