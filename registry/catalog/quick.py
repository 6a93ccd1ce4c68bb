"""Reading a version of an SQLite catalog through the standard library alone.

Importing SQLAlchemy takes several times as long as a search, so ``pragreg search`` asks here first. This is the way on
which all goes well and nothing else: whatever is amiss (another schema, an unknown reference, a damaged file) raises
``NotQuick``, and the caller opens the catalog as everyone else does, which says what is wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from registry.catalog.names import parse_reference, sqlite_path
from registry.catalog.revisions import known_revisions
from registry.records import Document, Version

_LOCK_SECONDS = 1
"""In WAL mode readers wait for a crashed writer's file to be recovered at most."""

_VERSION = """
SELECT corpora.name, versions.number, versions.digest, versions.parent, versions.message, versions.created_at,
       versions.documents, recipes.digest, versions.collected_at
FROM versions JOIN corpora ON corpora.id = versions.corpus_id JOIN recipes ON recipes.id = versions.recipe_id
WHERE corpora.name = ? AND {condition}
ORDER BY versions.number DESC
"""
_BY_NUMBER = _VERSION.format(condition="versions.number = ?")
_BY_DIGEST = _VERSION.format(condition="versions.digest BETWEEN ? AND ?")
_BY_ALIAS = _VERSION.format(
    condition="versions.number = (SELECT version FROM aliases WHERE corpus_id = corpora.id AND aliases.name = ?)"
)

# Adding 0 keeps planners from starting with the corpus, as in ``members.checked_at``.
_MEMBERS = """
SELECT documents.digest, documents.title, documents.text, adapters.digest
FROM documents
JOIN memberships ON memberships.document_id = documents.id
JOIN adapters ON adapters.id = memberships.adapter_id
WHERE memberships.corpus_id + 0 = (SELECT id FROM corpora WHERE name = {mark})
  AND memberships.from_version + 0 <= {mark}
  AND (memberships.to_version IS NULL OR memberships.to_version + 0 > {mark})
  AND documents.digest IN ({digests})
"""


class NotQuick(Exception):
    """This catalog or reference needs the ordinary way."""


class QuickCatalog:
    """One unchanging state of an SQLite catalog; get one from ``reading``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take a connection within a transaction."""
        self._connection = connection

    def resolve(self, reference: str) -> Version:
        """Return the version that a reference names, as ``references.resolve_open`` does.

        Raises:
            NotQuick: it names none, or versions of different content, or one that was collected.
        """
        named = parse_reference(reference)
        rows: list[Any] = []
        if named.number is not None:
            rows = self._connection.execute(_BY_NUMBER, (named.corpus, named.number)).fetchall()
        elif named.is_alias:
            rows = self._connection.execute(_BY_ALIAS, (named.corpus, named.wanted)).fetchall()
        if not rows and named.digests is not None:
            rows = self._connection.execute(_BY_DIGEST, (named.corpus, *named.digests)).fetchall()
        if len({row[2] for row in rows}) != 1:
            raise NotQuick
        name, number, digest, parent, message, created_at, documents, recipe, collected_at = rows[0]
        if collected_at is not None:
            raise NotQuick
        return Version(name, number, digest, parent, message, _moment(created_at), documents, recipe)

    def members_by_document(self, version: Version, digests: Sequence[str]) -> dict[str, tuple[Document, str]]:
        """Return documents with their adapters' digests, as ``members.members_by_document`` does; 1,000 at most."""
        return members_of(self._connection.execute(*members_query(version, digests, mark="?")))


@contextmanager
def reading(url: str) -> Iterator[QuickCatalog]:
    """Open the catalog at ``url`` for the time of a block, which sees one state of it and can change nothing.

    Raises:
        NotQuick: it is not on SQLite, has another schema than this program's, or cannot be read.
    """
    path = sqlite_path(url)
    if not path:
        raise NotQuick
    try:
        # A connection that may not write (mode=ro) would leave the files -wal and -shm behind when it is the last one.
        opened = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=_LOCK_SECONDS, isolation_level=None)
        with closing(opened) as connection:
            connection.execute("PRAGMA query_only=ON")
            connection.execute("BEGIN")
            revisions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            if revisions != [(known_revisions()[-1],)]:
                raise NotQuick
            yield QuickCatalog(connection)
    except sqlite3.Error as error:
        raise NotQuick from error


def members_query(version: Version, digests: Sequence[str], *, mark: str) -> tuple[str, tuple[str | int, ...]]:
    """Return the statement, with its values, that looks documents up in a version; ``members_of`` reads its rows.

    ``mark`` is how the driver leaves a value open. The statement is the same for as many digests, so that drivers keep
    it prepared.
    """
    query = _MEMBERS.format(mark=mark, digests=", ".join([mark] * len(digests)))
    return query, (version.corpus, version.number, version.number, *digests)


def members_of(rows: Iterable[Any]) -> dict[str, tuple[Document, str]]:
    """Return documents with their adapters' digests, by document digest, from the rows of ``members_query``."""
    return {digest: (Document(digest, title, text), adapter) for digest, title, text, adapter in rows}


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
