"""Opening a catalog, and the two kinds of transactions on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from sqlalchemy import URL, Connection, Engine, inspect, text
from sqlalchemy.orm import Session

from registry.catalog import dialect
from registry.catalog.failures import translated
from registry.catalog.revisions import refuse_other_schema


class Catalog:
    """An open catalog: what SQL knows of a registry. Close it, or use it in a ``with`` statement."""

    def __init__(self, engine: Engine, url: str) -> None:
        """Take an engine on ``url``, whose schema is known to be the one of this program (see ``open_catalog``)."""
        self._engine = engine
        self._url = url
        self._safe_url = dialect.safe_url(engine.url)
        self._reader = dialect.reader(engine)
        self._writer = dialect.writer(engine)
        self._scratch = dialect.scratch(engine)

    @property
    def url(self) -> str:
        """The database's URL as it was given, with its password: for workers, never for people."""
        return self._url

    @property
    def safe_url(self) -> str:
        """The database's URL with the password masked."""
        return self._safe_url

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Yield a session that sees one unchanging state and can change nothing.

        Raises:
            StorageError: the database cannot be read.
        """
        with self._translated(), Session(self._reader, autoflush=False, expire_on_commit=False) as session:
            yield session
            dialect.end_reading(session)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Yield a session whose work is committed at the end of the ``with`` block, or not at all.

        Writers follow each other: keep the block short.

        Raises:
            BusyError: another process is writing and does not finish.
            StorageError: the database cannot be written, or its disk is full.
        """
        with self._translated(), Session(self._writer, autoflush=False) as session, session.begin():
            yield session

    @contextmanager
    def scratch(self) -> Iterator[Session]:
        """Yield a session that sees one unchanging state, may make temporary tables, and is undone at the end.

        It keeps no writer waiting.

        Raises:
            StorageError: the database cannot be read, or there is no room for temporary tables.
        """
        with self._translated(), Session(self._scratch, autoflush=False) as session:
            yield session

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Catalog:
        """Return the catalog itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._safe_url)


def open_catalog(url: str) -> Catalog:
    """Open the catalog at ``url`` (``sqlite:///PATH`` or ``postgresql://...``).

    Raises:
        HomeError: there is no catalog, or its schema is older or newer than this program's.
        StorageError: the database cannot be reached or read.
    """
    parsed: URL = dialect.parse_url(url)
    name = dialect.safe_url(parsed)
    file = dialect.sqlite_file(parsed)
    if file is not None and not file.exists():
        # Connecting would create an empty file.
        refuse_other_schema(None, name)
    engine = dialect.make_engine(parsed)
    try:
        with translated(name), engine.connect() as connection:
            found = read_revision(connection)
        refuse_other_schema(found, name)
    except BaseException:
        engine.dispose()
        raise
    return Catalog(engine, url)


def read_revision(connection: Connection) -> str | None:
    """Return the database's revision, None if it has no catalog."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
