"""A catalog as one SQLite file that stands for itself: taken from any catalog, looked at, and loaded into another."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from registry.catalog import dialect, schema
from registry.catalog.dialect import BULK
from registry.catalog.engine import open_catalog
from registry.catalog.failures import translated
from registry.catalog.models import BuildAdapterRow, BuildItemRow, BuildRow, PackRow, VersionRow, utc_now
from registry.catalog.transfer.bulk import has_rows
from registry.catalog.transfer.copying import TABLES, copy_catalog
from registry.errors import HomeError, StorageError
from registry.progress import Progress

_WORDS = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot names: how many versions, and the size in bytes of every pack by digest."""

    versions: int
    packs: dict[str, int]


def take_snapshot(url: str, file: Path, progress: Progress) -> Snapshot:
    """Write one state of the catalog at ``url`` to a new SQLite file, synced to the disk; nobody has to wait for it.

    Raises:
        HomeError: there is no catalog, or one of another schema.
        StorageError: it cannot be read, the file cannot be written, or the catalog is damaged.
    """
    with open_catalog(url) as catalog:
        name = catalog.safe_url
    _remove(file)
    source = dialect.sqlite_file(dialect.parse_url(url))
    if source is not None:
        progress.start("copying the catalog")
        _copy_file(source, file, name)
    else:
        copy_catalog(url, sqlite_url(file), progress)
    _seal(file, name)
    return look_at(sqlite_url(file))


def look_at(url: str) -> Snapshot:
    """Return what the catalog at ``url`` names.

    Raises:
        HomeError: there is no catalog, or one of another schema.
        StorageError: it cannot be read.
    """
    with open_catalog(url) as catalog, catalog.read() as session:
        packs = session.execute(select(PackRow.digest, PackRow.size_bytes).order_by(PackRow.digest))
        return Snapshot(session.scalar(select(func.count()).select_from(VersionRow)) or 0, dict(list(packs)))


def prepare_snapshot(snapshot: Path, file: Path, reason: str) -> Snapshot:
    """Copy a snapshot to ``file``, upgrade that to this program's schema, and end the builds that ran in it.

    Their processes know another catalog; ``reason`` says in the builds' rows why they ended.

    Raises:
        HomeError: it is of a newer pragreg, or is no catalog.
        StorageError: it is damaged, or the file cannot be written.
    """
    _remove(file)
    _copy_file(snapshot, file, str(snapshot))
    url = sqlite_url(file)
    if schema.current(url) is None:
        raise HomeError(f"{snapshot} is no catalog", hint="name a folder that `pragreg backup` made")
    schema.upgrade(url)
    with open_catalog(url) as catalog, catalog.write() as session:
        _end_builds(session, reason)
    _seal(file, str(snapshot))
    return look_at(url)


def load_snapshot(file: Path, url: str, progress: Progress) -> None:
    """Put a prepared snapshot into the catalog at ``url``, which has no rows or is not there; all of it or nothing.

    Raises:
        HomeError: the catalog has rows or another schema.
        StorageError: it cannot be reached or written.
    """
    target = dialect.sqlite_file(dialect.parse_url(url))
    if target is None:
        copy_catalog(sqlite_url(file), url, progress)
        return
    require_empty(url)
    progress.start("restoring the catalog")
    _copy_file(file, target, dialect.safe_url(dialect.parse_url(url)))
    schema.upgrade(url)  # nothing is left to upgrade, but this turns on what readers beside writers need


def require_empty(url: str) -> None:
    """Check that there is no catalog at ``url``, or one without rows.

    Raises:
        HomeError: there are rows, or it has another schema.
    """
    if schema.current(url) is None:
        return
    with open_catalog(url) as catalog, catalog.read() as session:
        filled = [table.name for table in TABLES if has_rows(session.connection(), table)]
        if filled:
            raise HomeError(
                f"the catalog {catalog.safe_url} is not empty: there are rows in {', '.join(filled[:_WORDS])}",
                hint="restore into a new home: pragreg restore DIR --home FOLDER",
            )


def sqlite_url(file: Path) -> str:
    """Return the URL of an SQLite file."""
    return f"sqlite:///{quote(str(file.absolute()))}"


def _copy_file(source: Path, target: Path, name: str) -> None:
    """Copy one state of an SQLite database over another, in one transaction of that."""
    with (
        translated(name),
        closing(sqlite3.connect(f"file:{quote(str(source.absolute()))}?mode=rw", uri=True)) as reading,
        closing(sqlite3.connect(target, timeout=dialect.LOCK_SECONDS)) as writing,
    ):
        reading.execute("PRAGMA query_only=ON")
        reading.backup(writing)  # all pages in one step: writers in WAL mode go on, and this does not begin again


def _seal(file: Path, name: str) -> None:
    """Make a database one file without a log beside, check it, and sync it."""
    with translated(name), closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise StorageError(
            f"the catalog {name} is damaged: {problem}",
            hint="restore it from a backup; `sqlite3 FILE .recover` reads what can still be read",
        )
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _end_builds(session: Session, reason: str) -> None:
    ended = update(BuildRow).where(BuildRow.status == "running")
    session.execute(ended.values(status="interrupted", finished_at=utc_now(), error=reason), execution_options=BULK)
    for model in (BuildItemRow, BuildAdapterRow):
        session.execute(delete(model), execution_options=BULK)


def _remove(file: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
