"""The versions and aliases that a corpus has; how they are named as text is in ``names``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, delete, insert, select
from sqlalchemy.orm import Session

from registry.catalog.dialect import BULK
from registry.catalog.models import AliasMoveRow, AliasRow, CorpusRow, RecipeRow, VersionRow, utc_now
from registry.catalog.names import check_alias_name, is_corpus_name, parse_reference
from registry.errors import NotFoundError
from registry.records import Version


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One move of an alias; ``from_version`` is None where the alias was new."""

    name: str
    from_version: int | None
    to_version: int
    who: str
    moved_at: datetime


def corpus_id(session: Session, name: str) -> int:
    """Return the row id of a corpus.

    Raises:
        NotFoundError: there is no such corpus; the hint lists those that there are.
    """
    # What no corpus can be called is not looked for: it may be text that no database takes.
    is_name = is_corpus_name(name)
    found = session.scalar(select(CorpusRow.id).where(CorpusRow.name == name)) if is_name else None
    if found is None:
        names = list(session.scalars(select(CorpusRow.name).order_by(CorpusRow.name).limit(20)))
        hint = (
            f"there are: {', '.join(names)}"
            if names
            else f"pragreg build SOURCE... --corpus {name if is_name else 'NAME'}"
        )
        raise NotFoundError(f"there is no corpus {name!r}", hint=hint)
    return found


def resolve(session: Session, reference: str) -> Version:
    """Return the version that ``corpus``, ``corpus@alias``, ``corpus@vN`` or ``corpus@sha256:PREFIX`` names.

    Without a reference after the corpus it is the alias ``latest``. Where several versions have the same content,
    a digest names the newest of them.

    Raises:
        NotFoundError: there is no such corpus, version or alias, or a digest's prefix is ambiguous.
    """
    named = parse_reference(reference)
    corpus = corpus_id(session, named.corpus)
    query = versions_query().where(VersionRow.corpus_id == corpus)
    if named.number is not None:
        query = query.where(VersionRow.number == named.number)
    elif named.digests is not None:
        query = query.where(VersionRow.digest.between(*named.digests))
        found = set(session.scalars(query.with_only_columns(VersionRow.digest)))
        if len(found) > 1:
            raise NotFoundError(f"{reference} is the beginning of several versions' digests", hint="give more digits")
    else:
        query = query.join(
            AliasRow, (AliasRow.corpus_id == VersionRow.corpus_id) & (AliasRow.version == VersionRow.number)
        ).where(AliasRow.name == named.wanted)
    row = session.execute(query.order_by(VersionRow.number.desc()).limit(1)).one_or_none()
    if row is None:
        raise _unknown_version(session, corpus, named.corpus, named.wanted)
    return Version(*row)


def latest_version(session: Session, corpus: str) -> Version | None:
    """Return the newest version of a corpus (whatever the aliases say), None if it has none.

    Raises:
        NotFoundError: there is no such corpus.
    """
    query = versions_query().where(VersionRow.corpus_id == corpus_id(session, corpus))
    row = session.execute(query.order_by(VersionRow.number.desc()).limit(1)).one_or_none()
    return None if row is None else Version(*row)


def list_versions(session: Session, corpus: str) -> list[Version]:
    """Return all versions of a corpus, oldest first.

    Raises:
        NotFoundError: there is no such corpus.
    """
    query = versions_query().where(VersionRow.corpus_id == corpus_id(session, corpus)).order_by(VersionRow.number)
    return [Version(*row) for row in session.execute(query)]


def versions_query() -> Select[str, int, str, int | None, str, datetime, int, str]:
    """Return a query whose rows are the fields of ``Version`` in order."""
    return (
        select(
            CorpusRow.name,
            VersionRow.number,
            VersionRow.digest,
            VersionRow.parent,
            VersionRow.message,
            VersionRow.created_at,
            VersionRow.documents,
            RecipeRow.digest,
        )
        .join(CorpusRow, CorpusRow.id == VersionRow.corpus_id)
        .join(RecipeRow, RecipeRow.id == VersionRow.recipe_id)
    )


def set_alias(session: Session, version: Version, name: str, *, who: str = "") -> bool:
    """Let an alias name ``version``; return False if it did already. Every move is kept.

    Raises:
        UsageError: no alias may have that name.
        NotFoundError: there is no such corpus.
    """
    check_alias_name(name)
    # The corpus' row is locked, so that two movers follow each other.
    corpus = corpus_id(session, version.corpus)
    session.execute(select(CorpusRow.id).where(CorpusRow.id == corpus).with_for_update())
    key = (AliasRow.corpus_id == corpus, AliasRow.name == name)
    before = session.scalar(select(AliasRow.version).where(*key))
    if before == version.number:
        return False
    now = utc_now()
    session.execute(delete(AliasRow).where(*key), execution_options=BULK)
    session.execute(insert(AliasRow).values(corpus_id=corpus, name=name, version=version.number, moved_at=now))
    session.execute(
        insert(AliasMoveRow).values(
            corpus_id=corpus, name=name, from_version=before, to_version=version.number, who=who, moved_at=now
        )
    )
    return True


def aliases(session: Session, corpus: str) -> dict[str, int]:
    """Return the aliases of a corpus and the numbers of the versions that they name.

    Raises:
        NotFoundError: there is no such corpus.
    """
    query = select(AliasRow.name, AliasRow.version).where(AliasRow.corpus_id == corpus_id(session, corpus))
    return {name: number for name, number in session.execute(query.order_by(AliasRow.name))}


def alias_history(session: Session, corpus: str, name: str | None = None) -> list[AliasMove]:
    """Return the moves of the aliases of a corpus (or of one alias), oldest first.

    Raises:
        NotFoundError: there is no such corpus.
    """
    query = select(
        AliasMoveRow.name,
        AliasMoveRow.from_version,
        AliasMoveRow.to_version,
        AliasMoveRow.who,
        AliasMoveRow.moved_at,
    ).where(AliasMoveRow.corpus_id == corpus_id(session, corpus))
    if name is not None:
        query = query.where(AliasMoveRow.name == name)
    return [AliasMove(*row) for row in session.execute(query.order_by(AliasMoveRow.id))]


def _unknown_version(session: Session, corpus: int, name: str, wanted: str) -> NotFoundError:
    newest = session.scalar(
        select(VersionRow.number).where(VersionRow.corpus_id == corpus).order_by(VersionRow.number.desc()).limit(1)
    )
    if newest is None:
        return NotFoundError(f"corpus {name!r} has no version yet", hint=f"pragreg build SOURCE... --corpus {name}")
    named = session.execute(
        select(AliasRow.name, AliasRow.version).where(AliasRow.corpus_id == corpus).order_by(AliasRow.name)
    )
    known = ["v1" if newest == 1 else f"v1 to v{newest}", *(f"{alias} (v{number})" for alias, number in named)]
    return NotFoundError(f"corpus {name!r} has no version {wanted!r}", hint=f"it has {', '.join(known)}")
