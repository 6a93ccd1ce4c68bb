"""Which version a reference names; how references are written is in ``names``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, ScalarSelect, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from registry.catalog.models import AliasRow, CorpusRow, RecipeRow, VersionRow
from registry.catalog.names import LATEST, is_corpus_name, parse_reference
from registry.errors import NotFoundError
from registry.records import Version


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
    """Return the version that ``corpus``, ``corpus@alias``, ``corpus@vN`` or ``corpus@DIGEST`` names.

    Without a reference after the corpus it is the alias ``latest``. A digest is given by its beginning, as
    ``sha256:1f2e``, or as four or more digits alone if no alias is called so. Where several versions have the same
    content, a digest names the newest of them. A version that was collected is found too: ``resolve_open`` is for
    those that are to be queried.

    Raises:
        NotFoundError: there is no such corpus, version or alias, or a digest's beginning is ambiguous.
    """
    return _resolve(session, reference)[0]


def resolve_open(session: Session, reference: str) -> Version:
    """Return the version that ``resolve`` does, which has all its adapters and can be queried.

    Raises:
        NotFoundError: as ``resolve``, or the version was collected.
    """
    version, collected_at = _resolve(session, reference)
    if collected_at is not None:
        raise collected_error(version, collected_at)
    return version


def collected_error(version: Version, collected_at: datetime) -> NotFoundError:
    """Return the error that a version cannot be used any more, with what to do about it."""
    return NotFoundError(
        f"{version.reference} was collected on {collected_at:%Y-%m-%d}; its adapters are gone",
        hint=f"`pragreg versions {version.corpus}` shows which are there; to have it back, build its sources again",
    )


def _resolve(session: Session, reference: str) -> tuple[Version, datetime | None]:
    named = parse_reference(reference)
    corpus = corpus_id(session, named.corpus)
    query = versions_query().add_columns(VersionRow.collected_at).where(VersionRow.corpus_id == corpus)
    newest_first = VersionRow.number.desc()
    row = None
    if named.number is not None:
        row = session.execute(query.where(VersionRow.number == named.number)).one_or_none()
    elif named.is_alias:
        row = session.execute(query.where(VersionRow.number == _alias_target(corpus, named.wanted))).one_or_none()
    if row is None and named.digests is not None:
        found = session.execute(query.where(VersionRow.digest.between(*named.digests)).order_by(newest_first)).all()
        if len({item[2] for item in found}) > 1:
            raise _ambiguous(reference, [item[1] for item in found])
        row = found[0] if found else None
    if row is None:
        raise _unknown_version(session, corpus, named.corpus, named.wanted)
    *fields, collected_at = row
    return Version(*fields), collected_at


def latest_version(session: Session, corpus: str) -> Version | None:
    """Return the newest version of a corpus (whatever the aliases say), None if it has none.

    Raises:
        NotFoundError: there is no such corpus.
    """
    query = versions_query().where(VersionRow.corpus_id == corpus_id(session, corpus))
    row = session.execute(query.order_by(VersionRow.number.desc()).limit(1)).one_or_none()
    return None if row is None else Version(*row)


def aliased_version(session: Session, corpus: str, alias: str) -> Version | None:
    """Return the version that an alias names, None if there is no such alias.

    Raises:
        NotFoundError: there is no such corpus.
    """
    number = corpus_id(session, corpus)
    named = versions_query().where(VersionRow.corpus_id == number, VersionRow.number == _alias_target(number, alias))
    row = session.execute(named).one_or_none()
    return None if row is None else Version(*row)


def current_number(corpus: InstrumentedAttribute[int]) -> ColumnElement[int]:
    """Return the number of the version that ``latest`` names in the corpus of a row id, or else of its newest."""
    named, any_version = aliased(AliasRow), aliased(VersionRow)
    latest = select(named.version).where(named.corpus_id == corpus, named.name == LATEST)
    newest = select(func.max(any_version.number)).where(any_version.corpus_id == corpus)
    return func.coalesce(latest.scalar_subquery(), newest.scalar_subquery())


def lock_corpus(session: Session, corpus: int | None) -> None:
    """Lock the row of a corpus until the transaction ends, so that those who change its versions follow each other."""
    session.execute(select(CorpusRow.id).where(CorpusRow.id == corpus).with_for_update())


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


def _alias_target(corpus: int, alias: str) -> ScalarSelect[int]:
    return select(AliasRow.version).where(AliasRow.corpus_id == corpus, AliasRow.name == alias).scalar_subquery()


def _ambiguous(reference: str, numbers: Sequence[int]) -> NotFoundError:
    some = ", ".join(f"v{number}" for number in numbers[:5])
    more = ", ..." if len(numbers) > 5 else ""
    return NotFoundError(
        f"{reference} is the beginning of several versions' digests",
        hint=f"give more digits: {len(numbers)} versions match, {some}{more}",
    )


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
