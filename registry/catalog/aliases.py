"""Aliases: movable names for versions, with every move kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from registry.catalog.dialect import BULK
from registry.catalog.models import AliasMoveRow, AliasRow, CorpusRow, VersionRow, utc_now
from registry.catalog.names import LATEST, check_alias_name
from registry.catalog.references import aliased_version, collected_error, corpus_id, lock_corpus, resolve
from registry.errors import NotFoundError, UsageError
from registry.records import Version


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One move of an alias; ``from_version`` is None where it was new, ``to_version`` where it was removed."""

    name: str
    from_version: int | None
    to_version: int | None
    who: str
    moved_at: datetime


@dataclass(frozen=True, slots=True)
class AliasLine:
    """An alias in a list; ``who`` moved it last."""

    corpus: str
    name: str
    version: int
    digest: str
    who: str
    moved_at: datetime


@dataclass(frozen=True, slots=True)
class Rollback:
    """What ``latest`` named and what it names now; both are the same where nothing moved."""

    from_version: Version
    to_version: Version


def set_alias(session: Session, version: Version, name: str, *, who: str = "") -> bool:
    """Let an alias name ``version``; return False if it did already. Every move is kept.

    Raises:
        UsageError: no alias may have that name.
        NotFoundError: there is no such corpus, or the version was collected.
    """
    check_alias_name(name)
    corpus = corpus_id(session, version.corpus)
    lock_corpus(session, corpus)
    require_open(session, corpus, version)
    before = _named(session, corpus, name)
    if before != version.number:
        _move(session, corpus, name, before, version.number, who)
    return before != version.number


def remove_alias(session: Session, corpus: str, name: str, *, who: str = "") -> int:
    """Remove an alias, and return the number of the version that it named; its history stays.

    Raises:
        UsageError: it is ``latest``, which every corpus has.
        NotFoundError: there is no such corpus or alias.
    """
    number = corpus_id(session, corpus)
    if name == LATEST:
        raise UsageError(f"the alias {LATEST!r} cannot be removed", hint=f"pragreg rollback {corpus} REF moves it")
    lock_corpus(session, number)
    before = _named(session, number, name)
    if before is None:
        known = ", ".join(f"{alias} (v{target})" for alias, target in aliases(session, corpus).items())
        raise NotFoundError(
            f"corpus {corpus!r} has no alias {name!r}", hint=f"it has {known}" if known else "pragreg alias list"
        )
    _move(session, number, name, before, None, who)
    return before


def rollback(session: Session, reference: str, *, who: str = "") -> Rollback:
    """Let ``latest`` name the version that ``reference`` does; the next build of the corpus starts from there.

    Raises:
        NotFoundError: there is no such version, or it was collected.
    """
    version = resolve(session, reference)
    # Locked before it is read, so that what is returned is what was left.
    lock_corpus(session, corpus_id(session, version.corpus))
    before = aliased_version(session, version.corpus, LATEST)
    set_alias(session, version, LATEST, who=who)
    return Rollback(before or version, version)


def aliases(session: Session, corpus: str) -> dict[str, int]:
    """Return the aliases of a corpus and the numbers of the versions that they name.

    Raises:
        NotFoundError: there is no such corpus.
    """
    query = select(AliasRow.name, AliasRow.version).where(AliasRow.corpus_id == corpus_id(session, corpus))
    return {name: number for name, number in session.execute(query.order_by(AliasRow.name))}


def list_aliases(session: Session, corpus: str | None = None) -> list[AliasLine]:
    """Return the aliases of a corpus, or of all, by corpus and name.

    Raises:
        NotFoundError: there is no such corpus.
    """
    who = (
        select(AliasMoveRow.who)
        .where(AliasMoveRow.corpus_id == AliasRow.corpus_id, AliasMoveRow.name == AliasRow.name)
        .order_by(AliasMoveRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = (
        select(CorpusRow.name, AliasRow.name, AliasRow.version, VersionRow.digest, who, AliasRow.moved_at)
        .join(CorpusRow, CorpusRow.id == AliasRow.corpus_id)
        .join(VersionRow, (VersionRow.corpus_id == AliasRow.corpus_id) & (VersionRow.number == AliasRow.version))
        .order_by(CorpusRow.name, AliasRow.name)
    )
    if corpus is not None:
        query = query.where(AliasRow.corpus_id == corpus_id(session, corpus))
    return [AliasLine(*row) for row in session.execute(query)]


def alias_history(session: Session, corpus: str, name: str | None = None) -> list[AliasMove]:
    """Return the moves of the aliases of a corpus (or of one alias), oldest first.

    Raises:
        NotFoundError: there is no such corpus, or it never had an alias of that name.
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
    moves = [AliasMove(*row) for row in session.execute(query.order_by(AliasMoveRow.id))]
    if name is not None and not moves:
        raise NotFoundError(f"corpus {corpus!r} never had an alias {name!r}", hint=f"pragreg alias history {corpus}")
    return moves


def require_open(session: Session, corpus: int, version: Version) -> None:
    """Check that a version of the corpus with that row id was not collected.

    Raises:
        NotFoundError: it was.
    """
    collected_at = session.scalar(
        select(VersionRow.collected_at).where(VersionRow.corpus_id == corpus, VersionRow.number == version.number)
    )
    if collected_at is not None:
        raise collected_error(version, collected_at)


def _named(session: Session, corpus: int, name: str) -> int | None:
    return session.scalar(select(AliasRow.version).where(AliasRow.corpus_id == corpus, AliasRow.name == name))


def _move(session: Session, corpus: int, name: str, before: int | None, after: int | None, who: str) -> None:
    now = utc_now()
    old = delete(AliasRow).where(AliasRow.corpus_id == corpus, AliasRow.name == name)
    session.execute(old, execution_options=BULK)
    if after is not None:
        session.execute(insert(AliasRow).values(corpus_id=corpus, name=name, version=after, moved_at=now))
    move = {"name": name, "from_version": before, "to_version": after, "who": who, "moved_at": now}
    session.execute(insert(AliasMoveRow).values(corpus_id=corpus, **move))
