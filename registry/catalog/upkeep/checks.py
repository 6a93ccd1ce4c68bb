"""What `pragreg verify` asks of the catalog alone: the database itself, rows without partners, texts and digests.

Everything here reads, set by set or in one stream, so that a million rows take seconds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, LargeBinary, Table, Text, and_, cast, exists, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.catalog.chunks import KEYS
from registry.catalog.models import (
    AugmentationRow,
    Base,
    BuildAdapterRow,
    BuildItemRow,
    BuildRow,
    CorpusRow,
    DocumentRow,
    RecipeRow,
)
from registry.digests import json_digest, short

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR}
_MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Dangling:
    """How many rows of a table refer to rows of another (``target``) that are not there."""

    table: str
    target: str
    rows: int


@dataclass(frozen=True, slots=True)
class Altered:
    """What does not have its digest any more, and how that shows."""

    digest: str
    detail: str


@dataclass(frozen=True, slots=True)
class RunningBuild:
    """A build that is recorded as running, and the process that runs it."""

    build_id: int
    corpus: str
    host: str
    pid: int
    started_at: datetime


@dataclass(frozen=True, slots=True)
class StagingLeft:
    """Staging rows of a build that is over."""

    build_id: int
    rows: int


def is_sqlite(session: Session) -> bool:
    """Return whether the catalog is an SQLite file."""
    return session.get_bind().dialect.name == "sqlite"


def database_problems(session: Session, *, thorough: bool) -> list[str]:
    """Return what SQLite's own check of the file finds; ``thorough`` compares every index with its table, too.

    A PostgreSQL server checks what it reads by itself, so of one there is nothing to return.
    """
    if not is_sqlite(session):
        return []
    check = "integrity_check" if thorough else "quick_check"
    try:
        rows = session.connection().exec_driver_sql(f"PRAGMA {check}({_MOST_PROBLEMS})").scalars().all()
    except DBAPIError as error:
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
            raise
        return [f"{error.orig}"]
    return [" ".join(str(row).split()) for row in rows if row != "ok"]


def dangling_rows(session: Session, thorough: bool) -> list[Dangling] | None:
    """Return which tables have rows that refer to rows which are not there.

    None where it was not looked at: PostgreSQL refuses such rows as they come, so there it takes a ``thorough`` check.
    """
    if is_sqlite(session):
        return _foreign_key_check(session)
    return _anti_joins(session) if thorough else None


def _foreign_key_check(session: Session) -> list[Dangling]:
    counts: dict[tuple[str, str], int] = {}
    for table, _, target, _ in session.connection().exec_driver_sql("PRAGMA foreign_key_check"):
        counts[table, target] = counts.get((table, target), 0) + 1
    return [Dangling(table, target, rows) for (table, target), rows in sorted(counts.items())]


def _anti_joins(session: Session) -> list[Dangling]:
    found: dict[tuple[str, str], int] = {}
    for table in Base.metadata.sorted_tables:
        for constraint in table.foreign_key_constraints:
            target: Table = constraint.referred_table.alias()  # type: ignore[assignment]
            columns: Sequence[Column[Any]] = constraint.columns.values()
            partners = [target.c[element.column.name] for element in constraint.elements]
            pairs = [one == other for one, other in zip(columns, partners, strict=True)]
            filled = and_(*(column.is_not(None) for column in columns))
            query = select(func.count()).select_from(table).where(filled, ~exists().where(*pairs))
            if rows := session.scalar(query):
                key = (table.name, constraint.referred_table.name)
                found[key] = found.get(key, 0) + rows
    return [Dangling(table, target, rows) for (table, target), rows in sorted(found.items())]


def altered_recipes(session: Session) -> list[Altered]:
    """Return the recipes whose settings do not have their digest."""
    found = []
    for digest, raw in session.execute(select(RecipeRow.digest, _raw(session, RecipeRow.settings))):
        detail = _compare(digest, _parsed(raw), "its settings have")
        if detail is not None:
            found.append(Altered(digest, detail))
    return found


def count_texts(session: Session) -> tuple[int, int]:
    """Return how many documents and augmentations there are whose texts are here."""
    documents = session.scalar(select(func.count()).select_from(DocumentRow).where(~DocumentRow.withheld))
    augmentations = session.scalar(select(func.count()).select_from(AugmentationRow).where(~AugmentationRow.withheld))
    return documents or 0, augmentations or 0


def altered_documents(session: Session) -> Iterator[Altered | None]:
    """Yield of every document what is altered in it, None for a sound one: digest, or the number of characters.

    Of a withheld one there is nothing to compare.
    """
    rows = session.execute(
        select(
            DocumentRow.digest,
            _raw(session, DocumentRow.title),
            _raw(session, DocumentRow.text),
            DocumentRow.characters,
        )
        .where(~DocumentRow.withheld)
        .execution_options(yield_per=KEYS)
    )
    for digest, raw_title, raw_text, characters in rows:
        title, text = _decoded(raw_title), _decoded(raw_text)
        if title is None or text is None:
            yield Altered(digest, "its title or text is not UTF-8")
            continue
        # As they stand: they were normalised before they came.
        detail = _compare(digest, {"title": title, "text": text}, "title and text have")
        if detail is None and characters != len(text):
            detail = f"its text has {len(text)} characters, not {characters}"
        yield None if detail is None else Altered(digest, detail)


def altered_augmentations(session: Session) -> Iterator[Altered | None]:
    """Yield of every augmentation what is altered in it, None for a sound one; withheld ones are left out."""
    rows = session.execute(
        select(
            AugmentationRow.digest,
            DocumentRow.digest,
            AugmentationRow.generator,
            AugmentationRow.prompts_version,
            _raw(session, AugmentationRow.payload),
            AugmentationRow.rewrites,
            AugmentationRow.pairs,
        )
        .join(DocumentRow, DocumentRow.id == AugmentationRow.document_id)
        .where(~AugmentationRow.withheld)
        .execution_options(yield_per=KEYS)
    )
    for digest, document, generator, prompts_version, raw, rewrites, pairs in rows:
        payload = _parsed(raw)
        if not isinstance(payload, dict):
            yield Altered(digest, "its payload is not JSON")
            continue
        made = {"document": document, "generator": generator, "prompts_version": prompts_version, **payload}
        detail = _compare(digest, made, "its content has")
        if detail is None and (len(payload.get("rewrites", ())), len(payload.get("qa", ()))) != (rewrites, pairs):
            detail = "it has other numbers of rewrites or pairs than it says"
        yield None if detail is None else Altered(digest, detail)


def running_builds(session: Session) -> list[RunningBuild]:
    """Return the builds that are recorded as running."""
    query = (
        select(BuildRow.id, CorpusRow.name, BuildRow.host, BuildRow.pid, BuildRow.started_at)
        .join(CorpusRow, CorpusRow.id == BuildRow.corpus_id)
        .where(BuildRow.status == "running")
        .order_by(BuildRow.id)
    )
    return [RunningBuild(*row) for row in session.execute(query)]


def staging_left(session: Session) -> list[StagingLeft]:
    """Return the builds that are over but still have staging rows."""
    counts: dict[int, int] = {}
    for row in (BuildItemRow, BuildAdapterRow):
        over = exists().where(BuildRow.id == row.build_id, BuildRow.status == "running")
        query = select(row.build_id, func.count()).where(~over).group_by(row.build_id)
        for build, rows in session.execute(query):
            counts[build] = counts.get(build, 0) + rows
    return [StagingLeft(build, rows) for build, rows in sorted(counts.items())]


def _raw(session: Session, column: InstrumentedAttribute[Any]) -> Any:
    """Select a text or JSON as it is stored, so that what cannot be decoded is this row's fault and not the stream's.

    PostgreSQL keeps nothing that is not UTF-8.
    """
    return cast(column, LargeBinary if is_sqlite(session) else Text)


def _decoded(raw: bytes | str) -> str | None:
    try:
        return raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError:
        return None


def _parsed(raw: bytes | str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):  # bytes that are not UTF-8 are a ValueError too
        return None


def _compare(digest: str, value: Any, what: str) -> str | None:
    try:
        found = json_digest(value)
    except ValueError:  # a NaN, or half a surrogate pair
        return "its content has no digest at all"
    return None if found == digest else f"{what} the digest {short(found)}"
